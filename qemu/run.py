#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Boots Tagstash under QEMU with a guest payload.

Two machines. The aliased one (default) behaves like silicon whose tag storage is carved out of RAM: a device tree
written here describes the storage, and a preloaded library makes QEMU's tag memory and that part of RAM one memory. The
plain one (--plain) is what QEMU offers by itself, with no tag storage described.

Besides, the aliased machine can be given with QEMU's own device tree, which describes no tag storage: loaded by QEMU as a
Linux kernel would be (--own-tree), or by U-Boot with boot/boot.cmd, from a disk (--uboot, fetched by `qemu/setup.py --only
u-boot`; --fit, --disk). The storage has to be described by an overlay that the image carries (--overlay).

The guest goes into memory on its own, as a module in the device tree, or in one file with the image (--pack).

On the aliased machine the words `ram=` (path of the file behind guest RAM), `ram-base=` and, per region,
`region=<tagged base>,<tagged length>,<storage base>,<block size>` are added to the payload's boot arguments, so that
a test payload can read the storage's bytes from outside by semihosting.

Exit status: QEMU's own, which a payload sets by semihosting; 124 when the time limit ended the run; 1 when the run ended
well but an expected line is missing; 2 for a mistake on the command line;
128 and the signal's number when a signal ended it.
"""

from __future__ import annotations

import argparse
import ctypes
import fcntl
import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn, Optional

from elf import Elf, ElfError

ROOT = Path(__file__).resolve().parent.parent
BUILD = Path(os.environ.get("TAGSTASH_BUILD", ROOT / "build")).resolve()

FIRMWARE_ELF = ROOT / "target/aarch64-unknown-none-softfloat/release/tagstash"
GUEST_ELF = FIRMWARE_ELF.with_name("harness")

KIB, MIB = 1 << 10, 1 << 20
RAM_BASE = 0x4000_0000
DATA_PER_TAG_BYTE = 32
SECURE_RAM_MIB = 16

# Where things are loaded, as offsets from the start of RAM. The image's place is where QEMU itself puts an Image; the
# device tree needs a place of its own that the guest's kernel does not reach.
IMAGE_OFFSET = 2 * MIB
STUB_OFFSET = 15 * MIB
DTB_OFFSET = 16 * MIB
DTB_SPACE = 2 * MIB
KERNEL_OFFSET = 18 * MIB

VERSAL_KERNEL = 256 * MIB

# A tree for the Raspberry Pi 3 that has no more than the shim needs. The console is the mini UART, whose transmitter has
# the registers of an 8250, four bytes apart.
RASPI_MIB = 1024
RASPI_TREE = """/dts-v1/;
/ {
    #address-cells = <2>;
    #size-cells = <2>;
    aliases { serial1 = "/soc/serial@7e215040"; };
    chosen { stdout-path = "serial1:115200n8"; };
    memory@0 { device_type = "memory"; reg = <0x0 0x0 0x0 0x3c000000>; };
    cpus { #address-cells = <1>; #size-cells = <0>; cpu@0 { device_type = "cpu"; reg = <0>; }; };
    soc {
        #address-cells = <1>;
        #size-cells = <1>;
        ranges = <0x7e000000 0x0 0x3f000000 0x1000000>;
        serial@7e215040 { compatible = "ns16550a"; reg = <0x7e215040 0x40>; reg-shift = <2>; reg-io-width = <4>; };
    };
};
"""

# What RAM is full of that nobody has written to.
JUNK = bytes.fromhex("a5c35a3c5b96e1d7")

TIMEOUT_STATUS = 124
# How long QEMU may take to be gone once it has closed its output.
LINGER_SECONDS = 60.0
GDB_PORT = 1234
ALIAS_ON = b"tagalias: on:"


class RunError(Exception):
    """A mistake of the caller or of the set-up, with what to do about it."""


class Stopped(Exception):
    """A signal asked us to end."""

    def __init__(self, number: int) -> None:
        """Notes which signal it was."""
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


# --------------------------------------------------------------------------------------------------------------------
# Memory layouts


@dataclass(frozen=True)
class Region:
    """One tag-storage region: absolute addresses and lengths in bytes."""

    base: int
    length: int
    storage: int
    block_size: int

    @property
    def storage_length(self) -> int:
        """Returns how long the storage is."""
        return self.length // DATA_PER_TAG_BYTE

    def argument(self) -> str:
        """Describes the region for the payload."""
        return f"region={self.base:#x},{self.length:#x},{self.storage:#x},{self.block_size:#x}"

    def piece(self) -> str:
        """Describes the region for the aliasing library, whose addresses are offsets."""
        return f"{self.base - RAM_BASE:#x}:{self.storage - RAM_BASE:#x}:{self.length:#x}"


@dataclass(frozen=True)
class Layout:
    """How RAM is divided: tag-storage regions, and the memory nodes that hold no tagged memory."""

    regions: list[Region]
    others: list[tuple[int, int]]


def layout_one(start: int, ram: int) -> Layout:
    """All of RAM but its last 32nd is tagged; the storage is at the top."""
    carve = ram // DATA_PER_TAG_BYTE
    top = start + ram - carve
    return Layout([Region(start, ram - carve, top, 4 * KIB)], [(top, carve)])


def layout_two(start: int, ram: int) -> Layout:
    """Two tagged memories side by side, the storage of both at the top."""
    carve = ram // DATA_PER_TAG_BYTE
    top = start + ram - carve
    half = (ram - carve) // 2
    first = Region(start, half, top, 4 * KIB)
    second = Region(start + half, half, top + first.storage_length, 4 * KIB)
    return Layout([first, second], [(top, carve)])


def layout_crossed(start: int, ram: int) -> Layout:
    """Each half of RAM ends with the storage of the other half's tagged memory."""
    half = ram // 2
    carve = half // DATA_PER_TAG_BYTE
    low, high = start, start + half
    low_carve, high_carve = low + half - carve, high + half - carve
    return Layout([Region(low, half - carve, high_carve, 4 * KIB), Region(high, half - carve, low_carve, 4 * KIB)],
                  [(low_carve, carve), (high_carve, carve)])


def layout_nodes(start: int, ram: int) -> Layout:
    """Each half of RAM ends with the storage of its own tagged memory, as with a memory controller for each."""
    half = ram // 2
    carve = half // DATA_PER_TAG_BYTE
    bases = (start, start + half)
    return Layout([Region(base, half - carve, base + half - carve, 4 * KIB) for base in bases],
                  [(base + half - carve, carve) for base in bases])


def layout_block8k(start: int, ram: int) -> Layout:
    """Blocks of 8 KiB, with tagged memory and storage both placed off the alignment that one would hope for.

    A block's tags are those of 256 KiB of data. Tagged memory begins 128 KiB after such a boundary, so naturally aligned
    runs straddle blocks; the storage begins 4 KiB after an 8 KiB boundary. The 128 KiB below have no tag storage.
    """
    block = 8 * KIB
    span = block * DATA_PER_TAG_BYTE
    skipped = span // 2
    carve = ram // DATA_PER_TAG_BYTE
    length = (ram - carve - skipped) // span * span
    base = start + skipped
    region = Region(base, length, start + ram - carve + block // 2, block)
    return Layout([region], [(start, skipped), (base + length, ram - skipped - length)])


def layout_block12k(start: int, ram: int) -> Layout:
    """Blocks of 12 KiB: no power of two, and 384 KiB of data each, so that no two blocks lie alike in the address space.

    Tagged memory begins 128 KiB after the start of RAM, and the storage a page after a multiple of the block size.
    """
    block = 12 * KIB
    span = block * DATA_PER_TAG_BYTE
    skipped = 128 * KIB
    carve = ram // DATA_PER_TAG_BYTE
    length = (ram - carve - skipped) // span * span
    base = start + skipped
    storage = -(-(start + ram - carve) // block) * block + 4 * KIB
    region = Region(base, length, storage, block)
    return Layout([region], [(start, skipped), (base + length, ram - skipped - length)])


def layout_block64k(start: int, ram: int) -> Layout:
    """Blocks of 64 KiB, 16 frames each, whose tags are those of 2 MiB of data."""
    block = 64 * KIB
    carve = ram // DATA_PER_TAG_BYTE // block * block
    top = start + ram - carve
    length = (ram - carve) // (block * DATA_PER_TAG_BYTE) * block * DATA_PER_TAG_BYTE
    return Layout([Region(start, length, top, block)], [(start + length, ram - length)])


LAYOUTS = {"one": layout_one, "two": layout_two, "crossed": layout_crossed, "nodes": layout_nodes, "block8k": layout_block8k,
           "block12k": layout_block12k, "block64k": layout_block64k}
# Those that can be divided into two NUMA nodes: a region each.
NUMA_LAYOUTS = ("crossed", "nodes", "two")


# --------------------------------------------------------------------------------------------------------------------
# Files that are loaded


def arm64_image_size(data: bytes) -> Optional[int]:
    """Returns the memory that an arm64 Image asks for in its header; None if it is no Image."""
    if len(data) < 64 or data[0x38:0x3C] != b"ARM\x64":
        return None
    return struct.unpack_from("<Q", data, 16)[0]


def read_input(path: Path, what: str) -> bytes:
    """Reads a file that the caller named."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RunError(f"{what} {path}: {error.strerror}") from None
    if not data:
        raise RunError(f"{what} {path} is empty")
    return data


def read_image(path: Path) -> int:
    """Checks the firmware image; returns the memory it takes when it runs."""
    if not path.exists():
        raise RunError(f"image {path} is not there: `make build` makes it")
    data = read_input(path, "image")
    size = arm64_image_size(data)
    if size is None:
        hint = " (it is an ELF file: qemu/flatten.py makes a raw image of it)" if data[:4] == b"\x7fELF" else ""
        raise RunError(f"image {path} has no arm64 Image header{hint}")
    return max(size, len(data))


def read_kernel(path: Path) -> int:
    """Checks the guest kernel; returns the memory it takes when it runs."""
    data = read_input(path, "kernel")
    if data[:2] == b"\x1f\x8b":
        raise RunError(f"kernel {path} is compressed with gzip: unpack it first")
    size = arm64_image_size(data)
    if size is None and data[:4] == b"\x7fELF":
        raise RunError(f"kernel {path} is an ELF file: qemu/flatten.py makes a raw image of it")
    return max(size or 0, len(data))


def boot_stub(dtb: int, image: int, level: int) -> bytes:
    """Writes the few instructions that do a boot loader's last step: x0 = device tree, x1-x3 = 0, jump.

    A loader leaves its own values in all other registers. From EL2 this one does too, so that it shows if any of them
    reached the guest.
    """
    words = []
    if level == 2:
        words += [0x9280_0000 | 0x5A5A << 5 | number for number in range(5, 31)]  # movn xN, #0x5a5a
        words += [0x4F05_E4A0 | number for number in range(32)]  # movi vN.16b, #0xa5
        # msr REGISTER, x5: tpidr_el0, tpidrro_el0, tpidr_el1, sp_el0, sp_el1, par_el1, far_el1, esr_el1, vbar_el1
        words += [base | 5 for base in (0xD51B_D040, 0xD51B_D060, 0xD518_D080, 0xD518_4100, 0xD51C_4100, 0xD518_7400,
                                        0xD518_6000, 0xD518_5200, 0xD518_C000)]
        words += [0xD503_201F] * (len(words) % 2)  # nop: the addresses below are aligned
    words += [
        0x5800_0000 | 6 << 5 | 0,  # ldr x0, the first address below (6 words on)
        0x5800_0000 | 7 << 5 | 4,  # ldr x4, the second one (7 words on)
        0xAA1F_03E1,  # mov x1, xzr
        0xAA1F_03E2,  # mov x2, xzr
        0xAA1F_03E3,  # mov x3, xzr
        0xD61F_0080,  # br x4
    ]
    return struct.pack(f"<{len(words)}I2Q", *words, dtb, image)


# --------------------------------------------------------------------------------------------------------------------
# The device tree


def cells(*values: int) -> str:
    """Writes 64-bit values as pairs of device-tree cells."""
    return "<" + " ".join(f"{value >> 32:#x} {value & 0xFFFF_FFFF:#x}" for value in values) + ">"


def quoted(text: str) -> str:
    """Writes a device-tree string."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@dataclass(frozen=True)
class Module:
    """A payload in memory, as boot loaders describe it under /chosen."""

    kind: str
    address: int
    size: int
    bootargs: Optional[str]

    def node(self) -> str:
        """Writes the device-tree node."""
        bootargs = "" if self.bootargs is None else f"\n            bootargs = {quoted(self.bootargs)};"
        return (f"        module@{self.address:x} {{\n"
                f'            compatible = "multiboot,{self.kind}", "multiboot,module";\n'
                f"            reg = {cells(self.address, self.size)};{bootargs}\n        }};\n")


def tree_source(dumped: str, layout: Layout, modules: list[Module], extra: str) -> str:
    """Adds tag storage, memory nodes and modules to QEMU's own device tree.

    Labels for the extra text's use: tagmem0, tagmem1 (memory nodes), storage0, storage1, chosen, reserved. Its lines that
    begin with /memreserve/ go to the top, where they must stand.
    """
    reserve = re.compile(r"^/memreserve/.*;$\n?", re.M)
    reservations = "\n".join(line.strip() for line in reserve.findall(extra))
    dumped = dumped.replace("/dts-v1/;", f"/dts-v1/;\n{reservations}", 1)
    extra = reserve.sub("", extra)
    parts = [dumped, "\n/ {\n"]
    # QEMU's node covers all of RAM, and a region's tagged memory has to be a node of its own.
    for name in dict.fromkeys(re.findall(r"^\t(memory@[0-9a-f]+|memory) \{", dumped, re.M)):
        parts.append(f"    /delete-node/ {name};\n")
    parts.append("};\n\n/ {\n")
    nodes = [(f"tagmem{index}: ", region.base, region.length) for index, region in enumerate(layout.regions)]
    nodes += [("", base, length) for base, length in layout.others]
    for label, base, length in sorted(nodes, key=lambda node: node[1]):
        parts.append(f'    {label}memory@{base:x} {{\n        device_type = "memory";\n'
                     f"        reg = {cells(base, length)};\n    }};\n")
    parts.append("    reserved: reserved-memory {\n        #address-cells = <2>;\n        #size-cells = <2>;\n"
                 "        ranges;\n")
    for index, region in enumerate(layout.regions):
        parts.append(f"        storage{index}: tag-storage@{region.storage:x} {{\n"
                     f'            compatible = "arm,mte-tag-storage";\n'
                     f"            reg = {cells(region.storage, region.storage_length)};\n"
                     f"            block-size = <{region.block_size:#x}>;\n"
                     f"            tagged-memory = <&tagmem{index}>;\n            reusable;\n        }};\n")
    parts.append("    };\n    chosen: chosen {\n")
    if modules:
        parts.append("        #address-cells = <2>;\n        #size-cells = <2>;\n")
    parts += [module.node() for module in modules]
    parts += ["    };\n};\n", extra]
    return "".join(parts)


def numa_source(dumped: str, layout: Layout) -> str:
    """Divides memory and CPUs into two NUMA nodes (Linux: devicetree/bindings/numa.txt): node 1 begins with the second region."""
    border = layout.regions[1].base
    memory = [region.base for region in layout.regions] + [base for base, _ in layout.others]
    names = [(f"/memory@{base:x}", int(base >= border)) for base in memory]
    cpus = sorted(re.findall(r"^\t\t(cpu@[0-9a-f]+) \{", dumped, re.M), key=lambda name: int(name[4:], 16))
    names += [(f"/cpus/{name}", numa_node(index, len(cpus))) for index, name in enumerate(cpus)]
    return "\n" + "".join(f"&{{{name}}} {{ numa-node-id = <{node}>; }};\n" for name, node in names)


def psci_source(dumped: str) -> str:
    """Describes the monitor's PSCI, which QEMU does not know of."""
    cpus = re.findall(r"^\t\t(cpu@[0-9a-f]+) \{", dumped, re.M)
    return ('\n/ { psci { compatible = "arm,psci-1.0", "arm,psci-0.2"; method = "smc"; }; };\n'
            + "".join(f'&{{/cpus/{name}}} {{ enable-method = "psci"; }};\n' for name in cpus))


def numa_node(cpu: int, cpus: int) -> int:
    """Returns the NUMA node of a CPU: the first half of them is in node 0, and the only one."""
    return int(cpu >= (cpus + 1) // 2)


# --------------------------------------------------------------------------------------------------------------------
# The run


@dataclass(frozen=True)
class Tool:
    """How to start a tool."""

    argv: list[str]
    env: dict[str, str]


def load_tools(newest: bool = False) -> dict[str, Tool]:
    """Reads which tools set-up chose; `newest` is for the newest QEMU, which is got only when it is asked for."""
    file = BUILD / "tools.json"
    try:
        entries = json.loads(file.read_text())
        if newest and "qemu-newest" not in entries:
            raise RunError("the newest QEMU is not there: `python3 qemu/setup.py --only qemu-newest` fetches it")
        names = {"qemu": "qemu-newest" if newest else "qemu", "dtc": "dtc"}
        return {name: Tool(list(entries[entry]["argv"]), dict(entries[entry]["env"])) for name, entry in names.items()}
    except FileNotFoundError:
        raise RunError(f"{file} is not there: run `make setup` first") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{file} cannot be used ({error}): run `make setup` again") from None


def call(tool: Tool, arguments: list[str], what: str) -> str:
    """Runs a tool to its end and returns what it printed; failure is an error that quotes it."""
    try:
        done = subprocess.run([*tool.argv, *arguments], env={**os.environ, **tool.env}, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace",
                              timeout=60, check=False)
    except OSError as error:
        raise RunError(f"{tool.argv[0]} does not start ({error.strerror}): run `make setup` again") from None
    except subprocess.TimeoutExpired:
        raise RunError(f"{what}: {tool.argv[0]} did not end within 60 s") from None
    if done.returncode != 0:
        detail = "\n".join("    " + line for line in (done.stderr or done.stdout).strip().splitlines()[-8:])
        raise RunError(f"{what} (status {done.returncode}):\n{detail}")
    return done.stdout


def script(arguments: list[str], name: str, what: str) -> None:
    """Runs a script under boot/."""
    call(Tool([sys.executable, str(ROOT / "boot" / name)], {}), arguments, what)


def load_uboot() -> Path:
    """Reads where set-up put U-Boot; returns its image."""
    try:
        bios = Path(json.loads((BUILD / "tools.json").read_text())["u-boot"]["bios"])
    except (OSError, ValueError, KeyError, TypeError):
        bios = Path("")
    if not bios.is_file():
        raise RunError("U-Boot is not there: `python3 qemu/setup.py --only u-boot` fetches it")
    return bios


def escaped(value: object) -> str:
    """Writes a value for a QEMU option, where a comma has to be doubled."""
    return str(value).replace(",", ",,")


def ram_directory(asked: Optional[Path], ram: int) -> Path:
    """Chooses where the file behind guest RAM goes: memory if there is enough, else the build directory."""
    if asked is not None:
        if not asked.is_dir():
            raise RunError(f"--ram-dir {asked} is not a directory")
        return asked.resolve()
    shared = Path("/dev/shm")
    try:
        space = os.statvfs(shared)
        if space.f_bavail * space.f_frsize >= ram + 64 * MIB and os.access(shared, os.W_OK):
            return shared
    except OSError:
        pass
    BUILD.mkdir(parents=True, exist_ok=True)
    return BUILD


def make_scratch(directory: Path) -> tuple[Path, int]:
    """Makes a directory for one run, and clears away those whose run was killed before it could do so.

    Returns the directory and the descriptor of its lock, which is held for as long as this process lives.
    """
    for old in directory.glob("tagstash-*/lock"):
        try:
            lock = os.open(old, os.O_RDWR)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old.parent, ignore_errors=True)
        except OSError:
            pass  # Its run is alive.
        finally:
            os.close(lock)
    scratch = Path(tempfile.mkdtemp(prefix="tagstash-", dir=directory))
    # Locked under another name first, so that no other run can take the lock between its making and its locking.
    lock = os.open(scratch / "new-lock", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.rename(scratch / "new-lock", scratch / "lock")
    return scratch, lock


class Machine:
    """One QEMU run, prepared from the command line's options."""

    def __init__(self, options: argparse.Namespace, scratch: Path) -> None:
        """Prepares everything up to QEMU's command line; `scratch` holds what exists for this run only."""
        self.options = options
        self.scratch = scratch
        self.tools = load_tools(options.qemu == "newest")
        self.ram = options.memory * MIB
        self.env = dict(os.environ)
        self.env.update(self.tools["qemu"].env)
        self.image_size = read_image(options.image)
        if options.overlay:
            embedded = scratch / "tagstash.img"
            call(Tool([sys.executable, str(ROOT / "boot" / "embed.py")], {}),
                 [str(options.image), str(options.overlay), "-o", str(embedded)], "the overlay cannot be embedded")
            options.image = embedded
        self.kernel_size = read_kernel(options.kernel) if options.kernel else 0
        self.initrd_size = len(read_input(options.initrd, "initrd")) if options.initrd else 0
        if options.board != "virt":
            self.arguments = self.other_board()
        elif options.plain:
            self.arguments = self.plain(options.bootargs)
        elif options.uboot:
            self.arguments = self.uboot()
        elif options.own_tree:
            layout = LAYOUTS[options.layout](RAM_BASE, self.ram)
            ram_file = self.make_ram()
            self.arguments = self.alias(self.plain(self.bootargs(ram_file, layout)), ram_file, layout)
        else:
            self.arguments = self.aliased()

    def common(self) -> list[str]:
        """Returns the options that both machines share, apart from RAM and what is loaded."""
        options = self.options
        model = options.cpu
        if model.split(",")[0] == "max" and "pauth" not in model:
            # QEMU's own pointer-authentication hash is three times faster than the architected one.
            model += ",pauth-impdef=on"
        if options.board == "versal":
            arguments = ["-machine", "xlnx-versal-virt"]
        elif options.board == "raspi3b":
            arguments = ["-machine", "raspi3b"]
        else:
            machine = ["virt", f"virtualization={'off' if options.el == 1 else 'on'}",
                       f"mte={'off' if options.no_mte else 'on'}", f"gic-version={options.gic}"]
            if options.no_its:
                machine.append("its=off")
            if options.el == 3 or options.monitor:
                machine.append("secure=on")
            arguments = ["-machine", ",".join(machine), "-cpu", model, "-smp", str(options.cpus)]
        arguments += ["-m", f"{options.memory}M", "-nographic", "-no-reboot", "-nodefaults", "-monitor", "none"]
        # With `mux`, Ctrl-A is QEMU's own key; without `signal`, Ctrl-C and its like are the guest's.
        keys = ",mux=on,signal=off" if options.interactive else ""
        # The mini UART is the second port.
        first = ["-serial", "null"] if options.board == "raspi3b" else []
        arguments += ["-chardev", f"stdio,id=console{keys}", *first, "-serial", "chardev:console"]
        if options.semihosting:
            arguments += ["-semihosting-config", "enable=on,target=native"]
        if options.icount:
            arguments += ["-icount", "shift=0"]
        if options.monitor:
            # The machine starts there, QEMU answers no SMC, and has one device less.
            arguments += ["-bios", str(options.monitor)]
        for number, drive in enumerate(options.drive):
            arguments += ["-drive", f"if=none,id=drive{number},format=raw,cache=unsafe,file={escaped(drive)}",
                          "-device", f"virtio-blk-pci,drive=drive{number}"]
        return arguments

    def plain(self, bootargs: str) -> list[str]:
        """Returns the plain machine's command line: QEMU loads the image as it would a Linux kernel."""
        options = self.options
        if options.pack:
            return [*self.common(), "-kernel", str(self.pack(bootargs))]
        arguments = [*self.common(), "-kernel", str(options.image)]
        # QEMU puts its device tree at half of RAM, or at 128 MiB if that is lower.
        tree = RAM_BASE + min(self.ram // 2, 128 * MIB)
        kernel, initrd = RAM_BASE + KERNEL_OFFSET, tree + 4 * MIB
        for name, end, limit in (("image", RAM_BASE + IMAGE_OFFSET + self.image_size, kernel if options.kernel else tree),
                                 ("kernel", kernel + self.kernel_size, tree),
                                 ("initrd", initrd + self.initrd_size, RAM_BASE + self.ram)):
            if end > limit:
                raise RunError(f"the {name} does not fit: it would end at {end:#x}, past {limit:#x}; try more --memory")
        if options.kernel:
            arguments += ["-device", f"guest-loader,addr={kernel:#x},kernel={escaped(options.kernel)}"
                          + (f",bootargs={escaped(bootargs)}" if bootargs else "")]
        if options.initrd:
            arguments += ["-device", f"guest-loader,addr={initrd:#x},initrd={escaped(options.initrd)}"]
        if options.numa and options.plain:
            # QEMU describes the nodes itself, and divides RAM as it is told.
            for node in (0, 1):
                cpus = "".join(f",cpus={cpu}" for cpu in range(options.cpus) if numa_node(cpu, options.cpus) == node)
                arguments += ["-object", f"memory-backend-ram,id=node{node},size={options.memory // 2}M",
                              "-numa", f"node,nodeid={node},memdev=node{node}{cpus}"]
        return arguments

    def other_board(self) -> list[str]:
        """Returns the command line of another board, whose RAM begins at 0.

        QEMU's guest-loader does not write to such a board's tree, so the payload's node is added here.
        """
        options = self.options
        kernel, initrd = VERSAL_KERNEL, VERSAL_KERNEL + -(-self.kernel_size // (2 * MIB)) * 2 * MIB
        if max(kernel + self.kernel_size, initrd + self.initrd_size) > self.ram:
            raise RunError(f"the kernel and initrd do not fit into {options.memory} MiB of RAM; try more --memory")
        modules: list[Module] = []
        arguments = [*self.common(), "-kernel", str(options.image)]
        if options.kernel:
            modules.append(Module("kernel", kernel, options.kernel.stat().st_size, options.bootargs))
            arguments += ["-device", f"loader,file={escaped(options.kernel)},addr={kernel:#x},force-raw=on"]
        if options.initrd:
            modules.append(Module("ramdisk", initrd, self.initrd_size, None))
            arguments += ["-device", f"loader,file={escaped(options.initrd)},addr={initrd:#x},force-raw=on"]
        text = ("\n/ { chosen {\n        #address-cells = <2>;\n        #size-cells = <2>;\n"
                + "".join(module.node() for module in modules) + "}; };\n")
        tree = RASPI_TREE if options.board == "raspi3b" else self.dump_tree()
        return [*arguments, "-dtb", str(self.compile_tree(tree + text))]

    def aliased(self) -> list[str]:
        """Returns the aliased machine's command line, having made its device tree and RAM file."""
        options = self.options
        base = options.ram_base
        layout = LAYOUTS[options.layout](base, self.ram - (base - RAM_BASE))
        ram_file = self.make_ram()

        modules: list[Module] = []
        loads: list[tuple[str, Path, int, int]] = []
        address = base + KERNEL_OFFSET
        if options.kernel:
            bootargs = self.bootargs(ram_file, layout)
            modules.append(Module("kernel", address, options.kernel.stat().st_size, bootargs))
            loads.append(("kernel", options.kernel, address, self.kernel_size))
            # Kernels are placed on 2 MiB boundaries, so the next thing begins on one.
            address += -(-self.kernel_size // (2 * MIB)) * 2 * MIB
        if options.initrd:
            modules.append(Module("ramdisk", address, self.initrd_size, None))
            loads.append(("initrd", options.initrd, address, self.initrd_size))
        image, stub, tree = base + options.image_offset, base + STUB_OFFSET, base + options.tree_offset
        if image + self.image_size > stub:
            raise RunError(f"image {options.image} needs {self.image_size} bytes and the place for it has {stub - image}")

        dtb_file = self.make_tree(layout, modules)
        stub_file = self.scratch / "stub"
        stub_file.write_bytes(boot_stub(tree, image, options.el))
        loads += [("image", options.image, image, self.image_size), ("device tree", dtb_file, tree, DTB_SPACE),
                  ("stub", stub_file, stub, stub_file.stat().st_size)]
        for name, _, start, size in loads:
            if not any(region.base <= start and start + size <= region.base + region.length for region in layout.regions):
                raise RunError(f"the {name} does not fit: {size} bytes at {start:#x} reach past the first tagged memory "
                               f"of {options.memory} MiB of RAM; try more --memory")

        arguments = self.common()
        for _, path, start, _ in loads:
            arguments += ["-device", f"loader,file={escaped(path)},addr={start:#x},force-raw=on"]
        if not options.monitor:
            arguments += ["-device", f"loader,addr={stub:#x},cpu-num=0"]
        return self.alias(arguments, ram_file, layout)

    def pack(self, bootargs: str) -> Path:
        """Makes one file of the image and the guest; returns its name."""
        options = self.options
        file = self.scratch / "packed.img"
        script([str(options.kernel), "-o", str(file), "--image", str(options.image), *self.guest_options(bootargs)], "pack.py",
               "image and guest do not go into one file")
        size = read_image(file)
        if IMAGE_OFFSET + size > self.ram:
            raise RunError(f"the packed file takes {size} bytes and does not fit into {options.memory} MiB of RAM; try more --memory")
        return file

    def guest_options(self, bootargs: str) -> list[str]:
        """Returns the options for ramdisk and boot arguments of the scripts under boot/."""
        initrd = self.options.initrd
        return [*(["--initrd", str(initrd)] if initrd else []), *([f"--bootargs={bootargs}"] if bootargs else [])]

    def uboot(self) -> list[str]:
        """Returns the aliased machine's command line with U-Boot, having made the disk that it boots from."""
        options = self.options
        bios = load_uboot()
        layout = LAYOUTS[options.layout](RAM_BASE, self.ram)
        ram_file = self.make_ram()
        disk = options.disk or self.make_disk(self.bootargs(ram_file, layout))
        arguments = [*self.common(), "-bios", str(bios), "-drive",
                     f"if=none,id=boot,format=raw,readonly=on,file={escaped(disk)}", "-device", "virtio-blk-device,drive=boot"]
        return self.alias(arguments, ram_file, layout)

    def make_disk(self, bootargs: str) -> Path:
        """Makes the disk for U-Boot; returns its name."""
        options = self.options
        disk = self.scratch / "disk.img"
        kernel = ["--kernel", str(options.kernel)] if options.kernel else []
        contents = ["--image", str(options.image), *kernel, *self.guest_options(bootargs)]
        if options.pack:
            contents = ["--image", str(self.pack(bootargs))]
        elif options.fit:
            fit, tree = self.scratch / "tagstash.itb", self.scratch / "board.dts"
            tree.write_text(self.dump_tree())
            script(["-o", str(fit), "--dtb", str(tree), *contents], "fit.py", "the FIT cannot be made")
            contents = ["--fit", str(fit)]
        script(["-o", str(disk), *contents], "disk.py", "the disk cannot be made")
        return disk

    def make_ram(self) -> Path:
        """Makes the file behind guest RAM."""
        ram_file = self.scratch / "ram"
        with open(ram_file, "wb") as file:
            if self.options.monitor:
                # As RAM is after a reset: anything.
                for _ in range(self.options.memory):
                    file.write(JUNK * (MIB // len(JUNK)))
            file.truncate(self.ram)
        if re.search(r"[\s\"'\\]", str(ram_file)):
            raise RunError(f"the RAM file's path '{ram_file}' has characters that boot arguments cannot carry; choose "
                           f"another place with --ram-dir")
        return ram_file

    def bootargs(self, ram_file: Path, layout: Layout) -> str:
        """Returns the guest's boot arguments, with what a test payload has to know."""
        words = [self.options.bootargs, f"ram={ram_file}", f"ram-base={RAM_BASE:#x}",
                 *(region.argument() for region in layout.regions)]
        return " ".join(word for word in words if word) if self.options.harness_args else self.options.bootargs

    def alias(self, arguments: list[str], ram_file: Path, layout: Layout) -> list[str]:
        """Returns the command line with RAM in its file and, by the environment, tag memory in RAM."""
        options = self.options
        library = options.alias_library
        if not library.is_file():
            raise RunError(f"the aliasing library {library} is not there: `make machine` builds it")
        arguments[1] += ",memory-backend=ram"
        arguments += ["-object", f"memory-backend-file,id=ram,size={options.memory}M,mem-path={escaped(ram_file)},share=on"]
        preload = [str(library.resolve()), *filter(None, [self.env.get("LD_PRELOAD")])]
        if re.search(r"[\s:]", preload[0]):
            raise RunError(f"the aliasing library's path '{preload[0]}' has a space or a colon, and the loader cannot "
                           f"preload such a file; move the clone, or copy the library and name it with --alias-library")
        self.env.update(LD_PRELOAD=":".join(preload), TAGALIAS_FILE=str(ram_file), TAGALIAS_RAM=str(self.ram),
                        TAGALIAS_PIECES=",".join(region.piece() for region in layout.regions))
        return arguments

    def make_tree(self, layout: Layout, modules: list[Module]) -> Path:
        """Makes the device tree: QEMU's own for these very options, changed and compiled again."""
        dumped, extra = self.dump_tree(), ""
        if self.options.numa:
            extra += numa_source(dumped, layout)
        if self.options.monitor:
            extra += psci_source(dumped)
        if self.options.dts_append:
            extra += "\n" + read_input(self.options.dts_append, "--dts-append").decode(errors="replace")
        return self.compile_tree(tree_source(dumped, layout, modules, extra))

    def dump_tree(self) -> str:
        """Returns the source of QEMU's own device tree for these very options."""
        dumped = self.scratch / "qemu.dtb"
        arguments = self.common()
        arguments[1] += f",dumpdtb={escaped(dumped)}"
        call(self.tools["qemu"], arguments, "QEMU does not describe this machine")
        return call(self.tools["dtc"], ["-q", "-I", "dtb", "-O", "dts", str(dumped)], "QEMU's tree does not decompile")

    def compile_tree(self, text: str) -> Path:
        """Compiles a device tree's source."""
        source = self.scratch / "machine.dts"
        source.write_text(text)
        if self.options.dts_out:
            try:
                shutil.copyfile(source, self.options.dts_out)
            except OSError as error:
                raise RunError(f"--dts-out {self.options.dts_out}: {error.strerror}") from None
        compiled = self.scratch / "machine.dtb"
        call(self.tools["dtc"], ["-q", "-I", "dts", "-O", "dtb", "-o", str(compiled), str(source)],
             "the device tree does not compile")
        if compiled.stat().st_size > DTB_SPACE:
            raise RunError(f"the device tree takes {compiled.stat().st_size} bytes, more than its {DTB_SPACE}")
        return compiled

    def command(self) -> list[str]:
        """Returns the whole command."""
        debugger = ["-gdb", f"tcp:127.0.0.1:{self.options.gdb}", "-S"] if self.options.gdb else []
        return [*self.tools["qemu"].argv, *self.arguments, *debugger, *self.options.qemu_args]

    def show(self) -> None:
        """Prints the command with the settings it needs."""
        names = sorted(name for name in self.env if name.startswith("TAGALIAS_") or name in
                       ("LD_PRELOAD", *self.tools["qemu"].env))
        print(" ".join([f"{name}={shlex.quote(self.env[name])}" for name in names] + [shlex.join(self.command())]))

    def run(self) -> int:
        """Runs QEMU to its end, or to ours; returns the exit status."""
        options = self.options
        watch = Watch(options)
        limit = options.timeout
        if options.gdb:
            limit = float("inf")
            check_port(options.gdb)
            say_how_to_debug(options, RAM_BASE + IMAGE_OFFSET)
        log: Optional[BinaryIO] = None
        if options.log:
            try:
                options.log.parent.mkdir(parents=True, exist_ok=True)
                log = open(options.log, "wb")
            except OSError as error:
                raise RunError(f"--log {options.log}: {error.strerror}") from None
        process = start(self.command(), self.env, options.interactive)
        try:
            ended = pump(process, watch, log, time.monotonic() + limit)
        finally:
            stop(process)
            if options.interactive:
                take_terminal(os.getpgrp())
            if log:
                log.close()
        return watch.verdict(ended, process.returncode, aliased=not options.plain)


def check_port(port: int) -> None:
    """Sees that QEMU will be able to listen for a debugger."""
    with socket.socket() as probe:
        # As QEMU does: connections of an earlier run, which the kernel remembers for a while, are no hindrance.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise RunError(f"--gdb {port}: TCP port {port} cannot be listened on ({error.strerror}); is another run waiting "
                           f"there? Choose another port (make: GDB={port + 1 if port < 65535 else 1234})") from None


def say_how_to_debug(options: argparse.Namespace, base: int) -> None:
    """Prints what to type into the debugger; `base` is where the image is, which was linked at 0."""
    note(f"QEMU waits for a debugger on port {options.gdb}, without a time limit. In another terminal, in {ROOT}:")
    program = "gdb-multiarch"
    note(f"    {program}" + ("" if shutil.which(program) else f"    (Debian: package {program})"))
    note(f"    target remote :{options.gdb}")
    note(f"    add-symbol-file {FIRMWARE_ELF.relative_to(ROOT)} -o {base:#x}")
    note("    set backtrace limit 64")
    note("    hbreak boot")
    note("    continue")
    try:
        own = Elf(FIRMWARE_ELF.read_bytes()).build_id()
        if own is None or own not in read_input(options.image, "image"):
            note(f"warning: {FIRMWARE_ELF.relative_to(ROOT)} is not what {options.image} was made of (their build ids differ): "
                 f"add the symbols of the ELF file that was")
    except (OSError, ElfError) as error:
        note(f"warning: {FIRMWARE_ELF.relative_to(ROOT)} cannot be read ({error}): `make build` makes it")
    note("The guest's symbols: the shim prints where it enters the guest; a guest that was linked at 0, as the test guest "
         f"({GUEST_ELF.relative_to(ROOT)}), is added with -o and that address, a Linux kernel (vmlinux, booted with "
         "nokaslr) without -o")


def die_with_parent() -> None:
    """Asks the kernel to end QEMU when this script is killed. Runs in the child."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def start(command: list[str], env: dict[str, str], interactive: bool) -> subprocess.Popen[bytes]:
    """Starts QEMU in a process group of its own, so that all of it can be ended."""
    try:
        process = subprocess.Popen(command, env=env, stdin=None if interactive else subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=die_with_parent,
                                   start_new_session=not interactive, process_group=0 if interactive else None)
    except OSError as error:
        raise RunError(f"{command[0]} does not start ({error.strerror}): run `make setup` again") from None
    if interactive:
        take_terminal(process.pid)
    return process


def take_terminal(group: int) -> None:
    """Gives the terminal to a process group; without a terminal there is nothing to give."""
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        os.tcsetpgrp(0, group)
    except OSError:
        pass


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends QEMU's process group, if it is still there, and collects its status."""
    if process.poll() is None:
        for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 10.0)):
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                pass
            try:
                process.wait(patience)
                break
            except subprocess.TimeoutExpired:
                continue
    if process.stdout:
        process.stdout.close()


def pump(process: subprocess.Popen[bytes], watch: "Watch", log: Optional[BinaryIO], deadline: float) -> str:
    """Copies QEMU's output until QEMU ends, the watched text shows, or time is up; says which as a word."""
    assert process.stdout is not None
    source, sink = process.stdout.fileno(), sys.stdout.buffer
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return "timeout"
        if not select.select([source], [], [], min(left, 1.0))[0]:
            if process.poll() is not None:
                return "ended"
            continue
        data = os.read(source, 65536)
        if not data:
            # The pipe is closed a moment before the process is gone.
            try:
                process.wait(max(min(left, LINGER_SECONDS), 1.0))
            except subprocess.TimeoutExpired:
                return "timeout"
            return "ended"
        sink.write(data)
        sink.flush()
        if log:
            log.write(data)
            log.flush()
        if watch.feed(data):
            return "until"


class Watch:
    """Looks through the console's output for the lines that the caller asked about."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Notes what to look for."""
        self.timeout = options.timeout
        self.until: Optional[bytes] = options.until.encode() if options.until else None
        self.missing = [line.encode() for line in options.expect]
        self.aliased = False
        self.partial = b""

    def feed(self, data: bytes) -> bool:
        """Takes a piece of output; tells whether the text that ends the run has been seen."""
        *lines, self.partial = (self.partial + data).split(b"\n")
        for line in lines:
            self.line(line)
        # What is only the beginning of a line may still be all that is ever printed, such as a prompt.
        return self.until is not None and any(self.until in line for line in [*lines, self.partial])

    def line(self, line: bytes) -> None:
        """Takes one whole line."""
        line = line.strip(b"\r")
        self.aliased |= line.startswith(ALIAS_ON)
        if line.rstrip() in self.missing:
            self.missing.remove(line.rstrip())

    def verdict(self, ended: str, status: int, aliased: bool) -> int:
        """Returns the exit status of the run, having said what was wrong with it."""
        if self.partial:
            self.line(self.partial)
            print(flush=True)
        if ended == "timeout":
            note(f"stopped after {self.timeout:g} s")
            status = TIMEOUT_STATUS
        elif ended == "until":
            status = 0
        elif status < 0:
            note(f"QEMU ended by signal {-status}")
            status = 128 - status
        if ended == "ended" and self.until is not None:
            note(f"QEMU ended and never printed the text waited for: {self.until.decode()}")
            status = status or 1
        for line in self.missing:
            note(f"the expected line was not printed: {line.decode()}")
            status = status or 1
        if aliased and not self.aliased:
            note("the tag memory was never aliased")
            status = status or 1
        return status


def note(text: str) -> None:
    """Prints a remark about the run, kept apart from the console's own text."""
    print(f"run: {text}", file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------------------------------
# The command line


def parse_options() -> argparse.Namespace:
    """Reads and checks the command line."""
    summary, *rest = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog="\n\n".join(rest),
                                     formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage="%(prog)s [options] [-- QEMU options]")
    add = parser.add_argument

    def whole(text: str) -> int:
        value = int(text, 0)
        if value <= 0:
            raise ValueError
        return value

    whole.__name__ = "positive number"

    def address(text: str) -> int:
        value = int(text, 0)
        if value < 0:
            raise ValueError
        return value

    address.__name__ = "address"

    def seconds(text: str) -> float:
        value = float(text)
        if not 0 < value < 1e7:
            raise ValueError
        return value

    seconds.__name__ = "number of seconds"

    add("--plain", action="store_true", help="QEMU's own machine: no tag storage, no aliasing")
    add("--layout", choices=sorted(LAYOUTS), default="one",
        help="aliased machine: one region; two regions, storage at the top; two regions whose storage lies in the other's "
             "half (crossed), or in their own (nodes); one region with 8 KiB blocks off their natural alignment (block8k), with 12 KiB blocks "
             "(block12k), or with 64 KiB blocks (block64k). Default: one")
    add("--board", choices=["virt", "versal", "raspi3b"], default="virt",
        help="QEMU's virt machine; its Xilinx Versal board: two Cortex-A72, RAM from 0 on, no MTE; or its Raspberry Pi 3 with "
             "the mini UART as the console, an 8250-like port, and no PSCI (both with --plain). Default: virt")
    add("--qemu", choices=["chosen", "newest"], default="chosen",
        help="the QEMU that set-up chose, or the newest one (qemu/setup.py --only qemu-newest). Default: chosen")
    add("--image", type=Path, default=BUILD / "tagstash.img", help="firmware image (default: build/tagstash.img)")
    add("--kernel", type=Path, help="guest kernel or test payload, a raw image")
    add("--initrd", type=Path, help="initial ramdisk for the guest")
    add("--bootargs", default="", metavar="TEXT", help="boot arguments for the guest")
    add("--drive", type=Path, action="append", default=[], metavar="FILE",
        help="virt machine: a disk for the guest, a raw image, by virtio (may be given again). What the guest writes to it "
             "is kept, but not made safe against a crash of this machine")
    add("--no-harness-args", dest="harness_args", action="store_false",
        help="pass the guest its --bootargs only, without ram=, ram-base= and region=")
    add("--cpus", type=whole, default=1, metavar="N", help="number of CPUs (default 1)")
    add("--memory", type=whole, metavar="MIB",
        help="RAM in MiB, a multiple of 64 from 128 up (default 512; 576 with --el 3, --monitor)")
    add("--ram-base", type=address, default=RAM_BASE, metavar="ADDRESS",
        help=f"aliased machine: the device tree describes RAM from this address on, and everything is loaded there (default "
             f"{RAM_BASE:#x}, where the machine's RAM begins)")
    add("--image-offset", type=address, default=IMAGE_OFFSET, metavar="BYTES",
        help=f"aliased machine: where the image is loaded, from the start of RAM, a multiple of 4 KiB (default "
             f"{IMAGE_OFFSET:#x})")
    add("--tree-offset", type=address, default=DTB_OFFSET, metavar="BYTES",
        help=f"aliased machine: where the device tree is loaded, from the start of RAM (default {DTB_OFFSET:#x})")
    add("--numa", action="store_true",
        help="two NUMA nodes, half of RAM and of the CPUs each (with --plain, or a --layout of two regions: "
             f"{', '.join(NUMA_LAYOUTS)})")
    add("--gic", type=int, choices=[2, 3, 4], default=3, help="version of the interrupt controller (default 3)")
    add("--no-its", action="store_true", help="leave the interrupt translation service out (with --gic 3, which has one else)")
    add("--cpu", default="max", metavar="MODEL", help="CPU model, with its properties (default max)")
    add("--el", type=int, choices=[1, 2, 3], default=2, help="exception level at which the image is entered (default 2)")
    add("--monitor", type=Path, nargs="?", const=BUILD / "monitor.img", metavar="FILE",
        help="aliased machine, entered at EL2: firmware at EL3 that opens to EL2 what Linux asks for and nothing else, starts "
             "CPUs, and leaves junk in registers (tests/monitor; default FILE: build/monitor.img); RAM holds junk too")
    add("--no-mte", action="store_true", help="leave MTE out (with --plain)")
    add("--icount", action="store_true", help="count instructions exactly (1 CPU only)")
    add("--overlay", type=Path, metavar="FILE", help="device-tree overlay, .dtso or .dtbo, put into a copy of the image")
    add("--own-tree", action="store_true", help="aliased machine: QEMU's own device tree, which describes no tag storage")
    add("--uboot", action="store_true", help="as --own-tree, and U-Boot loads the image and the guest")
    add("--disk", type=Path, metavar="FILE", help="with --uboot: a disk that boot/disk.py made, with the guest on it")
    add("--fit", action="store_true", help="with --uboot: image and guest in one FIT (boot/fit.py)")
    add("--pack", action="store_true", help="image and guest in one file (boot/pack.py); with --plain, --own-tree or --uboot")
    add("--dts-append", type=Path, metavar="FILE", help="device-tree source appended last, to break a rule on purpose or to "
        "write another dialect; labels: tagmem0, tagmem1, storage0, storage1, reserved, chosen")
    add("--dts-out", type=Path, metavar="FILE", help="keep the device-tree source that was used")
    add("--ram-dir", type=Path, metavar="DIR", help="where the file behind guest RAM goes (default: /dev/shm if it is large "
        "enough, else build/)")
    add("--alias-library", type=Path, default=BUILD / "libtagalias.so", metavar="FILE",
        help="the preloaded library (default: build/libtagalias.so)")
    add("--timeout", type=seconds, metavar="SECONDS", help="end the run after so long (default 300)")
    add("--expect", action="append", default=[], metavar="LINE",
        help="fail unless this very line is printed (may be given again)")
    add("--until", metavar="TEXT", help="end the run, successfully, as soon as a line has this text; fail if none does")
    add("--log", type=Path, metavar="FILE", help="keep the console's output")
    add("--no-semihosting", dest="semihosting", action="store_false", help="leave semihosting out")
    add("--gdb", type=whole, nargs="?", const=GDB_PORT, metavar="PORT",
        help=f"wait for a debugger on this TCP port of 127.0.0.1 (default {GDB_PORT}) and print what to type into it; the time "
        "limit does not apply then")
    add("--interactive", action="store_true", help="give the guest's console the keyboard, Ctrl-C included; no time limit "
        "unless --timeout is given (end with Ctrl-A X)")
    add("--show", action="store_true", help="print QEMU's command line before it is run")

    given = sys.argv[1:]
    qemu_args: list[str] = []
    if "--" in given:
        cut = given.index("--")
        given, qemu_args = given[:cut], given[cut + 1:]
    options = parser.parse_args(given)
    options.qemu_args = qemu_args

    def refuse(text: str) -> NoReturn:
        parser.exit(2, f"run: {text}\n")

    if options.cpus > 64:
        refuse(f"--cpus {options.cpus} is more than the 64 that are supported here")
    if options.gic == 2 and options.cpus > 8:
        refuse(f"--gic 2 goes with 8 CPUs at most, and --cpus is {options.cpus}")
    if options.gic == 4 and options.el == 1:
        refuse("--gic 4 does not go with --el 1: QEMU has its virtual interrupts only where there is an EL2")
    if options.no_its and options.gic != 3:
        refuse("--no-its goes with --gic 3 only: version 2 has no ITS, and version 4 needs it")
    if options.gdb and not 1024 <= options.gdb <= 65535:
        refuse(f"--gdb {options.gdb} is not a port that anybody may listen on: take one from 1024 to 65535")
    if options.icount and options.cpus != 1:
        refuse(f"--icount goes with one CPU only, and --cpus is {options.cpus}: QEMU would run the CPUs in turns of "
               f"millions of instructions, which tests no races")
    if options.timeout is None:
        options.timeout = float("inf") if options.interactive else 300.0
    if options.board == "raspi3b":
        if options.memory not in (None, RASPI_MIB):
            refuse(f"--memory {options.memory} does not go with --board raspi3b, which has {RASPI_MIB} MiB")
        options.memory = RASPI_MIB
    if options.monitor:
        if not options.monitor.is_file():
            refuse(f"--monitor {options.monitor} is not there: `make harness` makes it")
        if options.plain or options.own_tree or options.uboot or options.el != 2 or options.ram_base != RAM_BASE:
            refuse("--monitor goes with the aliased machine, its own tree, --el 2, and RAM from its beginning on")
        if options.cpus > 8 or options.gic != 3:
            refuse("--monitor goes with 8 CPUs at most, and --gic 3")
    secure = options.el == 3 or options.monitor is not None
    if options.memory is None:
        options.memory = 576 if secure else 512
    elif secure and options.memory == SECURE_RAM_MIB * DATA_PER_TAG_BYTE:
        # The aliasing library knows the tag memory by its size.
        refuse(f"--memory {options.memory} does not go with --el 3 and --monitor: its tag memory would be as large as the machine's "
               f"{SECURE_RAM_MIB} MiB of secure RAM, and could not be told from it")
    if options.memory < 128 or options.memory % 64:
        refuse(f"--memory {options.memory} is not a multiple of 64 MiB from 128 up")
    if options.ram_base % (64 * MIB) or not RAM_BASE <= options.ram_base <= RAM_BASE + (options.memory - 128) * MIB:
        refuse(f"--ram-base {options.ram_base:#x} is not a multiple of 64 MiB with 128 MiB of RAM above it: RAM is "
               f"{options.memory} MiB at {RAM_BASE:#x}")
    if options.image_offset % (4 * KIB) or options.image_offset >= STUB_OFFSET:
        refuse(f"--image-offset {options.image_offset:#x} is not a multiple of 4 KiB below {STUB_OFFSET:#x}")
    if options.ram_base == RAM_BASE and options.image_offset < MIB:
        refuse(f"--image-offset {options.image_offset:#x} is below {MIB:#x}, where QEMU puts its own device tree")
    if options.memory > 255 * 1024:
        refuse(f"--memory {options.memory} is more than the machine's 255 GiB")
    if options.initrd and not options.kernel:
        refuse("--initrd needs a --kernel")
    for drive in options.drive:
        if options.board != "virt":
            refuse(f"--drive goes with the virt machine, not with --board {options.board}")
        if not drive.is_file():
            refuse(f"--drive {drive} is not there")
    if options.bootargs and not options.kernel:
        refuse("--bootargs needs a --kernel")
    if "\n" in options.bootargs or "\0" in options.bootargs:
        refuse("--bootargs has to be one line")
    if options.own_tree or options.uboot:
        name = "--uboot" if options.uboot else "--own-tree"
        for other, value in (("--plain", options.plain), ("--dts-append", options.dts_append), ("--dts-out", options.dts_out)):
            if value:
                refuse(f"{name} does not go with {other}: its device tree is QEMU's own")
        if options.el == 3 or (options.uboot and options.el != 2):
            refuse(f"--el {options.el} does not go with {name}, which enters the image at EL2")
    for name, value in (("--disk", options.disk), ("--fit", options.fit)):
        if value and not options.uboot:
            refuse(f"{name} goes with --uboot only")
    if options.disk and (options.kernel or options.overlay or options.fit or options.pack):
        refuse("--disk has image, kernel and overlay on it: leave --kernel, --overlay, --fit and --pack out")
    if options.disk and not options.disk.is_file():
        refuse(f"--disk {options.disk} is not there: `make uboot-disk` makes one")
    if (options.fit or options.pack) and not options.kernel:
        refuse(f"{'--fit' if options.fit else '--pack'} needs a --kernel")
    if options.pack and (options.fit or options.board != "virt" or not (options.plain or options.own_tree or options.uboot)):
        refuse("--pack goes with --plain, --own-tree or --uboot, on the virt machine, without --fit")
    if options.no_mte and not options.plain:
        refuse("--no-mte goes with --plain only: without MTE there are no tags to alias")
    if options.board != "virt" and (not options.plain or options.cpus != 1 or options.cpu != "max"
                                      or options.el != 2 or options.gic != 3 or options.no_its or options.numa):
        refuse(f"--board {options.board} goes with --plain, and has its own --cpu, --cpus, --el, --gic and memory")
    if options.numa and not options.plain:
        if options.own_tree or options.uboot:
            refuse(f"--numa does not go with {'--uboot' if options.uboot else '--own-tree'}: QEMU's own device tree has one node")
        if options.layout not in NUMA_LAYOUTS:
            refuse(f"--numa needs two regions, and --layout {options.layout} has one: take {', '.join(NUMA_LAYOUTS)}")
    if options.numa and options.memory % 128:
        refuse(f"--numa needs halves of RAM that are multiples of 64 MiB, and --memory is {options.memory}")
    if options.plain:
        for name, value in (("--dts-append", options.dts_append), ("--dts-out", options.dts_out)):
            if value:
                refuse(f"{name} does not go with --plain, whose device tree is QEMU's own")
        for name, same in (("--ram-base", options.ram_base == RAM_BASE),
                           ("--image-offset", options.image_offset == IMAGE_OFFSET),
                           ("--tree-offset", options.tree_offset == DTB_OFFSET)):
            if not same:
                refuse(f"{name} does not go with --plain, where QEMU places everything itself")
        if options.layout != "one":
            refuse("--layout does not go with --plain, which has no tag storage")
        if options.el == 3:
            refuse("--el 3 does not go with --plain: there QEMU itself takes the image from EL3 to EL2")
    return options


def main() -> int:
    """Runs the machine; returns the process's exit status."""
    options = parse_options()

    def on_signal(number: int, _frame: object) -> NoReturn:
        raise Stopped(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    scratch: Optional[Path] = None
    try:
        directory = BUILD if options.plain else ram_directory(options.ram_dir, options.memory * MIB)
        directory.mkdir(parents=True, exist_ok=True)
        scratch, _ = make_scratch(directory)
        machine = Machine(options, scratch)
        if options.show:
            machine.show()
        return machine.run()
    except RunError as error:
        note(str(error))
        return 2
    except OSError as error:
        note(str(error))
        return 2
    except Stopped as why:
        note(f"ended by {why}")
        return why.status
    finally:
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
