#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tests of set-up's kernels and trees to build modules in: interrupted, without a network, of the wrong kind; results in the Test
Anything Protocol.

Nothing is downloaded and no kernel is compiled: sources, packages and trees are small ones, made here, in a build directory of their
own. The sources are a Makefile with Kbuild's targets.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Callable

import tap

ROOT = Path(__file__).resolve().parent.parent
PLACE = Path(tempfile.mkdtemp(prefix="trees-", dir=ROOT / "build"))
# Before set-up is read: it takes its directories from here. No kernel that this machine may have is meant.
os.environ["TAGSTASH_BUILD"] = str(PLACE)
os.environ.pop("CLEANCACHE_KERNEL", None)
sys.path.insert(0, str(ROOT / "qemu"))
import cleancache  # noqa: E402
import headers  # noqa: E402
import kernel_build  # noqa: E402
import setup  # noqa: E402
import trees  # noqa: E402

RELEASE = "5.10.999-test"
# What tells an arm64 Image: its magic number at 0x38.
IMAGE = bytes(0x38) + b"ARM\x64" + bytes(64) + f"Linux version {RELEASE} (somebody)".encode()
FIXDEP = "#!/bin/sh\necho 'Usage: fixdep <depfile> <target> <cmdline>' >&2\nexit 1\n"
# Targets of Kbuild's names, as far as set-up uses them. FAULT in the directory of the build says what is to go wrong.
MAKEFILE = r"""
fault = $(shell cat $(O)/FAULT 2>/dev/null)
allnoconfig:
	@if [ "$(fault)" = option ]; then grep -v CLEANCACHE $(KCONFIG_ALLCONFIG) >$(O)/.config; else cp $(KCONFIG_ALLCONFIG) $(O)/.config; fi
Image:
	@echo "  CC      mm/first.o"; echo once >>$(O)/first
	@if [ "$(fault)" = error ]; then echo "mm/x.c:1:2: error: this was to be"; exit 1; fi
	@if [ "$(fault)" = hang ]; then echo $$$$ >$(O)/hanging; exec sleep 600; fi
	@mkdir -p $(O)/arch/arm64/boot $(O)/arch/arm64/include/generated $(O)/include/config $(O)/include/generated
	@mkdir -p $(O)/scripts/basic $(O)/scripts/mod
	@cp image $(O)/arch/arm64/boot/Image; echo symbols >$(O)/vmlinux; echo >$(O)/Module.symvers; echo >$(O)/System.map
	@echo >$(O)/include/config/auto.conf; echo >$(O)/include/generated/autoconf.h; echo object >$(O)/scripts/mod/modpost.o
	@echo '#define UTS_RELEASE "RELEASE"' >$(O)/include/generated/utsrelease.h
	@cp fixdep $(O)/scripts/basic/fixdep; cp fixdep $(O)/scripts/mod/modpost
modules: Image
modules_prepare: modules
""".replace("RELEASE\"", RELEASE + "\"")


def expect(error: type[Exception], words: list[str], action: Callable[[], object]) -> str:
    """Runs something that has to be refused, in words that say what is wrong and what to do."""
    try:
        action()
    except setup.SetupError as refused:
        text = str(refused)
        if type(refused) is not error:
            raise tap.Failed(f"refused as {type(refused).__name__}, not {error.__name__}: {text}") from None
        missing = [word for word in words if word not in text]
        if missing:
            raise tap.Failed(f"the message has no '{missing[0]}': {text}") from None
        return text
    raise tap.Failed("it was not refused")


def require(condition: bool, text: str) -> None:
    """Fails with this text unless the condition holds."""
    if not condition:
        raise tap.Failed(text)


def fresh() -> None:
    """Leaves no tree of the test before."""
    shutil.rmtree(trees.TREES, ignore_errors=True)
    trees.TREES.mkdir(parents=True)
    os.environ.pop("CLEANCACHE_KERNEL", None)


def make_tree(directory: Path, release: str = RELEASE) -> None:
    """Makes what passes for a tree to build modules in."""
    for name in trees.NEEDED:
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (directory / ".config").write_text("CONFIG_CLEANCACHE=y\n# CONFIG_SWAP is not set\n")
    (directory / "include/generated/utsrelease.h").write_text(f'#define UTS_RELEASE "{release}"\n')
    for name in ("scripts/basic/fixdep", "scripts/mod/modpost"):
        (directory / name).write_text(FIXDEP)
        (directory / name).chmod(0o755)


def pack(directory: Path) -> bytes:
    """Packs a directory as kdev.tar.xz does."""
    space = io.BytesIO()
    with tarfile.open(fileobj=space, mode="w:xz") as archive:
        archive.add(directory, directory.name)
    return space.getvalue()


def given(name: str = "given") -> Path:
    """Makes a directory that CLEANCACHE_KERNEL can name, and names it."""
    fresh()
    directory = PLACE / name
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    make_tree(directory / "kdev")
    (directory / "kdev.tar.xz").write_bytes(pack(directory / "kdev"))
    shutil.rmtree(directory / "kdev")
    (directory / "Image.xz").write_bytes(lzma.compress(IMAGE))
    os.environ["CLEANCACHE_KERNEL"] = str(directory)
    return directory


# --------------------------------------------------------------------------------------------------------------------
# Trees, and the kernel that is given


def tree_is_looked_at() -> None:
    """A tree that could not build modules for the Image is refused, with the reason."""
    fresh()
    directory = PLACE / "tree"
    shutil.rmtree(directory, ignore_errors=True)
    make_tree(directory)
    image = PLACE / "Image"
    image.write_bytes(IMAGE)
    kernel = trees.check("5.10", image, directory, "a tree")
    require(kernel.release == RELEASE and kernel.enabled("CONFIG_CLEANCACHE") and not kernel.enabled("CONFIG_SWAP"), f"read as {kernel}")
    (directory / "scripts/basic/fixdep").write_bytes(b"\x7fELF of another machine")
    expect(setup.SetupError, ["do not run on this machine"], lambda: trees.check("5.10", image, directory, "a tree"))
    make_tree(directory, "5.10.1")
    expect(setup.SetupError, [RELEASE, "5.10.1"], lambda: trees.check("5.10", image, directory, "a tree"))
    (directory / "Module.symvers").unlink()
    expect(setup.SetupError, ["Module.symvers"], lambda: trees.check("5.10", image, directory, "a tree"))
    image.write_bytes(bytes(1000))
    make_tree(directory)
    expect(setup.SetupError, ["no Linux version"], lambda: trees.check("5.10", image, directory, "a tree"))


def given_is_unpacked_once() -> None:
    """The directory that the environment names is unpacked, and again only when it changes."""
    directory = given()
    first = cleancache.find("5.10")
    require(first.release == RELEASE, f"read as {first}")
    mark = first.tree / "mark"
    mark.write_text("")
    require(cleancache.find("5.10") == first and mark.exists(), "it was unpacked again")
    (directory / "Image.xz").write_bytes(lzma.compress(IMAGE + b" "))
    cleancache.find("5.10")
    require(not mark.exists(), "a changed Image was not unpacked")


def given_is_wrong() -> None:
    """A directory that lacks something, or is damaged, is refused, and leaves nothing that could be taken for a tree."""
    directory = given()
    expect(setup.NotDownloaded, ["Image", "CLEANCACHE_KERNEL"], lambda: cleancache.find("5.10-debug"))
    whole = (directory / "kdev.tar.xz").read_bytes()
    (directory / "kdev.tar.xz").write_bytes(whole[:len(whole) // 2])
    expect(setup.SetupError, ["kdev.tar.xz", "CLEANCACHE_KERNEL"], lambda: cleancache.find("5.10"))
    require(not [left for left in trees.TREES.iterdir() if left.is_dir()], f"left behind: {list(trees.TREES.iterdir())}")
    (directory / "kdev.tar.xz").unlink()
    expect(setup.NotDownloaded, ["kdev.tar.xz"], lambda: cleancache.find("5.10"))
    os.environ["CLEANCACHE_KERNEL"] = str(PLACE / "nowhere")
    expect(setup.NotDownloaded, ["nowhere", "CLEANCACHE_KERNEL"], lambda: cleancache.find("5.10"))


def nothing_is_given() -> None:
    """Without a directory and without a build, the reason says how to come by the kernel; nothing is built by the way."""
    fresh()
    for name, only in (("5.10", "cleancache-kernel"), ("5.10-debug", "cleancache-debug")):
        expect(setup.NotDownloaded, [f"--only {only}", "CLEANCACHE_KERNEL"], lambda name=name: cleancache.find(name))


# --------------------------------------------------------------------------------------------------------------------
# Building


def sources() -> Path:
    """Makes sources that build in no time, and says that there is a compiler."""
    fresh()
    source = trees.TREES / "linux-source-5.10-test"
    for name in ("include/linux/a.h", "scripts/checkpatch.pl", "arch/arm64/include/asm/a.h", "arch/arm64/Makefile", "tools/include/a.h",
                 "stamp"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("")
    (source / "Makefile").write_text(MAKEFILE)
    (source / "image").write_bytes(IMAGE)
    (source / "fixdep").write_text(FIXDEP)
    (source / "fixdep").chmod(0o755)
    compiler_is_there()
    # What a bare machine lacks is not needed here: it is enough that it is found.
    programs = PLACE / "programs"
    programs.mkdir(exist_ok=True)
    for name in kernel_build.PROGRAMS:
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    if str(programs) not in os.environ["PATH"].split(":"):
        os.environ["PATH"] += f":{programs}"
    return source


def compiler_is_there() -> None:
    """Lets set-up find what passes for a C compiler that it fetched, where the system has none."""
    binary = setup.TOOLS / "cross/usr/bin" / (setup.CROSS + "gcc")
    binary.parent.mkdir(parents=True, exist_ok=True)
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    record = setup.Program([str(binary)], {}, "1", "fetched").record()
    setup.TOOLS_JSON.write_text(json.dumps({"cross": {**record, "prefix": "none-"}}))


def fault(name: str, what: str) -> None:
    """Says what is to go wrong in the next build."""
    work = trees.TREES / f"{name}-build"
    work.mkdir(parents=True, exist_ok=True)
    (work / "FAULT").write_text(what)


def kernel_is_built_once() -> None:
    """A kernel is built with its tree, once, and again when the configuration changes."""
    sources()
    kernel = cleancache.find("5.10", True)
    place = kernel_build.place("5.10")
    require(kernel.tree == place / "kdev" and kernel.release == RELEASE and kernel.enabled("CONFIG_CLEANCACHE"), f"built as {kernel}")
    require((kernel.tree / "include/linux/a.h").is_file() and not (kernel.tree / "scripts/mod/modpost.o").exists(),
            "the tree is not as it is to be")
    require(not (trees.TREES / "5.10-build").exists(), "the directory that it was built in is still there")
    (place / "mark").write_text("")
    cleancache.find("5.10", True)
    require((place / "mark").exists(), "it was built again")
    (place / "stamp").write_text("another configuration\n")
    expect(setup.NotDownloaded, ["--only cleancache-kernel"], lambda: cleancache.find("5.10"))
    cleancache.find("5.10", True)
    require(not (place / "mark").exists(), "it was not built again")
    wanted = (cleancache.find("5.10-debug", True).tree / ".config").read_text()
    require("CONFIG_PROVE_LOCKING=y" in wanted and "CONFIG_CLEANCACHE=y" in wanted and wanted.count("LOCALVERSION") == 1,
            f"the debug kernel is configured so:\n{wanted}")


def failed_build_goes_on() -> None:
    """A build that fails says where, leaves no kernel, and the next one goes on in the same directory."""
    sources()
    fault("5.10", "error")
    expect(setup.SetupError, ["mm/x.c:1:2: error: this was to be", "kernel-5.10.log"], lambda: cleancache.find("5.10", True))
    require(not kernel_build.place("5.10").exists(), "there is a kernel all the same")
    kept = trees.TREES / "5.10-build/first"
    require(kept.read_text() == "once\n", "the directory that it was built in is gone")
    fault("5.10", "")
    counts: list[int] = []
    lay_out = kernel_build.lay_out

    def counted(source: Path, work: Path, destination: Path) -> None:
        counts.append(len((work / "first").read_text().split()))
        lay_out(source, work, destination)

    kernel_build.lay_out = counted
    try:
        cleancache.find("5.10", True)
    finally:
        kernel_build.lay_out = lay_out
    require(counts == [2], f"the second build did not go on where the first was: {counts}")


def option_is_missed() -> None:
    """An option that Kconfig does not take is named."""
    sources()
    fault("5.10", "option")
    expect(setup.SetupError, ["CONFIG_CLEANCACHE=y (is n)", "cleancache.config"], lambda: cleancache.find("5.10", True))


def build_is_bounded() -> None:
    """A build that stands still is ended, with all that it started."""
    sources()
    fault("5.10", "hang")
    limit = kernel_build.BUILD_SECONDS
    kernel_build.BUILD_SECONDS = 2
    try:
        expect(setup.SetupError, ["was stopped after", "start it again"], lambda: cleancache.find("5.10", True))
    finally:
        kernel_build.BUILD_SECONDS = limit
    ended(int((trees.TREES / "5.10-build/hanging").read_text()))


def ended(number: int) -> None:
    """Waits for a process to be gone, which it is at once unless something is wrong."""
    deadline = time.monotonic() + 20
    while Path(f"/proc/{number}").exists():
        require(time.monotonic() < deadline, f"process {number} of the build is still there")
        os.sched_yield()


def interrupted_build() -> None:
    """A set-up that a signal ends, it alone, leaves no kernel and no process, and the next one completes."""
    for number in (signal.SIGINT, signal.SIGTERM):
        sources()
        fault("5.10", "hang")
        hanging = trees.TREES / "5.10-build/hanging"
        with subprocess.Popen([sys.executable, "qemu/setup.py", "--only", "cleancache-kernel"], cwd=ROOT, stdout=subprocess.DEVNULL,
                              stderr=subprocess.DEVNULL) as process:
            try:
                deadline = time.monotonic() + 60
                while not (hanging.is_file() and hanging.read_text().strip()):
                    require(time.monotonic() < deadline and process.poll() is None, "the build did not begin")
                    os.sched_yield()
            finally:
                process.send_signal(number)
            require(process.wait(30) == 128 + number, f"set-up ended with status {process.returncode}")
        ended(int(hanging.read_text()))
        require(not kernel_build.place("5.10").exists(), "there is a kernel all the same")
        fault("5.10", "")
        cleancache.find("5.10", True)


def two_at_once() -> None:
    """Of two set-ups that want the same kernel, one builds it, and the other takes that."""
    source = sources()
    (source / "Makefile").write_text(MAKEFILE.replace("echo once >>$(O)/first", "echo once >>$(CURDIR)/first"))
    code = "import sys; sys.path.insert(0, 'qemu'); import cleancache\nprint(cleancache.find('5.10', True).release)\n"
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for _ in range(2)]
    texts = [process.communicate(timeout=60)[0] for process in both]
    require(all(text.splitlines()[-1:] == [RELEASE] for text in texts), "one found no kernel:\n" + "\n".join(texts))
    require((source / "first").read_text() == "once\n", "both built it")


def progress_is_shown() -> None:
    """A long build shows how far it is, and never that it is at its end before it is."""
    lines: list[str] = []
    seconds = kernel_build.PROGRESS_SECONDS
    kernel_build.PROGRESS_SECONDS = 0
    try:
        progress = kernel_build.Progress("5.10", 4, lambda _, text: lines.append(text))
        lines_of_make = ["  CC      mm/a.o\n", "make: nothing\n", "  CC [M]  fs/b.o\n", "  AR      fs/built-in.a\n"]
        for line in lines_of_make + ["  LD      vmlinux.o\n"] * 9:
            progress(line)
    finally:
        kernel_build.PROGRESS_SECONDS = seconds
    require(len(lines) == 12 and "25 %" in lines[0] and "mm/a.o" in lines[0] and "50 %" in lines[1] and "fs/b.o" in lines[1],
            f"shown: {lines}")
    require("99 %" in lines[-1], f"shown: {lines[-1]}")


# --------------------------------------------------------------------------------------------------------------------
# Packages


def package(files: dict[str, bytes]) -> Path:
    """Makes a Debian package of sources."""
    space = io.BytesIO()
    with tarfile.open(fileobj=space, mode="w:xz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(f"linux-source-5.10/{name}")
            member.size, member.mode = len(data), 0o644
            archive.addfile(member, io.BytesIO(data))
    tree = PLACE / "package"
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "usr/src").mkdir(parents=True)
    (tree / "usr/src/linux-source-5.10.tar.xz").write_bytes(space.getvalue())
    (tree / "DEBIAN/control").write_text("Package: linux-source-5.10\nVersion: 1\nArchitecture: all\n"
                                         "Maintainer: nobody <nobody@localhost>\nDescription: test\n")
    deb = PLACE / "linux-source-5.10_1_all.deb"
    status, text = setup.run(["dpkg-deb", "--build", "--root-owner-group", "-Znone", str(tree), str(deb)], 60)
    require(status == 0, f"dpkg-deb: {text}")
    return deb


SOURCE_FILES = {"Makefile": b"", "mm/cleancache.c": b"", "arch/arm64/kernel/a.c": b"", "arch/Kconfig": b"", "arch/x86/kernel/a.c": b"",
                "arch/x86/Kconfig": b"", "drivers/gpu/drm/a.c": b"", "drivers/gpu/drm/Makefile": b"", "sound/core/a.c": b"",
                "sound/core/Kconfig": b"", "drivers/block/a.c": b""}


def sources_are_unpacked() -> None:
    """Of the sources, what arm64 cannot use stays packed, but for what leads the build; a broken-off unpacking is begun anew."""
    fresh()
    destination = trees.TREES / "linux-source-5.10-1"
    left = destination.with_name(destination.name + ".partial") / "half.c"
    left.parent.mkdir()
    left.write_text("")
    kernel_build.unpack_source(package(SOURCE_FILES), destination)
    found = {str(file.relative_to(destination)) for file in destination.rglob("*") if file.is_file()}
    lost = {"arch/x86/kernel/a.c", "drivers/gpu/drm/a.c", "sound/core/a.c"}
    require(found == set(SOURCE_FILES) - lost | {"stamp"}, f"unpacked: {sorted(found)}")


def sources_are_wrong() -> None:
    """A package without such sources, or a damaged one, is refused and leaves nothing that could be taken for sources."""
    fresh()
    destination = trees.TREES / "linux-source-5.10-1"
    deb = package({"Makefile": b"", "mm/memory.c": b""})
    expect(setup.SetupError, ["mm/cleancache.c"], lambda: kernel_build.unpack_source(deb, destination))
    whole = package(SOURCE_FILES).read_bytes()
    deb.write_bytes(whole[:len(whole) // 2])
    expect(setup.SetupError, [deb.name], lambda: kernel_build.unpack_source(deb, destination))
    require(not destination.exists(), "there are sources all the same")


def without_network() -> None:
    """Without a network, set-up says that nothing could be got, and ends with the status that lets tests be skipped by name."""
    fresh()
    # Nothing listens there.
    env = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"}
    for only in ("cross", "headers", "cleancache-kernel"):
        # A compiler, as far as set-up looks: only the trees are to be missing.
        compiler_is_there()
        if only == "cross":
            if shutil.which(setup.CROSS + "gcc"):
                continue
            shutil.rmtree(setup.TOOLS / "cross")
        status, text = setup.run([sys.executable, "qemu/setup.py", "--only", only, *(["--kernel", "6.1"] if only == "headers" else [])],
                                 240, env, cwd=ROOT)
        require(status == setup.NotDownloaded.status, f"--only {only}: status {status}:\n{text}")
        require("setup: " in text and "What to do" in text, f"--only {only} does not say what to do:\n{text}")
    require(not list(trees.TREES.glob("6.1*/stamp")), "there is a tree all the same")


def suited_to_compiler() -> None:
    """Where the kernel's compiler was newer than ours, the tree no longer promises what ours cannot do; the rest stays."""
    directory = PLACE / "newer"
    shutil.rmtree(directory, ignore_errors=True)
    make_tree(directory)
    lines = ["CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT", "CONFIG_CC_HAS_SANE_FUNCTION_ALIGNMENT", "CONFIG_MODVERSIONS"]
    (directory / "include/config/auto.conf").write_text("".join(f"{line}=y\n" for line in lines))
    (directory / "include/generated/autoconf.h").write_text("".join(f"#define {line} 1\n" for line in lines))
    compiler = PLACE / "old-gcc"
    compiler.write_text("#!/bin/sh\ncase \"$*\" in *-fmin-function-alignment*) exit 1;; esac\nexit 0\n")
    compiler.chmod(0o755)
    setup.TOOLS_JSON.write_text(json.dumps({"cross": {"argv": [str(compiler)], "env": {}, "version": "1", "prefix": "none-"}}))
    headers.suit_compiler(directory)
    require((directory / "include/config/auto.conf").read_text() == "CONFIG_MODVERSIONS=y\n", "auto.conf is not as it is to be")
    require((directory / "include/generated/autoconf.h").read_text() == "#define CONFIG_MODVERSIONS 1\n",
            "autoconf.h is not as it is to be")


def headers_are_put_together() -> None:
    """Of Debian's three packages one tree is made that names no absolute path and no compiler, and whose programs run."""
    fresh()
    place, release, common, kbuild = trees.TREES / "6.1", "6.1.0-9-arm64", "linux-headers-6.1.0-9-common", "linux-kbuild-6.1"
    partial = place.with_name("6.1.partial")
    own = partial / f"parts/0/usr/src/linux-headers-{release}"
    make_tree(own, release)
    shutil.rmtree(own / "scripts")
    (own / "scripts").symlink_to(f"../../lib/{kbuild}/scripts")
    (own / "Makefile").write_text(f"KBUILD_OUTPUT=/usr/src/linux-headers-{release}\ninclude /usr/src/{common}/Makefile\n")
    (own / ".kernelvariables").write_text("CC = $(CROSS_COMPILE)gcc-99\noverride CROSS_COMPILE = theirs-\n")
    (own / "vmlinux").write_text("")
    options = "CONFIG_DEBUG_INFO_BTF=y\nCONFIG_DEBUG_INFO_BTF_MODULES=y\nCONFIG_MODVERSIONS=y\n"
    (own / "include/config/auto.conf").write_text(options)
    (own / "include/generated/autoconf.h").write_text("#define CONFIG_DEBUG_INFO_BTF_MODULES 1\n")
    shared = partial / f"parts/1/usr/src/{common}"
    shared.mkdir(parents=True)
    (shared / "Makefile").write_text("-include $(KBUILD_OUTPUT)/.kernelvariables\n.PHONY: modules\nmodules:\n"
                                     "\t@echo $(ARCH) $(KERNELRELEASE) $(CROSS_COMPILE)$(CC) $(KBUILD_OUTPUT) $(realpath $(lastword $(filter-out %/.kernelvariables,"
                                     "$(MAKEFILE_LIST))))\n")
    programs = partial / f"host/usr/lib/{kbuild}/scripts"
    for name in ("basic/fixdep", "mod/modpost", "mod/modpost.real-lsb-64"):
        (programs / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2("/bin/echo", programs / name)
    (programs / "plain.sh").write_text("#!/bin/sh\n")
    headers.lay_out(partial, place, release, common, kbuild)
    partial.rename(place)
    tree = headers.tree_of(place, release)
    status, text = setup.run(["make", "-s", "-C", str(tree), "CROSS_COMPILE=ours-", "CC=gcc", "modules"], 30)
    wanted = ["arm64", release, "ours-gcc", str(tree), str(tree.parent / common / "Makefile")]
    require(status == 0 and text.split() == wanted, f"make has {text.split()}, not {wanted}")
    for name in ("basic/fixdep", "mod/modpost"):
        status, text = setup.run([str(tree / "scripts" / name), "a b", "c"], 30)
        require(status == 0 and text == "a b c\n", f"{name} does not run: {text}")
    require((tree / "scripts/mod/modpost").read_text() == (tree / "scripts/mod/modpost.real-lsb-64").read_text(), "modpost is not arm64's")
    require((tree / "scripts/plain.sh").read_text() == "#!/bin/sh\n", "a script is changed")
    require((tree / "include/config/auto.conf").read_text() == "CONFIG_MODVERSIONS=y\n" and not (tree / "vmlinux").exists(),
            "modules would get BTF")
    require("BTF_MODULES" in (tree / "include/generated/autoconf.h").read_text(), "the layout of types is not the kernel's")


TESTS = [
    ("a tree is looked at before modules are built in it", tree_is_looked_at),
    ("CLEANCACHE_KERNEL's directory is unpacked once", given_is_unpacked_once),
    ("CLEANCACHE_KERNEL's directory is wrong", given_is_wrong),
    ("without CLEANCACHE_KERNEL and without a build", nothing_is_given),
    ("the kernel is built once", kernel_is_built_once),
    ("a build that failed goes on where it was", failed_build_goes_on),
    ("an option that Kconfig does not take is named", option_is_missed),
    ("a build is bounded in time", build_is_bounded),
    ("a build that is interrupted leaves nothing running and no kernel", interrupted_build),
    ("two set-ups at once build one kernel", two_at_once),
    ("a build shows how far it is", progress_is_shown),
    ("of the sources, what arm64 can use is unpacked", sources_are_unpacked),
    ("sources that are wrong or damaged are refused", sources_are_wrong),
    ("Debian's headers are put together", headers_are_put_together),
    ("a tree of a newer compiler is suited to ours", suited_to_compiler),
    ("without a network, nothing is left half done", without_network),
]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    try:
        sys.exit(tap.run(TESTS))
    finally:
        shutil.rmtree(PLACE, ignore_errors=True)
