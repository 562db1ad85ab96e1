import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmcli.records.record import Failure, Record
from lmcli.tasks.sentiment import Sentiment, SentimentOptions
from tests import tiny

TOPICS = ("rude", "spam", "short")
TOPIC_WEIGHTS = {"idiot": (3, 0, 0), "buy": (0, 3, 0), "hi": (-3, -3, 3), "the": (-1, -1, -1)}


def records_of(path: Path, records: Sequence[Record], **options: Any) -> list[Record]:
    with tiny.open_encoder(path) as (manifest, encoder):
        return list(Sentiment(manifest, encoder, SentimentOptions(**options))(records))


def found(path: Path, text: str, **options: Any) -> dict[str, Any]:
    [record] = records_of(path, [Record(text)], **options)
    value: dict[str, Any] = record.fields["sentiment"]
    return value


def odds(difference: float) -> Any:
    """The softmax score of the label whose logit is so much higher."""
    return pytest.approx(1 / (1 + math.exp(-difference)), abs=2e-6)


@pytest.mark.parametrize(
    ("text", "label", "score"),
    [
        ("a good film", "POSITIVE", odds(1)),
        ("good great bad", "POSITIVE", odds(2)),
        ("good good bad awful", "NEGATIVE", odds(1)),
        ("no word of it is known", "NEGATIVE", odds(0)),
        ("  good\t ", "POSITIVE", odds(1)),
    ],
)
def test_label_and_score(moods: Path, text: str, label: str, score: float) -> None:
    assert found(moods, text) == {"label": label, "score": score}


def test_all_scores(moods: Path) -> None:
    value = found(moods, "good", all_scores=True)
    assert value == {
        "label": "POSITIVE",
        "score": odds(1),
        "scores": {"NEGATIVE": odds(-1), "POSITIVE": odds(1)},
    }
    assert sum(value["scores"].values()) == pytest.approx(1, abs=2e-6)


@pytest.fixture(scope="module")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with several labels for a text."""
    path = tmp_path_factory.mktemp("bundles") / "topics"
    return tiny.write_sentiment(path, TOPIC_WEIGHTS, labels=TOPICS, activation="sigmoid")


@pytest.mark.parametrize(
    ("text", "threshold", "labels"),
    [
        ("idiot buy the", 0.5, ["rude", "spam"]),
        ("idiot buy the", 0.87, ["rude", "spam"]),
        ("idiot buy the", 0.89, []),
        ("idiot buy the", 0.0, ["rude", "spam", "short"]),
        ("hi", 0.5, ["short"]),
        ("the", 0.5, []),
        ("nothing", 0.5, ["rude", "spam", "short"]),
    ],
)
def test_multi_label_reports_labels_from_the_threshold_on(
    topics: Path, text: str, threshold: float, labels: list[str]
) -> None:
    assert found(topics, text, threshold=threshold)["labels"] == labels


def test_multi_label_scores_do_not_add_up(topics: Path) -> None:
    assert found(topics, "idiot buy the", all_scores=True) == {
        "label": "rude",
        "score": odds(2),
        "labels": ["rude", "spam"],
        "scores": {"rude": odds(2), "spam": odds(2), "short": odds(-1)},
    }


@pytest.mark.parametrize(
    ("activation", "score"), [("none", pytest.approx(7.5)), ("sigmoid", odds(7.5))], ids=["none", "sigmoid"]
)
def test_one_label(tmp_path: Path, activation: Any, score: float) -> None:
    path = tiny.write_sentiment(
        tmp_path / "stars", {"star": [2.5], "dull": [-4]}, labels=["STARS"], activation=activation
    )
    assert found(path, "star star star") == {"label": "STARS", "score": score}


def merged(words: Sequence[str]) -> list[float]:
    """The documented rule for a context of 8 tokens: 6 words a window, of which the first was read before."""
    windows = [words[start : start + 6] for start in range(0, max(1, len(words) - 1), 5)]
    total = [0.0, 0.0]
    for index, window in enumerate(windows):
        logits = [sum(tiny.MOOD_WEIGHTS.get(word, (0, 0))[label] for word in window) for label in (0, 1)]
        powers = [math.exp(logit) for logit in logits]
        new = len(window) - (1 if index else 0)
        total = [was + new * power / sum(powers) for was, power in zip(total, powers, strict=True)]
    return [part / len(words) for part in total]


@pytest.mark.parametrize(
    "words",
    [
        ["good"] * 6,
        ["good"] * 6 + ["bad"],
        ["awful", *["x"] * 9, "great"],
        ["great", "x", "bad", "bad", "x", "good", "awful", "awful", "x", "x", "good", "good", "x"],
        ["x", "bad", "x", "great"] * 40,
    ],
    ids=["one window", "seven words", "two full", "three", "many"],
)
def test_windows_are_merged_by_their_new_tokens(tmp_path: Path, words: list[str]) -> None:
    path = tiny.write_sentiment(tmp_path / "moods", context_length=8)
    scores = found(path, " ".join(words), all_scores=True)["scores"]
    assert list(scores.values()) == [pytest.approx(score, abs=2e-6) for score in merged(words)]


def test_a_long_text_without_tokens_has_a_label(tmp_path: Path) -> None:
    path = tiny.write_sentiment(tmp_path / "moods", {"good": (0, 1)}, tokenizer=tiny.word_piece(["good"]))
    assert found(path, "\x01" * 70_000) == {"label": "NEGATIVE", "score": 0.5}


@pytest.mark.parametrize("text", ["", " ", "\t\r", "\u3000\xa0"], ids=repr)
def test_a_blank_line_has_no_label(moods: Path, text: str) -> None:
    assert found(moods, text) == {"label": None, "score": None}


def test_a_blank_line_has_every_key(topics: Path) -> None:
    assert found(topics, "", all_scores=True) == {
        "label": None,
        "score": None,
        "labels": None,
        "scores": None,
    }


def test_failed_records_pass_untouched(moods: Path) -> None:
    failed = Record("good", "in", 2, raw=b"{", failure=Failure("invalid_json", "not JSON"))
    assert records_of(moods, [Record("bad"), failed, Record("good")])[1] is failed


def test_a_refused_text_fails_its_record_only(strict_moods: Path) -> None:
    before, refused, after = records_of(strict_moods, [Record("bad"), Record("grief"), Record("good")])
    assert refused.failure is not None
    assert (refused.text, refused.fields, refused.failure.code) == ("grief", {}, "tokenizer")
    assert [before.fields["sentiment"]["label"], after.fields["sentiment"]["label"]] == [
        "NEGATIVE",
        "POSITIVE",
    ]


def test_equal_texts_have_equal_answers_in_their_own_slots(moods: Path) -> None:
    texts = ["good", "bad", "good", "", "bad", "good"]
    records = records_of(moods, [Record(text, "in", line) for line, text in enumerate(texts, start=1)])
    assert [(record.line, record.fields["sentiment"]["label"]) for record in records] == [
        (1, "POSITIVE"),
        (2, "NEGATIVE"),
        (3, "POSITIVE"),
        (4, None),
        (5, "NEGATIVE"),
        (6, "POSITIVE"),
    ]


def test_more_records_than_a_window_stay_in_order(moods: Path) -> None:
    texts = [f"{'good' if index % 3 else 'bad'} {index}" for index in range(3000)]
    records = records_of(moods, [Record(text) for text in texts])
    assert [record.text for record in records] == texts
    assert [record.fields["sentiment"]["label"] for record in records] == [
        "POSITIVE" if index % 3 else "NEGATIVE" for index in range(3000)
    ]


def test_tokens_are_counted(moods: Path) -> None:
    """Those of a text that occurs again as often as it does, those of a blank one not at all."""
    failed = Record("good", failure=Failure("invalid_json", "not JSON"))
    records = records_of(moods, [Record("a good film"), failed, Record(" "), Record("a good film")])
    counts = {"sentiment.results": 1, "sentiment.tokens": 5}
    assert [dict(record.counts) for record in records] == [counts, {}, {}, counts]


def test_tokens_of_windows_count_as_often_as_they_are_read(tmp_path: Path) -> None:
    path = tiny.write_sentiment(tmp_path / "moods", context_length=8)
    [record] = records_of(path, [Record("good " * 7)])
    assert record.counts["sentiment.tokens"] == (6 + 2) + (2 + 2)


def test_the_field_is_named_by_the_options(moods: Path) -> None:
    [record] = records_of(moods, [Record("good").with_fields(kept=1)], as_field="mood")
    assert record.fields == {"kept": 1, "mood": {"label": "POSITIVE", "score": odds(1)}}


@pytest.mark.parametrize(
    ("all_scores", "columns"),
    [
        (False, ("sentiment.label", "sentiment.score")),
        (True, ("sentiment.label", "sentiment.score", "sentiment.scores")),
    ],
)
def test_columns(moods: Path, all_scores: bool, columns: tuple[str, ...]) -> None:
    with tiny.open_encoder(moods) as (manifest, encoder):
        assert Sentiment(manifest, encoder, SentimentOptions(all_scores=all_scores)).columns == columns


@pytest.mark.parametrize(
    ("text", "options", "line"),
    [
        ("a\tgood film", {}, "POSITIVE\t0.7311\ta\tgood film"),
        ("bad", {"all_scores": True}, "NEGATIVE\t0.7311\tNEGATIVE=0.7311,POSITIVE=0.2689\tbad"),
        (" ", {}, ""),
        ("", {"all_scores": True}, ""),
    ],
    ids=["text last", "all scores", "blank", "blank with scores"],
)
def test_text_form(moods: Path, text: str, options: dict[str, Any], line: str) -> None:
    assert _lines(moods, text, **options) == [line]


@pytest.mark.parametrize(
    ("text", "line"),
    [("idiot buy the", "rude,spam\t0.8808\tidiot buy the"), ("the", "-\t0.2689\tthe")],
    ids=["labels", "none from the threshold on"],
)
def test_text_form_of_several_labels(topics: Path, text: str, line: str) -> None:
    assert _lines(topics, text) == [line]


def _lines(path: Path, text: str, **options: Any) -> list[str]:
    with tiny.open_encoder(path) as (manifest, encoder):
        task = Sentiment(manifest, encoder, SentimentOptions(**options))
        return task.lines(next(iter(task([Record(text)]))))
