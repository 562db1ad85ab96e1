"""`locked`: one run at a time, by a lock of the kernel that no dead process can hold."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmcli.errors import OutputError, TryAgainError, reason

_POLL = 0.1


class LockedError(TryAgainError):
    """Another process holds the lock."""


@contextmanager
def locked(path: Path, *, wait: float | None = None, shown: str | None = None) -> Iterator[None]:
    """Hold the lock of the file `path` for the block, waiting for it at most `wait` seconds.

    The file and its folder are created. On leaving, the file is removed, and the folder too if nothing else
    is in it. Raises LockedError, with the name `shown`, if another process holds the lock; OutputError if the
    file cannot be created or the file system has no locks.
    """
    shown = str(path) if shown is None else shown
    deadline = time.monotonic() + (wait or 0)
    while (descriptor := _try_to_lock(path, shown)) is None:
        left = deadline - time.monotonic()
        if left <= 0:
            raise LockedError(f"another run is at work on {shown}", hint="try again when it has ended")
        time.sleep(min(_POLL, left))
    try:
        yield
    finally:
        try:
            _remove(path, descriptor)
        finally:
            os.close(descriptor)


def _try_to_lock(path: Path, shown: str) -> int | None:
    """The descriptor that holds the lock of the file that is at `path` now; None: it is taken."""
    while True:
        descriptor = _open(path, shown)
        is_held = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its holder removes the file: then this is the lock of nothing, and others make a new one.
            is_held = _is_at(path, descriptor)
            if is_held:
                return descriptor
        except BlockingIOError:
            return None
        except OSError as error:
            raise OutputError(
                f"cannot lock {shown}: {reason(error)}", hint="write to a file system that has locks (flock)"
            ) from error
        finally:
            if not is_held:
                os.close(descriptor)


def _open(path: Path, shown: str) -> int:
    try:
        while True:
            with suppress(FileNotFoundError):  # no folder, or another run has just removed it
                return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
            with suppress(FileExistsError):
                path.parent.mkdir()
            if path.parent.is_symlink():
                path.parent.stat()  # a link to nothing, which no other try will change
    except (OSError, ValueError) as error:
        raise OutputError(f"cannot create {shown}: {reason(error)}") from error


def _remove(path: Path, descriptor: int) -> None:
    with suppress(OSError):  # a file left behind holds no lock
        if _is_at(path, descriptor):
            path.unlink()
            path.parent.rmdir()


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
