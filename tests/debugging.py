#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""Debugs the shim as a stranger would: by what `qemu/run.py --gdb` prints, and by `make symbolize` after a panic.

Nothing in the image is there for these tests. What makes it panic is the debugger, which changes an instruction, or jumps to where an
overflow check would have gone. Prints TAP.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "logs"
sys.path.insert(0, str(ROOT / "qemu"))

import tap  # noqa: E402
from elf import Elf, Function  # noqa: E402
from gdb_stub import PC, Stub  # noqa: E402

RUN_SECONDS = 90
TREE_MAGIC = b"\xd0\x0d\xfe\xed"
# CPYFP, without its registers (Arm ARM, C4.1, memory copy and memory set).
CPYFP = 0x1900_0400
UNDEFINED = b"\0\0\0\0"  # udf #0


class Failure(Exception):
    """What is not as it should be."""


def expect(condition: bool, text: str) -> None:
    """Fails with a text unless a condition holds."""
    if not condition:
        raise Failure(text)


def free_port() -> int:
    """Finds a TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Session:
    """A run that waits for a debugger, and the debugger."""

    def __init__(self, name: str, bootargs: str, *options: str) -> None:
        """Starts the run and does what it says that one should type."""
        self.log = LOGS / f"gdb-{name}.log"
        self.port = free_port()
        command = [sys.executable, "qemu/run.py", "--kernel", "build/harness.img", "--gdb", str(self.port), "--bootargs", bootargs,
                   "--log", str(self.log), *options]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.PIPE)
        try:
            self.stub = Stub(self.port, self.process)
            said = self.advice()
            expect(f"target remote :{self.port}" in said, f"the port to connect to is not printed: {said}")
            symbols = re.search(r"add-symbol-file (\S+) -o (0x[0-9a-f]+)$", said, re.M)
            where = re.search(r"hbreak (\w+)$", said, re.M)
            expect(symbols is not None and where is not None, f"no symbols or no breakpoint to set is printed: {said}")
            assert symbols and where
            self.base = int(symbols[2], 16)
            self.elf_file = ROOT / symbols[1]
            self.elf = Elf(self.elf_file.read_bytes())
            expect("warning:" not in said, f"the printed ELF file is not the image's: {said}")
            self.first = self.base + self.function(where[1]).address
        except BaseException:
            self.end()
            raise

    def advice(self) -> str:
        """Returns what the run printed before it began to wait."""
        assert self.process.stderr is not None
        lines: list[str] = []
        for line in self.process.stderr:
            lines.append(line.decode().rstrip())
            if "The guest's symbols:" in lines[-1]:
                break
        return "\n".join(lines)

    def function(self, name: str) -> Function:
        """Finds a function by the last part of its path, which a symbol carries before its hash."""
        found = [function for function in self.elf.functions()
                 if re.search(rf"(?:^|\d){name}(?:17h[0-9a-f]{{16}}E)?$", function.name)]
        expect(len(found) == 1, f"{len(found)} functions are called {name}")
        return found[0]

    def words(self, function: Function) -> Iterator[tuple[int, int]]:
        """Lists offset and instruction, for all of a function."""
        start, code = self.elf.code()
        for at in range(function.address, function.address + function.size, 4):
            yield at, struct.unpack_from("<I", code, at - start)[0]

    def calls(self, function: Function, target: Function) -> list[int]:
        """Lists the offsets at which a function calls another."""
        def destination(at: int, word: int) -> int:
            distance = word & 0x03FF_FFFF
            return at + 4 * (distance - (1 << 26) if distance >> 25 else distance)
        return [at for at, word in self.words(function) if word >> 26 == 0b100101 and destination(at, word) == target.address]

    def run_to(self, address: int) -> None:
        """Lets the machine run to an address, and nowhere else."""
        self.stub.breakpoint(address)
        why = self.stub.resume()
        expect(why.startswith("T05"), f"the run never came to {address:#x} ({why})")
        pc = self.stub.register(PC)
        expect(pc == address, f"stopped at {pc:#x} ({why}), not at {address:#x}")
        self.stub.breakpoint(address, there=False)

    def finish(self) -> str:
        """Lets the run end by itself; returns what was on the console."""
        self.stub.detach()
        try:
            status = self.process.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"the run did not end within {RUN_SECONDS} s after the debugger left") from None
        expect(status == 0, f"the run ended with status {status}")
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        """Ends the run, if something went wrong in it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(20)
        if self.process.stderr:
            self.process.stderr.close()


def stops_at_boot(name: str, bootargs: str, *options: str) -> None:
    """Stops at the printed breakpoint, looks around, steps, and lets the run end."""
    session = Session(name, bootargs, *options)
    try:
        session.run_to(session.first)
        stub = session.stub
        at, first = next(session.words(session.function("boot")))
        expect(stub.memory(session.first, 4) == struct.pack("<I", first), "memory does not hold the function's first instruction")
        expect(at + session.base == session.first, "the function is not where its breakpoint is")
        tree = stub.register(0)
        expect(stub.memory(tree, 4) == TREE_MAGIC, f"x0, {tree:#x}, does not point to a device tree")
        stub.step()
        pc = stub.register(PC)
        expect(pc == session.first + 4, f"a step went to {pc:#x}")
        console = session.finish()
        expect(re.search(r"^# harness complete: [1-9]\d* passed, 0 failed", console, re.M) is not None,
               "the guest did not complete its tests after the debugger left")
        expect(f"tagstash: image at {session.base:#x}" in console, "the shim says that it is elsewhere")
    finally:
        session.end()


def symbolize(log: Path, *words: str) -> tuple[int, str]:
    """Runs `make symbolize`; returns its status and what it printed."""
    done = subprocess.run(["make", "--no-print-directory", "symbolize", f"LOG={log}", *words], cwd=ROOT, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, timeout=240, check=False)
    return done.returncode, done.stdout


def in_order(text: str, patterns: list[str]) -> None:
    """Sees that lines match patterns, one after the other."""
    rest = text
    for pattern in patterns:
        found = re.search(pattern, rest, re.M)
        if not found:
            raise Failure(f"nothing matches '{pattern}' where it should in:\n{text}")
        rest = rest[found.end():]


def exception() -> None:
    """Undefines the page copy, deep in a put: the chain names what was inlined there, innermost first."""
    session = Session("exception", "only=put")
    try:
        session.run_to(session.first)
        copies = [at for at, word in session.words(session.function("put_page_with_mops")) if word & 0xFFE0_FC00 == CPYFP]
        expect(len(copies) > 0, "the service copies no pages")
        for at in copies:
            session.stub.set_memory(session.base + at, UNDEFINED)
        console = session.finish()
        expect("tagstash: panic: unexpected exception at EL2" in console, "the shim did not panic")
        status, text = symbolize(session.log)
        expect(status == 0, f"symbolize ended with status {status}: {text}")
        in_order(text, [r"^panic: unexpected exception at EL2$", r"^ *0 +\+0x[0-9a-f]+ +copy_by_mops \(inlined\)\n +src/el2/copy\.rs:\d+$",
                        r" copy_chunk_in(<.*>)? \(inlined\)\n +src/el2/copy\.rs:\d+$",
                        r" put.* \(inlined\)\n +src/stash/", r" serve_page.* \(inlined\)\n +src/hypercall/service\.rs:\d+$",
                        r" tagstash::el2::calls::put_page_with_mops\n +src/el2/calls\.rs:\d+$", r"^ *1 +\+0x[0-9a-f]+ +exception_vectors$"])
    finally:
        session.end()


def predictable(session: Session, checks: list[int]) -> tuple[int, str]:
    """Finds an overflow check of which the symbols say the line, which the compiler drops where it merges some; returns both."""
    build_id = session.elf.build_id()
    assert build_id
    log = LOGS / "gdb-checks.log"
    log.write_text(f"tagstash: panic: none\ntagstash:   build id {build_id.hex()}\ntagstash:   image at 0x0, call chain\n"
                   + "".join(f"tagstash:     +{check + 8:#x}\n" for check in checks))
    status, text = symbolize(log)
    expect(status == 0, f"symbolize ended with status {status}: {text}")
    found = re.search(r"^ *\d+ +\+(0x[0-9a-f]+) .*\n +(src/\S+:[1-9]\d*)$", text, re.M)
    expect(found is not None, f"no check has a line:\n{text}")
    assert found
    return int(found[1], 16) - 8, found[2]


def rust_panic() -> None:
    """Jumps to where an overflow check goes when it fails: the chain leads to the line that the panic itself names."""
    session = Session("panic", "only=put")
    try:
        session.run_to(session.first)
        serve, panicking = session.function("serve_with_lse"), session.function("panic_const_add_overflow")
        code = dict(session.words(serve))
        # The instruction before such a call points x0 to the place in the source: adr, which the linker made of two.
        checks = [at - 4 for at in session.calls(serve, panicking) if code.get(at - 4, 0) & 0x9F00_001F == 0x1000_0000]
        expect(len(checks) > 0, "no overflow check was found in the service")
        check, place = predictable(session, checks)
        # Behind `add x29, sp, #n` the function has its stack frame, by which its caller is found.
        framed = [at + 4 for at, word in session.words(serve) if word & 0xFFC0_03FF == 0x9100_03FD]
        expect(len(framed) > 0, "the service sets no frame pointer")
        session.run_to(session.base + framed[0])
        session.stub.set_register(PC, session.base + check)
        console = session.finish()
        expect(re.search(rf"tagstash: panic: attempt to add with overflow\s+tagstash:   at {re.escape(place)}:\d+", console) is not None,
               f"the shim did not panic over an addition at {place}, where the symbols say that it is")
        status, text = symbolize(session.log)
        expect(status == 0, f"symbolize ended with status {status}: {text}")
        in_order(text, [r"^panic: attempt to add with overflow \(at \S+\)$", r" core::panicking::panic_fmt$",
                        r" core::panicking::panic_const::panic_const_add_overflow$", rf"^ +{re.escape(place)}$",
                        r" tagstash::el2::calls::serve_with_lse$", r"^ *3 +\+0x[0-9a-f]+ +exception_vectors$"])
    finally:
        session.end()


def refusals() -> None:
    """Refuses what would be answered wrongly: another build's ELF file, a log without build id, a log without panic."""
    log = LOGS / "gdb-exception.log"
    other = "target/aarch64-unknown-none-softfloat/release/harness"
    status, text = symbolize(log, f"ELF={other}")
    expect(status != 0 and f"{other} has build id" in text, f"another ELF file was taken (status {status}): {text}")
    expect("+0x" not in text, f"another ELF file's symbols were printed: {text}")
    without = LOGS / "gdb-no-build-id.log"
    without.write_text("".join(line for line in log.read_text().splitlines(True) if "build id" not in line))
    status, text = symbolize(without)
    expect(status != 0 and "no `build id` line" in text, f"a log without build id was taken (status {status}): {text}")
    status, text = symbolize(without, "FORCE=1")
    expect(status == 0 and "put_page_with_mops" in text, f"--force does not help (status {status}): {text}")
    status, text = symbolize(LOGS / "gdb-aliased.log")
    expect(status != 0 and "no panic" in text, f"a log without a panic was taken (status {status}): {text}")


def port_in_use() -> None:
    """Says so when nobody can listen on the port, instead of leaving it to QEMU."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run([sys.executable, "qemu/run.py", "--plain", "--gdb", str(port)], cwd=ROOT, stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=RUN_SECONDS, check=False)
    expect(done.returncode == 2 and f"TCP port {port} cannot be listened on" in done.stdout,
           f"status {done.returncode}: {done.stdout}")


TESTS: list[tuple[str, Callable[[], None]]] = [
    ("gdb: the printed breakpoint stops the aliased machine in boot", lambda: stops_at_boot("aliased", "only=version")),
    ("gdb: the printed breakpoint stops the plain machine in boot",
     lambda: stops_at_boot("plain", "only=version expect=no-storage", "--plain")),
    ("gdb: a port in use is named", port_in_use),
    ("symbolize: an exception's call chain, with inlined functions", exception),
    ("symbolize: a Rust panic's call chain leads to the line that it names", rust_panic),
    ("symbolize: what does not match is refused", refusals),
]


def main() -> int:
    """Runs the tests; returns the process's exit status."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    LOGS.mkdir(parents=True, exist_ok=True)
    # So that a stopped test ends its run.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    return tap.run(TESTS)


if __name__ == "__main__":
    os.chdir(ROOT)
    sys.exit(main())
