#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Compares what a guest sees of the machine above the shim with what it sees without the shim.

Each cell boots the same twice: above the shim, and by QEMU alone at EL1 (the same command with virtualization=off, nokaslr, and the
same seed). Two guests:

  linux    a Debian kernel with tests/linux/report: /proc/cpuinfo, identification registers, capabilities, performance counters,
           timers, interrupts, vector lengths, vulnerabilities, drivers, and the whole boot log
  sweep    the test guest, which reads, writes and executes every System register and instruction encoding at EL1

Lines that differ must be in tests/linux/differences.toml, each with its reason. An entry there that fits no difference any more fails as
well, so that the list says what is so. Results are in the Test Anything Protocol; what each machine said is kept under build/compare.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Optional

import tap

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
OUT = BUILD / "compare"
DIFFERENCES = ROOT / "tests" / "linux" / "differences.toml"
INITRD = BUILD / "initramfs.img"
HARNESS = BUILD / "harness.img"

CPUS = 2
MEMORY_MIB = 512
# How long one boot may take on a machine that is busy with other things.
PATIENCE = 240
WORDS = "console=ttyAMA0 earlycon panic=-1 nokaslr tagstash.test=report"
# What run.py ends with when SIGSEGV ended QEMU.
CRASHED = 128 + signal.SIGSEGV
LINE = re.compile(r"^# ([a-z]+): (.*?)\s*$", re.M)

# CPU models, and whether they have MTE: without it the machine has no tag storage, and is QEMU's own.
MODELS = {"max": True, "neoverse-n2": True, "cortex-a710": True, "cortex-a76": False, "cortex-a57": False}
QEMUS = ["chosen", "newest"]
KERNELS = ["6.1", "6.12", "newest", "5.10"]
# Kinds of lines that a whole report has, and how many of each at least.
LINUX_KINDS = {"capabilities": 3, "cpu": 10, "cpuinfo": 16, "driver": 3, "gcs": 1, "id": 100, "instruction": 60, "interrupt": 8, "kernel": 1,
               "log": 120, "perf": 20, "pmu": 5, "speculation": 3, "sysctl": 2, "timer": 4, "vectors": 2, "vulnerability": 8}
SWEEP_KINDS = {"read": 150, "write": 100, "execute": 25}


@dataclass(frozen=True)
class Cell:
    """One comparison."""

    guest: str
    qemu: str
    kernel: str
    model: str

    @property
    def name(self) -> str:
        """Returns its name, as --cell and the list of differences know it."""
        return "/".join(part for part in (self.guest, self.qemu, self.kernel, self.model) if part)

    @property
    def directory(self) -> Path:
        """Returns where its reports are kept."""
        return OUT / self.name.replace("/", "-")


def all_cells() -> list[Cell]:
    """Lists every cell."""
    cells = [Cell("sweep", qemu, "", model) for qemu in QEMUS for model in MODELS]
    return cells + [Cell("linux", qemu, kernel, model) for qemu in QEMUS for kernel in KERNELS for model in MODELS]


# What `make test` runs: the CPU with all features, and one without most of them.
QUICK = ["sweep/chosen/max", "linux/chosen/6.1/max", "linux/chosen/6.1/cortex-a57"]
QUICK_NEWEST = ["sweep/newest/max", "linux/newest/6.1/max"]


# --------------------------------------------------------------------------------------------------------------------
# The documented differences


@dataclass
class Difference:
    """One entry of the list: lines that may be there on one side only."""

    kind: str
    above: Optional[re.Pattern[str]]
    alone: Optional[re.Pattern[str]]
    cells: re.Pattern[str]
    optional: bool
    reason: str

    def fits(self, side: str, kind: str, text: str) -> bool:
        """Tells whether it explains a line of a side."""
        pattern = self.above if side == "above" else self.alone
        return kind == self.kind and pattern is not None and pattern.fullmatch(text) is not None


@dataclass(frozen=True)
class Variation:
    """Text that differs from run to run on one machine, and what stands for it."""

    kind: str
    pattern: re.Pattern[str]
    replacement: str


@dataclass
class Documented:
    """The list of differences."""

    differences: list[Difference] = field(default_factory=list)
    variations: list[Variation] = field(default_factory=list)


def read_differences() -> Documented:
    """Reads tests/linux/differences.toml, and refuses what it does not know."""
    found = Documented()

    def compiled(text: Optional[str]) -> Optional[re.Pattern[str]]:
        return re.compile(text) if text is not None else None

    try:
        data = tomllib.loads(DIFFERENCES.read_text())
        for entry in data.pop("variation", []):
            found.variations.append(Variation(entry.pop("kind"), re.compile(entry.pop("pattern")), entry.pop("replacement")))
            if not entry.pop("reason") or entry:
                raise ValueError(f"a variation has no reason, or keys that are unknown: {', '.join(entry)}")
        for entry in data.pop("difference", []):
            found.differences.append(Difference(entry.pop("kind"), compiled(entry.pop("above", None)),
                                                compiled(entry.pop("alone", None)), re.compile(entry.pop("cells", ".*")),
                                                entry.pop("optional", False), entry.pop("reason")))
            last = found.differences[-1]
            if not last.reason or entry or (last.above is None and last.alone is None):
                raise ValueError(f"difference '{last.reason}' says neither above nor alone, or has keys that are unknown: "
                                 f"{', '.join(entry)}")
        if data:
            raise ValueError(f"tables that are unknown: {', '.join(data)}")
    except (OSError, ValueError, KeyError, re.error) as error:
        raise tap.Failed(f"{DIFFERENCES.relative_to(ROOT)}: {error}") from None
    return found


# --------------------------------------------------------------------------------------------------------------------
# Running a cell


def kernel_image(name: str) -> Path:
    """Finds a kernel that set-up has fetched."""
    try:
        tools = json.loads((BUILD / "tools.json").read_text())
    except (OSError, ValueError):
        tools = {}
    record = tools.get("kernels", {}).get(name)
    if record is None and name == "6.1" and str(tools.get("linux", {}).get("release", "")).startswith("6.1."):
        record = tools["linux"]
    image = Path(record["kernel"]) if record else None
    if image is None or not image.is_file():
        raise tap.Skip(f"kernel {name} is not there: `python3 qemu/setup.py --only kernels --kernel {name}` fetches it")
    return image


def need_qemu(name: str) -> None:
    """Sees that a QEMU is there."""
    try:
        there = "qemu" if name == "chosen" else "qemu-newest"
        if Path(json.loads((BUILD / "tools.json").read_text())[there]["argv"][0]).is_file():
            return
    except (OSError, ValueError, KeyError, IndexError):
        pass
    raise tap.Skip(f"the {name} QEMU is not there: `python3 qemu/setup.py --only qemu{'-newest' if name == 'newest' else ''}`")


def commands(cell: Cell) -> dict[str, list[str]]:
    """Returns the two command lines of a cell."""
    common = [sys.executable, str(ROOT / "qemu" / "run.py"), "--qemu", cell.qemu, "--cpu", cell.model, "--memory", str(MEMORY_MIB),
              "--timeout", str(PATIENCE)]
    tags = MODELS[cell.model]
    above = [] if tags else ["--plain", "--no-mte"]
    alone = ["--plain", "--el", "1"] + ([] if tags else ["--no-mte"])
    if cell.guest == "sweep":
        common += ["--cpus", "1", "--expect", "# sweep complete"]
        return {"above": [*common, *above, "--kernel", str(HARNESS), "--bootargs", "mode=sweep", "--no-harness-args", "--",
                          "-seed", "1"],
                "alone": [*common, *alone, "--image", str(HARNESS), "--", "-append", "mode=sweep", "-seed", "1"]}
    kernel = str(kernel_image(cell.kernel))
    common += ["--cpus", str(CPUS), "--no-semihosting", "--expect", "# linux report complete"]
    return {"above": [*common, *above, "--kernel", kernel, "--initrd", str(INITRD), "--no-harness-args", "--bootargs", WORDS, "--",
                      "-seed", "1"],
            "alone": [*common, *alone, "--image", kernel, "--", "-initrd", str(INITRD), "-append", WORDS, "-seed", "1"]}


class Run(threading.Thread):
    """One boot, in a thread of its own."""

    def __init__(self, command: list[str]) -> None:
        """Starts it."""
        super().__init__()
        self.command = command
        self.text = ""
        self.status = -1
        self.start()

    def run(self) -> None:
        """Collects what the machine prints."""
        done = subprocess.run(self.command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", check=False)
        self.text, self.status = done.stdout, done.returncode


def report(text: str, variations: list[Variation]) -> Counter[tuple[str, str]]:
    """Reads the lines of a report, each with how often it is there."""
    lines: Counter[tuple[str, str]] = Counter()
    for kind, line in LINE.findall(text.replace("\r", "")):
        for variation in variations:
            if variation.kind == kind:
                line = variation.pattern.sub(variation.replacement, line)
        lines[kind, line] += 1
    return lines


def compare(cell: Cell, documented: Documented, reuse: bool) -> None:
    """Runs one cell; raises what is wrong with it."""
    need_qemu(cell.qemu)
    cell.directory.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    runs: dict[str, Run] = {}
    texts: dict[str, str] = {}
    for side, command in commands(cell).items():
        kept = cell.directory / f"{side}.txt"
        if reuse and side == "alone" and kept.is_file():
            texts[side] = kept.read_text(errors="replace")
        else:
            kept.unlink(missing_ok=True)
            runs[side] = Run(command)
    for run in runs.values():
        run.join()
    for side, run in runs.items():
        # Written when it is whole only, so that nothing else is used again.
        if run.status == CRASHED and re.search(r"^# (sweep|linux report) complete\s*$", run.text, re.M):
            # Once in some fifty runs QEMU's threads trip over its exit, as tests/suite.py says. The report is whole.
            print(f"# {cell.name}: {side}: QEMU crashed on its way out, after the guest's last line", flush=True)
        elif run.status != 0:
            tail = "\n".join("    " + line for line in run.text.splitlines()[-15:])
            raise tap.Failed(f"{side}: status {run.status} of {shlex.join(run.command)}; the end of what it said:\n{tail}")
        (cell.directory / f"{side}.txt").write_text(run.text)
        texts[side] = run.text
    reports = {side: report(text, documented.variations) for side, text in texts.items()}
    print(f"# {cell.name}: {sum(reports['above'].values())} lines above the shim, {sum(reports['alone'].values())} alone, "
          f"{time.monotonic() - started:.0f} s", flush=True)
    trouble: list[str] = []
    for side, lines in reports.items():
        for kind, least in (SWEEP_KINDS if cell.guest == "sweep" else LINUX_KINDS).items():
            there = sum(count for (of, _), count in lines.items() if of == kind)
            if there < least:
                trouble.append(f"{side}: {there} lines of kind '{kind}', fewer than {least}: this is no whole report")
        trouble += [f"{side}: {text}" for (kind, text) in lines if kind == "trouble"]
    entries = [entry for entry in documented.differences if entry.cells.fullmatch(cell.name)]
    used: set[tuple[int, str]] = set()
    for side, other in (("above", "alone"), ("alone", "above")):
        for (kind, text), count in sorted((reports[side] - reports[other]).items()):
            fitting = [number for number, entry in enumerate(entries) if entry.fits(side, kind, text)]
            used |= {(number, side) for number in fitting}
            if not fitting:
                where = "above the shim only" if side == "above" else "alone only"
                trouble.append(f"{where}{f' ({count} times)' if count > 1 else ''}: {kind}: {text}")
    for number, entry in enumerate(entries):
        for side, pattern in (("above", entry.above), ("alone", entry.alone)):
            if pattern is not None and (number, side) not in used and not entry.optional:
                trouble.append(f"documented, and not there any more: {side}: {entry.kind}: {pattern.pattern} ({entry.reason})")
    if trouble:
        raise tap.Failed("\n".join(trouble))


def main() -> int:
    """Runs the cells asked for; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--quick", action="store_true", help="the cells of `make test`")
    choice.add_argument("--quick-newest", action="store_true", help="the cells of `make test` on the newest QEMU")
    choice.add_argument("--cell", action="append", metavar="TEXT", help="cells whose name has TEXT in it (may be given again)")
    parser.add_argument("--list", action="store_true", help="list the cells")
    parser.add_argument("--reuse", action="store_true",
                        help="take what the machine without the shim said last time, where it is kept, instead of booting it again")
    options = parser.parse_args()
    names = [cell.name for cell in all_cells()]
    if options.quick or options.quick_newest:
        wanted = set(QUICK if options.quick else QUICK_NEWEST)
        assert wanted <= set(names)
    else:
        wanted = {name for name in names if not options.cell or any(text in name for text in options.cell)}
    cells = [cell for cell in all_cells() if cell.name in wanted]
    if options.list:
        print("\n".join(cell.name for cell in cells))
        return 0
    if not cells:
        print(f"compare: no cell has {' or '.join(options.cell)} in its name; --list lists them", file=sys.stderr)
        return 2

    def on_signal(number: int, _frame: object) -> NoReturn:
        print(f"Bail out! ended by {signal.Signals(number).name}", flush=True)
        # Its runs are in this process group, and end their machines themselves.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        documented = read_differences()
    except tap.Failed as why:
        print(f"Bail out! {why}")
        return 1
    for needed, how in ((INITRD, "make initramfs"), (HARNESS, "make harness"), (BUILD / "tagstash.img", "make image")):
        if not needed.is_file():
            print(f"Bail out! {needed.relative_to(ROOT)} is not there: `{how}` makes it")
            return 1
    return tap.run([(f"{cell.name}: only documented differences",
                     lambda cell=cell: compare(cell, documented, options.reuse)) for cell in cells])


if __name__ == "__main__":
    sys.exit(main())
