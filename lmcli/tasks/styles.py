"""The text forms of a record with entities. Each gives the lines of its slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lmcli.records.record import Record

Entities = Sequence[Mapping[str, Any]]
Mark = Callable[[str, str], str]


def inline(record: Record, entities: Entities, mark: Mark = "[{}]({})".format) -> list[str]:
    """The text with its entities marked, `[Marie Curie](PER)`; `mark` takes an entity's text and label."""
    parts, done = [], 0
    for entity in entities:
        parts += [record.text[done : entity["start"]], mark(entity["text"], entity["label"])]
        done = entity["end"]
    return ["".join([*parts, record.text[done:]])]


def spans(record: Record, entities: Entities) -> list[str]:
    """A line for each entity: source, line, start, end, label, score and text, separated by tabs."""
    return [
        "\t".join(
            [
                record.source,
                str(record.line),
                str(entity["start"]),
                str(entity["end"]),
                entity["label"],
                f"{entity['score']:.4f}",
                entity["text"],
            ]
        )
        for entity in entities
    ]


def conll(record: Record, entities: Entities) -> list[str]:
    """A line for each word, `word label` in the IOB2 scheme, and an empty one after the record.

    Words end at white space and where an entity begins or ends.
    """
    return [*(f"{word} {label}" for word, label in _tagged_words(record.text, entities)), ""]


def _tagged_words(text: str, entities: Entities) -> Iterator[tuple[str, str]]:
    done = 0
    for entity in entities:
        yield from ((word, "O") for word in text[done : entity["start"]].split())
        words = entity["text"].split()
        yield from ((word, f"{'I' if index else 'B'}-{entity['label']}") for index, word in enumerate(words))
        done = entity["end"]
    yield from ((word, "O") for word in text[done:].split())


STYLES: Mapping[str, Callable[[Record, Entities], list[str]]] = {
    "inline": inline,
    "spans": spans,
    "conll": conll,
}
