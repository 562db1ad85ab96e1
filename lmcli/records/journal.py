"""`Journal`: an output that is continued after a crash, in a folder beside it until it is complete.

The folder `out.jsonl.lmcli` of the output `out.jsonl` holds

    job.json   what decides the bytes of the output: no other job may continue it
    part       the slots so far, uncompressed
    journal    what of them is certain
    final      the output as it will be, where that is not the part: compressed, or with retried slots
    lock       for `locked`, which is the business of the caller

Bytes are on disk before the line that speaks of them. All is written by offset, and what is known is replaced
as a whole, so a commit that an exception interrupted, anywhere, can simply be made again.
"""

import os
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lmcli.errors import DataError, LmcliError, NoInputError, StreamError, reason
from lmcli.records.compression import Codec
from lmcli.records.durable import keep_mode, read_pieces, sync_data, write_at
from lmcli.records.folder import JobFolder
from lmcli.records.recovery import Commit, Content, Retry, State, add_counts, commit_of, encode, target_pieces
from lmcli.records.splice import move, write_final

_BUFFER = 1 << 16


class Journal:
    """The slots of an output, each added once, whatever happens in between.

    Inside its block a thread sees to it that what has been added is committed soon, also when nothing more
    comes for a while. Leaving the block commits the rest, and closes the files. Where one cannot be written
    or read, every method raises StreamError, and nothing is committed after that.
    """

    def __init__(self, target: Path, identity: Mapping[str, Any], *, interval: float = 1.0) -> None:
        """Begin the output, or find out how far it got; commit about every `interval` seconds.

        `identity` is all that decides the bytes of the output, as JSON can hold it. Raises ResumeError if an
        unfinished output has another one. The caller holds the lock of the folder.
        """
        self._shown = str(target)
        self._failure: StreamError | None = None
        self._folder = JobFolder(target)
        with self._watching(), ExitStack() as files:
            history = self._folder.recover(identity)
            self._journal_file, self._part_file = self._folder.open(history, files)
            self._files = files.pop_all()
        self.is_new = history.end == 0
        """Whether nothing was there to be continued."""
        self.is_complete = history.is_complete
        """Whether the output is in place; slots that failed may still be retried."""
        self.is_in_place = history.is_in_place
        """Whether the output has its name: no record can be added to it any more."""
        self._failed = history.failed
        self._retries = history.retries
        self._counts = history.counts
        self._live = history.state
        self._committed = (history.state, history.end)
        self._buffer = (history.state.size, bytearray())
        self._interval = interval
        self._due = time.monotonic() + interval
        # Held again by the thread that has it: a signal may have left it held.
        self._lock = threading.RLock()
        self._is_over = threading.Event()

    @property
    def position(self) -> int:
        """How many records have their slot."""
        return self._live.records

    @property
    def counts(self) -> Counter[str]:
        """What the good records counted."""
        live, (done, _) = self._live, self._committed
        counts = self._counts + Counter(live.counts)
        for retry in self._retries[done.retries : live.retries]:
            counts.update(retry.counts)
        return counts

    @property
    def input_crc(self) -> int:
        """The checksum of the input that came with the last slot."""
        return self._live.input_crc

    @property
    def failed(self) -> tuple[int, ...]:
        """The indices of the records that failed, without those that were retried."""
        retried = self._retried()
        return tuple(index for index in self._failed if index < self._live.records and index not in retried)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to do: the output is in place, and no slot of it failed."""
        return self.is_complete and not self.failed

    @property
    def size(self) -> int:
        """How many bytes the slots have, and what comes before them."""
        return self._live.size

    def start_of(self, index: int) -> int:
        """Where the slot of a record begins that failed."""
        return self._failed[index][0]

    def begin(self, preamble: bytes) -> None:
        """Write what comes before the first slot, unless something has been written."""
        with self._lock:
            self._check()
            if self._live.records == self._live.size == 0:
                self._put(preamble, self._live)

    def add(self, slot: bytes, *, counts: Mapping[str, int], is_failed: bool, input_crc: int) -> None:
        """Add the slot of the next record, perhaps an empty one; the counts are those of good records.

        `input_crc` is the checksum of the input up to and with this record.
        """
        with self._lock:
            self._check()
            assert not self.is_in_place, "every record has its slot"
            live = self._live
            if is_failed:
                self._failed[live.records] = (live.size, live.size + len(slot))
            else:
                live = live._replace(counts=add_counts(live.counts, counts))
            self._put(slot, live._replace(records=live.records + 1, input_crc=input_crc))

    def retry(self, index: int, slot: bytes, counts: Mapping[str, int]) -> None:
        """Give a record that had failed its new slot, which takes its place when the output is finished."""
        with self._lock:
            self._check()
            if index not in self._failed:
                raise ValueError(f"record {index} has not failed")
            if index >= self._committed[0].records:
                self.commit()  # the line of a retry comes after the one that says what failed
            self.is_complete = False
            live = self._live
            self._retries[live.retries :] = [Retry.of(index, slot, counts)]
            self._live = live._replace(retries=live.retries + 1)
            self._commit_if_due()

    def commit(self) -> None:
        """Make durable what has been added; after a failed write, do nothing."""
        with self._lock:
            live, (done, _) = self._live, self._committed
            if self._failure is None and live != done:
                self._flush()
                with self._watching():
                    if live.size > done.size:
                        sync_data(self._part_file)
                    counts = self.counts
                    self._append(b"".join(map(encode, self._lines(done, live))), live)
                self._counts, self._live = counts, self._committed[0]
            self._due = time.monotonic() + self._interval

    def finish(self, codec: Codec | None = None) -> None:
        """Put the complete output in place, durably; if it is there already, only tidy up."""
        with self._lock:
            self._check()
            if not self.is_complete:
                self.commit()
                with self._watching():
                    self._place(codec)
                self.is_complete = True
            with self._watching():
                self._folder.clear()

    def remove(self) -> None:
        """Forget the job: remove what is in the folder but the lock, which takes the folder with it."""
        self.close()
        with self._watching():
            self._folder.remove()

    def close(self) -> None:
        """Close the files; commit nothing."""
        self._is_over.set()
        with self._lock:
            self._files.close()

    def __enter__(self) -> Self:
        if self._interval > 0:
            threading.Thread(target=self._keep_committing, name="journal", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # What made the block fail is told, not what fails because of it.
            with suppress(*() if error is None else (StreamError,)):
                self.commit()
        finally:
            self.close()

    def _keep_committing(self) -> None:
        while not self._is_over.wait(self._interval):
            # A failure is told to whoever uses the journal next.
            with self._lock, suppress(StreamError):
                if not self._is_over.is_set():
                    self.commit()

    def _put(self, data: bytes, live: State) -> None:
        """Add bytes behind those of `live`, which counts already what they stand for."""
        start, buffer = self._buffer
        buffer[live.size - start :] = data  # an addition that was interrupted may have left some there
        self._live = live._replace(size=live.size + len(data), crc=zlib.crc32(data, live.crc))
        if len(buffer) >= _BUFFER:
            self._flush()
        self._commit_if_due()

    def _commit_if_due(self) -> None:
        if time.monotonic() >= self._due:
            self.commit()

    def _flush(self) -> None:
        start, buffer = self._buffer
        data = bytes(buffer[: self._live.size - start])
        with self._watching():
            write_at(self._part_file, data, start)
        self._buffer = (start + len(data), bytearray())

    def _append(self, lines: bytes, live: State) -> None:
        """Say in the journal that `live` is certain."""
        _, end = self._committed
        write_at(self._journal_file, lines, end)
        sync_data(self._journal_file)
        self._committed = (live._replace(counts={}), end + len(lines))

    def _lines(self, done: State, live: State) -> Iterator[Commit | Retry]:
        """What came after `done`."""
        yield from self._retries[done.retries : live.retries]
        if (live.records, live.size) != (done.records, done.size):
            new = takewhile(lambda slot: slot[0] >= done.records, reversed(self._failed.items()))
            yield commit_of(live, live.counts, {index: slot for index, slot in new if index < live.records})

    def _retried(self) -> dict[int, bytes]:
        return {retry.index: retry.data for retry in self._retries[: self._live.retries]}

    def _place(self, codec: Codec | None) -> None:
        """First the bytes, then the line that says they are complete, then the name."""
        live, retried, source = self._live, self._retried(), self._folder.part
        slots, left = move(self._failed, retried)
        if codec or retried:
            content, source = Content(self._pieces()), self._folder.final
            size, crc = write_final(source, content, slots, codec, like=self._folder.target)
            if (content.size, content.crc) != (live.size, live.crc):
                raise StreamError("what was written before has changed")
            live = live._replace(size=size, crc=crc)
        else:
            keep_mode(self._part_file, self._folder.target)
            os.fsync(self._part_file)
        self._append(encode(commit_of(live, self._counts, left, is_complete=True)), self._live)
        self._folder.place(source)

    def _pieces(self) -> Iterator[bytes]:
        return target_pieces(self._folder.target) if self.is_in_place else read_pieces(self._folder.part)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Say of a failure inside the block that it is this output's, and commit no more."""
        try:
            yield
        except (OSError, StreamError, DataError, NoInputError) as error:
            why = error.message if isinstance(error, LmcliError) else reason(error)
            self._failure = StreamError(f"cannot write {self._shown}: {why}")
            raise self._failure from error
