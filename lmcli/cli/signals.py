"""SIGINT and SIGTERM end a run in order. Imports nothing heavy: it is in force before anything else loads."""

import signal
from types import FrameType

from lmcli.errors import EXIT_INTERRUPTED, EXIT_TERMINATED


class Stopped(BaseException):
    """A signal asks the run to stop. No Exception: nothing on the way may take it for a failure."""

    exit_code: int | None = None
    """What to exit with, once a signal has come: C code may turn the exception into another one."""


def stop_on_signals() -> None:
    """The first SIGINT or SIGTERM unwinds the run, so that temporary files go; the second kills."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # Whoever starts a job with signals ignored (nohup, a shell's &) means it.
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _stop)


def _stop(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    Stopped.exit_code = EXIT_INTERRUPTED if number == signal.SIGINT else EXIT_TERMINATED
    raise Stopped
