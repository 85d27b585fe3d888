#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Counts the instructions of Linux above the shim and alone: `make linux-costs`.

QEMU counts every instruction that the one CPU executes, at EL2 as at EL0, and no time that it sleeps: the machine is
recorded (`-icount shift=0,rr=record`), held at the instruction that turned it off, and asked where it is
(`query-replay`). Three things are counted:

  shim     from its first instruction to the first of a guest, which turns the machine off (`--shim`: this alone)
  boot     Debian's kernel to its first process, which turns the machine off at once
  work     a fixed workload of that process (tests/linux/work): processes, page faults, file reads, pipes; what the same
           run costs more than `boot`

Alone means the same command with virtualization=off and the kernel where the shim was. Instructions, not time: walks of
two stages of translation, which cost hardware something, cost an emulator nothing that it counts.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "qemu"))
import run as machine  # noqa: E402  (the machine's own places)

OUT = machine.BUILD / "linux-costs"
KERNEL = machine.BUILD / "linux" / "Image"
INITRD = machine.BUILD / "initramfs.img"
MEMORY_MIB = 512
# Of the shim's own boot: the last one is the goal's.
MEMORIES_MIB = (512, 8192)
SECONDS = 400
# Both kernels without randomness: no seeds in the tree, no random place of the kernel.
WORDS = "console=ttyAMA0 panic=-1 nokaslr quiet"
NO_SEEDS = "/ { chosen { /delete-property/ rng-seed; /delete-property/ kaslr-seed; }; };\n"
# The goals: more instructions than alone, in percent; the shim's own boot; the image.
MORE_GOAL = 1.0
SHIM_GOAL = 20_000_000
IMAGE_GOAL = 256 * 1024


class Failed(Exception):
    """Why a count could not be taken."""


class Monitor:
    """QEMU's monitor (QMP) on a socket in a directory of ours."""

    def __init__(self, path: Path, process: subprocess.Popen[bytes], deadline: float) -> None:
        """Connects as soon as QEMU listens."""
        self.socket = socket.socket(socket.AF_UNIX)
        self.deadline = deadline
        self.data = b""
        while True:
            try:
                self.socket.connect(str(path))
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise Failed("QEMU did not open its monitor") from None
                time.sleep(0.05)
        self.read()
        self.ask("qmp_capabilities")

    def read(self) -> dict:
        """Reads a message."""
        while b"\n" not in self.data:
            self.socket.settimeout(max(0.1, self.deadline - time.monotonic()))
            try:
                more = self.socket.recv(65536)
            except OSError as error:
                raise Failed(f"QEMU's monitor: {error}") from None
            if not more:
                raise Failed("QEMU ended before the guest turned the machine off")
            self.data += more
        line, self.data = self.data.split(b"\n", 1)
        return json.loads(line)

    def ask(self, command: str) -> dict:
        """Gives a command; returns the answer."""
        self.socket.sendall(json.dumps({"execute": command}).encode() + b"\n")
        while True:
            message = self.read()
            if "error" in message:
                raise Failed(f"QEMU's monitor, {command}: {message['error'].get('desc')}")
            if "return" in message:
                return message["return"]

    def wait(self, event: str) -> dict:
        """Waits for an event; returns what it tells."""
        while True:
            message = self.read()
            if message.get("event") == event:
                return message.get("data", {})


def count(name: str, expect: Optional[str], *options: str) -> int:
    """Runs a machine until its guest turns it off; returns the instructions that it executed."""
    OUT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tagstash-costs-") as name_of_directory:
        directory = Path(name_of_directory)
        log = OUT / f"{name}.log"
        command = [sys.executable, str(ROOT / "qemu" / "run.py"), "--no-semihosting", "--no-harness-args", "--timeout", str(SECONDS),
                   *options]
        if "--" not in command:
            command.append("--")
        command += ["-icount", f"shift=0,rr=record,rrfile={directory}/record", "-no-shutdown", "-rtc", "clock=vm,base=2024-01-01",
                    "-seed", "1", "-qmp", f"unix:{directory}/monitor,server=on,wait=off"]
        with open(log, "wb") as file:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
            try:
                monitor = Monitor(directory / "monitor", process, time.monotonic() + SECONDS)
                reason = monitor.wait("SHUTDOWN").get("reason")
                instructions = monitor.ask("query-replay")["icount"]
                monitor.ask("quit")
                process.wait(60)
            except (Failed, subprocess.TimeoutExpired) as why:
                raise Failed(f"{name}: {why}; its console is in {log}") from None
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait(60)
    text = log.read_text(errors="replace").replace("\r", "")
    if reason != "guest-shutdown":
        raise Failed(f"{name}: the machine ended by {reason}, not by its guest; its console is in {log}")
    if expect and expect not in text.splitlines():
        raise Failed(f"{name}: the guest never said '{expect}'; its console is in {log}")
    print(f"| {name}: {instructions:,} instructions", flush=True)
    return instructions


def idle_guest(path: Path) -> Path:
    """Writes a guest that turns the machine off with its first instructions."""
    # b to the code behind the header; text_offset 0, image_size 4096, flags: little endian, 4 KiB pages, anywhere.
    header = struct.pack("<2I6Q4sI", 0x1400_0010, 0, 0, 4096, 0xA, 0, 0, 0, b"ARM\x64", 0)
    code = struct.pack("<3I", 0x5280_0100, 0x72B0_8000, 0xD400_0003)  # mov w0, #8; movk w0, #0x8400, lsl #16; smc #0
    path.write_bytes((header + code).ljust(4096, b"\0"))
    return path


@dataclass(frozen=True)
class Way:
    """One way to start the kernel."""

    name: str
    explanation: str
    options: tuple[str, ...]

    def run(self, what: str, memory: int = MEMORY_MIB) -> int:
        """Starts it; returns the instructions to the end of `what`."""
        words = f"{WORDS} tagstash.test={what}"
        options = [word.format(words=words) for word in self.options]
        done = "# linux work complete" if what == "work" else "# linux boot complete"
        return count(f"{what}-{self.name}", done, "--memory", str(memory), *options)


ALONE = Way("alone", "the kernel at EL1, virtualization=off",
            ("--plain", "--el", "1", "--image", str(KERNEL), "--", "-machine", "dtb-randomness=off", "-initrd", str(INITRD),
             "-append", "{words}"))
ABOVE = Way("above", "the same machine, the kernel above the shim",
            ("--plain", "--kernel", str(KERNEL), "--initrd", str(INITRD), "--bootargs", "{words}", "--", "-machine",
             "dtb-randomness=off"))


def aliased(overlay: Path) -> Way:
    """The machine whose tags lie in RAM, with a tree that describes them."""
    return Way("aliased", "the machine with tag storage in RAM, above the shim",
               ("--kernel", str(KERNEL), "--initrd", str(INITRD), "--bootargs", "{words}", "--dts-append", str(overlay)))


def measure(whole: bool) -> dict[str, int]:
    """Takes all counts, or those of the shim itself."""
    found: dict[str, int] = {}
    OUT.mkdir(parents=True, exist_ok=True)
    idle, seeds = idle_guest(OUT / "idle-guest.img"), OUT / "no-seeds.dts"
    seeds.write_text(NO_SEEDS)
    for memory in MEMORIES_MIB:
        found[f"shim-{memory}"] = count(f"shim-{memory}", None, "--memory", str(memory), "--kernel", str(idle), "--dts-append",
                                        str(seeds))
    for what in ("boot", "work") if whole else ():
        for way in (ALONE, ABOVE, aliased(seeds)):
            found[f"{what}-{way.name}"] = way.run(what)
    return found


def more(value: int, base: int) -> float:
    """Returns how much more than `base` a value is, in percent."""
    return 100.0 * (value - base) / base


def rows(found: dict[str, int]) -> list[tuple[str, list[int]]]:
    """The boot, and the workload without it: alone, above the shim, with tag storage. None where Linux was not counted."""
    ways = ("alone", "above", "aliased")
    if "boot-alone" not in found:
        return []
    boot = [found[f"boot-{way}"] for way in ways]
    work = [found[f"work-{way}"] - found[f"boot-{way}"] for way in ways]
    return [("boot, to the first process", boot), ("workload", work)]


def report(found: dict[str, int], image: int) -> str:
    """Writes the tables."""
    lines = ["| what | alone | above the shim | more | with tag storage in RAM | more |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for name, (alone, above, tags) in rows(found):
        lines.append(f"| {name} | {alone:,} | {above:,} | {more(above, alone):+.2f} % | {tags:,} | {more(tags, alone):+.2f} % |")
    lines = [] if len(lines) == 2 else [*lines, ""]
    lines += ["| the shim itself | |", "| --- | ---: |"]
    lines += [f"| instructions, from its first to the guest's first, {memory} MiB | {found[f'shim-{memory}']:,} |" for memory in MEMORIES_MIB]
    lines += [f"| its image, bytes | {image:,} |"]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Counts, prints, judges; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shim", action="store_true", help="count the shim's own boot only, which takes no Linux; print results in the "
                        "Test Anything Protocol, where a count above the goal fails")
    options = parser.parse_args()
    try:
        found = measure(whole=not options.shim)
    except Failed as why:
        print(f"Bail out! {why}" if options.shim else f"linux-costs: {why}")
        return 1
    if options.shim:
        largest = MEMORIES_MIB[-1]
        good = found[f"shim-{largest}"] <= SHIM_GOAL
        print(f"{'ok' if good else 'not ok'} 1 - the shim's own boot with {largest} MiB takes at most {SHIM_GOAL:,} instructions\n1..1")
        return 0 if good else 1
    image = (machine.BUILD / "tagstash.img").stat().st_size
    text = report(found, image)
    (OUT / "costs.md").write_text("# Linux above the shim, in instructions\n\n" + text)
    (OUT / "costs.json").write_text(json.dumps({**found, "image": image}, indent=2) + "\n")
    print("\n" + text)
    for name, values in rows(found):
        for way, value in zip(("above the shim", "with tag storage"), values[1:]):
            judge(f"{name}, {way}: at most {MORE_GOAL} % more instructions than alone", more(value, values[0]) <= MORE_GOAL,
                  f"{more(value, values[0]):+.2f} %")
    judge(f"the shim's own boot with {MEMORIES_MIB[-1]} MiB: at most {SHIM_GOAL:,} instructions",
          found[f"shim-{MEMORIES_MIB[-1]}"] <= SHIM_GOAL, f"{found[f'shim-{MEMORIES_MIB[-1]}']:,}")
    judge(f"the image: at most {IMAGE_GOAL:,} bytes", image <= IMAGE_GOAL, f"{image:,}")
    print(f"\nwritten: {OUT / 'costs.md'} and {OUT / 'costs.json'}")
    return 0


def judge(goal: str, met: bool, value: str) -> None:
    """Says what came of a goal."""
    print(f"* {'met   ' if met else 'MISSED'} {goal}; {value}")


if __name__ == "__main__":
    sys.exit(main())
