from collections.abc import Sequence

import numpy as np
import pytest

from lmcli.tasks.spans import Labels, Strategy, Tokens, decode
from tests.tiny import label_scores

IO = ("O", "PER", "LOC")
I_ONLY = ("O", "I-PER", "I-LOC")
IOB = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
BIOES = ("O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC")
BILOU = ("O", "B-PER", "I-PER", "L-PER", "U-PER")
Found = tuple[str, int, int]


def tokens_of(rows: Sequence[Sequence[float]], starts_word: str) -> Tokens:
    """Tokens of one character each, in words as `starts_word` has it: `w` starts one, `.` goes on."""
    places = np.arange(len(rows))
    return Tokens(
        starts=places * 2,
        ends=places * 2 + 1,
        scores=np.array(rows, np.float32).reshape(len(rows), -1),
        starts_word=np.array([mark == "w" for mark in starts_word], np.bool_),
    )


def entities_of(names: Sequence[str], tags: str, strategy: Strategy = "simple") -> list[Found]:
    """Label, first and last token of each entity, where every token has its tag with a score of 0.9."""
    rows = [label_scores({tag: 0.9}, names) for tag in tags.split()]
    found = decode(tokens_of(rows, "w" * len(rows)), Labels(names), strategy)
    assert all(entity.score == pytest.approx(0.9) for entity in found)
    return [(entity.label, entity.start // 2, (entity.end - 1) // 2) for entity in found]


SCHEMES = pytest.mark.parametrize(
    ("names", "tags", "expected"),
    [
        pytest.param(IO, "O PER PER O LOC", [("PER", 1, 2), ("LOC", 4, 4)], id="IO"),
        pytest.param(IO, "PER LOC LOC PER", [("PER", 0, 0), ("LOC", 1, 2), ("PER", 3, 3)], id="IO touching"),
        pytest.param(I_ONLY, "I-PER I-PER I-LOC", [("PER", 0, 1), ("LOC", 2, 2)], id="IO with prefix"),
        # IOB1 writes B only where an entity follows another of its kind.
        pytest.param(IOB, "I-PER I-PER O I-LOC", [("PER", 0, 1), ("LOC", 3, 3)], id="IOB1"),
        pytest.param(IOB, "I-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)], id="IOB1 adjacent"),
        pytest.param(IOB, "I-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)], id="IOB1 other kind"),
        pytest.param(IOB, "B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)], id="IOB2"),
        pytest.param(IOB, "B-PER B-PER I-PER", [("PER", 0, 0), ("PER", 1, 2)], id="IOB2 adjacent"),
        pytest.param(IOB, "B-PER I-LOC", [("PER", 0, 0), ("LOC", 1, 1)], id="IOB2 other kind"),
        pytest.param(IOB, "B-PER O I-PER", [("PER", 0, 0), ("PER", 2, 2)], id="IOB2 gap"),
        pytest.param(BIOES, "B-PER I-PER E-PER S-LOC", [("PER", 0, 2), ("LOC", 3, 3)], id="BIOES"),
        pytest.param(BIOES, "S-PER S-PER", [("PER", 0, 0), ("PER", 1, 1)], id="BIOES singles"),
        pytest.param(BIOES, "B-PER E-PER B-PER E-PER", [("PER", 0, 1), ("PER", 2, 3)], id="BIOES pairs"),
        pytest.param(BIOES, "B-PER E-PER I-PER", [("PER", 0, 1), ("PER", 2, 2)], id="BIOES behind an end"),
        pytest.param(BIOES, "I-LOC S-LOC E-LOC", [("LOC", 0, 0), ("LOC", 1, 1), ("LOC", 2, 2)], id="broken"),
        pytest.param(BILOU, "B-PER I-PER L-PER U-PER", [("PER", 0, 2), ("PER", 3, 3)], id="BILOU"),
        pytest.param(BILOU, "U-PER U-PER O", [("PER", 0, 0), ("PER", 1, 1)], id="BILOU units"),
        pytest.param(("O", "S-Bahn"), "S-Bahn S-Bahn", [("Bahn", 0, 0), ("Bahn", 1, 1)], id="only S"),
        pytest.param(("O", "X-ray"), "X-ray X-ray", [("X-ray", 0, 1)], id="no prefix but a hyphen"),
        pytest.param(("NOUN", "VERB"), "NOUN VERB VERB", [("NOUN", 0, 0), ("VERB", 1, 2)], id="no outside"),
        pytest.param(IOB, "O O", [], id="nothing"),
    ],
)


@SCHEMES
@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_schemes(names: Sequence[str], tags: str, expected: list[Found], strategy: Strategy) -> None:
    assert entities_of(names, tags, strategy) == expected


@pytest.mark.parametrize("strategy", ["simple", "first", "average", "max"])
def test_no_tokens_have_no_entities(strategy: Strategy) -> None:
    nothing = Tokens(*(np.zeros(0, np.int64),) * 2, np.zeros((0, 3), np.float32), np.zeros(0, np.bool_))
    assert decode(nothing, Labels(IO), strategy) == []


# Columns: O, PER, LOC. The first word has three tokens that disagree, the second is surely PER.
ROWS = [[0.30, 0.60, 0.10], [0.05, 0.05, 0.90], [0.40, 0.35, 0.25], [0.10, 0.80, 0.10]]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        # PER of the first token, 0.6, and the second word make one entity.
        ("first", [("PER", 0, 7, (0.6 + 0.8) / 2)]),
        # Means of the first word: O 0.25, PER 0.3333, LOC 0.4167.
        ("average", [("LOC", 0, 5, (0.1 + 0.9 + 0.25) / 3), ("PER", 6, 7, 0.8)]),
        # The most certain token of the first word is the second one.
        ("max", [("LOC", 0, 5, 0.9), ("PER", 6, 7, 0.8)]),
        # Tokens by themselves: PER, LOC, O, PER.
        ("simple", [("PER", 0, 1, 0.6), ("LOC", 2, 3, 0.9), ("PER", 6, 7, 0.8)]),
    ],
)
def test_strategies(strategy: Strategy, expected: list[tuple[str, int, int, float]]) -> None:
    found = decode(tokens_of(ROWS, "w..w"), Labels(IO), strategy)
    assert [(entity.label, entity.start, entity.end, round(entity.score, 5)) for entity in found] == [
        (label, start, end, round(score, 5)) for label, start, end, score in expected
    ]


@pytest.mark.parametrize("strategy", ["first", "average", "max"])
def test_the_first_token_begins_a_word_whatever_it_says(strategy: Strategy) -> None:
    rows = [[0.1, 0.9, 0], [0.1, 0.9, 0], [0.9, 0.1, 0]]
    [entity] = decode(tokens_of(rows, "..w"), Labels(IO), strategy)
    assert (entity.label, entity.start, entity.end) == ("PER", 0, 3)


def test_a_label_inside_a_word_splits_it_for_simple_only() -> None:
    rows = [label_scores({tag: 0.9}, IOB) for tag in ("B-PER", "B-PER", "I-PER")]
    tokens, labels = tokens_of(rows, "w.."), Labels(IOB)
    assert [(each.start, each.end) for each in decode(tokens, labels, "simple")] == [(0, 1), (2, 5)]
    assert [(each.start, each.end) for each in decode(tokens, labels, "first")] == [(0, 5)]


@pytest.mark.parametrize(
    ("names", "entities"),
    [
        (["O", "E-MAIL", "PHONE"], ["O", "E-MAIL", "PHONE"]),
        (["O", "B-PER", "M-PER", "E-PER", "S-PER"], ["O", "PER", "PER", "PER", "PER"]),
        (["O", "B-PER", "I-PER", "L-PER", "U-PER"], ["O", "PER", "PER", "PER", "PER"]),
        (["O", "B-PER", "I-PER", "MISC"], ["O", "PER", "PER", "MISC"]),
    ],
    ids=["no scheme", "BMES", "BILOU", "IOB with a plain name"],
)
def test_prefixes_count_only_where_all_names_agree(names: list[str], entities: list[str]) -> None:
    labels = Labels(names)
    assert [labels.entity(label) for label in range(len(names))] == entities
