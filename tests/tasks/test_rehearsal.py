import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from lmcli.errors import UsageError
from lmcli.records.record import Record
from lmcli.tasks.base import Task
from lmcli.tasks.rehearsal import Command, Rehearsal, RehearsalTask, parse_rehearsal

COMMANDS: tuple[Command, ...] = get_args(Command)
TEXT = "Marie met Ümit in Rome"


def task_of(name: str, command: Command = "translate", **options: Any) -> RehearsalTask:
    rehearsal = parse_rehearsal(name)
    assert rehearsal is not None
    return RehearsalTask(rehearsal, command, "new", **options)


def records_of(*texts: str) -> list[Record]:
    return [Record(text, line=line) for line, text in enumerate(texts, start=1)]


def results(name: str, *texts: str, command: Command = "translate") -> list[Record]:
    return list(task_of(name, command)(records_of(*texts)))


def value(name: str, command: Command, text: str = TEXT) -> Any:
    [record] = results(name, text, command=command)
    return record.fields["new"]


@pytest.mark.parametrize(
    ("name", "rehearsal"),
    [
        ("sentiment-en", None),
        ("./test:echo", None),
        ("test:echo", Rehearsal()),
        ("test:slow", Rehearsal(ms=100)),
        ("test:slow?ms=20", Rehearsal(ms=20)),
        ("test:fail", Rehearsal(every=10)),
        ("test:fail?every=7", Rehearsal(every=7)),
        ("test:fail?every=7&unless=a%26b%20c+d", Rehearsal(every=7, unless="a&b c+d")),
        ("test:fail?ms=5&every=1", Rehearsal(every=1, ms=5)),
        ("test:grow?times=3", Rehearsal(times=3)),
        ("test:esc", Rehearsal(has_controls=True)),
    ],
)
def test_a_name_stands_for_a_double_or_a_bundle(name: str, rehearsal: Rehearsal | None) -> None:
    assert parse_rehearsal(name) == rehearsal


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("test:ehco", "unknown rehearsal double 'test:ehco'", "did you mean test:echo?"),
        (
            "test:",
            "unknown rehearsal double 'test:'",
            "there are test:echo, test:slow, test:fail, test:grow, test:esc",
        ),
        ("test:fail?evry=7", "test:fail has no parameter 'evry'", "did you mean every?"),
        ("test:echo?x=7", "test:echo has no parameter 'x'", "there are ms"),
        ("test:slow?", None, None),
        ("test:slow?ms", "test:slow?ms: 'ms' has no value", ""),
        ("test:slow?ms=1&ms=2", "test:slow?ms=1&ms=2: 'ms' comes twice", ""),
        ("test:slow?ms=-1", "ms is a whole number from 0 to 1000000, not '-1'", ""),
        ("test:slow?ms=1e3", "ms is a whole number from 0 to 1000000, not '1e3'", ""),
        ("test:slow?ms=٣", "ms is a whole number from 0 to 1000000, not '٣'", ""),
        ("test:fail?every=0", "every is a whole number from 1 to 1000000, not '0'", ""),
        ("test:grow?times=9999999", "times is a whole number from 1 to 1000000, not '9999999'", ""),
        ("test:fail?unless=", "unless='' is no path", "for instance unless=fixed"),
    ],
)
def test_a_wrong_name_is_refused_with_a_suggestion(name: str, message: str | None, hint: str | None) -> None:
    if message is None:
        assert parse_rehearsal(name) is not None
        return
    with pytest.raises(UsageError) as caught:
        parse_rehearsal(name)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@pytest.mark.parametrize("command", COMMANDS)
def test_it_has_the_shape_of_a_task(command: Command) -> None:
    task: Task = task_of("test:echo", command)
    [record] = task(records_of(TEXT))
    assert list(record.fields) == ["new"]
    assert task.adds[0] == "new"
    assert all(column.startswith("new") for column in task.columns)
    assert len(task.lines(record)) == 1
    assert task.remarks({}) == []


def test_sentiment_has_a_label_and_a_score() -> None:
    task = task_of("test:echo", "sentiment")
    [record] = task(records_of(TEXT))
    found = record.fields["new"]
    assert found["label"] in ("POSITIVE", "NEGATIVE")
    assert 0.5 <= found["score"] <= 1
    assert task.columns == ("new.label", "new.score")
    assert task.lines(record) == [f"{found['label']}\t{found['score']:.4f}\t{TEXT}"]


def test_both_labels_occur() -> None:
    found = {value("test:echo", "sentiment", f"text {index}")["label"] for index in range(20)}
    assert found == {"POSITIVE", "NEGATIVE"}


def test_entities_are_the_capitalised_words_at_their_offsets() -> None:
    found = value("test:echo", "ner")
    assert [entity["text"] for entity in found] == ["Marie", "Ümit", "Rome"]
    assert all(TEXT[entity["start"] : entity["end"]] == entity["text"] for entity in found)
    assert {*found[0]} == {"label", "text", "start", "end", "score"}


def test_entities_are_shown_in_the_style_that_is_asked_for() -> None:
    task = task_of("test:echo", "ner", style="spans")
    [record] = task(records_of(TEXT))
    assert [line.split("\t")[6] for line in task.lines(record)] == ["Marie", "Ümit", "Rome"]


@pytest.mark.parametrize("command", ["translate", "summarize", "prompt"])
def test_what_a_model_would_write_is_the_text(command: Command) -> None:
    task = task_of("test:echo", command)
    [record] = task(records_of(TEXT))
    assert (record.fields, task.lines(record)) == ({"new": TEXT}, [TEXT])
    assert task.adds == task.columns == ("new", "new_flags")


def test_embed_has_a_short_vector() -> None:
    task = task_of("test:echo", "embed")
    [record] = task(records_of(TEXT))
    assert len(record.fields["new"]) == 4
    assert json.loads(task.lines(record)[0]) == record.fields["new"]


@pytest.mark.parametrize("command", COMMANDS)
def test_equal_texts_have_equal_results_wherever_they_stand(command: Command) -> None:
    first, _, again = results("test:echo", TEXT, "another", TEXT, command=command)
    assert first.fields == again.fields == results("test:echo", TEXT, command=command)[0].fields


@pytest.mark.parametrize(
    ("command", "empty", "lines"),
    [
        ("sentiment", {"label": None, "score": None}, [""]),
        ("ner", [], ["  "]),
        ("translate", "", [""]),
        ("embed", None, [""]),
    ],
)
def test_a_blank_text_has_the_empty_value(command: Command, empty: Any, lines: list[str]) -> None:
    task = task_of("test:fail?every=1", command)
    [record] = task(records_of("  "))
    assert (record.fields["new"], record.failure, dict(record.counts)) == (empty, None, {})
    assert task.lines(record) == lines


def test_words_are_counted_as_tokens() -> None:
    assert results("test:echo", TEXT)[0].counts == {"new.results": 1, "new.tokens": 5}


def test_every_third_line_fails_without_fields() -> None:
    records = results("test:fail?every=3", *"abcdefg")
    assert [record.failure is not None for record in records] == [False, False, True] * 2 + [False]
    assert (records[2].text, records[2].fields, records[2].counts) == ("c", {}, {})
    assert records[2].failure is not None
    assert records[2].failure.code == "rehearsal"
    assert records[2].failure.message == "the rehearsal fails every 3 lines"


def test_nothing_fails_once_the_path_is_there(tmp_path: Path) -> None:
    path = tmp_path / "fixed"
    name = f"test:fail?every=2&unless={path}"
    assert [record.failure is None for record in results(name, "a", "b")] == [True, False]
    path.touch()
    assert [record.failure is None for record in results(name, "a", "b")] == [True, True]


def test_records_that_are_not_open_pass_untouched() -> None:
    records = [
        Record("a", line=1).failed("code", "message"),
        Record("a", line=2).dropped(),
        Record("a", line=3).settled(),
        Record("a", line=4),
    ]
    *untouched, last = task_of("test:fail?every=1&ms=1")(records)
    assert untouched == records[:3]
    assert last.failure is not None


def test_grow_repeats_a_result() -> None:
    assert value("test:grow?times=3", "translate", "ab") == "ab ab ab"
    assert len(value("test:grow?times=3", "embed")) == 12
    assert value("test:grow?times=2", "sentiment")["label"].count("TIVE") == 2
    assert len(value("test:grow?times=2", "ner")) == 6


@pytest.mark.parametrize("command", ["sentiment", "ner", "translate"])
def test_esc_puts_control_characters_into_the_output(command: Command) -> None:
    task = task_of("test:esc", command)
    [record] = task(records_of(TEXT))
    assert "\x1b[31m" in task.lines(record)[0]


def test_esc_leaves_offsets_right() -> None:
    found = value("test:esc", "ner")
    assert [TEXT[entity["start"] : entity["end"]] for entity in found] == ["Marie", "Ümit", "Rome"]


def test_slow_results_come_one_by_one() -> None:
    """The last text is not given before the first result is there: nothing waits for a window."""
    has_come = threading.Event()

    def source() -> Iterator[Record]:
        yield from records_of("a", "b")
        has_come.wait()
        yield Record("c", line=3)

    stream = task_of("test:slow?ms=1")(source())
    taken = [next(stream)]
    has_come.set()
    assert [record.text for record in (*taken, *stream)] == ["a", "b", "c"]


def test_a_signal_interrupts_a_slow_text() -> None:
    class Rung(BaseException):
        pass

    def ring(*_: object) -> None:
        raise Rung

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Rung):
            results("test:slow?ms=1000000", "a")
    finally:
        signal.signal(signal.SIGALRM, before)


def test_no_engine_is_loaded() -> None:
    script = "import sys, lmcli.tasks.rehearsal; print('onnxruntime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, env=os.environ)
    assert done.stdout == b"False\n"
