"""The shipped translation model against transformers on real text: the same tokens, in any batch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmcli.bundle.load import load_seq2seq
from lmcli.bundle.manifest import Seq2SeqFacts
from lmcli.bundle.store import read_bundle
from lmcli.engine.devices import Device
from lmcli.engine.seq2seq import Seq2Seq, Source
from lmcli.engine.tokenizer import TokenizeError

pytest.importorskip("optimum.exporters.onnx")

from lmcli.export.convert import export
from lmcli.export.options import ExportOptions

SHARED = Path(__file__).parents[2].parent / "shared"
CHECKPOINT = SHARED / "checkpoints" / "translate-en-fr"
MAX_NEW_TOKENS = 100
BATCH = 32

pytestmark = [
    pytest.mark.export,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(900),
    pytest.mark.skipif(not CHECKPOINT.is_dir(), reason="needs the checkpoint and the texts in ../shared"),
]


@pytest.fixture(scope="module")
def lines() -> list[str]:
    """All held-out sentences, and 200 lines of a book that the model was not made for."""
    data = SHARED / "data"
    heldout = (data / "tatoeba-en-fr.heldout.tsv").read_text(encoding="utf-8").splitlines()
    book = (data / "chekhov.txt").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[0] for line in heldout] + [line.strip() for line in book if line.strip()][
        200:400
    ]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Seq2Seq, Seq2SeqFacts]]:
    path = export(
        str(CHECKPOINT),
        "exact",
        ExportOptions(precision="fp32"),
        parent=tmp_path_factory.mktemp("bundles"),
        report=lambda _: None,
    )
    bundle = read_bundle(path)
    assert bundle.manifest.seq2seq is not None
    with load_seq2seq(bundle, Device("cpu"), threads=2, report=lambda _: None) as engine:
        yield engine, bundle.manifest.seq2seq


@pytest.fixture(scope="module")
def reference() -> tuple[Any, Any]:
    """transformers' model and tokenizer."""
    from transformers import MarianMTModel, MarianTokenizer

    model = MarianMTModel.from_pretrained(CHECKPOINT, attn_implementation="eager").eval()
    return model, MarianTokenizer.from_pretrained(CHECKPOINT)


@pytest.mark.parametrize("num_beams", [1, 4])
def test_tokens_are_those_of_transformers_alone_and_in_batches(
    num_beams: int, lines: list[str], opened: tuple[Seq2Seq, Seq2SeqFacts], reference: tuple[Any, Any]
) -> None:
    from dataclasses import replace

    engine, facts = opened
    config = replace(facts.generation, num_beams=num_beams, max_new_tokens=MAX_NEW_TOKENS)
    rows = engine.tokenizer.encode(lines)
    sources = [Source(row, MAX_NEW_TOKENS) for row in rows if not isinstance(row, TokenizeError)]
    together = engine.generate(sources, config)
    ours = [[facts.generation.decoder_start_token_id, *found[0].token_ids] for found in together]
    assert [engine.generate([source], config)[0] for source in sources] == together
    for start in range(0, len(lines), BATCH):
        batch = slice(start, start + BATCH)
        assert ours[batch] == generate(*reference, lines[batch], num_beams)


def generate(model: Any, tokenizer: Any, lines: list[str], num_beams: int) -> list[list[int]]:
    """transformers' tokens of a padded batch, without the end."""
    import torch

    inputs = tokenizer(lines, return_tensors="pt", padding=True)
    with torch.inference_mode():
        found = model.generate(
            **inputs, num_beams=num_beams, do_sample=False, max_new_tokens=MAX_NEW_TOKENS, max_length=None
        )
    end = model.config.eos_token_id
    return [tokens[: tokens.index(end)] if end in tokens else tokens for tokens in found.tolist()]
