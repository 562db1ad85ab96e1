"""The command line, run as a user does: inside the test's process, or as a process of its own."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

LMCLI = (sys.executable, "-m", "lmcli")
TIMEOUT = 60
"""Seconds that no run here should ever need."""


@dataclass(frozen=True)
class Ended:
    """A run that is over: its exit code and what it wrote."""

    code: int
    out: str
    err: str


def run(*argv: object, stdin: bytes = b"", **settings: Any) -> Ended:
    """Run lmcli as a process."""
    done = subprocess.run(
        command(*argv), input=stdin, capture_output=True, timeout=TIMEOUT, check=False, **settings
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def start(*argv: object, **settings: Any) -> subprocess.Popen[bytes]:
    """Start lmcli as a process, with pipes unless `settings` say otherwise.

    The pipes have no buffers here: `communicate` would lose what `readline` had read ahead.
    """
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    pipes["bufsize"] = 0
    return subprocess.Popen(command(*argv), **(pipes | settings))


def shell(script: str, *argv: object, stdin: bytes = b"") -> Ended:
    """Run a shell script in which `lmcli` is that command with `argv` as its first arguments.

    Bash, because its exit status tells of a signal by 128 and more, and PIPESTATUS of every part of a pipe.
    """
    words = " ".join(f"'{word}'" for word in command(*argv))
    done = subprocess.run(
        ["bash", "-c", f'lmcli() {{ {words} "$@"; }}\n{script}'],
        input=stdin,
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def command(*argv: object) -> list[str]:
    return [*LMCLI, *map(str, argv)]


class Terminal:
    """A pseudo terminal: `end` is what a process gets, `read` what a person would see."""

    def __init__(self, *, columns: int = 80) -> None:
        self._mine, self.end = pty.openpty()
        import fcntl
        import struct
        import termios

        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def read(self) -> str:
        """Everything written until all processes have closed it."""
        with suppress(OSError):
            os.close(self.end)
        parts = []
        with suppress(OSError):  # how Linux tells the end
            while part := os.read(self._mine, 4096):
                parts.append(part)
        os.close(self._mine)
        return b"".join(parts).decode()


def on_terminal(argv: Sequence[object], stream: str, *, columns: int = 80, **settings: Any) -> Ended:
    """Run lmcli with one of stdin, stdout, stderr on a terminal; what is shown there counts as `out`."""
    terminal = Terminal(columns=columns)
    others = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    with start(*argv, **(others | {stream: terminal.end} | settings)) as process:
        shown = terminal.read()
        err = process.stderr.read() if process.stderr else b""
        return Ended(process.wait(TIMEOUT), shown, err.decode())


class Stdin(io.TextIOWrapper):
    """Bytes as sys.stdin gives them."""

    def __init__(self, data: bytes) -> None:
        super().__init__(io.BytesIO(data), encoding="utf-8")
