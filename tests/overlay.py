#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tests boot/embed.py, and compares what the shim makes of an overlay with what fdtoverlay makes of it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
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
EMBED = ROOT / "boot" / "embed.py"
STORAGE = ROOT / "boot" / "qemu-virt.dtso"

BASE = """/dts-v1/;
/memreserve/ 0x1000 0x2000;
/ {
    #address-cells = <2>; #size-cells = <2>;
    gic: gic@1 { reg = <0 1 0 1>; interrupt-controller; };
    soc: soc { uart: uart@2 { interrupt-parent = <&gic>; status = "disabled"; }; };
    chosen { bootargs = "old"; };
    memory@40000000 { device_type = "memory"; reg = <0 0x40000000 0 0x20000000>; };
};
"""

# That of the host's tests, so that what they have built is used.
PROFILE = {"CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS": "true", "CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS": "true",
           "CARGO_PROFILE_RELEASE_LTO": "off"}

# Each is applied to BASE.
OVERLAYS = {
    "labels": "&uart { status = \"okay\"; own: own { }; }; &soc { n@1 { ref = <1 &gic 2 &own>, <&uart>; }; };",
    "paths": "&{/} { chosen { bootargs = \"new\"; extra; }; }; &{/soc/uart@2} { p = [01 02 03]; };",
    "fragments": "/ { fragment@3 { target-path = \"/soc\"; __overlay__ { a { b { c = \"d\"; }; }; }; };"
                 "    fragment@4 { target = <&gic>; __overlay__ { x = <&far>; far: y { }; }; }; };",
    "storage": STORAGE.read_text().split("/plugin/;")[1],
}


def tool() -> tuple[list[str], dict[str, str]]:
    """Returns dtc as set-up chose it."""
    entry = json.loads((BUILD / "tools.json").read_text())["dtc"]
    return list(entry["argv"]), {**os.environ, **entry["env"]}


def run(command: list[str], env: Optional[dict[str, str]] = None) -> tuple[int, str]:
    """Runs a command to its end; returns its status and what it printed."""
    done = subprocess.run(command, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors="replace", timeout=200, check=False)
    return done.returncode, done.stdout


def compiled(directory: Path, name: str, source: str) -> Path:
    """Compiles device-tree source with labels kept."""
    dts, dtb = directory / f"{name}.dts", directory / f"{name}.dtb"
    dts.write_text(source)
    argv, env = tool()
    status, text = run([*argv, "-q", "-@", "-I", "dts", "-O", "dtb", "-o", str(dtb), str(dts)], env)
    if status:
        raise Failed(f"{name} does not compile: {text}")
    return dtb


def canonical(dtb: Path) -> str:
    """Decompiles a tree, sorted, without the table of labels: the shim does not add those of the overlay."""
    argv, env = tool()
    text = subprocess.run([*argv, "-q", "-s", "-I", "dtb", "-O", "dts", str(dtb)], env=env, stdout=subprocess.PIPE, text=True,
                          timeout=60, check=True).stdout
    before, _, after = text.partition("\t__symbols__ {")
    return before + after.partition("\t};\n")[2]


def same_as_fdtoverlay(name: str, directory: Path) -> None:
    """Applies one overlay with both."""
    argv, env = tool()
    fdtoverlay = Path(argv[-1]).with_name("fdtoverlay")
    if not fdtoverlay.is_file():
        raise Skip(f"{fdtoverlay} is not there")
    base = compiled(directory, "base", BASE)
    over = compiled(directory, name, f"/dts-v1/; /plugin/;\n{OVERLAYS[name]}")
    theirs, ours = directory / "theirs.dtb", directory / "ours.dtb"
    for command, where in (([*argv[:-1], str(fdtoverlay), "-i", str(base), "-o", str(theirs), str(over)], env),
                           (["cargo", "run", "-q", "--release", "--target-dir", "target/host", "--example", "overlay", "--",
                             str(base), str(over), str(ours)], {**os.environ, **PROFILE})):
        status, text = run(command, where)
        if status:
            raise Failed(f"{' '.join(command)}: {text}")
    if canonical(base) == canonical(ours):
        raise Failed("the overlay changed nothing")
    if canonical(theirs) != canonical(ours):
        raise Failed(f"fdtoverlay:\n{canonical(theirs)}\nours:\n{canonical(ours)}")


def embed(*arguments: object) -> tuple[int, str]:
    """Runs the tool."""
    return run([sys.executable, str(EMBED), *map(str, arguments)])


def expect(result: tuple[int, str], status: int, text: str) -> None:
    """Checks how a run of the tool ended and what it said."""
    if result[0] != status or text not in result[1] or "Traceback" in result[1]:
        raise Failed(f"status {result[0]} instead of {status}, or no '{text}': {result[1]}")


def goes_in_and_out(directory: Path) -> None:
    """Embeds, shows and removes."""
    clean, out, back = directory / "clean.img", directory / "out.img", directory / "back.img"
    shutil.copyfile(BUILD / "tagstash.img", clean)
    expect(embed(clean, "--show"), 0, "no overlay")
    expect(embed(clean, STORAGE, "-o", out), 0, "overlay of")
    expect(embed(out, "--show"), 0, "fragment@0")
    if out.stat().st_size != clean.stat().st_size:
        raise Failed("the image's length changed")
    expect(embed(out, STORAGE, "-o", out), 1, "already")
    expect(embed(out, "--remove", "-o", back), 0, "")
    if back.read_bytes() != clean.read_bytes():
        raise Failed("what was put in does not come out whole")
    expect(embed(clean, "--remove", "-o", back), 1, "carries no overlay")
    # A blob that was compiled before, and the old image as the new one.
    blob = compiled(directory, "storage", STORAGE.read_text())
    expect(embed(clean, blob, "-o", clean), 0, "overlay of")
    if clean.read_bytes() != out.read_bytes():
        raise Failed("source and blob do not make the same image")


def refuses(directory: Path) -> None:
    """Gives the tool what it cannot use: each time a message, and no image."""
    image, out = BUILD / "tagstash.img", directory / "out.img"
    good = compiled(directory, "good", STORAGE.read_text()).read_bytes()

    def file(name: str, data: bytes) -> Path:
        path = directory / name
        path.write_bytes(data)
        return path

    whole = compiled(directory, "whole", BASE)
    empty = compiled(directory, "empty", "/dts-v1/; / { };")
    room = 65472
    big = compiled(directory, "big", "/dts-v1/; /plugin/; &{/} { p = [" + "00 " * room + "]; };")
    data = image.read_bytes()
    slot = data.index(b"TAGSTASH-OVERLAY")
    damaged = bytearray(data)
    struct.pack_into("<I", damaged, slot + 16, 1 << 30)
    table = [
        (image, directory / "gone.dtbo", "is not there"),
        (image, file("text.dtbo", STORAGE.read_bytes()), "is no device-tree blob"),
        (image, file("none.dtbo", b""), "is no device-tree blob"),
        (image, file("cut.dtbo", good[:-1]), "is cut off"),
        (image, file("token.dtbo", good[:56] + b"\0\0\0\7" + good[60:]), "is malformed"),
        (image, file("old.dtbo", good[:20] + struct.pack(">II", 18, 18) + good[28:]), "has version 18"),
        (image, whole, "is no overlay"),
        (image, empty, "is no overlay"),
        (image, file("wrong.dtso", b"/dts-v1/; /plugin/; &{/} { p = ; };"), "does not compile"),
        (image, big, f"room for {room}"),
        (directory / "gone.img", STORAGE, "gone.img"),
        (file("elf.img", b"\x7fELF" + bytes(100)), STORAGE, "is an ELF file"),
        (file("text.img", b"no image" * 20), STORAGE, "no arm64 Image header"),
        (BUILD / "harness.img", STORAGE, "0 places"),
        (file("twice.img", data + bytes(-len(data) % 64) + data[slot:slot + 65536]), STORAGE, "2 places"),
        (file("damaged.img", bytes(damaged)), STORAGE, "is damaged"),
        (file("short.img", data[:slot + 64]), STORAGE, "is damaged"),
    ]
    for at, overlay, text in table:
        expect(embed(at, overlay, "-o", out), 1, text)
        if out.exists():
            raise Failed(f"an image was written all the same: {text}")
    for arguments in ([image], [image, STORAGE], [image, STORAGE, "--remove", "-o", out], [image, "--show", "-o", out]):
        expect(embed(*arguments), 2, "error:")


def in_a_directory(test: Callable[[Path], None]) -> None:
    """Runs a test with a directory of its own."""
    with tempfile.TemporaryDirectory() as directory:
        test(Path(directory))


def main() -> int:
    """Runs all tests, as TAP."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    tests: list[tuple[str, Callable[[Path], None]]] = [
        ("an overlay goes into an image and comes out", goes_in_and_out),
        ("what cannot be embedded is refused", refuses),
        *((f"as fdtoverlay has it: {name}", lambda path, name=name: same_as_fdtoverlay(name, path)) for name in OVERLAYS),
    ]
    return tap.run([(name, lambda test=test: in_a_directory(test)) for name, test in tests])


if __name__ == "__main__":
    sys.exit(main())
