#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Builds the modules of the Linux driver, for every kernel that it is for: build/driver/KERNEL/*.ko.

The kernels are Linux 5.10 with cleancache, as it is and with the kernel's own checks, and Debian's; each module is built in the
tree of the very kernel whose Image is booted. What a kernel takes (its Image, its headers) is fetched or built first, unless
--no-fetch; one whose tree cannot be had is skipped, and named. For 5.10-debug and Debian's newest, modules are built only where these
are there already or asked for by name.

    kernel = driver.find("6.1")             # trees.Kernel: image, tree, release; raises setup.SetupError with the reason
    modules = driver.build(kernel)          # a directory of .ko files; raises setup.SetupError with the compiler's words

Exit status: 0 if the modules were built for each kernel that could be had, 3 if none could be had, 1 for any other trouble.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cleancache
import headers
import setup
import trees

NAMES = [*cleancache.NAMES, *headers.NAMES]
# Those that are got without being asked for by name.
USUAL = ["5.10", "6.1", "6.12"]
BUILT = setup.BUILD / "driver"
# Directories with a Kbuild of their own, in this order: a later one may use what an earlier one has.
SOURCES = ["boot/linux", "tests/linux/client"]
# Of a directory, what modules are made of.
SOURCE_NAMES = re.compile(r"Kbuild|Makefile|.*\.[chS]")
SECONDS = 600


def find(name: str) -> trees.Kernel:
    """Finds a kernel with its tree, as far as it has been fetched or built; unpacks what CLEANCACHE_KERNEL names.

    Raises NotDownloaded where it is not there, with the command that gets it.
    """
    if name in cleancache.NAMES:
        return cleancache.find(name)
    return headers.find(name, trees.read_tools(), False)


def get(name: str) -> trees.Kernel:
    """Finds a kernel with its tree, or has set-up get it, which may take minutes and shows what it does."""
    try:
        kernel = find(name)
        trees.cross_compile()
        return kernel
    except setup.NotDownloaded:
        pass
    only = ["--only", "cleancache-debug" if name == "5.10-debug" else "cleancache-kernel"] if name in cleancache.NAMES else [
        "--only", "headers", "--kernel", name]
    done = subprocess.run([sys.executable, str(setup.ROOT / "qemu" / "setup.py"), *only], stdin=subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if done.returncode != 0:
        reason = done.stderr.strip().removeprefix("setup: ") or f"set-up ended with status {done.returncode}"
        raise (setup.NotDownloaded if done.returncode == setup.NotDownloaded.status else setup.SetupError)(reason)
    return find(name)


def build(kernel: trees.Kernel, strict: bool = False, root: Path = setup.ROOT, variant: str = "") -> Path:
    """Builds all modules for a kernel; returns the directory that they are in. With `strict`, a warning is an error.

    Tests build changed copies of the sources, under another `root`, as a `variant` by that name, in a directory of its own.
    """
    place = BUILT / (f"{kernel.name}-{variant}" if variant else kernel.name)
    present = [source for source in SOURCES if (root / source / "Kbuild").is_file()]
    if not present:
        raise setup.SetupError(f"there is no Kbuild in {' or '.join(SOURCES)}: no module to build")
    with trees.alone(f"driver-{place.name}"):
        # Of another tree, nothing can be kept.
        stamp = f"{kernel.tree} {kernel.release} {setup.stamp(kernel.tree / 'Module.symvers')}\n"
        if not (place / "stamp").is_file() or (place / "stamp").read_text() != stamp:
            shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True, exist_ok=True)
        (place / "stamp").write_text(stamp)
        for old in place.glob("*.ko"):
            old.unlink()
        symbols: list[Path] = []
        made: list[Path] = []
        for source in present:
            work = place / "source" / source
            mirror(root / source, work)
            make(kernel, place, work, symbols, strict)
            symbols.append(work / "Module.symvers")
            made += sorted(work.glob("*.ko"))
        if not made:
            raise setup.SetupError(f"no module was built for {kernel.name}")
        for module in made:
            check_module(kernel, module)
            shutil.copy2(module, place / module.name)
    return place


def mirror(source: Path, work: Path) -> None:
    """Copies what has changed, so that make builds for each kernel in a place of its own, and only what it has to."""
    work.mkdir(parents=True, exist_ok=True)
    wanted = {file.name for file in source.iterdir() if file.is_file() and SOURCE_NAMES.fullmatch(file.name)
              and not file.name.endswith(".mod.c")}
    for name in wanted:
        text = (source / name).read_bytes()
        if not (work / name).is_file() or (work / name).read_bytes() != text:
            (work / name).write_bytes(text)
    for file in work.iterdir():
        if file.is_file() and SOURCE_NAMES.fullmatch(file.name) and not file.name.endswith(".mod.c") and file.name not in wanted:
            file.unlink()


def make(kernel: trees.Kernel, place: Path, work: Path, symbols: list[Path], strict: bool) -> None:
    """Runs Kbuild on one directory of modules."""
    env = {key: value for key, value in os.environ.items()
           if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEFILES", "ARCH", "CROSS_COMPILE", "V", "M")
           and not key.startswith(("KBUILD_", "KCONFIG_", "TAGSTASH_"))}
    command = ["make", "-C", str(kernel.tree), f"M={work}", "ARCH=arm64", f"CROSS_COMPILE={trees.cross_compile()}",
               f"KBUILD_EXTRA_SYMBOLS={' '.join(map(str, symbols))}", *(["KCFLAGS=-Werror"] if strict else []),
               f"-j{len(os.sched_getaffinity(0))}", "modules"]
    log = setup.BUILD / "logs" / f"driver-{place.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    status, text = run_in(command, env)
    with open(log, "a" if symbols else "w") as sink:
        sink.write("$ " + " ".join(command) + "\n" + text)
    warnings = [line for line in text.splitlines() if re.search(r"\bwarning: |^WARNING: ", line)]
    if status != 0 or (strict and warnings):
        lines = text.splitlines()
        first = next((index for index, line in enumerate(lines) if re.search(r"\berror\b|ERROR|WARNING|\bwarning: ", line)), len(lines))
        raise setup.SetupError(f"{work.relative_to(place / 'source')} does not build for {kernel.name} ({kernel.release}), "
                               f"status {status} (all of it: {setup.relative(log)}):\n"
                               + setup.indent("\n".join(lines[max(first - 2, 0):first + 10]), 12))
    for warning in warnings:
        setup.say("driver", f"{kernel.name}: {warning}")


def run_in(command: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Runs a command in just this environment, bounded; returns its status and what it printed."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", timeout=SECONDS, env={**env, "LC_ALL": "C"}, check=False)
    except subprocess.TimeoutExpired:
        return 124, f"stopped after {SECONDS} s"
    return done.returncode, done.stdout


def check_module(kernel: trees.Kernel, module: Path) -> None:
    """Makes sure that a module says it is for this kernel, in the words that the kernel compares."""
    found = re.search(rb"vermagic=(\S+)", module.read_bytes())
    built_for = found[1].decode(errors="replace") if found else "no kernel"
    if built_for != kernel.release:
        raise setup.SetupError(f"{module.name} was built for {built_for}, and the Image is {kernel.release}")


def main() -> int:
    """Builds what the command line asks for; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kernel", nargs="*", choices=[[], *NAMES], metavar="KERNEL",
                        help=f"build for these only: {', '.join(NAMES)} (default: {', '.join(USUAL)}, and the others that are there)")
    parser.add_argument("--no-fetch", action="store_true", help="fetch and build nothing but the modules")
    parser.add_argument("--strict", action="store_true", help="take a warning for an error")
    options = parser.parse_args()
    built, failed = 0, 0
    for name in options.kernel or NAMES:
        asked_for = name in options.kernel or name in USUAL
        try:
            kernel = get(name) if asked_for and not options.no_fetch else find(name)
            place = build(kernel, options.strict)
        except setup.SetupError as error:
            lacking = error.status == setup.NotDownloaded.status
            failed += not lacking
            if asked_for or not lacking:
                print(f"driver: {name}: {'skipped' if lacking else 'FAILED'}: {error}", flush=True)
            continue
        built += 1
        print(f"driver: {name}: {', '.join(sorted(module.name for module in place.glob('*.ko')))} for Linux {kernel.release} "
              f"({setup.relative(place)})", flush=True)
    if failed:
        return 1
    return 0 if built else setup.NotDownloaded.status


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("driver: interrupted", file=sys.stderr)
        sys.exit(130)
    except OSError as error:
        print(f"driver: {error}", file=sys.stderr)
        sys.exit(1)
