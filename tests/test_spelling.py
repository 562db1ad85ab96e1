from lmcli.spelling import closest, did_you_mean


def test_the_closest_name() -> None:
    assert closest("sentimant", ["ner", "sentiment"]) == "sentiment"
    assert closest("x", ["ner", "sentiment"]) is None


def test_a_suggestion_is_a_question_or_nothing() -> None:
    assert did_you_mean("nre", ["ner"], before="; ") == "; did you mean 'ner'?"
    assert did_you_mean("x", ["ner"]) == ""
