# SPDX-License-Identifier: MIT OR Apache-2.0
"""Builds the kernel with cleancache from Debian's linux-source-5.10, by the configuration in boot/linux/cleancache.config.

Everything lies under build/linux/trees: the sources (without what arm64 cannot use), a directory to build in for each of the two
kernels, and the result, which appears only when it is complete: Image, vmlinux for symbols, and kdev, the tree to build modules in.
A build that was interrupted goes on where it was. What make says is in build/logs/kernel-NAME.log.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import threading
import time
from pathlib import Path
from typing import Callable, Optional

import setup
import trees

PACKAGE = "linux-source-5.10"
SUITES = ["bullseye", "bullseye-security"]
CONFIGS = setup.ROOT / "boot" / "linux"
# The configuration of each kernel, the later file going before the earlier one, and how many steps its build has, about.
FRAGMENTS = {"5.10": ["cleancache.config"], "5.10-debug": ["cleancache.config", "cleancache-debug.config"]}
STEPS = {"5.10": 1130, "5.10-debug": 1150}
# What the build needs of the system besides a compiler and make, and Debian's package for it.
PROGRAMS = {"flex": "flex", "bison": "bison", "bc": "bc"}
# Of the sources, for these only what configures and leads the build is kept.
HEAVY = re.compile(r"(arch/(?!arm64/|arm/)[^/]+|Documentation|drivers/(gpu/drm|media|net/(ethernet|wireless)|staging|infiniband|scsi|usb)"
                   r"|sound|tools/(testing|perf|power|objtool))/")
LEADING = re.compile(r"(Kconfig|Makefile|Kbuild|Build)[^/]*")
DOWNLOAD_SECONDS = 1800
# Ten minutes on two CPUs.
BUILD_SECONDS = 2 * 3600
# Between two lines of progress.
PROGRESS_SECONDS = 15


def identity(name: str) -> str:
    """Identifies what a kernel is built by. Not by the version of the sources: one that is built does not go stale."""
    text = "\n".join((CONFIGS / fragment).read_text() for fragment in FRAGMENTS[name])
    return f"configuration {hashlib.sha256(text.encode()).hexdigest()[:16]}, layout 1\n"


def place(name: str) -> Path:
    """Returns where a kernel that was built here lies."""
    return trees.TREES / f"{name}-built"


def is_built(name: str) -> bool:
    """Tells whether a kernel has been built, by the configuration as it is now."""
    stamp = place(name) / "stamp"
    return stamp.is_file() and stamp.read_text() == identity(name)


def build(name: str, jobs: int = 0) -> None:
    """Builds a kernel, unless that has been done; `jobs` compilers at a time, 0 for one per CPU."""
    with trees.alone(name):
        if is_built(name):
            return
        prefix = trees.cross_compile()
        programs = find_programs()
        with trees.alone("5.10-source"):
            source = get_source()
        work = trees.TREES / f"{name}-build"
        log = setup.BUILD / "logs" / f"kernel-{name}.log"
        maker = Maker(name, source, work, log, prefix, programs)
        configure(maker)
        setup.say("kernel", f"{name}: building {source.name} with {jobs or cpus()} compilers at a time (ten minutes with two; "
                            f"log: {setup.relative(log)})")
        started = time.monotonic()
        maker.make(["Image", "modules", "modules_prepare"], jobs or cpus(), STEPS[name])
        partial = place(name).with_name(f"{name}-built.partial")
        shutil.rmtree(partial, ignore_errors=True)
        lay_out(source, work, partial)
        (partial / "stamp").write_text(identity(name))
        shutil.rmtree(place(name), ignore_errors=True)
        partial.rename(place(name))
        shutil.rmtree(work)
        setup.say("kernel", f"{name}: built in {minutes(time.monotonic() - started)} ({setup.relative(place(name))})")


def cpus() -> int:
    """Returns how many CPUs this process may use."""
    return len(os.sched_getaffinity(0))


def minutes(seconds: float) -> str:
    """Writes a time for people."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02} min"


# --------------------------------------------------------------------------------------------------------------------
# What it takes


def find_programs() -> Path:
    """Finds what the build needs of the system, or fetches it; returns a directory that goes before the others of PATH."""
    missing = [package for program, package in PROGRAMS.items() if not shutil.which(program)]
    tree = setup.TOOLS / "kernel-build"
    wrappers = setup.TOOLS / "bin"
    if not missing:
        return wrappers
    try:
        if any(not (tree / "usr/bin" / package).is_file() for package in missing):
            apt = setup.Apt("base", setup.debian_backports())
            apt.update("kernel")
            apt.fetch_tree("kernel", missing, apt.sources[0].suite, tree)
    except setup.SetupError as error:
        raise setup.NotDownloaded(f"what the build needs could not be got: {error}\nWhat to do: install {', '.join(missing)} by "
                                  f"hand") from None
    for binary in sorted((tree / "usr/bin").iterdir()):
        # Shell scripts of the packages find their parts by the places that are compiled into them; none is used here.
        if binary.is_file() and binary.read_bytes()[:4] == b"\x7fELF":
            argv, env = setup.tree_command(tree, binary, None)
            env["BISON_PKGDATADIR"] = str(tree / "usr/share/bison")
            if (tree / "usr/bin/m4").is_file():
                env["M4"] = str(wrappers / "m4")
            setup.write_wrapper(binary.name, setup.Program(argv, env, "", "fetched"))
    return wrappers


def get_source() -> Path:
    """Finds the kernel's sources of an earlier set-up, or fetches them."""
    there = sorted(trees.TREES.glob("linux-source-5.10-*/stamp"))
    if there:
        return there[0].parent
    apt = setup.Apt("cleancache", SUITES, "arm64")
    apt.update("kernel")
    offered = apt.versions(PACKAGE)
    if not offered:
        tried = ", ".join(dict.fromkeys(source.suite for source in apt.sources))
        raise setup.NotDownloaded(f"no archive that could be reached offers {PACKAGE} (tried: {tried}). What to do: look whether this "
                                  f"machine reaches the archives listed under /etc/apt, and whether they have Debian 11 still")
    version = offered[0][0]
    source = trees.TREES / f"linux-source-5.10-{version}"
    deb = apt.download("kernel", PACKAGE, version, DOWNLOAD_SECONDS)
    unpack_source(deb, source)
    shutil.rmtree(deb.parent)
    return source


def unpack_source(deb: Path, destination: Path) -> None:
    """Unpacks the sources that arm64 can use out of Debian's package of all."""
    setup.say("kernel", f"unpacking {deb.name} (a minute)")
    partial = destination.with_name(destination.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    started = shown = time.monotonic()
    count = 0
    for archive, data in setup.package_files(deb):
        if not re.search(r"/linux-source-[\d.]+\.tar\.xz$", archive):
            continue
        try:
            with tarfile.open(fileobj=io.BytesIO(data), mode="r|xz") as sources:
                # Newer versions of Python want to know how far the archive is trusted.
                sources.extraction_filter = getattr(tarfile, "tar_filter", None)
                for member in sources:
                    # The first part is the directory that all is in.
                    member.name = member.name.removeprefix("./").partition("/")[2]
                    if not member.name or (HEAVY.match(member.name) and not member.isdir()
                                           and not LEADING.fullmatch(Path(member.name).name)):
                        continue
                    if member.islnk():
                        member.linkname = member.linkname.removeprefix("./").partition("/")[2]
                    sources.extract(member, partial, set_attrs=not member.issym())
                    count += 1
                    if time.monotonic() - shown > PROGRESS_SECONDS:
                        shown = time.monotonic()
                        setup.say("kernel", f"{count} files unpacked, {minutes(shown - started)}")
        except (tarfile.TarError, setup.lzma.LZMAError, EOFError) as error:
            raise setup.SetupError(f"{archive} in {deb.name} cannot be unpacked: {error}") from None
    if not (partial / "Makefile").is_file() or not (partial / "mm/cleancache.c").is_file():
        raise setup.SetupError(f"{deb.name} holds no kernel with cleancache: no mm/cleancache.c")
    (partial / "stamp").write_text(f"{deb.name}\n")
    partial.rename(destination)
    setup.say("kernel", f"{count} files unpacked in {minutes(time.monotonic() - started)} ({setup.relative(destination)})")


# --------------------------------------------------------------------------------------------------------------------
# Building


class Maker:
    """Runs Kbuild in a directory beside the sources, bounded in time, with lines of progress."""

    def __init__(self, name: str, source: Path, work: Path, log: Path, prefix: str, programs: Path) -> None:
        """Prepares the environment: nothing of a make that may have started us, the same result whoever builds it."""
        self.name, self.source, self.work, self.log = name, source, work, log
        self.deadline = time.monotonic() + BUILD_SECONDS
        self.env = {key: value for key, value in os.environ.items()
                    if key not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEFILES", "CFLAGS", "LDFLAGS", "ARCH", "CROSS_COMPILE", "V")
                    and not key.startswith(("KBUILD_", "KCONFIG_"))}
        self.env.update(LC_ALL="C", ARCH="arm64", CROSS_COMPILE=prefix, KBUILD_BUILD_USER="tagstash", KBUILD_BUILD_HOST="tagstash",
                        KBUILD_BUILD_TIMESTAMP="1970-01-01", PATH=f"{programs}:{os.environ.get('PATH', os.defpath)}")
        work.mkdir(parents=True, exist_ok=True)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")

    def make(self, targets: list[str], jobs: int = 1, steps: int = 0, env: Optional[dict[str, str]] = None) -> None:
        """Makes targets; raises SetupError with the first error in what make said."""
        command = ["nice", "-n", "10", "make", "-C", str(self.source), f"O={self.work}", f"-j{jobs}", *targets]
        progress = Progress(self.name, steps)
        with open(self.log, "a", buffering=1) as log:
            log.write("$ " + " ".join(command) + "\n")
            # In our own process group, so that whoever ends us by the terminal or by timeout(1) ends the compilers too.
            with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                  errors="replace", env={**self.env, **(env or {})}) as process:
                late = threading.Event()
                timer = threading.Timer(max(self.deadline - time.monotonic(), 1), lambda: (late.set(), process.terminate()))
                timer.start()
                try:
                    for line in process.stdout or ():
                        log.write(line)
                        progress(line)
                    status = process.wait()
                except BaseException:
                    process.terminate()
                    raise
                finally:
                    timer.cancel()
        if late.is_set():
            raise setup.SetupError(f"the build of {self.name} was stopped after {BUILD_SECONDS // 60} minutes. What to do: start it "
                                   f"again, it goes on where it was; its log is {setup.relative(self.log)}")
        if status != 0:
            lines = self.log.read_text(errors="replace").splitlines()
            first = next((index for index, line in enumerate(lines) if re.search(r"\berror:|\*\*\*|not found", line)), len(lines))
            raise setup.SetupError(f"make {' '.join(targets)} failed with status {status} (all of it: {setup.relative(self.log)}):\n"
                                   + setup.indent("\n".join(lines[max(first - 3, 0):first + 6])))


class Progress:
    """Counts Kbuild's lines, one per file made, and tells now and then how far the build is."""

    def __init__(self, name: str, steps: int, show: Callable[[str, str], None] = setup.say) -> None:
        """Expects about so many steps; 0 for no lines at all."""
        self.name, self.steps, self.show = name, steps, show
        self.started = self.shown = time.monotonic()
        self.done = 0

    def __call__(self, line: str) -> None:
        """Takes a line of make's."""
        step = re.match(r"  [A-Z]\S* +(\[M\] +)?(\S+)", line)
        if not step or not self.steps:
            return
        self.done += 1
        now = time.monotonic()
        if now - self.shown >= PROGRESS_SECONDS:
            self.shown = now
            # The count is of one version of the sources: the end is not told before it is there.
            share = min(100 * self.done // self.steps, 99)
            self.show("kernel", f"{self.name}: about {share} % after {minutes(now - self.started)} ({step[2]})")


def configure(maker: Maker) -> None:
    """Configures the kernel: nothing but what the fragments turn on; each of their lines must have come out as it stands."""
    texts = [(CONFIGS / fragment).read_text() for fragment in FRAGMENTS[maker.name]]
    wanted = {match[1]: match[2] for text in texts for match in re.finditer(r"^(CONFIG_\w+)=(.*)$", text, re.M)}
    all_config = maker.work / "wanted.config"
    setup.write_if_changed(all_config, "".join(f"{option}={value}\n" for option, value in wanted.items()))
    config = maker.work / ".config"
    if config.is_file() and not (maker.work / "configured").is_file():
        config.unlink()
    before = config.read_text() if config.is_file() else ""
    maker.make(["allnoconfig"], env={"KCONFIG_ALLCONFIG": str(all_config)})
    after = config.read_text()
    found = dict(re.findall(r"^(CONFIG_\w+)=(.*)$", after, re.M))
    lost = [f"{option}={value} (is {found.get(option, 'n')})" for option, value in wanted.items() if found.get(option) != value]
    if lost:
        raise setup.SetupError(f"Kconfig does not take what {' and '.join(FRAGMENTS[maker.name])} in boot/linux want: {', '.join(lost)}. "
                               f"What to do: look what these options depend on in {setup.relative(maker.source)}")
    (maker.work / "configured").write_text("")
    if before and before != after:
        setup.say("kernel", f"{maker.name}: the configuration has changed since the build was interrupted")


# --------------------------------------------------------------------------------------------------------------------
# The result


def lay_out(source: Path, work: Path, destination: Path) -> None:
    """Keeps the Image, and of sources and build what modules are built with."""
    tree = destination / "kdev"
    tree.mkdir(parents=True)
    shutil.copy2(work / "arch/arm64/boot/Image", destination / "Image")
    shutil.copy2(work / "vmlinux", destination / "vmlinux")
    shutil.copy2(work / ".config", destination / "config")

    def no_objects(_: str, names: list[str]) -> list[str]:
        return [name for name in names if name.endswith((".o", ".cmd", ".mod"))]

    for file in ("Makefile", "Kbuild", "Kconfig", "arch/arm64/Makefile", "arch/arm64/Kbuild"):
        if (source / file).is_file():
            (tree / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / file, tree / file)
    for directory in ("include", "scripts", "arch/arm64/include", "tools/include"):
        shutil.copytree(source / directory, tree / directory, symlinks=True, dirs_exist_ok=True)
    for directory in ("include", "scripts", "arch/arm64/include"):
        shutil.copytree(work / directory, tree / directory, symlinks=True, dirs_exist_ok=True, ignore=no_objects)
    for file in (".config", "Module.symvers", "System.map"):
        shutil.copy2(work / file, tree / file)
