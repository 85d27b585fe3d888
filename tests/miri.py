#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the portable part's tests under Miri: undefined behaviour, data races, and weak memory as far as it knows it.

Miri is a component of nightly Rust. Where there is none, or it cannot be installed, this says so and runs nothing.
Arguments are passed to `cargo test`, such as a test's name. MIRI_SEEDS=n (2) runs the tests on several CPUs n times.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLCHAIN = "nightly"
COMMON = "-Zmiri-ignore-leaks -Zmiri-disable-isolation"  # leaks are no concern of tests; they read the environment
# Pointers are never made of numbers, but for tables that hardware walks: what leads to a table there is its address.
STRICT = f"{COMMON} -Zmiri-strict-provenance"
EXPOSED = f"{COMMON} -Zmiri-permissive-provenance"
TABLES = "translation::"
# Several CPUs: a race shows in some schedules and with some stale values only.
RACING = ["stress", "stalled_writer"]
ALONE = ["promises"]


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
    """Runs `cargo miri test` with arguments; says whether it ended well, and how long it took."""
    command = ["cargo", f"+{TOOLCHAIN}", "miri", "test", "-p", "tagstash", "--target-dir", "target/miri", *arguments]
    print(f"miri: {' '.join(command[3:])} (MIRIFLAGS={flags})", flush=True)
    started = time.monotonic()
    good = subprocess.run(command, cwd=ROOT, env={**os.environ, "MIRIFLAGS": flags}, check=False).returncode == 0
    print(f"miri: {' '.join(arguments)}: {'nothing found' if good else 'FAILED'}, {time.monotonic() - started:.0f} s", flush=True)
    return good


def main() -> int:
    """Runs all that there is to run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("test", nargs="*", help="what to pass to `cargo test`; nothing: all of the tests chosen for Miri")
    options = parser.parse_args()
    try:
        seeds = int(os.environ.get("MIRI_SEEDS", "2"))
    except ValueError:
        print(f"miri: MIRI_SEEDS={os.environ['MIRI_SEEDS']} is not a number", file=sys.stderr)
        return 2
    if not has_miri():
        print(f"miri: skipped: {TOOLCHAIN} Rust with Miri is not to be had here; nothing was checked")
        return 0
    if options.test:
        return 0 if cargo(options.test, STRICT) else 1
    runs = [(["--lib", "--", "--skip", TABLES], STRICT), (["--lib", TABLES], EXPOSED)]
    runs += [(["--test", name], STRICT) for name in ALONE]
    runs += [(["--test", name], f"{STRICT} -Zmiri-seed={seed}") for seed in range(seeds) for name in RACING]
    # All of them, whatever one finds.
    good = all([cargo(arguments, flags) for arguments, flags in runs])
    print(f"miri: {'nothing found' if good else 'FAILED'}: " + ", ".join(["lib", *ALONE, *RACING]) +
          f"; those on several CPUs ({', '.join(RACING)}) from {seeds} seeds")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
