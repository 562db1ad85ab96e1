"""Prefixes in files, and what damaged ones do: nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmcli.engine.prefixes import SHORTEST, Prefix, PrefixStore, common_length


def prefix(length: int, *, seed: int = 0) -> Prefix:
    rng = np.random.default_rng(seed)
    return Prefix(rng.integers(0, 1000, length), rng.random((4, 2, length, 8), np.float32))


@pytest.fixture
def store(tmp_path: Path) -> PrefixStore:
    return PrefixStore(tmp_path / "prefixes")


def test_what_is_saved_is_found(store: PrefixStore) -> None:
    saved = prefix(50)
    assert store.find(saved.tokens) is None
    store.save(saved)
    found = store.find(np.concatenate([saved.tokens, [1, 2, 3]]))
    assert found is not None
    assert np.array_equal(found.tokens, saved.tokens)
    assert np.array_equal(found.past, saved.past)


def test_the_longest_common_beginning_counts(store: PrefixStore) -> None:
    short, long = prefix(40), prefix(80, seed=1)
    store.save(short)
    store.save(long)
    found = store.find(np.concatenate([long.tokens[:60], short.tokens]))
    assert found is not None
    assert np.array_equal(found.tokens, long.tokens[:60])
    assert np.array_equal(found.past, long.past[:, :, :60])


def test_what_is_short_is_not_worth_a_file(store: PrefixStore, tmp_path: Path) -> None:
    store.save(prefix(SHORTEST - 1))
    assert not (tmp_path / "prefixes").exists()
    store.save(prefix(50))
    assert store.find(prefix(50).tokens[: SHORTEST - 1]) is None


def test_a_beginning_of_what_is_there_is_not_saved_again(store: PrefixStore, tmp_path: Path) -> None:
    whole = prefix(50)
    store.save(whole)
    store.save(Prefix(whole.tokens[:40], whole.past[:, :, :40]))
    assert len(list((tmp_path / "prefixes").iterdir())) == 1


def test_the_oldest_files_go(store: PrefixStore, tmp_path: Path) -> None:
    for seed in range(20):
        store.save(prefix(50, seed=seed))
        for path in (tmp_path / "prefixes").iterdir():  # all a day older than the next
            os.utime(path, (path.stat().st_atime - 86400, path.stat().st_mtime - 86400))
    assert len(list((tmp_path / "prefixes").iterdir())) == 16
    assert store.find(prefix(50, seed=0).tokens) is None
    assert store.find(prefix(50, seed=19).tokens) is not None


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 not a zip", None], ids=["empty", "torn", "half"])
def test_a_damaged_file_is_no_prefix(damage: bytes | None, store: PrefixStore, tmp_path: Path) -> None:
    saved = prefix(50)
    store.save(saved)
    (path,) = (tmp_path / "prefixes").iterdir()
    path.write_bytes(path.read_bytes()[:-400] if damage is None else damage)
    assert store.find(saved.tokens) is None
    store.save(saved)
    assert store.find(saved.tokens) is not None


def test_a_pickle_is_never_read(store: PrefixStore, tmp_path: Path) -> None:
    saved = prefix(50)
    store.save(saved)
    (path,) = (tmp_path / "prefixes").iterdir()
    np.savez(path, tokens=np.array([{"a": 1}], object), past=saved.past)
    assert store.find(saved.tokens) is None


def test_arrays_of_another_kind_are_no_prefix(store: PrefixStore, tmp_path: Path) -> None:
    saved = prefix(50)
    store.save(saved)
    (path,) = (tmp_path / "prefixes").iterdir()
    for arrays in (
        {"tokens": saved.tokens, "past": np.zeros(4)},
        {"tokens": np.int64(4), "past": saved.past},
    ):
        np.savez(path, **arrays)
        assert store.find(saved.tokens) is None


def test_a_full_disk_leaves_nothing(
    store: PrefixStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(file: Any, **_: Any) -> None:
        file.write(b"PK")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", fill)
    store.save(prefix(50))
    assert list((tmp_path / "prefixes").iterdir()) == []


def test_what_a_killed_process_left_is_removed_later(store: PrefixStore, tmp_path: Path) -> None:
    store.save(prefix(50))
    old, new = tmp_path / "prefixes" / "old.part", tmp_path / "prefixes" / "new.part"
    for part in (old, new):
        part.write_bytes(b"PK")
    os.utime(old, (0, 0))
    store.save(prefix(50, seed=1))
    assert (old.exists(), new.exists()) == (False, True)


def test_a_folder_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    store = PrefixStore(tmp_path / "file" / "prefixes")
    store.save(prefix(50))
    assert store.find(prefix(50).tokens) is None


@pytest.mark.parametrize(
    ("one", "other", "length"),
    [([], [], 0), ([1], [], 0), ([1, 2], [1, 2, 3], 2), ([1, 2, 4], [1, 2, 3], 2), ([5], [6], 0)],
)
def test_common_length(one: list[int], other: list[int], length: int) -> None:
    assert common_length(np.array(one, np.int64), np.array(other, np.int64)) == length
