"""Files that survive a crash: written by offset, synced, renamed. All but reading goes through `os`."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, cast

PIECE = 1 << 20


def open_file(path: Path, *, like: Path) -> int:
    """Open a file for reading and writing, created if need be, with the mode of `like` if that exists."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
    try:
        keep_mode(descriptor, like)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def keep_mode(descriptor: int, like: Path) -> None:
    """Give an open file the mode of the one that it will replace: that may be private."""
    with suppress(FileNotFoundError):
        os.fchmod(descriptor, stat.S_IMODE(like.stat().st_mode))


def write_at(descriptor: int, data: bytes, offset: int) -> None:
    """Write all of it; the same again does no harm."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        rest, offset = rest[written:], offset + written


def write_file(path: Path, data: bytes, *, like: Path) -> None:
    """Put a file in place, whole and durable."""
    temporary = path.with_suffix(".tmp")
    descriptor = open_file(temporary, like=like)
    try:
        os.ftruncate(descriptor, 0)
        write_at(descriptor, data, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(temporary, path)  # noqa: PTH105
    sync_folder(path.parent)


def sync_data(descriptor: int) -> None:
    """Make the content of a file durable; where a system cannot sync that alone, all of it."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_pieces(path: Path) -> Iterator[bytes]:
    """The content of a file, which may be large."""
    with path.open("rb", buffering=0) as stream:
        while piece := stream.read(PIECE):
            yield piece


class Sink:
    """What a compressing writer needs of a binary file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor
        self._size = 0

    def write(self, data: bytes, /) -> int:
        """Write all of it behind what was written before."""
        data = bytes(data)
        if self._descriptor is not None:
            write_at(self._descriptor, data, self._size)
            self._size += len(data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """Close the file; what is written after that is lost.

        A writer that failed writes once more when Python throws it away, and its descriptor may be that of
        another file then.
        """
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            os.close(descriptor)

    def as_file(self) -> IO[bytes]:
        """The same, by the name that writers know."""
        return cast(IO[bytes], self)
