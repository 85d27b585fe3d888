#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes one fault at a time in a copy of the portable core, and runs the check that is to catch it.

The faults are in tests/mutants.txt, which says at its head how one is written. Each fault is a change of a line or two that must fit the
sources in exactly one place. Its check must pass without the fault, and fail with it: a fault that survives is a test that is missing, and
one that does not compile proves nothing.

The copies, their builds and the logs are under build/mutants, and nothing else is written. Every run has a limit; a fault that makes a check
run into it counts as caught, and the table says so. The table is build/mutants/table.md. Exit status: 0 if all were caught, 1 if not, 2 for
a mistake in the list or in the arguments.
"""

from __future__ import annotations

import argparse
import filecmp
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator, NoReturn, Optional

import tap

ROOT = Path(__file__).resolve().parent.parent
LIST = ROOT / "tests" / "mutants.txt"
OUT = ROOT / "build" / "mutants"
TARGET = "aarch64-unknown-none-softfloat"
# What of the project is in no copy. A copy lies below the project, where cargo finds the project's own .cargo.
LEFT_OUT = {".git", ".cargo", "build", "target"}
# Fewer faults than this, and the list itself has been cut.
LEAST_FAULTS = 40
BUILD_SECONDS = 900
# A check with a fault gets this, or so many times what it took without, whichever is more.
LEAST_SECONDS = 60
TIMES_SLOWER = 20
BASELINE_SECONDS = 600
# Quick to build; the checks are short enough.
HOST = {"CARGO_PROFILE_TEST_OPT_LEVEL": "0", "CARGO_PROFILE_TEST_DEBUG": "0", "CARGO_INCREMENTAL": "1"}
# As the Makefile builds for the checkers. Not incremental: loom's stacks are too small for code with so little inlined.
CHECKER = {"CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16"}


class Malformed(Exception):
    """What is wrong with the list."""


@dataclass(frozen=True)
class Fault:
    """One fault: a hunk of a file, what replaces it, and who is to notice."""

    name: str
    breaks: str
    file: str
    check: str
    old: tuple[str, ...]
    new: tuple[str, ...]

    def apply(self, text: str) -> str:
        """Makes the fault in the file's text; the hunk must be there once."""
        lines = text.splitlines()
        places = [n for n in range(len(lines)) if tuple(line.strip() for line in lines[n : n + len(self.old)]) == self.old]
        if len(places) != 1:
            hunk = " / ".join(self.old)
            raise Malformed(f"{self.name}: `{hunk}` is in {self.file} {len(places) or 'no'} times; it must be there once")
        first = lines[places[0]]
        indent = first[: len(first) - len(first.lstrip())]
        lines[places[0] : places[0] + len(self.old)] = [indent + line for line in self.new]
        return "\n".join(lines) + "\n"

    def change(self) -> str:
        """Writes the change on one line."""
        gone = [line for line in self.old if line not in self.new]
        come = [line for line in self.new if line not in self.old]
        return f"{' '.join(gone) or 'nothing'} => {' '.join(come) or 'nothing'}"


# --------------------------------------------------------------------------------------------------------------------
# The list


def read_list(text: str) -> list[Fault]:
    """Reads the faults."""
    faults: list[Fault] = []
    for block in re.split(r"\n(?=\[)", "\n" + re.sub(r"(?m)^#.*\n", "", text))[1:]:
        head, *rest = block.splitlines()
        name = re.fullmatch(r"\[([a-z0-9-]+)\]", head)
        if not name:
            raise Malformed(f"`{head}` is no name of a fault")
        fields: dict[str, str] = {}
        old: list[str] = []
        new: list[str] = []
        for line in filter(str.strip, rest):
            hunk = re.fullmatch(r"([-+=]) (.+)", line)
            field = re.fullmatch(r"(breaks|file|check) +(.+)", line)
            if hunk:
                if hunk[1] != "+":
                    old.append(hunk[2].strip())
                if hunk[1] != "-":
                    new.append(hunk[2].strip())
            elif field and field[1] not in fields:
                fields[field[1]] = field[2].strip()
            else:
                raise Malformed(f"{name[1]}: `{line}` is neither a field nor a line of a change")
        missing = {"breaks", "file", "check"} - set(fields)
        if missing or not old or old == new:
            raise Malformed(f"{name[1]}: no {', '.join(sorted(missing)) or 'change'}")
        fault = Fault(name[1], fields["breaks"], fields["file"], fields["check"], tuple(old), tuple(new))
        if fault.name in {other.name for other in faults}:
            raise Malformed(f"two faults are named {fault.name}")
        if any((fault.file, fault.change()) == (other.file, other.change()) and fault.old == other.old for other in faults):
            raise Malformed(f"{fault.name}: the list has this change under another name")
        kind(fault.check)
        faults.append(fault)
    return faults


def check_list(faults: list[Fault]) -> None:
    """Makes sure that each fault fits the sources as they are, and changes them."""
    if len(faults) < LEAST_FAULTS:
        raise Malformed(f"{len(faults)} faults are fewer than {LEAST_FAULTS}")
    for fault in faults:
        try:
            fault.apply((ROOT / fault.file).read_text())
        except OSError as error:
            raise Malformed(f"{fault.name}: {fault.file}: {error.strerror}") from None


# --------------------------------------------------------------------------------------------------------------------
# The checks


@dataclass(frozen=True)
class Kind:
    """A way to check: how to build, how to run with the check's arguments, and with what environment. All in a copy of the tree."""

    build: list[str]
    run: list[str]
    env: dict[str, str]
    # Where cargo builds for it; those that share one share a copy and run one after the other.
    tree: str
    # The check's arguments are this many words.
    words: int


def bare_metal() -> tuple[list[str], dict[str, str]]:
    """Reads what set-up says cargo needs for the bare-metal target."""
    try:
        rust = json.loads((ROOT / "build" / "tools.json").read_text())["rust"]
        return list(rust["cargo_flags"]), dict(rust["env"])
    except (OSError, ValueError, KeyError, TypeError):
        return [], {}


def kinds() -> dict[str, Kind]:
    """The kinds of checks, by name. `{}` is the check's first argument, `{rest}` all that follow."""
    flags, env = bare_metal()
    test = ["cargo", "test", "--quiet", "-p", "tagstash"]
    loom = ["cargo", "test", "--quiet", "--release", "--test", "loom"]
    shuttle = ["cargo", "test", "--quiet", "--release", "--test", "shuttle"]
    steps = ["cargo", "test", "--quiet", "--release", "-p", "protocol"]
    image = ["cargo", "build", "--quiet", "--release", "--target", TARGET, "-p", "tagstash", "--bin", "tagstash", "--features", "firmware"]
    return {
        "unit": Kind([*test, "--lib", "--no-run"], [*test, "--lib", "--", "{rest}"], HOST, "host", 1),
        "test": Kind([*test, "--test", "{}", "--no-run"], [*test, "--test", "{}", "--", "{rest}"], HOST, "host", 2),
        "model": Kind([*loom, "--no-run"], [*loom, "--", "test", "--jobs", "1", "{rest}"], {**CHECKER, "RUSTFLAGS": "--cfg loom"}, "model", 1),
        "schedules": Kind([*shuttle, "--no-run"], [*shuttle, "--", "{rest}"],
                          {**CHECKER, "RUSTFLAGS": "--cfg shuttle", "SCHEDULES_ITERATIONS": "100", "SCHEDULES_SEED": "1"}, "schedules", 1),
        "steps": Kind([*steps, "--no-run"], [*steps, "--", "{rest}"], {**CHECKER, "RUSTFLAGS": "--cfg traced"}, "steps", 1),
        "image": Kind([*image, *flags], [sys.executable, "tests/litmus.py", "--image"], {**env}, "image", 0),
    }


def kind(check: str) -> Kind:
    """The kind of a check."""
    name, *words = check.split()
    found = kinds().get(name)
    if not found:
        raise Malformed(f"`{check}`: no kind of check is named {name}; there are: {', '.join(kinds())}")
    if len(words) != found.words:
        raise Malformed(f"`{check}`: {name} takes {found.words} words")
    return found


def fill(command: list[str], check: str) -> list[str]:
    """Puts a check's arguments into a command."""
    words = check.split()[1:]
    rest = words[1:] if "{}" in command else words
    return [part for word in command for part in (rest if word == "{rest}" else [word.replace("{}", words[0] if words else "")])]


# --------------------------------------------------------------------------------------------------------------------
# Copies and runs


class Interrupted(Exception):
    """A signal asked us to end."""


# The commands under way, so that a signal can end them, and whether one has come.
RUNNING: set[int] = set()
ENDED = threading.Event()
PRINTING = threading.Lock()


def copy_tree(tree: Path) -> None:
    """Makes `tree` the same as the project, and leaves alone what is the same already, so that builds stay valid."""
    wanted = set()
    for folder, folders, files in os.walk(ROOT):
        here = Path(folder).relative_to(ROOT)
        if here == Path("."):
            folders[:] = [name for name in folders if name not in LEFT_OUT]
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            wanted.add(here / name)
            source, copy = ROOT / here / name, tree / here / name
            if not copy.is_file() or not filecmp.cmp(source, copy, shallow=False):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
                shutil.copymode(source, copy)
    for folder, folders, files in os.walk(tree):
        here = Path(folder).relative_to(tree)
        if here == Path("."):
            folders[:] = [name for name in folders if name not in LEFT_OUT]
        folders[:] = [name for name in folders if name != "__pycache__"]
        for name in files:
            if here / name not in wanted:
                (tree / here / name).unlink()


def run(command: list[str], env: dict[str, str], tree: Path, seconds: float) -> tuple[int, str]:
    """Runs a command in a copy; returns its status, 124 if time ran out, and its output."""
    unwanted = ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_BUILD_RUSTFLAGS", "TAGSTASH_BUILD")
    base = {key: value for key, value in os.environ.items() if key not in unwanted}
    env = {**base, **env, "CARGO_TARGET_DIR": str(tree / "target"), "CARGO_TERM_COLOR": "never"}
    if ENDED.is_set():
        raise Interrupted
    with subprocess.Popen(command, cwd=tree, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          start_new_session=True) as process:
        RUNNING.add(process.pid)
        try:
            output, _ = process.communicate(timeout=seconds)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            status = 124
        finally:
            RUNNING.discard(process.pid)
    if ENDED.is_set():
        raise Interrupted
    return status, output.decode(errors="replace")


def what_failed(status: int, text: str, seconds: float) -> str:
    """Names what a failed check said first."""
    if status == 124:
        return f"the limit of {seconds:.0f} s"
    model = re.search(r"^# failed: (\S+) \(again", text, re.M)
    if model:
        # A case of the model checker, and what it saw.
        saw = re.search(r"^#   panicked at .*\n#   (.+)", text, re.M)
        return f"{model[1]}: {saw[1].rstrip(' [')}" if saw else model[1]
    failed = (re.search(r"^test (\S+) \.\.\. FAILED", text, re.M) or re.search(r"^---- (\S+) stdout ----", text, re.M)
              or re.search(r"^# (.+)\nnot ok ", text, re.M) or re.search(r"^not ok \d+ - (.+)", text, re.M))
    if failed:
        return failed[1].strip()
    if status < 0:
        return signal.Signals(-status).name
    return f"status {status}"


def has_run(check: str, text: str) -> bool:
    """Says whether a check that passed has run anything at all."""
    counts = re.findall(r"^test result: ok\. (\d+) passed", text, re.M)
    if counts:
        return any(int(count) for count in counts)
    if check.startswith("image"):
        return "# SKIP" not in text
    return bool(re.search(r"^(?:ok|passed)\b|\bpassed\b", text, re.M))


@dataclass
class Outcome:
    """What came of a fault."""

    fault: Fault
    # "caught", "survived" or "invalid": it does not compile, or its check does not pass without it.
    verdict: str
    how: str
    seconds: float


class Progress:
    """Counts the faults and prints a line for each."""

    def __init__(self, total: int) -> None:
        self.outcomes: list[Outcome] = []
        self.total = total

    def add(self, outcome: Outcome) -> None:
        """Adds a fault's outcome."""
        with PRINTING:
            self.outcomes.append(outcome)
            by = " by" if outcome.verdict == "caught" else ":"
            print(f"[{len(self.outcomes):2}/{self.total}] {outcome.fault.name:32} {outcome.verdict}{by} {outcome.how} "
                  f"({outcome.seconds:.1f} s)", flush=True)


def say(text: str) -> None:
    """Prints a line."""
    with PRINTING:
        print(text, flush=True)


def run_tree(name: str, faults: list[Fault], progress: Progress, logs: Path) -> None:
    """Checks all faults of one copy, one after the other."""
    tree = OUT / name
    copy_tree(tree)
    baseline: dict[str, tuple[Optional[str], float]] = {}
    checks = list(dict.fromkeys(fault.check for fault in faults))
    started = time.monotonic()
    for check in checks:
        this = kind(check)
        status, text = run(fill(this.build, check), this.env, tree, BUILD_SECONDS)
        begun = time.monotonic()
        if status == 0:
            status, more = run(fill(this.run, check), this.env, tree, BASELINE_SECONDS)
            text += more
        wrong = None
        if status != 0:
            wrong = f"without a fault the check fails: {what_failed(status, text, BASELINE_SECONDS)}"
        elif not has_run(check, text):
            wrong = "without a fault the check runs no test"
        baseline[check] = (wrong, time.monotonic() - begun)
        (logs / f"baseline-{re.sub(r'[^a-z0-9]+', '-', check.lower())}.log").write_text(text)
    say(f"{name}: {len(checks)} checks without a fault: {sum(wrong is None for wrong, _ in baseline.values())} pass "
        f"({time.monotonic() - started:.1f} s)")
    for fault in faults:
        begun = time.monotonic()
        wrong, usual = baseline[fault.check]
        verdict, how = ("invalid", wrong) if wrong else run_fault(fault, tree, max(LEAST_SECONDS, TIMES_SLOWER * usual), logs)
        progress.add(Outcome(fault, verdict, how, time.monotonic() - begun))


def run_fault(fault: Fault, tree: Path, seconds: float, logs: Path) -> tuple[str, str]:
    """Makes a fault in a copy, runs its check, takes the fault back. Returns the verdict, and how it came to it."""
    file = tree / fault.file
    good = file.read_text()
    this = kind(fault.check)
    try:
        file.write_text(fault.apply(good))
        status, text = run(fill(this.build, fault.check), this.env, tree, BUILD_SECONDS)
        if status != 0:
            verdict, how = "invalid", "it is not built: " + next(iter(re.findall(r"^error.*", text, re.M)), f"status {status}")
        else:
            status, text = run(fill(this.run, fault.check), this.env, tree, seconds)
            verdict = "caught" if status else "survived"
            how = what_failed(status, text, seconds) if status else f"{fault.check} passes"
    finally:
        file.write_text(good)
    (logs / f"{fault.name}.log").write_text(text)
    return verdict, how


# --------------------------------------------------------------------------------------------------------------------
# Reports


def table(outcomes: list[Outcome], seconds: float) -> str:
    """Writes the outcomes as a table in Markdown."""
    caught = sum(outcome.verdict == "caught" for outcome in outcomes)
    lines = [f"{len(outcomes)} faults, {caught} caught, in {seconds:.0f} s.", "", "| fault | would break | check | caught by |",
             "| --- | --- | --- | --- |"]
    for outcome in outcomes:
        how = f"`{outcome.how}`" if outcome.verdict == "caught" else f"**{outcome.verdict}**: {outcome.how}"
        lines.append(f"| {outcome.fault.name} | {outcome.fault.breaks} | `{outcome.fault.check}` | {how} |")
    return "\n".join(lines) + "\n"


def by_tree(faults: list[Fault]) -> Iterator[tuple[str, list[Fault]]]:
    """Groups the faults by the copy that their checks run in; the largest group first."""
    groups: dict[str, list[Fault]] = {}
    for fault in faults:
        groups.setdefault(kind(fault.check).tree, []).append(fault)
    yield from sorted(groups.items(), key=lambda group: -len(group[1]))


def run_all(faults: list[Fault], whole: bool) -> int:
    """Runs the faults, two copies at once; returns the exit status. The table is kept if it is that of the whole list."""
    logs = OUT / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    progress, started = Progress(len(faults)), time.monotonic()
    groups = list(by_tree(faults))
    say(f"mutants: {len(faults)} faults, copies of the tree and logs in {OUT.relative_to(ROOT)}: {', '.join(name for name, _ in groups)}")

    def on_signal(number: int, _frame: object) -> NoReturn:
        ENDED.set()
        for pid in list(RUNNING):
            os.killpg(pid, signal.SIGKILL)
        raise Interrupted(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    try:
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(run_tree, name, group, progress, logs) for name, group in groups]
            for one in waiting:
                one.result()
    except Interrupted as why:
        print(f"\nmutants: ended by {why or 'a signal'}", file=sys.stderr)
        return 1
    order = {fault.name: number for number, fault in enumerate(faults)}
    outcomes = sorted(progress.outcomes, key=lambda outcome: order[outcome.fault.name])
    text = table(outcomes, time.monotonic() - started)
    if whole:
        (OUT / "table.md").write_text(text)
    print("\n" + text)
    bad = [outcome for outcome in outcomes if outcome.verdict != "caught"]
    for outcome in bad:
        print(f"mutants: {outcome.fault.name} {outcome.verdict}: {outcome.how} ({outcome.fault.change()})")
    print(f"mutants: {len(outcomes) - len(bad)} caught, {sum(o.verdict == 'survived' for o in bad)} survived, "
          f"{sum(o.verdict == 'invalid' for o in bad)} invalid; {time.monotonic() - started:.0f} s")
    return 1 if bad else 0


def test_list() -> int:
    """Tests the list alone, as TAP: what `make test` runs."""
    faults: list[Fault] = []

    def reads() -> None:
        try:
            faults.extend(read_list(LIST.read_text()))
            check_list(faults)
        except Malformed as error:
            raise tap.Failed(str(error)) from None

    def refuses() -> None:
        sample = "[a]\nbreaks x\nfile f\ncheck unit y\n- one\n+ two\n"
        fault = read_list(sample)[0]
        for text in ("two\n", "one\none\n"):
            try:
                fault.apply(text)
            except Malformed:
                continue
            raise tap.Failed(f"a change that does not fit once is made: {text!r}")
        if fault.apply("  one\n") != "  two\n":
            raise tap.Failed("the change is not made")
        for text in (sample + sample, sample.replace("unit", "none"), sample.replace("+ two", "+ one"), sample.replace("file f\n", "")):
            try:
                read_list(text)
            except Malformed:
                continue
            raise tap.Failed(f"a wrong list is read: {text!r}")

    return tap.run([("every fault of tests/mutants.txt fits the sources once", reads), ("faults that do not fit are refused", refuses)])


def main() -> int:
    """Runs what is asked for; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="run these faults only")
    parser.add_argument("--check", metavar="KIND", choices=list(kinds()), help=f"run the faults of this kind of check only: {', '.join(kinds())}")
    parser.add_argument("--list", action="store_true", help="list the faults, run nothing")
    parser.add_argument("--test", action="store_true", help="test that the list fits the sources, run nothing else (TAP)")
    options = parser.parse_args()
    if options.test:
        return test_list()
    try:
        faults = read_list(LIST.read_text())
        check_list(faults)
    except (Malformed, OSError) as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 2
    unknown = set(options.only or []) - {fault.name for fault in faults}
    if unknown:
        print(f"mutants: no fault is named {', '.join(sorted(unknown))}; see --list", file=sys.stderr)
        return 2
    faults = [fault for fault in faults if (not options.only or fault.name in options.only)
              and (not options.check or fault.check.split()[0] == options.check)]
    if not faults:
        print("mutants: no fault is left to run", file=sys.stderr)
        return 2
    if options.list:
        for fault in faults:
            print(f"{fault.name}: {fault.breaks}\n    {fault.file}: {fault.change()}\n    {fault.check}")
        return 0
    return run_all(faults, not options.only and not options.check)


if __name__ == "__main__":
    sys.exit(main())
