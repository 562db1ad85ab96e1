"""`read_examples`: questions with their answers; `Shots` chooses some of them for each new question."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from typing import Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from lmcli.errors import DataError, UsageError
from lmcli.prompting.template import TEXT, Fields, MissingFieldError, as_text, pick
from lmcli.records.read import InputFormat, ReadOptions, RecordReader, resolve_format
from lmcli.records.record import Record, find_value
from lmcli.spelling import names_known

Select = Literal["first", "random", "balanced", "bm25", "similar"]
ANSWERS = ("label", "answer", "output")
"""Where the answer of an example is looked for if nobody says."""

Rank = Callable[[Sequence[str]], Iterable[Sequence[int]]]
"""From questions to the numbers of the examples for each, the most wanted first; one question at a time."""


class Example(NamedTuple):
    """A question, as the fields of the template, and its answer."""

    fields: Fields
    answer: str


class Embedder(Protocol):
    """What makes vectors of texts."""

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """(texts, hidden)."""
        ...


def read_examples(
    path: str,
    names: Sequence[str],
    *,
    answer: str | None = None,
    text_field: str = TEXT,
    file_format: InputFormat | Literal["auto"] = "auto",
    encoding: str | None = None,
) -> list[Example]:
    """All examples of a JSONL or table file, with the values of the template's fields.

    Raises DataError for a record that is broken or lacks a field, UsageError if there is no telling what the
    format is.
    """
    if resolve_format([path], file_format) == "text":
        raise UsageError(
            f"{path}: examples are JSONL, TSV or CSV", hint="name the format with --examples-format"
        )
    reader = RecordReader([path], ReadOptions(format=file_format, field=None, encoding=encoding))
    examples = []
    for record in reader:
        where = f"{record.source}:{record.line}"
        if record.failure is not None:
            raise DataError(f"{where}: {record.failure.message}")
        if record.raw is None:  # a blank line
            continue
        try:
            answer = answer or _answer_field(record)
            examples.append(_example(record, names, answer, text_field))
        except MissingFieldError as error:
            raise DataError(
                f"{where}: {error}", hint="the template names the fields of an example, --answer its answer"
            ) from error
    if not examples:
        raise DataError(f"{path}: there are no examples in it")
    return examples


def content(fields: Fields) -> str:
    """What a question is about: the values that the template shows, without the template."""
    return "\n".join(fields.values())


class Shots:
    """Chooses `num_shots` examples for each question, never one with the question's own content.

    Fixed orders keep theirs, so that prompts begin alike; of those that depend on the question the nearest
    example is the last, next to the question.
    """

    def __init__(
        self, examples: Sequence[Example], rank: Rank, *, num_shots: int, nearest_last: bool
    ) -> None:
        self._examples = examples
        self._rank = rank
        self._num_shots = num_shots
        self._step = -1 if nearest_last else 1
        self._contents = [normalized(content(example.fields)) for example in examples]

    def __call__(self, questions: Sequence[Fields]) -> list[tuple[Example, ...]]:
        """The examples for each question, in the order of the prompt."""
        contents = [content(question) for question in questions]
        return [
            tuple(self._choose(normalized(text), numbers))[:: self._step]
            for text, numbers in zip(contents, self._rank(contents), strict=True)
        ]

    def _choose(self, question: str, numbers: Sequence[int]) -> Iterator[Example]:
        others = (self._examples[number] for number in numbers if self._contents[number] != question)
        return islice(others, self._num_shots)


def make_shots(
    examples: Sequence[Example],
    select: Select,
    *,
    num_shots: int,
    seed: int = 0,
    embedder: Embedder | None = None,
) -> Shots:
    """The way to choose that is called `select`; "similar" needs an embedder."""
    contents = [content(example.fields) for example in examples]
    match select:
        case "bm25":
            rank = rank_by_bm25(contents)
        case "similar":
            assert embedder is not None
            rank = rank_by_similarity(contents, embedder)
        case _:
            order = fixed_order([example.answer for example in examples], select, seed)
            rank = lambda questions: [order] * len(questions)  # noqa: E731
    return Shots(examples, rank, num_shots=num_shots, nearest_last=select in ("bm25", "similar"))


def fixed_order(
    answers: Sequence[str], select: Literal["first", "random", "balanced"], seed: int
) -> list[int]:
    """Numbers of examples, the most wanted first.

    "balanced" takes one of each answer in turn, in the order in which the answers first come in the file.
    """
    numbers = list(range(len(answers)))
    if select == "first":
        return numbers
    random.Random(seed).shuffle(numbers)
    if select == "random":
        return numbers
    groups: dict[str, list[int]] = {answer: [] for answer in answers}
    for number in numbers:
        groups[answers[number]].append(number)
    return [number for turn in zip_longest(*groups.values()) for number in turn if number is not None]


def rank_by_bm25(contents: Sequence[str]) -> Rank:
    """By the words that a question shares with an example (Robertson and Zaragoza 2009)."""
    import bm25s

    index = bm25s.BM25()
    index.index([_words(text) or [""] for text in contents], show_progress=False)

    def rank(questions: Sequence[str]) -> Iterator[Sequence[int]]:
        return (_descending(index.get_scores(_words(text) or [""])) for text in questions)

    return rank


def rank_by_similarity(contents: Sequence[str], embedder: Embedder) -> Rank:
    """By the cosine between the embeddings of question and example."""
    vectors = _unit(embedder.embed(contents))

    def rank(questions: Sequence[str]) -> Iterator[Sequence[int]]:
        return (_descending(vectors @ question) for question in _unit(embedder.embed(questions)))

    return rank


def normalized(text: str) -> str:
    """A text without case and with single spaces: what counts as the same."""
    return " ".join(text.casefold().split())


def _answer_field(record: Record) -> str:
    values = record.values()
    for name in ANSWERS:
        if name in values:
            return name
    raise MissingFieldError(f"no field {' or '.join(map(repr, ANSWERS))}; {names_known(values)}")


def _example(record: Record, names: Sequence[str], answer: str, text_field: str) -> Example:
    values = record.values()
    try:
        text = as_text(find_value(values, text_field))
    except KeyError:
        text = None
    return Example(pick(names, values, text=text), pick([answer], values)[answer])


def _words(text: str) -> list[str]:
    return "".join(char if char.isalnum() else " " for char in text.casefold()).split()


def _descending(scores: npt.NDArray[np.float32]) -> list[int]:
    """Numbers by score; of equal ones the first in the file comes first."""
    order: list[int] = np.argsort(-scores, kind="stable").tolist()
    return order


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(texts, hidden), each of length 1."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit
