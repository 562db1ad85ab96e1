"""Whole exports of tiny random checkpoints: every architecture, task and precision, and what must fail."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmcli.bundle.manifest import Manifest
from lmcli.errors import ExportError, NoInputError, OutputError, UsageError

pytest.importorskip("optimum.exporters.onnx")

from lmcli.export.options import ExportOptions
from tests.export.checkpoints import write_checkpoint

pytestmark = [
    pytest.mark.export,
    # torch and transformers warn about their own parts while they trace.
    pytest.mark.filterwarnings("ignore"),
]

FAST = ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra"]
PLAIN = ["albert", "deberta-v2", "mpnet", "modernbert", "roformer"]
TASKS = ["text-classification", "token-classification"]

Export = Callable[..., Manifest]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model_type", FAST)
def test_fast_graph_equals_torch_and_int8_keeps_its_decisions(
    model_type: str, task: str, tmp_path: Path, run_export: Export
) -> None:
    manifest = run_export(write_checkpoint(tmp_path / "checkpoint", model_type, task))
    assert (manifest.tier, manifest.precision, manifest.task) == ("fast", "int8", task)
    assert manifest.inputs == ("input_ids",)
    assert manifest.proof["graph"]["max_difference"] < 1e-4
    assert manifest.proof["precision"]["agreement"] >= 0.98
    assert manifest.proof["batch"]["max_difference"] == 0


@pytest.mark.parametrize("model_type", PLAIN)
def test_plain_graph_equals_torch_and_int8_keeps_its_decisions(
    model_type: str, tmp_path: Path, run_export: Export
) -> None:
    manifest = run_export(write_checkpoint(tmp_path / "checkpoint", model_type))
    assert (manifest.tier, manifest.precision) == ("plain", "int8")
    assert manifest.proof["graph"]["max_difference"] < 1e-4
    assert manifest.proof["precision"]["agreement"] >= 0.98
    assert manifest.proof["batch"]["max_difference"] < 1e-4


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        pytest.param({"precision": "fp32"}, "fp32", id="fp32"),
        pytest.param({"precision": "fp16"}, "fp16", id="fp16 for the CPU"),
        pytest.param({"device": "cuda"}, "fp16", id="CUDA gets fp16"),
        pytest.param({"device": "cuda", "precision": "fp32"}, "fp32", id="fp32 for CUDA"),
    ],
)
def test_other_precisions_are_proven_on_the_cpu(
    options: dict[str, Any], precision: str, tmp_path: Path, run_export: Export
) -> None:
    manifest = run_export(write_checkpoint(tmp_path / "checkpoint", "bert"), **options)
    assert manifest.precision == precision
    assert manifest.device == options.get("device", "cpu")
    assert ("precision" in manifest.proof) == (precision != "fp32")


@pytest.mark.parametrize(
    ("changes", "activation"),
    [
        pytest.param({}, "softmax", id="one label of several"),
        pytest.param({"problem_type": "multi_label_classification"}, "sigmoid", id="several labels"),
        pytest.param({"problem_type": "regression"}, "none", id="regression"),
    ],
)
def test_scores_as_the_configuration_says(
    changes: dict[str, Any], activation: str, tmp_path: Path, run_export: Export
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert", **changes)
    assert run_export(checkpoint, precision="fp32").activation == activation


def test_activations_and_shapes_without_a_fast_graph_get_a_plain_one(
    tmp_path: Path, run_export: Export
) -> None:
    checkpoint = write_checkpoint(
        tmp_path / "checkpoint", "bert", position_embedding_type="relative_key", hidden_act="silu"
    )
    assert run_export(checkpoint, precision="fp32").tier == "plain"


@pytest.mark.parametrize("hidden_act", ["relu", "gelu_new"])
def test_other_activations_have_a_fast_graph(hidden_act: str, tmp_path: Path, run_export: Export) -> None:
    manifest = run_export(write_checkpoint(tmp_path / "checkpoint", "bert", hidden_act=hidden_act))
    assert manifest.tier == "fast"


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")
    assert run_export(checkpoint) == run_export(checkpoint, force=True)


def test_rows_are_as_long_as_the_model_allows(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "roberta", max_position_embeddings=66)
    # RoBERTa's positions begin behind the padding id, 0 here.
    assert run_export(checkpoint, precision="fp32").context_length == 65
    assert run_export(checkpoint, precision="fp32", context_length=32, force=True).context_length == 32


def test_card_and_manifest_say_where_the_model_comes_from(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")
    (checkpoint / "README.md").write_text("---\nlicense: mit\n---\n# Tiny\n\nTrained on nothing.\n")
    manifest = run_export(checkpoint, notes="Accuracy 0.5.")
    assert (manifest.source["model"], manifest.source["license"]) == ("checkpoint", "mit")
    card = (tmp_path / "bundles" / "tiny" / "README.md").read_text()
    for part in ("- License: mit.", "## Notes\n\nAccuracy 0.5.", "### Tiny\n\nTrained on nothing."):
        assert part in card


def test_int8_is_refused_for_cuda() -> None:
    with pytest.raises(UsageError, match="int8 is for the CPU"):
        ExportOptions(device="cuda", precision="int8")


def test_a_model_that_int8_ruins_is_refused_with_figures(tmp_path: Path, run_export: Export) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")
    weights = load_file(checkpoint / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith("intermediate.dense.weight"):  # one huge input channel leaves no bits for the rest
            weight[:, 0] *= 3000
        if name.endswith("attention.output.LayerNorm.weight"):
            weight[0] = 3000.0
        weights[name] = weight.to(torch.float32).contiguous()
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match=r"changes the model too much: relative error \d") as error:
        run_export(checkpoint)
    assert error.value.hint == "export with `--precision fp32`"
    assert not list((tmp_path / "bundles").iterdir())


def test_a_graph_that_differs_from_torch_is_refused_and_nothing_is_left(
    tmp_path: Path, run_export: Export
) -> None:
    # XLM's exported graph adds embedding 0 as a segment, so it is not the model that torch runs.
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "xlm", n_words=2000)
    with pytest.raises(ExportError, match="the graph differs from the source model: max difference"):
        run_export(checkpoint)
    assert not list((tmp_path / "bundles").iterdir())


def test_a_model_that_needs_more_than_text_is_refused(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "longformer", attention_window=[8, 8])
    with pytest.raises(ExportError, match="needs inputs that a text has not: global_attention_mask"):
        run_export(checkpoint)


def test_a_tokenizer_that_differs_is_refused(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from lmcli.engine.tokenizer import Tokenizer
    from lmcli.export.prove import prove_tokenizer

    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")
    source = AutoTokenizer.from_pretrained(checkpoint)
    facts = json.loads((checkpoint / "tokenizer.json").read_text())
    facts["normalizer"]["lowercase"] = False
    (tmp_path / "tokenizer.json").write_text(json.dumps(facts))
    tokenizer = Tokenizer(tmp_path / "tokenizer.json", context_length=128)
    assert prove_tokenizer(source, tokenizer, ["lower case only"]) == {"lines": 1, "different": 0}
    with pytest.raises(ExportError, match=r"differs from the source tokenizer on 'Marie'"):
        prove_tokenizer(source, tokenizer, ["lower case only", "Marie"])


def test_a_difference_that_is_no_number_fails() -> None:
    from lmcli.engine.encoder import Encoded
    from lmcli.export.prove import prove_precision

    good = Encoded([], [np.array([1.0, 2.0], np.float32), np.array([2.0, 0.0], np.float32)])
    bad = Encoded([], [np.array([np.nan, 2.0], np.float32), np.array([2.0, 0.0], np.float32)])
    assert prove_precision([good], [good])["agreement"] == 1
    with pytest.raises(ExportError, match="changes the model too much"):
        prove_precision([good], [bad])


def test_a_checkpoint_without_a_known_task_is_refused(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")
    config = json.loads((checkpoint / "config.json").read_text()) | {"architectures": ["BertModel"]}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match="was trained for no task that lmcli runs"):
        run_export(checkpoint)
    assert run_export(checkpoint, task="text-classification", precision="fp32").tier == "fast"


@pytest.mark.parametrize(
    ("label", "is_good"), [("Très\u00a0bon", True), ("two\nlines", False), ("\u2028", False)]
)
def test_labels_are_those_that_a_run_reads(
    label: str, is_good: bool, tmp_path: Path, run_export: Export
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")
    config = json.loads((checkpoint / "config.json").read_text())
    config["id2label"]["0"] = label
    (checkpoint / "config.json").write_text(json.dumps(config))
    if is_good:
        assert run_export(checkpoint, precision="fp32").labels[0] == label
        return
    with pytest.raises(ExportError, match=r"makes no bundle: .* strings of one line"):
        run_export(checkpoint, precision="fp32")
    assert not (tmp_path / "bundles" / "tiny").exists()


def test_a_disk_without_room_is_named(
    tmp_path: Path, run_export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")

    def fill(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("onnx.save", fill)
    with pytest.raises(OutputError, match=r"cannot write .*bundles: No space left on device"):
        run_export(checkpoint)


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, run_export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")

    def refuse(path: Path, *_: Any, **__: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("lmcli.export.source._text_of", refuse)
    (checkpoint / "README.md").touch()
    with pytest.raises(NoInputError, match=r"cannot read .*README\.md: Permission denied"):
        run_export(checkpoint)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, run_export: Export) -> None:
    from safetensors.torch import load_file, save_file

    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")
    weights = load_file(checkpoint / "model.safetensors")
    weights["classifier.bias"][0] = float("nan")
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ExportError, match="weights that are no numbers"):
        run_export(checkpoint, precision="fp32")


def test_weights_without_a_place_are_refused(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")
    config = json.loads((checkpoint / "config.json").read_text()) | {"num_hidden_layers": 1}
    (checkpoint / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExportError, match=r"weights that its config\.json has no place for: bert\.encoder"):
        run_export(checkpoint)


def test_one_line_is_enough_to_prove_on(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bert")
    assert (
        run_export(checkpoint, lines=("Best purchase I have made in years.",)).proof["tokenizer"]["lines"]
        == 1
    )


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_weights_beyond_a_protobuf_go_beside_the_graph(
    precision: str, tmp_path: Path, run_export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcli.export.conversion._MAX_PROTOBUF", 1000)
    manifest = run_export(write_checkpoint(tmp_path / "checkpoint", "bert"), precision=precision)
    assert sorted(manifest.files) == ["README.md", "model.onnx", "model.onnx.data", "tokenizer.json"]
    assert manifest.proof["batch"]["max_difference"] == 0
