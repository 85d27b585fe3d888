#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the portable part's tests under Miri: undefined behaviour, data races, and weak memory as far as it knows it.

Miri is a component of nightly Rust. Where there is none, or it cannot be installed, this says so and runs nothing.
Arguments are passed to `cargo test`, such as a test's name. MIRI_SEEDS=n runs the tests on several CPUs n times.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLCHAIN = "nightly"
# Pointers are never made of numbers; leaks are no concern of tests.
FLAGS = "-Zmiri-strict-provenance -Zmiri-ignore-leaks -Zmiri-disable-isolation"
# Several CPUs: a race shows in some schedules and with some stale values only.
RACING = ["stress", "stalled_writer"]
ALONE = ["promises", "maintenance", "properties", "tree_read", "tree_patch"]


def has_miri() -> bool:
    """Says whether there is a Miri, after an attempt to install it where there is none."""
    probe = ["cargo", f"+{TOOLCHAIN}", "miri", "--version"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        if subprocess.run(probe, check=False, **quiet).returncode == 0:
            return True
        print(f"miri: not there; trying `rustup component add --toolchain {TOOLCHAIN} miri rust-src`", flush=True)
        add = ["rustup", "component", "add", "--toolchain", TOOLCHAIN, "miri", "rust-src"]
        return subprocess.run(add, check=False, timeout=300).returncode == 0
    except (OSError, subprocess.TimeoutExpired) as why:
        print(f"miri: {why}")
        return False


def cargo(arguments: list[str], flags: str) -> bool:
    """Runs `cargo miri test` with arguments; says whether it ended well."""
    command = ["cargo", f"+{TOOLCHAIN}", "miri", "test", "-p", "tagstash", "--target-dir", "target/miri", *arguments]
    print("miri: " + " ".join(command[3:]), flush=True)
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "MIRIFLAGS": flags}, check=False).returncode == 0


def main() -> int:
    """Runs all that there is to run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", nargs="*", help="what to pass to `cargo test`; nothing: all of the tests chosen for Miri")
    options = parser.parse_args()
    try:
        seeds = int(os.environ.get("MIRI_SEEDS", "4"))
    except ValueError:
        print(f"miri: MIRI_SEEDS={os.environ['MIRI_SEEDS']} is not a number", file=sys.stderr)
        return 2
    if not has_miri():
        print(f"miri: skipped: {TOOLCHAIN} Rust with Miri is not to be had here; nothing was checked")
        return 0
    if options.test:
        return 0 if cargo(options.test, FLAGS) else 1
    alone = ["--lib", *(argument for name in ALONE for argument in ("--test", name))]
    good = cargo(alone, FLAGS)
    for seed in range(seeds):
        racing = [argument for name in RACING for argument in ("--test", name)]
        good &= cargo(racing, f"{FLAGS} -Zmiri-seed={seed}")
    print(f"miri: {'nothing found' if good else 'FAILED'}: " + ", ".join(["lib", *ALONE, *RACING]) +
          f"; those on several CPUs from {seeds} seeds")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
