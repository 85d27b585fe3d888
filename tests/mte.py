#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Compares memory tagging in Linux above the shim with the same kernel alone; results in the Test Anything Protocol.

  demo        this project's own checks (tests/linux/src), in a guest with swap space and huge pages
  selftests   the kernel's own tools/testing/selftests/arm64/mte, which `qemu/setup.py --only selftests` fetches and
              `--only cross` has a compiler for

Above the shim is the aliased machine, where tag storage is a part of RAM, and the shim is dormant. Alone is QEMU's own
machine at EL1, where tags are in a memory of their own. Every result must be the same in both. The own checks must pass or be
skipped besides; what of the kernel's selftests fails or is skipped on both sides is listed. The guests' output is kept under
build/logs.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import re
import resource
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterable, NoReturn, Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "qemu"))
import run as machine  # noqa: E402  (the places of what is built)
from initramfs import Archive  # noqa: E402
from linux import Failed, Tap  # noqa: E402

LOGS = machine.BUILD / "logs"
WORK = machine.BUILD / "mte-selftest"
MEMORY_MIB = 512
# How long a boot with all that runs in it may take on a machine that is busy with other things.
SECONDS = {"demo": 240.0, "selftests": 1800.0}
# The compiler's options are those of the selftests' own Makefile, but for -static: the guest has no libraries.
CFLAGS = ["-std=gnu99", "-O2", "-w", "-pthread", "-static", "-march=armv8.5-a+memtag"]


@dataclass(frozen=True)
class Cell:
    """One machine on which both sides are run."""

    cpu: str
    cpus: int
    layout: str

    def name(self) -> str:
        """Names it for results."""
        return f"{self.cpu}, {self.cpus} CPUs, {self.layout}"

    def file(self, what: str, release: str, side: str) -> Path:
        """Names the log of one of its runs."""
        layout = f"-{self.layout}" if side == "above" else ""
        return LOGS / f"mte-{what}-{release}-{self.cpu}-{self.cpus}{layout}-{side}.log"


# What is run where nothing is chosen: MTE3 and MTE2, two CPUs and four, storage at the top and crossed.
CELLS = {
    "demo": [Cell("max", 2, "one"), Cell("max", 4, "crossed"), Cell("neoverse-n2", 2, "crossed"),
             Cell("neoverse-n2", 4, "one")],
    "selftests": [Cell("max", 2, "one"), Cell("neoverse-n2", 4, "crossed")],
}


@dataclass(frozen=True)
class Kernel:
    """A kernel of Debian's that set-up has fetched."""

    release: str
    image: Path
    modules: Optional[Path]


@dataclass
class Point:
    """One result of a guest: which test, and what it came to."""

    name: str
    passed: bool
    skipped: bool
    words: str

    def verdict(self) -> str:
        """Says what it came to, in a word."""
        return "skipped" if self.skipped else "passed" if self.passed else "failed"


@dataclass
class Run:
    """What a guest printed."""

    points: dict[str, Point] = field(default_factory=dict)
    trouble: Optional[str] = None


# --------------------------------------------------------------------------------------------------------------------
# What is put into the guest


def tools() -> dict[str, dict]:
    """Reads what set-up found."""
    try:
        entries = json.loads((machine.BUILD / "tools.json").read_text())
        return entries if isinstance(entries, dict) else {}
    except (OSError, ValueError):
        return {}


def find_kernel(name: Optional[str]) -> Kernel:
    """Finds the kernel to boot: that of `make linux`, or one of `make linux-test` by its name."""
    entries = tools()
    record = entries.get("linux") if name is None else (entries.get("kernels") or {}).get(name)
    if not isinstance(record, dict) or not Path(record.get("kernel", "")).is_file():
        option = "linux" if name is None else f"kernels --kernel {name}"
        raise Failed(f"its kernel is not there: run `python3 qemu/setup.py --only {option}`")
    modules = Path(record["modules"]) if record.get("modules") else None
    return Kernel(record["release"], Path(record["kernel"]), modules if modules and modules.is_dir() else None)


def read_modules(directory: Path, names: tuple[str, ...] = ("lzo_rle", "zram")) -> list[tuple[str, bytes]]:
    """Reads some modules, each after those it needs; of themselves, those that swap in compressed memory takes."""
    # As modules name each other.
    there = {path.name.split(".")[0].replace("-", "_"): path for path in sorted(directory.rglob("*.ko*"))}
    found: dict[str, bytes] = {}

    def visit(name: str, wanted_by: str) -> None:
        if name in found:
            return
        if name not in there:
            raise Failed(f"module {wanted_by} needs {name}, which is not in {directory} (LINUX_MODULES in qemu/setup.py)")
        data = there[name].read_bytes()
        data = lzma.decompress(data) if there[name].suffix == ".xz" else data
        needs = re.search(rb"\0depends=([^\0]+)\0", data)
        for need in needs[1].decode().replace("-", "_").split(",") if needs else []:
            visit(need, name)
        found[name] = data

    # What is not there is a part of the kernel itself, or not needed by it.
    for name in names:
        if name in there:
            visit(name, name)
    return list(found.items())


def build_selftests() -> dict[str, bytes]:
    """Compiles the kernel's selftests; returns the programs."""
    entries = tools()
    for name in ("cross", "selftests"):
        if name not in entries:
            raise Failed(f"set-up has not fetched what they need: run `python3 qemu/setup.py --only {name}`")
    compiler, source = entries["cross"], Path(entries["selftests"]["source"])
    directory = source / "arm64" / "mte"
    out = WORK / "bin"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    env = {**machine.os.environ, **compiler["env"]}
    programs: dict[str, bytes] = {}
    for test in sorted(directory.glob("check_*.c")):
        command = [*compiler["argv"], *CFLAGS, f"-I{directory}", f"-I{source}", "-o", str(out / test.stem), str(test),
                   *(str(directory / name) for name in ("mte_common_util.c", "mte_helper.S"))]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=env,
                              timeout=120, check=False)
        if done.returncode:
            for line in done.stdout.splitlines()[-12:]:
                print(f"| {line}")
            raise Failed(f"{test.name} does not compile (`{shlex.join(command)}`)")
        programs[test.stem] = (out / test.stem).read_bytes()
    if not programs:
        raise Failed(f"{directory} has no check_*.c")
    return programs


def selftest_files() -> dict[str, bytes]:
    """Makes what is in the guest's directory of selftests: the programs, and what runs them."""
    return {"selftests/run": (ROOT / "tests/linux/selftests").read_bytes(),
            **{f"selftests/{name}": data for name, data in sorted(build_selftests().items())}}


def pack(what: str, kernel: Kernel) -> Path:
    """Writes the guest's ramdisk: that of `make initramfs`, and behind it an archive that Linux unpacks over the first."""
    base = machine.BUILD / "initramfs.img"
    if not base.is_file():
        raise Failed(f"{base} is not there: run `make initramfs`")
    archive = Archive()
    files: list[tuple[str, bytes]] = []
    if what == "demo":
        files.append(("mte", (ROOT / "tests/linux/mte").read_bytes()))
        modules = read_modules(kernel.modules) if kernel.modules else []
        if modules:
            archive.add("modules", stat.S_IFDIR | 0o755)
            files.append(("modules/order", "".join(f"{name}.ko\n" for name, _ in modules).encode()))
            files += [(f"modules/{name}.ko", data) for name, data in modules]
        archive.add("bin/insmod", stat.S_IFLNK | 0o777, b"busybox")
        archive.add("bin/mkswap", stat.S_IFLNK | 0o777, b"busybox")
        archive.add("bin/swapon", stat.S_IFLNK | 0o777, b"busybox")
    else:
        archive.add("selftests", stat.S_IFDIR | 0o755)
        files += selftest_files().items()
    for name, contents in files:
        archive.add(name, stat.S_IFREG | 0o755, contents)
    image = machine.BUILD / f"mte-{what}-{kernel.release}.img"
    partial = image.with_name(image.name + ".partial")
    partial.write_bytes(base.read_bytes() + gzip.compress(archive.finish(), 1, mtime=0))
    partial.rename(image)
    return image


# --------------------------------------------------------------------------------------------------------------------
# The runs


def boot(what: str, image: Optional[Path], cell: Cell, kernel: Kernel, initrd: Path, words: str) -> Run:
    """Boots one side of a cell, above this image of the shim or alone; returns its results."""
    side = "above" if image else "alone"
    marker = "mte" if what == "demo" else "selftests"
    words = f"console=ttyAMA0 earlycon panic=-1 tagstash.test={marker}{words}"
    log = cell.file(what, kernel.release, side)
    command = [sys.executable, str(ROOT / "qemu" / "run.py"), "--cpu", cell.cpu, "--cpus", str(cell.cpus),
               "--memory", str(MEMORY_MIB), "--no-semihosting", "--timeout", f"{SECONDS[what]:g}",
               "--expect", f"# linux {marker} complete"]
    if image:
        command += ["--image", str(image), "--layout", cell.layout, "--kernel", str(kernel.image), "--initrd", str(initrd),
                    "--no-harness-args", "--bootargs", words]
    else:
        command += ["--plain", "--el", "1", "--image", str(kernel.image), "--", "-initrd", str(initrd), "-append", words]
    where = f"above the shim, {cell.layout}" if image else "alone"
    print(f"# {cell.cpu}, {cell.cpus} CPUs, {where}: running", flush=True)
    started, before = time.monotonic(), processor_seconds()
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as sink:
        status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
                                check=False).returncode
    text = log.read_text(errors="replace").replace("\r", "")
    run = Run(read_demo(text) if what == "demo" else read_selftests(text))
    if status:
        last = [line for line in text.splitlines() if line.strip()][-1:]
        run.trouble = f"{where}: the run ended with status {status}; its last line is {last}; see {log}"
    took, used = time.monotonic() - started, processor_seconds() - before
    print(f"# {cell.cpu}, {cell.cpus} CPUs, {where}: {len(run.points)} results, {took:.1f} s, {used:.1f} s of processor time",
          flush=True)
    return run


def processor_seconds() -> float:
    """Tells how much processor time the runs have had so far."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def points(lines: Iterable[str]) -> Iterable[tuple[int, Point]]:
    """Reads results, with their numbers, from a program's output."""
    for line in lines:
        found = re.match(r"(not )?ok (\d+)\b[ \t]*(?:- )?(.*)$", line)
        if not found:
            continue
        text = found[3].strip()
        skip = re.search(r"#\s*SKIP\b\s*(.*)", text, re.I)
        # kselftest.h puts a skipped test's name behind the directive.
        name = (text[:skip.start()].strip() or skip[1]) if skip else text
        yield int(found[2]), Point(name, not found[1], bool(skip), skip[1] if skip else "")


def read_demo(text: str) -> dict[str, Point]:
    """Reads the results of this project's own checks."""
    found: dict[str, Point] = {}
    for _, point in points(text.splitlines()):
        if not point.passed:
            # A failure's name is followed by what was wrong. No check's own name has a colon, but for the prefix.
            prefix, _, rest = point.name.partition("mte: ")
            name, _, point.words = rest.partition(": ") if rest else prefix.partition(": ")
            point.name = f"mte: {name}" if rest else name
        found[point.name] = point
    return found


def read_selftests(text: str) -> dict[str, Point]:
    """Reads the results of the kernel's selftests: of each test, and with which status each program ended."""
    found: dict[str, Point] = {}
    program, lines = "", []
    for line in text.splitlines():
        begins = re.match(r"# selftest (\S+) begins$", line)
        ends = re.match(r"# selftest (\S+) ended with status (\d+)$", line)
        said = re.match(r"# kernel complaints: (.*)$", line)
        if begins:
            program, lines = begins[1], []
        elif ends:
            for number, point in points(lines):
                point.name = f"{program} {number}: {point.name}"
                found[point.name] = point
            # Of kselftest.h: 4 is a program that skips all it has.
            status = int(ends[2])
            name = f"{program} ends well"
            found[name] = Point(name, status in (0, 4), status == 4, f"exit status {status}")
        elif said:
            name = "the kernel complains of nothing"
            found[name] = Point(name, said[1].strip() == "none", False, said[1])
        else:
            lines.append(line)
    return found


def compare(tap: Tap, what: str, cell: Cell, above: Run, alone: Run) -> None:
    """Prints a result for each test of either side."""
    tap.result(f"{cell.name()}: both sides run to their end", above.trouble or alone.trouble)
    passed = sum(point.passed and not point.skipped for point in above.points.values())
    tap.result(f"{cell.name()}: there is something to compare", None if passed else "above the shim no test passes")
    if not above.points or not alone.points:
        return
    for name in {**alone.points, **above.points}:
        ours, theirs = above.points.get(name), alone.points.get(name)
        title = f"{cell.name()}: {name}"
        if ours is None or theirs is None:
            tap.result(title, f"there is no such result {'above the shim' if ours is None else 'alone'}")
        elif ours.verdict() != theirs.verdict():
            tap.result(title, f"{ours.verdict()} above the shim {describe(ours)}, "
                              f"{theirs.verdict()} alone {describe(theirs)}")
        elif ours.skipped:
            tap.result(f"{title} # SKIP on both sides {describe(ours)}")
        elif ours.passed:
            tap.result(title)
        elif what == "demo":
            tap.result(title, f"fails on both sides {describe(ours)} and {describe(theirs)}")
        else:
            tap.result(f"{title} (fails on both sides)")
    counts = [f"{sum(point.verdict() == verdict for point in above.points.values())} {verdict}"
              for verdict in ("passed", "failed", "skipped")]
    print(f"# {cell.name()}: above the shim {', '.join(counts)}", flush=True)


def describe(point: Point) -> str:
    """Quotes a result's words."""
    return f"({point.words})" if point.words else ""


# --------------------------------------------------------------------------------------------------------------------


def parse_cell(text: str) -> Cell:
    """Reads a cell of the command line."""
    parts = text.split(",")
    if len(parts) != 3 or not parts[1].isdigit() or int(parts[1]) < 2 or parts[2] not in machine.LAYOUTS:
        raise argparse.ArgumentTypeError(f"{text} is not CPU,NUMBER,LAYOUT such as max,2,one: two CPUs at least, a layout of "
                                         f"{', '.join(sorted(machine.LAYOUTS))}")
    return Cell(parts[0], int(parts[1]), parts[2])


def main() -> int:
    """Runs what was asked for; returns the process's exit status."""
    summary, *rest = __doc__.split("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog="\n\n".join(rest),
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["demo", "selftests"], nargs="+")
    usual = "; ".join(f"{what}: " + " ".join(f"{cell.cpu},{cell.cpus},{cell.layout}" for cell in cells)
                      for what, cells in CELLS.items())
    parser.add_argument("--cell", type=parse_cell, action="append", metavar="CPU,NUMBER,LAYOUT",
                        help=f"run on this machine only (may be given again); default: {usual}")
    parser.add_argument("--kernel", metavar="NAME",
                        help="one of the kernels that `qemu/setup.py --only kernels` fetches (default: that of `make linux`)")
    parser.add_argument("--only", metavar="NAME,...", help="these programs of the selftests only, such as check_prctl")
    parser.add_argument("--image", type=Path, default=machine.BUILD / "tagstash.img", metavar="FILE",
                        help="the shim (default: build/tagstash.img)")
    parser.add_argument("--bootargs", default="", metavar="TEXT", help="more boot arguments, for both sides")
    options = parser.parse_args()

    def on_signal(number: int, _frame: object) -> NoReturn:
        print(f"Bail out! ended by {signal.Signals(number).name}", flush=True)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    tap = Tap()
    words = (f" guest.only={options.only}" if options.only else "") + (f" {options.bootargs}" if options.bootargs else "")
    try:
        kernel = find_kernel(options.kernel)
        initrds = {what: pack(what, kernel) for what in dict.fromkeys(options.what)}
    except (Failed, OSError, subprocess.TimeoutExpired) as why:
        print(f"Bail out! {why}", flush=True)
        return 1
    print(f"# kernel {kernel.release}", flush=True)
    # The machine alone has no tag storage, so cells that differ in nothing else share its run.
    baselines: dict[tuple[str, str, int], Run] = {}
    for what, initrd in initrds.items():
        for cell in options.cell or CELLS[what]:
            key = (what, cell.cpu, cell.cpus)
            if key not in baselines:
                baselines[key] = boot(what, None, cell, kernel, initrd, words)
            above = boot(what, options.image, cell, kernel, initrd, words)
            compare(tap, what, cell, above, baselines[key])
    return tap.finish()


if __name__ == "__main__":
    sys.exit(main())
