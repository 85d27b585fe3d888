#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Turns a bare-metal ELF program into the raw image that boot loaders expect.

The image holds the loadable segments at their virtual addresses, counted from the lowest one. Memory that is zero at
the start and takes no room in the file (bss, stacks) is left out at the end: the image's own header says how much memory
it needs.
"""

from __future__ import annotations

import argparse
import os
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

PT_LOAD = 1
PT_INTERP = 3
EM_AARCH64 = 183
LARGEST = 64 << 20


class FlattenError(Exception):
    """What is wrong with the program."""


@dataclass(frozen=True)
class Segment:
    """A loadable segment."""

    offset: int
    address: int
    file_size: int
    memory_size: int


def segments(data: bytes) -> tuple[int, list[Segment]]:
    """Reads the entry point and the loadable segments of an ELF program, lowest address first."""
    if data[:4] != b"\x7fELF":
        raise FlattenError("it is not an ELF file")
    if len(data) < 64 or data[4] != 2 or data[5] != 1:
        raise FlattenError("it is not a 64-bit little-endian ELF file")
    machine, = struct.unpack_from("<H", data, 18)
    if machine != EM_AARCH64:
        raise FlattenError(f"it is for machine {machine}, not for AArch64 ({EM_AARCH64})")
    entry, table = struct.unpack_from("<QQ", data, 24)
    entry_size, count = struct.unpack_from("<HH", data, 54)
    if count == 0 or entry_size < 56 or table + count * entry_size > len(data):
        raise FlattenError("its table of segments is missing or cut off")
    found: list[Segment] = []
    for index in range(count):
        kind, _, offset, address, _, file_size, memory_size, _ = struct.unpack_from("<IIQQQQQQ", data,
                                                                                    table + index * entry_size)
        if kind == PT_INTERP:
            raise FlattenError("it asks for a dynamic loader, so it is no bare-metal program")
        if kind != PT_LOAD or memory_size == 0:
            continue
        if file_size > memory_size or offset + file_size > len(data):
            raise FlattenError(f"segment {index} is cut off or larger in the file than in memory")
        found.append(Segment(offset, address, file_size, memory_size))
    if not any(segment.file_size for segment in found):
        raise FlattenError("it has nothing to load")
    return entry, sorted(found, key=lambda segment: segment.address)


def flatten(data: bytes) -> bytes:
    """Returns the raw image of an ELF program whose entry point is its first byte."""
    entry, loads = segments(data)
    start = loads[0].address
    for lower, upper in zip(loads, loads[1:]):
        if lower.address + lower.memory_size > upper.address:
            raise FlattenError(f"the segments at {lower.address:#x} and {upper.address:#x} overlap")
    if entry != start:
        raise FlattenError(f"its entry point is {entry:#x} and not its first byte, {start:#x}: a raw image is entered there")
    size = max(segment.address + segment.file_size - start for segment in loads if segment.file_size)
    if size > LARGEST:
        raise FlattenError(f"the image would be {size} bytes: segments far apart, at "
                           + ", ".join(f"{segment.address:#x}" for segment in loads))
    image = bytearray(size)
    for segment in loads:
        place = segment.address - start
        image[place:place + segment.file_size] = data[segment.offset:segment.offset + segment.file_size]
    return bytes(image)


def main() -> int:
    """Converts one file; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("elf", type=Path, help="the linked program")
    parser.add_argument("image", type=Path, help="the raw image to write")
    options = parser.parse_args()
    try:
        image = flatten(options.elf.read_bytes())
        if options.image.exists() and options.image.read_bytes() == image:
            os.utime(options.image)
        else:
            options.image.parent.mkdir(parents=True, exist_ok=True)
            partial = options.image.with_name(options.image.name + ".partial")
            partial.write_bytes(image)
            partial.replace(options.image)
    except FlattenError as error:
        print(f"flatten: {options.elf}: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"flatten: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
