"""`Delivery`: records to their slots in the output, at once or, with `--resume`, by way of a journal."""

from __future__ import annotations

import os
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from lmcli.cli.config.context import is_typed
from lmcli.cli.running.summary import numbers_of
from lmcli.cli.streams import Streams
from lmcli.errors import ResumeError, UsageError
from lmcli.pipeline.stage import Part, Stage
from lmcli.records.compression import codec_of
from lmcli.records.folder import is_unfinished, state_dir
from lmcli.records.journal import Journal
from lmcli.records.lock import locked
from lmcli.records.output import Output, is_file, open_output, sweep
from lmcli.records.read import RecordReader
from lmcli.records.record import Record
from lmcli.records.write import SlotEncoder, WriteOptions


class Delivery(Protocol):
    """Takes each record that comes out of a pipeline, in order."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing to do."""
        ...

    @property
    def numbers(self) -> Mapping[str, int]:
        """What the records have added up to that have their slot already."""
        ...

    def begin(self, reader: RecordReader, options: WriteOptions) -> Iterable[Record]:
        """The records of the reader that have no good slot yet."""
        ...

    def put(self, record: Record) -> None:
        """Write the slot of the next of those records."""
        ...

    def finish(self) -> None:
        """Call once after the last record."""
        ...


@contextmanager
def only_run(streams: Streams) -> Iterator[None]:
    """Keep other runs away from the file of --output, if it is one that is put in place as a whole.

    Raises TryAgainError if another run is at work on it.
    """
    target = target_of(streams)
    if target is None:
        for name, given in (("resume", streams.resume), ("lock-wait", is_typed("lock-wait"))):
            if given:
                raise UsageError(f"--{name} is for a file", hint="name it with --output")
        yield
        return
    with locked(state_dir(target) / "lock", wait=streams.lock_wait, shown=str(target)):
        if not streams.resume and is_unfinished(target):
            raise ResumeError(
                f"an unfinished run of {target} is kept in {state_dir(target)}",
                hint="--resume continues it; delete that folder to begin anew",
            )
        sweep(Path(os.path.realpath(target)))
        yield


@contextmanager
def open_journal(streams: Streams, identity: Mapping[str, Any], *, can_retry: bool) -> Iterator[Journal]:
    """The journal of --resume; it is removed on leaving if nothing is left to do.

    If failed records cannot be tried again on their own, one that has some is begun anew. Raises ResumeError
    if it belongs to another job.
    """
    target = Path(str(streams.output))
    with ExitStack() as stack:
        journal = stack.enter_context(Journal(target, identity))
        if journal.failed and not can_retry:
            journal.remove()
            journal = stack.enter_context(Journal(target, identity))
        yield journal
        if journal.is_over:
            journal.remove()


def can_be_retried(parts: Sequence[Part], prose: str | None) -> bool:
    """Whether a record can have its slot later than the others.

    The blank line before a paragraph depends on whether a filter took out all those before it.
    """
    return prose != "para" or all(isinstance(part, Stage) or part.replaces_fields for part in parts)


@contextmanager
def open_delivery(streams: Streams, inputs: Sequence[str], journal: Journal | None) -> Iterator[Delivery]:
    """Open the output; without a journal a file is put in place when the block ends well."""
    if journal is not None:
        yield _Journalled(journal, str(streams.output))
        return
    with open_output(streams.output, inputs=inputs, force=streams.force) as output:
        yield _Direct(output)


class _Direct:
    """Writes each slot at once."""

    is_over = False

    def __init__(self, output: Output) -> None:
        self.numbers: Mapping[str, int] = {}
        self._output = output
        self._is_first = True

    def begin(self, reader: RecordReader, options: WriteOptions) -> Iterable[Record]:
        self._slots = _Slots(reader, options)
        return reader

    def put(self, record: Record) -> None:
        slot = self._slots.of(record, is_first=self._is_first)
        self._write_preamble()
        self._output.write(slot)
        self._is_first = self._is_first and not slot
        self._flush_if_live()

    def finish(self) -> None:
        self._write_preamble()
        self._flush_if_live()

    def _flush_if_live(self) -> None:
        """Whoever reads it wants each result at once; into an archive that is not read yet it puts marks."""
        if self._output.is_live:
            self._output.flush()

    def _write_preamble(self) -> None:
        if preamble := self._slots.preamble():
            self._output.write(preamble)


class _Journalled:
    """Leaves the slots to a journal, and passes over the records whose slot it has."""

    def __init__(self, journal: Journal, shown: str) -> None:
        self._journal = journal
        self._shown = shown
        self._retries = deque(journal.failed)
        self._input_crcs: deque[int] = deque()
        self.is_over = journal.is_over
        self.numbers = Counter(journal.counts)

    def begin(self, reader: RecordReader, options: WriteOptions) -> Iterable[Record]:
        self._slots = _Slots(reader, options)
        return self._remaining(iter(reader))

    def put(self, record: Record) -> None:
        journal, is_failed = self._journal, record.failure is not None
        counts = numbers_of(record)
        if self._retries:
            index = self._retries.popleft()
            if not is_failed:
                journal.retry(index, self._slots.of(record, is_first=journal.start_of(index) == 0), counts)
            return
        slot = self._slots.of(record, is_first=journal.size == 0)
        journal.begin(self._slots.preamble())
        journal.add(slot, counts=counts, is_failed=is_failed, input_crc=self._input_crcs.popleft())

    def finish(self) -> None:
        if not self.is_over:
            self._journal.begin(self._slots.preamble())
        self._journal.finish(codec_of(self._shown))

    def _remaining(self, records: Iterator[Record]) -> Iterator[Record]:
        """First what failed, to be tried again, then what has no slot yet.

        Raises ResumeError if the records that have one are not those that this input begins with.
        """
        position, failed, crc, count = self._journal.position, set(self._retries), 0, 0
        again = []
        for record in islice(records, position):
            crc = _crc(record, crc)
            if count in failed:
                again.append(record)
            count += 1
        hint = f"give it the same input, or delete {state_dir(Path(self._shown))} to begin anew"
        if (count, crc) != (position, self._journal.input_crc):
            raise ResumeError(
                f"the input does not begin with the {position} records that {self._shown} was made of",
                hint=hint,
            )
        if self._journal.is_in_place and next(records, None) is not None:
            raise ResumeError(
                f"the input has more than the {position} records that {self._shown} was made of, and that is "
                "complete but for those that failed",
                hint=hint,
            )
        yield from again
        for record in records:
            crc = _crc(record, crc)
            self._input_crcs.append(crc)
            yield record


class _Slots:
    """The bytes of slots; what stands before the first is known only once a record has been read."""

    def __init__(self, reader: RecordReader, options: WriteOptions) -> None:
        self._reader = reader
        self._options = options
        self._encoder: SlotEncoder | None = None
        self._has_preamble = False

    def of(self, record: Record, *, is_first: bool) -> bytes:
        return self._get().slot(record, is_first=is_first)

    def preamble(self) -> bytes:
        """What stands before the first slot; nothing if it was asked for before."""
        if self._has_preamble:
            return b""
        self._has_preamble = True
        return self._get().preamble()

    def _get(self) -> SlotEncoder:
        if self._encoder is None:
            self._encoder = SlotEncoder(self._options, self._reader.header)
        return self._encoder


def target_of(streams: Streams) -> Path | None:
    """The file that is put in place as a whole; None for a pipe, a device, standard output."""
    path = streams.output
    return Path(path) if path is not None and is_file(path) else None


def _crc(record: Record, crc: int) -> int:
    """The checksum of what has been read, with one record more."""
    data = record.text.encode(errors="surrogatepass") if record.raw is None else record.raw
    return zlib.crc32(b"\n", zlib.crc32(data, crc))
