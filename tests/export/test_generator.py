"""Whole exports of tiny random encoder-decoders, and what must fail."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lmcli.bundle.load import load_seq2seq
from lmcli.bundle.manifest import Manifest
from lmcli.bundle.store import read_bundle
from lmcli.engine.devices import Device
from lmcli.engine.seq2seq import Source
from lmcli.engine.tokenizer import TokenizeError
from lmcli.errors import ExportError

pytest.importorskip("optimum.exporters.onnx")

from lmcli.export.convert import export
from lmcli.export.options import ExportOptions
from lmcli.export.prove import sample_lines
from tests.export.seq2seq_models import FAST, write_checkpoint

pytestmark = [pytest.mark.export, pytest.mark.filterwarnings("ignore")]

Export = Callable[..., Manifest]
TASKS = {"bart": "summarization", "pegasus": "summarization"}
# A few of the sample lines, so that a test takes seconds.
LINES = tuple(sample_lines()[::12])
SUMMARY = {"summarization": {"prefix": "sum up: ", "num_beams": 3, "max_length": 40, "min_length": 5}}
TRANSLATION = {"translation_en_to_de": {"prefix": "translate English to German: ", "max_length": 33}}


@pytest.fixture
def run_export(tmp_path: Path) -> Export:
    def run(checkpoint: Path, *, lines: tuple[str, ...] = LINES, **options: Any) -> Manifest:
        path = export(
            str(checkpoint),
            "tiny",
            ExportOptions(lines=lines, **options),
            parent=tmp_path / "bundles",
            report=lambda _: None,
        )
        return read_bundle(path).manifest

    return run


@pytest.mark.parametrize("model_type", FAST)
def test_fast_graphs_equal_torch_and_int8_keeps_their_decisions(
    model_type: str, tmp_path: Path, run_export: Export
) -> None:
    task = TASKS.get(model_type, "translation")
    manifest = run_export(write_checkpoint(tmp_path / "checkpoint", model_type), task=task)
    assert (manifest.tier, manifest.precision, manifest.task) == ("fast", "int8", task)
    assert manifest.inputs == ("input_ids",)
    assert manifest.seq2seq is not None
    assert manifest.proof["tokenizer"]["different"] == 0
    assert manifest.proof["graph"]["max_difference"] < 1e-4
    assert manifest.proof["precision"]["relative_error"] < 0.15
    assert manifest.proof["batch"]["max_difference"] == 0


@pytest.mark.parametrize(
    ("options", "precision"),
    [
        pytest.param({"precision": "fp32"}, "fp32", id="fp32"),
        pytest.param({"precision": "fp16"}, "fp16", id="fp16 for the CPU"),
        pytest.param({"device": "cuda"}, "fp16", id="CUDA gets fp16"),
        pytest.param({"device": "cuda", "precision": "fp32"}, "fp32", id="fp32 for CUDA"),
    ],
)
@pytest.mark.parametrize("model_type", ["marian", "t5"])
def test_other_precisions_are_proven_on_the_cpu(
    model_type: str, options: dict[str, Any], precision: str, tmp_path: Path, run_export: Export
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", model_type)
    manifest = run_export(checkpoint, task="translation", **options)
    assert (manifest.precision, manifest.tier) == (precision, "fast")
    if precision == "fp32":
        assert manifest.proof["batch"]["max_difference"] < 1e-4
    else:
        assert manifest.proof["precision"]["relative_error"] < 0.01


def test_the_same_checkpoint_gives_the_same_bytes(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "marian")
    assert run_export(checkpoint) == run_export(checkpoint, force=True)


def test_the_bundle_generates_what_transformers_does(tmp_path: Path, run_export: Export) -> None:
    """From text to text, through both tokenizers."""
    import torch
    from transformers import MarianMTModel, MarianTokenizer

    checkpoint = write_checkpoint(tmp_path / "checkpoint", "marian")
    manifest = run_export(checkpoint, precision="fp32")
    assert manifest.seq2seq is not None
    model = MarianMTModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
    source = MarianTokenizer.from_pretrained(checkpoint)
    lines = ["The house stands at the end of the street.", "Where is it?", "I don't know what you mean."]
    bundle = read_bundle(tmp_path / "bundles" / "tiny")
    with load_seq2seq(bundle, Device("cpu"), threads=1, report=lambda _: None) as engine:
        rows = engine.tokenizer.encode(lines)
        sources = [Source(row, 15) for row in rows if not isinstance(row, TokenizeError)]
        found = engine.generate(sources, manifest.seq2seq.generation)
        ours = engine.tokenizer.decode([hypotheses[0].token_ids for hypotheses in found])
    for line, text in zip(lines, ours, strict=True):
        with torch.inference_mode():
            tokens = model.generate(**source(line, return_tensors="pt"), max_new_tokens=15, max_length=None)
        assert text == source.decode(tokens[0], skip_special_tokens=True)


def test_languages_and_settings_of_the_task_are_in_the_manifest(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "t5", task_specific_params=SUMMARY | TRANSLATION)
    with pytest.raises(ExportError, match="was trained for no task"):
        run_export(checkpoint)
    facts = run_export(checkpoint, task="summarization").seq2seq
    assert facts is not None
    assert facts.prompt == "sum up: "
    assert not facts.target_languages
    generation = facts.generation
    assert (generation.num_beams, generation.max_new_tokens, generation.min_new_tokens) == (3, 39, 4)
    facts = run_export(checkpoint, task="translation", force=True).seq2seq
    assert facts is not None
    assert facts.prompt == ""
    assert facts.target_languages["de"].prompt == "translate English to German: "
    assert facts.generation.max_new_tokens == 32


def test_one_set_of_task_parameters_names_the_task(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "t5", task_specific_params=SUMMARY)
    assert run_export(checkpoint).task == "summarization"


def test_the_card_says_what_the_bundle_is(tmp_path: Path, run_export: Export) -> None:
    run_export(write_checkpoint(tmp_path / "checkpoint", "marian"), lines=())
    card = (tmp_path / "bundles" / "tiny" / "README.md").read_text()
    assert "lmcli translate --model tiny" in card
    assert "Translates: en to fr." in card
    assert "0 of 63 lines differ" in card


def test_a_graph_that_differs_from_torch_is_refused_and_nothing_is_left(
    tmp_path: Path, run_export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcli.export.prove_generator.GRAPH_TOLERANCE", 1e-9)
    with pytest.raises(ExportError, match="the graphs differ from the source model: max difference"):
        run_export(write_checkpoint(tmp_path / "checkpoint", "marian"))
    assert list((tmp_path / "bundles").iterdir()) == []


def test_a_model_that_int8_ruins_is_refused_with_figures(
    tmp_path: Path, run_export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lmcli.export.prove_generator.LOGITS_TOLERANCE", 1e-4)
    with pytest.raises(ExportError, match="changes the model too much: relative error"):
        run_export(write_checkpoint(tmp_path / "checkpoint", "marian"))


def test_an_output_that_depends_on_its_batch_is_refused(
    tmp_path: Path, run_export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmcli.engine.seq2seq import Seq2Seq

    logits = Seq2Seq.logits

    def disturbed(self: Seq2Seq, rows: Any, token_ids: Any) -> Any:
        return logits(self, rows, token_ids) + np.float32(len(rows) > 1)

    monkeypatch.setattr(Seq2Seq, "logits", disturbed)
    with pytest.raises(ExportError, match="a line's output depends on its batch"):
        run_export(write_checkpoint(tmp_path / "checkpoint", "marian"))


def set_generation(checkpoint: Path, **changes: object) -> None:
    path = checkpoint / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_published_settings_are_taken_over(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "bart")
    set_generation(
        checkpoint,
        num_beams=4,
        length_penalty=2.0,
        early_stopping=True,
        no_repeat_ngram_size=3,
        min_length=10,
        max_length=50,
        forced_bos_token_id=0,
        forced_eos_token_id=2,
        bad_words_ids=[[7], [8, 9]],
        suppress_tokens=[11],
        eos_token_id=[2, 5],
    )
    facts = run_export(checkpoint).seq2seq
    assert facts is not None
    generation = facts.generation
    assert (generation.num_beams, generation.length_penalty, generation.early_stopping) == (4, 2.0, True)
    assert (generation.no_repeat_ngram_size, generation.min_new_tokens) == (3, 9)
    assert (generation.forced_bos_token_id, generation.forced_eos_token_id) == (0, 2)
    assert (generation.suppress_tokens, generation.bad_words_ids) == ((7, 11), ((8, 9),))
    assert (generation.max_new_tokens, generation.eos_token_ids) == (49, (2, 5))


def test_outputs_are_as_long_as_the_positions_reach(tmp_path: Path, run_export: Export) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "marian")
    set_generation(checkpoint, max_length=100_000)
    facts = run_export(checkpoint).seq2seq
    assert facts is not None
    assert facts.generation.max_new_tokens == 129


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_beams": "four"}, "num_beams"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"repetition_penalty": 0.5}, "repetition_penalty is 0.5"),
        ({"bad_words_ids": [["x"]]}, "bad_words_ids"),
        ({"eos_token_id": None}, "names no token"),
        ({"num_beams": 2, "do_sample": True}, "exclude each other"),
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(
    changes: dict[str, object], message: str, tmp_path: Path, run_export: Export
) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "marian")
    set_generation(checkpoint, **changes)
    with pytest.raises(ExportError, match=message):
        run_export(checkpoint)


def test_settings_that_lmcli_does_not_have_are_named(tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "checkpoint", "marian")
    set_generation(checkpoint, encoder_no_repeat_ngram_size=3, num_beam_groups=2)
    said: list[str] = []
    export(
        str(checkpoint), "tiny", ExportOptions(lines=LINES), parent=tmp_path / "bundles", report=said.append
    )
    assert (
        "left out of its generation settings, unknown to lmcli: encoder_no_repeat_ngram_size, num_beam_groups"
        in said
    )
