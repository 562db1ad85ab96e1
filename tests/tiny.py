"""Tiny bundles made by hand: what their models answer can be read off the text.

A text classifier adds up the weights of a text's words; a token classifier looks the scores of each token up
in a table. Everything else is as in a bundle that `lmcli export` makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from lmcli.bundle.load import load_encoder
from lmcli.bundle.manifest import MANIFEST_NAME, Activation, Manifest, Task
from lmcli.bundle.manifest import Device as MadeFor
from lmcli.bundle.store import read_bundle
from lmcli.bundle.write import file_facts
from lmcli.engine.devices import Device
from lmcli.engine.encoder import Encoder
from lmcli.export.graph import Graph

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
MOODS = ("NEGATIVE", "POSITIVE")
MOOD_WEIGHTS: Mapping[str, Sequence[float]] = {
    "good": (0, 1),
    "great": (0, 2),
    "bad": (1, 0),
    "awful": (2, 0),
}
NAMES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
NAME_SCORES: Mapping[str, Mapping[str, float]] = {
    "Marie": {"B-PER": 0.9},
    "Curie": {"I-PER": 0.8},
    "New": {"B-LOC": 0.7},
    "York": {"I-LOC": 0.9},
    "Paris": {"B-LOC": 0.6},
}
"""Scores of labels by token; what is left to 1 is shared by the other labels."""


def write_sentiment(
    path: Path,
    weights: Mapping[str, Sequence[float]] = MOOD_WEIGHTS,
    *,
    labels: Sequence[str] = MOODS,
    activation: Activation = "softmax",
    context_length: int = 64,
    made_for: MadeFor = "cpu",
    tokenizer: Tokenizer | None = None,
) -> Path:
    """A text classifier: each logit is the sum of the words' weights. Unknown words weigh nothing."""
    tokenizer = tokenizer or word_level(weights)
    table = np.zeros((tokenizer.get_vocab_size(), len(labels)), np.float32)
    for word, row in weights.items():
        table[tokenizer.token_to_id(word)] = row
    return write_bundle(
        path,
        task="text-classification",
        labels=labels,
        graph=summing(table),
        tokenizer=tokenizer,
        activation=activation,
        context_length=context_length,
        made_for=made_for,
    )


def write_ner(
    path: Path,
    scores: Mapping[str, Mapping[str, float]] = NAME_SCORES,
    *,
    labels: Sequence[str] = NAMES,
    context_length: int = 64,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """A token classifier: each token has the scores of the table; one that is not there is surely O."""
    tokenizer = tokenizer or word_level(scores)
    rows = [label_scores({"O": 0.99}, labels)] * tokenizer.get_vocab_size()
    for token, given in scores.items():
        rows[tokenizer.token_to_id(token)] = label_scores(given, labels)
    return write_bundle(
        path,
        task="token-classification",
        labels=labels,
        graph=looking_up(np.log(np.array(rows, np.float32))),
        tokenizer=tokenizer,
        context_length=context_length,
    )


def label_scores(given: Mapping[str, float], labels: Sequence[str]) -> list[float]:
    """The scores of all labels, which add up to 1."""
    rest = (1 - sum(given.values())) / (len(labels) - len(given))
    return [given.get(label, rest) for label in labels]


def write_bundle(
    path: Path,
    *,
    task: Task,
    labels: Sequence[str],
    graph: onnx.ModelProto,
    tokenizer: Tokenizer,
    activation: Activation = "softmax",
    context_length: int = 64,
    made_for: MadeFor = "cpu",
) -> Path:
    """Write a complete bundle; its directory."""
    path.mkdir(parents=True)
    onnx.save(graph, path / "model.onnx")
    tokenizer.save(str(path / "tokenizer.json"))
    (path / "README.md").write_text(f"# {path.name}\n")
    manifest = Manifest(
        name=path.name,
        task=task,
        model_type="bert",
        tier="plain",
        precision="fp32",
        device=made_for,
        labels=tuple(labels),
        activation=activation,
        context_length=context_length,
        inputs=("input_ids",),
        source={"kind": "directory", "model": path.name, "revision": None, "license": None, "tools": {}},
    )
    write_manifest(path, manifest)
    return path


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write the manifest of the files that are there."""
    (path / MANIFEST_NAME).write_bytes(replace(manifest, files=file_facts(path)).to_json())


@contextmanager
def open_encoder(path: Path, *, threads: int = 1) -> Iterator[tuple[Manifest, Encoder]]:
    """A bundle's manifest and its encoder on the CPU."""
    bundle = read_bundle(path)
    with load_encoder(bundle, Device("cpu"), threads=threads, report=lambda _: None) as encoder:
        yield bundle.manifest, encoder


def summing(table: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """input_ids (batch, sequence) to logits (batch, labels): the sum of the tokens' rows of the table."""
    graph = Graph()
    rows = graph.op("Gather", graph.constant(table, "table"), "input_ids", axis=0)
    graph.op("ReduceSum", rows, graph.constant([1]), keepdims=0, output="logits")
    return _model(graph, ["batch", "labels"])


def looking_up(table: npt.NDArray[np.float32]) -> onnx.ModelProto:
    """input_ids (batch, sequence) to logits (batch, sequence, labels): the tokens' rows of the table."""
    graph = Graph()
    graph.op("Gather", graph.constant(table, "table"), "input_ids", axis=0, output="logits")
    return _model(graph, ["batch", "sequence", "labels"])


def _model(graph: Graph, axes: list[str]) -> onnx.ModelProto:
    return graph.model(
        inputs={"input_ids": (TensorProto.INT64, ["batch", "sequence"])},
        outputs={"logits": (TensorProto.FLOAT, axes)},
    )


def word_level(words: Sequence[str] | Mapping[str, object], *, refuses_unknown: bool = False) -> Tokenizer:
    """Words between white space; an unknown one is [UNK], or the text is refused."""
    vocabulary = _ids([*SPECIAL, *words])
    # A vocabulary without its unknown token makes the tokenizer raise.
    unknown = "nowhere in the vocabulary" if refuses_unknown else "[UNK]"
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return _with_special(tokenizer)


def word_piece(pieces: Sequence[str]) -> Tokenizer:
    """BERT's cased tokenizer: words and punctuation, taken apart into pieces such as `##ing`."""
    tokenizer = Tokenizer(models.WordPiece(_ids([*SPECIAL, *pieces]), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return _with_special(tokenizer)


def metaspace(pieces: Sequence[str]) -> Tokenizer:
    """A Unigram tokenizer as SentencePiece has it: `▁` is the space before a word."""
    vocabulary = [(piece, 0.0 if piece in SPECIAL else -1.0) for piece in [*SPECIAL, *pieces]]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=SPECIAL.index("[UNK]")))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return _with_special(tokenizer)


def byte_level(pairs: Sequence[str] = ()) -> Tokenizer:
    """A byte-level BPE tokenizer: each byte of the text is a token, or one of the pairs of bytes."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(pair[0], pair[1]) for pair in pairs]
    tokenizer = Tokenizer(models.BPE(_ids([*SPECIAL, *alphabet, *pairs]), merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _with_special(tokenizer)


def _with_special(tokenizer: Tokenizer) -> Tokenizer:
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def _ids(tokens: Sequence[str]) -> dict[str, int]:
    return {token: index for index, token in enumerate(tokens)}
