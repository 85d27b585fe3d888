#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the shapes of tests/litmus/ under herd7 and Arm's own memory model, each as the code has it and with orderings changed.

A shape is a few instructions on a few CPUs and an outcome that must not be (`exists`). Its comment names the code that it stands for and
says what herd7 must find:

    expect never                            the file as it is; herd7 takes it without this program
    weaker "NAME": P0 CASL => CAS           with this changed the outcome must show: `sometimes`
    as good "NAME": P1 LDR X3 => LDAR X3    with this changed it still must not: `never`
    herd OPTIONS                            options of herd7 that the shape needs, if any

A change is `THREAD TEXT => TEXT`, made in every instruction of the thread that contains the first text, or in the n-th of them if that
text ends with `#n`. ` / ` in the second text parts instructions, NOP takes the place of the whole instruction, and ` & ` parts changes,
all of which are made to the file as it is.

Prints TAP, one line a run: what was expected, what was found, how many final states the program has and out of how many candidate
executions they were picked. Where herd7 cannot be had every run is skipped. Three further tests look at the firmware's machine code, if it
is built: that it has the instructions of which the shapes are made, and each call those that it needs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import atomics

ROOT = Path(__file__).resolve().parent.parent
SHAPES = ROOT / "tests" / "litmus"
BUILD = Path(os.environ.get("TAGSTASH_BUILD", ROOT / "build"))
# What herd7 gets, kept so that a run can be repeated by hand.
PROGRAMS = BUILD / "litmus"
ELF = ROOT / "target" / "aarch64-unknown-none-softfloat" / "release" / "tagstash"
SETUP_SECONDS = 600
HERD_SECONDS = 120
# What setup.py ends with when only the download failed.
NOT_DOWNLOADED = 3


class Malformed(Exception):
    """What is wrong with a shape's file."""


@dataclass(frozen=True)
class Change:
    """One substitution in a thread's instructions."""

    thread: int
    old: str
    # Which of the instructions that contain `old`, from 1; 0: all of them.
    which: int
    new: str


@dataclass(frozen=True)
class Run:
    """A shape as it is or with changes, and what must come of it."""

    shape: str
    variant: str
    expected: str
    text: str
    options: list[str]

    def name(self) -> str:
        """Names it for people."""
        return f"{self.shape}, {self.variant}" if self.variant else self.shape


@dataclass(frozen=True)
class Found:
    """What herd7 said."""

    observation: str
    states: int
    candidates: int


# --------------------------------------------------------------------------------------------------------------------
# Reading shapes


def split_threads(text: str) -> tuple[str, list[list[str]], str]:
    """Splits a shape at its program: what is before it, the instructions of each thread, what is after it."""
    match = re.search(r"^\}\n(( *P0\b.*;)\n((?:.*;\n)+))(?=exists\b)", text, re.M)
    if not match:
        raise Malformed("no program is found between `}` and `exists`")
    rows = [line.rstrip()[:-1].split("|") for line in match[1].splitlines()]
    width = len(rows[0])
    if [cell.strip() for cell in rows[0]] != [f"P{n}" for n in range(width)]:
        raise Malformed(f"the threads are not P0 to P{width - 1}")
    if any(len(row) != width for row in rows):
        raise Malformed(f"a line of the program has not {width} columns")
    threads = [[row[n].strip() for row in rows[1:] if row[n].strip()] for n in range(width)]
    return text[: match.start(1)], threads, text[match.end(1) :]


def join_threads(head: str, threads: list[list[str]], tail: str) -> str:
    """Puts a shape together again."""
    length = max(len(thread) for thread in threads)
    rows = [[f"P{n}" for n in range(len(threads))]]
    rows += [[thread[n] if n < len(thread) else "" for thread in threads] for n in range(length)]
    return head + "".join(" " + " | ".join(row) + " ;\n" for row in rows) + tail


def read_changes(text: str, threads: int) -> list[Change]:
    """Reads the changes of a variant."""
    changes = []
    for part in text.split(" & "):
        match = re.fullmatch(r"P(\d+) (.+?)(?:#(\d+))? => (.+)", part.strip())
        if not match or int(match[1]) >= threads:
            raise Malformed(f"`{part.strip()}` is no change: write `P0 TEXT => TEXT`, of a thread that there is")
        changes.append(Change(int(match[1]), match[2].strip(), int(match[3] or 0), match[4].strip()))
    return changes


def apply(changes: list[Change], threads: list[list[str]]) -> list[list[str]]:
    """Makes the changes; each must find something to change."""
    made = [[[cell] for cell in thread] for thread in threads]
    for change in changes:
        places = [n for n, cell in enumerate(threads[change.thread]) if change.old in cell]
        if change.which:
            places = places[change.which - 1 : change.which]
        if not places:
            raise Malformed(f"P{change.thread} has no instruction `{change.old}`" + (f" number {change.which}" if change.which else ""))
        for place in places:
            if made[change.thread][place] != [threads[change.thread][place]]:
                raise Malformed(f"two changes meet in `{threads[change.thread][place]}`")
            cell = threads[change.thread][place]
            new = "NOP" if change.new == "NOP" else cell.replace(change.old, change.new)
            made[change.thread][place] = [part.strip() for part in new.split(" / ")]
    return [[cell for cells in thread for cell in cells] for thread in made]


def read_shape(file: Path) -> list[Run]:
    """Reads a shape and its variants."""
    text = file.read_text()
    if not text.startswith(f"AArch64 {file.stem}\n(* SPDX-License-Identifier: MIT OR Apache-2.0 *)\n"):
        raise Malformed(f"it must begin with `AArch64 {file.stem}`, which herd7 wants first, and the licence")
    head, threads, tail = split_threads(text)
    comment = re.sub(r"\n {7,}", " ", head)
    expected = re.findall(r"^ *expect (\w+)$", comment, re.M)
    if expected != ["never"]:
        raise Malformed("its comment must say `expect never`, once")
    options = [word for line in re.findall(r"^ *herd (-.+)$", comment, re.M) for word in line.split()]
    runs = [Run(file.stem, "", "never", text, options)]
    for line in re.findall(r"^ *(?:weaker|as good)\b.*$", comment, re.M):
        match = re.fullmatch(r' *(weaker|as good) +"([^"]+)": +(.+)', line)
        if not match:
            raise Malformed(f'`{line.strip()}` is no variant: write `weaker "NAME": CHANGES` or `as good "NAME": CHANGES`')
        changed = join_threads(head, apply(read_changes(match[3], len(threads)), threads), tail)
        runs.append(Run(file.stem, f"{match[1]}: {match[2]}", "sometimes" if match[1] == "weaker" else "never", changed,
                        options))
    if not any(run.expected == "sometimes" for run in runs):
        raise Malformed("no variant of it is weaker, so nothing shows that it can fail")
    return runs


# --------------------------------------------------------------------------------------------------------------------
# The machine code


CAS = {(0, 0): "CAS", (1, 0): "CASA", (0, 1): "CASL", (1, 1): "CASAL"}
READ_MODIFY_WRITE = ["LDADD", "LDCLR", "LDEOR", "LDSET", "LDSMAX", "LDSMIN", "LDUMAX", "LDUMIN"]
LIMITS = {0xF: "SY", 0xB: "ISH", 0xA: "ISHST", 0x9: "ISHLD"}
# What the functions of src/el2/calls.rs must have, and how often at least: each instruction stands for an ordering that some shape has a
# weaker variant without. ` w` marks the words of 32 bits, claimed bits. The last function serves every call that the others do not.
NEEDED = {
    "reclaim_with_lse": {"LDAR w": 1},
    "reclaim_page": {"LDADDA": 1, "LDAR w": 1, "LDAR": 1, "DSB ISH": 2, "DSB SY": 1, "LDSETAL w": 1, "LDADDL": 1},
    "get_page_by_pairs": {"DMB ISHLD": 2, "CASL": 1},
    "get_page_with_mops": {"DMB ISHLD": 2, "CASL": 1},
    "put_page_by_pairs": {"DMB ISHLD": 2, "CASA": 1, "DMB ISH": 1, "CASL": 1, "LDCLRL": 1},
    "put_page_with_mops": {"DMB ISHLD": 2, "CASA": 1, "DMB ISH": 1, "CASL": 1, "LDCLRL": 1},
    "flush_page_with_lse": {"DMB ISHLD": 1},
    "serve_with_lse": {"LDADDA": 2, "LDAR w": 2, "LDSETAL w": 1, "LDCLRAL w": 1, "LDADDL": 1, "LDSETL": 1, "LDCLRA": 1, "LDUMAXL": 4,
                       "CASA": 1, "CASA w": 1, "DMB ISH": 1, "CASL": 2, "LDCLRL": 1},
}
ORDERING = re.compile(r"(CAS[AL]*|LD(?:ADD|CLR|EOR|SET|UMAX)[AL]*|LDAP?R|STLR|D[MS]B +\w+)\b")


def decode(word: int) -> Optional[str]:
    """Names an instruction that orders memory accesses, without its operands and their size (Arm ARM, C4.1); None for all others."""
    if word & 0x3FA07C00 == 0x08A07C00:
        return CAS[word >> 22 & 1, word >> 15 & 1]
    if word & 0x3F20FC00 == 0x38208000 | 0x4000 and word >> 23 & 1:
        return "LDAPR"
    if word & 0x3F208C00 == 0x38200000:
        return READ_MODIFY_WRITE[word >> 12 & 7] + "A" * (word >> 23 & 1) + "L" * (word >> 22 & 1)
    if word & 0x3FFFFC00 in (0x08DFFC00, 0x089FFC00):
        return "LDAR" if word >> 22 & 1 else "STLR"
    if word & 0xFFFFF0DF == 0xD503309F:
        return ("DMB " if word >> 5 & 1 else "DSB ") + LIMITS.get(word >> 8 & 15, "other")
    return None


def in_image(elf: bytes) -> dict[str, list[str]]:
    """Lists the ordering instructions of the functions that serve hypercalls with LSE, in the order of their addresses; those of 32 bits
    end in ` w`."""
    base, code = atomics.text(elf)
    found = {}
    for address, size, symbol in atomics.functions(elf):
        # A mangled name has the length before each part.
        for name in NEEDED:
            if f"5calls{len(name)}{name}" in symbol:
                words = struct.unpack_from(f"<{size // 4}I", code, address - base)
                found[name] = [decoded + ("" if decoded.startswith("D") or word >> 30 == 3 else " w")
                               for word in words if (decoded := decode(word))]
    return found


def check_image(runs: list[Run], first: int) -> list[str]:
    """Looks whether the image has what the shapes stand for; returns three TAP lines, numbered from `first` on."""
    names = ("the image has every ordering instruction of the shapes",
             "in the image a put's fence follows its swap, before any other ordering instruction",
             "in the image each function that serves calls has the orderings that its calls need")
    if not ELF.is_file():
        return [f"ok {first + n} - {name} # SKIP {ELF.relative_to(ROOT)} is not built" for n, name in enumerate(names)]
    try:
        image = in_image(ELF.read_bytes())
    except (ValueError, struct.error) as error:
        return [f"# {ELF.relative_to(ROOT)}: {error}\nnot ok {first + n} - {name}" for n, name in enumerate(names)]
    there = {found.removesuffix(" w") for functions in image.values() for found in functions}
    trouble: tuple[list[str], ...] = ([], [], [])
    for run in runs:
        if not run.variant:
            used = {found for thread in split_threads(run.text)[1] for cell in thread for found in ORDERING.findall(cell)}
            trouble[0].extend(f"# {run.shape}: {use} is in no function that serves hypercalls with LSE" for use in sorted(used - there))
    swaps = 0
    for name, found in image.items():
        for this, after in zip(found, [*found[1:], "the function's end"]):
            # State words are of 64 bits; the lock of those who make pools is not, and has no fence.
            if this == "CASA":
                swaps += 1
                if after != "DMB ISH":
                    trouble[1].append(f"# {name}: CASA is followed by {after}")
    if not swaps:
        trouble[1].append("# no CASA of 64 bits is found: this is not the service")
    for name, needed in NEEDED.items():
        for what, least in needed.items():
            count = image.get(name, []).count(what)
            if count < least:
                trouble[2].append(f"# {name}: {what} is there {count} times, fewer than {least}")
    return ["\n".join([*lines, f"{'not ok' if lines else 'ok'} {first + n} - {name}"])
            for n, (name, lines) in enumerate(zip(names, trouble))]


# --------------------------------------------------------------------------------------------------------------------
# Running herd7


def herd_command() -> tuple[Optional[list[str]], dict[str, str], str]:
    """Has set-up find or fetch herd7; returns its command and environment, or None and why it cannot be had."""
    done = subprocess.run([sys.executable, str(ROOT / "qemu" / "setup.py"), "--only", "herd"], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=SETUP_SECONDS, check=False)
    print("".join(f"# {line}\n" for line in done.stdout.splitlines()), end="", flush=True)
    if done.returncode == NOT_DOWNLOADED:
        return None, {}, next((line for line in done.stdout.splitlines() if line.startswith("setup: ")), "herd7 is not there")
    if done.returncode:
        raise OSError("set-up failed")
    tool = json.loads((BUILD / "tools.json").read_text())["herd"]
    return tool["argv"], tool["env"], ""


def herd(command: list[str], env: dict[str, str], run: Run, number: int) -> Found:
    """Runs herd7 on a shape; raises ValueError with what it said if that is no verdict."""
    file = PROGRAMS / f"{number:03}-{run.shape}.litmus"
    file.write_text(run.text)
    try:
        # The model forbids what is incoherent on one location, so candidates that are need not be made (`-optace`).
        done = subprocess.run([*command, "-model", "aarch64.cat", "-optace", "true", "-candidates", "true", *run.options, str(file)],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=HERD_SECONDS,
                              env={**os.environ, **env}, check=False)
    except subprocess.TimeoutExpired:
        raise ValueError(f"herd7 was stopped after {HERD_SECONDS} s") from None
    observed = re.search(r"^Observation \S+ (\w+) \d+ \d+$", done.stdout, re.M)
    states = re.search(r"^States (\d+)$", done.stdout, re.M)
    candidates = re.search(r"^Candidates \S+ (\d+)$", done.stdout, re.M)
    if done.returncode or "Warning" in done.stdout or not (observed and states and candidates):
        raise ValueError(done.stdout.strip() or f"herd7 ended with status {done.returncode} and said nothing")
    return Found(observed[1].lower(), int(states[1]), int(candidates[1]))


def main() -> int:
    """Runs the shapes asked for; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("shape", nargs="*", help="run these only (a file's name without .litmus)")
    parser.add_argument("--list", action="store_true", help="list the shapes and their variants, run nothing")
    parser.add_argument("--print", action="store_true", help="print each run's program as herd7 gets it, run nothing")
    parser.add_argument("--image", action="store_true", help="look at the firmware's machine code alone, without herd7")
    options = parser.parse_args()
    files = {file.stem: file for file in sorted(SHAPES.glob("*.litmus"))}
    unknown = [name for name in options.shape if name not in files]
    if unknown:
        print(f"litmus: no shape is named {', '.join(unknown)}; there are: {', '.join(files)}", file=sys.stderr)
        return 2
    runs: list[Run] = []
    for name in options.shape or files:
        try:
            runs += read_shape(files[name])
        except (Malformed, OSError, UnicodeDecodeError) as error:
            print(f"litmus: {files[name].relative_to(ROOT)}: {error}", file=sys.stderr)
            return 2
    if options.list or options.print:
        for run in runs:
            print(f"{run.name()}: expect {run.expected}" + (f"\n{run.text}" if options.print else ""))
        return 0
    if options.image:
        image = check_image(runs, 1)
        print("\n".join(["TAP version 14", f"1..{len(image)}", *image]))
        return 1 if any("not ok" in line for line in image) else 0

    try:
        command, env, reason = herd_command()
    except (OSError, ValueError, KeyError, subprocess.TimeoutExpired) as error:
        print(f"litmus: herd7 cannot be run: {error}", file=sys.stderr)
        return 1
    shutil.rmtree(PROGRAMS, ignore_errors=True)
    PROGRAMS.mkdir(parents=True)
    print(f"TAP version 14\n1..{len(runs) + 3}", flush=True)
    failed = skipped = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        waiting = [pool.submit(herd, command, env, run, number) if command else None for number, run in enumerate(runs, 1)]
        for number, (run, result) in enumerate(zip(runs, waiting), 1):
            if result is None:
                skipped += 1
                print(f"ok {number} - {run.name()} # SKIP {reason}", flush=True)
                continue
            try:
                found = result.result()
                right = found.observation == run.expected
                said = (f"expected {run.expected}, found {found.observation}, {found.states} states of "
                        f"{found.candidates} candidates")
            except (ValueError, OSError) as error:
                right, said = False, "no verdict"
                print("".join(f"# {line}\n" for line in str(error).splitlines()), end="")
            failed += not right
            print(f"{'ok' if right else 'not ok'} {number} - {run.name()}: {said}", flush=True)
    image = check_image(runs, len(runs) + 1)
    failed += sum("not ok" in line for line in image)
    print("\n".join(image))
    shapes, weaker = len({run.shape for run in runs}), sum(run.expected == "sometimes" for run in runs)
    print(f"# litmus: {shapes} shapes, {weaker} weaker and {len(runs) - shapes - weaker} other variants; {failed} wrong, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
