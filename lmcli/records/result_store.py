"""`Store`: the SQLite file of a `ResultCache`. Here everything may fail; there nothing may."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

_FORMAT = 1
_BUSY = 5.0
"""For how many seconds a run waits for another one that writes."""
_EVICTED, _ROUNDS = 256, 64
"""How many results give way at once, and how often in a row: others want to write, too."""
_LOG_BYTES = 1 << 22
"""To which size the log is cut; two runs that end at once may leave it behind."""
_SECONDS_OF_A_DAY = 86400

_SCHEMA = """
CREATE TABLE results (
    id INTEGER PRIMARY KEY,
    hash INTEGER NOT NULL UNIQUE,
    used INTEGER NOT NULL,
    value BLOB NOT NULL
);
CREATE TABLE facts (max_bytes INTEGER);
INSERT INTO facts VALUES (NULL);
"""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What is in a cache."""

    num_results: int
    num_bytes: int
    """The size of its files."""
    max_bytes: int | None
    """What the last run that wrote to it allowed."""
    oldest: date | None
    newest: date | None
    """The days (UTC) on which the longest unused and the latest used result were used."""


class Store:
    """Blobs by number. Every method may raise sqlite3.Error, opening also OSError.

    A result that is used moves to the end of the table, once a day. So the table is in the order of use: what
    gives way stands together at its beginning and leaves whole pages, and a run over the file of last night
    finds its results next to each other.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)  # texts are nobody else's business
        # Removing a file of SQLite that somebody has open damages the next one of that name.
        self._folder = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(self._folder, fcntl.LOCK_SH)
            self._connection = sqlite3.connect(
                path, timeout=_BUSY, isolation_level=None, check_same_thread=False
            )
            try:
                self._begin()
            except BaseException:
                self._connection.close()
                raise
        except BaseException:
            os.close(self._folder)
            raise

    def close(self) -> None:
        """Close the file, and let others remove it."""
        try:
            self._connection.close()
        finally:
            os.close(self._folder)

    def find(self, number: int) -> tuple[bytes, int] | None:
        """What is stored, and the day on which it was used."""
        found = self._connection.execute("SELECT value, used FROM results WHERE hash = ?", (number,))
        match found.fetchone():
            case (bytes(stored), int(day)):  # a damaged row may hold anything
                return stored, day
        return None

    def write(self, new: Mapping[int, bytes], used: Collection[int], *, max_bytes: int) -> None:
        """Store `new`, note that `used` was used, and let the longest unused give way to keep the limit."""
        day = today()
        with self._transaction():
            self._connection.executemany(
                "REPLACE INTO results (hash, used, value) SELECT hash, ?, value FROM results WHERE hash = ?",
                [(day, number) for number in used],
            )
            self._connection.executemany(
                "REPLACE INTO results (hash, used, value) VALUES (?, ?, ?)",
                [(number, day, stored) for number, stored in new.items()],
            )
            self._connection.execute("UPDATE facts SET max_bytes = ?", (max_bytes,))
        self._shrink(max_bytes)

    def clear(self) -> None:
        """Remove all results."""
        self._connection.execute("DELETE FROM results")
        self._vacuum(self._number("PRAGMA page_count"))

    def usage(self, num_bytes: int) -> Usage:
        """What is in it; its files have `num_bytes`."""
        return Usage(
            num_results=self._number("SELECT count(*) FROM results"),
            num_bytes=num_bytes,
            max_bytes=self._number("SELECT max_bytes FROM facts") or None,
            oldest=_date(self._number("SELECT used FROM results ORDER BY id LIMIT 1")),
            newest=_date(self._number("SELECT used FROM results ORDER BY id DESC LIMIT 1")),
        )

    def _begin(self) -> None:
        if self._number("PRAGMA user_version") == 0:  # later, once the file has a page, it is in vain
            self._connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        self._use_log()
        self._connection.execute("PRAGMA synchronous = NORMAL")
        self._connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        if self._number("PRAGMA user_version") == 0:
            with self._transaction():
                if self._number("PRAGMA user_version") == 0:  # no other run was faster
                    for statement in _SCHEMA.split(";"):
                        self._connection.execute(statement)
                    self._connection.execute(f"PRAGMA user_version = {_FORMAT}")
        if (version := self._number("PRAGMA user_version")) != _FORMAT:
            raise _OtherFormatError(f"it has format {version} instead of {_FORMAT}")

    def _use_log(self) -> None:
        """Let readers and a writer work at once. SQLite does not wait here when another run does the same."""
        deadline = time.monotonic() + _BUSY
        while True:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL").fetchone()
                return
            except sqlite3.OperationalError as error:
                if _code(error) != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _shrink(self, max_bytes: int) -> None:
        page = self._number("PRAGMA page_size")
        for _ in range(_ROUNDS):
            in_use = self._number("PRAGMA page_count") - self._number("PRAGMA freelist_count")
            if in_use * page <= max_bytes:
                break
            self._connection.execute(
                "DELETE FROM results WHERE id IN (SELECT id FROM results ORDER BY id LIMIT ?)", (_EVICTED,)
            )
        self._vacuum(self._number("PRAGMA page_count") - max_bytes // page)

    def _vacuum(self, num_pages: int) -> None:
        """Give back so many free pages, if there are as many."""
        if num_pages > 0:
            # `execute` would stop after the first page.
            self._connection.executescript(f"PRAGMA incremental_vacuum({num_pages})")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._connection:
            self._connection.execute("BEGIN IMMEDIATE")
            yield

    def _number(self, query: str) -> int:
        """What a query says; 0 if nothing."""
        row = self._connection.execute(query).fetchone()
        return int(row[0] or 0) if row else 0


class _OtherFormatError(sqlite3.DatabaseError):
    """Another version of lmcli made the file."""


def today() -> int:
    """The day, in UTC, as a number."""
    return int(time.time()) // _SECONDS_OF_A_DAY


def _date(day: int) -> date | None:
    return datetime.fromtimestamp(day * _SECONDS_OF_A_DAY, UTC).date() if day else None


def files_of(path: Path) -> list[Path]:
    """All that SQLite may make for the file at `path`."""
    return [path, *(path.with_name(f"{path.name}-{suffix}") for suffix in ("wal", "shm"))]


def remove(path: Path) -> bool:
    """Remove the file at `path`, unless another run uses it; whether it is gone. Raises OSError."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for file in files_of(path):
            file.unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(folder)
    return True


def is_damage(error: Exception) -> bool:
    """Whether the file is unusable, and not only for now."""
    damages = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    return isinstance(error, _OtherFormatError) or _code(error) in damages


def _code(error: Exception) -> int | None:
    """SQLite's error code without the details."""
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
