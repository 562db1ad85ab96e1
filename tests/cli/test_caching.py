import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmcli.engine.prefixes import Prefix, PrefixStore
from lmcli.records.result_cache import ResultCache
from tests.cli.commands import TIMEOUT, Ended, on_terminal, start
from tests.cli.conftest import Cli


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder of what runs keep; nothing is there yet."""
    return tmp_path / "home" / "cache"


def keep_results(cache: Path, count: int = 3) -> Path:
    path = cache / "results" / "results.db"
    with ResultCache(path, max_bytes=10**7, report=pytest.fail) as results:
        for number in range(count):
            results.put(number.to_bytes(32, "little"), b"value")
    return path


def keep_prefix(cache: Path, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    prefix = Prefix(random.integers(0, 1000, 50), random.random((4, 2, 50, 8), np.float32))
    PrefixStore(cache / "prefixes" / "some-model").save(prefix)
    return cache / "prefixes"


def rows(ended: Ended) -> list[dict[str, Any]]:
    assert (ended.code, ended.err) == (0, "")
    return [json.loads(line) for line in ended.out.splitlines()]


def test_show_of_nothing(cli: Cli, cache: Path) -> None:
    assert rows(cli("cache", "show")) == [
        {"cache": "results", "count": 0, "bytes": 0, "path": str(cache / "results" / "results.db")},
        {"cache": "prefixes", "count": 0, "bytes": 0, "path": str(cache / "prefixes")},
    ]
    assert not cache.exists()


def test_show_of_results(cli: Cli, cache: Path) -> None:
    path = keep_results(cache)
    row = rows(cli("cache", "show"))[0]
    assert (row["count"], row["limit"], row["path"]) == (3, 10**7, str(path))
    assert row["bytes"] >= path.stat().st_size > 0
    assert row["oldest_use"] == row["newest_use"]


def test_show_of_prefixes(cli: Cli, cache: Path) -> None:
    folder = keep_prefix(cache, seed=0)
    (old,) = folder.rglob("*.npz")
    os.utime(old, (0, 86400))
    keep_prefix(cache, seed=1)
    row = rows(cli("cache", "show"))[1]
    assert (row["count"], row["oldest_use"]) == (2, "1970-01-02")
    assert row["newest_use"] > "2020"
    assert row["bytes"] == sum(path.stat().st_size for path in folder.rglob("*.npz"))


def test_show_is_the_default(cli: Cli, cache: Path) -> None:
    keep_results(cache)
    assert cli("cache") == cli("cache", "show")


def test_show_is_a_table_of_80_columns_on_a_terminal(cache: Path) -> None:
    keep_results(cache)
    shown = re.sub(r"\x1b\[\d*m", "", on_terminal(["cache"], "stdout", columns=80).out)
    lines = [line.rstrip() for line in shown.splitlines()]
    assert lines[0].split() == ["cache", "count", "bytes", "limit", "oldest_use", "newest_use", "path"]
    assert lines[1].split()[:2] == ["results", "3"]
    assert all(len(line) <= 80 for line in lines)


def test_clear_removes_both_and_says_where_they_were(cli: Cli, cache: Path) -> None:
    path, folder = keep_results(cache), keep_prefix(cache)
    assert cli("cache", "clear") == Ended(0, f"{path}\n{folder}\n", "")
    assert not path.exists()
    assert not folder.exists()


def test_clear_of_nothing_says_nothing(cli: Cli) -> None:
    assert cli("cache", "clear") == Ended(0, "", "")


def test_clear_while_a_run_uses_the_cache(cli: Cli, cache: Path) -> None:
    path = keep_results(cache)
    with ResultCache(path, max_bytes=10**7, report=pytest.fail) as results:
        assert cli("cache", "clear") == Ended(0, f"{path}\n", "")
        assert results.get(bytes(32)) is None
    assert rows(cli("cache"))[0]["count"] == 0


def test_74_a_damaged_cache(cli: Cli, cache: Path) -> None:
    path = keep_results(cache)
    path.write_bytes(b"no database at all" * 1000)
    assert cli("cache") == Ended(
        74,
        "",
        f"lmcli: cannot use the cache {path}: file is not a database\n"
        "       `lmcli cache clear` removes it\n",
    )
    assert cli("cache", "clear").code == 0
    assert rows(cli("cache"))[0]["count"] == 0


def test_74_prefixes_that_cannot_be_removed(cli: Cli, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "prefixes").write_text("not a folder")
    assert cli("cache", "clear") == Ended(
        74, "", f"lmcli: cannot remove {cache / 'prefixes'}: Not a directory\n"
    )


def test_a_run_gives_the_same_with_a_cache_cold_and_warm(cli: Cli, cache: Path, moods: Path) -> None:
    lines = b"good\n\nbad\ngood\nno word of it\n"
    plain = cli("sentiment", "-m", moods, "-O", "jsonl", stdin=lines)
    for _ in range(2):
        assert cli("sentiment", "-m", moods, "-O", "jsonl", "--cache", stdin=lines) == plain
    assert cli("sentiment", "-m", moods, "--cache", stdin=b"good\n") == cli(
        "sentiment", "-m", moods, stdin=b"good\n"
    )
    assert rows(cli("cache"))[0]["count"] == 3
    assert cache.exists()


def test_a_run_goes_on_without_a_cache_that_fails(cli: Cli, cache: Path, moods: Path) -> None:
    cache.parent.mkdir(exist_ok=True)
    cache.write_text("not a folder")
    ended = cli("sentiment", "-m", moods, "--cache", stdin=b"good\nbad\n")
    assert (ended.code, ended.out) == (0, cli("sentiment", "-m", moods, stdin=b"good\nbad\n").out)
    path = cache / "results" / "results.db"
    assert ended.err == f"lmcli: the cache {path} is not used: Not a directory\n"


def test_a_run_that_is_stopped_keeps_its_results(cli: Cli, moods: Path) -> None:
    with start("sentiment", "-m", moods, "--cache") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for word in (b"good", b"bad"):
            process.stdin.write(word + b"\n")
            assert process.stdout.readline().endswith(word + b"\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 143
        assert process.stderr is not None
        assert process.stderr.read() == b""
    assert rows(cli("cache"))[0]["count"] == 2


@pytest.mark.parametrize("command", ["show", "clear"])
def test_2_without_a_home(command: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmcli.bundle.store.user_cache", lambda: None)
    assert cli("cache", command) == Ended(
        2, "", "lmcli: there is no home directory for a cache\n       set LMCLI_HOME\n"
    )
