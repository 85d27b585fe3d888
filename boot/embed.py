#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Puts a device-tree overlay into a Tagstash image that has been built, takes it out, or shows it.

The image has a place for one overlay, which the shim applies to the loader's device tree before it reads it. The overlay is
a source (.dtso or .dts, with /plugin/ in it), which is compiled with dtc, or a blob (.dtbo). docs/overlay.md says what
belongs into it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("TAGSTASH_BUILD", ROOT / "build")).resolve()

# The place, as src/el2/slot.rs has it: magic, bytes of room, bytes of the overlay; the rest of the head is 0.
MAGIC = b"TAGSTASH-OVERLAY"
HEAD = 64

FDT_MAGIC = 0xD00D_FEED
FDT_HEADER = 40
BEGIN_NODE, END_NODE, PROPERTY, NOP, END = 1, 2, 3, 4, 9


class EmbedError(Exception):
    """What is wrong with a file, and what to do about it."""


# --------------------------------------------------------------------------------------------------------------------
# The overlay


def compiled(source: Path) -> bytes:
    """Compiles an overlay's source."""
    try:
        tool = json.loads((BUILD / "tools.json").read_text())["dtc"]
        command, env = list(tool["argv"]), dict(tool["env"])
    except (OSError, ValueError, KeyError, TypeError):
        found = shutil.which("dtc")
        if not found:
            raise EmbedError(f"{source} is a source and there is no dtc to compile it: run `make setup`") from None
        command, env = [found], {}
    with tempfile.TemporaryDirectory() as directory:
        blob = Path(directory) / "overlay.dtbo"
        # -q: overlays leave cell counts to the tree they are for, which dtc warns of.
        command += ["-q", "-@", "-I", "dts", "-O", "dtb", "-o", str(blob), str(source)]
        try:
            done = subprocess.run(command, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, errors="replace", timeout=60, check=False)
        except OSError as error:
            raise EmbedError(f"{command[0]} does not start ({error.strerror}): run `make setup` again") from None
        except subprocess.TimeoutExpired:
            raise EmbedError(f"{source}: {command[0]} did not end within 60 s") from None
        if done.returncode != 0 or not blob.is_file():
            raise EmbedError(f"{source} does not compile:\n" + "\n".join("    " + line for line in
                                                                         done.stdout.strip().splitlines()[-8:]))
        return blob.read_bytes()


def fragments(data: bytes, what: Path | str) -> list[str]:
    """Names the fragments of an overlay's blob, having looked whether it is one."""
    if len(data) < FDT_HEADER or struct.unpack_from(">I", data)[0] != FDT_MAGIC:
        raise EmbedError(f"{what} is no device-tree blob: it does not begin with {FDT_MAGIC:#x}; is it a source, whose "
                         f"name should end in .dtso?")
    total, structure, _, _, version, oldest = struct.unpack_from(">6I", data, 4)
    if total > len(data) or total < FDT_HEADER:
        raise EmbedError(f"{what} has {len(data)} bytes, but its header says {total}: it is cut off")
    if not oldest <= 17 <= version:
        raise EmbedError(f"{what} has version {version}, not 17: compile it with a newer dtc")
    found: list[str] = []
    depth, offset = 0, structure
    try:
        while True:
            token, = struct.unpack_from(">I", data, offset)
            offset += 4
            if token == BEGIN_NODE:
                end = data.index(b"\0", offset, total)
                name = data[offset:end].decode("ascii")
                offset = (end + 4) & ~3
                depth += 1
                if depth == 2 and name.split("@")[0] == "fragment":
                    found.append(name)
                elif depth == 2 and name not in ("__symbols__", "__fixups__", "__local_fixups__"):
                    raise EmbedError(f"{what} is no overlay: /{name} is no fragment; is /plugin/ in its source?")
            elif token == END_NODE:
                depth -= 1
            elif token == PROPERTY:
                length, = struct.unpack_from(">I", data, offset)
                offset = (offset + 8 + length + 3) & ~3
            elif token == END:
                break
            elif token != NOP:
                raise ValueError
    except (struct.error, ValueError):
        raise EmbedError(f"{what} is malformed: its structure block is cut off or has a bad token") from None
    if not found:
        raise EmbedError(f"{what} is no overlay: it has no fragment; is /plugin/ in its source?")
    return found


def read_overlay(path: Path) -> bytes:
    """Reads an overlay, compiled if it is a source, and checks it."""
    if not path.is_file():
        raise EmbedError(f"overlay {path} is not there")
    data = compiled(path) if path.suffix in (".dtso", ".dts") else path.read_bytes()
    fragments(data, path)
    return data[:struct.unpack_from(">I", data, 4)[0]]


# --------------------------------------------------------------------------------------------------------------------
# The image


@dataclass(frozen=True)
class Slot:
    """The place in an image: its offset, its room in bytes, and what is in it."""

    offset: int
    room: int
    length: int

    @property
    def start(self) -> int:
        """Returns where the overlay is."""
        return self.offset + HEAD


def find_slot(image: bytes, path: Path) -> Slot:
    """Finds the place in an image, and checks it."""
    if image[:4] == b"\x7fELF":
        raise EmbedError(f"image {path} is an ELF file: the place is in the raw image, build/tagstash.img")
    if len(image) < 64 or image[0x38:0x3C] != b"ARM\x64":
        raise EmbedError(f"image {path} has no arm64 Image header: is it build/tagstash.img?")
    places = []
    offset = image.find(MAGIC)
    while offset >= 0:
        if offset % HEAD == 0:
            places.append(offset)
        offset = image.find(MAGIC, offset + 1)
    if len(places) != 1:
        raise EmbedError(f"image {path} has {len(places)} places for an overlay instead of one: is it a Tagstash image of "
                         f"this version?")
    room, length = struct.unpack_from("<II", image, places[0] + len(MAGIC)) if len(image) >= places[0] + HEAD else (0, 0)
    slot = Slot(places[0], room, length)
    if room == 0 or slot.start + room > len(image) or length > room:
        raise EmbedError(f"image {path}: the place for an overlay at {slot.offset:#x} is damaged ({room} bytes of room, "
                         f"{length} in use, the image ends at {len(image):#x}): build the image again")
    return slot


def filled(image: bytes, slot: Slot, overlay: bytes) -> bytes:
    """Returns the image with this overlay in its place; an empty one leaves the place as it is built."""
    out = bytearray(image)
    struct.pack_into("<I", out, slot.offset + len(MAGIC) + 4, len(overlay))
    out[slot.start:slot.start + slot.room] = overlay.ljust(slot.room, b"\0")
    return bytes(out)


def write(path: Path, image: bytes) -> None:
    """Writes the image, all of it or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(image)
    partial.replace(path)


def main() -> int:
    """Does what the command line says; returns the process's exit status."""
    summary, rest = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=rest)
    parser.add_argument("image", type=Path, help="the image, as `make image` builds it")
    parser.add_argument("overlay", type=Path, nargs="?", help="the overlay: .dtbo, or .dtso to be compiled")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="where the new image goes; may be the old one")
    parser.add_argument("--remove", action="store_true", help="take the overlay out")
    parser.add_argument("--show", action="store_true", help="say what the image carries")
    options = parser.parse_args()
    if sum([options.overlay is not None, options.remove, options.show]) != 1:
        parser.error("one of an overlay, --remove and --show has to be given")
    if options.show != (options.output is None):
        parser.error("--show writes nothing: leave --output out" if options.show else "-o says where the new image goes")
    try:
        image = options.image.read_bytes()
        slot = find_slot(image, options.image)
        if options.show:
            if not slot.length:
                print(f"{options.image}: no overlay, {slot.room} bytes of room")
                return 0
            names = fragments(image[slot.start:slot.start + slot.length], f"the overlay in {options.image}")
            print(f"{options.image}: overlay of {slot.length} bytes, {slot.room} bytes of room: {', '.join(names)}")
            return 0
        if options.remove:
            if not slot.length:
                raise EmbedError(f"image {options.image} carries no overlay")
            write(options.output, filled(image, slot, b""))
            return 0
        overlay = read_overlay(options.overlay)
        if slot.length:
            raise EmbedError(f"image {options.image} carries an overlay of {slot.length} bytes already: take it out first, "
                             f"with --remove")
        if len(overlay) > slot.room:
            raise EmbedError(f"overlay {options.overlay} has {len(overlay)} bytes, and the image has room for {slot.room}")
        write(options.output, filled(image, slot, overlay))
        print(f"embed: {options.output}: overlay of {len(overlay)} bytes")
        return 0
    except EmbedError as error:
        print(f"embed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"embed: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
