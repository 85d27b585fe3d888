# SPDX-License-Identifier: MIT OR Apache-2.0
"""Runs tests, functions or others, and prints what came of them in the Test Anything Protocol."""

from __future__ import annotations

import traceback
from typing import Callable, Optional


class Skip(Exception):
    """Why a test cannot run here."""


class Failed(Exception):
    """What a test found wrong, in words that need no stack trace."""


class Tap:
    """Counts results as they come, and prints them; for tests that do not know beforehand how many they are."""

    def __init__(self) -> None:
        """Begins with none."""
        self.number = 0
        self.failures = 0

    def result(self, name: str, trouble: Optional[str] = None) -> None:
        """Prints one result, passed if there is no trouble."""
        self.number += 1
        self.failures += bool(trouble)
        print(f"not ok {self.number} - {name}: {trouble}" if trouble else f"ok {self.number} - {name}", flush=True)

    def finish(self) -> int:
        """Prints the plan; returns the exit status."""
        print(f"1..{self.number}", flush=True)
        return 1 if self.failures else 0


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
