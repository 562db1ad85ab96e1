import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.errors import DataError
from lmcli.records.record import Record
from lmcli.records.windows import iter_windows

LONG = 60.0


def texts(*lengths: int) -> Iterator[Record]:
    return (Record("x" * length, line=line) for line, length in enumerate(lengths))


def sizes(records: Iterator[Record], max_records: int = 3, max_chars: int = 100) -> list[int]:
    windows = iter_windows(records, max_records=max_records, max_chars=max_chars, patience=LONG)
    return [len(window) for window in windows if window]


@pytest.mark.parametrize(
    ("lengths", "windows"),
    [
        pytest.param([], [], id="none"),
        pytest.param([1] * 7, [3, 3, 1], id="by records"),
        pytest.param([60, 60, 60], [2, 1], id="by characters"),
        pytest.param([500, 500], [1, 1], id="longer than a window"),
        pytest.param([0] * 3, [3], id="empty texts"),
    ],
)
def test_windows_are_full_when_records_are_there(lengths: list[int], windows: list[int]) -> None:
    assert sizes(texts(*lengths)) == windows


@given(st.lists(st.integers(0, 30), max_size=40), st.integers(1, 5), st.integers(1, 50))
def test_every_record_comes_once_in_order(lengths: list[int], max_records: int, max_chars: int) -> None:
    windows = iter_windows(texts(*lengths), max_records=max_records, max_chars=max_chars)
    assert [record for window in windows for record in window] == list(texts(*lengths))


def test_a_slow_producer_is_not_waited_for() -> None:
    go_on = threading.Event()

    def slow() -> Iterator[Record]:
        yield Record("one")
        yield Record("two")
        assert go_on.wait(LONG)
        yield Record("three")

    windows = iter_windows(slow(), max_records=100, max_chars=100, patience=0.02)
    first = [record for _ in range(1) for record in next(windows)]
    while len(first) < 2:
        first += next(windows)
    assert first == [Record("one"), Record("two")]
    go_on.set()
    assert [window for window in windows if window] == [[Record("three")]]


def test_an_empty_window_says_that_nothing_is_there_for_now() -> None:
    go_on = threading.Event()

    def slow() -> Iterator[Record]:
        yield Record("one")
        assert go_on.wait(LONG)
        yield Record("two")

    windows = iter_windows(slow(), max_records=1, max_chars=100, patience=0.02)
    assert [next(windows), next(windows)] == [[Record("one")], []]
    go_on.set()
    assert list(windows) == [[Record("two")], []]


def test_reading_ahead_is_bounded() -> None:
    read: list[int] = []

    def producer() -> Iterator[Record]:
        for line in range(100):
            read.append(line)
            yield Record("", line=line)

    windows = iter_windows(producer(), max_records=5, max_chars=100, patience=LONG)
    next(windows)
    next(windows)
    # Two windows handed out, one filled behind them, one record in the producer's hand.
    assert len(read) <= 16
    windows.close()


def test_an_exception_comes_after_the_records_before_it() -> None:
    def producer() -> Iterator[Record]:
        yield from texts(1, 1, 1, 1)
        raise DataError("damaged")

    windows = iter_windows(producer(), max_records=3, max_chars=100, patience=LONG)
    assert [len(next(windows)) for _ in range(3)] == [3, 1, 0]
    with pytest.raises(DataError, match="damaged"):
        next(windows)


def test_closing_ends_the_producer() -> None:
    ended = threading.Event()

    def producer() -> Iterator[Record]:
        try:
            while True:
                yield Record("")
        finally:
            ended.set()

    windows = iter_windows(producer(), max_records=3, max_chars=100)
    next(windows)
    windows.close()
    assert ended.wait(LONG)


def test_a_blocked_producer_does_not_keep_the_process() -> None:
    program = """if True:
        from lmcli.records.read import RecordReader
        from lmcli.records.windows import iter_windows
        windows = iter_windows(RecordReader(["-"]), max_records=9, max_chars=99)
        print([record.text for record in next(windows)])
    """
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"one\n")
        process.stdin.flush()
        assert process.stdout.read() == b"['one']\n"
        assert process.wait(LONG) == 0


def test_a_steady_trickle_does_not_wait_for_a_full_window() -> None:
    stop = threading.Event()

    def trickle() -> Iterator[Record]:
        while not stop.wait(0.02):
            yield Record("drop")

    windows = iter_windows(trickle(), max_records=10_000, max_chars=10_000, patience=LONG)
    assert 0 < len(next(windows)) < 10_000  # at half a second, long before the patience is over
    stop.set()
    windows.close()


def test_the_first_windows_are_smaller() -> None:
    records = [Record(str(number)) for number in range(40)]
    windows = iter_windows(records, max_records=16, max_chars=1000, patience=60, ramp=8)
    assert [len(window) for window in windows if window][:5] == [2, 4, 8, 16, 10]
