"""Many short processes: lmcli is imported once, and each run is a fork of that process.

A run is killed, signalled and waited for like any other; only its start is ten times faster. To see more, it
commits as often as it is told, and a log gets the line of each record that a double has computed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.cli.commands import Ended

PRELOADED = (
    "importlib.metadata",
    "lmcli.bundle.load",
    "lmcli.cli.app",
    "lmcli.cli.running.run",
    "lmcli.pipeline.expression",
    "lmcli.pipeline.filtering",
    "lmcli.pipeline.grammar",
    "lmcli.pipeline.selecting",
    "lmcli.tasks.ner",
    "lmcli.tasks.prompt",
    "lmcli.tasks.sentiment",
    "lmcli.tasks.summarize",
    "lmcli.tasks.translate",
    "typer._adapters",
)
_OUT, _ERR = "fork.out", "fork.err"


class Forks:
    """Runs lmcli, one process at a time, in a folder of its own."""

    def __init__(self, server: subprocess.Popen[str], folder: Path) -> None:
        self.folder = folder
        self._server = server
        self.pid = 0
        """Of the run that was started last."""

    def start(self, *argv: object, interval: float = 1.0, log: Path | None = None) -> None:
        """Start a run; from then on it hears signals."""
        job = {
            "argv": [str(word) for word in argv],
            "folder": str(self.folder),
            "interval": interval,
            "log": None if log is None else str(log),
        }
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        self.pid = self._answer()

    def wait(self) -> Ended:
        """Wait for the end of the run; its exit code is negative if a signal killed it."""
        code = self._answer()
        out, err = ((self.folder / name).read_bytes().decode() for name in (_OUT, _ERR))
        return Ended(code, out, err)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to the run, unless it is over."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def __call__(self, *argv: object, interval: float = 1.0, log: Path | None = None) -> Ended:
        """Run it to its end."""
        self.start(*argv, interval=interval, log=log)
        return self.wait()

    def _answer(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


@contextmanager
def forking(folder: Path) -> Iterator[Forks]:
    """Start what all runs are forked from; they have `folder` for working directory, and no input."""
    command = [sys.executable, "-m", __name__]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environ = {**os.environ, "LMCLI_HOME": str(folder / "home")}
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], env=environ, **pipes) as server:
        yield Forks(server, folder)
        assert server.stdin is not None
        server.stdin.close()


def _serve() -> None:
    for module in PRELOADED:
        import_module(module)
    for line in sys.stdin:
        if (process := os.fork()) == 0:
            code = _run(json.loads(line))
            sys.stdout.flush()
            os._exit(code)  # ONNX Runtime would look for the threads that it had before the fork
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _run(job: dict[str, Any]) -> int:
    from lmcli.__main__ import main
    from lmcli.cli.signals import Stopped, stop_on_signals

    answers = os.dup(1)
    os.chdir(job["folder"])
    for descriptor, path in enumerate((os.devnull, _OUT, _ERR)):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if descriptor else os.O_RDONLY
        os.dup2(os.open(path, flags), descriptor)
    _commit_every(job["interval"])
    if job["log"] is not None:
        _log_computed(job["log"])
    sys.argv = ["lmcli", *job["argv"]]
    try:
        stop_on_signals()
        os.write(answers, b"%d\n" % os.getpid())  # from now on signals may come
        return main()
    except Stopped as stopped:
        return stopped.exit_code or 0


def _commit_every(seconds: float) -> None:
    from lmcli.cli.running import delivery
    from lmcli.records.journal import Journal

    vars(delivery)["Journal"] = partial(Journal, interval=seconds)


def _log_computed(path: str) -> None:
    from lmcli.records.record import Record
    from lmcli.tasks.rehearsal import RehearsalTask

    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    compute = RehearsalTask.__call__

    def logged(self: RehearsalTask, records: Iterable[Record]) -> Iterator[Record]:
        for record in compute(self, records):
            if record.is_open:
                os.write(log, b"%d\n" % record.line)
            yield record

    RehearsalTask.__call__ = logged  # type: ignore[method-assign]


if __name__ == "__main__":
    _serve()
