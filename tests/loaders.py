#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tests what brings shim and guest into memory together; results in the Test Anything Protocol.

  tools     boot/pack.py, boot/disk.py and boot/fit.py: what they make, and what they refuse
  boot      packed files that are damaged, or compete with what /chosen names: what the shim says, and how it goes on
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Callable, Optional

import tap
from tap import Failed, Skip

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
BOOT = ROOT / "boot"
IMAGE = BUILD / "tagstash.img"
HARNESS = BUILD / "harness.img"
MIB = 1 << 20

# The table, as src/appended.rs has it.
TABLE = b"TAGSTASH-PAYLOAD"
ARGUMENTS_LENGTH, SHIM, KERNEL, RAMDISK, SEAL, HASH, HEAD = 20, 24, 32, 48, 64, 80, 128


def run(command: list[str], env: Optional[dict[str, str]] = None) -> tuple[int, str]:
    """Runs a command to its end; returns its status and what it printed."""
    done = subprocess.run(command, env={**os.environ, **(env or {})}, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", timeout=200, check=False)
    return done.returncode, done.stdout


def script(name: str, *arguments: object) -> tuple[int, str]:
    """Runs one of the tools."""
    return run([sys.executable, str(BOOT / name), *map(str, arguments)])


def expect(result: tuple[int, str], status: int, text: str) -> None:
    """Checks how a tool ended and what it said."""
    if result[0] != status or text not in result[1] or "Traceback" in result[1]:
        raise Failed(f"status {result[0]} instead of {status}, or no '{text}': {result[1]}")


def check(condition: bool, text: str) -> None:
    """Fails unless the condition holds."""
    if not condition:
        raise Failed(text)


def word(data: bytes, offset: int) -> int:
    """Reads 64 bits."""
    return int(struct.unpack_from("<Q", data, offset)[0])


def image_of(size: int, text_offset: int = 0, flags: int = 0xA, fill: bytes = b"\xd4") -> bytes:
    """Makes an Image that cannot run, with an image_size of twice its length."""
    header = struct.pack("<IIQQQ", 0, 0, text_offset, 2 * size, flags) + bytes(24) + b"ARM\x64" + bytes(4)
    return header + fill * (size - len(header))


def file(directory: Path, name: str, data: bytes) -> Path:
    """Writes a file."""
    path = directory / name
    path.write_bytes(data)
    return path


def tool(entry: str) -> tuple[list[str], dict[str, str]]:
    """Returns a tool as set-up chose it."""
    try:
        known = json.loads((BUILD / "tools.json").read_text())[entry]
        return list(known["argv"]), dict(known["env"])
    except (OSError, ValueError, KeyError, TypeError):
        raise Skip(f"{entry} is not there: python3 qemu/setup.py --only u-boot") from None


# --------------------------------------------------------------------------------------------------------------------
# The tools


def packs(directory: Path) -> None:
    """Packs, and looks where everything is."""
    kernel = file(directory, "Image", image_of(3 * MIB + 123, 0x8_0000))
    ramdisk = file(directory, "initrd", b"ramdisk!" * 40_001)
    out = directory / "out.img"
    words = "console=ttyAMA0 root=/dev/vda1"
    expect(script("pack.py", kernel, "-o", out, "--initrd", ramdisk, "--bootargs", words), 0, "pack: ")
    before, after = IMAGE.read_bytes(), out.read_bytes()
    at = after.index(TABLE)
    shim = word(before, 16)
    check(word(after, at + SHIM) == shim, "the table has another size of the shim than its header")
    check(before[:16] == after[:16] and before[24:at + 16] == after[24:at + 16]
          and before[at + HEAD + 2048:] == after[at + HEAD + 2048:len(before)], "the shim's own bytes changed")
    where = {}
    for name, offset, path in (("kernel", KERNEL, kernel), ("ramdisk", RAMDISK, ramdisk)):
        start, length = word(after, at + offset), word(after, at + offset + 8)
        check(after[start:start + length] == path.read_bytes(), f"the {name} is not where the table says")
        check(start >= shim, f"the {name} lies in the memory of the shim")
        where[name] = (start, start + length)
    check(where["kernel"][0] % (2 * MIB) == 0x8_0000, "the kernel is not aligned as its header asks")
    check(where["ramdisk"][1] <= where["kernel"][0], "the pieces overlap")
    seal = word(after, at + SEAL)
    check(after[seal:] == b"TAGSTASH-PACKED." + after[at + HASH:at + HASH + 16], "the seal does not end the file")
    # Bss of the kernel included, and of nothing more.
    check(word(after, 16) == -(-(where["kernel"][0] + 2 * (3 * MIB + 123)) // 4096) * 4096, "image_size is not that of all pieces")
    arguments = after[at + HEAD:at + HEAD + struct.unpack_from("<I", after, at + ARGUMENTS_LENGTH)[0]]
    check(arguments.decode() == words, f"the boot arguments are {arguments!r}")
    expect(script("pack.py", "--show", out), 0, words)
    expect(script("pack.py", "--show", IMAGE), 0, "nothing is appended")
    # Without the rest, and with an overlay, which embed.py finds again.
    expect(script("pack.py", kernel, "-o", out, "--overlay", BOOT / "qemu-virt.dtso"), 0, "pack: ")
    expect(script("pack.py", "--show", out), 0, "ramdisk: none")
    expect(script("embed.py", out, "--show"), 0, "fragment@0")
    expect(script("pack.py", kernel, "-o", directory / "again.img", "--image", out), 1, "pieces appended already")
    second = directory / "second.img"
    expect(script("pack.py", kernel, "-o", second, "--overlay", BOOT / "qemu-virt.dtso"), 0, "pack: ")
    check(second.read_bytes() == out.read_bytes(), "the same pieces make two different files")


def pack_refuses(directory: Path) -> None:
    """Gives the tool what it cannot pack: each time a message, and no file."""
    good = file(directory, "good", image_of(8192))
    out = directory / "out.img"
    kernels = [
        (b"\x1f\x8b" + bytes(100), "compressed (gzip)"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "compressed (zstd)"),
        (b"MZ\0\0zimg" + bytes(100), "compressed (EFI zboot)"),
        (b"\x7fELF" + bytes(100), "is an ELF file"),
        (b"\x27\x05\x19\x56" + bytes(100), "is a uImage"),
        (b"text" * 40, "has no arm64 Image header"),
        (image_of(8192)[:63], "has no arm64 Image header"),
        (image_of(8192, flags=0xB), "big-endian"),
        (image_of(8192, text_offset=2 * MIB), "its header cannot be true"),
        (image_of(8192)[:16] + struct.pack("<Q", 1 << 40) + image_of(8192)[24:], "its header cannot be true"),
        (b"", "is empty"),
    ]
    for number, (data, text) in enumerate(kernels):
        expect(script("pack.py", file(directory, f"kernel{number}", data), "-o", out), 1, text)
    image = IMAGE.read_bytes()
    table = image.index(TABLE)
    damaged = image[:table + 16] + struct.pack("<I", 1 << 30) + image[table + 20:]
    others: list[tuple[list[object], str]] = [
        ([directory / "gone"], "No such file"),
        ([good, "--initrd", directory / "gone"], "No such file"),
        ([good, "--initrd", file(directory, "empty", b"")], "is empty"),
        ([good, "--bootargs", "a\nb"], "one line"),
        ([good, "--bootargs", "x" * 2048], "room for 2047"),
        ([good, "--overlay", directory / "gone.dtbo"], "is not there"),
        ([good, "--image", directory / "gone.img"], "`make image` builds it"),
        ([good, "--image", HARNESS], "0 places for an overlay"),
        ([good, "--image", file(directory, "old.img", image.replace(TABLE, bytes(16)))], "has no table for appended pieces"),
        ([good, "--image", file(directory, "damaged.img", damaged)], "is damaged"),
        ([good, "--image", file(directory, "size.img", image[:16] + bytes(8) + image[24:])], "image_size 0x0"),
    ]
    for arguments, text in others:
        expect(script("pack.py", *arguments, "-o", out), 1, text)
    check(not out.exists(), "a file was written all the same")
    expect(script("pack.py", good, "-o", out, "--bootargs", "x" * 2047), 0, "pack: ")
    for arguments in ([good], ["-o", out], [good, "-o", out, "--show", out]):
        expect(script("pack.py", *arguments), 2, "error:")


def show_checks(directory: Path) -> None:
    """Damages a packed file: --show says so."""
    out = directory / "out.img"
    kernel, ramdisk = file(directory, "Image", image_of(8192)), file(directory, "initrd", b"x" * 5000)
    expect(script("pack.py", kernel, "-o", out, "--initrd", ramdisk, "--bootargs", "quiet"), 0, "pack: ")
    data = out.read_bytes()
    at = data.index(TABLE)
    for offset in (word(data, at + KERNEL) + 8191, word(data, at + RAMDISK), at + HEAD):
        flipped = data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1:]
        expect(script("pack.py", "--show", file(directory, "flipped.img", flipped)), 1, "not those that were packed")
    for length in (len(data) - 1, len(data) - 33, word(data, at + KERNEL) + 1):
        expect(script("pack.py", "--show", file(directory, "cut.img", data[:length])), 1, "is cut off")
    expect(script("pack.py", "--show", file(directory, "more.img", data + b"\0")), 1, "should end at")


def makes_disks(directory: Path) -> None:
    """Makes a disk, and reads it again."""
    argv, env = tool("mtools")
    tool("u-boot")
    files = {"Image": image_of(40 * MIB), "initrd.img": b"ramdisk" * 1000}
    kernel, initrd = (file(directory, name, data) for name, data in files.items())
    disk = directory / "disk.img"
    words = "console=ttyAMA0 root=/dev/vda1"
    expect(script("disk.py", "-o", disk, "--kernel", kernel, "--initrd", initrd, "--bootargs", words, "--set", "tree_addr=0x1000"), 0,
           "boot.scr, tagstash.img, Image, initrd.img, tagstash.env")
    with open(disk, "rb") as data:
        sector = data.read(512)
    check(sector[510:] == b"\x55\xaa", "there is no partition table")
    active, kind, start, sectors = struct.unpack_from("<B3xB3xII", sector, 446)
    check((active, kind, start) == (0x80, 0x0C, 2048) and sector[462:510] == bytes(48), f"the partition is {active:#x} {kind:#x} {start}")
    check((start + sectors) * 512 == disk.stat().st_size, "the partition does not end where the disk ends")
    files["tagstash.img"] = IMAGE.read_bytes()
    files["tagstash.env"] = f"guest_bootargs={words}\ntree_addr=0x1000\n".encode()
    for name, wanted in files.items():
        out = directory / "out"
        status, text = run([*argv, "-c", "mcopy", "-n", "-i", f"{disk}@@{start * 512}", f"::{name}", str(out)],
                           {**env, "MTOOLS_SKIP_CHECK": "1"})
        check(status == 0 and out.read_bytes() == wanted, f"{name} does not come out of the disk as it went in: {text}")
        out.unlink()
    # A legacy image of a script, whose text is boot.cmd.
    status, text = run([*argv, "-c", "mcopy", "-n", "-i", f"{disk}@@{start * 512}", "::boot.scr", str(directory / "scr")],
                       {**env, "MTOOLS_SKIP_CHECK": "1"})
    check(status == 0 and (directory / "scr").read_bytes().endswith((BOOT / "boot.cmd").read_bytes()), f"boot.scr is not boot.cmd: {text}")
    missing = directory / "none.img"
    for arguments, text in (([], "--kernel"), (["--size", "10"], "is too small"), (["--set", "x y=1"], "is not NAME=VALUE"),
                            (["--bootargs", "a\nb"], "one line"), (["--image", directory / "gone"], "is not there"),
                            (["--initrd", file(directory, "empty", b"")], "is empty")):
        if arguments:
            expect(script("disk.py", "-o", missing, "--kernel", kernel, *arguments), 1, text)
    # The guest's kernel is beside the image or in it, and its boot arguments go with it.
    expect(script("disk.py", "-o", missing), 1, "there is no kernel for the guest")
    expect(script("disk.py", "-o", missing, "--kernel", kernel, "--image", kernel), 1, "has no table for appended pieces")
    whole, _ = packed(directory)
    expect(script("disk.py", "-o", missing, "--image", whole, "--bootargs", "quiet"), 1, "--bootargs goes with a --kernel")
    check(not missing.exists() and not list(directory.glob("*.partial")), "a disk was written all the same")
    expect(script("disk.py", "-o", missing, "--image", whole, "--initrd", initrd), 0, "boot.scr, tagstash.img, initrd.img")


def makes_fits(directory: Path) -> None:
    """Makes a FIT with and without a ramdisk, and reads it again."""
    mkimage, env = tool("u-boot")
    dumpimage = Path(mkimage[-1]).with_name("dumpimage")
    if not dumpimage.is_file():
        raise Skip(f"{dumpimage} is not there")
    tree = file(directory, "board.dts", b"/dts-v1/; / { chosen { stdout-path = \"/uart\"; }; };")
    kernel, initrd = file(directory, "Image", image_of(MIB)), file(directory, "initrd", b"x" * 7777)
    out, part = directory / "out.itb", directory / "part"
    make = ["-o", out, "--dtb", tree, "--kernel", kernel, "--image", IMAGE, "--bootargs", 'a "b" \\c']
    for more, names in (([], ["shim", "guest", "board"]), (["--initrd", initrd], ["shim", "guest", "ramdisk", "board"])):
        expect(script("fit.py", *make, *more), 0, "fit: ")
        status, text = run([*mkimage, "-l", str(out)], env)
        found = re.findall(r"Image \d+ \((\S+)\)", text)
        check(status == 0 and found == names, f"the FIT has {found}, not {names}: {text}")
        for number, wanted in ((0, IMAGE), (1, kernel)):
            status, text = run([str(dumpimage), "-T", "flat_dt", "-p", str(number), "-o", str(part), str(out)], env)
            check(status == 0 and part.read_bytes() == wanted.read_bytes(), f"{wanted} does not come out as it went in: {text}")
    status, text = run([str(dumpimage), "-T", "flat_dt", "-p", "3", "-o", str(part), str(out)], env)
    dtc, dtc_env = tool("dtc")
    status, text = run([*dtc, "-q", "-I", "dtb", "-O", "dts", str(part)], dtc_env)
    check(status == 0 and f"reg = <0x00 0x41200000 0x00 {MIB:#x}>" in text and 'bootargs = "a \\"b\\" \\\\c"' in text
          and 'stdout-path = "/uart"' in text, f"the module is not in the tree: {text}")
    its = (BOOT / "tagstash.its").read_text()
    bad = file(directory, "bad.its", its.replace("guest {", "other {").encode())
    wrong = file(directory, "wrong.its", its.replace("images {", "images { {").encode())
    none = directory / "none.itb"
    for arguments, text in ((["--its", bad], "no image 'guest'"), (["--its", wrong], "makes no FIT"), (["--dtb", kernel], "is no device tree"),
                            (["--its", directory / "gone.its"], "gone.its"), (["--initrd", directory / "gone"], "is not there"),
                            (["--bootargs", "a\nb"], "one line")):
        expect(script("fit.py", *make[2:], *arguments, "-o", none), 1, text)
    check(not none.exists(), "a FIT was written all the same")


# --------------------------------------------------------------------------------------------------------------------
# On the machine


def machine(image: Path, until: str, *options: object) -> str:
    """Starts an image on QEMU's own machine, until a text shows; returns the console's output."""
    status, text = run([sys.executable, str(ROOT / "qemu" / "run.py"), "--plain", "--image", str(image), "--timeout", "60", "--until",
                        until, *map(str, options)])
    print("".join(f"# {line}\n" for line in text.splitlines()), end="")
    check(status == 0, f"the run ended with status {status}")
    return text


def packed(directory: Path) -> tuple[Path, bytes]:
    """Packs something; returns the file and its bytes."""
    path = directory / "packed.img"
    kernel, ramdisk = file(directory, "Image", image_of(65536)), file(directory, "initrd", b"ramdisk!" * 1000)
    expect(script("pack.py", kernel, "-o", path, "--initrd", ramdisk, "--bootargs", "one"), 0, "pack: ")
    return path, path.read_bytes()


Change = Callable[[bytearray, int], Optional[bytes]]


def put(offset: int, value: int) -> Change:
    """Changes a number of the table."""
    return lambda data, at: struct.pack_into("<Q", data, at + offset, value)


def in_kernel(value: bytes, offset: int = 0) -> Change:
    """Changes bytes of the kernel."""
    def change(data: bytearray, at: int) -> None:
        start = word(data, at + KERNEL) + offset
        data[start:start + len(value)] = value
    return change


def grown(data: bytearray, at: int) -> None:
    """Makes the kernel larger than any RAM, and puts the seal behind it."""
    struct.pack_into("<Q", data, at + KERNEL + 8, 1 << 38)
    struct.pack_into("<Q", data, at + SEAL, 1 << 39)


def bad_text(data: bytearray, at: int) -> None:
    """Makes the boot arguments what is no text."""
    data[at + HEAD] = 0xFF


# What is done to a packed file, and the error that the shim stops with.
DAMAGED: list[tuple[str, Change, str]] = [
    ("its last byte is missing", lambda data, at: data[:-1], r"the end of the packed file is not at 0x40c10000\.\.0x40c10020"),
    ("half of it is missing", lambda data, at: data[:word(data, at + KERNEL) + 100], r"the end of the packed file is not at"),
    ("another hash", lambda data, at: data.__setitem__(at + HASH, data[at + HASH] ^ 1), r"the end of the packed file is not at"),
    ("the table of another image", put(SHIM, 0x1000), r"it is another image's: that takes other memory \(0x1000\)"),
    ("a kernel in the shim", put(KERNEL, 0x1000), r"the kernel begins within the shim \(0x1000\)"),
    ("a kernel over the ramdisk", lambda data, at: put(RAMDISK, word(data, at + KERNEL) + 8)(data, at), r"the ramdisk overlaps the kernel"),
    ("a kernel without bytes", put(KERNEL + 8, 0), r"the kernel has no bytes"),
    ("a kernel of 2^64 - 1 bytes", put(KERNEL + 8, (1 << 64) - 1), r"the kernel wraps around \(0xf{16}\)"),
    ("a kernel past the end", put(KERNEL + 8, 1 << 38), r"the kernel goes past the seal"),
    ("a kernel larger than RAM", grown, r"the kernel at 0x40c00000\.\.0x4040c00000 is not in RAM"),
    ("a ramdisk past the end", put(RAMDISK + 8, 1 << 38), r"the ramdisk goes past the seal"),
    ("boot arguments past their room", lambda data, at: struct.pack_into("<I", data, at + ARGUMENTS_LENGTH, 1 << 31),
     r"the boot arguments are longer than their room \(0x80000000\)"),
    ("boot arguments that are no text", bad_text, r"the boot arguments are no text"),
    ("a kernel that is no Image", in_kernel(bytes(4), 56), r"the kernel module at 0x40c00000\.\.0x40c10000 is not an arm64 Image"),
    ("a compressed kernel", in_kernel(b"\x1f\x8b"), r"the kernel module at 0x40c00000\.\.0x40c10000 is compressed \(gzip\)"),
]


def damaged(directory: Path, change: Change, pattern: str) -> None:
    """Boots a packed file that was changed: the shim says what is wrong, and stops."""
    path, data = packed(directory)
    new = bytearray(data)
    out = change(new, data.index(TABLE))
    path.write_bytes(new if out is None else out)
    text = machine(path, "tagstash: stopped")
    check(re.search(f"tagstash: error: .*{pattern}", text) is not None, f"no error matches '{pattern}'")


def says_nothing_is_there(directory: Path) -> None:
    """Boots the image as it is built."""
    text = machine(IMAGE, "tagstash: stopped")
    check("error: no guest: /chosen has no multiboot,kernel module" in text and "no kernel is appended to the image" in text, "another error")


def module_wins(directory: Path) -> None:
    """Gives the loader's module a packed file to compete with, whole and damaged."""
    path, data = packed(directory)
    report = (" skipped", "--kernel", HARNESS, "--bootargs", "expect=no-storage tagstash.test=UID")
    text = machine(path, *report)
    check(re.search("^# harness complete: [1-9][0-9]* passed, 0 failed", text, re.M) is not None, "the module's guest did not run")
    check("tagstash: what is appended to the image is passed over: /chosen has a multiboot,kernel module" in text, "no message says so")
    new = bytearray(data)
    put(SHIM, 0x1000)(new, data.index(TABLE))
    path.write_bytes(new)
    text = machine(path, *report)
    check(re.search("warning: the image's table of appended pieces is damaged: .*going by the module in /chosen", text) is not None,
          "no warning says so")


def ramdisk_wins(directory: Path) -> None:
    """Gives the loader's ramdisk a packed file to compete with."""
    path, _ = packed(directory)
    text = machine(path, "entering the guest", "--", "-initrd", str(file(directory, "own", b"own" * 1000)))
    check("and a ramdisk that is passed over, because /chosen has one" in text, "no message says so")


def seal_is_cleared(directory: Path) -> None:
    """Looks at RAM once the guest is entered: no seal is there that a cut-off load after a reset could pass for whole by."""
    path, data = directory / "packed.img", b""
    # One that writes nothing: the seal's place may be the guest's to use, and it runs until QEMU has been ended.
    expect(script("pack.py", file(directory, "Image", image_of(65536)), "-o", path), 0, "pack: ")
    data = path.read_bytes()
    ram, size = directory / "ram", 512 * MIB
    machine(path, "tagstash: entering the guest", "--", "-machine", "memory-backend=ram", "-object",
            f"memory-backend-file,id=ram,size={size},mem-path={ram},share=on")
    kernel, seal = (word(data, data.index(TABLE) + offset) for offset in (KERNEL, SEAL))
    with open(ram, "rb") as memory:
        # Where QEMU puts an Image.
        memory.seek(2 * MIB + kernel)
        check(memory.read(64) == data[kernel:kernel + 64], "the kernel is not where it was loaded")
        memory.seek(2 * MIB + seal)
        check(memory.read(32) == bytes(32), "the seal is still there")


def in_a_directory(test: Callable[[Path], None]) -> None:
    """Runs a test with a directory of its own."""
    with tempfile.TemporaryDirectory() as directory:
        test(Path(directory))


def main() -> int:
    """Runs the tests asked for, as TAP."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["tools", "boot"])
    tests: dict[str, list[tuple[str, Callable[[Path], None]]]] = {
        "tools": [
            ("one file has its pieces where the table says", packs),
            ("what cannot be packed is refused", pack_refuses),
            ("a packed file that is damaged is found out", show_checks),
            ("a disk has what went in, and what cannot go in is refused", makes_disks),
            ("a FIT has what went in, and the kernel's module", makes_fits),
        ],
        "boot": [
            ("packed: nothing is appended", says_nothing_is_there),
            *((f"packed: {name}", lambda directory, change=change, pattern=pattern: damaged(directory, change, pattern))
              for name, change, pattern in DAMAGED),
            ("packed: the seal is gone once it was checked", seal_is_cleared),
            ("packed: the kernel that /chosen names has precedence", module_wins),
            ("packed: the ramdisk that /chosen names has precedence", ramdisk_wins),
        ],
    }
    chosen = tests[parser.parse_args().what]
    return tap.run([(name, lambda test=test: in_a_directory(test)) for name, test in chosen])


if __name__ == "__main__":
    sys.exit(main())
