"""`Summary`: a run in numbers, written as the last thing that it does, however it ends."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import orjson
import typer

from lmcli import __version__
from lmcli.cli.messages import say
from lmcli.cli.signals import Stopped
from lmcli.cli.streams import Streams
from lmcli.errors import (
    EXIT_HUNG_UP,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_TERMINATED,
    LmcliError,
    OutputError,
    TryAgainError,
)
from lmcli.pipeline.stage import Part
from lmcli.records.lock import LockedError
from lmcli.records.output import (
    STDOUT,
    check_is_no_input,
    check_is_writable,
    is_same_file,
    is_stdout,
    open_output,
)
from lmcli.records.record import Record
from lmcli.records.source import STDIN
from lmcli.tasks.counts import summary as stage_summary

SCHEMA_VERSION = 1

_READER_CLOSED = 141
_STATUS = {
    EXIT_OK: "complete",
    TryAgainError.exit_code: "try_again",
    EXIT_INTERRUPTED: "interrupted",
    EXIT_HUNG_UP: "hung_up",
    EXIT_TERMINATED: "terminated",
    _READER_CLOSED: "reader_closed",
}


def numbers_of(record: Record) -> dict[str, int]:
    """What a record adds to the numbers of a run."""
    failed, dropped = record.failure is not None, record.is_dropped
    return {"records": 1, "failed": int(failed), "filtered": int(dropped), **record.counts}


class Summary:
    """The numbers of a run. A context manager: on leaving it writes the file of `--summary`."""

    def __init__(self, streams: Streams, parts: Sequence[Part], reads: Sequence[str]) -> None:
        """Raises OutputError if there is no folder for the file, or if the run reads or writes it.

        `reads` is what it reads besides its inputs.
        """
        self.numbers: Counter[str] = Counter()
        """What all records add up to, those of the runs that this one continues as well."""
        self.stages: list[dict[str, Any]] = []
        """What is known of each stage before a record is read."""
        self._streams = streams
        self._path: str | None = None
        lists = filter(None, (streams.files_from, streams.files0_from))
        self.spare([*(streams.files or [STDIN]), *lists, *reads])
        self._facts = {
            "command": " | ".join(part.command for part in parts),
            "output": streams.output,
            "started": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        }
        self._started = time.monotonic()
        self._num_resumed = 0
        self._is_waiting = False

    def spare(self, inputs: Sequence[str]) -> None:
        """Make sure that the file is none that the run reads or writes. Raises OutputError."""
        path, self._path = self._streams.summary, None  # a run that ends here must not write it
        if path is None:
            return
        if is_stdout(path) and is_stdout(self._streams.output):
            raise OutputError(f"{path} cannot be both the output and the summary")
        if not is_stdout(path):
            check_is_writable(path)
        if not Path(path).absolute().parent.is_dir():
            raise OutputError(f"cannot create {path}: there is no such directory")
        check_is_no_input(path, inputs)
        others = {"the output": self._streams.output or STDOUT, "the log of errors": self._streams.errors}
        for name, other in others.items():
            if other is not None and is_same_file(path, other):
                raise OutputError(f"{path} cannot be both {name} and the summary")
        self._path = path

    def resume(self, numbers: Mapping[str, int]) -> None:
        """Add the numbers of the runs that this one continues."""
        self._num_resumed = numbers.get("records", 0)
        self.numbers.update(numbers)

    @property
    def num_new(self) -> int:
        """How many records this run has finished."""
        return self.numbers["records"] - self._num_resumed

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """While another run may be at work its summary counts: a run that ends here writes none."""
        self._is_waiting = True
        try:
            yield
        except LmcliError as error:
            self._is_waiting = isinstance(error, LockedError)
            raise
        self._is_waiting = False

    def add(self, record: Record) -> None:
        """Count a record."""
        self.numbers.update(numbers_of(record))

    def line(self) -> str:
        """The numbers for a person."""
        seconds, rate = self._speed()
        count = self.numbers
        filtered = f", {count['filtered']} filtered" if count["filtered"] else ""
        return (
            f"{count['records']} records, {count['failed']} failed{filtered}, "
            f"{seconds:.2f} s, {rate:.0f} records/s"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if self._path is None or self._is_waiting:
            return
        document = orjson.dumps(
            self._document(_exit_code(error)), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
        )
        try:
            with open_output(self._path) as output:
                output.write(document)
        except LmcliError as failure:
            if error is None or isinstance(error, typer.Exit):  # failed records weigh less than this
                raise
            say(failure.message, hint=failure.hint)  # what ended the run is told by itself

    def _document(self, exit_code: int) -> dict[str, Any]:
        seconds, rate = self._speed()
        count = self.numbers
        stages = [facts | stage_summary(facts["field"], count) for facts in self.stages]
        totals = ("tokens", "new_tokens", "truncated", "degenerate")
        return {
            "schema_version": SCHEMA_VERSION,
            "lmcli": __version__,
            **self._facts,
            "status": _STATUS.get(exit_code, "failed_records" if exit_code == 1 else "error"),
            "exit_code": exit_code,
            "seconds": round(seconds, 3),
            "records_per_second": round(rate, 3),
            "records": count["records"],
            "failed": count["failed"],
            "filtered": count["filtered"],
            "resumed_at": self._num_resumed,
            **{name: sum(stage[name] for stage in stages) for name in totals},
            "stages": stages,
        }

    def _speed(self) -> tuple[float, float]:
        """The seconds of this run, and its records per second."""
        seconds = time.monotonic() - self._started
        return seconds, self.num_new / max(seconds, 1e-9)


def _exit_code(error: BaseException | None) -> int:
    match error:
        case None:
            return EXIT_OK
        case typer.Exit():
            return error.exit_code
        case LmcliError():
            return error.exit_code
        case BrokenPipeError():
            return _READER_CLOSED
    return Stopped.exit_code or LmcliError.exit_code
