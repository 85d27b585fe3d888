#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tests the Linux driver (boot/linux) on real kernels above the shim; results in the Test Anything Protocol.

Each run boots a kernel on the aliased machine with the driver's modules, a client that checks every page that it gets back, and
tests/linux/driver, whose parts print lines `guest: ...`. A part that does not end, or with another number of results than it says,
is a failure. The modules are built in the tree of the very kernel that is booted (qemu/driver.py).

  quick    two kernels, a round of each part, and what the driver refuses (part of `make test`)
  all      every kernel, normal and with the kernel's own checks, 2 CPUs and 4, verification on and off; kexec, a kernel after a
           panic, and one that goes to disk and comes back above another shim (`make driver-test`)
  faults   what is broken on purpose, in copies of the sources, one at a time: each has to be seen

A kernel that cannot be had is skipped, and named.
"""

from __future__ import annotations

import argparse
import gzip
import re
import shutil
import signal
import stat
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, NoReturn, Optional, TextIO

ROOT = Path(__file__).resolve().parent.parent
sys.path[0:0] = [str(ROOT / "qemu"), str(ROOT / "tests")]
import driver as modules  # noqa: E402  (builds the modules)
import mte  # noqa: E402  (which modules swap space takes)
import run as machine  # noqa: E402  (where things are)
import setup  # noqa: E402  (what it raises)
import trees  # noqa: E402  (kernels)
from initramfs import Archive  # noqa: E402
from psci import Reader, Tap  # noqa: E402

INITRD = machine.BUILD / "initramfs.img"
LOGS = machine.BUILD / "logs"
MEMORY_MIB = 512
# For a run in which a second kernel is in the first one's ramdisk.
MORE_MEMORY_MIB = 1024
CRASH_KERNEL_MIB = 256
# For all of memory, should it come to that; what is not written takes no space.
DISK_MIB = 512
# What a boot, and a round of all parts, may take on a machine that is busy with other things.
BOOT_SECONDS = 150.0
ROUND_SECONDS = 200.0


@dataclass(frozen=True)
class Run:
    """A run of the machine: what each kernel that comes up in it does, in this order. The names are those of psci.Run."""

    kernel: str
    what: str
    kernels: list[list[str]]
    cpus: int = 2
    verify: bool = True
    rounds: int = 1
    words: str = ""
    memory: int = MEMORY_MIB
    layout: str = "one"
    # Text that a message of refusal has in it.
    wanted: str = ""
    # Boots the kernel without the shim, with this device tree added to; None is the shim.
    alone: Optional[str] = None
    # A variant of the sources: pairs of a text and what it is replaced by, in a file of boot/linux.
    changes: tuple[tuple[str, str, str], ...] = ()
    reboots: bool = False
    # The first kernel writes itself to a disk and turns the machine off; on another one, the second boot resumes it.
    hibernates: bool = False
    extra: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Names it for results."""
        return f"{self.kernel}, {self.what}"

    @property
    def seconds(self) -> float:
        """How long it may take."""
        slow = 3.0 if "debug" in self.kernel else 1.0
        return (BOOT_SECONDS * len(self.kernels) + ROUND_SECONDS * self.rounds) * slow

    def bootargs(self, boot: int = 0) -> str:
        """The command line of the first kernel, or of the one that resumes it: the second."""
        parts = self.kernels[boot]
        if self.hibernates:
            # What follows the second's first part is done by the kernel that comes back.
            parts = self.kernels[0] + self.kernels[1][1:] if boot == 0 else parts[:1]
        words = [f"console=ttyAMA0 panic=-1 tagstash.test=driver guest.parts={','.join(parts)}",
                 f"guest.rounds={self.rounds} guest.verify={int(self.verify)}", self.words]
        if self.wanted:
            words.append(f"guest.wanted={self.wanted.replace(' ', '_')}")
        if "kexec" in self.kernels[0]:
            words.append(f"guest.then={','.join(self.kernels[1])}")
        return " ".join(filter(None, words))


PARTS = ["load", "tags", "split", "neighbours", "hotplug", "switch", "reload", "disarm", "stores", "unload"]
# A node as the shim's, on a machine without it.
NODE = '/ { hypervisor { compatible = "tagstash,tagstash-1"; method = "hvc"; }; };\n'


def refusals(kernel: str) -> list[Run]:
    """What the driver must refuse, with a message."""

    def refusal(what: str, wanted: str, **more: object) -> Run:
        return Run(kernel, what, [["refused"]], wanted=wanted, **more)  # type: ignore[arg-type]

    return [
        refusal("no shim", "the device tree has no node", alone=""),
        refusal("a hypervisor that is not the shim", "another than the device tree says", alone=NODE),
        refusal("no tag storage to lend", "no tag storage to lend", words="tagstash.off"),
        refusal("another major version", "has version 1", changes=(
            ("calls.h", "#define TAGSTASH_MAJOR			1", "#define TAGSTASH_MAJOR			2"),)),
        refusal("a kernel that tags all of its memory", "stores tags of all memory", changes=(
            ("main.c", "IS_ENABLED(CONFIG_KASAN_HW_TAGS)", "true"),)),
    ]


def hibernation(what: str, resume: str, **more: object) -> Run:
    """A kernel that goes to disk and comes back.

    With addresses of 52 bits, which it has on `-cpu max`, 6.12 cannot resume, with or without the shim: it faults in
    trans_pgd_create_copy(). So it is told not to use them.
    """
    options: dict[str, object] = {"kernel": "6.12", "words": "arm64.nolva", **more}
    kernels = [["load", "hibernate"], [resume, "resumed", "unload"]]
    return Run(what=what, kernels=kernels, hibernates=True, **options)  # type: ignore[arg-type]


def runs(what: str) -> list[Run]:
    """Returns the runs of `quick`, `all` or `faults`."""
    if what == "faults":
        return [fault.run for fault in FAULTS]
    if what == "quick":
        return [Run("5.10", "2 CPUs", [PARTS]), *refusals("5.10")[:3],
                Run("6.1", "2 CPUs, without verification", [["load", "reload", "unload"]], verify=False)]
    found = []
    for kernel in modules.NAMES:
        found += [Run(kernel, "2 CPUs", [PARTS], rounds=2),
                  Run(kernel, "4 CPUs, crossed, without verification", [PARTS], cpus=4, verify=False, layout="crossed")]
    found += refusals("5.10")
    for kernel in ("5.10", "6.12"):
        found.append(Run(kernel, "MTE hidden", [["hidden"]], words="tagstash.mte=hide"))
    # Where it is preempted, a thread that never sleeps holds up who waits for all tasks.
    found.append(Run("5.10-debug", "turned off while it waits", [["stuck"]], rounds=0))
    found.append(Run("6.1", "kexec", [["load", "kexec"], ["second", "load", "unload"]], memory=MORE_MEMORY_MIB))
    found.append(Run("6.1", "panic", [["load", "panic"], ["crashed"]], memory=MORE_MEMORY_MIB,
                     words=f"crashkernel={CRASH_KERNEL_MIB}M"))
    found += [hibernation("hibernation", "resume"), hibernation("hibernation", "resume", kernel="6.1", verify=False),
              hibernation("hibernation, resumed by a kernel with the driver at work", "resume_active", cpus=4, layout="crossed")]
    return found


# --------------------------------------------------------------------------------------------------------------------
# Faults


@dataclass(frozen=True)
class Fault:
    """What is broken on purpose, and a result that must fail."""

    run: Run
    # Empty for what must not be seen, because it is no fault by itself.
    seen: str


def fault(what: str, seen: str, changes: list[tuple[str, str, str]], parts: str = "load,tags,unload", **more: object) -> Fault:
    """Makes a fault of the driver on the kernel with cleancache."""
    options: dict[str, object] = {"kernel": "5.10", **more}
    kernels = options.pop("kernels", [parts.split(",")])
    return Fault(Run(what=what, kernels=kernels, changes=tuple(changes), **options), seen)  # type: ignore[arg-type]


STRUCT = "struct hook {"
NOTHING = "static int on_nothing(struct kprobe *probe, struct pt_regs *regs)\n{\n\treturn 0;\n}\n\n"
# A claim that comes late, as if the CPU had been held up: time for another one to use the page.
LATE = ("#include <linux/delay.h>\nstatic int on_late_page(struct kprobe *probe, struct pt_regs *regs)\n{\n\tif (!(regs->regs[0] >> PAGE_SHIFT & 15))\n\t\tmdelay(2);\n"
        "\ttagstash_claim_pages(__phys_to_pfn(virt_to_phys((void *)regs->regs[0])), 1, TAGSTASH_CLEAR_NONE);\n\treturn 0;\n}\n\n")


def handler(name: str, new: str, old: str = "on_page") -> tuple[str, str, str]:
    """Gives a hook another handler."""
    return "hooks.c", f'{{ .name = "{name}", .handler = {old} }}', f'{{ .name = "{name}", .handler = {new} }}'


def hook_left_out(name: str, kernel: str = "5.10", old: str = "on_page") -> Fault:
    """The hook of a function counts as one, and does nothing."""
    return fault(f"no hook at {name}", r"claim|damaged|wrong|checks of memory tagging",
                 [handler(name, "on_nothing", old), ("hooks.c", STRUCT, NOTHING + STRUCT)], kernel=kernel)


FAULTS = [
    hook_left_out("mte_copy_page_tags", old="on_copy"),
    hook_left_out("mte_restore_page_tags", "6.12"),
    fault("a CPU that is held up before it clears tags (no fault)", "",
          [handler("mte_clear_page_tags", "on_late_page"), ("hooks.c", STRUCT, LATE + STRUCT)], "load,tags", words="guest.late=8"),
    fault("no hook at mte_sync_tags, and a CPU that is held up", r"pages are claimed before they are marked",
          [handler("mte_clear_page_tags", "on_late_page"), handler("mte_sync_tags", "on_nothing", "on_sync"),
           ("hooks.c", STRUCT, LATE + NOTHING + STRUCT)], "load,tags", words="guest.late=8"),
    hook_left_out("mte_zero_clear_page_tags", "6.12"),
    fault("no hook at mte_sync_tags where marks are copied", r"stay as they are|damaged|wrong",
          [handler("mte_sync_tags", "on_nothing", "on_sync"), ("hooks.c", STRUCT, NOTHING + STRUCT)], "load,split", kernel="6.12"),
    fault("a page that is only marked keeps the stash's bytes as tags", r"have none before",
          [("claims.c", "			clear_tags(pfn_to_page(pfn));", "			;")], "load,split", kernel="6.12"),
    fault("tags are copied from a page that is only marked", r"copies of untagged pages",
          [handler("mte_copy_page_tags", "on_page", "on_copy")], "load,split", kernel="6.12"),
    fault("a page that is only marked stays so as it goes dormant", r"going dormant: (copies|pages that get tags)",
          [("activation.c", "		tagstash_claim_marked();\n", "		;\n")], "load,split", kernel="6.12"),
    fault("a debugger reads tags of memory out of reach", r"debugger",
          [handler("mte_copy_tags_to_user", "on_nothing", "on_peek"), ("hooks.c", STRUCT, NOTHING + STRUCT)], "load,split", kernel="6.12"),
    fault("tags are cleared while the hooks are removed", r"switch: tags are checked meanwhile", [
        ("activation.c", "		tagstash_end_clearing();\n		tagstash_hooks_remove();", "		tagstash_hooks_remove();"),
        ("hooks.c", "		hooks[i].placed = false;\n	}\n", "		hooks[i].placed = false;\n		msleep(300);\n	}\n"),
        ("hooks.c", STRUCT, "#include <linux/delay.h>\n" + STRUCT)], "load,switch", kernel="6.12"),
    fault("a claim does not call the shim", r"claim|damaged|wrong|checks of memory tagging",
          [("claims.c", "while (left && !tagstash_reclaim(address, left, &res)) {",
            "for (res.a1 = res.a2 = left; left;) {")]),
    fault("pages tagged before are not claimed", r"claim|same|damaged|wrong", [("activation.c", "	tagstash_claim_tagged();\n", "")]),
    fault("nothing is released", r"all claims came back", [("hooks.c", "	tagstash_release_pages(page_to_pfn(page), 1UL << order);", "")]),
    fault("the first page of a run only is released", r"all claims came back",
          [("hooks.c", "page_to_pfn(page), 1UL << order)", "page_to_pfn(page), 1)")]),
    fault("a release forgets its mark", r"refused|claim|damaged|wrong|checks of memory tagging",
          [("claims.c", "		WRITE_ONCE(*word, *word & ~bits_of(pfn, next - pfn));\n", "")]),
    fault("two locks for the claims of a word", r"each has its claims",
          [("claims.c", "hash_long(BIT_WORD(pfn - first_pfn), LOCK_SHIFT)", "hash_long((pfn - first_pfn) / RUN_PAGES, LOCK_SHIFT)")],
          "load,neighbours"),
    fault("the watchdog does not look", r"watchdog", [("watchdog.c", "if (tagstash_hooks_intact(problem, sizeof(problem))) {",
                                                       "if (tagstash_hooks_intact(problem, sizeof(problem)) || true) {")],
          "load,disarm"),
    fault("modules that come later are not searched", r"a module that stores tags makes it dormant",
          [("text.c", "if (state != MODULE_STATE_COMING || module == THIS_MODULE)", "if (state != MODULE_STATE_COMING || module)")],
          "load,stores"),
    fault("a module comes while it becomes active", r"if that module comes while it becomes active",
          [("text.c", "	if (!tagstash_text_clean(who, sizeof(who))) {\n		snprintf", "	if (tagstash_is_active() && !tagstash_text_clean(who, sizeof(who))) {\n		snprintf")],
          "load,stores"),
    fault("the machine cannot be turned off while it waits", r"turned off|part was done",
          [("activation.c", "		if (READ_ONCE(waiting_for_tasks))\n			return;\n", "")], "stuck", kernel="5.10-debug", rounds=0),
    fault("modules that are there are not searched", r"and stays dormant",
          [("text.c", "		if (module != THIS_MODULE)\n			search_core(module, true);", "")], "load,stores"),
    fault("clients are not stopped", r"dormant and active|running|no call failed|not dormant",
          [("activation.c", "	list_for_each_entry_reverse(client, &clients, list)\n		stop_client(client);\n", "")],
          "load,switch,unload"),
    fault("storage is not taken back on unload", r"storage was taken back before",
          [("activation.c", "		tagstash_hooks_remove();\n		take_all_back_slowly();\n", "		tagstash_hooks_remove();\n"),
           ("activation.c", "	tagstash_void_claims();\n	take_all_back_slowly();", "	tagstash_void_claims();")],
          kernel="6.1", kernels=[["load", "kexec"], ["second"]], memory=MORE_MEMORY_MIB),
    fault("a kernel that panics keeps the storage lent", r"storage was taken back before",
          [("handover.c", "	if (tagstash_is_active())\n		tagstash_take_all_back();\n", "")], kernel="6.1",
          kernels=[["load", "panic"], ["crashed"]], memory=MORE_MEMORY_MIB, words=f"crashkernel={CRASH_KERNEL_MIB}M"),
    Fault(hibernation("a kernel goes to disk with storage lent", "resume", changes=(
        ("handover.c", "	case PM_HIBERNATION_PREPARE:\n", ""),)), r"no call failed|claim|damaged|refused|tags"),
    Fault(hibernation("a kernel resumes another with storage lent", "resume_active", changes=(
        ("handover.c", "	case PM_RESTORE_PREPARE:\n", ""),)), r"storage was lent by nobody else"),
    Fault(hibernation("what became active before the image is left so", "resume", changes=(
        ("handover.c", "		if (tagstash_go_dormant(\"hibernation\"))\n", "		if (false)\n"),)), r"begins anew"),
    Fault(hibernation("after hibernation, claims are believed that were made before", "resume", changes=(
        ("claims.c", "	if (claimed)\n		bitmap_zero(claimed, end_pfn - first_pfn);\n", ""),)), r"claim|damaged|refused|tags"),
]


def changed(run: Run, directory: Path) -> tuple[Path, str]:
    """Makes a changed copy of the sources; returns its root and the variant's name."""
    root = directory / re.sub(r"\W+", "-", run.what).strip("-")
    shutil.rmtree(root, ignore_errors=True)
    for source in modules.SOURCES:
        shutil.copytree(ROOT / source, root / source)
    for file, old, new in run.changes:
        path = root / "boot" / "linux" / file
        text = path.read_text()
        if text.count(old) != 1:
            raise setup.SetupError(f"boot/linux/{file} has the text that is to be changed {text.count(old)} times, not once: {old!r}")
        path.write_text(text.replace(old, new))
    return root, f"changed-{root.name}"


# --------------------------------------------------------------------------------------------------------------------
# What a run needs


def kernel_modules(kernel: trees.Kernel, *names: str) -> list[tuple[str, bytes]]:
    """Finds modules of the kernel's own; none of those that it has built in, or set-up not got."""
    entries = mte.tools()
    found: list[tuple[str, bytes]] = []
    for record in [entries.get("linux"), *(entries.get("kernels") or {}).values()]:
        if not found and isinstance(record, dict) and record.get("release") == kernel.release and record.get("modules"):
            found = mte.read_modules(Path(record["modules"]), names)
    return found


def ramdisk(run: Run, kernel: trees.Kernel, built: Path, directory: Path) -> Path:
    """Writes the guest's ramdisk: that of `make initramfs`, and behind it archives that Linux unpacks over the first."""
    archive = Archive()
    archive.add("driver", stat.S_IFDIR | 0o755)
    swap = kernel_modules(kernel, "lzo_rle", "zram")
    disk = kernel_modules(kernel, "virtio_pci", "virtio_blk") if run.hibernates else []
    files = [("init", (ROOT / "tests/linux/init").read_bytes()), ("driver/run", (ROOT / "tests/linux/driver").read_bytes()),
             ("driver/order", "".join(f"{name}.ko\n" for name, _ in swap).encode()),
             ("driver/disk-order", "".join(f"{name}.ko\n" for name, _ in disk).encode())]
    files += [(f"driver/{name}.ko", data) for name, data in swap + disk]
    files += [(f"driver/{path.name}", path.read_bytes()) for path in sorted(built.glob("*.ko"))]
    for name, contents in files:
        archive.add(name, stat.S_IFREG | 0o755, contents)
    for name in ("insmod", "rmmod", "mkswap", "swapon", "mkfifo"):
        archive.add(f"bin/{name}", stat.S_IFLNK | 0o777, b"busybox")
    small = INITRD.read_bytes() + gzip.compress(archive.finish(), 1, mtime=0)
    image = directory / "initrd"
    if len(run.kernels) == 1 or run.hibernates:
        image.write_bytes(small)
        return image
    more = Archive()
    more.add("boot", stat.S_IFDIR | 0o755)
    more.add("boot/Image", stat.S_IFREG | 0o644, kernel.image.read_bytes())
    more.add("boot/initrd", stat.S_IFREG | 0o644, small)
    # The second begins at a multiple of 4 bytes (Linux, buffer-format.rst).
    image.write_bytes(small + bytes(-len(small) % 4) + more.finish())
    return image


def tool(words: list[str], text: str = "") -> str:
    """Runs one of set-up's programs, by its name in tools.json; returns what it printed."""
    record = mte.tools()[words[0]]
    return subprocess.run([*record["argv"], *words[1:]], check=True, env={**machine.os.environ, **record.get("env", {})}, timeout=60,
                          input=text, stdout=subprocess.PIPE, text=True).stdout


def command(run: Run, kernel: trees.Kernel, initrd: Path, directory: Path, boot: int = 0) -> list[str]:
    """Writes the command that makes the run, or a boot of it."""
    words = [sys.executable, str(ROOT / "qemu" / "run.py"), "--cpus", str(run.cpus), "--memory", str(run.memory),
             "--no-semihosting", "--timeout", f"{run.seconds:g}"]
    if run.alone is None:
        # The interrupt controller's translation service keeps its tables over kexec, where no kernel expects them.
        words += ["--gic", "2"] if len(run.kernels) > 1 else []
        words += ["--drive", str(directory / "disk")] if run.hibernates else []
        return [*words, "--no-harness-args", "--layout", run.layout, "--kernel", str(kernel.image), "--initrd", str(initrd),
                "--bootargs", run.bootargs(boot), *run.extra]
    words += ["--plain", "--el", "1", "--image", str(kernel.image), "--", "-initrd", str(initrd), "-append", run.bootargs()]
    if not run.alone:
        return words
    tree = directory / "alone.dtb"
    dump = directory / "qemu.dtb"
    tool(["qemu", "-machine", f"virt,mte=on,gic-version=3,dumpdtb={dump}", "-cpu", "max", "-smp", str(run.cpus), "-m",
          str(run.memory), "-display", "none"])
    source = tool(["dtc", "-q", "-I", "dtb", "-O", "dts", str(dump)])
    tool(["dtc", "-q", "-I", "dts", "-O", "dtb", "-o", str(tree), "-"], source + run.alone)
    return [*words, "-dtb", str(tree)]


# --------------------------------------------------------------------------------------------------------------------
# The runs


def boot_once(run: Run, words: list[str], reader: Reader, sink: TextIO) -> int:
    """Runs the machine until it is turned off, and reads its lines; returns the status."""
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace") as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                line = line.rstrip("\r\n").lstrip("\r")
                sink.write(line + "\n")
                reader.line(line)
                if line.startswith("guest: note"):
                    print(f"# {run.name}: {line[12:]}", flush=True)
        except BaseException:
            process.terminate()  # It ends its QEMU, and removes its files.
            raise
    return process.returncode


def do(tap: Tap, run: Run, kernel: trees.Kernel, built: Path) -> None:
    """Makes a run, and results of its lines."""
    directory = Path(tempfile.mkdtemp(prefix="driver-", dir=machine.BUILD))
    LOGS.mkdir(parents=True, exist_ok=True)
    log = LOGS / f"driver-test-{re.sub(r'[^a-z0-9.]+', '-', run.name.lower())}.log"
    started = time.monotonic()
    reader = Reader(tap, run)  # type: ignore[arg-type]
    try:
        initrd = ramdisk(run, kernel, built, directory)
        if run.hibernates:
            with open(directory / "disk", "wb") as disk:
                disk.truncate(DISK_MIB << 20)
        status = 0
        with open(log, "w", buffering=1) as sink:
            for boot in range(2 if run.hibernates else 1):
                # After a machine that was not turned off there is nothing to resume.
                status = status or boot_once(run, command(run, kernel, initrd, directory, boot), reader, sink)
        reader.finish(status)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    print(f"# {run.name}: {time.monotonic() - started:.0f} s, log {log.relative_to(ROOT)}", flush=True)


class Quiet(Tap):
    """Takes results without printing them."""

    def __init__(self) -> None:
        """Begins with none."""
        super().__init__()
        self.failed: list[str] = []

    def result(self, name: str, trouble: str = "") -> None:
        """Notes a failure."""
        if trouble:
            self.failed.append(f"{name}: {trouble}")


def see(tap: Tap, fault: Fault, kernel: trees.Kernel, built: Path) -> None:
    """Makes a run with a fault; that it is seen is the result."""
    quiet = Quiet()
    do(quiet, fault.run, kernel, built)
    hits = [text for text in quiet.failed if re.search(fault.seen, text)]
    for text in quiet.failed[:4]:
        print(f"# {text}", flush=True)
    if fault.seen:
        trouble = "" if hits else f"no failure that has /{fault.seen}/" if quiet.failed else "nothing failed"
        tap.result(f"seen: {fault.run.name}", trouble)
    else:
        tap.result(f"not seen: {fault.run.name}", quiet.failed[0] if quiet.failed else "")


def check_faults(tap: Tap) -> None:
    """Looks that each fault still fits the sources, so that a change of those is one of these as well."""
    wrong = [f"{fault.run.what}: boot/linux/{file} has {old!r} {count} times" for fault in FAULTS
             for file, old, _ in fault.run.changes if (count := (ROOT / "boot/linux" / file).read_text().count(old)) != 1]
    tap.result(f"the {len(FAULTS)} faults fit the sources", "; ".join(wrong))


def check_decoder(tap: Tap) -> None:
    """Assembles every instruction that stores tags, and some that look like it, and lets the driver's decoder tell them apart."""
    name = "the driver knows the instructions that store tags"
    try:
        compiler, environment = trees.compiler()
    except setup.NotDownloaded as why:
        tap.result(f"{name} # SKIP {why}")
        return
    stores = [f"{name} x1, [x2]{form}" for name in ("stg", "stzg", "st2g", "stz2g") for form in ("", ", #-16")]
    stores += ["stg sp, [sp, #4080]", "stzg x1, [x2, #-4096]!", "st2g x30, [sp], #32", "stz2g x29, [x0, #16]!", "stgm x1, [x2]",
               "stzgm xzr, [x2]", "stgp x1, x2, [x3]", "stgp x1, x2, [sp, #-1024]!", "stgp x1, x2, [x3], #1008", "dc gva, x3",
               "dc gzva, xzr", "setgp [x1]!, x2!, x3", "setgm [x1]!, x2!, x3", "setge [x1]!, x2!, x3", "setgpn [x1]!, x2!, x3",
               "setgpt [x1]!, x2!, x3", "setgetn [x1]!, x2!, x3"]
    others = ["ldg x1, [x2]", "ldg x1, [x2, #-16]", "ldgm x1, [x2]", "irg x1, x2", "addg x1, x2, #16, #1", "subg x1, x2, #16, #1",
              "gmi x1, x2, x3", "subp x1, x2, x3", "dc zva, x3", "dc igvac, x1", "dc cgvac, x1", "dc cigdvac, x1", "dc civac, x1",
              "stp x1, x2, [x3]", "stp x1, x2, [x3], #16", "stnp x1, x2, [x3]", "ldpsw x1, x2, [x3]", "ldpsw x1, x2, [x3, #8]!",
              "setp [x1]!, x2!, x3", "setm [x1]!, x2!, x3", "cpyp [x1]!, [x2]!, x3!", "cpyfm [x1]!, [x2]!, x3!", "stlur x1, [x2]",
              "stur x1, [x2]", "str x1, [x2, #8]!", "stp w1, w2, [x3, #-8]", "stp q0, q1, [x3]", "nop", "brk #4"]
    with tempfile.TemporaryDirectory(prefix="insn-", dir=machine.BUILD) as scratch:
        place = Path(scratch)
        (place / "a.s").write_text(".arch armv8.8-a+memtag+mops\n" + "".join(f"\t{line}\n" for line in stores + others))
        (place / "a.c").write_text("#include <stdbool.h>\n#include <stdint.h>\n#include <stdio.h>\ntypedef uint32_t u32;\n"
                                   f'#include "{ROOT}/boot/linux/insn.h"\n'
                                   "int main(void)\n{\n\tu32 insn;\n\n\twhile (fread(&insn, 4, 1, stdin))\n"
                                   "\t\tputchar('0' + tagstash_stores_tags(insn));\n"
                                   "\tputchar('0' + tagstash_is_address(0x1008, 0xffffd3a1));\n"
                                   "\tputchar('0' + tagstash_is_address(0x100c, 0xffffd3a1));\n"
                                   "\tputchar('0' + tagstash_is_address(0x1008, 0xd65f03c0));\n\treturn 0;\n}\n")
        env = {**machine.os.environ, **environment}
        subprocess.run([*compiler, "-c", "-Wa,--no-warn", "-o", str(place / "a.o"), str(place / "a.s")], check=True, env=env, timeout=60)
        subprocess.run(["gcc", "-Wall", "-Werror", "-o", str(place / "a"), str(place / "a.c")], check=True, timeout=60)
        code = text_of((place / "a.o").read_bytes())
        answers = subprocess.run([str(place / "a")], input=code, stdout=subprocess.PIPE, check=True, timeout=60).stdout.decode()
    # At the end: the low half of an address, a word at its high half's place, and one with an instruction behind it.
    wanted = "1" * len(stores) + "0" * len(others) + "100"
    lines = stores + others + ["an address", "what is not aligned as one", "what an instruction follows"]
    wrong = [line for line, is_, should in zip(lines, answers, wanted) if is_ != should]
    short = "" if len(answers) == len(wanted) else f"{len(answers)} answers for {len(wanted)} instructions"
    tap.result(f"{name} ({len(stores)} of them, {len(others)} others)", short or (f"wrong about: {', '.join(wrong)}" if wrong else ""))


def text_of(elf: bytes) -> bytes:
    """Returns the section .text of a 64-bit object file."""
    offset, = struct.unpack_from("<Q", elf, 0x28)
    size, count, names = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, offset + n * size) for n in range(count)]
    for name, _, _, _, start, length in headers:
        at = headers[names][4] + name
        if elf[at:elf.index(b"\0", at)] == b".text":
            return elf[start:start + length]
    raise ValueError("no section .text")


def prepare(run: Run, scratch: Path, built: dict[str, Path], get: Callable[[str], trees.Kernel]) -> tuple[trees.Kernel, Path]:
    """Finds a run's kernel and builds its modules."""
    kernel = get(run.kernel)
    if run.hibernates and not kernel_modules(kernel, "virtio_blk"):
        if get is modules.get:
            subprocess.run([sys.executable, str(ROOT / "qemu/setup.py"), "--only", "kernels", "--kernel", run.kernel],
                           stdin=subprocess.DEVNULL, check=False)
    if run.hibernates and not kernel_modules(kernel, "virtio_blk"):
        raise setup.NotDownloaded(f"its module for a disk is not there: `python3 qemu/setup.py --only kernels --kernel {run.kernel}`")
    if run.changes:
        root, variant = changed(run, scratch)
        return kernel, modules.build(kernel, root=root, variant=variant)
    if run.kernel not in built:
        built[run.kernel] = modules.build(kernel, strict=True)
    return kernel, built[run.kernel]


def main() -> int:
    """Makes the runs that were asked for; returns the process's exit status."""
    summary, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["quick", "all", "faults"])
    parser.add_argument("--only", metavar="TEXT", default="", help="only the runs whose name has this text: `6.1,`, `crossed`")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often a part does what it does (default: 1, or 2 in `all`)")
    parser.add_argument("--list", action="store_true", help="list the runs")
    parser.add_argument("--no-fetch", action="store_true",
                        help="fetch and build no kernel; skip those that are not there (quick never builds one)")
    options = parser.parse_args()
    chosen = [run for run in runs(options.what) if options.only in run.name]
    if options.list:
        for run in chosen:
            print(f"{run.name}: {' / '.join(','.join(parts) for parts in run.kernels)}")
        return 0

    def on_signal(number: int, _frame: object) -> NoReturn:
        print(f"Bail out! ended by {signal.Signals(number).name}", flush=True)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    for file, remedy in ((INITRD, "make initramfs"), (machine.BUILD / "tagstash.img", "make image"),
                         (machine.BUILD / "libtagalias.so", "make machine")):
        if not file.is_file():
            print(f"Bail out! {file} is not there: `{remedy}` makes it", flush=True)
            return 2
    tap = Tap()
    if not options.only and options.what != "faults":
        check_decoder(tap)
        check_faults(tap)
    by_run = {id(fault.run): fault for fault in FAULTS}
    built: dict[str, Path] = {}
    with tempfile.TemporaryDirectory(prefix="driver-sources-", dir=machine.BUILD) as scratch:
        for run in chosen:
            by_fault = by_run.get(id(run))
            run = replace(run, rounds=options.rounds) if options.rounds else run
            try:
                # Building the kernel with cleancache takes as long as all of `make test` besides.
                here = options.no_fetch or (options.what == "quick" and run.kernel in modules.cleancache.NAMES)
                kernel, place = prepare(run, Path(scratch), built, modules.find if here else modules.get)
            except setup.NotDownloaded as why:
                tap.result(f"{run.name} # SKIP {str(why).splitlines()[0]}")
                continue
            except setup.SetupError as why:
                tap.result(f"{run.name}: its modules", " ".join(str(why).split()))
                continue
            if by_fault:
                see(tap, by_fault, kernel, place)
            else:
                do(tap, run, kernel, place)
    return tap.finish()


if __name__ == "__main__":
    sys.exit(main())
