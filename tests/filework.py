#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tests that Linux keeps page cache in idle tag storage and nothing goes wrong; results in the Test Anything Protocol.

Each run boots Linux 5.10 with cleancache above the shim on the aliased machine, where a tag that is stored and a cached page
that is in the way really meet. The guest does what a script of tests/linux/files/guest says; every byte that its programs read is
compared with what they wrote.

  hits       files that fit the page cache and the stash together, with tags coming and going: gets have to hit
  storm      random work on files, while memory is tagged and swapped, caches are dropped, CPUs go off and on, another filesystem
             comes and goes, and the driver is unloaded and loaded
  selftests  the kernel's own selftests of memory tagging, before the driver is loaded and while files are worked on: the same results
  kexec      a kernel with pages in the stash and claims for tags starts another kernel
  hibernate  such a kernel goes to disk while files are worked on, and comes back above another shim

  quick   a short run of the first two (part of `make test`)
  all     all runs, with verification on and off, on the kernel as it is and on one with the kernel's own checks of locks and
          of sleeping (`make driver-test`)

A run whose kernel cannot be had is skipped, and named; `quick` does not build the kernel. Logs: build/logs/filework-*.log.
"""

from __future__ import annotations

import argparse
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, NoReturn, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "qemu"))
import driverguest  # noqa: E402  (the guest)
import mte  # noqa: E402  (the kernel's selftests)
import run as machine  # noqa: E402  (where things are)
import setup  # noqa: E402  (its errors)
import trees  # noqa: E402  (kernels)
from suite import GRACE_SECONDS, Result, end_group, read_tap  # noqa: E402

LOGS = machine.BUILD / "logs"
# What the last kernel of a run does, where it is not the first.
LAST = {"kexec": "second"}
# What is done in a second boot, with the disks as the first left them.
AGAIN = {"hibernate": "resume"}
# The translation service of the usual interrupt controller would go on writing to the first kernel's memory, and not be as the one
# that comes back left it: kernels of that age see to neither.
INTERRUPTS = {"kexec": ("--no-its",), "hibernate": ("--gic", "2")}


@dataclass(frozen=True)
class Run:
    """One boot of the guest."""

    case: str
    kernel: str
    cpus: int
    layout: str
    verify: bool
    # On a machine that is busy with other things.
    seconds: float
    words: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Names it for results and logs."""
        return (f"{self.case}, {self.kernel}, {self.cpus} CPUs, {self.layout}, "
                f"{'verified' if self.verify else 'not verified'}")

    @property
    def log(self) -> Path:
        """Names its log."""
        return LOGS / f"filework-{re.sub('[^a-z0-9.]+', '-', self.name)}.log"

    def guest(self, kernel: trees.Kernel) -> driverguest.Guest:
        """Makes the guest."""
        words = {"verify": str(int(self.verify)), **self.words}
        return driverguest.Guest(kernel, self.case, words, self.cpus, layout=self.layout, kexec=self.case == "kexec",
                                 swap_disk=self.case == "hibernate", options=INTERRUPTS.get(self.case, ()),
                                 files=selftests() if self.case == "selftests" else {})


def selftests() -> dict[str, bytes]:
    """Makes the kernel's selftests of memory tagging, as files of the guest."""
    driverguest.fetch("cross", "selftests")
    return mte.selftest_files()


def storm(kernel: str, cpus: int, layout: str, verify: bool, processes: int, operations: int, seed: int, seconds: float,
          tags: str = "all") -> Run:
    """Makes a run of random work."""
    return Run("storm", kernel, cpus, layout, verify, seconds,
               {"processes": str(processes), "operations": str(operations), "seed": str(seed), "tags": tags,
                "pace": "4" if kernel == "5.10-debug" else "1"})


RUNS = {
    "quick": [
        Run("hits", "5.10", 2, "one", True, 300, {"short": "yes"}),
        storm("5.10", 2, "crossed", True, 2, 4_000, 1, 400, ""),
    ],
    "all": [
        Run("hits", "5.10", 2, "one", False, 300),
        Run("hits", "5.10", 4, "block8k", True, 300),
        Run("hits", "5.10-debug", 2, "crossed", True, 900),
        Run("kexec", "5.10", 2, "one", True, 300),
        Run("kexec", "5.10-debug", 2, "crossed", False, 600),
        Run("hibernate", "5.10", 2, "one", True, 300, {"operations": "6000"}),
        Run("hibernate", "5.10-debug", 4, "crossed", False, 900, {"operations": "3000"}),
        Run("selftests", "5.10", 2, "crossed", True, 1800),
        storm("5.10", 2, "one", False, 3, 120_000, 11, 2400),
        storm("5.10", 4, "crossed", True, 4, 90_000, 12, 2400),
        storm("5.10", 2, "block12k", True, 2, 100_000, 13, 2400),
        storm("5.10-debug", 2, "one", True, 2, 50_000, 14, 2400),
        storm("5.10-debug", 4, "two", False, 4, 25_000, 15, 2400),
    ],
}


class Reporter:
    """Prints the results of all runs as one stream."""

    def __init__(self) -> None:
        """Begins with none."""
        self.number = 0
        self.failures = 0

    def result(self, name: str, trouble: Optional[str] = None) -> None:
        """Prints one result, passed if there is no trouble."""
        self.number += 1
        self.failures += trouble is not None
        print(f"ok {self.number} - {name}" if trouble is None else f"not ok {self.number} - {name}: {trouble}", flush=True)

    def take(self, run: Run, text: str, status: int) -> None:
        """Prints the results of a run, and one for how it ended."""
        for line in text.splitlines():
            point = re.match(r"(not )?ok \d+ - (.*)$", line)
            if point:
                self.number += 1
                self.failures += bool(point[1])
                print(f"{point[1] or ''}ok {self.number} - {run.name}: {point[2]}", flush=True)
            elif line.startswith(("# ", "filework: MISMATCH", "Bail out!")) and not line.startswith("# files "):
                print(f"# {line.removeprefix('# ')}", flush=True)
        self.result(f"{run.name}: runs to its end", self.trouble(run, text, status))

    @staticmethod
    def trouble(run: Run, text: str, status: int) -> Optional[str]:
        """Says what was wrong with a run besides its results."""
        found: Result = read_tap(text, status)
        if status or f"# files {LAST.get(run.case, run.case)} complete" not in text.splitlines():
            # What failed has been told already; this is about how it ended.
            others = [failure for failure in found.failures if f"- {failure}" not in text]
            last = [line for line in text.splitlines() if line.strip()][-1:]
            return f"{others[0] if others else 'not all of it passed'}; the last line is {last}; see {run.log.relative_to(ROOT)}"
        return found.failures[0] if found.failures else None

    def finish(self) -> int:
        """Prints the plan; returns the exit status."""
        print(f"1..{self.number}", flush=True)
        return 1 if self.failures else 0


def boot_once(run: Run, command: list[str], sink: BinaryIO) -> int:
    """Runs a guest until its machine is turned off; returns the status."""
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                               start_new_session=True)
    try:
        return process.wait(run.seconds + GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        return machine.TIMEOUT_STATUS
    finally:
        end_group(process)


def boot(run: Run, kernel: trees.Kernel) -> tuple[str, int]:
    """Runs a guest to its end; returns what it printed and the status."""
    LOGS.mkdir(parents=True, exist_ok=True)
    status = 0
    with run.guest(kernel) as guest, open(run.log, "wb") as sink:
        for case in filter(None, (run.case, AGAIN.get(run.case))):
            # After a machine that was not turned off there is nothing to go on with.
            status = status or boot_once(run, guest.command(run.seconds, case=case), sink)
    return run.log.read_text(errors="replace").replace("\r", ""), status


def main() -> int:
    """Runs what was asked for; returns the process's exit status."""
    summary, *rest = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog="\n\n".join(rest),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(RUNS))
    parser.add_argument("--only", metavar="TEXT", help="the runs that have this in their name")
    parser.add_argument("--operations", type=int, metavar="N", help="what each process of a storm does, rather than what the run says")
    parser.add_argument("--list", action="store_true", help="list the runs")
    options = parser.parse_args()
    chosen = [run for run in RUNS[options.what] if not options.only or options.only in run.name]
    if options.operations is not None:
        if options.operations < 1:
            parser.exit(2, f"filework: --operations {options.operations} is less than 1\n")
        chosen = [replace(run, words={**run.words, "operations": str(options.operations)}) if run.case == "storm" else run
                  for run in chosen]
    if options.list:
        for run in chosen:
            print(run.name)
        return 0
    if not chosen:
        parser.exit(2, f"filework: no run has '{options.only}' in its name; --list shows them\n")

    def on_signal(number: int, _frame: object) -> NoReturn:
        print(f"Bail out! ended by {signal.Signals(number).name}", flush=True)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    report = Reporter()
    for run in chosen:
        try:
            kernel = driverguest.find(run.kernel, build=options.what == "all")
            if run.case == "hibernate" and not kernel.enabled("CONFIG_HIBERNATION"):
                raise setup.NotDownloaded(f"{kernel.origin} has a kernel without CONFIG_HIBERNATION")
            print(f"# {run.name}: running, {run.seconds:g} s at most", flush=True)
            started = time.monotonic()
            text, status = boot(run, kernel)
            report.take(run, text, status)
            print(f"# {run.name}: {time.monotonic() - started:.0f} s", flush=True)
        except setup.NotDownloaded as why:
            report.result(f"{run.name} # SKIP {' '.join(str(why).split())}")
        except (setup.SetupError, driverguest.GuestError, mte.Failed, OSError) as why:
            report.result(run.name, " ".join(str(why).split()))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
