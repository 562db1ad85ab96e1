"""`ResultCache`: results of earlier runs in one SQLite file of bounded size, for all runs at once.

`usage` and `clear` look after such a file. Imports sqlite3: to be imported only where a cache is wanted.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from pathlib import Path
from typing import Self

from lmcli.errors import StreamError, reason
from lmcli.records.result_store import Store, Usage, files_of, is_damage, remove, today

_BATCH, _BATCH_BYTES, _BATCH_SECONDS = 1000, 1 << 20, 1.0
"""When new results are written: so many, so large, or some for so long."""
_LARGEST = 10
"""A value larger than this part of the cache is not kept: it would push out too many others."""
_SUM = 8


class ResultCache:
    """Values by key, kept from one run to the next. The longest unused ones give way to new ones.

    Whatever goes wrong with it is told to `report`, once, and the run goes on without it. `get` and `put` may
    be called from several threads.
    """

    def __init__(self, path: Path | None, *, max_bytes: int, report: Callable[[str], None]) -> None:
        """`path` is None where there is no home directory."""
        self._path = path
        self._max_bytes = max_bytes
        self._report = report
        self._store: Store | None = None
        self._is_writable = False
        self._has_reported = False
        self._new: dict[int, bytes] = {}
        self._used: set[int] = set()
        self._num_bytes = 0
        self._written_at = time.monotonic()
        # Of one thread again and again: a signal may stop the run anywhere, and closing must still work.
        self._lock = threading.RLock()

    def __enter__(self) -> Self:
        """Open the file. One that is damaged, or of another format, is begun anew."""
        if self._path is None:
            self._tell("there is no home directory for the cache, set LMCLI_HOME: nothing is cached")
            return self
        with self._watching(f"the cache {self._path} is not used"):
            try:
                self._store = Store(self._path)
            except (OSError, sqlite3.Error) as error:
                if not is_damage(error) or not remove(self._path):
                    raise
                self._tell(f"the cache {self._path} was damaged and is begun anew: {reason(error)}")
                self._store = Store(self._path)
            self._is_writable = True
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def get(self, key: bytes) -> bytes | None:
        """The value under `key`, a digest of at least 16 bytes, unless it has never been there or is gone."""
        number = _number(key)
        with self._lock:
            stored = self._new.get(number) or self._find(number)
        # The store knows only the first digits of a key: the sum tells of the others, and of damage.
        if stored is None or stored[:_SUM] != _sum(key, stored[_SUM:]):
            return None
        return stored[_SUM:]

    def put(self, key: bytes, value: bytes) -> None:
        """Keep a value; written soon, and when the cache is closed."""
        if not self._is_writable or len(value) * _LARGEST > self._max_bytes:
            return
        with self._lock:
            self._new[_number(key)] = _sum(key, value) + value
            self._num_bytes += len(value)
            is_due = time.monotonic() - self._written_at >= _BATCH_SECONDS
            if is_due or len(self._new) >= _BATCH or self._num_bytes >= _BATCH_BYTES:
                self._write()

    def close(self) -> None:
        """Write what is left."""
        with self._lock:
            self._write()
            self._is_writable = False
            self._let_go()

    def _find(self, number: int) -> bytes | None:
        if self._store is None:
            return None
        with self._watching(f"the cache {self._path} is no longer used"):
            found = self._store.find(number)
            if found is None:
                return None
            stored, used = found
            if used < today():  # written once a day, and not at each use
                self._used.add(number)
                if len(self._used) >= _BATCH:
                    self._write()
            return stored
        return None

    def _write(self) -> None:
        if self._store is not None and self._is_writable and (self._new or self._used):
            with self._watching(f"the cache {self._path} takes no more results", is_reading=False):
                self._store.write(self._new, self._used, max_bytes=self._max_bytes)
        self._new, self._used, self._num_bytes = {}, set(), 0
        self._written_at = time.monotonic()

    @contextmanager
    def _watching(self, consequence: str, *, is_reading: bool = True) -> Iterator[None]:
        """Go on after a failure: without the cache, or, if it was in writing, with what is in it."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            self._tell(f"{consequence}: {reason(error)}")
            self._is_writable = False
            if is_reading or is_damage(error):
                self._let_go()
            if self._path is not None and is_damage(error):
                with suppress(OSError):
                    remove(self._path)

    def _let_go(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            with suppress(sqlite3.Error):
                store.close()

    def _tell(self, message: str) -> None:
        if not self._has_reported:
            self._has_reported = True
            self._report(message)


def usage(path: Path) -> Usage | None:
    """What is in the cache at `path`; None if there is none. Raises StreamError if it cannot be read."""
    with _refusing(path):
        if not path.exists():
            return None
        store = Store(path)
        try:
            return store.usage(sum(file.stat().st_size for file in files_of(path) if file.exists()))
        finally:
            store.close()


def clear(path: Path) -> bool:
    """Remove the cache at `path`, or empty it while a run uses it. Whether there was one.

    Raises StreamError if it cannot be removed.
    """
    with _refusing(path):
        if not any(file.exists() for file in files_of(path)):
            return False
        if not remove(path):
            store = Store(path)
            try:
                store.clear()
            finally:
                store.close()
    return True


def _number(key: bytes) -> int:
    return int.from_bytes(key[:8], "little", signed=True)


def _sum(key: bytes, value: bytes) -> bytes:
    return blake2b(value, key=key, digest_size=_SUM).digest()


@contextmanager
def _refusing(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, OverflowError, ValueError, sqlite3.Error) as error:  # a damaged file may hold anything
        raise StreamError(
            f"cannot use the cache {path}: {reason(error)}", hint="`lmcli cache clear` removes it"
        ) from error
