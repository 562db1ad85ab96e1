"""`recover`: how far an output got, from its journal and from the bytes that are really there.

A journal has a line for each `Commit`, and for each `Retry` of a slot that had failed: JSON, the CRC-32 of
it, LF. A complete commit stands for the whole output, retried slots included, as it is put in place.
"""

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from lmcli.errors import DataError, NoInputError
from lmcli.records.durable import read_pieces
from lmcli.records.source import open_source


@dataclass(frozen=True, kw_only=True)
class Commit:
    """Everything up to here is on disk."""

    records: int
    bytes: int
    crc: int
    """Of all these bytes."""
    input_crc: int
    counts: Mapping[str, int]
    """Of the good records since the line before; of a complete one: of all."""
    failed: list[tuple[int, int, int]]
    """Index, start and end of the slots that failed since the line before; of a complete one: of all."""
    is_complete: bool = False


@dataclass(frozen=True, kw_only=True)
class Retry:
    """The new bytes of a slot that had failed, and what they add to the counts."""

    index: int
    slot: str
    counts: Mapping[str, int]

    @classmethod
    def of(cls, index: int, slot: bytes, counts: Mapping[str, int]) -> "Retry":
        """A slot that is no valid UTF-8 keeps its bytes, too."""
        return cls(index=index, slot=slot.decode(errors="surrogateescape"), counts=dict(counts))

    @property
    def data(self) -> bytes:
        """The bytes of the slot."""
        return self.slot.encode(errors="surrogateescape")


class State(NamedTuple):
    """What has been added so far; replaced as a whole, so that no interruption leaves half of it."""

    records: int = 0
    size: int = 0
    crc: int = 0
    input_crc: int = 0
    counts: Mapping[str, int] = {}
    """Of the good records that no line of the journal counts yet."""
    retries: int = 0


@dataclass(kw_only=True)
class History:
    """What a journal says, as far as it can be believed."""

    state: State = field(default_factory=State)
    counts: Counter[str] = field(default_factory=Counter)
    """Of all good records."""
    failed: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Where the slots are that failed, by index, in order; the retried ones as well."""
    retries: list[Retry] = field(default_factory=list)
    end: int = 0
    """So many bytes of the journal hold."""
    is_complete: bool = False
    """The output is in place, and nothing has been retried since."""
    is_in_place: bool = False
    """The bytes are those of the target; there is no part of any use."""


class Content:
    """A stream of bytes, with the size and the checksum of what has been taken from it."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.size = 0
        self.crc = 0
        self._pieces = pieces
        self._rest = memoryview(b"")

    def take(self, size: int) -> Iterator[memoryview]:
        """The next bytes; fewer at the end of the stream."""
        while size > 0:
            rest = self._rest or memoryview(next(self._pieces, b""))
            taken, self._rest = rest[:size], rest[size:]
            if not taken:
                return
            size -= len(taken)
            self.size += len(taken)
            self.crc = zlib.crc32(taken, self.crc)
            yield taken

    def begins_with(self, line: Commit) -> bool:
        """Whether the stream holds what was committed; lines must come in order."""
        for _ in self.take(line.bytes - self.size):
            pass
        return (self.size, self.crc) == (line.bytes, line.crc)

    def has_ended(self) -> bool:
        """Whether nothing is left; takes a byte if not."""
        return not any(self.take(1))


def add_counts(counts: Mapping[str, int], more: Mapping[str, int]) -> Mapping[str, int]:
    """The sums, as a new mapping."""
    return {**counts, **{name: counts.get(name, 0) + number for name, number in more.items()}}


def commit_of(
    live: State,
    counts: Mapping[str, int],
    failed: Mapping[int, tuple[int, int]],
    *,
    is_complete: bool = False,
) -> Commit:
    """The line that says that a state is certain; `counts` and `failed` are what it tells of."""
    return Commit(
        records=live.records,
        bytes=live.size,
        crc=live.crc,
        input_crc=live.input_crc,
        counts=dict(counts),
        failed=[(index, start, end) for index, (start, end) in sorted(failed.items())],
        is_complete=is_complete,
    )


def encode(line: Commit | Retry) -> bytes:
    """The line of a journal."""
    body = json.dumps(vars(line), separators=(",", ":")).encode()
    return b"%s %08x\n" % (body, zlib.crc32(body))


def recover(journal: bytes, part: Path, target: Path) -> History:
    """The longest history that the journal tells and the bytes confirm, of the target or of the part."""
    lines = list(_read_lines(journal))
    complete = [number for number, (line, _) in enumerate(lines) if _is_complete(line)]
    has_part = part.is_file()
    for number in reversed(complete):
        # Behind a complete line only retries follow, so what it stands for is all the bytes there are.
        if _holds(target, lines[number][0]):
            is_last = number == len(lines) - 1
            history = _replay(lines[number:], None)
            history.is_in_place, history.is_complete = True, is_last
            return history
        history = _replay(lines[number:], Content(read_pieces(part))) if has_part else History()
        if history.end:
            return history
        lines = lines[:number]
    return _replay(lines, Content(read_pieces(part))) if has_part else History()


def has_completed(journal: bytes) -> bool:
    """Whether the output was complete at some time; a journal that says nothing counts as complete."""
    lines = [line for line, _ in _read_lines(journal)]
    return not lines or any(map(_is_complete, lines))


def target_pieces(target: Path) -> Iterator[bytes]:
    """The content of a file that was put in place, decompressed."""
    with open_source(str(target)) as chunks:
        yield from chunks


def _holds(target: Path, line: Commit | Retry) -> bool:
    assert isinstance(line, Commit)
    if not target.is_file():
        return False
    content = Content(target_pieces(target))
    try:
        return content.begins_with(line) and content.has_ended()
    except (DataError, NoInputError):
        return False


def _replay(lines: list[tuple[Commit | Retry, int]], content: Content | None) -> History:
    """The lines up to the first that does not hold; without `content` their bytes are known to be right."""
    history = History()
    for line, end in lines:
        match line:
            case Commit():
                if content is not None and not content.begins_with(line):
                    break
                _commit(history, line)
            case Retry():
                if line.index not in history.failed:
                    break
                _retry(history, line)
        history.end = end
    return history


def _commit(history: History, line: Commit) -> None:
    retries = len(history.retries)
    history.state = State(line.records, line.bytes, line.crc, line.input_crc, retries=retries)
    history.counts.update(line.counts)
    history.failed |= {index: (start, end) for index, start, end in line.failed}


def _retry(history: History, line: Retry) -> None:
    history.retries.append(line)
    history.state = history.state._replace(retries=len(history.retries))
    history.counts.update(line.counts)


def _is_complete(line: Commit | Retry) -> bool:
    return isinstance(line, Commit) and line.is_complete


def _read_lines(journal: bytes) -> Iterator[tuple[Commit | Retry, int]]:
    """The lines whose checksums hold, up to the first bad one, each with where it ends."""
    end = 0
    for line in journal.split(b"\n")[:-1]:
        body, _, crc = line.rpartition(b" ")
        if crc != b"%08x" % zlib.crc32(body):
            return
        try:
            document = json.loads(body)
            parsed = (Retry if "slot" in document else Commit)(**document)
        except (ValueError, TypeError):  # none of ours
            return
        end += len(line) + 1
        yield parsed, end
