#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Checks the firmware's ELF file: from the functions that serve hypercalls with LSE, no exclusive load or store is reached.

Where there are tags there is LSE, and with it a claim's `fetch_add` is one instruction that cannot fail. That holds only as long as all
of the service is inlined into these functions, or into others that are compiled for LSE too, which the compiler does not
promise. So the machine code is walked: every word of each function that can be called from there, except those that end in a panic.
Prints one TAP line.
"""

from __future__ import annotations

import argparse
import struct
import sys
from pathlib import Path

ROOT_NAMES = (
    "get_with_lse",
    "get_page_by_pairs",
    "get_page_with_mops",
    "get_run_with_mops",
    "put_page_by_pairs",
    "put_page_with_mops",
    "put_run_with_mops",
    "flush_page_with_lse",
    "reclaim_with_lse",
    "reclaim_page",
    "serve_with_lse",
)
# Ways out of which nothing returns: what they execute does not matter.
ENDS = ("panicking", "slice_index_fail", "panic_fmt")
# A serving function without a single one of these proves that the wrong thing was looked at.
LSE_MASK, LSE_VALUE = 0x3B200C00, 0x38200000


def is_exclusive(word: int) -> bool:
    """Says whether a word is LDXR, LDAXR, STXR or STLXR (Arm ARM, C4.1.94, load/store exclusive)."""
    # Bits 29:24 = 001000, o2 (23) = 0, o1 (21) = 0, for registers; pairs have o1 = 1. LSE's CASP shares pairs of sizes 0 and 1.
    if word & 0x3F800000 != 0x08000000:
        return False
    pair = word >> 21 & 1
    return not pair or word >> 31 & 1 == 1


def functions(elf: bytes) -> list[tuple[int, int, str]]:
    """Reads (address, size, name) of each function from a 64-bit little-endian ELF file's symbol table."""
    if elf[:6] != b"\x7fELF\x02\x01":
        raise ValueError("this is no 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count = struct.unpack_from("<HH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", elf, table + size * n) for n in range(count)]
    found = []
    for _, kind, _, _, offset, length, link, _, _, entry in headers:
        if kind != 2:
            continue
        names = headers[link][4]
        for at in range(offset, offset + length, entry):
            name, info, _, _, value, extent = struct.unpack_from("<IBBHQQ", elf, at)
            if info & 15 == 2 and extent:
                end = elf.index(b"\0", names + name)
                found.append((value, extent, elf[names + name : end].decode()))
    return sorted(found)


def text(elf: bytes) -> tuple[int, bytes]:
    """Returns address and bytes of the executable segment."""
    (table,) = struct.unpack_from("<Q", elf, 0x20)
    size, count = struct.unpack_from("<HH", elf, 0x36)
    for n in range(count):
        kind, flags, offset, address, _, length = struct.unpack_from("<IIQQQQ", elf, table + size * n)
        if kind == 1 and flags & 1:
            return address, elf[offset : offset + length]
    raise ValueError("the file has no executable segment")


def check(path: Path) -> list[str]:
    """Returns what is wrong with the file; nothing if all is well."""
    elf = path.read_bytes()
    base, code = text(elf)
    symbols = functions(elf)
    start = []
    for root in ROOT_NAMES:
        # With its length before it, as names are mangled.
        found = [address for address, _, name in symbols if f"{len(root)}{root}" in name]
        if len(found) != 1:
            return [f"{len(found)} functions are called {root}; there should be one"]
        start += found
    by_address = {address: (size, name) for address, size, name in symbols}
    waiting, seen, wrong, atomics = list(start), set(start), [], 0
    while waiting:
        address = waiting.pop()
        size, name = by_address[address]
        for at in range(address, address + size, 4):
            (word,) = struct.unpack_from("<I", code, at - base)
            if is_exclusive(word):
                wrong.append(f"exclusive access {word:#010x} at {at:#x} in {name}")
            atomics += word & LSE_MASK == LSE_VALUE
            if word >> 26 not in (0b000101, 0b100101):
                continue
            offset = word & 0x03FFFFFF
            target = at + 4 * (offset - (1 << 26) if offset >> 25 else offset)
            if target in by_address and target not in seen and not any(end in by_address[target][1] for end in ENDS):
                seen.add(target)
                waiting.append(target)
    if not atomics:
        wrong.append("no LSE atomic instruction is reached: this is not the service")
    print(f"# {len(seen)} functions are reached from {len(ROOT_NAMES)}, with {atomics} atomic instructions")
    return wrong


def main() -> int:
    """Checks the file named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="ELF-FILE", help="the program to look at")
    file = parser.parse_args().file
    print("TAP version 14\n1..1")
    try:
        wrong = check(file)
    except (OSError, ValueError, struct.error) as error:
        wrong = [f"{file}: {error}"]
    for line in wrong:
        print(f"# {line}")
    print("not ok" if wrong else "ok", "1 - P5 the service is compiled for LSE whole: no exclusive loops")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
