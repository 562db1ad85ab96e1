from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lmcli.errors import DataError, NoInputError, UsageError
from lmcli.prompting.examples import Example, Select, fixed_order, make_shots, read_examples

MOODS = [
    Example({"text": text}, label)
    for text, label in (
        ("a fine day", "good"),
        ("a fine film", "good"),
        ("a sad day", "bad"),
        ("a fine meal", "good"),
        ("a sad song", "bad"),
        ("so so", "fair"),
    )
]


class Letters:
    """Embeds a text as how often it has each letter."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        return np.array(
            [[text.count(chr(97 + letter)) for letter in range(26)] for text in texts], np.float32
        )


def chosen(select: Select, text: str, num_shots: int = 3, **settings: Any) -> list[str]:
    shots = make_shots(MOODS, select, num_shots=num_shots, **settings)
    [found] = shots([{"text": text}])
    return [example.fields["text"] for example in found]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("e.jsonl", b'{"text": "a", "label": "x"}\n\n{"text": "b", "label": 1}\n'),
        ("e.tsv", b"text\tlabel\na\tx\n\t\nb\t1\n"),
        ("e.csv", b"label,text\r\nx,a\r\n1,b\r\n"),
        ("e.jsonl.gz", gzip.compress(b'{"text": "a", "label": "x"}\n{"text": "b", "label": 1}\n')),
    ],
    ids=["jsonl", "tsv", "csv", "gzip"],
)
def test_examples_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    found = [example for example in read_examples(str(path), ["text"]) if example.answer]
    assert found == [Example({"text": "a"}, "x"), Example({"text": "b"}, "1")]


def write(path: Path, content: str) -> str:
    path.write_text(content)
    return str(path)


def test_fields_of_examples(tmp_path: Path) -> None:
    path = write(tmp_path / "e", '{"q": {"body": "a"}, "n": 1, "output": "o", "answer": "x"}\n')
    found = read_examples(path, ["text", "q.body", "n"], text_field="q.body", file_format="jsonl")
    assert found == [Example({"text": "a", "q.body": "a", "n": "1"}, "x")]
    assert read_examples(path, ["n"], answer="output", file_format="jsonl") == [Example({"n": "1"}, "o")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("e.jsonl", "{}\n", ":1: no field 'label' or 'answer' or 'output'; there are none"),
        ("e.jsonl", '{"label": 1}\n', ":1: no field 'text'; there are 'label'"),
        ("e.jsonl", '{"label": 1, "text": ""}\n[]\n', ":2: an array instead of a JSON object"),
        ("e.jsonl", '{"label": 1, "text": ""}\n{"text": ""}\n', ":2: no field 'label'; there are 'text'"),
        ("e.tsv", "text\tlabel\na\n", ":2: 1 cell where the header has 2"),
        ("e.tsv", "text\tlabel\n", ": there are no examples in it"),
    ],
)
def test_broken_examples(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(DataError) as error:
        read_examples(path, ["text"])
    assert error.value.message == path + message


def test_files_that_hold_no_examples(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        read_examples(write(tmp_path / "e.txt", "a\n"), ["text"])
    assert error.value.hint == "name the format with --examples-format"
    with pytest.raises(NoInputError):
        read_examples(str(tmp_path / "none.jsonl"), ["text"])


@pytest.mark.parametrize(
    ("select", "text", "found"),
    [
        ("first", "x", ["a fine day", "a fine film", "a sad day"]),
        ("first", " A  FINE\tfilm ", ["a fine day", "a sad day", "a fine meal"]),
        ("bm25", "this sad song", ["a fine day", "a sad day", "a sad song"]),
        ("bm25", "Zebra!", ["a sad day", "a fine film", "a fine day"]),
        ("bm25", "a sad song", ["a fine film", "a fine day", "a sad day"]),
        ("similar", "sos sos", ["a sad day", "a sad song", "so so"]),
        ("similar", "So So", ["a fine film", "a fine day", "a sad song"]),
    ],
)
def test_examples_for_a_question(select: Select, text: str, found: list[str]) -> None:
    assert chosen(select, text, embedder=Letters()) == found


def test_random_examples_depend_on_the_seed_alone() -> None:
    assert chosen("random", "x", seed=1) == chosen("random", "y", seed=1)
    assert len({tuple(chosen("random", "x", 6, seed=seed)) for seed in range(20)}) > 10
    whole = chosen("random", "x", 6, seed=1)
    assert sorted(whole) == sorted(example.fields["text"] for example in MOODS)
    # The one that is left out changes nothing before it.
    assert chosen("random", whole[2], 3, seed=1) == [*whole[:2], whole[3]]


@pytest.mark.parametrize("seed", range(5))
def test_balanced_examples_take_answers_in_turn(seed: int) -> None:
    answers = [example.answer for example in MOODS]
    order = fixed_order(answers, "balanced", seed)
    assert [answers[number] for number in order] == ["good", "bad", "fair", "good", "bad", "good"]
    assert sorted(order) == list(range(6))


def test_fewer_examples_than_wanted() -> None:
    assert len(chosen("first", "a fine day", 6)) == 5
    assert chosen("first", "x", 0) == []
