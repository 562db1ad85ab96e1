"""`Failures`: what happens to the records that fail: told, logged, counted, and when it is enough."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from lmcli.cli.messages import say
from lmcli.cli.streams import Streams
from lmcli.errors import DataError
from lmcli.records.errorlog import ErrorLog
from lmcli.records.record import Record

# A file of another kind than expected can fail on every line; cron mails what is printed here.
_MOST_MESSAGES = 20


class TooManyFailuresError(DataError):
    """The run stops early: `--fail-fast` or `--max-errors`."""


class Failures:
    """Watches every record that goes by. A context manager: the log of `--errors` is open inside."""

    def __init__(self, streams: Streams, inputs: Sequence[str]) -> None:
        self.count = 0
        self._limit = 0 if streams.fail_fast else streams.max_errors
        self._option = "--fail-fast" if streams.fail_fast else f"--max-errors {streams.max_errors}"
        self._most_messages = 0 if streams.quiet else None if streams.verbose else _MOST_MESSAGES
        self._path = streams.errors
        self._inputs = inputs
        self._output = streams.output
        self._log: ErrorLog | None = None
        self._open = ExitStack()

    def __enter__(self) -> Self:
        if self._path is not None:
            self._log = self._open.enter_context(
                ErrorLog(self._path, inputs=self._inputs, output=self._output)
            )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def note(self, record: Record) -> None:
        """Call for each record after it was written. Raises TooManyFailuresError when it is enough."""
        if record.failure is None:
            return
        self.count += 1
        if self._log is not None:
            self._log.write(record)
        if self._most_messages is None or self.count <= self._most_messages:
            say(
                f"{record.source}:{record.line}: {record.failure.message}",
                source=record.source,
                line=record.line,
                code=record.failure.code,
            )
        if self._limit is not None and self.count > self._limit:
            records = "1 failed record" if self.count == 1 else f"{self.count} failed records"
            raise TooManyFailuresError(
                f"stopped after {records} ({self._option}); the output is not complete"
            )

    def summarize(self, num_records: int) -> None:
        """Say at the end how many records failed, unless every one was named."""
        if self._most_messages and self.count > self._most_messages:
            say(
                f"{self.count} of {num_records} records failed; the first {_MOST_MESSAGES} are named above",
                hint="--errors FILE keeps them all",
            )
