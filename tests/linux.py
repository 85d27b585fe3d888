#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tests Linux above the shim from outside; results in the Test Anything Protocol.

  shell   drives `make linux` on a terminal of its own: the prompt, keys, and the end; and looks at the tag storage behind
          the machine's back while a program of the guest holds a tagged page still
  driver  drives the shell of `make demo ARGS=--shell` in the same way: what it says to try does what it says
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, NoReturn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "qemu"))
import driverguest  # noqa: E402  (whether there is a kernel with cleancache)
import run as machine  # noqa: E402  (the machine's own layout and places)
import setup  # noqa: E402  (what it raises)
from tap import Failed, Tap  # noqa: E402

MEMORY_MIB = 512
PAGE = 4096
PROMPT = "/ # "
# How long a boot, or a command, may take on a machine that is busy with other things.
PATIENCE = 100.0


# --------------------------------------------------------------------------------------------------------------------
# On a terminal


class Terminal:
    """A target of the Makefile on a pseudo-terminal, and what it printed."""

    def __init__(self, target: str, arguments: str) -> None:
        """Starts it, with these ARGS."""
        self.text = ""
        self.line = ""
        self.process, self.keys = pty.fork()
        if self.process == 0:
            os.chdir(ROOT)
            os.execvp("make", ["make", "--no-print-directory", target, f"ARGS={arguments}"])

    def read(self, deadline: float) -> bool:
        """Takes more output; tells whether there was any before the end, or before the deadline."""
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self.keys], [], [], left)[0]:
            return False
        try:
            data = os.read(self.keys, 65536)
        except OSError:
            return False  # Linux's way to say that nobody has the terminal open any more.
        text = data.decode(errors="replace").replace("\r", "")
        self.text += text
        # For the log, marked so that no line of the guest counts as a result here.
        *lines, self.line = (self.line + text).split("\n")
        for line in lines:
            print(f"| {line}", flush=True)
        return bool(data)

    def expect(self, pattern: str) -> re.Match[str]:
        """Waits for output that matches, and forgets all output up to its end."""
        deadline = time.monotonic() + PATIENCE
        while True:
            found = re.search(pattern, self.text, re.M)
            if found:
                self.text = self.text[found.end():]
                return found
            if not self.read(deadline):
                raise Failed(f"'{pattern}' never came; the last output is {self.text[-200:]!r}")

    def type(self, keys: str) -> None:
        """Presses keys."""
        os.write(self.keys, keys.encode())

    def command(self, line: str, pattern: str) -> re.Match[str]:
        """Gives the shell a command, waits for its output and for the next prompt."""
        self.type(line + "\r")
        found = self.expect(pattern)
        self.expect(PROMPT)
        return found

    def end(self) -> int:
        """Waits for its end; returns the exit status, or 128 and the signal that ended it."""
        deadline = time.monotonic() + PATIENCE
        while self.read(deadline):
            pass
        if time.monotonic() >= deadline:
            raise Failed("it did not end")
        _, status = os.waitpid(self.process, 0)
        self.process = 0
        return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status)

    def close(self) -> None:
        """Hangs up, and ends what is still there: make would wait for what it has started, which nobody told."""
        os.close(self.keys)
        if self.process:
            os.killpg(self.process, signal.SIGHUP)
            os.waitpid(self.process, 0)


def tags_in_storage(ram: Path, physical: int) -> tuple[int, bytes]:
    """Finds the storage of a page of tagged memory in the file behind guest RAM: where, and its bytes."""
    for region in machine.layout_one(machine.RAM_BASE, MEMORY_MIB * machine.MIB).regions:
        if region.base <= physical < region.base + region.length:
            place = region.storage + (physical - region.base) // machine.DATA_PER_TAG_BYTE - machine.RAM_BASE
            with open(ram, "rb") as file:
                file.seek(place)
                return place, file.read(PAGE // machine.DATA_PER_TAG_BYTE)
    raise Failed(f"{physical:#x} is not in tagged memory")


def digits(storage: bytes) -> str:
    """Writes storage bytes as tags, a digit each: the low half of a byte is the granule with the lower address."""
    return "".join(f"{byte & 0xf:x}{byte >> 4:x}" for byte in storage)


def check_storage(terminal: Terminal, directory: Path) -> None:
    """Compares the tags of a program's page with the bytes in storage, then changes those and asks the program."""
    said = r"^hold: physical (0x[0-9a-f]+) tags ([0-9a-f]{256})$"
    terminal.type("mte-demo hold\r")
    held = terminal.expect(said)
    physical, tags = int(held[1], 16), held[2]
    if len(set(tags)) < 8:
        raise Failed(f"the program used {len(set(tags))} different tags, too few to tell anything: {tags}")
    files = list(directory.glob("tagstash-*/ram"))
    if len(files) != 1:
        raise Failed(f"{directory} has {len(files)} RAM files, not one")
    place, storage = tags_in_storage(files[0], physical)
    if digits(storage) != tags:
        raise Failed(f"page {physical:#x} has tags {tags}, and its storage has {digits(storage)}")
    # The other way: what is stored there now is what the program's LDG reads.
    changed = bytes(byte ^ 0xff for byte in storage)
    with open(files[0], "r+b", buffering=0) as file:
        file.seek(place)
        file.write(changed)
    terminal.type("\r")
    held = terminal.expect(said)
    if int(held[1], 16) != physical:
        raise Failed(f"the page moved from {physical:#x} to {held[1]}: the comparison means nothing")
    if held[2] != digits(changed):
        raise Failed(f"storage was changed to {digits(changed)}, and the program reads {held[2]}")
    terminal.expect(PROMPT)


def leave(terminal: Terminal) -> None:
    """Types `exit`."""
    terminal.type("exit\r")
    status = terminal.end()
    if status:
        raise Failed(f"make ended with status {status}")


Session = list[tuple[str, Callable[[Terminal], object]]]


def hold(tap: Tap, terminal: Terminal, session: Session) -> None:
    """Does what a session says, with a result for each part of it."""
    trouble = None
    try:
        for name, test in session:
            try:
                if trouble:
                    raise Failed("not tried, because an earlier one failed")
                test(terminal)
                tap.result(name)
            except Failed as why:
                trouble = str(why)
                tap.result(name, trouble)
    finally:
        terminal.close()


def shell() -> int:
    """Drives `make linux`, twice."""
    tap = Tap()
    directory = Path(tempfile.mkdtemp(prefix="shell-", dir=machine.ram_directory(None, MEMORY_MIB * machine.MIB)))
    arguments = f"--memory {MEMORY_MIB} --ram-dir {directory} --timeout {2 * PATIENCE:g}"

    def prompt(terminal: Terminal) -> None:
        terminal.expect(r"^tagstash: entering the guest at .*EL1")
        terminal.expect(r"^Linux \S+ on 2 CPUs, above Tagstash")
        terminal.expect(PROMPT)

    def interrupt(terminal: Terminal) -> None:
        terminal.type("sh -c 'echo run''ning; exec cat'\r")
        terminal.expect(r"^running$")
        terminal.type("\x03")
        terminal.expect(PROMPT)
        terminal.command("echo status $?", r"^status 130$")

    def suspend(terminal: Terminal) -> None:
        terminal.type("sh -c 'echo run''ning; exec cat'\r")
        terminal.expect(r"^running$")
        terminal.type("\x1a")
        terminal.expect(r"Stopped")
        terminal.expect(PROMPT)
        terminal.command("kill -9 %1; wait; echo do''ne", r"^done$")

    def escape(terminal: Terminal) -> None:
        terminal.type("\x01x")
        terminal.expect(r"QEMU: Terminated")
        status = terminal.end()
        if status:
            raise Failed(f"`make linux` ended with status {status}")

    def arithmetic(terminal: Terminal) -> None:
        terminal.command("echo $((6 * 7))", r"^42$")

    def demonstrate(terminal: Terminal) -> None:
        terminal.command("mte-demo", r"one too far: 1 fault, SIGSEGV code 9")

    sessions: list[Session] = [
        [("`make linux` shows a prompt", prompt), ("a command's output comes back", arithmetic),
         ("Ctrl-C interrupts the guest's command and nothing else", interrupt),
         ("Ctrl-Z stops the guest's command", suspend), ("an overflow is caught", demonstrate),
         ("a program's tags are the bytes in tag storage, both ways", lambda t: check_storage(t, directory)),
         ("`exit` turns the machine off, and make is content", leave)],
        [("`make linux` shows a prompt again", prompt), ("Ctrl-A X ends QEMU, and make is content", escape)],
    ]
    try:
        for session in sessions:
            hold(tap, Terminal("linux", arguments), session)
        left = sorted(str(path) for path in directory.iterdir())
        tap.result("no run left files behind", f"there are {', '.join(left)}" if left else None)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return tap.finish()


def number(pattern: str) -> str:
    """Makes a pattern for a line that ends with a number other than 0."""
    return rf"^{pattern} *[1-9][0-9]*$"


def driver() -> int:
    """Drives the shell of the guest with the driver."""
    tap = Tap()
    stash = "/sys/kernel/debug/tagstash"
    everything = "the driver's shell"
    try:
        driverguest.find("5.10", build=False)
    except setup.NotDownloaded as why:
        tap.result(f"{everything} # SKIP {str(why).splitlines()[0]}")
        return tap.finish()

    def prompt(terminal: Terminal) -> None:
        terminal.expect(r"^tagstash: entering the guest at .*EL1")
        terminal.expect(r"^Linux \S+ on 2 CPUs, above Tagstash\. The driver is loaded")
        terminal.expect(PROMPT)

    def files(terminal: Terminal) -> None:
        work = "limited filework pass /mnt files=28 size=1024"
        for _ in range(2):
            terminal.command(f"{work}; echo status $?", r"^status 0$")
        terminal.command(f"cat {stash}/statistics", number("HITS:"))
        terminal.command(f"cat {stash}/regions", number("cached:"))

    def tags(terminal: Terminal) -> None:
        # Until the shell ends it, rather than for half a minute.
        terminal.type("sleep 1000 | filework tag 40 &\r")
        terminal.expect(r"tagged")
        terminal.type("\r")
        terminal.expect(PROMPT)
        terminal.command(f"cat {stash}/statistics", number("PAGES_DROPPED:"))
        terminal.command("killall sleep; wait; echo do''ne", r"tags read back, 0 mismatches$(.|\n)*^done$")
        terminal.command(f"cat {stash}/audit", r"^missing: 0$")

    def switch(terminal: Terminal) -> None:
        terminal.command(f"echo 0 >{stash}/active; cat {stash}/state", r"^state: *dormant$")
        terminal.command(f"echo 1 >{stash}/active; cat {stash}/state", r"^state: *active$")

    def reload(terminal: Terminal) -> None:
        terminal.command(f"rmmod tagstash && ! ls {stash} 2>/dev/null; echo status $?", r"^status 0$")
        terminal.command(f"insmod /files/modules/tagstash.ko verify=1 && cat {stash}/state", r"^state: *active$")

    def trace(terminal: Terminal) -> None:
        events = "/sys/kernel/tracing/events/tagstash"
        terminal.command(f"mount -t tracefs none /sys/kernel/tracing; ls {events}", r"^.*tagstash_claim.*$")
        terminal.command(f"echo 1 >{events}/enable; mte-demo >/dev/null; echo 0 >{events}/enable; grep -c tagstash_claim: "
                         "/sys/kernel/tracing/trace", number(""))

    hold(tap, Terminal("demo", "--shell"), [
        ("`make demo ARGS=--shell` shows a prompt, and the driver is loaded", prompt),
        ("files that were read twice are found in the stash", files),
        ("tags take the place of cached pages, and are right", tags),
        ("it goes dormant and active", switch), ("it is unloaded and loaded", reload), ("claims are traced", trace),
        ("`exit` turns the machine off, and make is content", leave)])
    return tap.finish()


def main() -> int:
    """Runs what was asked for; returns the process's exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["shell", "driver"])
    options = parser.parse_args()

    def on_signal(number: int, _frame: object) -> NoReturn:
        print(f"Bail out! ended by {signal.Signals(number).name}", flush=True)
        sys.exit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
    return shell() if options.what == "shell" else driver()


if __name__ == "__main__":
    sys.exit(main())
