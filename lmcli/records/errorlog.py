"""`ErrorLog`: the failed records of a run as JSON Lines, with what they were read from."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson

from lmcli.errors import OutputError, UsageError
from lmcli.records.jsonl import input_of
from lmcli.records.output import Output, check_is_no_input, create, is_same_file, is_stdout
from lmcli.records.record import Record


class ErrorLog:
    """A file with one object for each failed record, written at once.

    `input` is the original line or row. Of a text, `lmcli ... -I jsonl --field input FILE` runs it again;
    objects and rows must be taken out of it first.
    """

    def __init__(self, path: str, *, inputs: Sequence[str] = (), output: str | None = None) -> None:
        """Create the file. Raises OutputError where it cannot be, or would destroy an input or the output."""
        if is_stdout(path):
            raise UsageError("the log of failed records goes to a file, not to standard output")
        check_is_no_input(path, inputs)
        if is_same_file(path, output):
            raise OutputError(f"{path} cannot be both the output and the log of its errors")
        self._file = create(Path(path), "wb", shown=path)
        self._output = Output(self._file, path)

    def write(self, record: Record) -> None:
        """Log the record if it failed."""
        if record.failure is None:
            return
        entry = {
            "source": record.source,
            "line": record.line,
            "code": record.failure.code,
            "message": record.failure.message,
            "input": input_of(record),
        }
        self._output.write(orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE))
        self._output.flush()

    def close(self) -> None:
        """Close the file."""
        with suppress(OSError):  # every line has been flushed, or its failure told
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
