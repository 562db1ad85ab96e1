"""config.json and weights: hostile configurations, label tables, and small random checkpoints."""

import json
import os
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from lmcli.errors import ExportError
from lmcli.export.config import (
    LABEL_LIMIT,
    is_multi_label,
    labels,
    load_config,
    load_model,
    sanitize,
    task_of,
)
from lmcli.export.source import Checkpoint, fetch
from lmcli.export.weights import JSON_LIMIT

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
safetensors_torch = pytest.importorskip("safetensors.torch")

pytestmark = pytest.mark.export

TINY: dict[str, Any] = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 40,
    "max_position_embeddings": 24,
    "id2label": {"0": "negative", "1": "neutral", "2": "positive"},
}
TOKENS = {**TINY, "architectures": ["BertForTokenClassification"]}


def message(error: pytest.ExceptionInfo[ExportError]) -> str:
    return error.value.message


def write(directory: Path, config: dict[str, Any]) -> Path:
    """A checkpoint directory whose weights are not looked at."""
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "model.safetensors").touch()
    return directory


def take(directory: Path, *, allow_pickle: bool = False) -> Checkpoint:
    return fetch(str(directory), allow_pickle=allow_pickle, progress=False, scratch=directory)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param(b"[]", " is not a JSON object", id="a list"),
        pytest.param(b"{", " is not JSON: ", id="cut"),
        pytest.param(b'{"a": NaN}', " is not JSON: ", id="NaN"),
        pytest.param(b'{"a": "\xff"}', " is not JSON: ", id="not UTF-8"),
        pytest.param(b" " * (JSON_LIMIT + 1), f": larger than {JSON_LIMIT} bytes", id="huge"),
        pytest.param(b'{"a":' * 5000, " is not JSON: ", id="deep"),
    ],
)
def test_config_json_is_one_object(content: bytes, problem: str, tmp_path: Path) -> None:
    write(tmp_path, {})
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ExportError) as error:
        load_config(take(tmp_path))
    assert message(error).startswith(f"{tmp_path}/config.json{problem}")


def test_config_json_is_read_as_it_is(tmp_path: Path) -> None:
    assert load_config(take(write(tmp_path, TINY))) == TINY


@pytest.mark.parametrize(
    "tricks",
    [
        pytest.param({"auto_map": {"AutoModel": "evil.Model"}}, id="auto_map"),
        pytest.param({"_attn_implementation_internal": "org/evil"}, id="CVE-2026-4372"),
        pytest.param({"_attn_implementation": "org/evil"}, id="_attn_implementation"),
        pytest.param({"attn_implementation": "org/evil:kernel"}, id="attn_implementation"),
        pytest.param({"custom_pipelines": {"evil": {"impl": "evil.P"}}}, id="custom_pipelines"),
        pytest.param({"trust_remote_code": True}, id="trust_remote_code"),
        pytest.param({"_name_or_path": "org/evil", "name_or_path": "org/evil"}, id="name_or_path"),
        pytest.param({"_commit_hash": "x", "__class__": "x", "_": 1}, id="underscores"),
        pytest.param({"_evil\nx": 1, "evil\nx_class": 1}, id="line breaks"),
        pytest.param({"tokenizer_class": "Evil", "config_class": "Evil"}, id="classes"),
        pytest.param({"transformers_weights": "evil.safetensors"}, id="weights of another name"),
        pytest.param({"quantization_config": None}, id="no quantization"),
        pytest.param({"torch_dtype": "float16", "dtype": "load"}, id="dtype"),
    ],
)
def test_a_trick_is_dropped_at_every_depth(tricks: dict[str, Any]) -> None:
    nested = {"text_config": {"hidden_size": 8, "list": [{"depth": 3, **tricks}], **tricks}}
    assert sanitize({**TINY, **nested, **tricks}) == {
        **TINY,
        "text_config": {"hidden_size": 8, "list": [{"depth": 3}]},
    }


@pytest.mark.parametrize(
    "config",
    [
        pytest.param({"quantization_config": {"bits": 4}}, id="top"),
        pytest.param({"text_config": {"quantization_config": {"bits": 4}}}, id="nested"),
        pytest.param({"a": [{"quantization_config": "x"}]}, id="in a list"),
    ],
)
def test_quantized_weights_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ExportError) as error:
        sanitize({**TINY, **config})
    assert message(error) == "the weights of the checkpoint are quantized already"


@pytest.mark.parametrize("model_type", ["my_bert", None, 7, ["bert"]])
def test_an_architecture_with_its_own_code_is_refused(model_type: object) -> None:
    with pytest.raises(ExportError) as error:
        sanitize({"model_type": model_type, "auto_map": {"AutoModel": "evil.Model"}})
    assert (message(error), error.value.hint) == (
        f"the architecture {model_type!r} is not part of transformers {transformers.__version__}",
        "the code that comes with a model is never run",
    )


def test_a_config_nested_too_deeply_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"a": deep}
    with pytest.raises(ExportError) as error:
        sanitize({**TINY, **deep})
    assert message(error) == "config.json is nested too deeply"


@pytest.mark.parametrize(
    ("config", "names"),
    [
        pytest.param({"id2label": {"0": "a", "1": "b"}}, ("a", "b"), id="in order"),
        pytest.param(
            {"id2label": {str(i): f"l{i}" for i in reversed(range(12))}},
            tuple(f"l{i}" for i in range(12)),
            id="by number, not by text",
        ),
        pytest.param({"id2label": {"0": "a", "2": "b"}}, ("LABEL_0", "LABEL_1"), id="a gap"),
        pytest.param({"id2label": {"0": "a", "1": None}}, ("LABEL_0", "LABEL_1"), id="a hole"),
        pytest.param({"id2label": {"0": 1, "1": 5}}, ("1", "5"), id="numbers"),
        pytest.param({"id2label": {"0": "a"}, "num_labels": 3}, ("a",), id="the table counts"),
        pytest.param({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2"), id="a number alone"),
        pytest.param({"id2label": {}}, ("LABEL_0", "LABEL_1"), id="an empty table"),
        pytest.param({"id2label": ["a"]}, ("LABEL_0", "LABEL_1"), id="no table"),
        pytest.param({}, ("LABEL_0", "LABEL_1"), id="two when nothing is said"),
    ],
)
def test_labels_are_in_the_order_of_their_ids(config: dict[str, Any], names: tuple[str, ...]) -> None:
    assert labels(config) == names


@pytest.mark.parametrize("count", [0, -1, True, "3", 2.0, LABEL_LIMIT + 1])
def test_the_number_of_labels_is_sane(count: object) -> None:
    with pytest.raises(ExportError) as error:
        labels({"num_labels": count})
    assert message(error) == f"config.json: num_labels is {count!r}, not a number from 1 to 100000"


@pytest.mark.parametrize(
    ("problem_type", "multi"),
    [("multi_label_classification", True), ("single_label_classification", False), (None, False)],
)
def test_labels_are_judged_one_by_one_if_the_config_says_so(problem_type: object, multi: bool) -> None:
    assert is_multi_label({"problem_type": problem_type}) is multi


@pytest.mark.parametrize(
    ("architectures", "task"),
    [
        (["BertForSequenceClassification"], "text-classification"),
        (["XLMRobertaForTokenClassification"], "token-classification"),
        (["BertModel", "BertForTokenClassification"], "token-classification"),
        (["BertForMaskedLM"], None),
        ([], None),
        ([7], None),
        ("BertForTokenClassification", None),
        (None, None),
    ],
)
def test_the_task_is_told_by_the_architecture(architectures: object, task: str | None) -> None:
    assert task_of({"architectures": architectures}) == task


def weights(config: dict[str, Any] = TINY) -> dict[str, Any]:
    """Random weights of the architecture that `config` names."""
    torch.manual_seed(0)
    settings = {**config, "id2label": {int(i): label for i, label in config["id2label"].items()}}
    settings = transformers.CONFIG_MAPPING[config["model_type"]](**settings)
    return dict(getattr(transformers, config["architectures"][0])(settings).state_dict())


def save(directory: Path, state: dict[str, Any], config: dict[str, Any] = TINY) -> Checkpoint:
    (directory / "config.json").write_text(json.dumps(config))
    safetensors_torch.save_file(state, directory / "model.safetensors")
    return take(directory)


def load(checkpoint: Checkpoint, **changes: Any) -> dict[str, Any]:
    """The weights of the model that lmcli builds of a checkpoint."""
    config = sanitize({**load_config(checkpoint), **changes})
    model = load_model(checkpoint, config, task_of(config) or "text-classification")
    return dict(model.state_dict())


def same(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.mark.parametrize("config", [TINY, TOKENS], ids=["text", "token"])
def test_a_model_gets_its_weights(config: dict[str, Any], tmp_path: Path) -> None:
    state = weights(config)
    assert same(load(save(tmp_path, state, config)), state)


def test_the_model_is_ready_to_export(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, {key: each.half() for key, each in weights().items()})
    model = load_model(checkpoint, sanitize(load_config(checkpoint)), "text-classification")
    facts = (model.dtype, model.training, model.config._attn_implementation, model.config.id2label)
    names = {0: "negative", 1: "neutral", 2: "positive"}
    assert facts == (torch.float32, False, "eager", names)


def test_hostile_keys_do_not_reach_the_model(tmp_path: Path) -> None:
    checkpoint = save(tmp_path, weights())
    hostile = {"_attn_implementation_internal": "org/evil", "auto_map": {"AutoModel": "evil.M"}, "x": 1}
    config = sanitize({**load_config(checkpoint), **hostile})
    settings = load_model(checkpoint, config, "text-classification").config
    assert (settings._attn_implementation_internal, hasattr(settings, "auto_map")) == ("eager", False)
    assert not hasattr(settings, "x")


# The modelling code of DeBERTa is scripted when it is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_keys_that_only_the_code_of_the_model_reads_are_kept(tmp_path: Path) -> None:
    deberta = {
        **TINY,
        "model_type": "deberta-v2",
        "architectures": ["DebertaV2ForSequenceClassification"],
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "pooler_hidden_size": 32,
    }
    state = weights(deberta)
    assert "deberta.encoder.LayerNorm.weight" in state
    assert same(load(save(tmp_path, state, deberta)), state)


def test_a_key_may_have_its_other_name(tmp_path: Path) -> None:
    distilbert = {
        **TINY,
        "model_type": "distilbert",
        "architectures": ["DistilBertForTokenClassification"],
        "hidden_dim": 40,
    }
    state = weights(distilbert)
    assert state["classifier.weight"].shape == (3, 32)
    assert same(load(save(tmp_path, state, distilbert)), state)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("LayerNorm.weight", "LayerNorm.gamma", id="gamma"),
        pytest.param("LayerNorm.bias", "LayerNorm.beta", id="beta"),
        pytest.param("", "", id="as it is"),
    ],
)
def test_old_names_of_weights_are_understood(old: str, new: str, tmp_path: Path) -> None:
    state = weights()
    renamed = {key.replace(old, new) if old else key: each for key, each in state.items()}
    assert same(load(save(tmp_path, renamed)), state)


def test_weights_of_other_heads_are_left(tmp_path: Path) -> None:
    state = weights()
    assert same(load(save(tmp_path, {**state, "cls.predictions.bias": torch.zeros(50)})), state)


@pytest.mark.parametrize("pickled", [False, True], ids=["safetensors", "pickle"])
@pytest.mark.parametrize("indexed", [False, True], ids=["all shards", "shards of the index"])
def test_shards_are_put_together(indexed: bool, pickled: bool, tmp_path: Path) -> None:
    state = weights()
    stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    table: dict[str, str] = {}
    for number, keys in enumerate((list(state)[:9], list(state)[9:]), start=1):
        name = f"{stem}-{number:05}-of-00002.{suffix}"
        write_tensors(tmp_path / name, {key: state[key] for key in keys})
        table |= dict.fromkeys(keys, name)
    if indexed:
        write_tensors(tmp_path / f"{stem}-00003-of-00003.{suffix}", {"stale": torch.zeros(1)})
        index = json.dumps({"weight_map": table})
        (tmp_path / f"{stem}.{suffix}.index.json").write_text(index)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    assert same(load(take(tmp_path, allow_pickle=pickled)), state)


def write_tensors(path: Path, state: dict[str, Any]) -> None:
    if path.suffix == ".bin":
        torch.save(state, path)
    else:
        safetensors_torch.save_file(state, path)


@pytest.mark.parametrize(
    "shard", ["../secret.safetensors", "config.json", "model-00009-of-00009.safetensors"]
)
def test_an_index_names_shards_of_the_checkpoint_only(shard: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    write_tensors(tmp_path / "model-00001-of-00001.safetensors", weights())
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(ExportError) as error:
        load(take(tmp_path))
    assert message(error) == f"{index} names {shard!r}, which is not there"


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch evil",)


@pytest.mark.parametrize("content", [Evil(), {"a": Evil()}, {"a": 1}, ["a"]])
def test_a_pickle_may_hold_tensors_only(
    content: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(ExportError) as error:
        load(take(tmp_path, allow_pickle=True))
    assert message(error).startswith(f"{tmp_path}/pytorch_model.bin: the weights cannot be read: ")
    assert not (tmp_path / "evil").exists()


def test_a_bare_pickle_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ExportError, match="the weights cannot be read"):
        load(take(tmp_path, allow_pickle=True))
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"version https://git-lfs.github.com/spec/v1\n", b"\xff" * 64],
    ids=["empty", "lfs", "noise"],
)
def test_damaged_safetensors_are_refused(content: bytes, tmp_path: Path) -> None:
    (write(tmp_path, TINY) / "model.safetensors").write_bytes(content)
    with pytest.raises(ExportError) as error:
        load(take(tmp_path))
    assert message(error).startswith(f"{tmp_path}/model.safetensors: the weights cannot be read: ")
    assert error.value.hint == (
        "get the checkpoint again; after a `git clone`, `git lfs pull` brings the weights"
    )


@pytest.mark.parametrize(
    ("lost", "problem"),
    [
        pytest.param(
            ("classifier",),
            "the checkpoint has no trained classifier head: classifier.bias, classifier.weight missing",
            id="no head",
        ),
        pytest.param(
            ("bert.pooler", "classifier"),
            "the checkpoint lacks weights of the model: bert.pooler.dense.bias, "
            "bert.pooler.dense.weight, classifier.bias, classifier.weight",
            id="no pooler",
        ),
        pytest.param(
            ("bert.embeddings",),
            "the checkpoint lacks weights of the model: bert.embeddings.LayerNorm.bias, "
            "bert.embeddings.LayerNorm.weight, bert.embeddings.position_embeddings.weight, "
            "bert.embeddings.token_type_embeddings.weight, ...",
            id="many",
        ),
    ],
)
def test_missing_weights_are_named(lost: tuple[str, ...], problem: str, tmp_path: Path) -> None:
    state = {key: each for key, each in weights().items() if not key.startswith(lost)}
    with pytest.raises(ExportError) as error:
        load(save(tmp_path, state))
    assert message(error) == problem


def test_weights_of_a_base_model_have_no_head(tmp_path: Path) -> None:
    state = {key.removeprefix("bert."): each for key, each in weights().items() if key.startswith("bert.")}
    with pytest.raises(ExportError, match="the checkpoint has no trained classifier head"):
        load(save(tmp_path, state))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"id2label": {"0": "a"}}, "the weights do not fit config.json: ", id="labels"),
        pytest.param({"hidden_size": 64}, "the weights do not fit config.json: ", id="size"),
        pytest.param({"hidden_act": "evil"}, "the weights do not fit config.json: ", id="activation"),
        pytest.param({"problem_type": "x"}, "config.json makes no BertConfig: ", id="problem type"),
        pytest.param({"num_attention_heads": "2"}, "the weights do not fit config.json: ", id="text"),
        pytest.param(
            {"architectures": ["EvilForSequenceClassification"]},
            f"the architecture EvilForSequenceClassification is not part of transformers "
            f"{transformers.__version__}",
            id="own code",
        ),
        pytest.param(
            {"model_type": "vit"}, "transformers has no vit model for text-classification", id="no text"
        ),
    ],
)
def test_a_config_that_does_not_fit(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError) as error:
        load(save(tmp_path, weights()), **changes)
    assert message(error).startswith(problem)
    assert "\n" not in message(error)


def test_no_file_of_the_checkpoint_is_imported(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("import lmcli; lmcli.evil = True")
    (tmp_path / "__init__.py").write_text("import lmcli; lmcli.evil = True")
    load(save(tmp_path, weights(), {**TINY, "auto_map": {"AutoModel": "evil.Model"}}))
    assert not hasattr(sys.modules["lmcli"], "evil")


def test_building_a_model_asks_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    state = weights()
    assert same(load(save(tmp_path, state)), state)
