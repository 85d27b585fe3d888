#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tests PSCI with Linux above the shim: idle states, hotplug, suspend, reboot, kexec, kdump; results in the Test Anything
Protocol.

Each run boots Debian's kernel with tests/linux/psci as what it does, whose parts print lines `guest: ...`. A part that does
not end, or with another number of results than it says, is a failure. The device tree has a standby state and one that
powers the CPU down; the shim must pass the first and hide the second. The interrupt controller is a GICv2, since with QEMU's
GICv3 no kernel wakes from standby, shim or not: before CPU_SUSPEND Linux puts the redistributor to sleep where there is no
EL3, and counts on its wake-up request, which QEMU does not make.

  quick   2 CPUs, 3 rounds of hotplug; one kexec, one reboot, one kdump (part of `make test`)
  all     2 and 8 CPUs, 100 rounds of hotplug (`make psci-test`)
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "qemu"))
import initramfs  # noqa: E402  (the writer of archives)
import run as machine  # noqa: E402  (where things are)
from tap import Tap  # noqa: E402

KERNEL = machine.BUILD / "linux" / "Image"
INITRD = machine.BUILD / "initramfs.img"
MEMORY_MIB = 768
# For the kernel after a panic: Debian's, its ramdisk, and what it needs to run.
CRASH_KERNEL_MIB = 192
# What a boot, and the parts of one kernel, may take on a machine that is busy with other things.
BOOT_SECONDS = 120.0
ENTERED = "tagstash: entering the guest"


@dataclass(frozen=True)
class Run:
    """A run of the machine: what each kernel that comes up in it does, in this order."""

    name: str
    cpus: int
    rounds: int
    seconds: float
    # The parts of each kernel.
    kernels: list[list[str]]
    words: str = ""
    # The machine starts again at the end, rather than ending.
    reboots: bool = False
    qemu: list[str] = field(default_factory=list)

    def bootargs(self) -> str:
        """The command line of the first kernel."""
        first, *others = self.kernels
        words = [f"console=ttyAMA0 earlycon panic=-1 tagstash.test=psci guest.parts={','.join(first)}",
                 f"guest.rounds={self.rounds}", self.words]
        if "kexec" in first:
            words.append(f"guest.then={','.join(others[0])}")
        return " ".join(filter(None, words))


def runs(what: str) -> list[Run]:
    """Returns the runs of `quick` or `all`."""
    reset = ["-action", "reboot=reset"]
    crash = f"crashkernel={CRASH_KERNEL_MIB}M"
    found = []
    # Once more in the second kernel, and before a panic, where there is time.
    more = ["hotplug"] if what == "all" else []
    for cpus, rounds, patience in [(2, 3, 1.0)] if what == "quick" else [(2, 100, 6.0), (8, 100, 15.0)]:
        first = ["idle", "hotplug", "race", "freeze", "kexec"]
        found.append(Run(f"{cpus} CPUs", cpus, rounds, 3 * BOOT_SECONDS * patience, [first, ["second", *more, "reboot"]],
                         reboots=True, qemu=reset))
        found.append(Run(f"{cpus} CPUs, panic", cpus, 1, 2 * BOOT_SECONDS * patience, [[*more, "panic"], ["crashed"]], crash))
    return found


# --------------------------------------------------------------------------------------------------------------------
# What a run needs


def ramdisk(kernel: Path, directory: Path) -> None:
    """Writes a ramdisk that has the next kernel and its ramdisk in it: archives one after the other."""
    small = INITRD.read_bytes()
    archive = initramfs.Archive()
    archive.add("boot", 0o040755)
    archive.add("boot/Image", 0o100644, kernel.read_bytes())
    archive.add("boot/initrd", 0o100644, small)
    # The second begins at a multiple of 4 bytes (Linux, buffer-format.rst).
    (directory / "initrd").write_bytes(small + bytes(-len(small) % 4) + archive.finish())


def idle_states(cpus: int) -> str:
    """Writes device-tree source with idle states: the one that powers CPUs down comes first in the lists."""
    source = """/ { cpus { idle-states { entry-method = "psci";
    cpu_off: cpu-off { compatible = "arm,idle-state"; arm,psci-suspend-param = <0x10000>; local-timer-stop;
        entry-latency-us = <1>; exit-latency-us = <1>; min-residency-us = <2>; };
    cpu_retention: cpu-retention { compatible = "arm,idle-state"; arm,psci-suspend-param = <0x1>;
        entry-latency-us = <1>; exit-latency-us = <1>; min-residency-us = <1>; };
}; }; };
"""
    return source + "".join(f"&{{/cpus/cpu@{cpu:x}}} {{ cpu-idle-states = <&cpu_off &cpu_retention>; }};\n" for cpu in range(cpus))


# --------------------------------------------------------------------------------------------------------------------
# A run


class Reader:
    """Takes the console's lines of a run and makes results of them."""

    def __init__(self, tap: Tap, run: Run) -> None:
        """Expects the parts of the run."""
        self.tap = tap
        self.run = run
        self.expected = [(kernel, part) for kernel, parts in enumerate(run.kernels) for part in parts]
        self.begun = 0
        self.entered = 0
        self.results = 0
        self.again = False

    def line(self, line: str) -> bool:
        """Takes a line; tells whether the run is over because the machine came up again."""
        self.entered += line.startswith(ENTERED)
        found = re.match(r"guest: (ok|not ok|end|begin|note) (.*)", line)
        if not found:
            return False
        kind, text = found.groups()
        if kind == "begin":
            self.begun += 1
            # One kernel more than were to run: the first one, after a reset.
            self.again = self.run.reboots and self.begun > len(self.run.kernels)
            return self.again
        kernel, part = self.expected[0] if self.expected else (0, "nothing")
        if kind in ("ok", "not ok"):
            name, _, why = text.partition(": ") if kind == "not ok" else (text, "", "")
            self.results += 1
            self.tap.result(f"{self.run.name}, {part}: {name}", (why or "failed") if kind == "not ok" else "")
        elif kind == "end":
            name, _, count = text.rpartition(" ")
            trouble = ""
            if name != part or self.begun != kernel + 1:
                trouble = f"kernel {self.begun} ended {name}, and kernel {kernel + 1} was to do {part}"
            elif count != str(self.results):
                trouble = f"it had {count} results, and {self.results} came out"
            if trouble or not self.results:
                self.tap.result(f"{self.run.name}, {part}: it ends", trouble)
            self.expected = self.expected[1:]
            self.results = 0
        return False

    def finish(self, status: int) -> None:
        """Makes results of what the whole run came to."""
        missing = ", ".join(part for _, part in self.expected)
        self.tap.result(f"{self.run.name}: every part was done", f"missing: {missing}" if missing else "")
        if self.run.reboots:
            trouble = "" if self.again and self.entered == 2 else f"the shim entered a guest {self.entered} times"
            self.tap.result(f"{self.run.name}: the machine comes up again, shim and all", trouble)
        else:
            trouble = "" if status == 0 else f"status {status}"
            self.tap.result(f"{self.run.name}: the machine is turned off", trouble)


def do(tap: Tap, run: Run, kernel: Path, directory: Path) -> None:
    """Makes a run."""
    tree = directory / "idle.dts"
    tree.write_text(idle_states(run.cpus))
    command = [sys.executable, str(ROOT / "qemu" / "run.py"), "--cpus", str(run.cpus), "--memory", str(MEMORY_MIB),
               "--gic", "2", "--no-semihosting", "--no-harness-args", "--timeout", f"{run.seconds:g}", "--kernel", str(kernel),
               "--initrd", str(directory / "initrd"), "--bootargs", run.bootargs(), "--dts-append", str(tree), "--", *run.qemu]
    reader = Reader(tap, run)
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace") as process:
        assert process.stdout is not None
        ended = False
        try:
            for line in process.stdout:
                line = line.rstrip("\r\n").lstrip("\r")
                print(f"{run.name} | {line}", flush=True)
                if reader.line(line):
                    break
            else:
                ended = True
        finally:
            if not ended:
                process.terminate()  # It ends its QEMU, and removes its files.
            for line in process.stdout:
                print(f"{run.name} | {line.rstrip()}", flush=True)
    reader.finish(process.returncode)


def main() -> int:
    """Makes the runs that were asked for; returns the process's exit status."""
    summary, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["quick", "all"])
    parser.add_argument("--kernel", type=Path, default=KERNEL, help=f"another kernel (default: {KERNEL.relative_to(ROOT)})")
    parser.add_argument("--only", metavar="TEXT", default="", help="only the runs whose name has this text: `8 CPUs`, `panic`")
    options = parser.parse_args()

    def on_signal(number: int, _frame: object) -> NoReturn:
        print(f"Bail out! ended by {signal.Signals(number).name}", flush=True)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    for file, remedy in ((options.kernel, "python3 qemu/setup.py --only linux"), (INITRD, "make initramfs")):
        if not file.is_file():
            print(f"Bail out! {file} is not there: `{remedy}` makes it", flush=True)
            return 2
    tap = Tap()
    directory = Path(tempfile.mkdtemp(prefix="psci-", dir=machine.BUILD))
    try:
        ramdisk(options.kernel, directory)
        for run in runs(options.what):
            if options.only in run.name:
                do(tap, run, options.kernel, directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return tap.finish()


if __name__ == "__main__":
    sys.exit(main())
