#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Checks that the documentation explains every message that the shim can print.

Messages are taken from the sources: the format strings of the macros and functions that print, and of the errors that
they print. The documentation has each as `code`, with … or an example for what is filled in; the node or property that a
message begins with and the advice that it ends with may be left out. Prints one TAP line for each source file.

    python3 tests/messages.py           checks
    python3 tests/messages.py --list    lists the messages
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Where a reader looks them up.
PAGES = ["docs/boards.md", "docs/device-tree.md", "docs/overlay.md"]
# Sources whose strings reach the console.
SOURCES = ["src/main.rs", "src/appended.rs", "src/loaded.rs", "src/options.rs", "src/payload.rs", "src/translation.rs", "src/tags", "src/dtb",
           "src/el2"]
CALL = re.compile(r'\b(?:info|warn|error|debug|say|write|writeln|format_args)!\(|\bstop\(|\bwrite_str\(|=> "|=> \{\s*"')
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S)
# Strings with fewer letters are pieces of messages, and say nothing by themselves.
LEAST_LETTERS = 12


def strings(source: str) -> list[str]:
    """Returns the strings of a file that are printed, each with … for what is filled in."""
    code = source.split("#[cfg(test)]")[0]
    code = re.sub(r"^\s*//.*$", "", code, flags=re.M)
    found = []
    for call in CALL.finditer(code):
        # The string is the first argument, or the second of `write!`.
        start = call.end() - (1 if call.group().endswith('"') else 0)
        literal = LITERAL.match(code, start) or re.compile(r'\s*(?:f|port|out|self|format_args!\()?\s*,?\s*"((?:[^"\\]|\\.)*)"',
                                                          re.S).match(code, start)
        if literal:
            found.append(plain(literal[1]))
    return [text for text in dict.fromkeys(found) if len(re.sub(r"[^A-Za-z]", "", text)) >= LEAST_LETTERS]


def plain(literal: str) -> str:
    """Turns a string literal into what it prints."""
    text = re.sub(r"\\\n\s*", "", literal).replace('\\"', '"').replace("{{", "{").replace("}}", "}")
    return re.sub(r"\{[^{}]*\}", "…", text).strip().removeprefix("tagstash: ").removeprefix("…: ")


def forms(message: str) -> Iterator[re.Pattern[str]]:
    """Yields what the documentation may have for a message: all of it, or what is left without the advice."""
    ends = [len(message)] + [match.start() for match in re.finditer(r"[:;,] ", message)]
    for end in ends:
        if len(re.sub(r"[^A-Za-z]", "", message[:end])) >= LEAST_LETTERS * 2 // 3:
            pattern = ".*?".join(re.escape(piece) for piece in message[:end].split("…"))
            yield re.compile(rf"(?:[^:]+: )?{pattern}(?:: .*)?")


def main() -> int:
    """Checks, or lists; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="list the messages of each file, and check nothing")
    options = parser.parse_args()
    files = []
    for name in SOURCES:
        path = ROOT / name
        files += sorted(path.rglob("*.rs")) if path.is_dir() else [path] * path.is_file()
    pages = "\n".join((ROOT / page).read_text() for page in PAGES if (ROOT / page).is_file())
    explained = [span.replace("\\|", "|") for span in re.findall(r"`([^`\n]+)`", pages)]
    bad, number = 0, 0
    for file in files:
        messages = strings(file.read_text())
        if not messages:
            continue
        if options.list:
            print(f"{file.relative_to(ROOT)}:", *(f"    {message}" for message in messages), sep="\n")
            continue
        number += 1
        missing = [message for message in messages
                   if not any(form.fullmatch(span) for form in forms(message) for span in explained)]
        bad += bool(missing)
        print(f"{'not ok' if missing else 'ok'} {number} - {file.relative_to(ROOT)}: {len(messages)} messages are explained")
        for message in missing:
            print(f"# not in {', '.join(PAGES)}: {message}")
    if not options.list:
        print(f"1..{number}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
