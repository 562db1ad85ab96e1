"""A cache of results keeps them, keeps its limit, and never stops a run."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sqlite3
import stat
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lmcli.errors import StreamError
from lmcli.records import result_cache, result_store
from lmcli.records.result_cache import ResultCache, clear, usage

LIMIT = 10_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "results.db"


@pytest.fixture
def said() -> list[str]:
    """What a cache has reported."""
    return []


@pytest.fixture
def opened(path: Path, said: list[str]) -> Callable[..., ResultCache]:
    return lambda max_bytes=LIMIT: ResultCache(path, max_bytes=max_bytes, report=said.append)


@pytest.fixture
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Lets a day pass."""

    def pass_a_day() -> None:
        day = result_store.today() + 1
        for module in (result_cache, result_store):
            monkeypatch.setattr(module, "today", lambda: day)

    return pass_a_day


Opened = Callable[..., ResultCache]


def key(name: object) -> bytes:
    return hashlib.sha256(str(name).encode()).digest()


def fill(cache: ResultCache, names: range, value: bytes = b"value" * 20) -> None:
    for name in names:
        cache.put(key(name), value)


def found(cache: ResultCache, names: range) -> list[int]:
    return [name for name in names if cache.get(key(name)) is not None]


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(query).fetchall()


def test_a_value_is_there_in_the_same_run_and_in_the_next(opened: Opened, said: list[str]) -> None:
    with opened() as cache:
        assert cache.get(key("a")) is None
        cache.put(key("a"), b"1")
        cache.put(key("b"), b"")
        assert (cache.get(key("a")), cache.get(key("b"))) == (b"1", b"")
    with opened() as cache:
        assert (cache.get(key("a")), cache.get(key("b")), cache.get(key("c"))) == (b"1", b"", None)
    assert said == []


def test_a_newer_value_replaces_the_older(opened: Opened) -> None:
    for value in (b"1", b"2"):
        with opened() as cache:
            cache.put(key("a"), value)
    with opened() as cache:
        assert cache.get(key("a")) == b"2"


def test_an_interrupted_run_keeps_what_it_has(opened: Opened) -> None:
    def interrupted() -> None:
        with opened() as cache:
            cache.put(key("a"), b"1")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with opened() as cache:
        assert cache.get(key("a")) == b"1"


def test_many_values_are_there_before_the_run_is_over(opened: Opened) -> None:
    with opened() as cache, opened() as other:
        fill(cache, range(2500))
        assert len(found(other, range(2500))) >= 2000


def test_what_has_waited_is_written_with_the_next_value(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(result_cache, "_BATCH_SECONDS", 0)
    with opened() as cache, opened() as other:
        cache.put(key("a"), b"1")
        assert other.get(key("a")) == b"1"


def test_another_key_with_the_same_beginning_is_not_taken_for_it(opened: Opened) -> None:
    with opened() as cache:
        cache.put(key("a"), b"1")
        assert cache.get(key("a")[:8] + key("b")[8:]) is None
        assert cache.get(key("a")) == b"1"


def test_files_are_private(opened: Opened, path: Path) -> None:
    with opened() as cache:
        cache.put(key("a"), b"1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_file_keeps_the_limit(opened: Opened, path: Path) -> None:
    with opened(500_000) as cache:
        fill(cache, range(20_000))
    kept = usage(path)
    assert kept is not None
    assert 450_000 < path.stat().st_size <= 500_000
    assert kept.num_results > 2000


def test_the_longest_unused_give_way(opened: Opened) -> None:
    with opened(500_000) as cache:
        fill(cache, range(20_000))
        left = found(cache, range(20_000))
    assert left == list(range(left[0], 20_000))


def test_what_was_used_today_outlives_what_was_not(opened: Opened, tomorrow: Callable[[], None]) -> None:
    with opened(500_000) as cache:
        fill(cache, range(2000))
    tomorrow()
    with opened(500_000) as cache:
        assert found(cache, range(500)) == list(range(500))
    with opened(500_000) as cache:
        fill(cache, range(2000, 4000))
        left = found(cache, range(2000))
    assert left[:500] == list(range(500))
    assert len(left) < 2000


def test_a_use_is_written_once_a_day(opened: Opened, path: Path, tomorrow: Callable[[], None]) -> None:
    with opened() as cache:
        fill(cache, range(10))
    ids = rows(path, "SELECT id FROM results ORDER BY hash")
    for has_changed in (False, True, False):
        with opened() as cache:
            assert found(cache, range(10)) == list(range(10))
        assert (rows(path, "SELECT id FROM results ORDER BY hash") != ids) is has_changed
        ids = rows(path, "SELECT id FROM results ORDER BY hash")
        if not has_changed:
            tomorrow()


def test_a_run_of_hits_alone_writes_their_use_in_batches(
    opened: Opened, tomorrow: Callable[[], None]
) -> None:
    with opened() as cache:
        fill(cache, range(2500))
    tomorrow()
    with opened() as cache:
        assert len(found(cache, range(2500))) == 2500
        assert len(cache._used) == 500


def test_a_lower_limit_holds_from_the_next_results_on(opened: Opened, path: Path) -> None:
    with opened() as cache:
        fill(cache, range(10_000))
    assert path.stat().st_size > 1_000_000
    with opened(300_000) as cache:
        fill(cache, range(10_000, 10_010))
        assert found(cache, range(10_000, 10_010)) == list(range(10_000, 10_010))
    assert path.stat().st_size <= 300_000


def test_one_large_value_pushes_out_nothing(opened: Opened) -> None:
    with opened(500_000) as cache:
        cache.put(key("a"), b"1")
        cache.put(key("b"), b"x" * 60_000)
        assert (cache.get(key("a")), cache.get(key("b"))) == (b"1", None)


def test_a_limit_below_an_empty_file_keeps_nothing(opened: Opened, said: list[str]) -> None:
    with opened(2000) as cache:
        fill(cache, range(2000))
    with opened(2000) as cache:
        assert found(cache, range(2000)) == []
    assert said == []


def test_several_threads_share_a_cache(opened: Opened, said: list[str]) -> None:
    with opened() as cache:
        threads = [threading.Thread(target=fill, args=(cache, range(i * 500, 5000))) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found(cache, range(5000))) == 5000
    assert said == []


def work(path: Path, offset: int, queue: multiprocessing.Queue[list[str]]) -> None:
    said: list[str] = []
    with ResultCache(path, max_bytes=LIMIT, report=said.append) as cache:
        for i in range(3000):
            name = (i + offset * 700) % 4000
            if cache.get(key(name)) not in (None, str(name).encode()):
                said.append(f"wrong value of {name}")
            cache.put(key(name), str(name).encode())
    queue.put(said)


def test_several_runs_share_a_file(path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    runs = [context.Process(target=work, args=(path, offset, queue)) for offset in range(3)]
    for run in runs:
        run.start()
    assert [queue.get(timeout=60) for _ in runs] == [[], [], []]
    for run in runs:
        run.join()
    kept = usage(path)
    assert kept is not None
    assert kept.num_results == 4000


def test_a_file_that_is_no_database_is_begun_anew(opened: Opened, path: Path, said: list[str]) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 1000)
    with opened() as cache:
        cache.put(key("a"), b"1")
    with opened() as cache:
        assert cache.get(key("a")) == b"1"
    assert said == [f"the cache {path} was damaged and is begun anew: file is not a database"]


def test_a_file_of_another_format_is_begun_anew(opened: Opened, path: Path, said: list[str]) -> None:
    with opened() as cache:
        cache.put(key("a"), b"1")
    rows(path, "PRAGMA user_version = 7")
    with opened() as cache:
        assert cache.get(key("a")) is None
        cache.put(key("a"), b"1")
        assert cache.get(key("a")) == b"1"
    assert said == [f"the cache {path} was damaged and is begun anew: it has format 7 instead of 1"]


def test_damage_inside_ends_the_use_and_the_next_run_begins_anew(
    opened: Opened, path: Path, said: list[str]
) -> None:
    with opened() as cache:
        fill(cache, range(5000))
    data = bytearray(path.read_bytes())
    data[8192:] = os.urandom(len(data) - 8192)
    path.write_bytes(data)
    with opened() as cache:
        assert found(cache, range(5000)) == []
        fill(cache, range(2000))
    assert said == [f"the cache {path} is no longer used: database disk image is malformed"]
    assert not path.exists()
    with opened() as cache:
        fill(cache, range(10))
    with opened() as cache:
        assert found(cache, range(10)) == list(range(10))
    assert len(said) == 1


@pytest.mark.parametrize("seed", range(8))
def test_no_damage_makes_a_wrong_value(seed: int, opened: Opened, path: Path) -> None:
    names = range(200)
    with opened() as cache:
        for name in names:
            cache.put(key(name), str(name).encode() * 10)
    data = bytearray(path.read_bytes())
    for place in hashlib.shake_256(bytes([seed])).digest(400):
        data[4096 + place * (len(data) - 4096) // 256] ^= 1 + place % 255
    path.write_bytes(data)
    with opened() as cache:
        values = {name: cache.get(key(name)) for name in names}
    assert {name: value for name, value in values.items() if value is not None}.items() <= {
        name: str(name).encode() * 10 for name in names
    }.items()


@pytest.mark.parametrize(
    "change", ["value = 7", "value = NULL", "value = 'text'", "used = 'x'", "used = NULL"]
)
def test_a_damaged_row_is_no_value(change: str, opened: Opened, path: Path, said: list[str]) -> None:
    with opened() as cache:
        cache.put(key("a"), b"1")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = 1")
        connection.execute(
            "UPDATE sqlite_master SET sql = replace(sql, 'NOT NULL', '') WHERE name = 'results'"
        )
    rows(path, f"UPDATE results SET {change}")
    with opened() as cache:
        assert cache.get(key("a")) is None
    assert said == []


def test_a_damaged_file_that_another_run_uses_stays(opened: Opened, path: Path, said: list[str]) -> None:
    with opened() as cache:
        cache.put(key("a"), b"1")
    with opened():
        rows(path, "PRAGMA user_version = 7")
        with opened() as other:
            assert other.get(key("a")) is None
            other.put(key("a"), b"2")
    assert said == [f"the cache {path} is not used: it has format 7 instead of 1"]
    assert rows(path, "SELECT count(*) FROM results") == [(1,)]


def test_without_a_home_nothing_is_cached(said: list[str]) -> None:
    with ResultCache(None, max_bytes=LIMIT, report=said.append) as cache:
        cache.put(key("a"), b"1")
        assert cache.get(key("a")) is None
    assert said == ["there is no home directory for the cache, set LMCLI_HOME: nothing is cached"]


def test_a_place_that_cannot_be_used_is_told_once(opened: Opened, path: Path, said: list[str]) -> None:
    path.parent.write_text("not a folder")
    with opened() as cache:
        fill(cache, range(2000))
        assert found(cache, range(10)) == []
    (message,) = said
    assert message.startswith(f"the cache {path} is not used: ")


def test_a_folder_in_its_place_is_told_once(opened: Opened, path: Path, said: list[str]) -> None:
    path.mkdir(parents=True)
    with opened() as cache:
        fill(cache, range(2000))
    (message,) = said
    assert message.startswith(f"the cache {path} is not used: ")
    assert path.is_dir()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told_once(opened: Opened, path: Path, said: list[str]) -> None:
    path.parent.mkdir(mode=0o500)
    with opened() as cache:
        fill(cache, range(2000))
    assert len(said) == 1


def test_a_file_locked_for_long_is_still_read(
    opened: Opened, path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened() as cache:
        cache.put(key("a"), b"1")
    monkeypatch.setattr(result_store, "_BUSY", 0.1)
    with closing(sqlite3.connect(path, isolation_level=None)) as other, opened() as cache:
        other.execute("BEGIN IMMEDIATE")
        fill(cache, range(5000))
        assert cache.get(key("a")) == b"1"
        other.execute("ROLLBACK")
    assert said == [f"the cache {path} takes no more results: database is locked"]


def test_a_full_disk_ends_writing_and_not_reading(opened: Opened, path: Path, said: list[str]) -> None:
    with opened() as cache:
        fill(cache, range(100))
    with opened() as cache:
        assert cache._store is not None
        cache._store._connection.execute("PRAGMA max_page_count = 20")  # SQLite says the same then
        fill(cache, range(100, 5000))
        assert found(cache, range(5000)) == list(range(100))
    assert said == [f"the cache {path} takes no more results: database or disk is full"]


def test_usage_tells_what_is_there(opened: Opened, path: Path, tomorrow: Callable[[], None]) -> None:
    assert usage(path) is None
    with opened() as cache:
        fill(cache, range(10))
    tomorrow()
    with opened() as cache:
        fill(cache, range(10, 30))
    kept = usage(path)
    assert kept is not None
    assert (kept.num_results, kept.max_bytes) == (30, LIMIT)
    assert kept.num_bytes >= path.stat().st_size
    assert kept.oldest is not None
    assert kept.newest is not None
    assert (kept.newest - kept.oldest).days == 1
    assert kept.oldest <= datetime.now(UTC).date()


def test_usage_of_an_empty_cache(opened: Opened, path: Path) -> None:
    with opened():
        pass
    kept = usage(path)
    assert kept is not None
    assert (kept.num_results, kept.max_bytes, kept.oldest, kept.newest) == (0, None, None, None)


def test_usage_refuses_a_damaged_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 1000)
    with pytest.raises(StreamError, match="file is not a database") as refused:
        usage(path)
    assert refused.value.hint == "`lmcli cache clear` removes it"
    assert path.exists()


def test_clear_removes_the_file(opened: Opened, path: Path) -> None:
    assert clear(path) is False
    with opened() as cache:
        fill(cache, range(10))
    assert clear(path) is True
    assert list(path.parent.iterdir()) == []


def test_clear_removes_a_damaged_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 1000)
    assert clear(path) is True
    assert not path.exists()


def test_clear_empties_a_file_in_use(opened: Opened, path: Path, said: list[str]) -> None:
    with opened() as cache:
        fill(cache, range(3000))
        assert clear(path) is True
        assert path.exists()
        fill(cache, range(3000, 3010))
    with opened() as cache:
        assert found(cache, range(2000)) == []
        assert found(cache, range(3000, 3010)) == list(range(3000, 3010))
    assert path.stat().st_size < 300_000
    assert said == []
