# SPDX-License-Identifier: MIT OR Apache-2.0
"""Trees to build modules for Debian's arm64 kernels, each for the very Image that set-up fetched.

Debian splits such a tree into three packages: the headers of the configuration (with the symbols' versions), the headers that all
configurations share, and Kbuild's scripts and programs. The first two are arm64's, the third is this machine's own, in the same
version. They are put together under build/linux/trees/NAME/usr as they would lie under /usr, with three changes:

* what names an absolute path or a compiler of its own choice no longer does, so that CROSS_COMPILE says what compiles;
* programs are started with the C library that they were built for, which came along and may be newer than this system's;
* where the kernel was compiled by a newer gcc, the tree's answers to what the compiler can do are those of ours: a module is then
  compiled as Kconfig would have it with this compiler. The options concerned change neither types nor interfaces.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Optional

import setup
import trees

NAMES = ["6.1", "6.12", "newest"]
# Configuration options that say what the compiler can do, where that is newer than gcc 12: how to ask ours, and what goes with it.
# Linux, init/Kconfig and arch/Kconfig.
ASK_COMPILER = {
    # The second lets functions be marked cold, which older versions of gcc then place wherever they like.
    "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT": (["-fmin-function-alignment=8"], "", ["CONFIG_CC_HAS_SANE_FUNCTION_ALIGNMENT"]),
    "CONFIG_CC_HAS_ASSUME": (["-Werror"], "void f(int a) { __attribute__((__assume__(a > 0))); }", []),
    "CONFIG_CC_HAS_COUNTED_BY": (["-Werror"], "struct s { int n; int a[] __attribute__((__counted_by__(n))); };", []),
    "CONFIG_CC_HAS_MULTIDIMENSIONAL_NONSTRING": (["-Werror"], "char a[1][2] __attribute__((__nonstring__)) = { \"ab\" };", []),
}


def find(name: str, tools: dict[str, dict], fetch: bool) -> trees.Kernel:
    """Finds the tree for one of Debian's kernels, or puts it together.

    `tools` is what tools.json says; where the archives no longer have the headers for the Image at hand, `fetch` gets a newer Image,
    and notes it there.
    """
    place = trees.TREES / name
    reason = f"no headers of Debian's kernel {name} have been fetched. What to do: `python3 qemu/setup.py --only headers`"
    for record in images(name, tools):
        if complete(place, record):
            return trees.check(name, Path(record["kernel"]), tree_of(place, record["release"]), f"{setup.relative(place)}")
    if not fetch:
        raise setup.NotDownloaded(reason)
    with trees.alone(name):
        return get(name, place, tools)


def get(name: str, place: Path, tools: dict[str, dict]) -> trees.Kernel:
    """Puts the tree together, for an Image at hand if the archives still have its headers."""
    if not images(name, tools):
        get_image(name, tools)
    apt = setup.Apt("kernels", list(dict.fromkeys(entry.suite for entry in setup.KERNEL_SOURCES.values())), "arm64")
    apt.update("headers")

    def offered() -> Optional[dict[str, str]]:
        for record in images(name, tools):
            if any(version == record["version"] for version, _ in apt.versions(f"linux-headers-{record['release']}")):
                return record
        return None

    record = offered()
    if record is None:
        there = ", ".join(entry["release"] for entry in images(name, tools))
        setup.say("headers", f"{name}: no archive has the headers of {there} any more: fetching a newer kernel")
        tools.get("kernels", {}).pop(name, None)
        get_image(name, tools)
        record = offered()
    if record is None:
        raise setup.NotDownloaded(f"no archive that could be reached offers the headers of {name}. What to do: look whether this machine "
                                  f"reaches the archives listed under /etc/apt")
    if not complete(place, record):
        assemble(name, apt, record, place)
    return trees.check(name, Path(record["kernel"]), tree_of(place, record["release"]), f"{setup.relative(place)}")


def images(name: str, tools: dict[str, dict]) -> list[dict[str, str]]:
    """Returns the kernels at hand that go by a name, the guest's of `make linux` first, which has its modules in the ramdisk."""
    found = [tools["linux"]] if name == setup.LINUX_SERIES and isinstance(tools.get("linux"), dict) else []
    of_tests = tools.get("kernels")
    if isinstance(of_tests, dict) and isinstance(of_tests.get(name), dict):
        found.append(of_tests[name])
    return [record for record in found
            if all(record.get(key) for key in ("kernel", "release", "version", "kernel-stamp"))
            and record["kernel-stamp"] == setup.stamp(Path(record["kernel"]))
            and (name == "newest" or setup.numbers(record["release"])[:2] == setup.numbers(name)[:2])]


def get_image(name: str, tools: dict[str, dict]) -> None:
    """Fetches the kernel itself, and notes it."""
    tools["kernels"], trouble = setup.find_kernels([name], tools)
    if trouble is not None:
        raise trouble


def tree_of(place: Path, release: str) -> Path:
    """Returns where modules are built within what was put together."""
    return place / "usr/src" / f"linux-headers-{release}"


def stamp_of(record: dict[str, str]) -> str:
    """Identifies a tree: the headers' version, where it lies, the compiler, and how it was put together."""
    compiler = trees.read_tools().get("cross", {}).get("version", "")
    return f"{record['release']} {record['version']} at {trees.TREES} for gcc {compiler}, layout 2\n"


def complete(place: Path, record: dict[str, str]) -> bool:
    """Tells whether the tree for a kernel is there."""
    stamp = place / "stamp"
    return stamp.is_file() and stamp.read_text() == stamp_of(record)


# --------------------------------------------------------------------------------------------------------------------
# Putting a tree together


def assemble(name: str, apt: setup.Apt, record: dict[str, str], place: Path) -> None:
    """Fetches the three packages and makes one tree of them, which appears only when it is complete."""
    release, version = record["release"], record["version"]
    package = f"linux-headers-{release}"
    depends = apt.facts(package, version).get("Depends", "")
    common = re.search(r"\b(linux-headers-\S+-common) \(= ([^)\s]+)\)", depends)
    kbuild = re.search(r"\b(linux-kbuild-[^\s,]+)", depends)
    if not common or not kbuild:
        raise setup.SetupError(f"package {package} {version} does not name the headers and scripts that it depends on: '{depends}'")
    status, architecture = setup.run(["dpkg", "--print-architecture"], 20)
    if status != 0:
        raise setup.SetupError(f"dpkg does not tell this system's architecture:\n{setup.indent(architecture)}")
    partial = place.with_name(f"{name}.partial")
    parts = partial / "parts"
    shutil.rmtree(partial, ignore_errors=True)
    parts.mkdir(parents=True)
    for index, (part, wanted) in enumerate(((package, version), (common[1], common[2]))):
        deb = apt.download("headers", part, wanted)
        setup.Apt.unpack([deb], parts / str(index))
        shutil.rmtree(deb.parent)
    # By naming the architecture: its C library may be another one than this system's, and has to come along.
    suites = list(dict.fromkeys(entry.suite for entry in setup.KERNEL_SOURCES.values()))
    host = setup.Apt("headers", suites, architecture.strip())
    host.update("headers")
    offers = [entry for entry in host.versions(kbuild[1]) if entry[0] == version]
    if not offers:
        raise setup.NotDownloaded(f"no archive that could be reached offers {kbuild[1]} {version} for {architecture.strip()}: Kbuild's "
                                  f"programs for this machine")
    host.fetch_tree("headers", [f"{kbuild[1]}={version}"], offers[0][1], partial / "host")
    for link in (partial / "host").rglob("ld-linux-*.so.*"):
        # The loader is linked to by an absolute path, which leads out of what was unpacked.
        if link.is_symlink() and os.readlink(link).startswith("/"):
            inside = partial / "host" / os.readlink(link).lstrip("/")
            link.unlink()
            link.symlink_to(os.path.relpath(inside, link.parent))
    lay_out(partial, place, release, common[1], kbuild[1])
    shutil.rmtree(parts)
    suit_compiler(tree_of(partial, release))
    (partial / "stamp").write_text(stamp_of(record))
    shutil.rmtree(place, ignore_errors=True)
    partial.rename(place)


def lay_out(partial: Path, place: Path, release: str, common: str, kbuild: str) -> None:
    """Moves the parts to where their links lead, and takes absolute paths and the choice of a compiler out of them."""
    tree, scripts = tree_of(partial, release), partial / "usr/lib" / kbuild
    for source, destination in ((f"parts/0/usr/src/linux-headers-{release}", tree), (f"parts/1/usr/src/{common}", tree.parent / common),
                                (f"host/usr/lib/{kbuild}", scripts)):
        destination.parent.mkdir(parents=True, exist_ok=True)
        (partial / source).rename(destination)
    # Relative to this Makefile; the last one of the list is the one that is being read.
    here = "$(dir $(realpath $(lastword $(MAKEFILE_LIST))))"
    makefile = (tree / "Makefile").read_text()
    output = "KBUILD_OUTPUT := $(patsubst %/,%," + here + ")\n" if "KBUILD_OUTPUT" in makefile else ""
    (tree / "Makefile").write_text(f"{output}include {here}../{common}/Makefile\n")
    variables = f"override ARCH = arm64\noverride KERNELRELEASE = {release}\nDEBIAN_KERNEL_NO_CC_VERSION_CHECK = y\n"
    pahole = partial / "host/usr/bin/pahole"
    if pahole.is_file():
        # Of the version that the kernel was built with, which Kbuild asks for.
        wrap(pahole, partial, place)
        variables += f"PAHOLE = {place / pahole.relative_to(partial)}\n"
    (tree / ".kernelvariables").write_text(variables)
    # Modules get no BTF, which nothing here reads; the kernel's own, of tens of megabytes, was there for that. What C sees of these
    # options stays: the layout of types depends on it.
    (tree / "vmlinux").unlink(missing_ok=True)
    auto = tree / "include/config/auto.conf"
    auto.write_text(re.sub(r"^CONFIG_DEBUG_INFO_BTF(_MODULES)?=y\n", "", auto.read_text(), flags=re.M))
    for file in sorted(scripts.rglob("*")):
        if file.is_file() and not file.is_symlink() and file.read_bytes()[:4] == b"\x7fELF":
            wrap(file, partial, place)
    # The program of this name picks one by the byte order and the size of words of what it is to work on.
    modpost = scripts / "scripts/mod/modpost"
    for_arm64 = modpost.with_name("modpost.real-lsb-64")
    if for_arm64.is_file():
        modpost.write_text(for_arm64.read_text())


def wrap(program: Path, partial: Path, place: Path) -> None:
    """Puts a script in the place of a program, which starts it with the C library that came along."""
    binary = program.with_name(program.name + ".elf")
    program.rename(binary)
    argv, _ = setup.tree_command(partial / "host", binary, None)
    # It will lie elsewhere when it is complete.
    words = [word.replace(str(partial), str(place)) for word in argv]
    program.write_text("#!/bin/sh\n# Starts the program beside it. Written by qemu/headers.py.\nexec "
                       + " ".join("'" + word.replace("'", "'\\''") + "'" for word in words) + ' "$@"\n')
    program.chmod(0o755)


def suit_compiler(tree: Path) -> None:
    """Corrects the tree's answers to what the compiler can do, where ours cannot."""
    argv, env = trees.compiler()
    files = [tree / "include/config/auto.conf", tree / "include/generated/autoconf.h"]
    texts = [file.read_text() for file in files]
    dropped: list[str] = []
    for option, (flags, code, others) in ASK_COMPILER.items():
        if not re.search(rf"^{option}=y$", texts[0], re.M):
            continue
        status, _ = setup.run([*argv, *flags, "-x", "c", "-c", "-o", "/dev/null", "-"], 30, env, stdin=code + "\n")
        if status != 0:
            dropped += [option, *others]
    for option in dropped:
        texts[0] = re.sub(rf"^{option}=.*\n", "", texts[0], flags=re.M)
        texts[1] = re.sub(rf"^#define {option} .*\n", "", texts[1], flags=re.M)
    for file, text in zip(files, texts):
        if dropped:
            file.write_text(text)
    if dropped:
        setup.say("headers", f"the kernel's compiler was newer: its tree is without {', '.join(dropped)}")
