#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Boots many kernels on many machines above the shim, unmodified; results in the Test Anything Protocol.

A cell is a kernel, a CPU model, an interrupt controller, a number of CPUs, a size of RAM, and how RAM is divided. The cells
are picked so that any two of these values that go together are together in some cell. In each the kernel boots, runs
tests/linux/cell, and turns the machine off; the shim is dormant. A cell whose kernel cannot be had is skipped and named.

CELL is a number of --list, or values with commas between them: every listed cell that has all of them, such as
`6.12-16k` or `newest,8cpu`. A value of each setting is that very cell, listed or not. Logs: build/logs/linux-test.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Optional

import pairwise
from suite import GRACE_SECONDS, NOT_DOWNLOADED, end_group, read_tap

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "qemu"))
import run as machine  # noqa: E402  (the machine's own layouts and places)

LOGS = machine.BUILD / "logs" / "linux-test"
INITRD = machine.BUILD / "initramfs.img"
# What one boot may take on a machine that is busy with other things; alone it takes a tenth of that.
SECONDS = 600
LAST_LINE = "# linux cell complete"

# Values of each setting, the cheapest first, and what they mean for run.py.
KERNELS = ["6.1", "6.12", "6.12-16k", "newest", "5.10"]
CPUS = {
    "max": "max",
    "neoverse-n2": "neoverse-n2",
    "cortex-a710": "cortex-a710",
    "cortex-a76": "cortex-a76",
    "cortex-a57": "cortex-a57",
    # The architected algorithm of pointer authentication, three times slower to emulate.
    "max-qarma": "max,pauth-impdef=off",
}
GICS = {"gic3-its": ["--gic", "3"], "gic3": ["--gic", "3", "--no-its"], "gic2": ["--gic", "2"], "gic4-its": ["--gic", "4"]}
COUNTS = ["2cpu", "1cpu", "8cpu"]
# Not 2048M: its tags are 64 MiB, and so is another mapping of QEMU's, from which the aliasing library could not tell them.
MEMORIES = ["512M", "3072M", "8192M"]
# Without tag storage, or with a region for all of RAM, one for each NUMA node in its own memory, or in the other's.
LAYOUTS = {"one": ["--layout", "one"], "nodes": ["--layout", "nodes", "--numa"], "crossed": ["--layout", "crossed", "--numa"],
           "plain": ["--plain"], "plain-numa": ["--plain", "--numa"]}
AXES: list[list[str]] = [KERNELS, list(CPUS), list(GICS), COUNTS, MEMORIES, list(LAYOUTS)]

NO_MTE = ("cortex-a76", "cortex-a57")
# Values that do not go together, and why.
IMPOSSIBLE = {
    ("6.12-16k", "cortex-a57"): "Cortex-A57 has no 16 KiB granule",
    **{(cpu, layout): "the CPU has no MTE, so there is no tag storage"
       for cpu in NO_MTE for layout in ("one", "nodes", "crossed")},
}


def possible(values: pairwise.Combination) -> bool:
    """Tells whether there is such a machine, and the kernel runs on it."""
    return not any(one in values and other in values for one, other in IMPOSSIBLE)


def cost(values: pairwise.Combination) -> float:
    """Orders cells by how long they take, roughly: values stand on their axes with the quick ones first."""
    return (sum(axis.index(value) for axis, value in zip(AXES, values)) + 4 * values.count("max-qarma")
            + 2 * values.count("8cpu"))


@dataclass(frozen=True)
class Cell:
    """One kernel on one machine."""

    kernel: str
    cpu: str
    gic: str
    count: str
    memory: str
    layout: str

    @property
    def name(self) -> str:
        """Writes the cell as one that is picked by it."""
        return ",".join(self.values)

    @property
    def values(self) -> pairwise.Combination:
        """Returns the values in the order of the axes."""
        return (self.kernel, self.cpu, self.gic, self.count, self.memory, self.layout)

    @property
    def cpus(self) -> int:
        """Returns how many CPUs there are."""
        return int(self.count.removesuffix("cpu"))

    @property
    def mebibytes(self) -> int:
        """Returns how much RAM there is."""
        return int(self.memory.removesuffix("M"))

    @property
    def regions(self) -> list[machine.Region]:
        """Returns the tag storage."""
        if self.layout.startswith("plain"):
            return []
        return machine.LAYOUTS[self.layout](machine.RAM_BASE, self.mebibytes * machine.MIB).regions

    def words(self) -> str:
        """Returns the guest's boot arguments: what tests/linux/cell is to find."""
        hidden = [(machine.RAM_BASE + machine.IMAGE_OFFSET, 64 * machine.KIB),
                  *((region.storage, region.storage_length) for region in self.regions)]
        # The kernel's watchdogs go by time, of which an emulated CPU may get little. What stands still meets our own limit.
        words = ["console=ttyAMA0", "earlycon", "panic=-1", "nowatchdog", "rcupdate.rcu_cpu_stall_suppress=1",
                 "tagstash.test=cell",
                 f"guest.page={16 if self.kernel.endswith('-16k') else 4}", f"guest.cpus={self.cpus}",
                 f"guest.memory={self.mebibytes}", f"guest.mte={'no' if self.cpu in NO_MTE else 'yes'}",
                 f"guest.gic={self.gic[3]}", f"guest.its={'yes' if self.gic.endswith('-its') else 'no'}",
                 "guest.hidden=" + ",".join(f"{start:x}-{start + length - 1:x}" for start, length in hidden)]
        if "--numa" in LAYOUTS[self.layout]:
            half = self.mebibytes // 2
            nodes = []
            for node in (0, 1):
                mine = [cpu for cpu in range(self.cpus) if machine.numa_node(cpu, self.cpus) == node]
                listed = "" if not mine else str(mine[0]) if len(mine) == 1 else f"{mine[0]}-{mine[-1]}"
                nodes.append(f"{machine.RAM_BASE + node * half * machine.MIB:x}:{listed}:{half}")
            words.append("guest.nodes=" + ",".join(nodes))
        return " ".join(words)

    def command(self, kernel: Path) -> list[str]:
        """Returns the command that boots it."""
        options = [*GICS[self.gic], *LAYOUTS[self.layout], "--cpu", CPUS[self.cpu], "--cpus", str(self.cpus), "--memory",
                   str(self.mebibytes)]
        if self.cpu in NO_MTE:
            options.append("--no-mte")
        # Its interrupts are messages, which the other controllers here do not take from it.
        slot = ["--", "-device", "pcie-root-port,id=slot1,chassis=1,slot=1"] if self.gic.endswith("-its") else []
        return [sys.executable, str(ROOT / "qemu" / "run.py"), "--kernel", str(kernel), "--initrd", str(INITRD),
                "--no-harness-args", "--no-semihosting", "--timeout", str(SECONDS), "--expect", LAST_LINE, *options,
                "--bootargs", self.words(), *slot]


def cells() -> tuple[list[Cell], list[pairwise.Pair]]:
    """Returns the cells of the matrix, and the pairs of values that are in none because they do not go together."""
    found = pairwise.cover(AXES, possible, cost)
    return [Cell(*values) for values in found.combinations], found.impossible


# --------------------------------------------------------------------------------------------------------------------
# Running them


@dataclass(frozen=True)
class Outcome:
    """What became of a cell: skipped and why, or what was wrong, or how many checks passed."""

    seconds: float = 0.0
    passed: int = 0
    skipped: Optional[str] = None
    trouble: Optional[str] = None


def verdict(cell: Cell, text: str, status: int, seconds: float) -> Outcome:
    """Reads a cell's log: the guest's checks, and what the shim said before them."""
    lines = [line.rstrip() for line in text.splitlines()]
    result = read_tap(text, status)
    # These come first, because they explain the rest: a run that did not come about or was stopped, what the shim minded, a
    # kernel that died.
    messages = (r"run: |tagalias: (?!on:)|tagstash: (warning|error|panic)|(\[[ .0-9]+\] )?Kernel panic"
                + ("|qemu-system-aarch64: " if status else ""))
    troubles = [line for line in lines if re.match(messages, line) and LAST_LINE not in line]
    troubles += result.failures
    # Without these the kernel could pass its checks on a machine that is not the one that was meant.
    regions = sum(bool(re.match(r"tagstash: tag storage 0x\S+ for memory ", line)) for line in lines)
    if regions != len(cell.regions):
        troubles.append(f"the shim found {regions} regions of tag storage, not {len(cell.regions)}")
    frames = re.search(r"^tagstash: service: (\d+) frames", text, re.M)
    if not frames or (int(frames[1]) > 0) != bool(cell.regions):
        troubles.append(f"the shim lends {frames[1] if frames else 'no'} frames, with {len(cell.regions)} regions")
    if status == 0 and "reboot: Power down" not in text:
        troubles.append("the guest did not turn the machine off")
    return Outcome(seconds, result.passed, None, troubles[0] if troubles else None)


def boot(cell: Cell, kernel: Path) -> Outcome:
    """Runs one cell to its end."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"{cell.name}.log"
    started = time.monotonic()
    with open(log, "wb") as sink:
        process = subprocess.Popen(cell.command(kernel), cwd=ROOT, stdin=subprocess.DEVNULL, stdout=sink,
                                   stderr=subprocess.STDOUT, start_new_session=True)
        running.add(process)
        try:
            status = process.wait(SECONDS + GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            status = machine.TIMEOUT_STATUS
        finally:
            end_group(process)
            running.discard(process)
    return verdict(cell, log.read_text(errors="replace"), status, time.monotonic() - started)


# What is to be ended when we are.
running: set[subprocess.Popen[bytes]] = set()


def find_kernels(names: list[str]) -> dict[str, tuple[Optional[Path], str, bool]]:
    """Has set-up get the kernels; returns where each is, or why it is not, and whether that is a mere lack of a download."""
    found: dict[str, tuple[Optional[Path], str, bool]] = {}
    for name in names:
        done = subprocess.run([sys.executable, str(ROOT / "qemu" / "setup.py"), "--kernel", name], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
        for line in done.stdout.splitlines():
            print(f"# {line}", flush=True)
        reason = next((line for line in done.stdout.splitlines() if line.startswith("setup: ")), f"status {done.returncode}")
        found[name] = (None, reason, done.returncode == NOT_DOWNLOADED)
        if done.returncode == 0:
            record = json.loads((machine.BUILD / "tools.json").read_text())["kernels"][name]
            found[name] = (Path(record["kernel"]), record["release"], False)
    return found


def run_cells(chosen: list[Cell], jobs: int) -> int:
    """Runs cells, so many at a time; returns the exit status."""
    for file, remedy in ((INITRD, "make initramfs"), (machine.BUILD / "tagstash.img", "make image"),
                         (machine.BUILD / "libtagalias.so", "make machine")):
        if not file.is_file():
            print(f"Bail out! {file} is not there: `{remedy}` makes it", flush=True)
            return 2
    started = time.monotonic()
    kernels = find_kernels(list(dict.fromkeys(cell.kernel for cell in chosen)))
    print(f"1..{len(chosen)}", flush=True)

    def one(cell: Cell) -> Outcome:
        kernel, reason, mere_lack = kernels[cell.kernel]
        if kernel is None:
            return Outcome(skipped=reason) if mere_lack else Outcome(trouble=reason)
        return boot(cell, kernel)

    counts = {"passed": 0, "failed": 0, "skipped": 0}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        futures = {pool.submit(one, cell): cell for cell in chosen}
        try:
            for number, future in enumerate(concurrent.futures.as_completed(futures), 1):
                cell, outcome = futures[future], future.result()
                if outcome.skipped:
                    counts["skipped"] += 1
                    print(f"ok {number} - {cell.name} # SKIP {outcome.skipped}", flush=True)
                elif outcome.trouble:
                    counts["failed"] += 1
                    print(f"not ok {number} - {cell.name}: {outcome.trouble} ({outcome.seconds:.0f} s)", flush=True)
                    print(f"#   {(LOGS / cell.name).relative_to(ROOT)}.log", flush=True)
                else:
                    counts["passed"] += 1
                    print(f"ok {number} - {cell.name} ({outcome.passed} checks, {outcome.seconds:.0f} s)", flush=True)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running):
                end_group(process)
            raise
    print(f"# {counts['passed']} cells passed, {counts['failed']} failed, {counts['skipped']} skipped, in "
          f"{time.monotonic() - started:.0f} s, {jobs} at a time", flush=True)
    return 1 if counts["failed"] else 0


# --------------------------------------------------------------------------------------------------------------------
# Picking them


def pick(texts: list[str], every: list[Cell]) -> list[Cell]:
    """Returns the cells that the command line asks for, each once."""
    known = {value: axis for axis, values in enumerate(AXES) for value in values}
    chosen: dict[Cell, None] = {}
    for text in texts:
        if text.isdigit():
            if not 1 <= int(text) <= len(every):
                raise ValueError(f"there is no cell {text}: --list shows 1 to {len(every)}")
            chosen[every[int(text) - 1]] = None
            continue
        values = text.split(",")
        unknown = [value for value in values if value not in known]
        if unknown:
            raise ValueError(f"no setting has the value {', '.join(unknown)}: there are {', '.join(known)}")
        if len(values) == len(AXES) and sorted(known[value] for value in values) == list(range(len(AXES))):
            cell = Cell(*sorted(values, key=known.__getitem__))
            if not possible(cell.values):
                why = next(why for (one, other), why in IMPOSSIBLE.items() if one in values and other in values)
                raise ValueError(f"there is no such machine as {text}: {why}")
            chosen[cell] = None
            continue
        matching = [cell for cell in every if all(value in cell.values for value in values)]
        if not matching:
            raise ValueError(f"no cell of the list has {' and '.join(values)}; a value of each setting is a cell that need "
                             f"not be listed")
        chosen.update(dict.fromkeys(matching))
    return list(chosen) if texts else every


def show_list(every: list[Cell], impossible: list[pairwise.Pair]) -> None:
    """Prints the cells, and what is in none of them."""
    for number, cell in enumerate(every, 1):
        print(f"{number:3} {cell.name}")
    print("\nNot to be had:")
    for (_, one), (_, other) in impossible:
        why = IMPOSSIBLE.get((one, other)) or IMPOSSIBLE.get((other, one)) or "other pairs of the two do not go together"
        print(f"    {one} with {other}: {why}")


# What a log of a cell with one region has at least, and what becomes of it: the text, what stands for it, and what is then
# said to be wrong.
SAMPLE = """tagalias: on: the tags of 496 MiB of data are 15872 KiB of guest RAM
tagstash: tag storage 0x5f000000..0x5ff80000 for memory 0x40000000..0x5f000000: 3968 blocks of 4 KiB
tagstash: service: 3968 frames in 3968 blocks, dormant, atomics
ok 1 - all CPUs are online
ok 2 - the kernel complains of nothing
1..2
# linux cell complete
[    9.000000] reboot: Power down
"""
SPOILT = [
    ("ok 2", "not ok 2", 0, "the kernel complains"),
    ("ok 2 - the kernel complains of nothing\n1..2\n", "", 0, "no plan"),
    ("tagstash: tag storage 0x5f", "tagstash: warning: block-size is 0: reuse is off", 0, "tagstash: warning"),
    ("ok 1 ", "tagstash: panic: unexpected exception at EL2\nok 2 ", 0, "tagstash: panic"),
    ("ok 1 ", "[    0.5] Kernel panic - not syncing\nok 2 ", 0, "Kernel panic"),
    ("tagstash: tag storage", "tagstash: nothing", 0, "the shim found 0 regions"),
    ("service: 3968", "service: 0", 0, "the shim lends 0 frames"),
    ("[    9.000000] reboot: Power down\n", "", 0, "did not turn the machine off"),
    ("# linux cell complete", f"run: the expected line was not printed: {LAST_LINE}", 1, "status 1"),
    ("[    9.0", "run: stopped after 600 s\n[    9.0", machine.TIMEOUT_STATUS, "run: stopped"),
]


def check_verdict() -> list[tuple[str, Optional[str]]]:
    """Checks that a log is read as it should be: as a pass, and spoilt in each way as a failure that says which."""
    cell = Cell(KERNELS[0], "max", "gic3-its", "2cpu", "512M", "one")
    good = verdict(cell, SAMPLE, 0, 1.0)
    points = [("a good log is a pass", None if good == Outcome(1.0, 2) else f"it is {good}")]
    for text, instead, status, wanted in SPOILT:
        trouble = verdict(cell, SAMPLE.replace(text, instead), status, 1.0).trouble
        points.append((f"a log with '{wanted}' is a failure",
                       None if wanted in (trouble or "") else f"it is '{trouble}'"))
    return points


def check(every: list[Cell]) -> int:
    """Checks what needs no run: the cells cover what can be, by counting anew, they are few, and logs are read well."""
    points: list[tuple[str, Optional[str]]] = []
    there = {frozenset((one, other)) for cell in every for one in cell.values for other in cell.values if one != other}
    missing = [f"{one} with {other}" for first in range(len(AXES)) for second in range(first) for one in AXES[first]
               for other in AXES[second] if frozenset((one, other)) not in there
               and (one, other) not in IMPOSSIBLE and (other, one) not in IMPOSSIBLE]
    points.append(("every pair of values that go together is in a cell", ", ".join(missing) or None))
    wrong = [cell.name for cell in every if not possible(cell.values)]
    points.append(("every cell is a machine that can be", ", ".join(wrong) or None))
    points.append(("there are 40 cells at most", None if len(every) <= 40 else f"there are {len(every)}"))
    points += check_verdict()
    same = len({value for axis in AXES for value in axis}) == sum(map(len, AXES))
    points.append(("no two settings have a value of one name", None if same else "some have"))
    for number, (name, trouble) in enumerate(points, 1):
        print(f"ok {number} - {name}" if trouble is None else f"not ok {number} - {name}: {trouble}")
    print(f"1..{len(points)}")
    return 1 if any(trouble for _, trouble in points) else 0


def main() -> int:
    """Runs what was asked for; returns the process's exit status."""
    summary, *rest = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog="\n\n".join(rest),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cell", nargs="*", metavar="CELL", help="run these only")
    parser.add_argument("--list", action="store_true", help="list the cells, and the pairs that are in none")
    parser.add_argument("--check", action="store_true",
                        help="run nothing, and check that the list covers every pair, and how a log is read")
    parser.add_argument("--jobs", type=int, default=min(os.cpu_count() or 1, 4), metavar="N",
                        help="run so many at a time (default: as many as there are CPUs, 4 at most)")
    options = parser.parse_args()
    if options.jobs < 1:
        parser.error(f"--jobs {options.jobs} is not a positive number")
    every, impossible = cells()
    try:
        chosen = pick(options.cell, every)
    except ValueError as error:
        parser.exit(2, f"linux_test: {error}\n")
    if options.list:
        show_list(every, impossible)
        return 0
    if options.check:
        return check(every)

    def on_signal(number: int, _frame: object) -> NoReturn:
        print(f"Bail out! ended by {signal.Signals(number).name}", flush=True)
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    return run_cells(chosen, options.jobs)


if __name__ == "__main__":
    sys.exit(main())
