import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from lmcli.bundle.manifest import MANIFEST_NAME
from lmcli.bundle.store import read_bundle, shipped
from lmcli.export.graph import Graph
from tests import tiny
from tests.cli.commands import Ended, on_terminal
from tests.cli.conftest import Cli

REBUILD = "       get the bundle again, or export the model again with `lmcli export`\n"


@pytest.fixture
def store(tmp_path: Path, moods: Path) -> Path:
    """The user's store with the bundle `moods`."""
    path = tmp_path / "home" / "bundles"
    shutil.copytree(moods, path / "moods")
    return path


def rows(ended: Ended) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ended.out.splitlines()]


def test_list_names_each_bundle_once(cli: Cli, store: Path) -> None:
    ended = cli("models", "list")
    assert (ended.code, ended.err) == (0, "")
    assert [(row["name"], row["command"], row["path"]) for row in rows(ended)] == [
        ("moods", "sentiment", str(store / "moods")),
        ("ner-en", "ner", str(shipped() / "ner-en")),
        ("sentiment-en", "sentiment", str(shipped() / "sentiment-en")),
        ("translate-en-fr", "translate", str(shipped() / "translate-en-fr")),
    ]


def test_list_is_the_default(cli: Cli, store: Path) -> None:
    assert store.is_dir()
    assert cli("models") == cli("models", "list")


def test_a_bundle_in_exported_comes_first(cli: Cli, work: Path) -> None:
    tiny.write_sentiment(work / "exported" / "sentiment-en")
    assert cli("sentiment", stdin=b"awful\n").out == "NEGATIVE\t0.8808\tawful\n"
    assert rows(cli("models"))[0]["path"] == "exported/sentiment-en"


def test_a_bundle_of_the_store_is_found_by_its_name(cli: Cli, store: Path) -> None:
    assert store.is_dir()
    assert cli("sentiment", "-m", "moods", stdin=b"good\n") == Ended(0, "POSITIVE\t0.7311\tgood\n", "")


def test_list_reports_what_is_broken(cli: Cli, store: Path) -> None:
    flip(store / "moods" / "model.onnx")
    ended = cli("models", "list")
    assert (ended.code, len(rows(ended))) == (76, 4)
    assert rows(ended)[0] == {"name": "moods", "status": "broken", "path": str(store / "moods")}
    assert ended.err == f"lmcli: {store}/moods/model.onnx is changed\n{REBUILD}"


def test_show_prints_the_manifest(cli: Cli, store: Path) -> None:
    assert cli("models", "show", "moods") == Ended(0, (store / "moods" / MANIFEST_NAME).read_text(), "")


def test_verify_names_every_file(cli: Cli, store: Path) -> None:
    (store / "moods" / "extra").touch()
    ended = cli("models", "verify", "moods")
    assert (ended.code, ended.err.splitlines()[0]) == (
        76,
        "lmcli: 1 of 4 files are not as the manifests say",
    )
    assert [(Path(row["file"]).name, row["status"]) for row in rows(ended)] == [
        ("README.md", "ok"),
        ("model.onnx", "ok"),
        ("tokenizer.json", "ok"),
        ("extra", "unlisted"),
    ]


def test_verify_goes_on_behind_what_is_no_bundle(cli: Cli, store: Path) -> None:
    (store / "empty").mkdir()
    ended = cli("models", "verify")
    assert (ended.code, "empty is not an lmcli bundle" in ended.err) == (76, True)
    assert {"moods", "ner-en"} <= {Path(row["bundle"]).name for row in rows(ended)}


def test_rm_removes_a_bundle_as_a_whole(cli: Cli, store: Path) -> None:
    assert cli("models", "rm", "moods") == Ended(0, f"{store}/moods\n", "")
    assert list(store.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("sentiment-en", 2, "lmcli: sentiment-en ships with lmcli and cannot be removed"),
        ("moods/", 2, "lmcli: 'moods/' cannot be the name of a bundle"),
        ("nothing", 76, "lmcli: there is no bundle 'nothing'"),
    ],
)
def test_rm_refuses(cli: Cli, store: Path, name: str, code: int, message: str) -> None:
    ended = cli("models", "rm", name)
    assert (ended.code, ended.err[: len(message)]) == (code, message)
    assert (store / "moods").is_dir()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def newer(bundle: Path) -> None:
    path = bundle / MANIFEST_NAME
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))


def foreign(bundle: Path) -> None:
    (bundle / MANIFEST_NAME).rename(bundle / "config.json")


def link(bundle: Path) -> None:
    (bundle / "model.onnx").rename(bundle.parent / "elsewhere")
    (bundle / "model.onnx").symlink_to(bundle.parent / "elsewhere")


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("flipped graph", lambda path: flip(path / "model.onnx"), "{0}/model.onnx is changed"),
    ("flipped tokenizer", lambda path: flip(path / "tokenizer.json"), "{0}/tokenizer.json is changed"),
    ("truncated", lambda path: os.truncate(path / "model.onnx", 99), "{0}/model.onnx is changed"),
    ("missing file", lambda path: (path / "tokenizer.json").unlink(), "{0}/tokenizer.json is missing"),
    ("symbolic link", link, "{0}/model.onnx is not a regular file"),
    ("newer format", newer, "{0}/manifest.json: bundle format 2, this lmcli reads 1"),
    ("checkpoint", foreign, "{0} is a model checkpoint, not an lmcli bundle"),
    ("no manifest", lambda path: (path / MANIFEST_NAME).unlink(), "{0} is not an lmcli bundle: "),
    ("cut manifest", lambda path: os.truncate(path / MANIFEST_NAME, 99), "{0}/manifest.json: the manifest"),
    ("gone", shutil.rmtree, "{0}: no such directory"),
]


@pytest.mark.parametrize(("damage", "message"), [row[1:] for row in DAMAGES], ids=[row[0] for row in DAMAGES])
def test_76_damaged_bundle(cli: Cli, store: Path, damage: Callable[[Path], object], message: str) -> None:
    bundle = store / "moods"
    damage(bundle)
    ended = cli("sentiment", "-m", bundle, stdin=b"good\n")
    assert (ended.code, ended.out) == (76, "")
    assert ended.err.startswith("lmcli: " + message.format(bundle))


def rewrite(bundle: Path, **changes: Any) -> None:
    tiny.write_manifest(bundle, replace(read_bundle(bundle).manifest, **changes))


def small_table(bundle: Path) -> None:
    onnx.save(tiny.summing(np.zeros((3, 2), np.float32)), bundle / "model.onnx")


def other_inputs(bundle: Path) -> None:
    graph = Graph()
    graph.op("Identity", "pixels", output="logits")
    model = graph.model(
        inputs={"pixels": (TensorProto.FLOAT, ["b", "s"])},
        outputs={"logits": (TensorProto.FLOAT, ["b", "s"])},
    )
    onnx.save(model, bundle / "model.onnx")


@pytest.mark.parametrize(
    ("damage", "changes"),
    [
        (None, {"labels": ("ONE",)}),
        (None, {"labels": ()}),
        (None, {"context_length": -1}),
        (small_table, {}),
        (other_inputs, {}),
    ],
    ids=["fewer labels", "no labels", "context", "fewer embeddings", "inputs"],
)
def test_76_parts_that_do_not_fit(
    cli: Cli, store: Path, damage: Callable[[Path], None] | None, changes: dict[str, Any]
) -> None:
    manifest = read_bundle(store / "moods").manifest
    if damage is not None:
        damage(store / "moods")
    tiny.write_manifest(store / "moods", replace(manifest, **changes))
    assert cli("sentiment", "-m", "moods", stdin=b"good bad\n").code == 76


_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def test_a_table_fits_a_terminal_of_80_columns(store: Path) -> None:
    assert store.is_dir()
    ended = on_terminal(["models"], "stdout", columns=80)
    lines = [line.rstrip() for line in _STYLE.sub("", ended.out).splitlines()]
    assert (ended.code, ended.err) == (0, "")
    assert lines[0].split()[:2] == ["name", "command"]
    assert all(len(line) <= 80 for line in lines)
    words = " ".join(lines).split()
    assert {"moods", "ner-en", "sentiment-en"} <= set(words)
