import numpy as np
import pytest

from lmcli.errors import UsageError
from lmcli.prompting.choices import calibrated, check_choices, normalize, probabilities, split_choices


def row(*ids: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(ids, np.int64)


@pytest.mark.parametrize(
    ("prompt", "continued", "length"),
    [
        (row(1, 2), [row(1, 2, 3), row(1, 2, 4, 5)], 2),
        (row(1, 2), [row(1, 9), row(1, 2, 4)], 1),
        (row(1, 2), [row(1, 2), row(1, 2, 4)], 1),
        (row(1), [row(9, 3), row(1, 2)], 0),
    ],
    ids=["plain", "merged", "swallowed", "all merged"],
)
def test_where_a_choice_begins(
    prompt: np.ndarray[tuple[int], np.dtype[np.int64]],
    continued: list[np.ndarray[tuple[int], np.dtype[np.int64]]],
    length: int,
) -> None:
    common, rest = split_choices(prompt, continued)
    assert common.tolist() == prompt.tolist()[:length]
    assert [[*common, *tokens] for tokens in rest] == [each.tolist() for each in continued]
    assert all(len(tokens) for tokens in rest)


def test_scores_of_choices() -> None:
    scores = [np.array([-1.0, -3.0], np.float32), np.array([-2.5], np.float32)]
    assert normalize(scores, "sum").tolist() == normalize(scores, "pmi").tolist() == [-4.0, -2.5]
    assert normalize(scores, "mean").tolist() == [-2.0, -2.5]


def test_probabilities_add_up_to_one() -> None:
    assert probabilities(np.log([1.0, 3.0])) == pytest.approx([0.25, 0.75])
    assert probabilities(np.array([-2000.0, -2001.0])).sum() == pytest.approx(1)


def test_calibration_takes_off_what_comes_of_nothing() -> None:
    # Zhao et al.: W p with W = diag(p_cf)^-1, here put into proportion.
    shares = calibrated(np.array([0.8, 0.2]), [np.array([0.9, 0.1]), np.array([0.7, 0.3])])
    assert shares == pytest.approx([0.5, 0.5])
    assert calibrated(np.array([0.6, 0.4]), [np.array([0.5, 0.5])]) == pytest.approx([0.6, 0.4])
    assert np.isfinite(calibrated(np.array([1.0, 0.0]), [np.array([1.0, 0.0])])).all()


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (("a",), "--choices needs two answers or more"),
        (("a", ""), "--choices has an empty answer"),
        (("a", "b", "a"), "--choices has 'a' twice"),
    ],
)
def test_choices_that_are_none(choices: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError) as error:
        check_choices(choices)
    assert error.value.message == message
