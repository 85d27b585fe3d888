#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs every test suite of Tagstash, each within a time limit, and counts the tests.

The last line is `N passed, M failed`, with `, K skipped` if any were. The exit status is 0 only if nothing failed and every
suite ran to its end: a test run that is cut off, prints no plan, or does not print as many results as it planned
is a failure and named as one. Full logs are kept under build/logs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Callable, Iterator, NoReturn, Optional

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
LOGS = BUILD / "logs"
TAIL_LINES = 25
# What run.py gets beyond its own limit, so that it is the one that says what happened.
GRACE_SECONDS = 20
# What run.py ends with when SIGSEGV ended QEMU.
CRASHED = 128 + signal.SIGSEGV
# What setup.py ends with when only the download failed.
NOT_DOWNLOADED = 3


@dataclass
class Result:
    """What a suite came to."""

    passed: int = 0
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, other: "Result") -> None:
        """Adds another result to this one."""
        self.passed += other.passed
        self.failures += other.failures
        self.skipped += other.skipped

    def counts(self) -> str:
        """Writes the counts as the last line has them."""
        text = f"{self.passed} passed, {len(self.failures)} failed"
        return text + (f", {len(self.skipped)} skipped" if self.skipped else "")


@dataclass(frozen=True)
class Step:
    """One command of a suite: how to run it and how to read what it prints."""

    name: str
    command: list[str]
    seconds: float
    read: Callable[[str, int], Result]
    env: dict[str, str] = field(default_factory=dict)
    # A program without which the step cannot run; it is skipped then.
    needs: Optional[list[str]] = None


@dataclass(frozen=True)
class Suite:
    """A named group of steps."""

    name: str
    summary: str
    steps: Callable[[], Iterator[Step]]
    needs_firmware: bool = False


# --------------------------------------------------------------------------------------------------------------------
# Reading results


def read_cargo(text: str, status: int) -> Result:
    """Counts the tests of `cargo test`, over all of its test programs."""
    result = Result()
    name, open_program = "tests", ""
    announced = 0
    for line in text.splitlines():
        running = re.match(r"running (\d+) tests?$", line)
        ending = re.match(r"test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;", line)
        single = re.match(r"test (.+?) \.\.\. (FAILED|ignored)", line)
        program = re.match(r"\s+(?:Running|Doc-tests) (.+)", line)
        if program:
            if open_program:
                result.failures.append(f"{open_program}: cut off before its results")
            open_program = ""
            name = program[1]
        elif running:
            open_program, announced = name, int(running[1])
        elif single and single[2] == "FAILED":
            result.failures.append(single[1])
        elif single:
            result.skipped.append(single[1])
        elif ending:
            if int(ending[1]) + int(ending[2]) + int(ending[3]) != announced:
                result.failures.append(f"{open_program}: {announced} tests announced, but {ending[0]}")
            result.passed += int(ending[1])
            open_program = ""
    if open_program:
        result.failures.append(f"{open_program}: cut off before its results")
    if status != 0 and not result.failures:
        result.failures.append(f"cargo test ended with status {status}")
    if status == 0 and not result.passed and not result.failures:
        result.failures.append("no test was run")
    return result


def read_tap(text: str, status: int) -> Result:
    """Counts the tests of a TAP stream on a console, and checks that it is complete."""
    result = Result()
    plan: Optional[int] = None
    seen: list[int] = []
    for line in text.splitlines():
        line = line.strip("\r")
        point = re.match(r"(not )?ok (\d+)\b(?: *-? *(.*))?$", line)
        planned = re.match(r"1\.\.(\d+)(?:\s+#\s*(.*))?$", line)
        if point:
            seen.append(int(point[2]))
            name = point[3] or f"test {point[2]}"
            directive = re.search(r"#\s*SKIP\b", name, re.I)
            if directive:
                result.skipped.append(name)
            elif point[1]:
                result.failures.append(name)
            else:
                result.passed += 1
        elif planned:
            if plan is not None:
                result.failures.append("two plans were printed")
            plan = int(planned[1])
        elif line.startswith("Bail out!"):
            result.failures.append(line)
    if plan is None:
        result.failures.append(f"no plan was printed; the run was cut off after {len(seen)} results")
    elif plan == 0:
        result.failures.append("the plan holds no tests")
    elif seen != list(range(1, plan + 1)):
        if len(seen) != plan:
            result.failures.append(f"{plan} tests were planned and {len(seen)} reported")
        else:
            result.failures.append("the tests are not numbered from 1 up")
    if status == CRASHED and not result.failures and re.search(r"^# harness complete: \d+ passed, 0 failed", text, re.M):
        # QEMU leaves by exit() on a CPU's thread while its other threads run, and once in some fifty runs one of them
        # trips over that. By then the guest has said its verdict, which is what counts here.
        print("\n    note: QEMU crashed on its way out, after the guest's last line", end="")
    elif status != 0 and not result.failures:
        result.failures.append("the run went past its time limit" if status == 124
                               else f"the run ended with status {status}")
    return result


def read_single(name: str) -> Callable[[str, int], Result]:
    """Makes a reader for a command that is one test, passed if it ends with status 0."""

    def read(_: str, status: int) -> Result:
        return Result(passed=1) if status == 0 else Result(failures=[f"{name}: ended with status {status}"])

    return read


def read_absent(name: str, pattern: str, inner: Callable[[str, int], Result]) -> Callable[[str, int], Result]:
    """Makes a reader that asks for the lack of a message, as one test besides those that `inner` counts."""

    def read(text: str, status: int) -> Result:
        result = inner(text, status)
        found = re.search(pattern, text, re.M)
        if found:
            result.failures.append(f"{name}: a line matches '{pattern}': {found[0].strip()}")
        else:
            result.passed += 1
        return result

    return read


def read_fetch(name: str, skipped: str) -> Callable[[str, int], Result]:
    """Makes a reader for a download: that it cannot be had skips the tests that need it, other trouble is a failure."""

    def read(text: str, status: int) -> Result:
        if status == 0:
            return Result(passed=1)
        reason = next((line for line in text.splitlines() if line.startswith("setup: ")), f"status {status}")
        if status == NOT_DOWNLOADED:
            return Result(skipped=[f"{skipped}: {reason}"])
        return Result(failures=[f"{name}: {reason}"])

    return read


def read_message(name: str, pattern: str, inner: Optional[Callable[[str, int], Result]] = None
                 ) -> Callable[[str, int], Result]:
    """Makes a reader that asks for a message on the console, as one test besides those that `inner` counts."""

    def read(text: str, status: int) -> Result:
        result = inner(text, status) if inner else Result()
        if re.search(pattern, text):
            result.passed += 1
        else:
            result.failures.append(f"{name}: no line matches '{pattern}'")
        if inner is None and status != 0 and not result.failures:
            result.failures.append(f"{name}: the run ended with status {status}")
        return result

    return read


# --------------------------------------------------------------------------------------------------------------------
# The suites


def machine(name: str, seconds: int, bootargs: str, read: Callable[[str, int], Result], *options: str) -> Step:
    """Describes a run of the machine with the harness as its guest."""
    command = [sys.executable, "qemu/run.py", "--kernel", "build/harness.img", "--timeout", str(seconds), *options]
    return Step(name, command + (["--bootargs", bootargs] if bootargs else []), seconds + GRACE_SECONDS, read)


def build_steps() -> Iterator[Step]:
    """Builds what the machine's suites run."""
    for target, what in (("image", "the firmware image builds"), ("harness", "the test guest builds"),
                         ("machine", "the aliasing library builds")):
        yield Step(target, ["make", "--no-print-directory", target], 300, read_single(what))
    elf = "target/aarch64-unknown-none-softfloat/release/tagstash"
    yield Step("atomics", [sys.executable, "tests/atomics.py", elf], 30, read_tap)


# Tests have the checks that the firmware has and more, and are to be compiled soon.
TEST_PROFILE = {"CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS": "true", "CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS": "true",
                "CARGO_PROFILE_RELEASE_LTO": "off", "CARGO_PROFILE_RELEASE_CODEGEN_UNITS": "16", "CARGO_PROFILE_RELEASE_DEBUG": "false"}


def host_steps() -> Iterator[Step]:
    """Runs the portable part's tests on this machine."""
    # A target directory of its own: the profile differs from the one that the tools are built with.
    yield Step("host", ["cargo", "test", "--release", "-p", "tagstash", "--target-dir", "target/host", "--no-fail-fast"],
               300, read_cargo, TEST_PROFILE)


def quality_steps() -> Iterator[Step]:
    """Compares the stash's hit rates with ideal caches', on small workloads."""
    # In the directory of the suite `host`, which has built the same library.
    yield Step("quality", ["cargo", "test", "--release", "-p", "quality", "--target-dir", "target/host", "--no-fail-fast"],
               300, read_cargo, TEST_PROFILE)


def tagalias_steps() -> Iterator[Step]:
    """Runs the aliasing library's tests."""
    yield Step("tagalias", ["cargo", "test", "-p", "tagalias", "--target-dir", "target"], 120, read_cargo)


def fuzz_steps() -> Iterator[Step]:
    """Replays the fuzzer's corpora, and fuzzes each target for a fixed number of runs from a fixed seed."""
    yield Step("fuzz-build", ["make", "--no-print-directory", "target/fuzz/fuzz/fuzz"], 300, read_single("the fuzzer builds"))
    # A run that covers less than the corpus did when it was made has failed: docs/fuzzing.md says how to set this number.
    for target, runs, least in (("trees", "20000", "1950"), ("calls", "3000", "475")):
        yield Step(f"fuzz-{target}", ["target/fuzz/fuzz/fuzz", "test", "--target", target, "--runs", runs, "--least", least],
                   300, read_tap)


def scale_steps() -> Iterator[Step]:
    """Counts metadata and the steps of each call at both ends of the scale, and tries the comparison with other caches."""
    yield Step("scale-build", ["make", "--no-print-directory", "target/throughput/bench"], 300, read_single("the bench builds"))
    yield Step("scale", ["target/throughput/bench", "test"], 120, read_tap)


def lint_steps() -> Iterator[Step]:
    """Checks formatting and lints."""
    cargo = ["cargo", "clippy", "--target-dir", "target/clippy"]
    firmware = ["--target", "aarch64-unknown-none-softfloat", "-p", "tagstash", "-p", "harness", "-p", "monitor", "-p",
                "mte-demo", "-p", "cpu-report", "-p", "kexec", "-p", "filework", "--features",
                "tagstash/firmware,harness/firmware,monitor/firmware,mte-demo/guest,cpu-report/guest,kexec/guest,filework/guest"]
    flags, env = bare_metal()
    yield Step("lint-host", ["sh", "-c", "cargo fmt --all --check && exec \"$@\"", "sh", *cargo, "--workspace",
                             "--all-targets", "--", "-D", "warnings"], 240,
               read_single("formatting and the host's lints"), needs=["cargo-clippy", "cargo-fmt"])
    yield Step("messages", [sys.executable, "tests/messages.py"], 30, read_tap)
    yield Step("mutants", [sys.executable, "tests/mutants.py", "--test"], 30, read_tap)
    if any((ROOT / "boot" / "linux").glob("*.c")):
        yield Step("checkpatch", [sys.executable, "tests/checkpatch.py"], 120, read_tap)
    yield Step("trees", [sys.executable, "tests/trees_test.py"], 400, read_tap)
    yield Step("lint-firmware", [*cargo, *firmware, *flags, "--", "-D", "warnings"], 240,
               read_single("the firmware's lints"), env, needs=["cargo-clippy"])
    # What the lints have read of other crates serves here too.
    yield Step("lint-doc", ["make", "--no-print-directory", "doc", "DOC_TARGET=target/clippy"], 300, read_single("the documentation, without warnings"))


def bare_metal() -> tuple[list[str], dict[str, str]]:
    """Reads what set-up says cargo needs for the bare-metal target."""
    try:
        rust = json.loads((BUILD / "tools.json").read_text())["rust"]
        return list(rust["cargo_flags"]), dict(rust["env"])
    except (OSError, ValueError, KeyError, TypeError):
        return [], {}


def model_steps() -> Iterator[Step]:
    """Runs the model checker on every pair and some threes, to the depth that two minutes allow."""
    yield Step("model", ["make", "--no-print-directory", "model", "MODEL=test"], 600, read_tap)


def schedules_steps() -> Iterator[Step]:
    """Runs long histories under randomised schedules, from a fixed seed."""
    yield Step("schedules", ["make", "--no-print-directory", "schedules", "SECONDS="], 600, read_cargo)


def litmus_steps() -> Iterator[Step]:
    """Runs the memory orderings under Arm's model. It fetches herd7 first; where that cannot be had, each run is skipped."""
    yield Step("litmus", [sys.executable, "tests/litmus.py"], 600, read_tap)


def protocol_steps() -> Iterator[Step]:
    """Compares the model of the frame protocol with the code, and searches what of it takes seconds."""
    yield Step("protocol-steps", ["make", "--no-print-directory", "steps"], 300, read_cargo)
    yield Step("protocol", ["target/protocol/release/protocol", "quick"], 300, read_tap)


def harness_suite(name: str, summary: str, seconds: int, *options: str) -> Suite:
    """Makes a suite of one harness run."""

    def steps() -> Iterator[Step]:
        yield machine(name, seconds, "", read_tap, *options)

    return Suite(name, summary, steps, needs_firmware=True)


def report_steps() -> Iterator[Step]:
    """Runs what `make run` runs."""
    yield machine("report", 120, "mode=report", read_single("the report is complete"), "--icount", "--expect",
                  "# report complete")


def costs_steps() -> Iterator[Step]:
    """Counts the instructions of every hypercall, and compares them with their ceilings."""
    yield Step("costs", [sys.executable, "tests/costs.py", "--test"], 240, read_tap)
    yield Step("shim-costs", [sys.executable, "tests/linux_costs.py", "--shim"], 240, read_tap)


def plain_steps() -> Iterator[Step]:
    """Runs the harness where no tag storage is described."""
    yield machine("plain", 60, "expect=no-storage",
                  read_message("plain", r"tag storage: none described, reuse is off", read_tap), "--plain", "--cpus", "3")


# Trees that break one rule each: a name, device-tree source appended to the good tree, and what the console must say.
# The message names the node, the property and the value.
BROKEN_TREES: list[tuple[str, str, str]] = [
    ("block-size-zero", "&storage0 { block-size = <0>; };", r"/tag-storage@5f000000: block-size.* 0x0\b"),
    ("block-size-odd", "&storage0 { block-size = <0x1800>; };", r"/tag-storage@5f000000: block-size.* 0x1800\b"),
    ("block-size-missing", "&storage0 { /delete-property/ block-size; };",
     r"/tag-storage@5f000000: block-size is missing"),
    ("block-partial", "&storage0 { block-size = <0x7000>; };", r"/tag-storage@5f000000: block-size.* 0x7000\b"),
    ("tagged-memory-dangling", "&storage0 { tagged-memory = <0x7777>; };",
     r"/tag-storage@5f000000: tagged-memory 0x7777\b"),
    ("tagged-memory-missing", "&storage0 { /delete-property/ tagged-memory; };",
     r"/tag-storage@5f000000: tagged-memory is missing"),
    ("tagged-memory-two-ranges", "&tagmem0 { reg = <0x0 0x40000000 0x0 0x10000000 0x0 0x50000000 0x0 0xf000000>; };",
     r"/tag-storage@5f000000: tagged-memory.* 2 ranges"),
    ("storage-too-short", "&storage0 { reg = <0x0 0x5f000000 0x0 0xf00000>; };",
     r"/tag-storage@5f000000: .*0xf00000\b"),
    ("storage-in-tagged-memory", "&storage0 { reg = <0x0 0x50000000 0x0 0xf80000>; };",
     r"/tag-storage@5f000000: reg.*0x50000000"),
    ("storage-outside-memory", "&storage0 { reg = <0x20 0x00000000 0x0 0xf80000>; };",
     r"/tag-storage@5f000000: reg.*0x2000000000"),
    ("two-dialects", "&storage0 { storage-base = <0x40000000>; };",
     r"/tag-storage@5f000000: tagged-memory says Linux RFC v3, storage-base says Google: remove one"),
    ("no-dialect-at-root", "/delete-node/ &storage0; / { tags { compatible = \"arm,mte-tag-storage\"; }; };",
     r"/tags: tagged-memory is missing, and so are memory and storage-base"),
    ("ranges-without-entry", "&reserved { ranges = <0x0 0x40000000 0x0 0x40000000 0x0 0x1f001000>; };",
     r"/tag-storage@5f000000: reg 0x5f000000\.\.0x5ff80000 is in no entry of ranges"),
    ("under-a-bus", "/delete-node/ &storage0; / { bus { #address-cells = <2>; #size-cells = <2>; ranges = <0x0 0x0 0x0 "
     "0x50000000 0x0 0x20000000>; tags { compatible = \"arm,mte-tag-storage\"; reg = <0x0 0xf000000 0x0 0xf80000>; "
     "block-size = <0x1000>; tagged-memory = <&tagmem0>; }; }; };",
     r"/bus/tags: compatible arm,mte-tag-storage with tagged-memory \(Linux RFC v3\), but no child of /reserved-memory"),
    ("v1-misplaced", "&storage0 { /delete-property/ tagged-memory; memory = <&tagmem0>; };",
     r"/tag-storage@5f000000: .* with memory \(Linux RFC v1/v2\), but no child of the root"),
    ("v1-dangling", "/delete-node/ &storage0; / { metadata@5f000000 { compatible = \"arm,mte-tag-storage\"; "
     "reg = <0x0 0x5f000000 0x0 0xf80000>; block-size = <0x1000>; memory = <0x7777>; }; };",
     r"/metadata@5f000000: memory 0x7777 is no node's phandle"),
    ("google-unaligned", "&storage0 { /delete-property/ tagged-memory; storage-base = <0x0 0x40000800>; };",
     r"/tag-storage@5f000000: storage-base: tagged memory 0x40000800\.\.0x5f000800 is not aligned"),
    ("google-outside-memory", "&storage0 { /delete-property/ tagged-memory; storage-base = <0x0 0x30000000>; };",
     r"/tag-storage@5f000000: storage-base 0x30000000\.\.0x4f000000 does not lie in memory nodes: 0x30000000"),
    ("google-no-mte", "&storage0 { /delete-property/ tagged-memory; storage-base = <0x0 0x40000000>; }; "
     "&tagmem0 { arm,no-mte; };",
     r"/tag-storage@5f000000: storage-base 0x40000000\.\.0x5f000000 overlaps /memory@40000000, which says arm,no-mte"),
    ("v1-beyond-the-cpu", "/delete-node/ &storage0; / { metadata { compatible = \"arm,mte-tag-storage\"; "
     "reg = <0x1000000 0x0 0x0 0xf80000>; block-size = <0x1000>; memory = <&tagmem0>; }; };",
     r"tag storage 0x100000000000000\.\.0x100000000f80000 does not lie within the 48 address bits of this CPU: reuse is off"),
]

# The test guest's tests of what the tree says, of claims and of real tags in the storage.
STORAGE_TESTS = "tagstash.test=P1_,tree,no-map_nodes,P6,exactly"

# Those that show that the guest boots without reuse, its CPUs and tags work, and what is described is hidden. Suite `plain`
# runs all tests in that state.
FEW_TESTS = "tagstash.test=P9,P8,P4,tree,no-map_nodes,VERSION,CPU_ON,every_CPU"

# Good trees: a name, options of run.py, device-tree source appended to the tree of Linux RFC v3. The harness finds real tags
# where it is told that the storage is, so a region that is read wrongly fails it.
DIALECTS: list[tuple[str, list[str], str]] = [
    # The storage in no memory node, as the kernels of that dialect add it themselves.
    ("v1", [], "/delete-node/ &storage0; / { /delete-node/ memory@5f000000; metadata@5f000000 { "
     "compatible = \"arm,mte-tag-storage\"; reg = <0x0 0x5f000000 0x0 0xf80000>; block-size = <0x1000>; "
     "memory = <&tagmem0>; }; };"),
    # One memory node for all of RAM, as boot loaders leave it that rewrite memory nodes.
    ("google", [], "/delete-node/ &storage0; /delete-node/ &tagmem0; / { /delete-node/ memory@5f000000; memory { "
     "device_type = \"memory\"; reg = <0x0 0x40000000 0x0 0x20000000>; }; }; &reserved { tags@0 { "
     "compatible = \"arm,mte-tag-storage\"; reg = <0x0 0x5f000000 0x0 0xf80000>; storage-base = <0x0 0x40000000>; }; };"),
    ("google-numa", ["--layout", "two"], "&tagmem0 { numa-node-id = <0>; arm,mte-alloc; }; "
     "&tagmem1 { numa-node-id = <1>; arm,mte-alloc; }; &storage0 { /delete-property/ tagged-memory; "
     "/delete-property/ block-size; storage-base = <0x0 0x40000000>; }; &storage1 { /delete-property/ tagged-memory; "
     "/delete-property/ block-size; storage-base = <0x0 0x4f800000>; }; / { memory@5f000000 { numa-node-id = <0>; "
     "arm,no-mte; }; };"),
    ("memreserve", [], "/memreserve/ 0x5f100000 0x200000;\n/memreserve/ 0x5eff0000 0x20000;"),
    ("ranges", [], "&reserved { #address-cells = <1>; #size-cells = <1>; ranges = <0x0 0x0 0x40000000 0x20000000>; }; "
     "&storage0 { reg = <0x1f000000 0xf80000>; };"),
    ("block12k", ["--layout", "block12k"], ""),
    ("numa", ["--layout", "crossed", "--numa", "--cpus", "2"], ""),
    ("numa-own", ["--layout", "nodes", "--numa"], ""),
]


def dialect_steps() -> Iterator[Step]:
    """Runs the harness on good trees of every dialect."""
    for name, options, source in DIALECTS:
        # What would show a region that was read wrongly; the blocks of 12 KiB are for all tests.
        tests = "" if "block12k" in options else STORAGE_TESTS
        yield machine(f"dialect-{name}", 180, tests, read_tap, *options, *tree_source("dialects", name, source))


def broken_steps() -> Iterator[Step]:
    """Runs the harness on trees whose tag storage is described wrongly: reuse is off, the guest still boots."""
    for name, source, pattern in BROKEN_TREES:
        yield machine(f"broken-{name}", 60, f"expect=no-storage {FEW_TESTS}", read_message(name, pattern, read_tap), "--no-harness-args",
                      "--cpus", "3", *tree_source("broken", name, source))


# The storage by dialect v1, but for where it is.
STORAGE_V1_AT = ('/delete-node/ &storage0; / { metadata { compatible = "arm,mte-tag-storage"; block-size = <0x1000>; '
                 "memory = <&tagmem0>;")
KERNEL_NODE = "&{/chosen/module@41200000}"
# Leaves the first 256 MiB, where everything is loaded, without tag storage, so that storage can be put there.
LOW_MEMORY_UNTAGGED = ('/ { memory@40000000 { reg = <0 0x50000000 0 0xf000000>; }; '
                       'low { device_type = "memory"; reg = <0 0x40000000 0 0x10000000>; }; };')

# What loaders and firmware get wrong besides tag storage: a name, device-tree source appended to the good tree, options
# of the machine, what the console must say, and how it ends: it "stops", it "enters" the guest, the guest's tests pass
# without reuse ("no-reuse"), or its report with it ("boots").
BAD_BOOTS: list[tuple[str, str, list[str], str, str]] = [
    ("kernel-missing", f'{KERNEL_NODE} {{ compatible = "other"; }};', [], r"error: no guest: /chosen has no multiboot,kernel",
     "stops"),
    ("kernel-empty", f"{KERNEL_NODE} {{ reg = <0 0x41200000 0 0>; }};", [], r"error: the kernel has length 0 in /chosen",
     "stops"),
    ("kernel-no-image", f"{KERNEL_NODE} {{ reg = <0 0x45000000 0 0x1000>; }};", [],
     r"error: the kernel module at 0x45000000\.\.0x45001000 is not an arm64 Image: load an uncompressed Image", "stops"),
    ("kernel-outside-ram", f"{KERNEL_NODE} {{ reg = <0 0x10000000 0 0x1000>; }};", [],
     r"error: the kernel at 0x10000000\.\.0x10001000 is not in RAM", "stops"),
    ("kernel-in-absent-ram", f'/ {{ memory@100000000 {{ device_type = "memory"; reg = <1 0 0 0x10000000>; }}; }}; '
     f"{KERNEL_NODE} {{ reg = <1 0 0 0x10000>; }};", [], r"error: the kernel at 0x100000000\.\.0x100010000 cannot be read",
     "stops"),
    ("kernel-over-shim", f"{KERNEL_NODE} {{ reg = <0 0x40200000 0 0x1000>; }};", [],
     r"error: the kernel at 0x40200000\.\.0x40201000 overlaps the shim at 0x40200000\.\.0x", "stops"),
    ("kernel-over-tree", f"{KERNEL_NODE} {{ reg = <0 0x41000000 0 0x1000>; }};", [],
     r"error: the kernel at 0x41000000\.\.0x41001000 overlaps the device tree at 0x41000000\.\.0x", "stops"),
    ("ramdisk-over-kernel", "&chosen { linux,initrd-start = <0x41200000>; linux,initrd-end = <0x41201000>; };", [],
     r"error: the ramdisk at 0x41200000\.\.0x41201000 overlaps the kernel at 0x41200000\.\.0x", "stops"),
    ("ramdisk-outside-ram", "&chosen { linux,initrd-start = <0x10000000>; linux,initrd-end = <0x10001000>; };", [],
     r"error: the ramdisk at 0x10000000\.\.0x10001000 is not in RAM", "stops"),
    ("ramdisk-backwards", "&chosen { linux,initrd-start = <0x50001000>; linux,initrd-end = <0x50000000>; };", [],
     r"error: /chosen: linux,initrd-end 0x50000000 is below linux,initrd-start 0x50001000", "stops"),
    ("ramdisk-over-shim", "&chosen { linux,initrd-start = <0x401fffff>; linux,initrd-end = <0x40200001>; };", [],
     r"error: the ramdisk at 0x401fffff\.\.0x40200001 overlaps the shim at 0x40200000\.\.0x", "stops"),
    ("ramdisk-in-storage", "&chosen { linux,initrd-start = <0x5f001000>; linux,initrd-end = <0x5f002000>; };", [],
     r"warning: tag storage 0x5f000000\.\.0x5ff80000 overlaps the ramdisk at 0x5f001000\.\.0x5f002000: reuse is off",
     "no-reuse"),
    ("tree-in-storage", f"{LOW_MEMORY_UNTAGGED} &storage0 {{ reg = <0 0x41000000 0 0x780000>; }};", [],
     r"warning: tag storage 0x41000000\.\.0x41780000 overlaps the device tree at 0x41000000\.\.0x[0-9a-f]+: reuse is off",
     "no-reuse"),
    ("shim-in-storage", f"{LOW_MEMORY_UNTAGGED} &storage0 {{ reg = <0 0x40000000 0 0x780000>; }};", [],
     r"warning: tag storage 0x40000000\.\.0x40780000 overlaps the shim at 0x40200000\.\.0x[0-9a-f]+: reuse is off",
     "no-reuse"),
    ("kernel-in-storage", f"{LOW_MEMORY_UNTAGGED} &storage0 {{ reg = <0 0x41100000 0 0x780000>; }};", [],
     r"warning: tag storage 0x41100000\.\.0x41880000 overlaps the kernel at 0x41200000\.\.0x[0-9a-f]+: reuse is off",
     "no-reuse"),
    ("tree-over-shim", "", ["--tree-offset", "0xa00000"], r"error: the device tree lies within the memory of the shim",
     "stops"),
    # The kernels of that dialect add the storage to memory themselves, so no memory node has to be there.
    ("storage-absent", f"{STORAGE_V1_AT} reg = <0x1 0x0 0x0 0xf80000>; }}; }};", [],
     r"warning: tag storage 0x100000000\.\.0x100f80000 does not answer: reuse is off", "no-reuse"),
    ("storage-over-serial-port", f"{STORAGE_V1_AT} reg = <0x0 0x8800000 0x0 0xf80000>; }}; }};", [],
     r"warning: tag storage 0x8800000\.\.0x9780000 overlaps the serial port: reuse is off", "no-reuse"),
    ("memory-missing", '&tagmem0 { device_type = "other"; }; &{/memory@5f000000} { device_type = "other"; };', [],
     r"error: the device tree describes no memory", "stops"),
    ("memory-absent", '/ { memory@100000000 { device_type = "memory"; reg = <1 0 0 0x10000000>; }; };', [],
     r"warning: no RAM answers at 0x10[0-9a-f]{7}\.\.0x110000000, though a memory node has it", "boots"),
    ("memory-beyond-the-cpu", '/ { memory@4000000000000 { device_type = "memory"; reg = <0x40000 0 0 0x10000000>; }; };',
     [], r"warning: memory 0x4[0-9a-f]+\.\.0x4[0-9a-f]+ is left out from 0x4000000000000 on: the guest.s map has 48 bits", "enters"),
    # Free are 2 MiB for the guest's tree and 4 MiB, which are enough for tables, but not for metadata as well.
    ("memory-too-small-for-metadata", "&reserved { high { reg = <0 0x42400000 0 0xbd800000>; }; "
     "low { reg = <0 0x40000000 0 0x200000>; }; middle { reg = <0 0x40e00000 0 0x200000>; }; "
     "kernel { reg = <0 0x41400000 0 0xc00000>; }; };", ["--memory", "3072"],
     r"warning: no 1488 KiB of contiguous RAM are free for metadata: reuse is off", "no-reuse"),
    ("memory-too-small-for-tables", "&reserved { high { reg = <0 0x42000000 0 0x1e000000>; }; "
     "low { reg = <0 0x40000000 0 0x200000>; }; middle { reg = <0 0x40e00000 0 0x200000>; }; "
     "kernel { reg = <0 0x41400000 0 0xc00000>; }; };", [],
     r"error: no \d+ KiB of contiguous RAM are free for translation tables", "stops"),
    # One page in each block of 2 MiB, which costs EL2's map a table of pages.
    ("reservations-many", "&reserved { " + " ".join(
        f"n{n} {{ reg = <0 {0x50001000 + n * (2 << 20):#x} 0 0x1000>; no-map; }};" for n in range(900)) + " };",
     ["--memory", "3072"], r"guest RAM: \d+ MiB in 90\d ranges", "enters"),
    ("psci-missing", "/ { /delete-node/ psci; };", [], r"warning: the device tree has no PSCI 0\.2 or later", "boots"),
    ("psci-by-hvc", '/ { psci { method = "hvc"; }; };', [], r"warning: the device tree says PSCI by HVC", "boots"),
    ("cpu-in-a-spin-table", '&{/cpus/cpu@1} { enable-method = "spin-table"; cpu-release-addr = <0 0x5e000000>; };',
     ["--cpus", "2"], r"error: CPU 0x1 waits in a spin table \(enable-method\), .*: have firmware start CPUs by PSCI", "stops"),
    # Nobody releases the CPU that runs.
    ("spin-table-of-this-cpu", '&{/cpus/cpu@0} { enable-method = "spin-table"; };', [], r"tagstash: CPUs: 1,", "boots"),
    ("idle-states-of-all-kinds", '&{/cpus} { idle-states { entry-method = "psci"; '
     'off { compatible = "arm,idle-state"; arm,psci-suspend-param = <0x10000>; }; '
     'retention { compatible = "arm,idle-state"; arm,psci-suspend-param = <1>; }; }; };', [],
     r"idle states: 1 of 2 are not offered", "boots"),
    ("cpus-too-many", "", ["--cpus", "9"],
     r"warning: the device tree has 9 CPUs: those after the first 8 cannot be started", "boots"),
]


def tree_source(directory: str, name: str, source: str) -> list[str]:
    """Writes device-tree source to append; returns the option that does so."""
    if not source:
        return []
    file = BUILD / directory / f"{name}.dts"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(source + "\n")
    return ["--dts-append", str(file)]


def boot_steps() -> Iterator[Step]:
    """Boots with each mistake of a loader or of firmware."""
    for name, source, options, pattern, outcome in BAD_BOOTS:
        more = [*options, *tree_source("boot", name, source)]
        step = f"boot-{name}"
        if outcome in ("stops", "enters"):
            until = {"stops": "tagstash: stopped", "enters": "tagstash: entering the guest"}[outcome]
            yield machine(step, 20, "", read_message(name, pattern), "--until", until, *more)
        elif outcome == "no-reuse":
            yield machine(step, 60, f"expect=no-storage {FEW_TESTS}", read_message(name, pattern, read_tap),
                          "--no-harness-args", "--cpus", "3", *more)
        else:
            yield machine(step, 60, "mode=report", read_message(name, pattern, read_single(f"{name}: the guest's report")),
                          "--expect", "# report complete", *more)
    yield from loaded_steps()


# The test guest, once more, as a loader might put it: where, what the device tree says besides, options of the machine, boot
# arguments.
LOADED: list[tuple[str, int, str, list[str], str]] = [
    # Moved by one page, onto most of itself: 0x44000000 is the first place that is free, and large enough.
    ("kernel-over-itself", 0x43FFF000, "&{/chosen/module@41200000} { reg = <0 0x43fff000 0 0x600000>; }; "
     "&reserved { low { reg = <0 0x40c00000 0 0x3400000>; }; };", [], "tagstash.test=UID"),
    # The guest's map ends below the shim, some of the map's own tables, and the tree.
    ("shim-beyond", 0x50000000, "&{/chosen/module@101200000} { reg = <0 0x50000000 0 0x100000>; }; "
     '/ { low { device_type = "memory"; reg = <0 0x40000000 0 0x40000000>; }; };',
     ["--memory", "4096", "--ram-base", "0x100000000", "--no-harness-args"], "tagstash.pa-bits=32 tagstash.off expect=no-storage tagstash.test=P8"),
]


def loaded_steps() -> Iterator[Step]:
    """Boots the test guest from places that the machine's own loader does not use."""
    for name, address, source, options, bootargs in LOADED:
        yield machine(f"boot-{name}", 60, "", read_tap, "--bootargs", bootargs, *tree_source("boot", name, source),
                      *options, "--", "-device", f"loader,file=build/harness.img,addr={address:#x},force-raw=on")


# Where RAM begins, how much of it QEMU has, where the image is loaded above its beginning, and the layout.
ADDRESSES: list[tuple[str, int, str, str]] = [
    ("0x40000000", 512, "0x100000", "two"),
    ("0x40000000", 512, "0x5a3000", "one"),
    ("0x80000000", 1536, "0", "crossed"),
    ("0x100000000", 4096, "0x401000", "block8k"),
]


def address_steps() -> Iterator[Step]:
    """Boots from several load addresses, with RAM in several places, one of them another board's."""
    for base, memory, offset, layout in ADDRESSES:
        name = f"address-{int(base, 0) + int(offset, 0):#x}"
        pattern = rf"tagstash: image at {int(base, 0) + int(offset, 0):#x}\.\."
        yield machine(name, 60, "mode=report", read_message(name, pattern, read_single(f"{name}: the guest's report")),
                      "--expect", "# report complete", "--cpus", "2", "--ram-base", base, "--memory", str(memory),
                      "--image-offset", offset, "--layout", layout)
    yield machine("address-0x200000", 60, "expect=no-storage",
                  read_message("address-0x200000", r"tagstash: image at 0x200000\.\.", read_tap), "--plain", "--board",
                  "versal", "--memory", "1024")


def serial_steps() -> Iterator[Step]:
    """Boots where the console is an 8250-like port, to the guest's entry: the test guest has no driver for it."""
    yield machine("serial-8250", 60, "", read_message("an 8250-like console", r"(?s)tagstash: version .*tagstash: entering the guest at"),
                  "--plain", "--board", "raspi3b", "--until", "tagstash: entering the guest at")


# CPU models, and what the shim must say of them. Those with MTE run on the aliased machine; the last has no FEAT_LSE.
CPUS: list[tuple[str, str, str]] = [
    ("neoverse-n2", "3, 48 address bits, MTE with tag memory", "atomics"),
    ("cortex-a710", "3, 40 address bits, MTE with tag memory", "atomics"),
    ("cortex-a76", "3, 40 address bits, no MTE", "atomics"),
    ("cortex-a57", "3, 44 address bits, no MTE", "exclusives"),
]


def cpu_steps() -> Iterator[Step]:
    """Boots on several CPU models; `max` is what all other suites run on."""
    for model, text, instructions in CPUS:
        pattern = rf"(?s)tagstash: CPUs: {text}\b.*tagstash: service: [^\n]*, {instructions}\b"
        options = ["--cpu", model, "--cpus", "3"]
        if "no MTE" in text:
            yield machine(f"cpu-{model}", 60, "expect=no-storage", read_message(model, pattern, read_tap), "--plain",
                          "--no-mte", *options)
        else:
            yield machine(f"cpu-{model}", 120, "mode=report",
                          read_message(model, pattern, read_single(f"{model}: the guest's report")), "--expect",
                          "# report complete", *options)
            yield machine(f"cpu-{model}-psci", 60, "tagstash.test=CPU_ON", read_tap, *options)


@dataclass(frozen=True)
class OptionRun:
    """A run with boot options: what the console must say and must not say, and how the guest is run."""

    name: str
    bootargs: str
    pattern: str
    absent: Optional[str] = None
    options: tuple[str, ...] = ()
    source: str = ""
    # The shim is to stop before it enters the guest.
    stops: bool = False


# Few tests of the test guest, where it is the shim's console that counts.
FEW = "tagstash.test=UID"
# A memory of which 1 GiB and more lies above 32 address bits.
ABOVE_32_BITS = ("--memory", "4096")
ALL_WORDS = (r"there are tagstash\.off tagstash\.log=error\|warn\|info\|debug tagstash\.verify=on\|off tagstash\.mte=hide\|show "
             r"tagstash\.pa-bits=32\|36\|40\|42\|44\|48 tagstash\.mops=on\|off tagstash\.test=TEXT")
OPTION_RUNS: list[OptionRun] = [
    OptionRun("off", "tagstash.off expect=no-storage", r"tag storage: reuse is off \(tagstash\.off\)",
              options=("--no-harness-args", "--cpus", "3")),
    OptionRun("log-error", f"tagstash.log=error {FEW}", r"harness complete: \d+ passed, 0 failed", r"^tagstash: "),
    OptionRun("log-warn", f"tagstash.log=warn tagstash.lgo=1 {FEW}", r"warning: boot option tagstash\.lgo=1 is unknown",
              r"^tagstash: (?!warning)"),
    OptionRun("log-info", f"tagstash.log=info {FEW}", r"tagstash: version", r"^tagstash: debug"),
    OptionRun("log-debug", f"tagstash.log=debug {FEW}", r"debug: Options \{ reuse: true, log: Debug"),
    OptionRun("unknown", f"tagstash.of {FEW}",
              rf"warning: boot option tagstash\.of is unknown and ignored: {ALL_WORDS}\r?\n"),
    OptionRun("bad-value", f"tagstash.log=loud {FEW}",
              r"warning: boot option tagstash\.log=loud is ignored: it must be tagstash\.log=error\|warn\|info\|debug\r?\n"),
    OptionRun("quoted", f'tagstash.log="debug" {FEW}', r"debug: Options"),
    OptionRun("others-quotes", f'note="a tagstash.off b" {FEW}', r"service: 3968 frames", r"reuse is off"),
    OptionRun("module-wins", f"tagstash.log=info {FEW}", r"tagstash: version",
              source='&chosen { bootargs = "tagstash.log=error"; };'),
    OptionRun("chosen-counts", f"expect=verification {FEW}", r"tagstash: debug: Options \{.* verify: true",
              source='&chosen { bootargs = "tagstash.log=debug tagstash.verify=on"; };'),
    OptionRun("verify-on", "tagstash.verify=on expect=verification tagstash.test=verification",
              r"ok \d+ - verification: a page harmed in storage"),
    OptionRun("verify-off", "tagstash.verify=off tagstash.test=verification",
              r"ok \d+ - verification: a page harmed in storage"),
    *(OptionRun(f"pa-bits-{bits}", f"tagstash.pa-bits={bits} tagstash.test=every", rf"CPUs: 2, {bits} address bits", r"left out",
                options=("--cpus", "2")) for bits in (32, 36, 40, 42, 44, 48)),
    OptionRun("pa-bits-too-many", f"tagstash.pa-bits=48 {FEW}",
              r"warning: tagstash\.pa-bits=48 is ignored: this CPU has 40 address bits", r"48 address bits",
              options=("--cpu", "cortex-a710")),
    OptionRun("memory-beyond", "tagstash.pa-bits=32 tagstash.test=no-map",
              r"warning: memory 0x40000000\.\.0x138000000 is left out from 0x100000000 on", options=ABOVE_32_BITS),
    OptionRun("kernel-beyond", "tagstash.pa-bits=32",
              r"error: the kernel at 0x120000000\.\.0x120100000 is not in RAM\b",
              options=(*ABOVE_32_BITS, "--until", "tagstash: stopped"), stops=True,
              source="&chosen { module@41200000 { reg = <0x1 0x20000000 0x0 0x100000>; }; };"),
    OptionRun("nothing-to-hide", "tagstash.mte=hide expect=no-storage tagstash.test=P9", r"tagstash\.mte=hide: nothing to hide",
              options=("--plain", "--no-mte")),
]


def option_steps() -> Iterator[Step]:
    """Runs the harness with each boot option."""
    for run in OPTION_RUNS:
        options = [*run.options, *tree_source("options", run.name, run.source)]
        read = read_message(run.name, run.pattern, None if run.stops else read_tap)
        if run.absent:
            read = read_absent(run.name, run.absent, read)
        yield machine(f"options-{run.name}", 150, run.bootargs, read, *options)


# What the ID registers say of MTE: CRm and op2 in the register's name, and the fields.
MTE_FIELDS = {"s3_0_c0_c4_1": 0x00F0_0F00_0000_0F00, "s3_0_c0_c4_2": 0x0000_FFF0_00F0_0FFF}


def id_registers(text: str) -> dict[tuple[str, str], int]:
    """Reads the ID registers that the harness printed, by CPU and name."""
    found = re.findall(r"^# cpu (\d+) (s3_0_c0_c\d_\d) (0x[0-9a-f]+)", text, re.M)
    return {(cpu, name): int(value, 16) for cpu, name, value in found}


def read_hidden_registers(text: str, status: int) -> Result:
    """Compares the ID registers of two runs, MTE shown and hidden: they differ in the fields of MTE, and in nothing else."""
    shown = id_registers((LOGS / "hidden-registers-shown.log").read_text(errors="replace"))
    hidden = id_registers(text)
    wanted = {(cpu, name): value & ~MTE_FIELDS.get(name, 0) for (cpu, name), value in shown.items()}
    result = Result()
    if status != 0:
        result.failures.append(f"the run ended with status {status}")
    if len(shown) != 2 * 7 * 8:
        result.failures.append(f"{len(shown)} ID registers of 2 CPUs were printed, not {2 * 7 * 8}")
    if any(shown.get((cpu, "s3_0_c0_c4_1"), 0) >> 8 & 0xF < 2 for cpu in "01"):
        result.failures.append("MTE was to be shown, and is not")
    for key in sorted(wanted.keys() | hidden.keys()):
        if wanted.get(key) != hidden.get(key):
            result.failures.append(f"CPU {key[0]}: {key[1]} is {hidden.get(key, 0):#x}, expected {wanted.get(key, 0):#x}")
    return result if result.failures else Result(passed=1)


def hidden_steps() -> Iterator[Step]:
    """Runs the harness with MTE hidden from it."""
    for cpus in ("1", "4"):
        yield machine(f"hidden-{cpus}cpu", 120, "tagstash.mte=hide expect=hidden",
                      read_message("hidden", "MTE is hidden from the guest", read_tap), "--cpus", cpus)
    yield machine("hidden-registers-shown", 60, "mode=registers", read_single("the ID registers are read"), "--cpus", "2",
                  "--expect", "# registers complete")
    yield machine("hidden-registers", 60, "mode=registers tagstash.mte=hide", read_hidden_registers, "--cpus", "2",
                  "--expect", "# registers complete")


# A range that the tree calls memory and where QEMU's machine has nothing. It lies below RAM, so that neither the shim nor
# the guest is put there.
ABSENT_BASE, ABSENT_LENGTH = 0x0F00_0000, 0x0100_0000


def absent_steps() -> Iterator[Step]:
    """Runs the tests of copies that abort, where the tree describes memory that is not there."""
    tree = tree_source("broken", "absent", f"/ {{ memory@{ABSENT_BASE:x} {{ device_type = \"memory\"; "
                       f"reg = <0 {ABSENT_BASE:#x} 0 {ABSENT_LENGTH:#x}>; }}; }};")
    for cpus in (1, 4):
        yield machine(f"absent-{cpus}cpu", 90, f"tagstash.test=cop absent={ABSENT_BASE:#x},{ABSENT_LENGTH:#x}", read_tap,
                      "--layout", "one", "--cpus", str(cpus), *tree)


# Overlays that cannot be applied: a name, the source, and what the console must say.
BROKEN_OVERLAYS: list[tuple[str, str, str]] = [
    ("path", "&{/no-such-bus} { p; };", r"the image's overlay: fragment@0: target-path /no-such-bus is no node of the tree: "
                                        r"it is not applied"),
    ("label", "&gic { p; };", r"the image's overlay: fragment@0: label gic is not in the tree's /__symbols__"),
]


def overlay_file(name: str, source: str) -> str:
    """Writes an overlay's source; returns its name."""
    file = BUILD / "overlays" / f"{name}.dtso"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"/dts-v1/; /plugin/; {source}\n")
    return str(file)


OVERLAY_APPLIED = r"the image's overlay: 1 fragments applied"


def overlay_steps() -> Iterator[Step]:
    """Runs the harness with tag storage that only the image's overlay describes, and with overlays that are wrong."""
    yield Step("overlay-tool", [sys.executable, "tests/overlay.py"], 240, read_tap)
    yield machine("overlay", 120, STORAGE_TESTS, read_message("overlay", OVERLAY_APPLIED, read_tap), "--own-tree",
                  "--overlay", "boot/qemu-virt.dtso", "--cpus", "2")
    for name, source, pattern in BROKEN_OVERLAYS:
        yield machine(f"overlay-{name}", 60, "expect=no-storage", read_message(name, pattern, read_tap), "--own-tree",
                      "--overlay", overlay_file(name, source), "--no-harness-args")
    # The last bootargs and module to be written are those that count.
    chosen = overlay_file("bootargs", "&{/chosen/module@0x41200000} { bootargs = \"expect=no-storage\"; };")
    yield machine("overlay-bootargs", 60, "mode=report", read_message("bootargs", OVERLAY_APPLIED, read_tap), "--plain",
                  "--overlay", chosen)


def uboot_step(step: Step, what: str) -> Step:
    """Makes a step fetch U-Boot first; where that cannot be had, `what` is skipped."""

    def read(text: str, status: int) -> Result:
        if re.search(r"^setup: U-Boot could not be got", text, re.M):
            return Result(skipped=[f"{what} (U-Boot could not be fetched)"])
        return step.read(text, status)

    fetch = 'exec 3>&1; "$1" qemu/setup.py --only u-boot >&3 2>&1 || exit 1; exec "$@"'
    return Step(step.name, ["sh", "-c", fetch, "sh", *step.command], step.seconds + 240, read)


def uboot_steps() -> Iterator[Step]:
    """Runs guests that U-Boot loads from a disk by itself, with tag storage that only the image's overlay describes."""
    overlay = ["--uboot", "--overlay", "boot/qemu-virt.dtso"]
    for name, how, options in (("uboot", "by booti", []), ("uboot-fit", "from a FIT", ["--fit"]), ("uboot-packed", "in one file", ["--pack"])):
        yield uboot_step(machine(name, 120, STORAGE_TESTS, read_message(name, OVERLAY_APPLIED, read_tap), *overlay, *options),
                         f"the test guest, loaded by U-Boot {how}")
    yield from linux_guest_steps("uboot-linux", "loaded by U-Boot", "checks", "40400000-4040ffff", OVERLAY_APPLIED, overlay, uboot_step)


def packed_steps() -> Iterator[Step]:
    """Runs guests that are in one file with the image, and files that are damaged; tries the tools for loaders."""
    yield Step("packed-setup", [sys.executable, "qemu/setup.py", "--only", "u-boot"], 300,
               read_fetch("U-Boot and mtools", "what is tried with them of disks and FITs"))
    yield Step("packed-tools", [sys.executable, "tests/loaders.py", "tools"], 240, read_tap)
    yield Step("packed-damaged", [sys.executable, "tests/loaders.py", "boot"], 400, read_tap)
    options = ["--own-tree", "--overlay", "boot/qemu-virt.dtso", "--pack"]
    appended = r"tagstash: appended to the image: kernel at 0x[0-9a-f]+\.\.0x[0-9a-f]+, no ramdisk"
    yield machine("packed", 120, STORAGE_TESTS, read_message("packed", appended, read_tap), "--cpus", "2", *options)
    appended = r"tagstash: appended to the image: kernel at 0x[0-9a-f]+\.\.0x[0-9a-f]+, and ramdisk"
    yield from linux_guest_steps("packed-linux", "in one file", "boot", "40200000-4020ffff", appended, ["--plain", "--pack"], None)


def linux_guest_steps(name: str, how: str, test: str, shim: str, pattern: str, options: list[str],
                      wrap: Optional[Callable[[Step, str], Step]]) -> Iterator[Step]:
    """Boots Debian's Linux by another loader; `shim` is where the image must not be seen. Skipped where it cannot be had."""
    yield Step(f"{name}-setup", [sys.executable, "qemu/setup.py", "--only", "linux"], 600,
               read_fetch("Debian's kernel", f"Debian's Linux, {how}"))
    if not (BUILD / "linux" / "Image").is_file():
        return
    yield Step(f"{name}-ramdisk", ["make", "--no-print-directory", "initramfs"], 300, read_single("the ramdisk builds"))
    words = f"console=ttyAMA0 earlycon panic=-1 tagstash.test={test} guest.hidden={shim},5f000000-5ff7ffff"
    command = [sys.executable, "qemu/run.py", "--kernel", "build/linux/Image", "--initrd", "build/initramfs.img", "--cpus", "2",
               "--memory", "512", "--no-harness-args", "--no-semihosting", "--bootargs", words, "--expect",
               f"# linux {test} complete", "--timeout", "240", *options]
    inner = read_tap if test == "checks" else read_single(f"Debian's Linux, {how}")
    step = Step(name, command, 240 + GRACE_SECONDS, read_message(name, pattern, inner))
    yield wrap(step, f"Debian's Linux, {how}") if wrap else step


def entry_steps() -> Iterator[Step]:
    """Enters the image at the wrong exception levels: it says what to change, and stops."""
    for level, text in ((1, "virtualization=on"), (3, "EL3")):
        yield machine(f"entry-el{level}", 20, "", read_message(f"entry at EL{level}", re.escape(text)), "--el", str(level),
                      "--until", text)


# What shows that a CPU comes to the guest as it should, and that the guest can work there.
MONITOR_TESTS = "tagstash.test=P7_the_first,P7_other,P7_each,P7_no_call_changes,CPU_ON,every_CPU,P10,tree,no-map_nodes"


def monitor_steps() -> Iterator[Step]:
    """Runs the harness above firmware at EL3 that opens no more than it has to, junk in RAM and in the CPUs' registers."""
    for model in ("neoverse-n2", "max"):
        yield machine(f"monitor-{model}", 150, MONITOR_TESTS, read_tap, "--monitor", "--cpu", model, "--cpus", "3")


def gdb_steps() -> Iterator[Step]:
    """Debugs the shim from outside, and reads its panics."""
    # The profile that `make symbolize` builds with.
    yield Step("symbolize", ["cargo", "test", "--profile", "dev", "-p", "symbolize", "--target-dir", "target"], 240, read_cargo)
    yield Step("gdb", [sys.executable, "tests/debugging.py"], 400, read_tap)


def dist_steps() -> Iterator[Step]:
    """Makes the release archive twice."""
    yield Step("dist", [sys.executable, "tests/dist.py"], 900, read_tap, needs=["git"])


# What Linux must not see of the machine with 512 MiB: the beginning of the image, and the tag storage.
# A panic is seen from the first line on, and ends the run.
LINUX_WORDS = ("console=ttyAMA0 earlycon panic=-1 tagstash.test=checks "
               "guest.hidden=40200000-4020ffff,5f000000-5ff7ffff")


# A few cells of `make linux-test`, chosen to differ in as much as they can and to take little time: one kernel to download.
LINUX_CELLS = ["6.12-16k,max,gic4-its,8cpu,512M,crossed", "6.12-16k,cortex-a76,gic2,1cpu,3072M,plain-numa",
               "5.10,neoverse-n2,gic3-its,2cpu,512M,nodes", "5.10,cortex-a710,gic3,2cpu,8192M,one"]


def linux_steps() -> Iterator[Step]:
    """Boots Linux above the shim: its own checks, its shell on a terminal, its CPUs compared, other kernels and machines."""
    yield Step("linux-cells-check", [sys.executable, "tests/linux_test.py", "--check"], 60, read_tap)
    yield Step("linux-setup", [sys.executable, "qemu/setup.py", "--only", "linux"], 600,
               read_fetch("Debian's kernel", "linux, linux-monitor, linux-psci, linux-mte, linux-shell, linux-cells"))
    # Without it the step above has said what is skipped, or has failed.
    if not (BUILD / "linux" / "Image").is_file():
        return
    yield Step("linux-ramdisk", ["make", "--no-print-directory", "initramfs"], 300, read_single("the ramdisk builds"))
    yield Step("linux", [sys.executable, "qemu/run.py", "--kernel", "build/linux/Image", "--initrd", "build/initramfs.img",
                         "--cpus", "2", "--memory", "512", "--no-harness-args", "--no-semihosting", "--bootargs",
                         LINUX_WORDS, "--expect", "# linux checks complete", "--timeout", "240"], 240 + GRACE_SECONDS,
               read_tap)
    # Tag storage lies elsewhere in the larger RAM of the machine with firmware of its own.
    yield Step("linux-monitor", [sys.executable, "qemu/run.py", "--monitor", "--kernel", "build/linux/Image", "--initrd",
                                 "build/initramfs.img", "--cpus", "2", "--no-harness-args", "--no-semihosting", "--bootargs",
                                 LINUX_WORDS.replace("5f000000-5ff7ffff", "62e00000-63f6ffff"), "--expect",
                                 "# linux checks complete", "--timeout", "240"], 240 + GRACE_SECONDS, read_tap)
    yield Step("linux-psci", [sys.executable, "tests/psci.py", "quick"], 640, read_tap)
    yield Step("linux-mte", [sys.executable, "tests/mte.py", "demo", "--cell", "max,2,one"], 500, read_tap)
    yield Step("linux-shell", [sys.executable, "tests/linux.py", "shell"], 300, read_tap)
    yield Step("linux-cells", [sys.executable, "tests/linux_test.py", *LINUX_CELLS], 1200, read_tap)


def driver_steps() -> Iterator[Step]:
    """Boots Linux with the driver above the shim: short runs, where there is a kernel with cleancache."""
    yield Step("driver-setup", [sys.executable, "qemu/setup.py", "--only", "linux", "--only", "cross"], 600,
               read_fetch("Debian's busybox and a compiler for arm64", "driver-core, driver-files"))
    if not (BUILD / "linux" / "busybox").is_file():
        return
    yield Step("driver-ramdisk", ["make", "--no-print-directory", "initramfs"], 300, read_single("the ramdisk builds"))
    yield Step("driver-core", [sys.executable, "tests/driver_test.py", "quick"], 900, read_tap)
    yield Step("driver-shell", [sys.executable, "tests/linux.py", "driver"], 300, read_tap)
    yield Step("driver-files", [sys.executable, "tests/filework.py", "quick"], 760, read_tap)


def compare_steps() -> Iterator[Step]:
    """Compares what a guest sees above the shim with what it sees without, on two versions of QEMU."""
    yield Step("compare-setup", [sys.executable, "qemu/setup.py", "--only", "linux"], 600,
               read_fetch("Debian's kernel", "compare"))
    if not (BUILD / "linux" / "Image").is_file():
        return
    yield Step("compare-ramdisk", ["make", "--no-print-directory", "initramfs"], 300, read_single("the ramdisk builds"))
    yield Step("compare", [sys.executable, "tests/compare.py", "--quick"], 900, read_tap)
    yield Step("compare-qemu", [sys.executable, "qemu/setup.py", "--only", "qemu-newest"], 600,
               read_fetch("the newest QEMU", "compare-newest, harness-newest, monitor-newest"))
    if not (BUILD / "tools" / "qemu-newest").is_dir():
        return
    yield Step("compare-newest", [sys.executable, "tests/compare.py", "--quick-newest"], 600, read_tap)
    yield machine("harness-newest", 180, "", read_tap, "--layout", "one", "--qemu", "newest")
    yield machine("monitor-newest", 150, MONITOR_TESTS, read_tap, "--monitor", "--cpus", "3", "--qemu", "newest")


SUITES = [
    Suite("build", "firmware image, test guest and aliasing library are built", build_steps),
    Suite("host", "the portable part's unit and property tests", host_steps),
    Suite("quality", "hit rates of small workloads, beside ideal caches of the same capacity", quality_steps),
    Suite("tagalias", "the aliasing library's unit tests", tagalias_steps),
    Suite("fuzz", "device-tree code and hypercalls on their fuzzing corpora, and on a fixed number of new inputs", fuzz_steps),
    Suite("scale", "metadata and steps of each call, 16 MiB and 32 GiB of storage; the comparison with other caches works",
          scale_steps),
    Suite("model", "the racing operations under the model checker", model_steps),
    Suite("schedules", "long histories under randomised schedules", schedules_steps),
    Suite("litmus", "the memory orderings as litmus shapes, under Arm's model", litmus_steps),
    Suite("protocol", "the model of the frame protocol: in step with the code, small configurations, mutants", protocol_steps),
    Suite("lint", "formatting, lints and documentation, that every message is explained, and that the faults of `make mutants` fit", lint_steps),
    harness_suite("harness-1cpu", "the test guest on 1 CPU", 180, "--layout", "one"),
    harness_suite("harness-4cpu", "the test guest on 4 CPUs", 240, "--layout", "one", "--cpus", "4"),
    harness_suite("harness-two", "two regions, 2 CPUs", 180, "--layout", "two", "--cpus", "2"),
    harness_suite("harness-crossed", "two regions, storage crossed", 180, "--layout", "crossed"),
    harness_suite("harness-block8k", "8 KiB blocks off their natural alignment", 180, "--layout", "block8k"),
    Suite("report", "what `make run` runs, to the report's last line", report_steps, needs_firmware=True),
    Suite("costs", "the instructions of every hypercall, beside their ceilings", costs_steps, needs_firmware=True),
    Suite("plain", "QEMU's own machine, no tag storage described", plain_steps, needs_firmware=True),
    Suite("broken", "device trees that break a rule: a message, and the guest boots", broken_steps, needs_firmware=True),
    Suite("boot", "what loaders and firmware get wrong: a message, and a stop or a boot", boot_steps, needs_firmware=True),
    Suite("addresses", "several load addresses, RAM bases and boards", address_steps, needs_firmware=True),
    Suite("cpus", "several CPU models, with MTE and without", cpu_steps, needs_firmware=True),
    Suite("serial", "a console like the 8250, on QEMU's Raspberry Pi", serial_steps, needs_firmware=True),
    Suite("dialects", "good device trees of every dialect, with ranges, reservations, NUMA and 12 KiB blocks", dialect_steps,
          needs_firmware=True),
    Suite("options", "each boot option: the console, and the test guest", option_steps, needs_firmware=True),
    Suite("hidden", "MTE hidden from the test guest, 1 and 4 CPUs", hidden_steps, needs_firmware=True),
    Suite("absent", "memory that is not there: copies end in COPY_FAULT", absent_steps, needs_firmware=True),
    Suite("overlay", "an overlay in the image describes tag storage; wrong ones: a message, and the guest boots", overlay_steps,
          needs_firmware=True),
    Suite("uboot", "U-Boot boots shim and guest from a disk: booti, a FIT, one file, Debian's Linux", uboot_steps, needs_firmware=True),
    Suite("packed", "shim and guest in one file, whole and damaged; the tools that make it, disks and FITs", packed_steps, needs_firmware=True),
    Suite("linux", "Debian's Linux above the shim: checks, shell, memory tagging", linux_steps, needs_firmware=True),
    Suite("driver", "Linux with the driver: files and tags at the same time, in the same storage", driver_steps, needs_firmware=True),
    Suite("compare", "what a guest sees of the CPU, above the shim and without it; on the newest QEMU too", compare_steps,
          needs_firmware=True),
    Suite("entry", "entered at EL1 or EL3: a message, and a stop", entry_steps, needs_firmware=True),
    Suite("monitor", "above firmware at EL3 that opens to EL2 what Linux asks for and nothing else; junk in RAM and registers",
          monitor_steps, needs_firmware=True),
    Suite("dist", "the release archive, the same from two clones", dist_steps, needs_firmware=True),
    Suite("gdb", "debugged through QEMU's stub, panics symbolized", gdb_steps, needs_firmware=True),
]


# --------------------------------------------------------------------------------------------------------------------
# Running them


class Interrupted(Exception):
    """A signal asked us to end."""


class Running:
    """The commands under way, so that all of them can be ended. None starts after that."""

    def __init__(self) -> None:
        """Begins with none."""
        self.lock = threading.Lock()
        self.ended = False
        self.processes: set[subprocess.Popen[bytes]] = set()

    def start(self, step: Step, sink: IO[bytes]) -> subprocess.Popen[bytes]:
        """Starts a step's command in a process group of its own."""
        env = {**os.environ, **step.env, "CARGO_TERM_COLOR": "never"}
        with self.lock:
            if self.ended:
                raise Interrupted("the end of the run")
            process = subprocess.Popen(step.command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=sink,
                                       stderr=subprocess.STDOUT, start_new_session=True)
            self.processes.add(process)
            return process

    def end(self, process: subprocess.Popen[bytes]) -> None:
        """Ends a command if it still runs, and forgets it."""
        end_group(process)
        with self.lock:
            self.processes.discard(process)

    def end_all(self) -> None:
        """Ends whatever runs."""
        with self.lock:
            self.ended = True
            processes = list(self.processes)
        for process in processes:
            end_group(process)


RUNNING = Running()


def run_step(step: Step) -> tuple[str, int]:
    """Runs a step's command with its output in a log file; returns the output and the status, 124 if time ran out."""
    log = LOGS / f"{step.name}.log"
    with open(log, "wb") as sink:
        try:
            process = RUNNING.start(step, sink)
        except OSError as error:
            sink.write(f"{step.command[0]} does not start: {error.strerror}\n".encode())
            sink.flush()
            return log.read_text(errors="replace"), 127
        try:
            status = process.wait(step.seconds)
        except subprocess.TimeoutExpired:
            status = 124
        finally:
            RUNNING.end(process)
    return log.read_text(errors="replace"), status if status >= 0 else 128 - status


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a step's process group; run.py, asked nicely, ends its QEMU and removes its files."""
    for number, patience in ((signal.SIGTERM, 15.0), (signal.SIGKILL, 5.0)):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def failure_lines(step: Step, text: str, result: Result, status: int) -> Iterator[str]:
    """Says what failed, and the log's end."""
    for failure in result.failures:
        yield f"    FAILED {step.name}: {failure}"
    if status == 124:
        yield f"    {step.name} was stopped after {step.seconds:.0f} s"
    log = (LOGS / f"{step.name}.log").relative_to(ROOT)
    lines = text.splitlines()[-TAIL_LINES:]
    yield f"    the end of {log}:" if lines else f"    {log} is empty"
    for line in lines:
        yield "    | " + line.rstrip("\r")


def run_suite(suite: Suite) -> tuple[Result, list[str]]:
    """Runs one suite; returns what it came to, and what there is to say of it besides its counts."""
    total, lines = Result(), []
    for step in suite.steps():
        missing = [program for program in step.needs or [] if not shutil.which(program)]
        if missing:
            total.add(Result(skipped=[f"{step.name} ({', '.join(missing)} is not installed)"]))
            continue
        text, status = run_step(step)
        result = step.read(text, status)
        if status == 124 and not any("time" in failure for failure in result.failures):
            result.failures.append(f"stopped after {step.seconds:.0f} s")
        total.add(result)
        if result.failures:
            lines += failure_lines(step, text, result, status)
    return total, lines + [f"    skipped: {name}" for name in total.skipped]


class Lanes:
    """Runs suites, several at once, and prints a line for each as it ends."""

    def __init__(self, suites: list[Suite]) -> None:
        """Begins with the suites in the order of the list."""
        self.lock = threading.Lock()
        self.waiting = list(suites)
        self.count, self.done = len(suites), 0
        self.total, self.built = Result(), True
        self.trouble: Optional[BaseException] = None

    def take(self, from_the_end: bool) -> Optional[Suite]:
        """Takes the next suite."""
        with self.lock:
            return self.waiting.pop(-1 if from_the_end else 0) if self.waiting and not self.trouble else None

    def run(self, suite: Suite) -> None:
        """Runs one suite and prints what came of it."""
        started = time.monotonic()
        if suite.needs_firmware and not self.built:
            # Not a skip: that the firmware does not build is no reason to call its tests unnecessary.
            result, lines = Result(failures=[f"{suite.name}: not run, because the build failed"]), []
        else:
            result, lines = run_suite(suite)
        with self.lock:
            self.done += 1
            self.built &= not (suite.name == "build" and result.failures)
            self.total.add(result)
            head = f"[{self.done:2}/{self.count}] {suite.name:16} {result.counts()}  ({time.monotonic() - started:.1f} s)"
            print("\n".join([head, *lines]), flush=True)

    def lane(self, from_the_end: bool) -> None:
        """Runs suites until there are none left."""
        try:
            while suite := self.take(from_the_end):
                self.run(suite)
        except BaseException as why:  # pylint: disable=broad-except
            # For the main thread to see, which waits.
            self.trouble = why

    def run_all(self, jobs: int) -> None:
        """Runs them all. The first is the build, if anything needs it, and has to be over before the others begin.

        Every other lane takes from the end: compilers, which use all CPUs, are at the front, and machines, which wait much, at
        the back.
        """
        if self.waiting and self.waiting[0].name == "build":
            self.run(self.waiting.pop(0))
        threads = [threading.Thread(target=self.lane, args=(number % 2 == 1,), daemon=True) for number in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.trouble:
            raise self.trouble


def main() -> int:
    """Runs the suites asked for; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("suite", nargs="*", help="run these only (the build comes first where they need it)")
    parser.add_argument("--list", action="store_true", help="list the suites")
    parser.add_argument("--jobs", type=int, choices=range(1, 9), default=2, metavar="N",
                        help="suites that run at once (1 to 8; default: 2)")
    options = parser.parse_args()
    if options.list:
        for suite in SUITES:
            print(f"{suite.name:16} {suite.summary}")
        return 0
    by_name = {suite.name: suite for suite in SUITES}
    unknown = [name for name in options.suite if name not in by_name]
    if unknown:
        print(f"suite: no suite is named {', '.join(unknown)}; there are: {', '.join(by_name)}", file=sys.stderr)
        return 2
    chosen = [suite for suite in SUITES if not options.suite or suite.name in options.suite]
    if any(suite.needs_firmware for suite in chosen) and by_name["build"] not in chosen:
        chosen.insert(0, by_name["build"])

    def on_signal(number: int, _frame: object) -> NoReturn:
        raise Interrupted(signal.Signals(number).name)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    LOGS.mkdir(parents=True, exist_ok=True)
    lanes, started = Lanes(chosen), time.monotonic()
    try:
        lanes.run_all(options.jobs)
    except Interrupted as why:
        RUNNING.end_all()
        print(f"ended by {why}")
        lanes.total.failures.append(f"ended by {why}")
    total = lanes.total
    print(f"logs: {LOGS.relative_to(ROOT)}; {time.monotonic() - started:.0f} s")
    print(total.counts(), flush=True)
    return 1 if total.failures else 0


if __name__ == "__main__":
    sys.exit(main())
