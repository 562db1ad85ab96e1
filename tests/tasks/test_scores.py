import math

import numpy as np
import pytest

from lmcli.tasks.scores import ACTIVATIONS, rounded, sigmoid, softmax


@pytest.mark.parametrize(
    ("logits", "scores"),
    [
        ([0, 0], [0.5, 0.5]),
        ([0, math.log(3)], [0.25, 0.75]),
        ([1000, 1000 + math.log(3), -1000], [0.25, 0.75, 0]),
        ([7], [1]),
    ],
    ids=["even", "odds", "huge", "one label"],
)
def test_softmax(logits: list[float], scores: list[float]) -> None:
    assert softmax(np.array(logits, np.float32)).tolist() == pytest.approx(scores, abs=1e-4)


def test_softmax_is_along_the_last_axis() -> None:
    scores = softmax(np.log(np.array([[1, 3], [1, 1]], np.float32)))
    assert scores.tolist() == [pytest.approx([0.25, 0.75]), pytest.approx([0.5, 0.5])]


@pytest.mark.parametrize(
    ("logit", "score"),
    [
        (0, 0.5),
        (math.log(3), 0.75),
        (1000, 1),
        (-1000, 0),
    ],
)
def test_sigmoid(logit: float, score: float) -> None:
    assert sigmoid(np.array([logit], np.float32)).tolist() == [pytest.approx(score)]


def test_activations_by_their_name_in_a_manifest() -> None:
    logits = np.array([-2.5, 0], np.float32)
    assert {name: function(logits).tolist() for name, function in ACTIVATIONS.items()} == {
        "softmax": pytest.approx([math.exp(-2.5) / (1 + math.exp(-2.5)), 1 / (1 + math.exp(-2.5))]),
        "sigmoid": pytest.approx([1 / (1 + math.exp(2.5)), 0.5]),
        "none": [-2.5, 0],
    }


def test_rounded_is_short_and_a_plain_float() -> None:
    assert repr(rounded(np.float32(0.1234567))) == "0.123457"
