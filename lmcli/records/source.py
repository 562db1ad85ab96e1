"""Inputs as streams of bytes: files, pipes and standard input alike.

`files_from` and `check_inputs` deal with their names, `open_source` with their content.
"""

import errno
import os
import select
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Protocol

from lmcli.errors import DataError, NoInputError, StreamError, UsageError, reason
from lmcli.records.compression import decompress
from lmcli.records.split import iter_pieces, split

STDIN = "-"
CHUNK = 1 << 16


def files_from(path: str, *, nul: bool = False) -> list[str]:
    """The input names listed in a file (or `-`), one a line or each ended by NUL."""
    with open_source(path) as chunks:
        if nul:  # a name may hold line endings
            found = [name.removesuffix(b"\0") for name in iter_pieces(chunks, b"\0")]
        else:
            found = [line for _, line in split(chunks, "line")]
    names = [os.fsdecode(name) for name in found]
    if "" in names:
        raise DataError(f"{path}: name {names.index('') + 1} of the list is empty")
    if path == STDIN and STDIN in names:
        raise UsageError("standard input cannot be both the list of inputs and one of them")
    return names


def check_is_read_once(names: Sequence[str]) -> None:
    """Raise UsageError where standard input has several of the names."""
    if names.count(STDIN) > 1:
        raise UsageError("standard input (-) can be read only once")


def check_inputs(names: Sequence[str]) -> None:
    """Raise unless every input exists, may be read and is no directory; opens none."""
    check_is_read_once(names)
    for name in names:
        if name != STDIN:
            _check_input(name)


def total_size(names: Sequence[str]) -> int | None:
    """The bytes of all inputs as they lie there; None if one of them is no regular file."""
    size = 0
    for name in names:
        try:
            status = _status(name)
        except _NO_STATUS:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        size += status.st_size
    return size


def glance(name: str, *, most: int = CHUNK) -> bytes | None:
    """The bytes of an input if there are at most so many, and all of them have come; None for any other.

    Nothing is waited for. What a pipe has given is still there for `open_source`.
    """
    try:
        status = _status(name)
        if name == STDIN and stat.S_ISFIFO(status.st_mode):
            return _glance_at_pipe(sys.stdin.fileno(), most)
        # Files of the kernel say that they are empty, and may never end.
        if not stat.S_ISREG(status.st_mode) or not status.st_size:
            return None
        if name == STDIN:
            descriptor = sys.stdin.fileno()
            content = os.pread(descriptor, most + 1, os.lseek(descriptor, 0, os.SEEK_CUR))
        else:
            with Path(name).open("rb", buffering=0) as stream:
                content = stream.read(most + 1)
    except _NO_STATUS:  # whoever reads it says what is wrong
        return None
    return content if len(content) <= most else None


def _status(name: str) -> os.stat_result:
    """Raises one of `_NO_STATUS`."""
    return os.fstat(sys.stdin.fileno()) if name == STDIN else os.stat(name)  # noqa: PTH116


# Gone, or a standard input that is none.
_NO_STATUS = (OSError, ValueError, AttributeError)

_glanced: list[bytes] = []
"""What standard input has given before it was read."""


def _glance_at_pipe(descriptor: int, most: int) -> bytes | None:
    waiting = select.poll()
    waiting.register(descriptor, select.POLLIN)
    while sum(map(len, _glanced)) <= most and (events := waiting.poll(0)):
        if not events[0][1] & select.POLLIN or not (chunk := os.read(descriptor, CHUNK)):
            return b"".join(_glanced)
        _glanced.append(chunk)
    return None


@contextmanager
def open_source(name: str, *, count: Callable[[int], None] = lambda _: None) -> Iterator[Iterator[bytes]]:
    """The decompressed bytes of an input, in chunks that come as soon as they are there.

    `count` hears how many bytes each chunk had before.
    """
    with _open(name) as stream:
        yield decompress(_iter_chunks(stream, name, count), name)


class _Stream(Protocol):
    def read(self, size: int, /) -> bytes | None: ...
    def fileno(self) -> int: ...


def _check_input(name: str) -> None:
    try:
        status = os.stat(name)  # noqa: PTH116
    except (OSError, ValueError) as error:
        raise NoInputError(f"cannot open {name}: {reason(error)}") from error
    if stat.S_ISDIR(status.st_mode):
        raise NoInputError(f"cannot read {name}: it is a directory", hint="name the files in it")
    if not os.access(name, os.R_OK):
        raise NoInputError(f"cannot open {name}: {os.strerror(errno.EACCES)}")


def _open(name: str) -> AbstractContextManager[_Stream]:
    if name == STDIN:
        if sys.stdin is None:
            raise NoInputError("standard input is closed")
        # The raw stream: a buffered one waits for a full buffer, and its lock, held by a thread
        # that waits for input, makes the interpreter abort at exit.
        return nullcontext(getattr(sys.stdin.buffer, "raw", sys.stdin.buffer))
    try:
        return Path(name).open("rb", buffering=0)
    except (OSError, ValueError) as error:
        raise NoInputError(f"cannot open {name}: {reason(error)}") from error


def _iter_chunks(stream: _Stream, name: str, count: Callable[[int], None]) -> Iterator[bytes]:
    while name == STDIN and _glanced:
        count(len(chunk := _glanced.pop(0)))
        yield chunk
    while chunk := _read(stream, name):
        count(len(chunk))
        yield chunk


def _read(stream: _Stream, name: str) -> bytes:
    try:
        while (chunk := stream.read(CHUNK)) is None:  # non-blocking and empty, not at its end
            select.select([stream], [], [])
    except OSError as error:
        raise StreamError(f"cannot read {name}: {reason(error)}") from error
    return chunk
