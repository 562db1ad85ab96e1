from typing import Any

import pytest

from lmcli.records.record import Record
from lmcli.tasks.styles import conll, highlight, inline, spans


def entity(text: str, start: int, label: str = "PER", score: float = 0.98764) -> dict[str, Any]:
    return {"label": label, "text": text, "start": start, "end": start + len(text), "score": score}


CASES = {
    "none": ("no names", []),
    "empty": ("", []),
    "middle": ("by Marie Curie, 1911", [entity("Marie Curie", 3)]),
    "whole": ("Ann", [entity("Ann", 0)]),
    "touching": ("AnnBob", [entity("Ann", 0), entity("Bob", 3, "LOC", 0.5)]),
    "inside a word": ("non-EU", [entity("EU", 4, "ORG")]),
    "two lines": ("New\nYork", [entity("New\nYork", 0, "LOC")]),
}


def cases(expected: dict[str, list[str]]) -> pytest.MarkDecorator:
    assert expected.keys() == CASES.keys()
    rows = [(*CASES[name], lines) for name, lines in expected.items()]
    return pytest.mark.parametrize(("text", "entities", "lines"), rows, ids=list(expected))


@cases(
    {
        "none": ["no names"],
        "empty": [""],
        "middle": ["by [Marie Curie](PER), 1911"],
        "whole": ["[Ann](PER)"],
        "touching": ["[Ann](PER)[Bob](LOC)"],
        "inside a word": ["non-[EU](ORG)"],
        "two lines": ["[New\nYork](LOC)"],
    }
)
def test_inline(text: str, entities: list[dict[str, Any]], lines: list[str]) -> None:
    assert inline(Record(text), entities) == lines


@cases(
    {
        "none": [],
        "empty": [],
        "middle": ["a.txt\t3\t3\t14\tPER\t0.9876\tMarie Curie"],
        "whole": ["a.txt\t3\t0\t3\tPER\t0.9876\tAnn"],
        "touching": ["a.txt\t3\t0\t3\tPER\t0.9876\tAnn", "a.txt\t3\t3\t6\tLOC\t0.5000\tBob"],
        "inside a word": ["a.txt\t3\t4\t6\tORG\t0.9876\tEU"],
        "two lines": ["a.txt\t3\t0\t8\tLOC\t0.9876\tNew\nYork"],
    }
)
def test_spans(text: str, entities: list[dict[str, Any]], lines: list[str]) -> None:
    assert spans(Record(text, "a.txt", 3), entities) == lines


@cases(
    {
        "none": ["no O", "names O", ""],
        "empty": [""],
        "middle": ["by O", "Marie B-PER", "Curie I-PER", ", O", "1911 O", ""],
        "whole": ["Ann B-PER", ""],
        "touching": ["Ann B-PER", "Bob B-LOC", ""],
        "inside a word": ["non- O", "EU B-ORG", ""],
        "two lines": ["New B-LOC", "York I-LOC", ""],
    }
)
def test_conll(text: str, entities: list[dict[str, Any]], lines: list[str]) -> None:
    assert conll(Record(text), entities) == lines


def test_highlight_colours_entities_and_shows_control_characters() -> None:
    found = highlight(Record("\x1b by Ann\x07 x"), [entity("Ann\x07", 5)])
    assert found == [r"\x1b by " + "\x1b[1;36m" + r"Ann\x07" + "\x1b[0m\x1b[2m/PER\x1b[0m x"]


def test_highlight_gives_labels_their_own_colours() -> None:
    labels = ("PER", "ORG", "LOC", "MISC")
    colors = [highlight(Record("x"), [entity("x", 0, label)])[0].partition("x")[0] for label in labels]
    assert len(set(colors)) == len(labels)
