# SPDX-License-Identifier: MIT OR Apache-2.0
"""What it takes to build Linux modules for a guest's kernel: its Image, and the tree that belongs to that very Image.

A tree is what `make -C TREE M=DIRECTORY` builds external modules in: the kernel's headers, its configuration, the versions of
its symbols, and Kbuild with programs that run on this machine. Every tree that is handed out has been looked at: a module that is
built in it is one that the Image takes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import setup

# Where the Images and trees that this file and its users hand out are kept.
TREES = setup.LINUX / "trees"
# What a module build needs of a tree.
NEEDED = ["Makefile", ".config", "Module.symvers", "include/config/auto.conf", "include/generated/autoconf.h", "scripts/basic/fixdep",
          "scripts/mod/modpost"]


@dataclass(frozen=True)
class Kernel:
    """A kernel to boot, and to build modules for."""

    name: str
    # What /proc/version and `modinfo -F vermagic` begin with, such as 5.10.223.
    release: str
    image: Path
    tree: Path
    # Where it is from, for messages.
    origin: str

    def enabled(self, option: str) -> bool:
        """Tells whether a configuration option, such as CONFIG_CLEANCACHE, is built in."""
        return re.search(rf"^{option}=y$", (self.tree / ".config").read_text(), re.M) is not None


def image_release(image: Path) -> str:
    """Reads a kernel's release out of its Image."""
    found = re.search(rb"Linux version (\S+)", image.read_bytes())
    if not found:
        raise setup.SetupError(f"{image} names no Linux version: it is no kernel's Image")
    return found[1].decode(errors="replace")


def check(name: str, image: Path, tree: Path, origin: str) -> Kernel:
    """Returns a kernel whose tree can build modules that its Image takes, or says why it cannot."""
    missing = [file for file in NEEDED if not (tree / file).is_file()]
    if missing:
        raise setup.SetupError(f"{origin} is no tree to build modules in: there is no {', '.join(missing)}")
    release = image_release(image)
    try:
        built = (tree / "include/config/kernel.release").read_text().strip()
    except OSError:
        # Debian's headers have it in the preprocessor's form alone.
        text = (tree / "include/generated/utsrelease.h").read_text()
        built = "".join(re.findall(r'#define UTS_RELEASE "(.*)"', text))
    if built != release:
        raise setup.SetupError(f"the Image of {origin} is Linux {release}, and its tree that of {built}: a module built there would be "
                               f"refused")
    # fixdep without arguments says how to use it; a program of another machine does not start at all.
    try:
        status, text = setup.run([str(tree / "scripts/basic/fixdep")], 30)
    except OSError as error:
        status, text = 126, str(error)
    if "Usage: fixdep" not in text:
        raise setup.SetupError(f"the programs of the tree of {origin} do not run on this machine (fixdep: status {status}):\n"
                               f"{setup.indent(text, 3)}")
    return Kernel(name, release, image, tree, origin)
