"""Tasks behind one another: which text each reads, what is kept, and what is written.

The tasks are doubles. `translate` writes each text twice, so that what a stage reads shows in what it finds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
import pytest

from lmcli.pipeline.compose import Pipeline, input_field, text_fields
from lmcli.pipeline.expression import Expression
from lmcli.pipeline.filtering import Filter
from lmcli.pipeline.fragment import Fragment
from lmcli.pipeline.selecting import Select
from lmcli.pipeline.stage import Part, Stage, Step
from lmcli.records.record import Failure, Record
from lmcli.tasks.rehearsal import Command, Rehearsal, RehearsalTask
from tests.pipeline.test_plan import never

FIELDS: Mapping[Command, str] = {
    "sentiment": "sentiment",
    "ner": "entities",
    "translate": "translation",
    "summarize": "summary",
    "prompt": "answer",
    "embed": "embedding",
}
ECHO, TWICE = Rehearsal(), Rehearsal(times=2)


class Languages:
    """A translation into two languages."""

    adds = ("translation", "translation_flags")
    columns = ("translation.fr", "translation.de", "translation_flags")

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            value = {"fr": f"Le {record.text}", "de": f"Das {record.text}"}
            yield record.with_fields(translation=value) if record.is_open else record

    def lines(self, record: Record) -> list[str]:
        return ["\t".join(record.fields["translation"].values())]

    def remarks(self, counts: Mapping[str, int]) -> list[str]:
        return [f"{counts.get('translation.results', 0)} translations"]


def stage(command: Command, adds: str = "", *, task: Any = None, **settings: Any) -> tuple[Stage, Any]:
    adds = adds or FIELDS[command]
    made = Stage(
        command=command,
        task="text-classification",
        adds=adds,
        load=never,
        make=never,
        identity={},
        writes_text=command == "translate" and task is None,
        **settings,
    )
    return made, task or RehearsalTask(TWICE if command == "translate" else ECHO, command, adds)


def keep(expression: str) -> tuple[Step, Any]:
    parsed = Expression.parse(Fragment.of(expression))
    task = Filter(parsed)
    return Step(command="filter", says=expression, task=task, reads=parsed.names, error=parsed.error), task


def select(names: str) -> tuple[Step, Any]:
    task = Select.parse(Fragment.of(names))
    return Step(
        command="select",
        says=names,
        task=task,
        reads=task.names,
        error=task.error,
        replaces_fields=True,
    ), task


def compose(*pairs: tuple[Part, Any], has_objects: bool = False) -> Pipeline:
    return Pipeline([part for part, _ in pairs], [task for _, task in pairs], has_objects=has_objects)


def text(*lines: str) -> list[Record]:
    return [Record(line, "in", number) for number, line in enumerate(lines, start=1)]


def objects(*values: dict[str, Any], field: str = "text") -> list[Record]:
    return [
        Record(value.get(field, ""), "in", number, raw=orjson.dumps(value), parse=orjson.loads)
        for number, value in enumerate(values, start=1)
    ]


def found(entities: list[dict[str, Any]]) -> list[str]:
    return [entity["text"] for entity in entities]


# Which text a stage reads.


def test_a_stage_reads_the_text_of_the_input() -> None:
    [record] = compose(stage("ner"))(text("Marie"))
    assert found(record.fields["entities"]) == ["Marie"]


def test_annotations_leave_the_text_to_the_next_stage() -> None:
    [record] = compose(stage("sentiment"), stage("ner"), stage("embed"))(text("Marie"))
    assert found(record.fields["entities"]) == ["Marie"]
    assert [*record.fields] == ["sentiment", "entities", "embedding"]


def test_a_stage_reads_what_the_last_transform_before_it_wrote() -> None:
    [record] = compose(stage("translate"), stage("sentiment"), stage("translate", "again"), stage("ner"))(
        text("Marie")
    )
    assert (record.fields["translation"], record.fields["again"]) == ("Marie Marie", " ".join(["Marie"] * 4))
    assert found(record.fields["entities"]) == ["Marie"] * 4


@pytest.mark.parametrize(
    ("reads", "entities"),
    [
        (None, ["Marie", "Marie"]),
        ("text", ["Marie"]),
        ("translation", ["Marie", "Marie"]),
        ("title", ["Paris"]),
        ("more.note", ["York"]),
    ],
)
def test_a_stage_reads_the_field_that_it_names(reads: str | None, entities: list[str]) -> None:
    record = {"text": "Marie", "title": "Paris", "more": {"note": "York"}}
    [done] = compose(stage("translate"), stage("ner", reads=reads), has_objects=True)(objects(record))
    assert found(done.fields["entities"]) == entities


def test_a_stage_behind_one_with_a_field_reads_on_its_own() -> None:
    """What one stage reads is no concern of the next."""
    [record] = compose(stage("translate"), stage("ner", "a", reads="text"), stage("ner", "b"))(text("Marie"))
    assert (found(record.fields["a"]), found(record.fields["b"])) == (["Marie"], ["Marie", "Marie"])
    [record] = compose(stage("ner", "a", reads="title"), stage("ner", "b"), has_objects=True)(
        objects({"text": "Marie", "title": "Paris"})
    )
    assert (found(record.fields["a"]), found(record.fields["b"])) == (["Paris"], ["Marie"])


def test_a_dotted_path_leads_into_one_of_several_languages() -> None:
    [record] = compose(stage("translate", task=Languages()), stage("ner", reads="translation.de"))(
        text("Haus")
    )
    assert found(record.fields["entities"]) == ["Das", "Haus"]


def test_several_languages_are_no_text() -> None:
    translate = stage("translate", task=Languages())
    [record] = compose(translate, stage("ner"))(text("Haus"))
    assert found(record.fields["entities"]) == ["Haus"]
    [record] = compose(translate, stage("ner", reads="translation"))(text("Haus"))
    assert record.failure == Failure("not_a_string", "field 'translation' is an object, not a string")


def test_offsets_point_into_the_text_that_a_stage_saw() -> None:
    [record] = compose(stage("translate"), stage("ner"))(text("in Paris"))
    seen = record.fields["translation"]
    assert [seen[each["start"] : each["end"]] for each in record.fields["entities"]] == ["Paris", "Paris"]
    assert [each["start"] for each in record.fields["entities"]] == [3, 12]
    assert (record.text, record.first_text) == (seen, "in Paris")


def test_text_output_shows_the_text_that_the_last_stage_saw() -> None:
    pipeline = compose(stage("translate"), stage("ner"))
    [record] = pipeline(text("in Paris"))
    assert pipeline.lines(record) == ["in [Paris](ORG) in [Paris](ORG)"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ((None, None), [None, None]),
        (("a", None), ["a", None]),
        ((None, "b"), [None, "b"]),
    ],
)
def test_text_fields(fields: tuple[str | None, ...], expected: list[str | None]) -> None:
    parts = [stage("ner", f"x{index}", reads=reads)[0] for index, reads in enumerate(fields)]
    assert text_fields(parts) == expected
    behind = text_fields([stage("translate")[0], *parts])
    assert behind == [None, *(reads or "translation" for reads in fields)]


def test_a_filter_between_stages_changes_no_text() -> None:
    pipeline = compose(stage("translate"), keep("text == 'Marie'"), stage("ner"))
    first, second = pipeline(text("Marie", "Paris"))
    assert found(first.fields["entities"]) == ["Marie", "Marie"]
    assert second.is_dropped


# The field of an input.


@pytest.mark.parametrize(
    ("pairs", "wanted", "field"),
    [
        ([stage("ner")], None, "text"),
        ([stage("ner")], "body", "body"),
        ([stage("prompt", text_field="question")], None, "question"),
        ([stage("ner"), stage("prompt", text_field="question")], None, "text"),
        ([stage("ner", reads="a"), stage("prompt", text_field="question")], None, "question"),
        ([stage("ner", reads="a")], None, None),
        ([stage("ner", reads="a")], "body", "body"),
        ([stage("translate", reads="a"), stage("ner")], None, None),
        ([keep("id > 1")], None, None),
        ([select("id")], "body", "body"),
    ],
)
def test_the_field_of_an_input(pairs: list[tuple[Part, Any]], wanted: str | None, field: str | None) -> None:
    assert input_field(compose(*pairs).parts, wanted) == field


# What records keep, and which pass.


def test_original_fields_stay() -> None:
    values = {"id": 7, "text": "Marie", "more": [1.50, None]}
    [record] = compose(stage("translate"), stage("ner"), has_objects=True)(objects(values))
    assert record.raw == orjson.dumps(values)
    assert dict(record.values()) == values
    assert [*record.fields] == ["translation", "entities"]


def test_failed_records_pass() -> None:
    failed = Record("Marie", "in", 1, failure=Failure("before", "reason"))
    good = Record("Paris", "in", 2)
    first, second = compose(stage("translate"), keep("text == 'x'"), stage("ner"))([failed, good])
    assert first == failed
    assert second.is_dropped


def test_a_record_that_fails_on_its_way_passes_all_that_follows() -> None:
    failing = RehearsalTask(Rehearsal(every=2), "sentiment", "sentiment")
    pipeline = compose(
        stage("ner"), stage("sentiment", task=failing), keep("text == 'Marie'"), stage("embed")
    )
    first, second = pipeline(text("Marie", "Paris"))
    assert [*first.fields] == ["entities", "sentiment", "embedding"]
    assert second.failure == Failure("rehearsal", "the rehearsal fails every 2 lines")
    assert [*second.fields] == ["entities"]


def test_dropped_records_reach_no_stage_behind_the_filter() -> None:
    dropped, kept = compose(stage("sentiment"), keep("text == 'Paris'"), stage("ner"))(text("Marie", "Paris"))
    assert (dropped.is_dropped, kept.is_dropped) == (True, False)
    assert ([*dropped.fields], [*kept.fields]) == (["sentiment"], ["sentiment", "entities"])


def test_a_selection_leaves_nothing_else() -> None:
    [record] = compose(stage("sentiment"), select("x=id"), has_objects=True)(objects({"id": 3, "text": "a"}))
    assert (dict(record.fields), record.raw) == ({"x": 3}, None)


def test_a_stage_reads_a_field_that_a_selection_made() -> None:
    """Also where nothing was read as text before it."""
    pipeline = compose(select("note=title"), stage("ner", reads="note"), has_objects=True)
    assert input_field(pipeline.parts, None) is None
    [record] = pipeline([record.with_text("") for record in objects({"title": "Paris"})])
    assert found(record.fields["entities"]) == ["Paris"]


def test_records_pass_one_by_one_as_they_are_asked_for() -> None:
    seen: list[str] = []

    def source() -> Iterator[Record]:
        for record in text("a", "b"):
            seen.append(record.text)
            yield record

    pipeline = compose(keep("text != 'x'"), select("text"))
    records = pipeline(source())
    assert (next(records).fields, seen) == ({"text": "a"}, ["a"])


# Fields that are there, or are missing.


@pytest.mark.parametrize("name", ["entities", "translation", "translation_flags"])
def test_an_object_that_has_a_field_that_a_later_stage_adds_fails(name: str) -> None:
    pipeline = compose(stage("sentiment"), stage("translate"), stage("ner"), has_objects=True)
    bad, good = pipeline(objects({"text": "a", name: 1}, {"text": "b"}))
    assert bad.failure == Failure(
        "field_exists", f"the object has a {name!r} already: name the new one with --as"
    )
    assert good.failure is None


def test_a_field_of_a_stage_before_it_is_not_overwritten() -> None:
    """Not only `translation` itself, which is found out before any record is read."""
    pipeline = compose(stage("sentiment", "translation_flags"), stage("translate"))
    [record] = pipeline(text("a"))
    assert record.failure is not None
    assert record.failure.code == "field_exists"
    assert [*record.fields] == ["translation_flags"]


def test_what_a_selection_has_left_out_is_in_nobodys_way() -> None:
    pipeline = compose(select("text"), stage("sentiment"), stage("ner"), has_objects=True)
    assert (pipeline.adds, pipeline.first_adds) == ((), ())
    [record] = pipeline(objects({"text": "a", "sentiment": 1, "entities": 2}))
    assert record.failure is None


def test_a_missing_field_fails_its_record() -> None:
    pipeline = compose(stage("ner", reads="title"), has_objects=True)
    bad, wrong, good = pipeline(objects({"text": "a"}, {"title": 3}, {"title": "Paris"}))
    assert bad.failure == Failure("missing_field", "no field 'title'; there are 'text'")
    assert wrong.failure == Failure("not_a_string", "field 'title' is a number, not a string")
    assert found(good.fields["entities"]) == ["Paris"]


def test_what_stages_added_is_among_the_fields_there_are() -> None:
    pipeline = compose(stage("sentiment"), stage("ner", reads="title"), has_objects=True)
    [record] = pipeline(objects({"text": "a"}))
    assert record.failure == Failure("missing_field", "no field 'title'; there are 'text', 'sentiment'")


@pytest.mark.parametrize("reads", [None, "text", "translation", "title"])
def test_a_blank_line_of_jsonl_has_no_fields_to_miss(reads: str | None) -> None:
    pipeline = compose(stage("translate"), stage("ner", reads=reads), has_objects=True)
    [record] = pipeline([Record("", "in", 1)])
    assert (record.failure, dict(record.fields)) == (None, {"translation": "", "entities": []})


# What an output shows.


def test_columns_are_those_of_all_stages() -> None:
    pipeline = compose(stage("sentiment"), keep("text"), stage("translate", task=Languages()), stage("ner"))
    assert pipeline.columns == (
        "sentiment.label",
        "sentiment.score",
        "translation.fr",
        "translation.de",
        "translation_flags",
        "entities",
    )
    assert pipeline.adds == ("sentiment", "translation", "translation_flags", "entities")
    assert pipeline.first_adds == ("sentiment",)
    assert not pipeline.only_fields


def test_columns_of_a_selection_are_its_names() -> None:
    pipeline = compose(stage("sentiment"), select("text, x=sentiment.label"), stage("ner"))
    assert pipeline.columns == ("text", "x", "entities")
    assert (pipeline.adds, pipeline.first_adds) == (("sentiment",), ("sentiment",))
    assert pipeline.only_fields


@pytest.mark.parametrize(
    ("pairs", "line"),
    [
        ([stage("translate"), stage("ner")], "[A](MISC) [A](MISC)"),
        ([stage("translate"), stage("ner"), keep("text")], "[A](MISC) [A](MISC)"),
        ([stage("ner"), stage("translate")], "A A"),
        ([stage("ner"), select("text, note=id, again=text")], "A\t\tA"),
        ([keep("text")], "A"),
    ],
)
def test_text_output_is_that_of_the_last_part_that_is_no_filter(
    pairs: list[tuple[Part, Any]], line: str
) -> None:
    pipeline = compose(*pairs)
    [record] = pipeline(text("A"))
    assert pipeline.lines(record) == [line]


def test_remarks_are_those_of_all_stages() -> None:
    pipeline = compose(stage("sentiment"), keep("text"), stage("translate", task=Languages()))
    assert pipeline.remarks({"translation.results": 3}) == ["3 translations"]


def test_counts_of_all_stages_add_up() -> None:
    [record] = compose(stage("sentiment"), stage("translate"), stage("ner"))(text("one Two"))
    assert dict(record.counts) == {
        "sentiment.results": 1,
        "sentiment.tokens": 2,
        "translation.results": 1,
        "translation.tokens": 2,
        "entities.results": 1,
        "entities.tokens": 4,
    }
