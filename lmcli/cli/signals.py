"""SIGINT, SIGTERM and SIGHUP end a run in order. Imports nothing heavy: it is in force before all else."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from lmcli.errors import EXIT_HUNG_UP, EXIT_INTERRUPTED, EXIT_TERMINATED, TryAgainError


class Stopped(BaseException):
    """A signal asks the run to stop. No Exception: nothing on the way may take it for a failure."""

    exit_code: int | None = None
    """What to exit with, once a signal has come: C code may turn the exception into another one."""


def stop_on_signals() -> None:
    """The first of these signals unwinds the run, so that temporary files go; the second one kills."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Whoever starts a job with signals ignored (nohup, a shell's &) means it.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)
    _wake_main_thread()


def let_signals_kill() -> None:
    """From here on nothing is left to be unwound: a run that ends is not to be stopped once more."""
    for number in _EXIT_CODES:
        if signal.getsignal(number) is _stop:
            signal.signal(number, signal.SIG_IGN if number == signal.SIGALRM else signal.SIG_DFL)


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Stop a run that takes longer, in the same way; None: it may."""
    if seconds is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, _stop)
    signal.setitimer(signal.ITIMER_REAL, min(seconds, _LONGEST))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


_LONGEST = 1e8
"""Seconds that a timer can have: some years."""
_EXIT_CODES = {
    signal.SIGINT: EXIT_INTERRUPTED,
    signal.SIGTERM: EXIT_TERMINATED,
    signal.SIGHUP: EXIT_HUNG_UP,
    signal.SIGALRM: TryAgainError.exit_code,
}


def _stop(number: int, _: FrameType | None) -> None:
    let_signals_kill()
    Stopped.exit_code = _EXIT_CODES[signal.Signals(number)]
    raise Stopped


def _wake_main_thread() -> None:
    """Let each signal interrupt what the main thread waits for.

    A job that was suspended may get a signal in another thread. Python handles it in the main one, but does
    not wake that, which may be asleep or wait for a lock. Another signal, sent to it alone, does.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.signal(signal.SIGURG, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_pass_on, args=(reader, threading.get_ident()), daemon=True).start()


def _pass_on(reader: int, main_thread: int) -> None:
    while number := os.read(reader, 1):
        if number[0] != signal.SIGURG:
            signal.pthread_kill(main_thread, signal.SIGURG)
