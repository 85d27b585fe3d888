#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes one bootable file of a Tagstash image, the guest's kernel and, if wanted, a ramdisk, boot arguments and an overlay.

The file begins with the image's header, which asks for the memory of all of it: whatever starts an arm64 Linux Image at EL2
starts the file, and nothing else has to be loaded or written into the device tree. docs/boards.md says more.

    python3 boot/pack.py Image -o board.img --initrd initrd.img --bootargs 'console=ttyAMA0' --overlay my.dtso
    python3 boot/pack.py --show board.img
"""

from __future__ import annotations

import argparse
import hashlib
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from embed import BUILD, EmbedError, filled, find_slot, read_overlay, write

# The table, as src/appended.rs has it.
MAGIC = b"TAGSTASH-PAYLOAD"
SEAL_MAGIC = b"TAGSTASH-PACKED."
HEAD = 128
# Behind the magic: room, length of the boot arguments, memory of the shim, kernel, ramdisk, seal, nothing, hash.
FIELDS = "<II6QQ16s"

PAGE = 4 << 10
# What Images are aligned to, and text_offset of kernels before 3.17, whose header says no size.
ALIGNMENT = 2 << 20
OLD_TEXT_OFFSET = 0x8_0000
# A file larger than this is a mistake, not a kernel.
LARGEST = 1 << 30

COMPRESSED = [(b"\x1f\x8b", "gzip"), (b"BZh", "bzip2"), (b"\xfd7zXZ\0", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"),
              (b"\x02\x21\x4c\x18", "lz4"), (b"\x89LZO", "lzo")]


def aligned(value: int, alignment: int) -> int:
    """Rounds up."""
    return -(-value // alignment) * alignment


def read(path: Path, what: str) -> bytes:
    """Reads a file that is to be packed."""
    try:
        size = path.stat().st_size
        if size > LARGEST:
            raise EmbedError(f"{what} {path} has {size} bytes, more than {LARGEST}")
        data = path.read_bytes()
    except OSError as error:
        raise EmbedError(f"{what} {path}: {error.strerror}") from None
    if not data:
        raise EmbedError(f"{what} {path} is empty")
    return data


@dataclass(frozen=True)
class Kernel:
    """A kernel that was found to be an Image, and what its header asks for."""

    data: bytes
    text_offset: int
    size: int


def read_kernel(path: Path) -> Kernel:
    """Reads the guest's kernel, which the shim will start as it is."""
    data = read(path, "kernel")
    for magic, name in COMPRESSED:
        if data.startswith(magic):
            raise EmbedError(f"kernel {path} is compressed ({name}): unpack it first; the shim unpacks nothing")
    if data[:2] == b"MZ" and data[4:8] == b"zimg":
        raise EmbedError(f"kernel {path} is compressed (EFI zboot): pack the Image that it was made of")
    if data[:4] == b"\x7fELF":
        raise EmbedError(f"kernel {path} is an ELF file: pack arch/arm64/boot/Image instead of vmlinux")
    if data[:4] == b"\x27\x05\x19\x56":
        raise EmbedError(f"kernel {path} is a uImage: pack the Image that it was made of")
    if len(data) < 64 or data[0x38:0x3C] != b"ARM\x64":
        raise EmbedError(f"kernel {path} has no arm64 Image header: pack an uncompressed Image")
    text_offset, size, flags = struct.unpack_from("<QQQ", data, 8)
    if flags & 1:
        raise EmbedError(f"kernel {path} is a big-endian Image, which cannot run")
    if size == 0:
        return Kernel(data, OLD_TEXT_OFFSET, len(data))
    if text_offset >= ALIGNMENT or size > LARGEST:
        raise EmbedError(f"kernel {path}: its header cannot be true (text_offset {text_offset:#x}, image_size {size:#x})")
    return Kernel(data, text_offset, max(size, len(data)))


@dataclass(frozen=True)
class Table:
    """The table in an image: its offset, its room, and what it says."""

    offset: int
    room: int
    bootargs: bytes
    shim: int
    kernel: tuple[int, int]
    ramdisk: tuple[int, int]
    seal: int
    digest: bytes


def find_table(image: bytes, path: Path) -> Table:
    """Finds the table in an image, and checks it."""
    offset = image.find(MAGIC)
    while offset >= 0 and offset % 64:
        offset = image.find(MAGIC, offset + 1)
    if offset < 0 or offset + HEAD > len(image):
        raise EmbedError(f"image {path} has no table for appended pieces: is it a Tagstash image of this version?")
    room, length, shim, *numbers, _, digest = struct.unpack_from(FIELDS, image, offset + len(MAGIC))
    if offset + HEAD + room > len(image) or length > room:
        raise EmbedError(f"image {path}: the table for appended pieces at {offset:#x} is damaged: build the image again")
    bootargs = image[offset + HEAD:offset + HEAD + length]
    return Table(offset, room, bootargs, shim, (numbers[0], numbers[1]), (numbers[2], numbers[3]), numbers[4], digest)


def digest_of(kernel: bytes, ramdisk: bytes, bootargs: bytes) -> bytes:
    """Returns the hash that ties the seal to the pieces."""
    digest = hashlib.sha256()
    for piece in (kernel, ramdisk, bootargs):
        digest.update(struct.pack("<Q", len(piece)))
        digest.update(piece)
    return digest.digest()[:16]


def packed(image: bytes, path: Path, kernel: Kernel, ramdisk: bytes, bootargs: bytes) -> bytes:
    """Returns the one file."""
    table = find_table(image, path)
    if table.shim:
        raise EmbedError(f"image {path} has pieces appended already: pack the image that `make image` builds")
    if len(bootargs) > table.room - 1:
        raise EmbedError(f"the boot arguments have {len(bootargs)} bytes, and there is room for {table.room - 1}")
    shim, = struct.unpack_from("<Q", image, 16)
    if shim % PAGE or not len(image) <= shim <= LARGEST:
        raise EmbedError(f"image {path}: image_size {shim:#x} of its header cannot be true")
    # The ramdisk first, so that the memory behind the kernel's file, its bss, takes no room in this one.
    ramdisk_at = shim if ramdisk else 0
    kernel_at = aligned(shim + len(ramdisk), ALIGNMENT) + kernel.text_offset
    seal_at = aligned(kernel_at + len(kernel.data), 64)
    digest = digest_of(kernel.data, ramdisk, bootargs)
    out = bytearray(image)
    struct.pack_into(FIELDS, out, table.offset + len(MAGIC), table.room, len(bootargs), shim, kernel_at, len(kernel.data),
                     ramdisk_at, len(ramdisk), seal_at, 0, digest)
    out[table.offset + HEAD:table.offset + HEAD + len(bootargs)] = bootargs
    for at, piece in ((ramdisk_at, ramdisk), (kernel_at, kernel.data), (seal_at, SEAL_MAGIC + digest)):
        if piece:
            out += bytes(at - len(out)) + piece
    struct.pack_into("<Q", out, 16, aligned(max(kernel_at + kernel.size, len(out)), PAGE))
    return bytes(out)


def show(image: bytes, path: Path) -> None:
    """Says what an image carries, having checked it."""
    table = find_table(image, path)
    if not table.shim:
        print(f"{path}: nothing is appended")
        return
    for name, (at, length) in (("kernel", table.kernel), ("ramdisk", table.ramdisk)):
        if length and not table.shim <= at <= at + length <= table.seal:
            raise EmbedError(f"image {path}: the {name} at {at:#x}, {length} bytes, is not between shim and seal: pack it again")
    if image[table.seal:] != SEAL_MAGIC + table.digest:
        raise EmbedError(f"image {path} has {len(image)} bytes, and should end at {table.seal + 32}: it is cut off or damaged")
    pieces = [image[at:at + length] for at, length in (table.kernel, table.ramdisk)]
    if digest_of(*pieces, table.bootargs) != table.digest:
        raise EmbedError(f"image {path}: kernel, ramdisk or boot arguments are not those that were packed: pack them again")
    memory, = struct.unpack_from("<Q", image, 16)
    print(f"{path}: {len(image)} bytes, {memory} of memory")
    for name, (at, length) in (("kernel", table.kernel), ("ramdisk", table.ramdisk)):
        print(f"  {name}: " + (f"{length} bytes at offset {at:#x}" if length else "none"))
    print(f"  boot arguments: {table.bootargs.decode() if table.bootargs else 'none, those of the loader count'}")


def checked_bootargs(text: Optional[str]) -> bytes:
    """Checks the boot arguments."""
    text = text or ""
    if "\n" in text or "\0" in text:
        raise EmbedError("the boot arguments have to be one line")
    return text.encode()


def main() -> int:
    """Does what the command line says; returns the process's exit status."""
    summary, rest = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kernel", type=Path, nargs="?", help="the guest's kernel, an uncompressed arm64 Image")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="the file to make")
    parser.add_argument("--image", type=Path, default=BUILD / "tagstash.img", metavar="FILE",
                        help="the shim, as `make image` builds it (default: build/tagstash.img)")
    parser.add_argument("--initrd", type=Path, metavar="FILE", help="initial ramdisk for the guest")
    parser.add_argument("--bootargs", metavar="TEXT", help="boot arguments for the guest (default: those of the loader)")
    parser.add_argument("--overlay", type=Path, metavar="FILE", help="device-tree overlay, as boot/embed.py takes it")
    parser.add_argument("--show", type=Path, metavar="FILE", help="check a packed file and say what is in it")
    options = parser.parse_args()
    try:
        if options.show:
            if options.kernel or options.output:
                parser.error("--show packs nothing: leave the kernel and --output out")
            show(read(options.show, "image"), options.show)
            return 0
        if not options.kernel or not options.output:
            parser.error("a kernel and --output have to be given")
        if not options.image.exists():
            raise EmbedError(f"image {options.image} is not there: `make image` builds it")
        image = read(options.image, "image")
        slot = find_slot(image, options.image)
        if options.overlay:
            overlay = read_overlay(options.overlay)
            if slot.length:
                raise EmbedError(f"image {options.image} carries an overlay already: take it out first, with boot/embed.py --remove")
            if len(overlay) > slot.room:
                raise EmbedError(f"overlay {options.overlay} has {len(overlay)} bytes, and the image has room for {slot.room}")
            image = filled(image, slot, overlay)
        kernel = read_kernel(options.kernel)
        ramdisk = read(options.initrd, "ramdisk") if options.initrd else b""
        out = packed(image, options.image, kernel, ramdisk, checked_bootargs(options.bootargs))
        write(options.output, out)
        print(f"pack: {options.output}: {len(out)} bytes")
        return 0
    except EmbedError as error:
        print(f"pack: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"pack: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
