from lmcli.metrics.accuracy import marks
from lmcli.tasks.counts import own_counts, read_counts, summary

NOTHING = {
    "results": 0,
    "cached": 0,
    "tokens": 0,
    "new_tokens": 0,
    "truncated": 0,
    "degenerate": 0,
    "dropped": 0,
    "flags": {},
}


def test_a_result_of_a_model_that_reads() -> None:
    assert read_counts("mood", 7) == {"mood.results": 1, "mood.tokens": 7}


def test_counts_of_other_tasks_are_theirs() -> None:
    assert own_counts("t", {"t.tokens": 1, "t2.tokens": 2, "records": 3}) == {"tokens": 1}


def test_a_summary_has_all_keys() -> None:
    assert summary("t", {}) == NOTHING


def test_numbers_and_flags() -> None:
    counts = {"t.results": 3, "t.tokens": 20, "t.cached": 1, "t.flag:copy": 2, "u.tokens": 9}
    assert summary("t", counts) == NOTHING | {"results": 3, "tokens": 20, "cached": 1, "flags": {"copy": 2}}


def test_compared_answers_have_an_accuracy() -> None:
    counts = {f"t.{name}": n for name, n in marks("yes", "Yes").items()}
    assert summary("t", counts)["gold"]["accuracy"] == 1
