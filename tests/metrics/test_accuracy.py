from collections import Counter

import pytest

from lmcli.metrics.accuracy import Tally, marks, wilson_interval


def counts(*pairs: tuple[str, str]) -> Counter[str]:
    """The marks of gold and answer, added up."""
    added: Counter[str] = Counter()
    for gold, answer in pairs:
        added.update(marks(gold, answer))
    return added


def tally(*pairs: tuple[str, str]) -> Tally:
    return Tally(counts(*pairs))


@pytest.mark.parametrize(
    ("correct", "count", "interval"),
    [  # as scipy's binomtest(...).proportion_ci(method="wilson") gives them
        (0, 10, (0.0, 0.277533)),
        (5, 10, (0.236593, 0.763407)),
        (10, 10, (0.722467, 1.0)),
        (744, 872, (0.828173, 0.87515)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson_interval(correct: int, count: int, interval: tuple[float, float]) -> None:
    assert wilson_interval(correct, count) == pytest.approx(interval, abs=1e-6)


def test_marks_add_up() -> None:
    assert marks(" Yes", "yes\n") == {"gold:Yes": 1, "given:yes": 1, "right:Yes": 1}
    assert counts(("a:b", "no"), ("a:b", "A:B")) == {
        "gold:a:b": 2,
        "given:no": 1,
        "given:A:B": 1,
        "right:a:b": 1,
    }


def test_counts_of_something_else_mean_nothing() -> None:
    others = {"results": 5, "flag:copy": 3, "tokens": 9}
    assert Tally(counts(("a", "b")) | others).summary() == tally(("a", "b")).summary()


def test_a_label_may_hold_a_colon() -> None:
    assert [*tally(("a:b", "no"), ("a:b", "A:B")).summary()["labels"]] == ["a:b"]


def test_a_summary() -> None:
    counted = tally(("Yes", " yes\n"), ("yes", "no"), ("no", "NO"), ("no", "maybe"), ("yes", "Yes"))
    low, high = wilson_interval(3, 5)
    assert counted.summary() == {
        "count": 5,
        "correct": 3,
        "accuracy": 0.6,
        "interval_95": [round(low, 6), round(high, 6)],
        "majority": {"label": "Yes", "accuracy": 0.6},
        "labels": {
            "Yes": {"count": 3, "answered": 2, "correct": 2, "precision": 1.0, "recall": 0.666667},
            "no": {"count": 2, "answered": 2, "correct": 1, "precision": 0.5, "recall": 0.5},
        },
    }
    assert counted.line() == (
        f"accuracy 0.6000 (3 of 5), 95 % interval {low:.4f} to {high:.4f}; always 'Yes' would be 0.6000"
    )


def test_nothing_to_compare() -> None:
    assert tally().line() == "accuracy: there is nothing to compare"
    assert tally().summary() == {
        "count": 0,
        "correct": 0,
        "accuracy": None,
        "interval_95": [0.0, 1.0],
        "majority": {"label": None, "accuracy": None},
        "labels": {},
    }


def test_a_label_that_is_never_the_answer_has_no_precision() -> None:
    assert tally(("a", "b")).summary()["labels"]["a"] == {
        "count": 1,
        "answered": 0,
        "correct": 0,
        "precision": None,
        "recall": 0.0,
    }
