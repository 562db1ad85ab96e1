import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from subprocess import DEVNULL, Popen
from typing import TextIO

import pytest

from lmcli.cli.messages import say
from lmcli.cli.running.progress import Rate, Total, describe, progress
from tests.cli.commands import TIMEOUT, Terminal

ERASE = "\r\x1b[2K"


class Watched(Terminal):
    """A terminal with a person before it."""

    def read_some(self) -> str:
        """What has been written since, at least something."""
        return os.read(self._mine, 4096).decode()

    def hang_up(self) -> None:
        """Go away while it is written to."""
        os.close(self._mine)


@contextmanager
def stderr_on(terminal: Terminal) -> Iterator[TextIO]:
    """A terminal in place of sys.stderr."""
    before = sys.stderr
    with open(os.dup(terminal.end), "w", encoding="utf-8") as stream:  # noqa: PTH123
        sys.stderr = stream
        try:
            yield stream
        finally:
            sys.stderr = before


def shown(
    work: Callable[[Callable[[int], None]], None],
    *,
    columns: int = 80,
    wanted: bool = True,
    total: Total = lambda: None,
    done: int = 0,
) -> str:
    """What a terminal gets while `work` is done."""
    terminal = Terminal(columns=columns)
    with stderr_on(terminal), progress(wanted=wanted, total=total, done=done) as advance:
        work(advance)
    return terminal.read()


def until(terminal: Watched, pattern: str) -> str:
    """What a terminal gets until the pattern is there."""
    text = ""
    while not re.search(pattern, text):
        text += terminal.read_some()
    return text


def nothing(_: Callable[[int], None]) -> None:
    pass


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("LMCLI_NO_PROGRESS", raising=False)


@pytest.mark.parametrize(
    ("count", "total", "rate", "seconds", "line"),
    [
        (0, None, None, 0, "0 records  0:00:00"),
        (1, None, None, 0.6, "1 record  0:00:01"),
        (12_345, None, 1234.4, 83, "12,345 records  1,234/s  0:01:23"),
        (12_345, 24_690, 1234.5, 83, "50%  12,345 records  1,234/s  0:01:23  0:00:10 left"),
        (0, 100, None, 5, "0%  0 records  0:00:05"),
        (3, 9, 2.5, 1, "33%  3 records  2.5/s  0:00:01  0:00:02 left"),
        (3, 9, 0.1, 100_000, "33%  3 records  6.0/min  27:46:40  0:01:00 left"),
        (110, 100, 10, 11, "100%  110 records  10/s  0:00:11  0:00:00 left"),
        (0, 0, None, 1, "0 records  0:00:01"),
    ],
)
def test_the_line_has_what_is_known(
    count: int, total: int | None, rate: float | None, seconds: float, line: str
) -> None:
    assert describe(count, total, rate=rate, seconds=seconds) == line


def test_the_line_of_the_longest_run_fits_a_terminal() -> None:
    line = describe(10**9, 10**11, rate=1e6, seconds=999_999)
    assert len(line) < 80


def test_the_rate_is_that_of_the_last_ten_seconds() -> None:
    rate = Rate(0, 0)
    for second in range(1, 61):
        rate.note(second, 100 * second if second <= 40 else 4000 + 10 * (second - 40))
    assert rate.per_second(60) == pytest.approx(10)


def test_the_rate_of_batches_is_their_mean() -> None:
    rate = Rate(0, 0)
    for second in range(1, 101):
        rate.note(second, 64 * (second // 20))
    assert rate.per_second(100) == pytest.approx(64 / 20)


def test_the_rate_sinks_while_nothing_comes() -> None:
    rate = Rate(0, 0)
    rate.note(1, 100)
    assert rate.per_second(10) == pytest.approx(10)
    assert rate.per_second(100) == pytest.approx(1)


def test_there_is_no_rate_at_first_nor_without_records() -> None:
    rate = Rate(0, 0)
    assert rate.per_second(5) is None
    rate.note(0.5, 100)
    assert rate.per_second(0.5) is None


def test_what_an_earlier_run_has_done_is_no_part_of_the_rate() -> None:
    rate = Rate(0, 1_000_000)
    rate.note(10, 1_000_100)
    assert rate.per_second(10) == pytest.approx(10)


def test_the_line_is_drawn_at_once_and_gone_at_the_end() -> None:
    assert shown(nothing, done=7) == f"{ERASE}7 records  0:00:00{ERASE}"


def test_the_line_follows_the_run() -> None:
    terminal = Watched()
    with stderr_on(terminal), progress(wanted=True, total=lambda: 200) as advance:
        advance(50)
        until(terminal, "25%  50 records")
        advance(100)
        until(terminal, "50%  100 records")
    assert terminal.read().endswith(ERASE)


def test_the_line_is_no_wider_than_the_terminal() -> None:
    assert shown(nothing, columns=10) == f"{ERASE}0 records{ERASE}"


def test_a_message_takes_the_place_of_the_line_and_the_line_comes_back() -> None:
    terminal = Watched()
    with stderr_on(terminal), progress(wanted=True):
        say("a.txt:3: not valid UTF-8")
        found = until(terminal, "UTF-8\r\n.*records")
    assert f"{ERASE}lmcli: a.txt:3: not valid UTF-8\r\n" in found
    terminal.read()


@pytest.mark.parametrize(
    ("name", "value"), [("TERM", "dumb"), ("TERM", "unknown"), ("LMCLI_NO_PROGRESS", "1")]
)
def test_nothing_is_drawn_where_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert shown(nothing) == ""


def test_nothing_is_drawn_for_a_quiet_run() -> None:
    assert shown(nothing, wanted=False) == ""


def test_nothing_is_drawn_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress(wanted=True) as advance:
        advance(1)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("is_closed", [True, False])
def test_a_stderr_that_is_not_there_is_no_error(monkeypatch: pytest.MonkeyPatch, is_closed: bool) -> None:
    with stderr_on(Watched()) as stream:
        stream.close()
        monkeypatch.setattr("sys.stderr", stream if is_closed else None)
        with progress(wanted=True) as advance:
            advance(1)


def test_an_estimate_that_fails_is_no_error() -> None:
    def total() -> int:
        raise ZeroDivisionError

    assert shown(nothing, total=total) == f"{ERASE}0 records  0:00:00{ERASE}"


def test_a_terminal_that_goes_away_is_no_error() -> None:
    terminal = Watched()
    has_ended = False
    # Python complains, when the stream is closed, of what it could not write.
    with suppress(OSError), stderr_on(terminal):
        with progress(wanted=True) as advance:
            terminal.read_some()
            terminal.hang_up()
            advance(1)
            say("nobody sees it")
        has_ended = True
    assert has_ended


def test_the_error_of_a_run_is_raised_and_the_line_gone() -> None:
    terminal = Watched()
    with pytest.raises(ZeroDivisionError), stderr_on(terminal), progress(wanted=True) as advance:
        advance(1 // 0)
    assert terminal.read().endswith(ERASE)


SCRIPT = """\
import sys, time
from lmcli.cli.running.progress import progress
from lmcli.cli.signals import Stopped, stop_on_signals
stop_on_signals()
try:
    with progress(wanted=True) as advance:
        advance(1)
        time.sleep(60)
except Stopped as stopped:
    sys.exit(stopped.exit_code)
"""


def test_a_signal_leaves_a_clean_terminal() -> None:
    terminal = Watched()
    with Popen([sys.executable, "-c", SCRIPT], stderr=terminal.end, stdin=DEVNULL) as process:
        until(terminal, "1 record ")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 143
    assert terminal.read().endswith(ERASE)
