"""Exports of sentence encoders: equal to the source model, with torch and without, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmcli.bundle.manifest import Manifest
from lmcli.bundle.store import read_bundle
from lmcli.errors import ExportError, LmcliError, UnavailableError
from lmcli.export.prove import sample_lines
from tests.export.sentence_encoders import change_config, write_json, write_sentence_encoder
from tests.tiny_embedder import open_embedder

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.export,
    pytest.mark.filterwarnings("ignore"),  # transformers warns about its own parts
]

FAST = ["bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra"]

Export = Callable[..., Manifest]


@pytest.fixture
def no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)


def said(error: pytest.ExceptionInfo[LmcliError]) -> tuple[str, str]:
    return error.value.message, error.value.hint


def embeddings(checkpoint: Path, lines: list[str], *, pooled: str, normalize: bool) -> Any:
    """What sentence-transformers computes, a line at a time: (lines, hidden)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    model = transformers.AutoModel.from_pretrained(checkpoint).eval()
    rows = []
    for line in lines:
        with torch.inference_mode():
            hidden = model(tokenizer(line, return_tensors="pt")["input_ids"]).last_hidden_state[0]
        row = hidden.mean(dim=0) if pooled == "mean" else hidden[0]
        rows.append(torch.nn.functional.normalize(row, dim=0) if normalize else row)
    return torch.stack(rows).numpy()


LINES = ["A quiet triumph.", "I wanted to like it.", "Fine"]


@pytest.mark.parametrize("model_type", FAST)
def test_the_graph_equals_torch(model_type: str, tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint", model_type)
    manifest = run_export(checkpoint, precision="fp32")
    assert (manifest.task, manifest.tier, manifest.model_type) == ("feature-extraction", "fast", model_type)
    assert manifest.inputs == ("input_ids",)
    assert manifest.proof["graph"]["max_difference"] < 1e-5
    assert manifest.proof["tokenizer"] == {"lines": 63, "different": 0}
    assert manifest.proof["batch"]["max_difference"] == 0
    with open_embedder(tmp_path / "bundles" / "tiny") as embedder:
        ours = embedder.embed(LINES)
    assert np.abs(ours - embeddings(checkpoint, LINES, pooled="mean", normalize=True)).max() < 1e-5


@pytest.mark.parametrize("modules", [("Transformer", "Pooling"), ("Transformer", "Pooling", "Normalize")])
@pytest.mark.parametrize("pooled", ["mean", "cls"])
def test_pooling_is_that_of_the_modules(
    pooled: str, modules: tuple[str, ...], tmp_path: Path, run_export: Export
) -> None:
    mode = {"mean": "mean_tokens", "cls": "cls_token"}[pooled]
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint", modes=[mode], modules=modules)
    run_export(checkpoint, precision="fp32")
    theirs = embeddings(checkpoint, LINES, pooled=pooled, normalize="Normalize" in modules)
    with open_embedder(tmp_path / "bundles" / "tiny") as embedder:
        assert np.abs(embedder.embed(LINES) - theirs).max() < 1e-5


def test_int8_keeps_directions_and_batches(tmp_path: Path, run_export: Export) -> None:
    manifest = run_export(write_sentence_encoder(tmp_path / "checkpoint"))
    assert manifest.precision == "int8"
    assert manifest.proof["precision"]["mean_cosine"] > 0.99
    assert manifest.proof["precision"]["lowest_cosine"] > 0.98
    assert manifest.proof["batch"]["max_difference"] == 0
    card = (tmp_path / "bundles" / "tiny" / "README.md").read_text()
    for part in (
        "lmcli embed --model tiny",
        "longer texts are read in overlapping windows.",
        "largest difference of a value",
        "- int8 against float32: the cosine of embeddings is 0.99",
    ):
        assert part in card
    assert "Labels" not in card


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        pytest.param({"precision": "fp16"}, "fp16", id="fp16 for the CPU"),
        pytest.param({"device": "cuda"}, "fp16", id="CUDA gets fp16"),
    ],
)
def test_half_precision_is_proven_on_the_cpu(
    options: dict[str, Any], precision: str, tmp_path: Path, run_export: Export
) -> None:
    manifest = run_export(write_sentence_encoder(tmp_path / "checkpoint"), **options)
    assert manifest.precision == precision
    assert manifest.proof["precision"]["lowest_cosine"] > 0.9999


@pytest.mark.parametrize(
    ("max_seq_length", "wanted", "length"),
    [(32, None, 32), (None, None, 128), (32, 64, 64), (32, 4096, 128), (32, 16, 16)],
)
def test_the_context_is_that_of_the_training_unless_another_is_wanted(
    max_seq_length: int | None, wanted: int | None, length: int, tmp_path: Path, run_export: Export
) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint", max_seq_length=max_seq_length)
    assert run_export(checkpoint, precision="fp32", context_length=wanted).context_length == length


def test_a_plain_encoder_is_pooled_by_the_mean_when_asked(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    (checkpoint / "modules.json").unlink()
    with pytest.raises(ExportError, match="was trained for no task that lmcli runs"):
        run_export(checkpoint)
    run_export(checkpoint, task="feature-extraction", precision="fp32")
    with open_embedder(tmp_path / "bundles" / "tiny") as embedder:
        ours = embedder.embed(LINES)
    assert np.abs(ours - embeddings(checkpoint, LINES, pooled="mean", normalize=False)).max() < 1e-5


def test_the_body_of_a_model_with_a_head_is_taken(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    weights = tensors(checkpoint)
    save(checkpoint, {f"bert.{name}": weight for name, weight in weights.items()})
    run_export(checkpoint, precision="fp32")


def test_a_pooler_that_is_not_there_is_not_missed(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    save(checkpoint, {name: each for name, each in tensors(checkpoint).items() if "pooler" not in name})
    run_export(checkpoint, precision="fp32")


def test_the_numbers_of_positions_are_no_weights(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    positions = {"embeddings.position_ids": torch.arange(130)[None]}
    save(checkpoint, tensors(checkpoint) | positions)
    run_export(checkpoint, precision="fp32")


def test_pickled_weights_are_read_when_allowed(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    torch.save(dict(tensors(checkpoint)), checkpoint / "pytorch_model.bin")
    (checkpoint / "model.safetensors").unlink()
    assert run_export(checkpoint, precision="fp32", allow_pickle=True).tier == "fast"


def tensors(checkpoint: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(checkpoint / "model.safetensors"))


def save(checkpoint: Path, weights: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.usefixtures("no_torch")
def test_without_torch_the_source_model_is_no_part_of_the_proof(tmp_path: Path, run_export: Export) -> None:
    manifest = run_export(write_sentence_encoder(tmp_path / "checkpoint"))
    assert set(manifest.proof) == {"precision", "batch"}
    card = (tmp_path / "bundles" / "tiny" / "README.md").read_text()
    assert "against the source model" not in card


def test_nothing_of_the_extra_is_imported_where_it_is_not_installed(
    tmp_path: Path, run_export: Export
) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    with_torch = run_export(checkpoint, force=True).files
    program = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'optimum', 'sentencepiece', 'huggingface_hub'):\n"
        "    sys.modules[name] = None\n"  # how Python says that there is no such package
        "from lmcli.cli.app import run\n"
        f"sys.exit(run(['export', {str(checkpoint)!r}, 'plain', '--into', {str(tmp_path)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/plain\n"), done.stderr
    assert [line.split(":")[1] for line in done.stderr.splitlines()] == [
        f" read {checkpoint}",
        " int8",
        " batches",
    ]
    without = read_bundle(tmp_path / "plain").manifest.files
    assert without["model.onnx"] == with_torch["model.onnx"]


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("lacking", "options", "by"),
    [
        pytest.param("tokenizer.json", {}, "a checkpoint without tokenizer.json", id="tokenizer"),
        pytest.param(
            "model.safetensors",
            {"allow_pickle": True},
            "a checkpoint with its weights as pickle",
            id="pickle",
        ),
    ],
)
def test_what_only_the_extra_can_read(
    lacking: str, options: dict[str, Any], by: str, tmp_path: Path, run_export: Export
) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    (checkpoint / lacking).unlink()
    if options:
        (checkpoint / "pytorch_model.bin").touch()
    with pytest.raises(UnavailableError) as error:
        run_export(checkpoint, **options)
    assert said(error) == (
        f"{by} needs packages that are not installed: "
        "torch, transformers, optimum, onnx, safetensors, sentencepiece",
        "install them: pip install 'lmcli[export]'",
    )


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(("max_seq_length", "length"), [(32, 32), (None, 128), (4096, 128)])
def test_the_context_is_the_same_without_torch(
    max_seq_length: int | None, length: int, tmp_path: Path, run_export: Export
) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint", max_seq_length=max_seq_length)
    assert run_export(checkpoint, precision="fp32").context_length == length


@pytest.mark.usefixtures("no_torch")
def test_a_damaged_tokenizer_is_refused(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    write_json(checkpoint / "tokenizer.json", {"model": {}})
    with pytest.raises(ExportError, match="the tokenizer is damaged: ") as error:
        run_export(checkpoint)
    assert error.value.hint == "get the checkpoint again"


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        pytest.param(
            {"modules": ["Transformer", "Pooling", "Dense"]},
            "lmcli does not run the modules Transformer, Pooling, Dense",
            "it runs a Transformer with Pooling, and with Normalize",
            id="another module",
        ),
        pytest.param(
            {"modules": ["BoW"]},
            "lmcli does not run the modules BoW",
            "it runs a Transformer with Pooling, and with Normalize",
            id="no transformer",
        ),
        pytest.param(
            {"modes": ["max_tokens"]},
            "lmcli has no such pooling: max_tokens",
            "it pools by the mean of all tokens, or by the first one",
            id="another pooling",
        ),
        pytest.param(
            {"modes": ["mean_tokens", "cls_token"]},
            "lmcli has no such pooling: cls_token, mean_tokens",
            "it pools by the mean of all tokens, or by the first one",
            id="two poolings",
        ),
        pytest.param(
            {"modes": ["mean_tokens", "max_tokens"]},
            "lmcli has no such pooling: max_tokens, mean_tokens",
            "it pools by the mean of all tokens, or by the first one",
            id="one more",
        ),
        pytest.param(
            {"modes": []},
            "lmcli has no such pooling: unknown",
            "it pools by the mean of all tokens, or by the first one",
            id="no pooling",
        ),
    ],
)
def test_other_sentence_encoders_are_refused(
    changes: dict[str, Any], message: str, hint: str, tmp_path: Path, run_export: Export
) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint", **changes)
    with pytest.raises(ExportError) as error:
        run_export(checkpoint)
    assert said(error) == (f"{checkpoint}: {message}", hint)
    assert not list((tmp_path / "bundles").iterdir())


@pytest.mark.parametrize(
    ("content", "problem"), [("[", "is not JSON: "), ("{}", "is not a list of"), ("[1]", "is not a list of")]
)
def test_damaged_modules_are_refused(content: str, problem: str, tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    (checkpoint / "modules.json").write_text(content)
    with pytest.raises(ExportError, match=problem) as error:
        run_export(checkpoint)
    assert error.value.hint == "get the checkpoint again"


def test_an_architecture_without_a_fast_graph_is_refused(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint", "mpnet")
    with pytest.raises(ExportError) as error:
        run_export(checkpoint)
    assert said(error) == (
        "lmcli has no sentence encoder of the architecture 'mpnet' with these settings",
        "it has bert, roberta, xlm-roberta, camembert, electra, distilbert",
    )


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"num_hidden_layers": None}, "config.json does not describe its", id="a key is missing"),
        pytest.param({"num_attention_heads": 0}, "config.json does not describe its", id="no heads"),
        pytest.param({"hidden_size": "64"}, "config.json does not describe its", id="a string"),
        pytest.param({"num_hidden_layers": "2"}, "config.json does not describe its", id="another string"),
        pytest.param({"max_position_embeddings": []}, "config.json does not describe its", id="a list"),
        pytest.param({"layer_norm_eps": "x"}, "the weights do not fit config.json: ", id="an odd epsilon"),
        pytest.param(
            {"num_hidden_layers": 1}, "more than the 1 layers of its config.json", id="fewer layers"
        ),
        pytest.param(
            {"num_hidden_layers": 3}, "lacks weights of the model: bert.encoder.layer.2", id="more layers"
        ),
        pytest.param({"hidden_size": 128}, "the weights do not fit config.json: ", id="another size"),
        pytest.param({"hidden_act": "tanh_new"}, "no sentence encoder of the arch", id="another activation"),
    ],
)
def test_files_of_different_models_are_refused(
    changes: dict[str, Any], problem: str, tmp_path: Path, run_export: Export
) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    change_config(checkpoint, **changes)
    with pytest.raises(ExportError, match=problem):
        run_export(checkpoint)


def test_a_graph_that_differs_from_torch_is_refused(
    tmp_path: Path, run_export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcli.export.prove.GRAPH_TOLERANCE", 0.0)
    with pytest.raises(ExportError, match="the graph differs from the source model: max difference"):
        run_export(write_sentence_encoder(tmp_path / "checkpoint"))


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    weights = tensors(checkpoint)
    weights["encoder.layer.0.output.dense.bias"][0] = float("nan")
    save(checkpoint, weights)
    with pytest.raises(ExportError, match="weights that are no numbers"):
        run_export(checkpoint)


@pytest.mark.usefixtures("no_torch")
def test_weights_that_are_no_numbers_are_refused_without_torch(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_sentence_encoder(tmp_path / "checkpoint")
    weights = tensors(checkpoint)
    weights["encoder.layer.0.output.dense.bias"][0] = float("nan")
    save(checkpoint, weights)
    with pytest.raises(ExportError, match="weights that are no numbers"):
        run_export(checkpoint, precision="fp32")


def test_a_model_that_int8_ruins_is_refused_with_figures(
    tmp_path: Path, run_export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcli.export.embedding.MIN_COSINE", 1.1)
    with pytest.raises(ExportError, match=r"changes the model too much: lowest cosine 0\.9") as error:
        run_export(write_sentence_encoder(tmp_path / "checkpoint"))
    assert error.value.hint == "export with `--precision fp32`"


def test_the_manifest_names_the_source(tmp_path: Path, run_export: Export) -> None:
    manifest = run_export(write_sentence_encoder(tmp_path / "checkpoint"), lines=tuple(sample_lines()[:3]))
    assert (manifest.source["kind"], manifest.source["model"]) == ("directory", "checkpoint")
    assert json.loads((tmp_path / "bundles/tiny/manifest.json").read_text())["causal"] is None
