"""Language models: what a bundle of one must have, and what is said of a broken one."""

import json
from pathlib import Path

import pytest

from lmcli.bundle.load import load_causal
from lmcli.bundle.manifest import MANIFEST_NAME
from lmcli.bundle.store import open_bundle, read_bundle
from lmcli.engine.devices import Device
from lmcli.errors import REBUILD, BundleError, UnavailableError
from tests import tiny, tiny_causal, tiny_seq2seq


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny_causal.write_causal(tmp_path / "shouts")


CPU = Device("cpu")


def load(path: Path, device: Device = CPU) -> None:
    with load_causal(read_bundle(path), device, threads=1, report=lambda _: None):
        pass


def test_a_good_bundle_is_loaded(path: Path) -> None:
    load(path)
    assert open_bundle(str(path), task="text-generation").manifest.causal is not None


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "chat_template.jinja"])
def test_a_listed_file_must_be_there(path: Path, name: str) -> None:
    (path / name).unlink()
    with pytest.raises(BundleError) as error:
        read_bundle(path)
    assert (error.value.message, error.value.hint) == (f"{path / name} is missing", REBUILD)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_the_manifest_must_list_what_a_run_needs(path: Path, name: str) -> None:
    manifest = read_bundle(path).manifest
    (path / name).unlink()
    tiny.write_manifest(path, manifest)
    with pytest.raises(BundleError, match=f"the manifest lists no {name}"):
        read_bundle(path)


def test_a_chat_template_is_not_needed(tmp_path: Path) -> None:
    load(tiny_causal.write_causal(tmp_path / "raw", chat_template=None))


@pytest.mark.parametrize(
    ("causal", "message"),
    [
        (None, "labels, seq2seq and causal do not fit text-generation"),
        ({"vocab_size": 9}, "missing required field `generation`"),
        ({"generation": {"eos_token_ids": [1], "max_new_tokens": 0}, "vocab_size": 9}, "max_new_tokens is 0"),
    ],
    ids=["none", "incomplete", "meaningless"],
)
def test_facts_that_make_no_model(path: Path, causal: object, message: str) -> None:
    manifest = json.loads((path / MANIFEST_NAME).read_bytes())
    (path / MANIFEST_NAME).write_text(json.dumps(manifest | {"causal": causal}))
    with pytest.raises(BundleError) as error:
        read_bundle(path)
    assert message in error.value.message


def replace_graph(path: Path, graph: bytes) -> None:
    manifest = read_bundle(path).manifest
    (path / "model.onnx").write_bytes(graph)
    tiny.write_manifest(path, manifest)


@pytest.mark.parametrize("kind", ["classifier", "decoder"])
def test_a_graph_of_another_kind(tmp_path: Path, path: Path, kind: str) -> None:
    graph = (
        tiny.write_sentiment(tmp_path / "moods") / "model.onnx"
        if kind == "classifier"
        else tiny_seq2seq.write_translator(tmp_path / "capitals") / "decoder.onnx"
    )
    replace_graph(path, graph.read_bytes())
    with pytest.raises(BundleError, match="the graph is no causal language model"):
        load(path)


def test_a_graph_that_is_none(path: Path) -> None:
    replace_graph(path, b"no graph")
    with pytest.raises(BundleError, match="refuses the graph"):
        load(path)


def test_a_bundle_for_the_cpu_runs_there(path: Path) -> None:
    with pytest.raises(UnavailableError, match="shouts is a bundle for the CPU"):
        load(path, Device("cuda"))
    load(path, Device("auto"))


def test_a_task_may_be_done_by_a_bundle_of_another(path: Path, tmp_path: Path) -> None:
    assert open_bundle(str(path), task="summarization", also=("text-generation",)).path == path
    other = tiny.write_sentiment(tmp_path / "moods")
    with pytest.raises(BundleError) as error:
        open_bundle(str(other), task="summarization", also=("text-generation",))
    assert error.value.message == (
        f"{other} is a bundle for text-classification, not for summarization or text-generation"
    )


def test_a_missing_one_is_looked_for_among_all_that_would_do(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMCLI_HOME", str(path.parent / "home"))
    monkeypatch.chdir(path.parent)
    path.parent.joinpath("exported").mkdir()
    path.rename("exported/shouts")
    with pytest.raises(BundleError) as error:
        open_bundle("shout", task="summarization", also=("text-generation",))
    assert (error.value.message, error.value.hint) == (
        "there is no bundle 'shout'; did you mean 'shouts'?",
        "the bundles for summarization or text-generation are: shouts; "
        "`lmcli export SOURCE shout` makes it from a model",
    )
