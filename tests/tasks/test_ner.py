from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

from lmcli.export.graph import Graph
from lmcli.records.record import Failure, Record
from lmcli.tasks.ner import Ner, NerOptions
from tests import tiny

PIECES = ("Marie", "Cur", "##ie", "Paris", "in", "é", "東", "京", "❤", "👍", ",", "##s")
PIECE_SCORES: Mapping[str, Mapping[str, float]] = {
    "Marie": {"B-PER": 0.9},
    "Cur": {"I-PER": 0.8},
    "##ie": {"O": 0.9},
    "Paris": {"B-LOC": 0.6},
    "東": {"B-LOC": 0.7},
    "京": {"I-LOC": 0.9},
}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a WordPiece tokenizer."""
    path = tmp_path_factory.mktemp("bundles") / "pieces"
    return tiny.write_ner(path, PIECE_SCORES, tokenizer=tiny.word_piece(PIECES))


def records_of(path: Path, records: Sequence[Record], **options: Any) -> list[Record]:
    with tiny.open_encoder(path) as (manifest, encoder):
        return list(Ner(manifest, encoder, NerOptions(**options))(records))


def found(path: Path, text: str, **options: Any) -> list[dict[str, Any]]:
    [record] = records_of(path, [Record(text)], **options)
    assert record.failure is None
    entities: list[dict[str, Any]] = record.fields["entities"]
    return entities


def brief(entities: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, int]]:
    return [(entity["label"], entity["text"], entity["start"]) for entity in entities]


def test_entities(names: Path) -> None:
    assert found(names, "Marie Curie left Paris") == [
        {"label": "PER", "text": "Marie Curie", "start": 0, "end": 11, "score": 0.85},
        {"label": "LOC", "text": "Paris", "start": 17, "end": 22, "score": 0.6},
    ]


def test_tokens_are_counted(names: Path) -> None:
    blank, one, again = records_of(
        names, [Record(""), Record("Marie Curie left"), Record("Marie Curie left")]
    )
    assert dict(blank.counts) == {}
    assert dict(one.counts) == dict(again.counts) == {"entities.results": 1, "entities.tokens": 5}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Marie\u00a0Curie", [("PER", "Marie\u00a0Curie", 0)]),
        ("👩\u200d🔬 Marie", [("PER", "Marie", 4)]),
        ("❤\ufe0f👍🏽 Paris ❤", [("LOC", "Paris", 5)]),
        ("e\u0301é Paris", [("LOC", "Paris", 4)]),
        ("私は東京, Paris", [("LOC", "東京", 2), ("LOC", "Paris", 6)]),
        ("\U00020000 Marie\t Curie", [("PER", "Marie\t Curie", 2)]),
        ("  Paris\r", [("LOC", "Paris", 2)]),
    ],
    ids=["no-break space", "joined", "modifiers", "combining", "Han", "beyond the BMP", "white space"],
)
def test_offsets_are_characters_of_the_text(
    pieces: Path, text: str, expected: list[tuple[str, str, int]]
) -> None:
    entities = found(pieces, text)
    assert brief(entities) == expected
    assert [text[entity["start"] : entity["end"]] for entity in entities] == [
        entity["text"] for entity in entities
    ]


@given(text=st.text(alphabet="MarieCus Pin,é東京❤👍\u0301\ufe0f\u200d\t\x01", max_size=40))
@pytest.mark.parametrize("strategy", ["first", "average", "max", "simple"])
def test_entities_are_disjoint_parts_of_the_text(pieces: Path, strategy: str, text: str) -> None:
    entities = found(pieces, text, strategy=strategy)
    assert [text[entity["start"] : entity["end"]] for entity in entities] == [
        entity["text"] for entity in entities
    ]
    ends = [0, *(entity["end"] for entity in entities)]
    assert all(entity["start"] >= end for entity, end in zip(entities, ends, strict=False))
    assert all(entity["text"].strip() == entity["text"] != "" for entity in entities)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("first", [("PER", "Marie Curie", 0, 0.85)]),
        ("average", [("PER", "Marie", 0, 0.9)]),
        ("max", [("PER", "Marie", 0, 0.9)]),
        ("simple", [("PER", "Marie Cur", 0, 0.85)]),
    ],
)
def test_strategy(pieces: Path, strategy: str, expected: list[tuple[str, str, int, float]]) -> None:
    # Of the second word `Cur` is I-PER with 0.8, `##ie` is O with 0.9.
    entities = found(pieces, "Marie Curie", strategy=strategy)
    assert [(*brief([entity])[0], entity["score"]) for entity in entities] == expected


def test_the_space_of_a_token_is_no_part_of_an_entity(tmp_path: Path) -> None:
    path = tiny.write_ner(
        tmp_path / "names",
        {"ĠP": {"B-LOC": 0.9}, "a": {"I-LOC": 0.9}, "Ġ": {"B-LOC": 0.9}},
        tokenizer=tiny.byte_level(["ĠP"]),
    )
    assert brief(found(path, "in Pa  ")) == [("LOC", "Pa", 3)]


@pytest.mark.parametrize("strategy", ["first", "average", "max"])
def test_a_character_of_several_tokens_is_one_entity(tmp_path: Path, strategy: str) -> None:
    built = tiny.byte_level()
    smile = [built.id_to_token(token_id) for token_id in built.encode("😀").ids[1:-1]]
    path = tiny.write_ner(tmp_path / "smiles", {token: {"B-PER": 0.9} for token in smile}, tokenizer=built)
    assert brief(found(path, "x 😀 y", strategy=strategy)) == [("PER", "😀", 2)]


LONG = "Marie Curie x New York x x Paris Marie x Paris x New York x x x Marie Curie Curie x New x York " * 3


@pytest.mark.parametrize("context_length", [4, 8, 11, 16, 30])
@pytest.mark.parametrize("strategy", ["first", "average", "max", "simple"])
def test_windows_give_what_a_single_one_gives(tmp_path: Path, context_length: int, strategy: str) -> None:
    """The model looks at one token at a time, so windows must make no difference to it."""
    path = tiny.write_ner(tmp_path / "names", context_length=context_length)
    wide = tiny.write_ner(tmp_path / "wide", context_length=1000)
    assert found(path, LONG, strategy=strategy) == found(wide, LONG, strategy=strategy)


def test_a_token_is_judged_where_it_stands_farther_from_an_edge(tmp_path: Path) -> None:
    """Rows hold 14 words, 3 of them twice; the label of a word is its place in the row that judges it."""
    tokenizer = tiny.word_level(["a"])
    path = tiny.write_bundle(
        tmp_path / "places",
        task="token-classification",
        labels=[f"P{place}" for place in range(16)],
        graph=_placing(16),
        tokenizer=tokenizer,
        context_length=16,
    )
    entities = found(path, " ".join(["a"] * 20), strategy="simple")
    # Words 11, 12 and 13 stand at the end of the first row and begin the second one.
    assert [entity["label"] for entity in entities] == [
        *(f"P{place}" for place in range(1, 13)),
        *(f"P{place}" for place in range(2, 10)),
    ]


def _placing(size: int) -> onnx.ModelProto:
    """Logits that are largest at the label whose number is the place of the token."""
    graph = Graph()
    ones = graph.op("Cast", graph.op("Equal", "input_ids", "input_ids"), to=TensorProto.INT64)
    places = graph.op("Sub", graph.op("CumSum", ones, graph.constant(1)), graph.constant(1))
    graph.op("Gather", graph.constant(np.eye(size, dtype=np.float32) * 9), places, axis=0, output="logits")
    return graph.model(
        inputs={"input_ids": (TensorProto.INT64, ["batch", "sequence"])},
        outputs={"logits": (TensorProto.FLOAT, ["batch", "sequence", "labels"])},
    )


@pytest.mark.parametrize("text", ["", " \t", "\x01", "x" * 70_000, "\x01" * 70_000], ids=range(5))
def test_texts_without_names_have_no_entities(pieces: Path, text: str) -> None:
    assert found(pieces, text) == []


def test_failed_records_pass_untouched(names: Path) -> None:
    failed = Record("Marie", "in", 2, failure=Failure("too_long", "900"))
    assert records_of(names, [Record("Paris"), failed])[1] is failed


def test_the_field_is_named_by_the_options(names: Path) -> None:
    [record] = records_of(names, [Record("x").with_fields(kept=1)], as_field="names")
    assert record.fields == {"kept": 1, "names": []}


@pytest.mark.parametrize(
    ("style", "lines"),
    [
        ("inline", ["[Marie Curie](PER) left [Paris](LOC)"]),
        ("spans", ["in\t7\t0\t11\tPER\t0.8500\tMarie Curie", "in\t7\t17\t22\tLOC\t0.6000\tParis"]),
        ("conll", ["Marie B-PER", "Curie I-PER", "left O", "Paris B-LOC", ""]),
    ],
)
def test_the_text_form_is_in_the_style(names: Path, style: Any, lines: list[str]) -> None:
    with tiny.open_encoder(names) as (manifest, encoder):
        task = Ner(manifest, encoder, NerOptions(style=style))
        [record] = task([Record("Marie Curie left Paris", "in", 7)])
        assert task.lines(record) == lines
        assert (task.adds, task.columns) == (("entities",), ("entities",))
