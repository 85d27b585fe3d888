#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Writes the initial ramdisk of the Linux guest: busybox, the memory-tagging program, and the scripts of tests/linux.

The same files give the same bytes, whoever writes them and whenever (Linux, buffer-format.rst: "newc" cpio, owner root,
times 0, in the order of their names).
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import stat
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("TAGSTASH_BUILD", ROOT / "build")).resolve()
PROGRAM = ROOT / "target/linux/aarch64-unknown-none-softfloat/release/mte-demo"
REPORT = PROGRAM.with_name("cpu-report")
KEXEC = PROGRAM.with_name("kexec")
FILEWORK = PROGRAM.with_name("filework")

DIRECTORIES = ["bin", "dev", "proc", "root", "sys", "tmp"]
# The commands that the scripts use or that one may want to try. Busybox has more: `busybox COMMAND`.
COMMANDS = """
    [ ash awk base64 basename cat chmod clear cmp cp cut date dd devmem df dirname dmesg du echo egrep env expr false fgrep find free
    grep head hexdump hostname id kill killall less ln ls md5sum mkdir mkfifo mknod more mount mv nproc od pgrep pidof poweroff printf ps
    pwd readlink reboot reset rm rmdir sed seq setsid cttyhack sh sha256sum sleep sort stat stty sync tail taskset tee test time
    timeout top tr true umount uname uniq uptime usleep vi wc which xargs xxd yes
""".split()


def fail(text: str) -> NoReturn:
    """Ends with a message."""
    print(f"initramfs: {text}", file=sys.stderr)
    sys.exit(1)


class Archive:
    """A cpio archive in the making."""

    def __init__(self) -> None:
        """Begins with nothing in it."""
        self.data = bytearray()
        self.inode = 0

    def add(self, name: str, mode: int, contents: bytes = b"", device: tuple[int, int] = (0, 0)) -> None:
        """Adds a file of any kind."""
        path = name.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = [self.inode, mode, 0, 0, links, 0, len(contents), 0, 0, *device, len(path), 0]
        self.data += b"070701" + b"".join(b"%08x" % value for value in fields) + path
        self.pad(4)
        self.data += contents
        self.pad(4)
        self.inode += 1

    def pad(self, alignment: int) -> None:
        """Adds zeros up to a multiple of the alignment."""
        self.data += bytes(-len(self.data) % alignment)

    def finish(self) -> bytes:
        """Ends the archive; returns all of it."""
        self.add("TRAILER!!!", 0)
        self.pad(512)
        return bytes(self.data)


def read(path: Path, remedy: str) -> bytes:
    """Reads a file that belongs in the archive."""
    try:
        return path.read_bytes()
    except OSError as error:
        fail(f"{path}: {error.strerror}: {remedy}")


def main() -> int:
    """Writes the archive; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("output", type=Path, help="where to write it")
    options = parser.parse_args()
    try:
        busybox = Path(json.loads((BUILD / "tools.json").read_text())["linux"]["busybox"])
    except (OSError, ValueError, KeyError, TypeError):
        fail("set-up has not fetched busybox: run `python3 qemu/setup.py --only linux`")
    files = {
        "bin/busybox": read(busybox, "run `python3 qemu/setup.py --only linux`"),
        "bin/mte-demo": read(PROGRAM, "run `make initramfs`"),
        "bin/kexec": read(KEXEC, "run `make initramfs`"),
        "bin/filework": read(FILEWORK, "run `make initramfs`"),
        "cell": read(ROOT / "tests/linux/cell", "restore it"),
        "checks": read(ROOT / "tests/linux/checks", "restore it"),
        "checks.lib": read(ROOT / "tests/linux/checks.lib", "restore it"),
        "bin/cpu-report": read(REPORT, "run `make initramfs`"),
        "report": read(ROOT / "tests/linux/report/report", "restore it"),
        "init": read(ROOT / "tests/linux/init", "restore it"),
        "work": read(ROOT / "tests/linux/work", "restore it"),
        "psci": read(ROOT / "tests/linux/psci", "restore it"),
    }
    archive = Archive()
    for name in DIRECTORIES:
        archive.add(name, stat.S_IFDIR | 0o755)
    # The kernel opens it for the first process before there is a devtmpfs.
    archive.add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    for name, contents in sorted(files.items()):
        archive.add(name, stat.S_IFREG | 0o755, contents)
    for name in sorted(COMMANDS):
        archive.add(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    partial = options.output.with_name(options.output.name + ".partial")
    partial.write_bytes(gzip.compress(archive.finish(), 6, mtime=0))
    partial.rename(options.output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
