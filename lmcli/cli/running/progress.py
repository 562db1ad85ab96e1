"""Progress on stderr while a person waits: one line.

A thread of its own draws it, so that no run waits for a terminal, and it goes on while a model is at work.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lmcli.cli.messages import making_room

Advance = Callable[[int], None]
Total = Callable[[], int | None]

_INTERVAL = 0.2
_MEMORY = 10.0
"""Seconds that the rate looks back."""
_ERASE = "\r\x1b[2K"


@contextmanager
def progress(*, wanted: bool, total: Total = lambda: None, done: int = 0) -> Iterator[Advance]:
    """Yield a function to call with the count of records so far.

    Shown if `wanted` and stderr is a terminal that can move its cursor, unless LMCLI_NO_PROGRESS is set.
    `total` estimates how many records there will be, None while that is not known. `done` is the count to
    begin with: what an earlier run has done says nothing of the rate.
    """
    descriptor = _terminal() if wanted else None
    if descriptor is None:
        yield lambda _: None
        return
    line = _Line(descriptor, total, done)
    with making_room(line.hidden):
        line.start()
        try:
            yield line.advance
        finally:
            line.stop()


def _terminal() -> int | None:
    """The descriptor of the terminal that shows the line; None: there is none."""
    if os.environ.get("TERM") in ("dumb", "unknown") or os.environ.get("LMCLI_NO_PROGRESS"):
        return None
    with suppress(OSError, ValueError):
        if sys.stderr is not None and sys.stderr.isatty():
            return sys.stderr.fileno()
    return None


class _Line:
    """The line on the terminal, and the thread that keeps it up to date."""

    def __init__(self, descriptor: int, total: Total, done: int) -> None:
        self._descriptor = descriptor
        self._total = total
        self._count = done
        self._started = time.monotonic()
        self._rate = Rate(self._started, done)
        self._over = threading.Event()
        self._drawing = threading.Lock()

    def advance(self, count: int) -> None:
        """Note how many records are done."""
        self._count = count

    def start(self) -> None:
        """Show the line from now on."""
        self._draw()
        threading.Thread(target=self._run, name="progress", daemon=True).start()

    def stop(self) -> None:
        """Remove the line for good."""
        self._over.set()
        with self.hidden():
            pass

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Remove the line for as long as the context is open; it comes back by itself."""
        with self._drawing:
            self._write(_ERASE)
            yield

    def _run(self) -> None:
        while not self._over.wait(_INTERVAL):
            self._draw()

    def _draw(self) -> None:
        now, count = time.monotonic(), self._count
        self._rate.note(now, count)
        total = None
        with suppress(Exception):  # an estimate that fails is not worth a run
            total = self._total()
        text = describe(count, total, rate=self._rate.per_second(now), seconds=now - self._started)
        with self._drawing:
            if not self._over.is_set():
                self._write(_ERASE + text[: self._columns() - 1])

    def _columns(self) -> int:
        with suppress(OSError):
            return os.get_terminal_size(self._descriptor).columns or 80
        return 80

    def _write(self, text: str) -> None:
        # Not through sys.stderr: a thread that holds its lock would make the interpreter abort at exit.
        with suppress(OSError):
            os.write(self._descriptor, text.encode())


class Rate:
    """Records a second over about the last ten seconds, or over more where they come in batches."""

    def __init__(self, now: float, count: int) -> None:
        self._changes = deque([(now, count)])

    def note(self, now: float, count: int) -> None:
        """Note the count of this moment."""
        changes = self._changes
        if count != changes[-1][1]:
            changes.append((now, count))
        while len(changes) > 2 and changes[1][0] <= now - _MEMORY:
            changes.popleft()

    def per_second(self, now: float) -> float | None:
        """The rate; None before the first second is over, or the first record done."""
        (before, first), (_, last) = self._changes[0], self._changes[-1]
        return (last - first) / (now - before) if last > first and now - before >= 1 else None


def describe(count: int, total: int | None, *, rate: float | None, seconds: float) -> str:
    """The line: share, records, rate, time so far and time left, as far as they are known."""
    total = max(total, count) if total else None
    parts = [f"{100 * count // total}%"] if total else []
    parts += ["1 record" if count == 1 else f"{count:,} records"]
    parts += [_rate(rate)] if rate else []
    parts += [_duration(seconds)]
    parts += [f"{_duration((total - count) / rate)} left"] if total and rate else []
    return "  ".join(parts)


def _rate(rate: float) -> str:
    if rate >= 10:
        return f"{rate:,.0f}/s"
    return f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"
