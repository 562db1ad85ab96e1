from collections import Counter
from typing import Any

import pytest

from lmcli.records.record import Record
from lmcli.tasks.generation import GenerationOptions
from lmcli.tasks.generator import Answer, Output
from lmcli.tasks.results import Result, Results, combine


def answer(
    *outputs: tuple[str, float, int],
    flags: tuple[str, ...] = (),
    num_read: int = 0,
    is_complete: bool = True,
) -> Answer:
    made = [Output(text, score, size, is_complete=is_complete) for text, score, size in outputs]
    return Answer(made, flags, num_read)


def test_parts_are_joined_rank_by_rank() -> None:
    parts: list[str | Answer]
    parts = [answer(("A", -1, 2), ("a", -2, 2)), "\n", answer(("B", -4, 1), ("b", -5, 1), ("c", -8, 1))]
    assert combine(parts) == Result(["A\nB", "a\nb", "a\nc"], [-2, -3, -4], [], num_written=7)


def test_tokens_are_added_up() -> None:
    parts = [answer(("A", -1, 2), ("a", -2, 3), num_read=5), answer(("B", -1, 4), num_read=7)]
    assert combine(parts)[3:] == (12, 9, False)


def test_a_text_is_cut_where_one_of_its_parts_is() -> None:
    assert combine([answer(("A", -1, 2)), answer(("B", -1, 2), is_complete=False)]).is_cut
    assert not combine(["A", answer(("B", -1, 2))]).is_cut


def test_flags_are_united_in_their_order() -> None:
    parts = [answer(("A", -1, 2), flags=("script", "length")), answer(("B", -1, 2), flags=("length", "copy"))]
    assert combine(parts).flags == ["copy", "length", "script"]


@pytest.mark.parametrize(("parts", "text"), [([], ""), (["12", " ", "34"], "12 34")])
def test_what_needs_no_model_has_no_score(parts: list[str | Answer], text: str) -> None:
    assert combine(parts) == Result([text], [None], [])


ONE = {"": Result(["un\tmot", "mot"], [-0.12345678, None], [])}
FLAGGED = {"": Result(["la la la la"], [-3.0], ["repetition", "length"])}
TWO = {"fr": Result(["un"], [-0.5], []), "de": Result(["eins", "ein"], [-0.25, -1], ["copy"])}


def results(keys: tuple[str, ...] = ("",), **options: Any) -> Results:
    return Results("t", GenerationOptions(**options), keys=keys, noun="translations")


@pytest.mark.parametrize(
    ("options", "found", "fields"),
    [
        ({}, ONE, {"t": "un\tmot"}),
        ({}, FLAGGED, {"t": "la la la la", "t_flags": ["repetition", "length"]}),
        ({"scores": True}, ONE, {"t": "un\tmot", "t_score": -0.123457}),
        (
            {"nbest": 2},
            ONE,
            {
                "t": "un\tmot",
                "t_nbest": [{"text": "un\tmot", "score": -0.123457}, {"text": "mot", "score": None}],
            },
        ),
        ({}, TWO, {"t": {"fr": "un", "de": "eins"}, "t_flags": {"de": ["copy"]}}),
        (
            {"scores": True, "nbest": 2},
            TWO,
            {
                "t": {"fr": "un", "de": "eins"},
                "t_score": {"fr": -0.5, "de": -0.25},
                "t_nbest": {
                    "fr": [{"text": "un", "score": -0.5}],
                    "de": [{"text": "eins", "score": -0.25}, {"text": "ein", "score": -1.0}],
                },
                "t_flags": {"de": ["copy"]},
            },
        ),
    ],
    ids=["plain", "flags", "score", "nbest", "languages", "all of languages"],
)
def test_fields(options: dict[str, Any], found: dict[str, Result], fields: dict[str, Any]) -> None:
    assert results(tuple(found), **options).fields(found) == fields


@pytest.mark.parametrize(
    ("keys", "options", "fields"),
    [
        (("",), {}, {"t": ""}),
        (("",), {"scores": True, "nbest": 2}, {"t": "", "t_score": None, "t_nbest": []}),
        (
            ("fr", "de"),
            {"scores": True},
            {"t": {"fr": "", "de": ""}, "t_score": {"fr": None, "de": None}},
        ),
    ],
)
def test_a_blank_record_has_empty_fields(
    keys: tuple[str, ...], options: dict[str, Any], fields: dict[str, Any]
) -> None:
    assert results(keys, **options).empty == fields


@pytest.mark.parametrize(
    ("keys", "options", "adds", "columns"),
    [
        (("",), {}, ("t", "t_flags"), ("t", "t_flags")),
        (("fr",), {}, ("t", "t_flags"), ("t", "t_flags")),
        (
            ("",),
            {"scores": True, "nbest": 2},
            ("t", "t_score", "t_nbest", "t_flags"),
            ("t", "t_score", "t_nbest", "t_flags"),
        ),
        (
            ("fr", "de"),
            {"scores": True},
            ("t", "t_score", "t_flags"),
            ("t.fr", "t.de", "t_score.fr", "t_score.de", "t_flags"),
        ),
    ],
)
def test_names(
    keys: tuple[str, ...], options: dict[str, Any], adds: tuple[str, ...], columns: tuple[str, ...]
) -> None:
    found = results(keys, **options)
    assert (found.adds, found.columns) == (adds, columns)


@pytest.mark.parametrize(
    ("options", "found", "lines"),
    [
        ({}, ONE, ["un\tmot"]),
        ({"scores": True}, ONE, ["-0.1235\tun\\tmot"]),
        ({"nbest": 2}, ONE, ["7\t-0.1235\tun\\tmot", "7\t\tmot"]),
        ({}, TWO, ["un\teins"]),
        ({"scores": True}, TWO, ["-0.5000\tun\t-0.2500\teins"]),
        ({"nbest": 2}, TWO, ["7\tfr\t-0.5000\tun", "7\tde\t-0.2500\teins", "7\tde\t-1.0000\tein"]),
    ],
    ids=["plain", "score", "nbest", "languages", "scores of languages", "nbest of languages"],
)
def test_lines(options: dict[str, Any], found: dict[str, Result], lines: list[str]) -> None:
    made = results(tuple(found), **options)
    assert made.lines(Record("one word", "in", 7).with_fields(**made.fields(found))) == lines


@pytest.mark.parametrize("options", [{}, {"scores": True}, {"nbest": 2}], ids=str)
def test_a_blank_record_is_an_empty_line(options: dict[str, Any]) -> None:
    made = results(("fr", "de"), **options)
    assert made.lines(Record(" ").with_fields(**made.empty)) == [""]


def counts(made: Results, *found: dict[str, Result]) -> Counter[str]:
    """The counts of results, added up."""
    added: Counter[str] = Counter()
    for each in found:
        added.update(made.counts(each))
    return added


def remarks(made: Results, *found: dict[str, Result]) -> list[str]:
    return made.remarks(counts(made, *found))


def test_degenerate_results_are_counted() -> None:
    assert remarks(results()) == remarks(results(), ONE, ONE) == []
    assert remarks(results(), ONE, FLAGGED) == [
        "1 of 2 translations looks degenerate: 1 repetition, 1 length (see t_flags in JSONL output)"
    ]
    assert remarks(results(("fr", "de")), TWO, TWO) == [
        "2 of 4 translations look degenerate: 2 copy (see t_flags in JSONL output)"
    ]


def test_counts_of_other_tasks_make_no_remark() -> None:
    assert results().remarks({"u.degenerate": 1, "u.results": 1, "tt.degenerate": 1}) == []


def test_counts_hold_what_there_is() -> None:
    assert results().counts(ONE) == {"t.results": 1}
    cut = Result(["la la"], [-3.0], ["repetition", "length"], num_read=4, num_written=9, is_cut=True)
    assert results().counts({"": cut}) == {
        "t.results": 1,
        "t.tokens": 4,
        "t.new_tokens": 9,
        "t.truncated": 1,
        "t.degenerate": 1,
        "t.flag:repetition": 1,
        "t.flag:length": 1,
    }


def test_each_language_counts() -> None:
    made = results(("fr", "de"))
    assert made.counts(TWO) == {"t.results": 2, "t.degenerate": 1, "t.flag:copy": 1}
