"""A program on a pseudo-terminal: keys are typed, bytes are read."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time


class Terminal:
    """A process on a pseudo-terminal of 120x40."""

    def __init__(self, command: list[str], **environ: str) -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        every = {**os.environ, "TERM": "xterm-256color", "TEXTUAL_ANIMATIONS": "none", **environ}
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=every)
        os.close(slave)
        self.master = master

    def read(self, seconds: float) -> bytes:
        """What comes within that time; empty if nothing does."""
        ready, _, _ = select.select([self.master], [], [], seconds)
        return os.read(self.master, 1 << 16) if ready else b""

    def until(self, word: bytes, seconds: float) -> None:
        """Read until the word came."""
        seen, end = b"", time.monotonic() + seconds
        while word not in seen:
            if time.monotonic() > end:
                raise AssertionError(f"no {word!r} on the terminal within {seconds} s: {seen[-2000:]!r}")
            seen = (seen + self.read(0.2))[-100_000:]

    def key(self, name: bytes, expected: bytes) -> float:
        """Milliseconds from a key to the bytes it must bring."""
        while self.read(0):
            pass
        start = time.monotonic()
        os.write(self.master, name)
        seen = b""
        while expected not in seen:
            if time.monotonic() - start > 5:
                return 5000.0
            seen += self.read(0.05)
        return (time.monotonic() - start) * 1000

    def insist(self, key: bytes, word: bytes, seconds: float) -> None:
        """Press a key again and again until the word came."""
        end, seen = time.monotonic() + seconds, b""
        while word not in seen:
            if time.monotonic() > end:
                raise AssertionError(f"no {word!r} on the terminal: {seen[-2000:]!r}")
            os.write(self.master, key)
            seen += self.read(1.0)

    def drain(self, seconds: float) -> None:
        """Read until the program has ended."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            try:
                self.read(0.1)
            except OSError:  # the other side is closed
                return

    def rest(self, seconds: float) -> None:
        """Let time pass; what is drawn meanwhile is read, as a terminal does."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.read(left)

    def type(self, text: bytes) -> None:
        """Keys, as a keyboard sends them."""
        os.write(self.master, text)

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self.master)
