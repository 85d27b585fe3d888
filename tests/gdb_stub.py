# SPDX-License-Identifier: MIT OR Apache-2.0
"""A small client of the GDB remote serial protocol: enough to drive QEMU's stub, where no gdb is installed."""

from __future__ import annotations

import socket
import subprocess

# Numbers of AArch64 registers in QEMU's description of the CPU: x0 to x30, sp, pc.
PC = 32
ANSWER_SECONDS = 60.0


class StubError(Exception):
    """What the stub did not do."""


class Stub:
    """A connection to QEMU, whose machine waits for it."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        """Connects as soon as QEMU listens; gives up when `process`, which starts QEMU, has ended."""
        while True:
            try:
                self.socket = socket.create_connection(("127.0.0.1", port), ANSWER_SECONDS)
                break
            except ConnectionRefusedError:
                try:
                    status = process.wait(0.05)
                except subprocess.TimeoutExpired:
                    continue
                raise StubError(f"the run ended with status {status} before it listened on port {port}") from None
        self.buffer = b""
        self.ask("?")
        self.ask("Qqemu.PhyMemMode:1")

    def byte(self) -> bytes:
        """Takes one byte from the stub."""
        if not self.buffer:
            try:
                self.buffer = self.socket.recv(4096)
            except ConnectionResetError:
                raise StubError("QEMU ended") from None
            except TimeoutError:
                raise StubError(f"no answer within {ANSWER_SECONDS:.0f} s") from None
            if not self.buffer:
                raise StubError("the connection was closed")
        first, self.buffer = self.buffer[:1], self.buffer[1:]
        return first

    def send(self, text: str) -> None:
        """Sends a packet: `$`, the text, `#` and the sum of its bytes."""
        self.socket.sendall(f"${text}#{sum(text.encode()) & 0xFF:02x}".encode())

    def receive(self) -> str:
        """Takes a packet, and acknowledges it."""
        while self.byte() != b"$":
            pass
        text = b""
        while (byte := self.byte()) != b"#":
            text += byte
        told = int(self.byte() + self.byte(), 16)
        if told != sum(text) & 0xFF:
            raise StubError(f"the packet {text!r} has a wrong sum")
        self.socket.sendall(b"+")
        return text.decode()

    def ask(self, text: str) -> str:
        """Sends a packet and returns the answer, which is not an error."""
        self.send(text)
        answer = self.receive()
        if answer.startswith("E") or not answer:
            raise StubError(f"`{text}` was answered with '{answer}'")
        return answer

    def breakpoint(self, address: int, there: bool = True) -> None:
        """Sets a hardware breakpoint, or takes it away."""
        self.ask(f"{'Z' if there else 'z'}1,{address:x},4")

    def resume(self) -> str:
        """Lets the machine run until it stops; returns why."""
        return self.ask("c")

    def step(self) -> str:
        """Executes one instruction; returns why the machine stopped."""
        return self.ask("s")

    def register(self, number: int) -> int:
        """Reads a 64-bit register."""
        return int.from_bytes(bytes.fromhex(self.ask(f"p{number:x}")), "little")

    def set_register(self, number: int, value: int) -> None:
        """Writes a 64-bit register."""
        self.ask(f"P{number:x}={value.to_bytes(8, 'little').hex()}")

    def memory(self, address: int, length: int) -> bytes:
        """Reads memory at a physical address, mapped or not."""
        return bytes.fromhex(self.ask(f"m{address:x},{length:x}"))

    def set_memory(self, address: int, data: bytes) -> None:
        """Writes memory at a physical address, also what the CPU may only read."""
        self.ask(f"M{address:x},{len(data):x}:{data.hex()}")

    def detach(self) -> None:
        """Lets the machine run on without a debugger."""
        self.ask("D")
        self.socket.close()
