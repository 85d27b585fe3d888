#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Makes a FIT, U-Boot's format of signed and hashed images, of the shim, the guest and the board's device tree.

boot/tagstash.its describes it; load addresses are there, and for another board in a copy that --its names. What is done here
is to describe the guest's kernel in the device tree as a module, at the address that the FIT loads it to, and to call mkimage.
U-Boot starts the FIT with `bootm ADDRESS`.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
import tempfile
from pathlib import Path

from disk import BUILD, ROOT, DiskError, call, tool


def load_address(its: str, image: str) -> int:
    """Reads where the FIT loads an image to."""
    text = re.sub(r"/\*.*?\*/|//[^\n]*", "", its, flags=re.S)
    node = re.search(rf"\b{image}\s*\{{([^{{}}]*)", text)
    load = node and re.search(r"\bload\s*=\s*<\s*((?:0x)?[0-9a-fA-F]+)(?:\s+((?:0x)?[0-9a-fA-F]+))?\s*>", node[1])
    if not load:
        raise DiskError(f"the FIT's source has no image '{image}' with load = <ADDRESS>, or <HIGH LOW>")
    numbers = [int(word, 0) for word in load.groups() if word]
    return numbers[0] if len(numbers) == 1 else numbers[0] << 32 | numbers[1]


def without(its: str, image: str) -> str:
    """Takes an image, and what refers to it, out of a FIT's source."""
    text = re.sub(rf"\n[ \t]*{image}\s*\{{(?:[^{{}}]|\{{[^{{}}]*\}})*\}};", "", its)
    return re.sub(rf"\n[ \t]*{image}\s*=\s*\"{image}\";", "", text)


def cells(value: int) -> str:
    """Writes a number as two cells."""
    return f"{value >> 32:#x} {value & 0xFFFF_FFFF:#x}"


def with_module(tree: Path, directory: Path, address: int, size: int, bootargs: str) -> Path:
    """Compiles the device tree with the kernel's module in /chosen."""
    argv, env = tool("dtc", "dtc")
    source, compiled = directory / "board.dts", directory / "board.dtb"
    kind = "dts" if tree.suffix == ".dts" else "dtb"
    text = call([*argv, "-q", "-I", kind, "-O", "dts", str(tree)], env, f"{tree} is no device tree")
    quoted = bootargs.replace("\\", "\\\\").replace('"', '\\"')
    line = f'bootargs = "{quoted}";' if bootargs else ""
    text += (f'\n/ {{ chosen {{ #address-cells = <2>; #size-cells = <2>; module@{address:x} {{ compatible = "multiboot,kernel", '
             f'"multiboot,module"; reg = <{cells(address)} {cells(size)}>; {line} }}; }}; }};\n')
    source.write_text(text)
    call([*argv, "-q", "-I", "dts", "-O", "dtb", "-o", str(compiled), str(source)], env,
         f"{tree} does not compile with the kernel's module")
    return compiled


def main() -> int:
    """Does what the command line says; returns the process's exit status."""
    summary, rest = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=rest)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the FIT to make, such as tagstash.itb")
    parser.add_argument("--dtb", type=Path, required=True, metavar="FILE", help="the board's device tree, .dtb or .dts")
    parser.add_argument("--kernel", type=Path, required=True, metavar="FILE", help="the guest's kernel, an uncompressed Image")
    parser.add_argument("--initrd", type=Path, metavar="FILE", help="its initial ramdisk")
    parser.add_argument("--bootargs", default="", metavar="TEXT", help="its boot arguments")
    parser.add_argument("--image", type=Path, default=BUILD / "tagstash.img", metavar="FILE",
                        help="the shim, with the board's overlay in it (boot/embed.py). Default: build/tagstash.img")
    parser.add_argument("--its", type=Path, default=ROOT / "boot" / "tagstash.its", metavar="FILE",
                        help="the FIT's source (default: boot/tagstash.its)")
    options = parser.parse_args()
    try:
        inputs = [("tagstash.img", options.image), ("Image", options.kernel), ("initrd.img", options.initrd), ("", options.dtb)]
        for _, path in inputs:
            if path and (not path.is_file() or not path.stat().st_size):
                raise DiskError(f"{path} is not there or is empty")
        if "\n" in options.bootargs or "\0" in options.bootargs:
            raise DiskError("the boot arguments have to be one line")
        its = options.its.read_text()
        address = load_address(its, "guest")
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            for target, path in inputs:
                if path and target:
                    shutil.copyfile(path, directory / target)
            with_module(options.dtb, directory, address, options.kernel.stat().st_size, options.bootargs)
            (directory / "tagstash.its").write_text(its if options.initrd else without(its, "ramdisk"))
            argv, env = tool("u-boot", "mkimage")
            # mkimage calls dtc by its name.
            dtc, dtc_env = tool("dtc", "dtc")
            search = f"{Path(dtc[0]).parent}:{call(['sh', '-c', 'echo $PATH'], {}, 'sh does not run').strip()}"
            call([*argv, "-f", "tagstash.its", "tagstash.itb"], {**env, **dtc_env, "PATH": search}, f"{options.its} makes no FIT",
                 directory)
            shutil.copyfile(directory / "tagstash.itb", options.output)
        print(f"fit: {options.output}: {options.output.stat().st_size} bytes")
        return 0
    except DiskError as error:
        print(f"fit: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"fit: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
