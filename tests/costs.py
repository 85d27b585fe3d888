#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Counts what each hypercall costs, in instructions, and compares it with goals and ceilings.

The test guest makes every call of docs/abi.md in its interesting cases (`mode=bench`, tests/harness/src/bench.rs) on one CPU
under `-icount shift=0`, where one tick of the counter is one instruction. The machine is run once for each table: pages copied by
LDP and STP, by memory copy instructions (FEAT_MOPS), larger blocks, and the calls that kernels make often in every state of
stash and ledger.

Writes build/bench/costs.md and costs.json, and prints the tables. A goal that is missed is printed as missed. The exit status
is 1 only if a figure is worse than its ceiling (tests/costs.json), or if a run failed. --record makes today's figures, with
a small margin, the ceilings. Ceilings hold for the compiler that they were recorded with; another one gets a wider margin.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Optional

import tap

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
OUT = BUILD / "bench"
CEILINGS = ROOT / "tests" / "costs.json"
SECONDS = 300
# What is added to a figure when it is made a ceiling, and what a ceiling is worth under another compiler.
MARGIN, LEAST_MARGIN, OTHER_COMPILER = 0.02, 6, 1.25
WORST_TO_MEDIAN = 2.0

# Every row that the guest may print: the call and the case. The order is the table's.
ROWS: dict[str, tuple[str, str]] = {
    "floor.copy": ("(no call)", "copy of 4 KiB by LDP and STP"),
    "floor.maintenance": ("(no call)", "cache maintenance of a claim"),
    "version": ("VERSION", "the null call"),
    "uid": ("UID", ""),
    "revision": ("REVISION", ""),
    "region": ("REGION", ""),
    "statistic": ("STATISTIC", ""),
    "census.1": ("CENSUS", "1 frame"),
    "census.4096": ("CENSUS", "4,096 frames"),
    "state": ("STATE", ""),
    "events.found": ("EVENTS", "an event"),
    "events.none": ("EVENTS", "none"),
    "pool_create.private": ("POOL_CREATE", "private"),
    "pool_create.shared": ("POOL_CREATE", "shared, made"),
    "pool_create.found": ("POOL_CREATE", "shared, found"),
    "pool_destroy": ("POOL_DESTROY", ""),
    "put.free": ("PUT", "into a free frame"),
    "put.evicting": ("PUT", "another page gives way"),
    "put.replacing": ("PUT", "an older copy gives way"),
    "put.refused": ("PUT", "all in tags: refused"),
    "put.run16": ("PUT", "run of 16, a page"),
    "put.16k": ("PUT", "16 KiB page, 4 KiB"),
    "put.64k": ("PUT", "64 KiB page, 4 KiB"),
    "put.verified": ("PUT", "with verification"),
    "get.hit": ("GET", "hit"),
    "get.miss": ("GET", "miss"),
    "get.shared": ("GET", "hit, shared pool"),
    "get.stale": ("GET", "miss: its object was flushed"),
    "get.run16": ("GET", "run of 16 hits, a page"),
    "get.16k": ("GET", "hit, 16 KiB page, 4 KiB"),
    "get.64k": ("GET", "hit, 64 KiB page, 4 KiB"),
    "get.verified": ("GET", "hit, with verification"),
    "flush_page.there": ("FLUSH_PAGE", "the page is there"),
    "flush_page.gone": ("FLUSH_PAGE", "it is not"),
    "flush_page.run16": ("FLUSH_PAGE", "run of 16, a page"),
    "flush_object": ("FLUSH_OBJECT", ""),
    "flush_pool": ("FLUSH_POOL", ""),
    "reclaim.held": ("RECLAIM", "the page is claimed"),
    "reclaim.further": ("RECLAIM", "its block is in tags"),
    "reclaim.cached": ("RECLAIM", "its block holds pages"),
    "reclaim.free": ("RECLAIM", "its block is free"),
    "reclaim.dormant": ("RECLAIM", "its block is dormant"),
    "reclaim.block": ("RECLAIM", "all pages of a block"),
    "reclaim.2mib": ("RECLAIM", "2 MiB, a block"),
    "reclaim.without": ("RECLAIM", "a page without tag storage"),
    "release.not_last": ("RELEASE", "others of its block are claimed"),
    "release.last": ("RELEASE", "the last of its block"),
    "release.not_claimed": ("RELEASE", "the page is not claimed"),
    "release.block": ("RELEASE", "all pages of a block"),
    "release.2mib": ("RELEASE", "2 MiB, a block"),
    "query": ("QUERY", ""),
    "activate": ("ACTIVATE", "a block"),
    "activate.active": ("ACTIVATE", "a block that is active"),
    "deactivate.free": ("DEACTIVATE", "a block without claims"),
    "deactivate.claimed": ("DEACTIVATE", "a block, all pages claimed"),
    "errors": ("(any)", "35 kinds of wrong arguments, NO_FREE_POOL"),
    "any.put": ("PUT", "kept"),
    "any.put_refused": ("PUT", "refused"),
    "any.get_hit": ("GET", "hit"),
    "any.get_miss": ("GET", "miss, stale ones included"),
    "any.flush_page_there": ("FLUSH_PAGE", "the page is there"),
    "any.flush_page_gone": ("FLUSH_PAGE", "it is not"),
    "any.flush_object": ("FLUSH_OBJECT", ""),
    "any.reclaim_held": ("RECLAIM", "the page is claimed"),
    "any.reclaim_further": ("RECLAIM", "its block is in tags"),
    "any.reclaim_entering": ("RECLAIM", "its block is not"),
    "any.release": ("RELEASE", "claimed"),
    "any.release_not_claimed": ("RELEASE", "not claimed"),
}



@dataclass(frozen=True)
class Run:
    """One run of the machine."""

    name: str
    title: str
    part: str
    layout: str = "one"
    memory: int = 576
    mops: str = "off"
    # Belongs to `make test`.
    quick: bool = False


RUNS = [
    Run("calls", "Every call, pages copied by LDP and STP", "calls", quick=True),
    Run("mops", "Every call, pages copied by memory copy instructions (FEAT_MOPS)", "calls", mops="on", quick=True),
    Run("blocks-8k", "Claims where blocks are of 8 KiB (2 frames)", "claims", "block8k"),
    Run("blocks-64k", "Claims where blocks are of 64 KiB (16 frames)", "claims", "block64k"),
    Run("states", "Every state of stash and ledger, blocks of 4 KiB", "states", memory=256, quick=True),
    Run("states-two", "Every state, two regions", "states", "two", 256),
    Run("states-crossed", "Every state, two regions, storage crossed", "states", "crossed", 256),
    Run("states-8k", "Every state, blocks of 8 KiB", "states", "block8k", 256),
    Run("states-64k", "Every state, blocks of 64 KiB", "states", "block64k", 256),
]


@dataclass
class Cost:
    """The counts of one row, each with how often it was counted; `per` things a call."""

    per: int
    counts: dict[int, int] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        """Returns how many calls were counted."""
        return sum(self.counts.values())

    def at(self, share: float) -> int:
        """Returns the least count, of one thing, that so large a share of the calls did not exceed."""
        left = share * self.calls
        for value in sorted(self.counts):
            left -= self.counts[value]
            if left <= 0:
                break
        return -(-value // self.per)

    least = property(lambda self: self.at(0))
    median = property(lambda self: self.at(0.5))
    p99 = property(lambda self: self.at(0.99))
    most = property(lambda self: self.at(1))


Table = dict[str, Cost]


# --------------------------------------------------------------------------------------------------------------------
# Running


def measure(run: Run) -> Table:
    """Runs the machine once; returns its rows."""
    log = OUT / f"{run.name}.log"
    command = [sys.executable, "qemu/run.py", "--icount", "--kernel", "build/harness.img", "--layout", run.layout, "--memory",
               str(run.memory), "--bootargs", f"mode=bench part={run.part} tagstash.mops={run.mops}", "--expect",
               "# bench complete", "--timeout", str(SECONDS), "--log", str(log)]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, errors="replace", check=False)
    if done.returncode != 0:
        tail = "\n".join(done.stdout.splitlines()[-6:])
        raise tap.Failed(f"{run.name}: the run ended with status {done.returncode}; the end of {log.relative_to(ROOT)}:\n{tail}")
    return read(done.stdout)


def read(text: str) -> Table:
    """Reads the guest's lines, in the order of ROWS."""
    found: Table = {}
    for line in text.splitlines():
        words = line.strip("\r").split()
        if words[:1] != ["cost"]:
            continue
        name, per, *counts = words[1:]
        if name not in ROWS or name in found:
            raise tap.Failed(f"the guest's row '{name}' is not in the table, or is there twice")
        pairs = [re.fullmatch(r"(\d+)x(\d+)", pair) for pair in counts]
        if not pairs or not all(pairs):
            raise tap.Failed(f"the guest's row '{name}' has no counts that can be read: {line.strip()}")
        found[name] = Cost(int(per), {int(pair[1]): int(pair[2]) for pair in pairs if pair})
    return {name: found[name] for name in ROWS if name in found}


def functions() -> list[str]:
    """Reads the functions of the ABI from its document."""
    text = (ROOT / "docs" / "abi.md").read_text()
    return re.findall(r"^### ([A-Z_]+) `0x", text, re.M) + ["UID", "REVISION"]


# --------------------------------------------------------------------------------------------------------------------
# Goals and ceilings


@dataclass(frozen=True)
class Goal:
    """What a row is to be at most: the goal's words, the figure and the bound."""

    words: str
    row: str
    figure: int
    bound: int

    @property
    def met(self) -> bool:
        """Says whether it is met."""
        return self.figure <= self.bound

    def line(self) -> str:
        """Writes it for a reader."""
        call, case = ROWS[self.row]
        margin = self.bound - self.figure
        return (f"{'met   ' if self.met else 'MISSED'} {call} {case}: {self.figure:,} of {self.bound:,} "
                f"({margin:+,}; {self.words})")


def goals(table: Table) -> list[Goal]:
    """Compares medians with the goals."""
    null, copy = table["version"].most, table["floor.copy"].most
    maintenance = table["floor.maintenance"].most
    moved = (null + copy) * 5 // 4
    found = [Goal("100", "version", null, 100)]
    found += [Goal("1.25 x (null + copy)", row, table[row].median, moved) for row in ("get.hit", "put.free", "put.evicting")]
    found += [Goal("null + 120", row, table[row].median, null + 120)
              for row in ("get.miss", "flush_page.gone", "flush_page.there")]
    found.append(Goal("null + 40", "reclaim.held", table["reclaim.held"].median, null + 40))
    claim = table["reclaim.cached"].median
    found.append(Goal("null + 300, besides maintenance", "reclaim.cached", claim - maintenance, null + 300))
    found.append(Goal("null + 700, with maintenance", "reclaim.cached", claim, null + 700))
    return found


def compiler() -> str:
    """Returns the compiler's version."""
    try:
        return subprocess.run(["rustc", "--version"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def ceiling(figure: int) -> int:
    """Returns the ceiling that a figure becomes."""
    return figure + max(LEAST_MARGIN, round(figure * MARGIN))


def record(tables: dict[str, Table]) -> None:
    """Makes the figures the ceilings, and keeps those of runs that were not made."""
    kept = load_ceilings()["ceilings"] if CEILINGS.exists() else {}
    for run, table in tables.items():
        kept[run] = {name: [ceiling(cost.median), ceiling(cost.most)] for name, cost in table.items()}
    lines = []
    for run, rows in kept.items():
        text = ",\n".join(f"      {json.dumps(name)}: {bounds}" for name, bounds in rows.items())
        lines.append(f"    {json.dumps(run)}: {{\n{text}\n    }}")
    CEILINGS.write_text('{\n  "compiler": ' + json.dumps(compiler()) + ',\n  "ceilings": {\n' + ",\n".join(lines) + "\n  }\n}\n")


def load_ceilings() -> dict:
    """Reads the ceilings: by run and row, of the median and of the most."""
    try:
        return json.loads(CEILINGS.read_text())
    except (OSError, ValueError) as error:
        raise tap.Failed(f"{CEILINGS.relative_to(ROOT)} cannot be read: {error}") from None


def broken(run: str, table: Table) -> list[str]:
    """Returns a line for each figure of a run that is above its ceiling, and for each row that is missing or new."""
    stored = load_ceilings()
    factor = 1.0 if stored["compiler"] == compiler() else OTHER_COMPILER
    bounds = stored["ceilings"].get(run, {})
    lines = [f"{run}: {name} was not measured" for name in bounds if name not in table]
    for name, cost in table.items():
        if name not in bounds:
            lines.append(f"{run}: {name} has no ceiling; `tests/costs.py --record` makes one")
            continue
        for what, figure, bound in zip(("median", "most"), (cost.median, cost.most), bounds[name]):
            if figure > bound * factor:
                lines.append(f"{run}: {' '.join(filter(None, ROWS[name]))}: {what} {figure:,} is above the ceiling of "
                             f"{round(bound * factor):,}")
    return lines


# --------------------------------------------------------------------------------------------------------------------
# Tables


def columns(run: Run) -> list[tuple[str, Callable[[Cost], str]]]:
    """Returns the columns of a run's table."""
    shown = [("calls", lambda cost: f"{cost.calls:,}"), ("least", lambda cost: f"{cost.least:,}"),
             ("median", lambda cost: f"{cost.median:,}")]
    if run.part == "states":
        shown.append(("p99", lambda cost: f"{cost.p99:,}"))
    shown.append(("most", lambda cost: f"{cost.most:,}"))
    if run.part == "states":
        shown.append(("most / median", lambda cost: f"{cost.most / cost.median:.2f}"))
    return shown


def plain_table(run: Run, table: Table) -> list[str]:
    """Writes a run's table for a terminal."""
    shown = columns(run)
    lines = [f"  {'call':44}" + "".join(f"{name:>{max(9, len(name) + 2)}}" for name, _ in shown)]
    for name, cost in table.items():
        words = " ".join(filter(None, [ROWS[name][0], ROWS[name][1] and f"- {ROWS[name][1]}"]))
        lines.append(f"  {words:44}" + "".join(f"{text(cost):>{max(9, len(head) + 2)}}" for head, text in shown))
    return lines


def markdown_table(run: Run, table: Table) -> list[str]:
    """Writes a run's table in Markdown."""
    shown = columns(run)
    lines = ["| call | case | " + " | ".join(name for name, _ in shown) + " |", "| --- | --- |" + " ---: |" * len(shown)]
    for name, cost in table.items():
        call, case = ROWS[name]
        lines.append(f"| {call} | {case} | " + " | ".join(text(cost) for _, text in shown) + " |")
    return lines


def ratios(tables: dict[str, Table]) -> list[str]:
    """Returns a line for each call that is made often: the worst over all states against its median."""
    lines = []
    for name in (name for name in ROWS if name.startswith("any.")):
        costs = [(run, table[name]) for run, table in tables.items() if name in table]
        if not costs:
            continue
        run, worst = max(costs, key=lambda entry: entry[1].most / entry[1].median)
        ratio = worst.most / worst.median
        verdict = "met   " if ratio <= WORST_TO_MEDIAN else "MISSED"
        lines.append(f"{verdict} {' '.join(filter(None, ROWS[name]))}: most {worst.most:,}, median {worst.median:,}, "
                     f"{ratio:.2f} x ({run})")
    return lines


def report(tables: dict[str, Table], stalled: list[str]) -> tuple[list[str], list[str]]:
    """Writes everything for a terminal and in Markdown."""
    text: list[str] = []
    marks = ["# What the calls cost", "", "Instructions from the HVC to the one behind it, counted exactly on one CPU; where a call "
             "deals with several things, for one of them. No caches and no latency: work, not time.", ""]
    for run in (run for run in RUNS if run.name in tables):
        text += ["", f"{run.title} ({run.name})", *plain_table(run, tables[run.name])]
        marks += [f"## {run.title}", "", *markdown_table(run, tables[run.name]), ""]
    sections = []
    if "calls" in tables:
        sections.append(("Goals", [goal.line() for goal in goals(tables["calls"])]))
    worst = ratios(tables)
    if worst:
        sections.append((f"The worst over every state, at most {WORST_TO_MEDIAN:g} x the median", worst))
    if stalled:
        sections.append(("A writer stalled in each of its windows: chunks that a claim waited for", stalled))
    above = [line for run, table in tables.items() for line in broken(run, table)]
    count = sum(len(table) for table in tables.values())
    sections.append(("Ceilings", above or [f"{count} rows, none above its ceiling"]))
    for title, lines in sections:
        text += ["", title, *(f"  {line}" for line in lines)]
        marks += [f"## {title}", "", *(f"* {line}" for line in lines), ""]
    return text, marks


def as_json(tables: dict[str, Table], stalled: list[str]) -> dict:
    """Returns everything as data."""
    rows = {run: {name: {"call": ROWS[name][0], "case": ROWS[name][1], "per": cost.per, "calls": cost.calls, "least": cost.least,
                         "median": cost.median, "p99": cost.p99, "most": cost.most, "counts": cost.counts}
                  for name, cost in table.items()} for run, table in tables.items()}
    found = goals(tables["calls"]) if "calls" in tables else []
    return {"compiler": compiler(), "runs": rows, "stalled": stalled,
            "goals": [{"row": goal.row, "words": goal.words, "figure": goal.figure, "bound": goal.bound, "met": goal.met}
                      for goal in found]}


# --------------------------------------------------------------------------------------------------------------------
# The command line


def run_tests(chosen: list[Run], jobs: int) -> int:
    """Measures, and prints TAP."""
    tables: dict[str, Table] = {}

    def test(run: Run, future: concurrent.futures.Future[Table]) -> Callable[[], None]:
        def inner() -> None:
            tables[run.name] = future.result()
            above = broken(run.name, tables[run.name])
            if above:
                raise tap.Failed("\n".join(above))

        return inner

    def every_function() -> None:
        rows = {ROWS[name][0] for name in tables.get("calls", {})}
        missing = [name for name in functions() if name not in rows]
        if missing or len(functions()) < 20:
            raise tap.Failed(f"functions of docs/abi.md without a row: {', '.join(missing) or 'none were read'}")
        few = [name for name, cost in tables["calls"].items() if cost.calls * cost.per < 64]
        if few:
            raise tap.Failed(f"counted fewer than 64 times: {', '.join(few)}")

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        tests = [(f"P4 P5 no call costs more than its ceiling: {run.name}", test(run, pool.submit(measure, run))) for run in chosen]
        status = tap.run([*tests, ("every function of the ABI is counted", every_function)])
    if "calls" in tables:
        for goal in goals(tables["calls"]):
            print(f"# goal {goal.line()}")
    for line in ratios(tables):
        print(f"# worst to median {line}")
    return status


def main() -> int:
    """Measures what was asked for; returns the exit status."""
    summary, *rest = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog="\n\n".join(rest),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="*", help=f"make these runs only: {', '.join(run.name for run in RUNS)}")
    parser.add_argument("--test", action="store_true", help="make the quick runs and print TAP, as `make test` does")
    parser.add_argument("--record", action="store_true", help="make today's figures the ceilings")
    parser.add_argument("--stalled", type=Path, metavar="FILE", help="output of the test of stalled writers, to be shown too")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="machines at once (default 2)")
    options = parser.parse_args()
    names = [run.name for run in RUNS]
    unknown = [name for name in options.run if name not in names]
    if unknown or options.jobs < 1:
        what = f"no run is named {', '.join(unknown)}; there are: {', '.join(names)}" if unknown else "--jobs is less than 1"
        print(f"costs: {what}", file=sys.stderr)
        return 2
    wanted = options.run or [run.name for run in RUNS if run.quick or not options.test]
    chosen = [run for run in RUNS if run.name in wanted]
    OUT.mkdir(parents=True, exist_ok=True)
    if options.test:
        return run_tests(chosen, options.jobs)
    try:
        stalled = []
        if options.stalled:
            lines = options.stalled.read_text(errors="replace").splitlines()
            stalled = [line.split("stalled: ", 1)[1] for line in lines if "stalled: " in line]
        tables: dict[str, Table] = {}
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            futures = [(run, pool.submit(measure, run)) for run in chosen]
            for number, (run, future) in enumerate(futures, 1):
                tables[run.name] = future.result()
                print(f"[{number}/{len(chosen)}] {run.title}: {len(tables[run.name])} rows", file=sys.stderr, flush=True)
        if options.record:
            record(tables)
        text, marks = report(tables, stalled)
        (OUT / "costs.md").write_text("\n".join(marks))
        (OUT / "costs.json").write_text(json.dumps(as_json(tables, stalled), indent=1) + "\n")
    except (tap.Failed, OSError) as why:
        print(f"costs: {why}", file=sys.stderr)
        return 1
    print("\n".join(text))
    print("\nwritten: build/bench/costs.md, build/bench/costs.json")
    return 1 if any(broken(run, table) for run, table in tables.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
