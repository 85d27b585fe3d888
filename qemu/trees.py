# SPDX-License-Identifier: MIT OR Apache-2.0
"""What it takes to build Linux modules for a guest's kernel: its Image, and the tree that belongs to that very Image.

A tree is what `make -C TREE M=DIRECTORY` builds external modules in: the kernel's headers, its configuration, the versions of
its symbols, and Kbuild with programs that run on this machine. Every tree that is handed out has been looked at: a module that is
built in it is one that the Image takes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import setup

# Where the Images and trees that this file and its users hand out are kept.
TREES = setup.LINUX / "trees"
# What a module build needs of a tree.
NEEDED = ["Makefile", ".config", "Module.symvers", "include/config/auto.conf", "include/generated/autoconf.h",
          "include/generated/utsrelease.h", "scripts/basic/fixdep", "scripts/mod/modpost"]


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
    # Which is what modules are marked with. In Debian's trees include/config/kernel.release says something else.
    built = "".join(re.findall(r'#define UTS_RELEASE "(.*)"', (tree / "include/generated/utsrelease.h").read_text()))
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


def compiler() -> tuple[list[str], dict[str, str]]:
    """Returns how to start the C compiler for arm64 Linux that set-up chose, and what its environment needs."""
    record = read_tools().get("cross")
    if not isinstance(record, dict) or not record.get("argv") or not record.get("prefix"):
        raise setup.NotDownloaded("no C compiler for arm64 Linux has been got. What to do: `python3 qemu/setup.py --only cross`")
    return record["argv"], record["env"]


def cross_compile() -> str:
    """Returns Kbuild's CROSS_COMPILE: what the names of the compiler and its companions begin with."""
    compiler()
    return str(read_tools()["cross"]["prefix"])


def read_tools() -> dict[str, dict]:
    """Reads what set-up has noted down."""
    try:
        tools = json.loads(setup.TOOLS_JSON.read_text())
    except (OSError, ValueError):
        return {}
    return tools if isinstance(tools, dict) else {}


@contextlib.contextmanager
def alone(name: str) -> Iterator[None]:
    """Lets one process at a time make the tree of a name; the others wait until it is done."""
    TREES.mkdir(parents=True, exist_ok=True)
    with open(TREES / f".{name}.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            setup.say("setup", f"another set-up is at work on {name}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
