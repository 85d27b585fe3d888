# SPDX-License-Identifier: MIT OR Apache-2.0
"""Reads what debugging needs from a linked bare-metal program: its build id and its functions."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Iterator, Optional

PT_LOAD, PT_NOTE = 1, 4
PF_X = 1
NT_GNU_BUILD_ID = 3
SHT_SYMTAB = 2
STT_FUNC = 2
# Global and without a type: what assembly exports.
EXPORTED = 1 << 4


class ElfError(Exception):
    """What is wrong with the file."""


@dataclass(frozen=True)
class Function:
    """A function's symbol; the address is the one that it was linked at."""

    name: str
    address: int
    size: int


class Elf:
    """A 64-bit little-endian ELF file."""

    def __init__(self, data: bytes) -> None:
        """Checks the header."""
        if data[:6] != b"\x7fELF\x02\x01":
            raise ElfError("it is not a 64-bit little-endian ELF file")
        self.data = data

    def segments(self, wanted: int) -> Iterator[tuple[int, int, bytes]]:
        """Lists the flags, address and bytes of each segment of a type."""
        (table,) = self.unpack("<Q", 0x20)
        size, count = self.unpack("<HH", 0x36)
        for index in range(count):
            kind, flags, offset, address, _, length = self.unpack("<IIQQQQ", table + size * index)
            if kind == wanted:
                yield flags, address, self.data[offset:offset + length]

    def build_id(self) -> Optional[bytes]:
        """Returns the linker's hash of the program, if it was asked to leave one."""
        for _, _, note in self.segments(PT_NOTE):
            if len(note) >= 16 and note[12:16] == b"GNU\0":
                name, length, kind = struct.unpack_from("<III", note)
                if name == 4 and kind == NT_GNU_BUILD_ID:
                    return note[16:16 + length]
        return None

    def code(self) -> tuple[int, bytes]:
        """Returns the address and the bytes of the executable segment."""
        for flags, address, data in self.segments(PT_LOAD):
            if flags & PF_X:
                return address, data
        raise ElfError("it has no executable segment")

    def functions(self) -> list[Function]:
        """Lists the functions and what assembly exports, by address."""
        (table,) = self.unpack("<Q", 0x28)
        size, count = self.unpack("<HH", 0x3A)
        headers = [self.unpack("<IIQQQQIIQQ", table + size * index) for index in range(count)]
        found: list[Function] = []
        for _, kind, _, _, offset, length, link, _, _, entry in headers:
            if kind != SHT_SYMTAB:
                continue
            names = headers[link][4]
            for at in range(offset, offset + length, entry):
                name, info, _, section, address, extent = self.unpack("<IBBHQQ", at)
                if section and (info & 15 == STT_FUNC or info == EXPORTED):
                    end = self.data.index(b"\0", names + name)
                    found.append(Function(self.data[names + name:end].decode(), address, extent))
        return sorted(found, key=lambda function: function.address)

    def unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        """Reads numbers at an offset of the file."""
        try:
            return struct.unpack_from(layout, self.data, offset)
        except struct.error:
            raise ElfError(f"it is cut off at {len(self.data)} bytes") from None
