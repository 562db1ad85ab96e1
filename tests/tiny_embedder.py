"""A tiny sentence encoder made by hand: an embedding is the sum of the vectors of a text's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto
from tokenizers import Tokenizer

from lmcli.bundle.load import load_embedder
from lmcli.bundle.store import read_bundle
from lmcli.engine.devices import Device
from lmcli.engine.embedder import Embedder
from lmcli.export.graph import Graph
from tests import tiny

VECTORS: Mapping[str, Sequence[float]] = {"cat": (3, 4), "dog": (4, 3), "stock": (0, -2)}


def write_embedder(
    path: Path, *, context_length: int = 64, tokenizer: Tokenizer | None = None, output: str = "embeddings"
) -> Path:
    """A bundle whose words have the vectors above; other words, and special tokens, have zeros."""
    tokenizer = tokenizer or tiny.word_level(VECTORS)
    table = np.zeros((tokenizer.get_vocab_size(), 2), np.float32)
    for word, vector in VECTORS.items():
        table[tokenizer.token_to_id(word)] = vector
    return tiny.write_bundle(
        path,
        task="feature-extraction",
        labels=(),
        graph=_summing(table, output),
        tokenizer=tokenizer,
        activation="none",
        context_length=context_length,
    )


@contextmanager
def open_embedder(path: Path, *, threads: int = 1) -> Iterator[Embedder]:
    """The embedder of a bundle on the CPU."""
    bundle = read_bundle(path)
    with load_embedder(bundle, Device("cpu"), threads=threads, report=lambda _: None) as embedder:
        yield embedder


def _summing(table: np.ndarray[tuple[int, int], np.dtype[np.float32]], output: str) -> onnx.ModelProto:
    graph = Graph()
    rows = graph.op("Gather", graph.constant(table, "table"), "input_ids", axis=0)
    graph.op("ReduceSum", rows, graph.constant([1]), keepdims=0, output=output)
    return graph.model(
        inputs={"input_ids": (TensorProto.INT64, ["batch", "sequence"])},
        outputs={output: (TensorProto.FLOAT, ["batch", 2])},
    )
