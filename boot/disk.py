#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes a disk from which U-Boot starts Tagstash and its guest by itself.

The disk has a partition table and one FAT partition, marked as bootable, with what boot/boot.cmd loads: the script as
boot.scr, tagstash.img, the guest's kernel as Image, initrd.img, and tagstash.env with the settings. With --fit it has a FIT
instead of those four (boot/fit.py). Nothing needs root rights: mtools write the partition, mkimage the script
(`python3 qemu/setup.py --only u-boot` fetches both where they are missing).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Optional

from embed import EmbedError
from pack import find_table

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("TAGSTASH_BUILD", ROOT / "build")).resolve()

MIB = 1 << 20
SECTOR = 512
# Where partitions begin since disks have more than 512 bytes in a block.
START = MIB
# FAT16 at least, whatever mformat would choose.
SMALLEST = 32 * MIB
LARGEST = 2 << 40
FAT32_LBA = 0x0C
BOOTABLE = 0x80
FETCH = "`python3 qemu/setup.py --only u-boot` fetches it"


class DiskError(Exception):
    """What is wrong, and what to do about it."""


def tool(entry: str, program: str) -> tuple[list[str], dict[str, str]]:
    """Returns how to start a program: as set-up chose it, or as it is found in PATH."""
    try:
        known = json.loads((BUILD / "tools.json").read_text())[entry]
        if Path(known["argv"][0]).is_file():
            return list(known["argv"]), dict(known["env"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        pass
    found = shutil.which(program)
    if not found:
        raise DiskError(f"{program} is not there: {FETCH}")
    return [found], {}


def call(command: list[str], env: dict[str, str], what: str, cwd: Optional[Path] = None) -> str:
    """Runs a program to its end; returns what it printed."""
    try:
        done = subprocess.run(command, env={**os.environ, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace", timeout=120, cwd=cwd, check=False)
    except OSError as error:
        raise DiskError(f"{command[0]} does not start ({error.strerror}): {FETCH}") from None
    except subprocess.TimeoutExpired:
        raise DiskError(f"{what}: {command[0]} did not end within 120 s") from None
    if done.returncode != 0:
        lines = "\n".join("    " + line for line in done.stdout.strip().splitlines()[-8:])
        raise DiskError(f"{what} (status {done.returncode}):\n{lines}")
    return done.stdout


def script_image(source: Path, target: Path) -> None:
    """Makes the script an image that U-Boot runs."""
    argv, env = tool("u-boot", "mkimage")
    call([*argv, "-A", "arm64", "-T", "script", "-C", "none", "-n", "tagstash", "-d", str(source), str(target)], env,
         f"{source} makes no script image")


def settings(bootargs: str, assignments: list[str]) -> str:
    """Writes tagstash.env."""
    lines = [f"guest_bootargs={bootargs}"] if bootargs else []
    for assignment in assignments:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*=[^\n\0]*", assignment):
            raise DiskError(f"--set {assignment} is not NAME=VALUE; the head of boot/boot.cmd lists the names")
        lines.append(assignment)
    if any("\n" in line or "\0" in line for line in lines):
        raise DiskError("the boot arguments have to be one line")
    return "".join(line + "\n" for line in lines)


def partition_table(sectors: int) -> bytes:
    """Writes a master boot record with one bootable partition, which takes `sectors` sectors from `START` on."""
    # Addresses by cylinder, head and sector say that they are not used.
    unused = b"\xfe\xff\xff"
    entry = struct.pack("<B3sB3sII", BOOTABLE, unused, FAT32_LBA, unused, START // SECTOR, sectors)
    return bytes(440) + b"TAGS" + bytes(2) + entry + bytes(48) + b"\x55\xaa"


def make_disk(output: Path, files: list[tuple[str, Path]], size: Optional[int]) -> int:
    """Writes the disk with these files; returns its size."""
    needed = sum(path.stat().st_size for _, path in files)
    partition = size * MIB - START if size else max(SMALLEST, -(-(needed + needed // 16 + 4 * MIB) // MIB) * MIB)
    if size and partition < max(SMALLEST, needed + needed // 16 + MIB):
        raise DiskError(f"--size {size} is too small: the files take {-(-needed // MIB)} MiB, and a partition {SMALLEST // MIB} at least")
    argv, env = tool("mtools", "mtools")
    # Geometry that nobody looks at is not to be complained of.
    env = {**env, "MTOOLS_SKIP_CHECK": "1"}
    partial = output.with_name(output.name + ".partial")
    try:
        with open(partial, "wb") as file:
            file.write(partition_table(partition // SECTOR))
            file.truncate(START + partition)
        where = f"{partial}@@{START}"
        call([*argv, "-c", "mformat", "-i", where, "-T", str(partition // SECTOR), "-h", "255", "-s", "63", "-H",
              str(START // SECTOR), "-N", "54414753", "-v", "TAGSTASH", "::"], env, "the partition cannot be formatted")
        for name, path in files:
            call([*argv, "-c", "mcopy", "-i", where, str(path), f"::{name}"], env, f"{path} cannot be put on the disk")
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)
    return START + partition


def check_guest(options: argparse.Namespace) -> None:
    """Sees that the disk will have one guest, which gets all that was given for it."""
    try:
        packed = bool(find_table(options.image.read_bytes(), options.image).shim)
    except EmbedError as error:
        raise DiskError(str(error)) from None
    if not packed and not options.kernel:
        raise DiskError(f"there is no kernel for the guest: name one with --kernel, or pack one into {options.image} (boot/pack.py)")
    if packed and not options.kernel and options.bootargs:
        raise DiskError(f"--bootargs goes with a --kernel: {options.image} carries the kernel, so pack it with them (boot/pack.py)")


def main() -> int:
    """Does what the command line says; returns the process's exit status."""
    summary, rest = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=rest)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the disk to make")
    parser.add_argument("--image", type=Path, default=BUILD / "tagstash.img", metavar="FILE",
                        help="the shim, with the board's overlay in it (boot/embed.py); or a packed file (boot/pack.py). Default: build/tagstash.img")
    parser.add_argument("--kernel", type=Path, metavar="FILE", help="the guest's kernel, an uncompressed Image; leave it out with a packed file")
    parser.add_argument("--initrd", type=Path, metavar="FILE", help="its initial ramdisk")
    parser.add_argument("--bootargs", default="", metavar="TEXT", help="its boot arguments")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE",
                        help="another line of tagstash.env, such as an address for another board (may be given again)")
    parser.add_argument("--fit", type=Path, metavar="FILE", help="a FIT instead of image, kernel and ramdisk (boot/fit.py)")
    parser.add_argument("--size", type=int, metavar="MIB", help="size of the disk (default: what the files take)")
    options = parser.parse_args()
    if options.fit and (options.kernel or options.initrd or options.bootargs):
        parser.error("--fit has kernel, ramdisk and boot arguments in it")
    if options.size is not None and not 0 < options.size * MIB < LARGEST:
        parser.error(f"--size {options.size} is no size of a disk in MiB")
    named = [("tagstash.itb", options.fit)] if options.fit else [("tagstash.img", options.image), ("Image", options.kernel),
                                                                 ("initrd.img", options.initrd)]
    try:
        files = [(name, path) for name, path in named if path]
        for name, path in files:
            if not path.is_file() or not path.stat().st_size:
                raise DiskError(f"{path}, to be {name}, is not there or is empty")
        if not options.fit:
            check_guest(options)
        with tempfile.TemporaryDirectory() as directory:
            script, environment = Path(directory) / "boot.scr", Path(directory) / "tagstash.env"
            script_image(ROOT / "boot" / "boot.cmd", script)
            text = settings(options.bootargs, options.set)
            if text:
                environment.write_text(text)
                files.append(("tagstash.env", environment))
            size = make_disk(options.output, [("boot.scr", script), *files], options.size)
        print(f"disk: {options.output}: {size // MIB} MiB, {', '.join(name for name, _ in [('boot.scr', script), *files])}")
        return 0
    except DiskError as error:
        print(f"disk: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"disk: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
