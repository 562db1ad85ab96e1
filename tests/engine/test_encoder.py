from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from lmcli.bundle.store import shipped
from lmcli.engine.encoder import Encoded, Encoder, Logits
from lmcli.engine.tokenizer import TokenizeError
from lmcli.export.graph import Graph
from lmcli.export.prove import sample_lines
from tests import tiny

LINES = sample_lines()


def logits_of(encoder: Encoder, texts: Sequence[str]) -> list[list[Logits]]:
    results = encoder.encode(texts)
    assert all(isinstance(result, Encoded) for result in results)
    return [result.logits for result in results if isinstance(result, Encoded)]


def test_results_are_in_the_order_of_the_texts(moods: Path) -> None:
    counts = [(bad, good) for bad in range(6) for good in range(5)]
    texts = [f"{'bad ' * bad}x {'good ' * good}" for bad, good in counts]
    with tiny.open_encoder(moods, threads=2) as (_, encoder):
        found = logits_of(encoder, texts)
    assert [[tuple(row.tolist()) for row in rows] for rows in found] == [[pair] for pair in counts]


def test_a_refused_text_keeps_its_place(strict_moods: Path) -> None:
    with tiny.open_encoder(strict_moods) as (_, encoder):
        good, refused, bad = encoder.encode(["good", "grief", "bad"])
    assert isinstance(refused, TokenizeError)
    assert isinstance(good, Encoded)
    assert isinstance(bad, Encoded)
    assert [good.logits[0].tolist(), bad.logits[0].tolist()] == [[0, 1], [1, 0]]


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    """A model whose logits tell the shape of the batch: rows and tokens."""
    tokenizer = tiny.word_level(["a", "b", "c"])
    return tiny.write_bundle(
        tmp_path / "shapes",
        task="text-classification",
        labels=("ROWS", "TOKENS"),
        graph=_shape_graph(tokenizer.get_vocab_size()),
        tokenizer=tokenizer,
    )


def _shape_graph(size: int) -> onnx.ModelProto:
    graph = Graph()
    nothing = graph.op("Gather", graph.constant(np.zeros((size, 2), np.float32)), "input_ids", axis=0)
    rows = graph.op("ReduceSum", nothing, graph.constant([1]), keepdims=0)
    shape = graph.op("Cast", graph.op("Shape", "input_ids"), to=TensorProto.FLOAT)
    graph.op("Add", rows, shape, output="logits")
    return graph.model(
        inputs={"input_ids": (TensorProto.INT64, ["batch", "sequence"])},
        outputs={"logits": (TensorProto.FLOAT, ["batch", "labels"])},
    )


@pytest.mark.parametrize(
    ("texts", "ran_as"),
    [
        (["a", "b b", "c"], [(2, 3), (1, 4), (2, 3)]),
        (["a b c", "a", ""], [(1, 5), (1, 3), (1, 2)]),
        (["a b", "a b", "a b"], [(1, 4)] * 3),
    ],
    ids=["equal lengths together", "other lengths apart", "equal texts once"],
)
def test_batches_hold_equal_rows(shapes: Path, texts: list[str], ran_as: list[tuple[int, int]]) -> None:
    with tiny.open_encoder(shapes) as (_, encoder):
        found = logits_of(encoder, texts)
    assert [tuple(rows[0].tolist()) for rows in found] == ran_as


def test_batches_are_limited(shapes: Path) -> None:
    texts = [" ".join(f"{index:08b}").replace("0", "a").replace("1", "b") for index in range(256)]
    with tiny.open_encoder(shapes) as (_, encoder):
        found = logits_of(encoder, texts)
    sizes = [int(rows[0][0]) for rows in found]
    assert sizes == [51] * 255 + [1]  # 51 rows of 10 tokens are the most below 512


@pytest.fixture(scope="module", params=["sentiment-en", "ner-en"])
def alone(request: pytest.FixtureRequest) -> tuple[Path, list[list[Logits]]]:
    """A shipped bundle, and its logits for each sample line by itself."""
    path = shipped() / request.param
    with tiny.open_encoder(path) as (_, encoder):
        return path, [logits_of(encoder, [line])[0] for line in LINES]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_line_has_the_same_logits_alone_and_in_any_batch(
    alone: tuple[Path, list[list[Logits]]], threads: int
) -> None:
    path, expected = alone
    # Neighbours of the same length, which say something else, and another order.
    neighbours = [" ".join(reversed(line.split())) for line in LINES[:-1]]
    with tiny.open_encoder(path, threads=threads) as (_, encoder):
        found = logits_of(encoder, [*neighbours, *reversed(LINES)])[len(neighbours) :]
    for ours, theirs in zip(reversed(found), expected, strict=True):
        assert [row.tobytes() for row in ours] == [row.tobytes() for row in theirs]
