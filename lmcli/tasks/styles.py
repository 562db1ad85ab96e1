"""The text forms of a record with entities. Each gives the lines of its slot."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

from lmcli.records.record import Record
from lmcli.records.terminal import escape_controls

Entities = Sequence[Mapping[str, Any]]
Style = Literal["inline", "highlight", "spans", "conll"]
Mark = Callable[[str, str], str]


def inline(record: Record, entities: Entities) -> list[str]:
    """The text with its entities marked, `[Marie Curie](PER)`."""
    return [_marked(record.text, entities, "[{}]({})".format)]


def highlight(record: Record, entities: Entities) -> list[str]:
    """The text for a terminal: entities in colour with the label behind, control characters shown."""
    return [_marked(record.text, entities, _colored, escape_controls)]


def _marked(text: str, entities: Entities, mark: Mark, clean: Callable[[str], str] = str) -> str:
    parts, done = [], 0
    for entity in entities:
        parts += [clean(text[done : entity["start"]]), mark(clean(entity["text"]), entity["label"])]
        done = entity["end"]
    return "".join([*parts, clean(text[done:])])


def _colored(text: str, label: str) -> str:
    """Bold in one of six colours by label, which follows dimmed (ECMA-48, SGR)."""
    color = 31 + (len(label) + ord(label[:1] or " ")) % 6  # tells PER, ORG, LOC and MISC apart
    return f"\x1b[1;{color}m{text}\x1b[0m\x1b[2m/{escape_controls(label)}\x1b[0m"


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


STYLES: Mapping[Style, Callable[[Record, Entities], list[str]]] = {
    "inline": inline,
    "highlight": highlight,
    "spans": spans,
    "conll": conll,
}
