from collections.abc import Iterator
from itertools import count, islice
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.pipeline.fragment import Fragment, PipelineError
from lmcli.pipeline.grammar import parse
from lmcli.pipeline.selecting import Select
from lmcli.records.record import Record
from lmcli.tasks.base import Task

EXAMPLE = "for example: select text, label=sentiment.label"


def select(source: str) -> Select:
    return Select.parse(Fragment.of(source))


def selected(source: str, record: Record) -> dict[str, Any]:
    (result,) = select(source)([record])
    return dict(result.fields)


def refused(source: str) -> PipelineError:
    with pytest.raises(PipelineError) as error:
        select(source)
    return error.value


@pytest.mark.parametrize(
    ("source", "names", "paths"),
    [
        ("text", ("text",), ("text",)),
        (
            "text, label=sentiment.label,translation",
            ("text", "label", "translation"),
            ("text", "sentiment.label"),
        ),
        ("sentiment.label, sentiment.score", ("label", "score"), ("sentiment.label", "sentiment.score")),
        ("a.b, c = c.b", ("b", "c"), ("a.b", "c.b")),
        ("a = x, b = x", ("a", "b"), ("x",)),
        (" a\n,\tb ", ("a", "b"), ("a", "b")),
        ('"Review \\"Text\\"", \'a, b=c\'', ('Review "Text"', "a, b=c"), ('Review "Text"', "a, b=c")),
        ('"new name" = "old name"', ("new name",), ("old name",)),
        ('dotted="a.b", é-ü', ("dotted", "é-ü"), ("a.b", "é-ü")),
    ],
)
def test_values_have_the_last_part_of_their_path_as_name(
    source: str, names: tuple[str, ...], paths: tuple[str, ...]
) -> None:
    task = select(source)
    assert task.adds == task.columns == names
    assert task.names[: len(paths)] == paths


def test_nothing_but_what_is_named_is_left() -> None:
    record = Record("Hi", "f", 3, raw=b'{"text": "Hi", "id": 7, "x": 1}', parse=orjson.loads)
    record = record.with_fields(sentiment={"label": "POSITIVE"}, more=1)
    (result,) = select("id, mood=sentiment.label, no=sentiment.other")([record])
    assert result == Record("Hi", "f", 3, fields={"id": 7, "mood": "POSITIVE", "no": None})
    assert (result.raw, result.parse) == (None, None)


def test_the_text_is_the_one_the_record_was_read_with() -> None:
    record = Record("Bonjour", counts={"tokens": 2}).reading("Hello")
    (result,) = select("text")([record])
    assert (result.fields, result.text, result.counts) == ({"text": "Bonjour"}, "Hello", {"tokens": 2})
    assert selected("text", Record("b", raw=b'{"body": "b"}', parse=orjson.loads)) == {"text": "b"}


def test_a_selection_can_be_selected_from() -> None:
    first, second = select("label=sentiment.label, text"), select("l=label")
    record = Record("a", fields={"sentiment": {"label": "x"}})
    assert [result.fields for result in second(first([record]))] == [{"l": "x"}]


@pytest.mark.parametrize(
    "record", [Record("a").failed("x", "y"), Record("a").dropped(), Record("a").settled()]
)
def test_records_that_are_not_open_pass_untouched(record: Record) -> None:
    (passed,) = select("text")([record])
    assert passed is record


def test_lines_are_the_values_separated_by_tabs() -> None:
    task = select("a, b, c, d, e")
    fields = {"a": "x\ty", "b": None, "c": 0.5, "d": {"k": ["é", True]}, "e": ""}
    (record,) = task([Record("a", fields=fields)])
    assert task.lines(record) == ['x\\ty\t\t0.5\t{"k":["é",true]}\t']


@pytest.mark.parametrize(
    ("source", "message", "carets", "hint"),
    [
        ("", "the names of values are missing", "^", EXAMPLE),
        ("a,", "no name of a value", "  ^", EXAMPLE),
        ("a,, b", "no name of a value", "  ^", EXAMPLE),
        ("= a", "no name of a value", "^", EXAMPLE),
        ("a =", "a comma is missing", "  ^", EXAMPLE),
        ("len(a)", "a comma is missing", "   ^", EXAMPLE),
        ("a b", "a comma is missing", "  ^", EXAMPLE),
        ("a=b=c", "a comma is missing", "   ^", EXAMPLE),
        ("a.b, c.b", "two values are called 'b'", "     ^^^", "give it another name: NAME=c.b"),
        ("a, a=b", "two values are called 'a'", "   ^", "give it another name: NAME=b"),
        ("error", "records need the name 'error' themselves", "^^^^^", "give it another name: NAME=error"),
        ("'a.'", "a value without a name", "^^^^", "give it another name: NAME='a.'"),
    ],
)
def test_errors_show_their_place(source: str, message: str, carets: str, hint: str) -> None:
    error = refused(source)
    lines = [line[7:] for line in error.excerpt.split("\n")]
    assert (error.message, lines, error.hint) == (message, [source, carets], hint)


def test_places_are_those_in_the_pipeline() -> None:
    with pytest.raises(PipelineError) as error:
        Select.parse(parse("ner | select | ner")[1].rest)
    assert error.value.excerpt == "       ner | select | ner\n                   ^"


def test_a_name_shows_errors_of_others() -> None:
    error = select("x=a.b, y=a.b, c").error("no", "a.b", hint="go")
    assert (error.message, error.hint, error.excerpt) == ("no", "go", "       x=a.b, y=a.b, c\n         ^^^")


@given(st.text() | st.text("ab.=, '\"\\", max_size=20))
def test_any_text_is_a_selection_or_a_clean_error(source: str) -> None:
    try:
        task = select(source)
    except PipelineError as error:
        refusal = error
    else:
        (record,) = task([Record("a")])
        assert tuple(record.fields) == task.adds
        return
    assert "\n" not in refusal.message
    assert "^" in refusal.excerpt


def test_it_is_lazy() -> None:
    endless: Iterator[Record] = (Record("a", line=line) for line in count())
    assert [record.line for record in islice(select("text")(endless), 3)] == [0, 1, 2]


def test_it_is_a_task() -> None:
    task: Task = select("text")
    assert task.remarks({}) == []
