"""Vectors of texts: in order, of any length, or refused."""

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from lmcli.engine.tokenizer import TokenizeError
from lmcli.errors import BundleError
from lmcli.export.graph import Graph
from tests import tiny
from tests.tiny_embedder import VECTORS, open_embedder, write_embedder


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedder(tmp_path_factory.mktemp("bundles") / "vectors", context_length=6)


def test_texts_have_vectors_in_their_order(vectors: Path) -> None:
    with open_embedder(vectors, threads=2) as embedder:
        found = embedder.embed(["cat", "dog dog", "cat", "nothing known", ""])
    assert found.dtype == np.float32
    assert found.tolist() == [[3, 4], [8, 6], [3, 4], [0, 0], [0, 0]]


def test_no_texts_have_no_vectors(vectors: Path) -> None:
    with open_embedder(vectors) as embedder:
        assert embedder.embed([]).shape == (0, 2)


def test_a_long_text_has_the_direction_and_length_of_its_windows(vectors: Path) -> None:
    """Windows of four words, of which each shares one with the one before it."""
    with open_embedder(vectors) as embedder:
        [mixed, same, refused] = embedder.embed(["cat cat cat cat dog dog", "cat " * 6, "word " * 6])
    # Windows (4 cats) and (1 cat, 2 dogs), which weigh 4 and 2.
    windows = np.array([[12, 16], [11, 10]])
    weights = np.array([4, 2]) / 6
    mean = weights @ windows
    length = weights @ np.linalg.norm(windows, axis=1)
    assert mixed == pytest.approx(mean / np.linalg.norm(mean) * length, rel=1e-6)
    assert same == pytest.approx(np.array([0.6, 0.8]) * (4 * 20 + 2 * 15) / 6, rel=1e-6)
    assert refused.tolist() == [0, 0]


def test_a_text_that_the_tokenizer_refuses(tmp_path: Path) -> None:
    strict = tiny.word_level(VECTORS, refuses_unknown=True)
    with open_embedder(write_embedder(tmp_path / "strict", tokenizer=strict)) as embedder:
        with pytest.raises(TokenizeError, match="the tokenizer refuses the text"):
            embedder.embed(["cat", "bird"])
        found = embedder.submit(["cat", "bird"])()
    assert isinstance(found["bird"], TokenizeError)
    assert not isinstance(found["cat"], TokenizeError)
    assert (found["cat"].vector.tolist(), found["cat"].num_tokens) == ([3, 4], 3)


def test_the_tokens_of_all_windows_count(vectors: Path) -> None:
    """Five words, of which the second window reads one again, and the two special tokens of each."""
    with open_embedder(vectors) as embedder:
        [found] = embedder.submit(["cat cat cat cat dog"])().values()
    assert not isinstance(found, TokenizeError)
    assert found.num_tokens == 6 + 4


def test_a_graph_without_embeddings_is_refused(tmp_path: Path) -> None:
    path = write_embedder(tmp_path / "other", output="logits")
    with pytest.raises(BundleError, match="the graph has no output `embeddings`"), open_embedder(path):
        pytest.fail("it was opened")


def test_a_graph_with_a_vector_for_each_token_is_refused(tmp_path: Path) -> None:
    graph = Graph()
    table = graph.constant(np.zeros((9, 2), np.float32), "table")
    graph.op("Gather", table, "input_ids", axis=0, output="embeddings")
    path = tiny.write_bundle(
        tmp_path / "tokens",
        task="feature-extraction",
        labels=(),
        graph=graph.model(
            inputs={"input_ids": (TensorProto.INT64, ["batch", "sequence"])},
            outputs={"embeddings": (TensorProto.FLOAT, ["batch", "sequence", 2])},
        ),
        tokenizer=tiny.word_level(VECTORS),
    )
    with pytest.raises(BundleError, match=r"embeddings of shape \(1, 1, 2\), not one for each row"):
        open_embedder(path).__enter__()
