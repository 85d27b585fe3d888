#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs the kernel's own checkpatch over the driver's C files, with all its checks; results in the Test Anything Protocol.

checkpatch comes with the tree to build modules for Linux 5.10 (qemu/cleancache.py); where no such tree is there, or no Perl, the test
is skipped.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Optional

import tap

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "qemu"))
import cleancache  # noqa: E402  (where trees are)
import setup  # noqa: E402
import trees  # noqa: E402

DIRECTORIES = ["boot/linux", "tests/linux/client"]
# The kernel's rules that do not fit, and why.
EXCLUDED = {
    "LINUX_VERSION_CODE": "the modules are built for several versions of the kernel, not merged into one",
    "CONSTANT_COMPARISON": "the comparison with a version, as above, is taken for one of constants",
}
# In headers that define tracepoints: their macros are written like blocks, in the kernel as well.
EXCLUDED_IN_TRACES = {
    "OPEN_ENDED_LINE": "TP_STRUCT__entry( and TP_fast_assign( end their lines",
    "PARENTHESIS_ALIGNMENT": "the lines below are those of a block",
    "COMPLEX_MACRO": "so is what __print_symbolic takes",
}
SECONDS = 120


def find_checkpatch() -> tuple[Optional[Path], str]:
    """Finds checkpatch among the kernels' sources and trees; returns it, or the reason why there is none."""
    if not shutil.which("perl"):
        return None, "perl is not installed"
    reason = ""
    try:
        found = cleancache.find("5.10").tree / "scripts/checkpatch.pl"
        if found.is_file():
            return found, ""
        reason = f"{setup.relative(found)} is not there"
    except setup.SetupError as error:
        reason = str(error).splitlines()[0]
    others = sorted(trees.TREES.glob("linux-source-*/scripts/checkpatch.pl"))
    return (others[-1], "") if others else (None, reason)


def check(checkpatch: Path, file: Path) -> None:
    """Checks one file; what is minded is told line by line."""
    traces = re.search(r"^(TRACE_EVENT|DECLARE_EVENT_CLASS)\(", file.read_text(), re.M)
    excluded = [*EXCLUDED, *(EXCLUDED_IN_TRACES if traces else [])]
    command = ["perl", str(checkpatch), "--no-tree", "--strict", "--emacs", "--show-types", "--max-line-length=100", "--ignore",
               ",".join(excluded), "--file", str(file.relative_to(ROOT))]
    done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", timeout=SECONDS, env={**os.environ, "LC_ALL": "C"}, check=False)
    counts = re.search(r"^total: (\d+) errors, (\d+) warnings, (\d+) checks, (\d+) lines checked", done.stdout, re.M)
    if not counts:
        raise tap.Failed(f"checkpatch did not get to its last line, status {done.returncode}:\n{done.stdout}")
    if any(int(count) for count in counts.groups()[:3]) or done.returncode != 0:
        raise tap.Failed(done.stdout)
    if int(counts[4]) == 0:
        raise tap.Failed("checkpatch looked at no line")


def sees_faults(checkpatch: Path) -> None:
    """Gives checkpatch a file with faults: it has to name them, or all the others have passed for nothing."""
    sample = ROOT / "build" / "checkpatch-sample.c"
    sample.parent.mkdir(parents=True, exist_ok=True)
    sample.write_text("// SPDX-License-Identifier: GPL-2.0-only\nint f (int a)\n{\n    if(a)\n        return 1;\n\treturn 0;\n}\n")
    try:
        check(checkpatch, sample)
    except tap.Failed as found:
        if "SPACING" in str(found) and "CODE_INDENT" in str(found):
            return
        raise tap.Failed(f"it minds other things than the faults that were made:\n{found}") from None
    finally:
        sample.unlink()
    raise tap.Failed("a file with faults passes")


def main() -> int:
    """Checks every file; returns the process's exit status."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    files = [file for directory in DIRECTORIES for file in sorted((ROOT / directory).glob("*.[ch]")) if not file.name.endswith(".mod.c")]
    checkpatch, reason = find_checkpatch()

    def test(file: Path) -> Callable[[], None]:
        return lambda: check(checkpatch, file)

    def skip() -> None:
        raise tap.Skip(reason)

    if not files:
        print(f"Bail out! no C file in {' or '.join(DIRECTORIES)}", flush=True)
        return 2
    if checkpatch is None:
        return tap.run([(f"checkpatch of {len(files)} files", skip)])
    return tap.run([("checkpatch sees faults", lambda: sees_faults(checkpatch))]
                   + [(f"checkpatch {file.relative_to(ROOT)}", test(file)) for file in files])


if __name__ == "__main__":
    sys.exit(main())
