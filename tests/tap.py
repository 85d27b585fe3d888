# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs tests that are functions, and prints what came of them in the Test Anything Protocol."""

from __future__ import annotations

import traceback
from typing import Callable


class Skip(Exception):
    """Why a test cannot run here."""


class Failed(Exception):
    """What a test found wrong, in words that need no stack trace."""


def run(tests: list[tuple[str, Callable[[], None]]]) -> int:
    """Runs all tests; returns the process's exit status."""
    print(f"TAP version 14\n1..{len(tests)}", flush=True)
    failed = 0
    for number, (name, test) in enumerate(tests, 1):
        try:
            test()
        except Skip as why:
            print(f"ok {number} - {name} # SKIP {why}", flush=True)
            continue
        except Exception as why:  # pylint: disable=broad-except
            failed += 1
            text = str(why) if isinstance(why, Failed) else traceback.format_exc()
            print("".join(f"# {line}\n" for line in text.splitlines()), end="")
            print(f"not ok {number} - {name}", flush=True)
            continue
        print(f"ok {number} - {name}", flush=True)
    return 1 if failed else 0
