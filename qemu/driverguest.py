# SPDX-License-Identifier: MIT OR Apache-2.0
"""The guest that runs with the driver: Linux with cleancache above the shim on the aliased machine, with disks of its own.

    kernel = driver.find("5.10")
    with Guest(kernel, "hits", words={"verify": "1"}, cpus=2) as guest:
        command = guest.command(seconds=300)        # of qemu/run.py

What the guest does is a script of tests/linux/files/guest, by its name; the words are `guest.NAME=VALUE` on the kernel's command
line. The ramdisk is that of `make initramfs` and behind it an archive with the modules and the scripts. The disks are new for each
guest, and gone with it.
"""

from __future__ import annotations

import gzip
import json
import shutil
import stat
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import driver
import run as machine
import setup
import trees
from initramfs import Archive

SCRIPTS = setup.ROOT / "tests/linux/files/guest"
# Commands of busybox that these scripts use besides those of the ramdisk.
COMMANDS = ["insmod", "lsmod", "mkswap", "rmmod", "swapoff", "swapon"]
# The first is the disk at /mnt.
DISK_MIB = (256, 64)
# For all of memory, should it come to that; what is not written takes no space.
SWAP_MIB = 512


class GuestError(Exception):
    """Why there is no such guest, with what to do about it."""


@dataclass
class Guest:
    """A guest that is ready to run. Its files are in a directory that is removed at the end."""

    kernel: trees.Kernel
    case: str
    words: dict[str, str] = field(default_factory=dict)
    cpus: int = 2
    memory_mib: int = 512
    layout: str = "one"
    icount: bool = False
    # Puts the kernel and the ramdisk into the ramdisk, in boot/, for kexec.
    kexec: bool = False
    # Adds a disk behind the others that has nothing on it, for a kernel that goes to it.
    swap_disk: bool = False
    # More options of qemu/run.py.
    options: tuple[str, ...] = ()
    # More of the kernel's command line, and of the ramdisk: programs and scripts, in directories of one name.
    bootargs: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    modules: Optional[Path] = None
    directory: Path = Path()

    def __enter__(self) -> "Guest":
        """Makes ramdisk and disks."""
        base = machine.BUILD / "initramfs.img"
        for file, remedy in ((base, "make initramfs"), (machine.BUILD / "tagstash.img", "make image"),
                             (machine.BUILD / "libtagalias.so", "make machine")):
            if not file.is_file():
                raise GuestError(f"{file} is not there: `{remedy}` makes it")
        modules = self.modules or driver.build(self.kernel)
        self.directory = Path(tempfile.mkdtemp(prefix=f"{self.case}-", dir=machine.BUILD))
        try:
            ramdisk = base.read_bytes() + gzip.compress(self.archive(modules), 1, mtime=0)
            (self.directory / "initrd").write_bytes(ramdisk + (self.boot_files(ramdisk) if self.kexec else b""))
            for number, mebibytes in enumerate(DISK_MIB):
                make_disk(self.directory / f"disk{number}", mebibytes)
            if self.swap_disk:
                with open(self.directory / f"disk{len(DISK_MIB)}", "wb") as disk:
                    disk.truncate(SWAP_MIB << 20)
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise
        return self

    def __exit__(self, *_why: object) -> None:
        """Removes what was made."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def archive(self, modules: Path) -> bytes:
        """Writes what is in the ramdisk besides what every Linux guest has."""
        archive = Archive()
        for name in ("cgroup", "files", "files/modules", "mnt"):
            archive.add(name, stat.S_IFDIR | 0o755)
        for name in COMMANDS:
            archive.add(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox")
        for script in sorted(SCRIPTS.iterdir()):
            archive.add(f"files/{script.name}", stat.S_IFREG | 0o755, script.read_bytes())
        for module in sorted(modules.glob("*.ko")):
            archive.add(f"files/modules/{module.name}", stat.S_IFREG | 0o644, module.read_bytes())
        for name in sorted({str(Path(name).parent) for name in self.files} - {"."}):
            archive.add(name, stat.S_IFDIR | 0o755)
        for name, contents in sorted(self.files.items()):
            archive.add(name, stat.S_IFREG | 0o755, contents)
        return archive.finish()

    def boot_files(self, ramdisk: bytes) -> bytes:
        """Writes an archive with what kexec starts, to follow the ramdisk."""
        archive = Archive()
        archive.add("boot", stat.S_IFDIR | 0o755)
        archive.add("boot/Image", stat.S_IFREG | 0o644, self.kernel.image.read_bytes())
        archive.add("boot/initrd", stat.S_IFREG | 0o644, ramdisk)
        # Archives begin at a multiple of 4 bytes (Linux, buffer-format.rst).
        return bytes(-len(ramdisk) % 4) + archive.finish()

    def command(self, seconds: Optional[float], *options: str, case: Optional[str] = None) -> list[str]:
        """Returns the command that runs it, or another case with the same disks; without `seconds`, as long as run.py has it."""
        words = {"case": case or self.case, "cpus": str(self.cpus), **self.words}
        # The kernel's watchdogs go by time, of which an emulated CPU may get little.
        bootargs = ["console=ttyAMA0", "panic=-1", "nowatchdog", "rcupdate.rcu_cpu_stall_suppress=1", "tagstash.test=files",
                    *(f"guest.{name}={value}" for name, value in words.items()), *filter(None, [self.bootargs])]
        drives = [word for disk in sorted(self.directory.glob("disk*")) for word in ("--drive", str(disk))]
        return [sys.executable, str(setup.ROOT / "qemu/run.py"), "--kernel", str(self.kernel.image), "--initrd",
                str(self.directory / "initrd"), "--cpus", str(self.cpus), "--memory", str(self.memory_mib), "--layout", self.layout,
                "--no-semihosting", "--no-harness-args", *(["--icount"] if self.icount else []), *drives,
                *(["--timeout", f"{seconds:g}"] if seconds else []), *self.options, *options, "--bootargs", " ".join(bootargs)]


def make_disk(file: Path, mebibytes: int) -> None:
    """Makes a disk with an empty ext4 filesystem, whose blocks are as large as pages."""
    try:
        tool = json.loads(setup.TOOLS_JSON.read_text())["e2fsprogs"]
    except (OSError, ValueError, KeyError, TypeError):
        raise GuestError("mke2fs has not been got: run `python3 qemu/setup.py --only e2fsprogs`") from None
    with open(file, "wb") as disk:
        disk.truncate(mebibytes << 20)
    status, text = setup.run([*tool["argv"], "-q", "-F", "-t", "ext4", "-b", "4096", str(file)], 60, tool["env"])
    if status != 0:
        raise GuestError(f"mke2fs makes no filesystem (status {status}):\n{setup.indent(text)}")


def find(name: str, build: bool) -> trees.Kernel:
    """Finds a kernel with cleancache and its tree, and has set-up get what else is needed.

    Where there is no such kernel, set-up has to build one, which takes minutes: only with `build`.
    """
    fetch("cross", "e2fsprogs")
    return driver.get(name) if build else driver.find(name)


def fetch(*names: str) -> None:
    """Has set-up get some things."""
    only = [word for name in names for word in ("--only", name)]
    done = subprocess.run([sys.executable, str(setup.ROOT / "qemu/setup.py"), *only], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    if done.returncode != 0:
        reason = done.stdout.partition("setup: ")[2].strip() or f"set-up ended with status {done.returncode}"
        raise (setup.NotDownloaded if done.returncode == setup.NotDownloaded.status else setup.SetupError)(reason)
