"""The entry point: `lmcli` and `python -m lmcli`."""

import gc
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

from lmcli.cli.signals import Stopped, let_signals_kill, stop_on_signals
from lmcli.errors import EXIT_INTERRUPTED


def main() -> int:
    """Run the command line; the exit status."""
    stop_on_signals()
    try:
        from lmcli.cli.app import run

        code = run()
        let_signals_kill()
        return code
    except Stopped as stopped:  # while the command line itself was loading
        return stopped.exit_code or 0


# How many new objects make Python look for garbage. Modules and their classes stay: with Python's own
# threshold of 700, looking for garbage among them takes a tenth of the time of a start.
_GARBAGE_THRESHOLD = 50_000


def enter() -> NoReturn:
    """Run the command line as a process and end it.

    At once: a thread that reads ahead may be inside native code, where Python's own way out would abort.
    """
    gc.set_threshold(_GARBAGE_THRESHOLD, *gc.get_threshold()[1:])
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, or told already
            stream.flush()
    if code == EXIT_INTERRUPTED:  # a shell ends its loop only if the signal has killed
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    os._exit(code)


if __name__ == "__main__":
    enter()
