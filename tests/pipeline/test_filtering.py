from collections.abc import Iterator
from itertools import count, islice

import orjson
import pytest

from lmcli.pipeline.expression import Expression
from lmcli.pipeline.filtering import Filter
from lmcli.pipeline.fragment import Fragment
from lmcli.records.record import Failure, Record
from lmcli.tasks.base import Task


def where(source: str) -> Filter:
    return Filter(Expression.parse(Fragment.of(source)))


def of_object(raw: bytes, text: str = "") -> Record:
    return Record(text, raw=raw, parse=orjson.loads)


def test_records_for_which_it_is_false_are_dropped() -> None:
    records = [Record("a", fields={"stars": stars}) for stars in (1, 5, None)]
    kept, dropped = records[1], [records[0].dropped(), records[2].dropped()]
    assert list(where("stars > 3")(records)) == [dropped[0], kept, dropped[1]]


def test_a_question_that_makes_no_sense_fails_the_record() -> None:
    record = Record("a", fields={"stars": "5"})
    assert list(where("stars > 3")([record, Record("b")])) == [
        record.failed("filter", 'cannot order "5" and 3; number(...) makes a number of a string'),
        Record("b").dropped(),
    ]


@pytest.mark.parametrize(
    "record", [Record("a").failed("x", "y"), Record("a").dropped(), Record("a").settled()]
)
def test_records_that_are_not_open_pass_untouched(record: Record) -> None:
    (passed,) = where("true" if record.is_dropped else "false")([record])
    assert passed is record


def test_it_sees_the_object_and_what_tasks_added() -> None:
    record = of_object(b'{"lang": "en", "score": 1}').with_fields(score=2)
    assert list(where('lang == "en" and score == 2')([record])) == [record]


def test_the_text_is_the_one_the_record_was_read_with() -> None:
    read = Record("Bonjour").reading("Hello")
    assert list(where("text == 'Bonjour'")([read])) == [read]


def test_the_text_of_an_object_has_the_name_text_unless_another_has() -> None:
    other = of_object(b'{"body": "b"}', text="b")
    own = of_object(b'{"body": "b", "text": "t"}', text="b")
    assert [record.is_dropped for record in where("text == 'b'")([other, own])] == [False, True]


def test_it_is_lazy() -> None:
    endless: Iterator[Record] = (Record("a", line=line) for line in count())
    kept = (record.line for record in where("true")(endless) if not record.is_dropped)
    assert list(islice(kept, 3)) == [0, 1, 2]


def test_it_is_a_task_that_adds_nothing() -> None:
    task: Task = where("true")
    assert (task.adds, task.columns, task.lines(Record("a"))) == ((), (), ["a"])
    assert task.remarks({}) == []


def test_a_failure_of_a_filter_is_told_like_any_other() -> None:
    (record,) = where("text")([Record("a")])
    assert record.failure == Failure("filter", 'the filter gives "a", not true or false')
