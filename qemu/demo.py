#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Shows what Tagstash is for: Linux keeps page cache in the tag storage that nobody needs, and MTE never notices.

Boots Linux 5.10 with cleancache above the shim, on the emulated board whose tag storage really is a part of RAM. A program reads
files that do not fit its page cache, but fit page cache and stash together; other programs tag memory in between. Told are the
sectors read from the disk, the hits, what the storage is used for over time, what claims cost, and whether everything that was
read was right.

With --shell it boots the same guest, with the driver loaded, to a shell, which says what to try.

Kept under build/demo: samples.csv, plot.svg; the guest's console is build/logs/demo.log. The last line is `# demo complete`, and the exit
status 0, only if every verdict is good.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import re
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Iterator, NoReturn, Optional

import driverguest
import run as machine
import setup
from driverguest import Guest, GuestError

OUT = machine.BUILD / "demo"
LOG = machine.BUILD / "logs" / "demo.log"
SECONDS = 900.0
MEMORY_MIB = 512
FILES = 28
LIMIT_MIB = 20
# What each of four programs tags.
TAG_MIB = 40
FRAME = 4096
SECTOR = 512

PHASES = {
    "without": ("1. Without Tagstash", "Tag storage is idle. The program reads all files, over and over."),
    "with": ("2. With Tagstash", "The driver is loaded: tag storage that holds no tags is lent to the page cache, with verification on. The same program again."),
    "tags": ("3. Memory is tagged meanwhile", f"Four programs, one after the other, give each 16 bytes of {TAG_MIB} MiB a random tag and keep them. Their tags need "
             "storage: cached pages that are in the way are dropped, at once and without waiting for anybody."),
    "back": ("4. The tags are gone", "The programs read their tags back and end. The storage returns to the page cache."),
}


@dataclass(frozen=True)
class Sample:
    """What the guest's debugfs said at a moment."""

    seconds: float
    tags: int
    cached: int
    free: int
    dormant: int
    sectors: int
    gets: int
    hits: int
    claims: int
    dropped: int

    @property
    def frames(self) -> int:
        """Returns all frames."""
        return self.tags + self.cached + self.free + self.dormant


@dataclass(frozen=True)
class Pass:
    """A reading of all files."""

    name: str
    status: int
    sectors: int
    gets: int
    hits: int


@dataclass
class Story:
    """What the guest has told so far."""

    samples: list[Sample] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    # When each phase began, by the guest's clock, as far as there were samples.
    began: list[tuple[str, float]] = field(default_factory=list)
    tags_read: int = 0
    tags_wrong: int = 0
    holders: int = 0
    values: dict[str, int] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    map: list[str] = field(default_factory=list)
    complete: bool = False

    def of(self, name: str) -> list[Pass]:
        """Returns the passes of a name."""
        return [one for one in self.passes if one.name == name]


def say(text: str = "", indent: str = "") -> None:
    """Prints a paragraph."""
    print(textwrap.fill(text, 100, initial_indent=indent, subsequent_indent=indent) if text else "", flush=True)


def mebibytes(sectors: int) -> str:
    """Writes sectors as MiB."""
    return f"{sectors * SECTOR / (1 << 20):.1f} MiB"


def percent(part: int, whole: int) -> str:
    """Writes a share."""
    return f"{100 * part / whole:.0f} %" if whole else "none"


# --------------------------------------------------------------------------------------------------------------------
# What the guest says


def take(story: Story, line: str) -> None:
    """Takes a line of the guest's, and tells what is worth telling at once."""
    if line == "# files demo complete":
        story.complete = True
    if line.startswith("Bail out! "):
        story.troubles.append(line.removeprefix("Bail out! "))
    found = re.match(r"demo: (\w+) ?(.*)$", line)
    if not found:
        return
    kind, words = found[1], found[2].split()
    if kind == "phase":
        title, text = PHASES[words[0]]
        print(f"\n{title}", flush=True)
        say(text, "   ")
        story.began.append((words[0], story.samples[-1].seconds if story.samples else 0.0))
    elif kind == "sample":
        story.samples.append(Sample(float(words[0]), *map(int, words[1:])))
    elif kind == "pass":
        one = Pass(words[0], *map(int, words[1:]))
        story.passes.append(one)
        hits = f"; {one.hits} of {one.gets} pages asked of the stash were there" if one.gets else ""
        print(f"   pass {len(story.passes):2}: {one.sectors:6} sectors read from the disk ({mebibytes(one.sectors)}){hits}"
              + ("" if one.status == 0 else ": WRONG CONTENTS"), flush=True)
    elif kind == "tagged":
        print(f"   program {words[0]} has tagged {words[1]} MiB", flush=True)
    elif kind == "read_back":
        # Of the line `T tags read back, M mismatches`.
        story.holders += 1
        wrong = int(words[3]) if len(words) > 3 else 1
        story.tags_read += int(words[2]) if len(words) > 2 else 0
        story.tags_wrong += wrong
        print(f"   program {words[0]} read {words[2] if len(words) > 2 else 'no'} tags back: {'all right' if not wrong else 'WRONG'}",
              flush=True)
    elif kind == "trouble":
        story.troubles.append(found[2])
        print(f"   trouble: {found[2]}", flush=True)
    elif kind == "map":
        story.map.append(found[2])
    elif words and words[0].isdigit():
        story.values[kind] = int(words[0])


@contextlib.contextmanager
def started(command: list[str], **how: Any) -> Iterator["subprocess.Popen[Any]"]:
    """Starts run.py, and in the end asks it to end if it has not: it ends its QEMU and removes its files."""
    process = subprocess.Popen(command, **how)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def watch(command: list[str]) -> tuple[Story, int]:
    """Runs the guest, telling what it says; returns that and the status."""
    story = Story()
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with open(LOG, "w") as log, started(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        errors="replace") as process:
        assert process.stdout is not None
        for line in process.stdout:
            line = line.replace("\r", "").rstrip("\n")
            log.write(line + "\n")
            log.flush()
            take(story, line)
        status = process.wait()
    return story, status


# --------------------------------------------------------------------------------------------------------------------
# Plots


def bins(samples: list[Sample], columns: int) -> list[Sample]:
    """Picks so many samples, evenly in time."""
    first, last = samples[0].seconds, samples[-1].seconds
    found: list[Sample] = []
    at = 0
    for column in range(columns):
        wanted = first + (last - first) * column / max(columns - 1, 1)
        while at + 1 < len(samples) and samples[at + 1].seconds <= wanted:
            at += 1
        found.append(samples[at])
    return found


def plot_in_terminal(story: Story) -> None:
    """Prints what the storage was used for over time."""
    columns, rows = 88, 14
    picked = bins(story.samples, columns)
    print("   Share of tag storage    # tags    o cached pages    . idle")
    for row in range(rows, 0, -1):
        share = (row - 0.5) / rows
        line = "".join("#" if share < one.tags / one.frames else "o" if share < (one.tags + one.cached) / one.frames else "."
                       for one in picked)
        print(f"   {100 * row // rows:3} % {line}")
    first, last = story.samples[0].seconds, story.samples[-1].seconds
    marks = [" "] * columns
    for name, seconds in story.began:
        place = int((max(seconds, first) - first) / max(last - first, 0.001) * (columns - 1))
        if name in ("tags", "back", "with"):
            marks[place] = PHASES[name][0][0]
    print("   part  " + "".join(marks).rstrip() + f"    ({last - first:.0f} s)", flush=True)


def write_svg(story: Story, file: Path) -> None:
    """Writes the same as a drawing, with the sectors read below."""
    width, height, left, low = 960, 300, 70, 120
    samples = story.samples
    first, last = samples[0].seconds, samples[-1].seconds
    scale = (width - left - 20) / max(last - first, 0.001)

    def x(seconds: float) -> float:
        return left + (max(seconds, first) - first) * scale

    def area(lower: list[float], upper: list[float]) -> str:
        forth = [f"{x(one.seconds):.1f},{40 + height * (1 - high):.1f}" for one, high in zip(samples, upper)]
        back = [f"{x(one.seconds):.1f},{40 + height * (1 - deep):.1f}" for one, deep in zip(reversed(samples), reversed(lower))]
        return " ".join(forth + back)

    tags = [one.tags / one.frames for one in samples]
    used = [(one.tags + one.cached) / one.frames for one in samples]
    rates = [0.0] + [(two.sectors - one.sectors) * SECTOR / (1 << 20) / max(two.seconds - one.seconds, 0.01)
                     for one, two in zip(samples, samples[1:])]
    top = max(max(rates), 1.0)
    base = 40 + height + 40 + low
    line = " ".join(f"{x(one.seconds):.1f},{base - low * rate / top:.1f}" for one, rate in zip(samples, rates))
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{base + 40}" font-family="sans-serif" font-size="13">',
             '<rect width="100%" height="100%" fill="white"/>',
             f'<text x="{left}" y="24" font-size="16">What idle tag storage was used for ({samples[0].frames} frames of 4 KiB)</text>',
             f'<rect x="{left}" y="40" width="{width - left - 20}" height="{height}" fill="#eeeeee"/>',
             f'<polygon fill="#d95f02" points="{area([0.0] * len(samples), tags)}"/>',
             f'<polygon fill="#1b9e77" points="{area(tags, used)}"/>']
    for share in (0, 25, 50, 75, 100):
        y = 40 + height * (1 - share / 100)
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{share} %</text>')
    for place, (color, text) in enumerate((("#d95f02", "tags"), ("#1b9e77", "cached pages"), ("#eeeeee", "idle"))):
        at = left + 480 + 130 * place
        parts.append(f'<rect x="{at}" y="12" width="14" height="14" fill="{color}" stroke="#888888"/><text x="{at + 20}" y="24">{text}</text>')
    parts += [f'<text x="{left}" y="{40 + height + 28}">MiB read from the disk in a second (at most {top:.1f})</text>',
              f'<polyline fill="none" stroke="#7570b3" stroke-width="1.5" points="{line}"/>',
              f'<line x1="{left}" x2="{width - 20}" y1="{base}" y2="{base}" stroke="#888888"/>']
    for name, seconds in story.began:
        if name != "without":
            parts += [f'<line x1="{x(seconds):.1f}" x2="{x(seconds):.1f}" y1="40" y2="{base}" stroke="#444444" stroke-dasharray="4 3"/>',
                      f'<text x="{x(seconds) + 4:.1f}" y="{base + 16}">{PHASES[name][0]}</text>']
    parts.append(f'<text x="{width - 20}" y="{base + 32}" text-anchor="end">{last - first:.0f} s of the guest\'s clock</text></svg>')
    file.write_text("\n".join(parts) + "\n")


def write_samples(story: Story, file: Path) -> None:
    """Writes the samples as a table."""
    with open(file, "w", newline="") as table:
        writer = csv.writer(table)
        names = list(Sample.__dataclass_fields__)
        writer.writerow(names)
        writer.writerows([getattr(one, name) for name in names] for one in story.samples)


# --------------------------------------------------------------------------------------------------------------------
# Verdicts


@dataclass(frozen=True)
class Verdict:
    """Something that has to hold, and whether it does."""

    text: str
    good: bool


def verdicts(story: Story) -> list[Verdict]:
    """Judges what the guest said. What it did not say is no good."""
    without, with_it, tagged, back = (story.of(name) for name in ("without", "with", "tags", "back"))
    after = with_it + tagged + story.of("refilling") + back
    gets, hits = sum(one.gets for one in after), sum(one.hits for one in after)
    pages = FILES * 256
    found = [Verdict(f"every byte of {len(story.passes)} passes over {pages} pages was as it was written",
                     len(story.passes) == 12 and all(one.status == 0 for one in story.passes)),
             Verdict(f"all {story.tags_read} tags of the programs were read back as they were set",
                     story.holders == 4 and story.tags_wrong == 0 and story.tags_read == 4 * (TAG_MIB << 20) // 16),
             Verdict("every tagged page of Linux had its claim", story.values.get("audit") == 0),
             Verdict("no cached page was overwritten by tags (checksums)", story.values.get("mismatches") == 0),
             Verdict("no call of the driver was refused", story.values.get("errors") == 0),
             Verdict("the kernel complains of nothing", story.values.get("complaints") == 0)]
    if without and with_it and back:
        before, now = without[-1].sectors, with_it[-1].sectors
        found.append(Verdict(f"with the stash, a pass reads {now} sectors from the disk instead of {before}", before > 0 and now * 4 <= before))
        found.append(Verdict(f"the stash is back when the tags are gone: a pass reads {back[-1].sectors} sectors", back[-1].sectors * 4 <= before))
    found.append(Verdict(f"{percent(hits, gets)} of what was asked of the stash was there ({hits} of {gets})", gets > 0 and hits * 10 >= gets * 3))
    if story.samples:
        most = max(story.samples, key=lambda one: one.tags)
        found.append(Verdict(f"tags took up to {percent(most.tags, most.frames)} of the storage, and cached pages had to give way",
                             most.tags * 10 >= most.frames and story.samples[-1].dropped > 0))
    return found


def tell_claims(story: Story) -> None:
    """Tells what claims there were and what they cost."""
    if not story.samples:
        return
    last = story.samples[-1]
    say(f"{last.claims} pages were claimed for their tags, which dropped {last.dropped} cached pages. The slowest claim of a page took "
        f"{story.values.get('worst', 0) / 1000:.1f} us by the emulator's clock, which tells nothing about hardware; instructions are in "
        f"docs/performance.md.", "   ")


def demonstrate(guest: Guest) -> int:
    """Runs the guest, tells the story; returns the exit status."""
    started = time.monotonic()
    story, status = watch(guest.command(SECONDS))
    print()
    if story.samples:
        OUT.mkdir(parents=True, exist_ok=True)
        write_samples(story, OUT / "samples.csv")
        write_svg(story, OUT / "plot.svg")
        plot_in_terminal(story)
        print()
    tell_claims(story)
    if story.samples:
        print(f"   Drawing: {setup.relative(OUT / 'plot.svg')}; samples: {setup.relative(OUT / 'samples.csv')}; console: {setup.relative(LOG)}")
    print("\nVerdict")
    judged = verdicts(story)
    if status != 0 or not story.complete:
        judged.append(Verdict(f"the guest ran to its end (status {status}; see {setup.relative(LOG)})", False))
    for verdict in judged:
        print(f"   {'good' if verdict.good else 'BAD '}  {verdict.text}")
    for trouble in story.troubles[:5]:
        print(f"   trouble: {trouble}")
    print(f"   {time.monotonic() - started:.0f} s")
    if not all(verdict.good for verdict in judged) or story.troubles:
        print("# demo failed", flush=True)
        return 1
    print("# demo complete", flush=True)
    return 0


def introduce(cpus: int, storage: int) -> None:
    """Tells what the machine is, with how many bytes of tag storage, and what the work."""
    print("Tagstash: Linux keeps page cache in its idle tag storage\n")
    say(f"The machine: QEMU with {cpus} CPUs and {MEMORY_MIB} MiB of RAM, of which {storage / (1 << 20):.1f} MiB store memory tags: 4 bits for "
        f"every 16 bytes. A tag that is stored changes those bytes, as on silicon. Above the shim, at EL1, runs Linux 5.10 with cleancache.")
    say(f"The work: a program reads {FILES} files of 1 MiB and compares every byte. It may have {LIMIT_MIB} MiB of memory (a memory cgroup), page cache "
        f"included, so its files do not fit: each page is dropped before it is wanted again.")


def main() -> int:
    """Shows it; returns the process's exit status."""
    summary, *rest = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog="\n\n".join(rest), formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cpus", type=int, choices=range(1, 9), default=2, metavar="N", help="number of CPUs, 1 to 8 (default 2)")
    parser.add_argument("--shell", action="store_true", help="boot to a shell with the driver at work instead (exit, or Ctrl-A X)")
    options = parser.parse_args()

    def on_signal(number: int, _frame: object) -> NoReturn:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    layout = machine.LAYOUTS["one"](machine.RAM_BASE, MEMORY_MIB << 20)
    storage = sum(region.storage_length for region in layout.regions)
    if not options.shell:
        introduce(options.cpus, storage)
    try:
        kernel = driverguest.find("5.10", build=True)
        words = {"files": str(FILES), "limit": str(LIMIT_MIB), "tag": str(TAG_MIB)}
        with Guest(kernel, "shell" if options.shell else "demo", words, options.cpus, MEMORY_MIB) as guest:
            if options.shell:
                with started(guest.command(None, "--interactive")) as process:
                    return process.wait()
            return demonstrate(guest)
    except (setup.SetupError, GuestError) as why:
        print(f"demo: {why}", file=sys.stderr)
        return setup.NotDownloaded.status if isinstance(why, setup.NotDownloaded) else 1
    except OSError as why:
        print(f"demo: {why}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(130)
