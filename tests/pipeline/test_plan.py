from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from lmcli.pipeline.expression import Expression
from lmcli.pipeline.filtering import Filter
from lmcli.pipeline.fragment import Fragment
from lmcli.pipeline.plan import Problem, find_problem
from lmcli.pipeline.selecting import Select
from lmcli.pipeline.stage import Part, Stage, Step


def never(*_: Any, **__: Any) -> Any:
    pytest.fail("a model is not needed to plan")


def stage(command: Any, adds: str, **settings: Any) -> Stage:
    return Stage(
        command=command,
        task="text-classification",
        adds=adds,
        load=never,
        make=never,
        identity={},
        **settings,
    )


def keep(expression: str) -> Step:
    parsed = Expression.parse(Fragment.of(expression))
    return Step(
        command="filter", says=expression, task=Filter(parsed), reads=parsed.names, error=parsed.error
    )


def select(names: str) -> Step:
    task = Select.parse(Fragment.of(names))
    return Step(
        command="select",
        says=names,
        task=task,
        reads=task.names,
        error=task.error,
        replaces_fields=True,
    )


MOOD = stage("sentiment", "sentiment")
NAMES = stage("ner", "entities")
FRENCH = stage("translate", "translation", writes_text=True)


@pytest.mark.parametrize(
    ("parts", "known"),
    [
        ([MOOD], ("text",)),
        ([MOOD, NAMES, FRENCH], ("text",)),
        ([FRENCH, stage("ner", "a", reads="translation"), stage("ner", "b", reads="text")], ("text",)),
        ([stage("ner", "entities", reads="body")], ("id", "body")),
        ([stage("ner", "entities", reads="a.b.c")], ("a",)),
        ([stage("ner", "entities", reads="a.b.c")], ("a.b",)),
        ([FRENCH, stage("ner", "entities", reads="translation.fr")], ("text",)),
        ([MOOD, keep("sentiment.score > 0.9 and text")], ("text",)),
        ([FRENCH, keep("translation_flags == null")], ("text",)),
        ([MOOD, select("text, x=sentiment.label"), keep("x == 'a'")], ("text",)),
        ([stage("prompt", "answer", needs=("question", "text"))], ("question", "text")),
        ([keep("anything.at.all")], None),
        ([stage("ner", "entities", reads="anything"), select("whatever")], None),
        ([], ("text",)),
    ],
    ids=lambda value: " | ".join(part.command for part in value) if isinstance(value, list) else "",
)
def test_what_can_work(parts: Sequence[Part], known: Sequence[str] | None) -> None:
    assert find_problem(parts, known) is None


HINT = "-I names the format of the input"


@pytest.mark.parametrize(
    ("parts", "known", "problem"),
    [
        (
            [MOOD, stage("ner", "entities", reads="body")],
            ("text",),
            Problem(1, "no field 'body' in the input; there are 'text', 'sentiment'", HINT, "body"),
        ),
        (
            [keep("txt == 'a'")],
            ("id", "text"),
            Problem(
                0, "no field 'txt' in the input; there are 'id', 'text'; did you mean 'text'?", HINT, "txt"
            ),
        ),
        (
            [keep("text == 'a' and sentimnt.score > 1"), MOOD],
            ("text",),
            Problem(0, "no field 'sentimnt.score' in the input; there are 'text'", HINT, "sentimnt.score"),
        ),
        (
            [MOOD, keep("sentimnt.score > 1")],
            ("text",),
            Problem(
                1,
                "no field 'sentimnt.score' in the input; there are 'text', 'sentiment';"
                " did you mean 'sentiment'?",
                HINT,
                "sentimnt.score",
            ),
        ),
        (
            [stage("prompt", "answer", needs=("question",))],
            ("text",),
            Problem(
                0,
                "no field 'question' in the input; there are 'text'",
                f"{HINT}; write {{{{ and }}}} for braces in a template",
                "question",
            ),
        ),
        (
            [keep("a")],
            (),
            Problem(0, "no field 'a' in the input; there are none", HINT, "a"),
        ),
        (
            [MOOD, select("x=sentiment.label"), keep("sentiment.score > 0.5")],
            ("text",),
            Problem(2, "no field 'sentiment.score' in the input; there are 'x'", HINT, "sentiment.score"),
        ),
    ],
    ids=[
        "field of a stage",
        "field of a filter",
        "added later",
        "added under another name",
        "field of a template",
        "no fields",
        "gone with a selection",
    ],
)
def test_a_field_that_no_record_can_have(
    parts: Sequence[Part], known: Sequence[str], problem: Problem
) -> None:
    assert find_problem(parts, known) == problem


def test_a_selection_says_all_that_is_there() -> None:
    problem = find_problem([select("id"), keep("text == 'a'")], None)
    assert problem == Problem(1, "no field 'text' in the input; there are 'id'", HINT, "text")


@pytest.mark.parametrize("known", [None, ("text",)])
def test_a_text_that_a_selection_drops(known: Sequence[str] | None) -> None:
    problem = find_problem([FRENCH, select("text, tr=translation"), NAMES], known)
    assert problem == Problem(
        2,
        "ner reads 'translation', which is not selected",
        "select it as well, or name another one: ner field=NAME",
        "translation",
    )
    assert find_problem([FRENCH, select("translation"), NAMES], known) is None
    assert find_problem([FRENCH, select("tr=translation"), stage("ner", "e", reads="tr")], known) is None


@pytest.mark.parametrize("known", [None, ("text",)])
def test_two_stages_add_the_same_field(known: Sequence[str] | None) -> None:
    problem = find_problem([MOOD, FRENCH, stage("ner", "sentiment")], known)
    assert problem == Problem(2, "two stages add 'sentiment'", "name one of them: ner as=NAME", "sentiment")


def test_a_stage_adds_what_a_selection_made() -> None:
    problem = find_problem([select("text, sentiment=id"), MOOD], None)
    assert problem is not None
    assert (problem.index, problem.message) == (1, "two stages add 'sentiment'")


def test_the_first_problem_counts() -> None:
    problem = find_problem([MOOD, keep("nothing"), MOOD], ("text",))
    assert problem is not None
    assert problem.index == 1


def test_a_name_is_not_free_again_behind_a_selection() -> None:
    problem = find_problem([MOOD, select("text"), MOOD], ("text",))
    assert problem is not None
    assert (problem.index, problem.message) == (2, "two stages add 'sentiment'")


def test_a_part_that_a_result_does_not_have() -> None:
    mood = replace(MOOD, parts=("label", "score"))
    problem = find_problem([mood, keep("sentiment.lable == 'a'")], None)
    assert problem is not None
    assert (problem.message, problem.hint) == (
        "sentiment gives no 'sentiment.lable'",
        "there is sentiment.label, sentiment.score",
    )
    assert find_problem([mood, keep("sentiment.score > 0.5")], None) is None


def test_which_of_several_texts_is_read_has_to_be_said() -> None:
    writer = replace(stage("translate", "translation"), writes_texts=True)
    problem = find_problem([writer, MOOD], ("text",))
    assert problem is not None
    assert (problem.index, problem.message, problem.hint) == (
        1,
        "translate writes several texts",
        "name the one to read: sentiment field=translation.LANG",
    )
    assert find_problem([writer, replace(MOOD, reads="translation.fr")], ("text",)) is None
