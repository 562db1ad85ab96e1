"""A task with a cache gives what it gives without, and computes only what is new."""

from __future__ import annotations

import math
import random
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from lmcli.engine.tokenizer import TokenizeError
from lmcli.records.record import Record
from lmcli.records.result_cache import ResultCache
from lmcli.tasks.base import Task, annotate
from lmcli.tasks.cached import Cached
from lmcli.tasks.ner import Ner, NerOptions
from lmcli.tasks.sentiment import Sentiment, SentimentOptions
from tests import tiny

REFUSED = "refused"


class Shout:
    """A task that notes which texts it computes."""

    def __init__(self, field: str = "shout", value: Callable[[str], Any] = str.upper) -> None:
        self.adds = self.columns = (field,)
        self.computed: list[str] = []
        self._value = value

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        (field,) = self.adds
        return annotate(
            records,
            self._start,
            lambda _, value: {field: value},
            empty={field: None},
            counts=lambda _: {f"{field}.tokens": 3},
        )

    def lines(self, record: Record) -> list[str]:
        return [record.fields[self.adds[0]]]

    def remarks(self, counts: Mapping[str, int]) -> list[str]:
        return [f"{counts['tokens']} tokens"]

    def _start(self, texts: Mapping[str, Record]) -> Callable[[], Mapping[str, Any]]:
        self.computed += texts
        found = {
            text: TokenizeError("no") if text == REFUSED else self._value(record.text)
            for text, record in texts.items()
        }
        return lambda: found


class Memory(dict[bytes, bytes]):
    """A cache in memory."""

    def put(self, key: bytes, value: bytes) -> None:
        self[key] = value


def cached(task: Task, cache: Memory | ResultCache, identity: bytes = b"model") -> Cached:
    return Cached(task, cache, identity=identity, key=lambda record: record.text, name=task.adds[0])


def records_of(texts: Iterable[str]) -> list[Record]:
    return [Record(text, line=line) for line, text in enumerate(texts, start=1)]


def written(task: Task, records: Iterable[Record]) -> list[bytes]:
    """What outputs are made of."""
    return [
        orjson.dumps([dict(record.fields), task.lines(record) if record.failure is None else "failed"])
        for record in records
    ]


def test_the_second_run_computes_nothing() -> None:
    task, cache = Shout(), Memory()
    records = records_of(["a", "b", "a", "c"])
    cold = list(cached(task, cache)(records))
    assert task.computed == ["a", "b", "c"]
    warm = list(cached(task, cache)(records))
    assert task.computed == ["a", "b", "c"]
    assert [record.fields for record in warm] == [record.fields for record in cold]
    assert cold == list(Shout()(records))


def test_only_new_lines_are_computed() -> None:
    task, cache = Shout(), Memory()
    list(cached(task, cache)(records_of(["a", "b"])))
    found = list(cached(task, cache)(records_of(["a", "new", "b", "newer"])))
    assert task.computed == ["a", "b", "new", "newer"]
    assert [record.fields["shout"] for record in found] == ["A", "NEW", "B", "NEWER"]


def test_hits_are_counted_besides_what_the_task_counted() -> None:
    cache = Memory()
    list(cached(Shout(), cache)(records_of(["a"])))
    hit, miss = cached(Shout(), cache)(records_of(["a", "b"]))
    assert hit.counts == {"shout.tokens": 3, "shout.cached": 1}
    assert miss.counts == {"shout.tokens": 3}


def test_no_record_leaves_settled() -> None:
    cache = Memory()
    for _ in range(2):
        assert not any(record.is_settled for record in cached(Shout(), cache)(records_of(["a", "b"])))


def test_failed_records_are_not_kept() -> None:
    task, cache = Shout(), Memory()
    for _ in range(2):
        (record,) = cached(task, cache)(records_of([REFUSED]))
        assert record.failure is not None
    assert task.computed == [REFUSED, REFUSED]
    assert cache == {}


def test_dropped_records_are_not_kept() -> None:
    class Dropping(Shout):
        def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
            return (record.dropped() for record in records)

    cache = Memory()
    assert all(record.is_dropped for record in cached(Dropping(), cache)(records_of(["a"])))
    assert cache == {}


def test_what_is_not_open_passes_untouched() -> None:
    cache = Memory()
    list(cached(Shout(), cache)(records_of(["a"])))
    closed = [Record("a").failed("upstream", "no"), Record("a").dropped()]
    assert list(cached(Shout(), cache)(closed)) == closed


def test_blank_texts_are_not_kept() -> None:
    cache = Memory()
    records = list(cached(Shout(), cache)(records_of(["", " \t"])))
    assert [record.fields for record in records] == [{"shout": None}] * 2
    assert cache == {}


def test_a_record_without_a_key_is_computed_each_time() -> None:
    task, cache = Shout(), Memory()
    wrapped = Cached(
        task, cache, identity=b"", key=lambda record: None if record.line == 1 else record.text, name="shout"
    )
    for _ in range(2):
        list(wrapped(records_of(["a", "b"])))
    assert task.computed == ["a", "b", "a"]


def test_the_key_decides_and_not_the_text() -> None:
    task, cache = Shout(), Memory()
    wrapped = Cached(task, cache, identity=b"", key=lambda record: str(record.line), name="shout")
    first, second = wrapped(records_of(["a", "a"]))
    assert (first.fields, len(cache)) == (second.fields, 2)


@pytest.mark.parametrize(("one", "other"), [(b"", b"x"), (b"a", b"a\0"), (b"model 1", b"model 2")])
def test_another_identity_is_another_result(one: bytes, other: bytes) -> None:
    task, cache = Shout(), Memory()
    for identity in (one, other):
        list(cached(task, cache, identity)(records_of(["a"])))
    assert task.computed == ["a", "a"]


def test_only_what_the_task_added_is_kept() -> None:
    cache = Memory()
    before = Record("a").with_result({"earlier": 1}, {"earlier.tokens": 2, "shout.tokens": 4})
    list(cached(Shout(), cache)([before]))
    assert list(cache.values()) == [b'{"fields":{"shout":"A"},"counts":{"shout.tokens":3}}']
    (hit,) = cached(Shout(), cache)([Record("a").with_fields(other=2)])
    assert hit.fields == {"other": 2, "shout": "A"}


def test_a_record_that_has_the_field_already_is_computed() -> None:
    task, cache = Shout(), Memory()
    for _ in range(2):
        (record,) = cached(task, cache)([Record("a").with_fields(shout="old")])
        assert record.fields == {"shout": "A"}
    assert cache == {}


@pytest.mark.parametrize(
    "value",
    [math.nan, [1.0, math.inf], {"a": -math.inf}, np.float32(1), (1, 2), {1: 2}, 2**70, "\ud800"],
    ids=repr,
)
def test_what_json_cannot_say_is_not_kept(value: Any) -> None:
    cache = Memory()
    (record,) = cached(Shout(value=lambda _: value), cache)(records_of(["a"]))
    assert record.fields["shout"] is value
    assert cache == {}


def test_numbers_come_back_to_the_last_bit() -> None:
    numbers = [0.1, 1e-300, 1 / 3, 5e-324, -0.0, 1e22, 1.0, 7, 2**53 + 1, True, None]
    cache = Memory()
    runs = [cached(Shout(value=lambda _: numbers), cache)(records_of(["a"])) for _ in range(2)]
    cold, warm = (written(Shout(), run) for run in runs)
    assert cold == warm


def test_a_text_with_a_lone_surrogate_has_a_key() -> None:
    task, cache = Shout(value=len), Memory()
    for _ in range(2):
        list(cached(task, cache)(records_of(["a\ud800", "a?"])))
    assert task.computed == ["a\ud800", "a?"]


def test_what_it_shows_and_says_is_the_task_s() -> None:
    wrapped = cached(Shout(), Memory())
    assert (wrapped.adds, wrapped.columns) == (("shout",), ("shout",))
    assert wrapped.lines(Record("a").with_fields(shout="A")) == ["A"]
    assert wrapped.remarks({"tokens": 3}) == ["3 tokens"]


def test_stages_share_a_cache() -> None:
    cache = Memory()
    shout, count = Shout(), Shout("length", len)

    def run(texts: Sequence[str]) -> list[Record]:
        between = (record.reading(str(record.fields["shout"])) for record in stage_one(records_of(texts)))
        return list(cached(count, cache, b"two")(between))

    stage_one = cached(shout, cache, b"one")
    run(["a", "bb"])
    found = run(["a", "ccc", "bb"])
    assert [record.fields for record in found] == [
        {"shout": "A", "length": 1},
        {"shout": "CCC", "length": 3},
        {"shout": "BB", "length": 2},
    ]
    assert (shout.computed, count.computed) == (["a", "bb", "ccc"], ["A", "BB", "CCC"])
    assert [record.counts.get("length.cached", 0) for record in found] == [1, 0, 1]


@pytest.mark.parametrize("share", [0, 0.3, 0.97, 1])
def test_the_output_is_the_same_with_any_share_of_hits(
    share: float, tmp_path: Path, moods: Path, names: Path
) -> None:
    chance = random.Random(str(share))
    vocabulary = ["good", "bad", "awful", "great", "Marie", "Curie", "New", "York", "Paris", "and", "é"]
    texts = [" ".join(chance.choices(vocabulary, k=chance.randrange(9))) for _ in range(3000)]
    known = [text for text in texts if chance.random() < share]
    with tiny.open_encoder(moods) as moody, tiny.open_encoder(names) as naming:
        tasks: list[Task] = [
            Sentiment(*moody, SentimentOptions(all_scores=True)),
            Ner(*naming, NerOptions()),
        ]
        for task in tasks:
            said: list[str] = []
            path = tmp_path / f"{task.adds[0]}.db"
            with ResultCache(path, max_bytes=10**8, report=said.append) as cache:
                list(cached(task, cache)(records_of(known)))
            with ResultCache(path, max_bytes=10**8, report=said.append) as cache:
                found = list(cached(task, cache)(records_of(texts)))
            assert written(task, found) == written(task, task(records_of(texts)))
            hits = sum(record.counts.get(f"{task.adds[0]}.cached", 0) for record in found)
            assert hits >= sum(1 for text in known if text)
            assert said == []


def test_an_interrupted_run_keeps_what_came_out(tmp_path: Path) -> None:
    path, said = tmp_path / "results.db", list[str]()
    with ResultCache(path, max_bytes=10**8, report=said.append) as cache:
        run = cached(Shout(), cache)(records_of(map(str, range(5000))))
        for _ in range(100):
            next(run)
    with ResultCache(path, max_bytes=10**8, report=said.append) as cache:
        found = cached(Shout(), cache)(records_of(map(str, range(100))))
        assert sum(record.counts.get("shout.cached", 0) for record in found) >= 99
    assert said == []


def test_a_cache_that_fails_loses_no_record(tmp_path: Path) -> None:
    path, said = tmp_path / "results.db", list[str]()
    with ResultCache(path, max_bytes=10**8, report=said.append) as cache:
        list(cached(Shout(), cache)(records_of(map(str, range(3000)))))
    data = bytearray(path.read_bytes())
    data[len(data) // 3 :] = bytes(len(data) - len(data) // 3)
    path.write_bytes(data)
    records = records_of(map(str, range(3500)))
    with ResultCache(path, max_bytes=10**8, report=said.append) as cache:
        found = list(cached(Shout(), cache)(records))
    assert written(Shout(), found) == written(Shout(), Shout()(records))
    assert len(said) == 1


def test_hits_stream_and_do_not_pile_up() -> None:
    cache = Memory()
    list(cached(Shout(), cache)(records_of("a")))
    read: deque[None] = deque()

    def reading() -> Iterator[Record]:
        for _ in range(100_000):
            read.append(None)
            yield Record("a")

    most = 0
    for _ in cached(Shout(), cache)(reading()):
        most = max(most, len(read))
        read.popleft()
    assert most < 5000


def test_each_result_is_there_before_the_next_record_comes() -> None:
    cache = Memory()
    list(cached(Shout(), cache)(records_of("ac")))
    has_come = threading.Semaphore(0)

    def one_by_one() -> Iterator[Record]:
        for text in "abcd":
            yield Record(text)
            assert has_come.acquire(timeout=60)  # the next record comes behind the result of this one

    results = []
    for record in cached(Shout(), cache)(one_by_one()):
        results.append(record.fields["shout"])
        has_come.release()
    assert results == ["A", "B", "C", "D"]
