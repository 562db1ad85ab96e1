"""Pipes, files, signals and terminals: everything that needs a process of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.commands import TIMEOUT, Ended, on_terminal, run, shell, start
from tests.cli.conftest import Cli

GOOD = "POSITIVE\t0.7311\tgood\n"
LINE = b"good\n"
SIGPIPE = 128 + signal.SIGPIPE


def test_the_reader_leaves_and_sigpipe_ends_the_run(moods: Path) -> None:
    ended = shell('yes good | lmcli | head -n 1; echo "${PIPESTATUS[1]}"', "sentiment", "-m", moods)
    assert ended == Ended(0, f"{GOOD}{SIGPIPE}\n", "")


def test_the_reader_leaves_and_a_file_is_not_finished(moods: Path, work: Path) -> None:
    os.mkfifo("fifo")
    ended = shell(
        'head -n 1 fifo & yes good | lmcli -o fifo; echo "${PIPESTATUS[1]}"', "sentiment", "-m", moods
    )
    assert (sorted(ended.out.splitlines()), ended.err) == ([str(SIGPIPE), GOOD.rstrip()], "")
    assert [path.name for path in work.iterdir()] == ["fifo"]


@pytest.mark.parametrize("words", ["models", "models show sentiment-en"])
def test_a_reader_that_left_early_is_no_error(words: str) -> None:
    # The first word closes the pipe before lmcli has started.
    ended = shell(f'{{ sleep 0.2; lmcli {words}; echo "$?" >&2; }} | true')
    assert (ended.out, ended.err) in [("", f"{SIGPIPE}\n"), ("", "0\n")]


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_signal_stops_a_run_that_waits(moods: Path, number: int, code: int) -> None:
    with start("sentiment", "-m", moods) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(LINE)
        process.stdin.flush()
        first = process.stdout.readline()
        sent = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, first + out, err) == (code, GOOD.encode(), b"")
    assert time.monotonic() - sent < 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_a_busy_run_between_two_lines(moods: Path, number: int) -> None:
    with (
        subprocess.Popen(["yes", "good"], stdout=subprocess.PIPE) as lines,
        start("sentiment", "-m", moods, stdin=lines.stdout) as process,
    ):
        assert process.stdout is not None
        first = [process.stdout.readline() for _ in range(2000)]
        sent = time.monotonic()
        process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT)
        lines.kill()
    assert process.returncode == {signal.SIGINT: -signal.SIGINT, signal.SIGTERM: 143}[signal.Signals(number)]
    assert time.monotonic() - sent < 2
    assert set(first) | set(out.splitlines(keepends=True)) == {GOOD.encode()}
    assert err == b""


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_large_record_is_written_whole_or_not_at_all(unbuffered: str) -> None:
    """A pipe takes 64 KB at a time; the signal comes while more than that is under way."""
    whole = run("translate", "-m", "test:grow?times=30000", stdin=b"Line 1\n").out.encode()
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with start("translate", "-m", "test:grow?times=30000", env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"Line 1\n")
        process.stdin.close()
        found = process.stdout.read(1 << 16)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        found += process.stdout.read()
        assert process.wait(TIMEOUT) in (0, 143)
    assert len(whole) > 3 << 16
    assert found == whole


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_is_told_of_whatever_the_buffers(unbuffered: str) -> None:
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with Path("/dev/full").open("wb") as full:
        process = start("translate", "-m", "test:echo", stdout=full, env=environment)
        _, err = process.communicate(b"x" * 100_000, timeout=TIMEOUT)
    assert (process.returncode, b"No space left on device" in err) == (74, True)


def test_an_interrupt_ends_the_loop_of_a_shell() -> None:
    """It does where the signal has killed the command, not where that only says so."""
    script = "for i in 1 2; do echo begin; lmcli 'test:slow?ms=60000' ; done"
    with subprocess.Popen(
        ["bash", "-c", script.replace("lmcli", f"{sys.executable} -m lmcli sentiment -q -m")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as shell_process:
        assert shell_process.stdin is not None
        assert shell_process.stdout is not None
        shell_process.stdin.write(b"a\n" * 9)
        shell_process.stdin.flush()
        assert shell_process.stdout.readline() == b"begin\n"
        time.sleep(1.5)
        os.killpg(shell_process.pid, signal.SIGINT)
        assert shell_process.wait(TIMEOUT) == -signal.SIGINT
        assert shell_process.stdout.read() == b""


def _wait_for_file(folder: Path) -> None:
    """Wait until there is a temporary file of an output in the folder."""
    for _ in range(TIMEOUT * 100):
        if any(folder.glob(".*.lmcli-*")):
            return
        time.sleep(0.01)
    raise AssertionError("no output was begun")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, -signal.SIGINT)], ids=["SIGTERM", "SIGINT"]
)
def test_a_killed_run_leaves_the_old_output(moods: Path, work: Path, number: int, code: int) -> None:
    Path("out").write_text("old")
    with start("sentiment", "-m", moods, "-o", "out") as process:
        assert process.stdin is not None
        process.stdin.write(LINE)
        process.stdin.flush()
        _wait_for_file(work)
        process.send_signal(number)
        process.communicate(timeout=TIMEOUT)
    assert process.returncode == code
    assert [(path.name, path.read_text()) for path in work.iterdir()] == [("out", "old")]


@pytest.mark.parametrize(
    ("argv", "stdin", "code"),
    [(["--fail-fast"], b"good\n\xff\n", 65), (["-", "cut.gz"], b"good\n", 65)],
    ids=["fail fast", "truncated input"],
)
def test_a_failed_run_leaves_the_old_output(
    cli: Cli, moods: Path, argv: list[str], stdin: bytes, code: int
) -> None:
    Path("out").write_text("old")
    Path("cut.gz").write_bytes(b"\x1f\x8b\x08")
    assert cli("sentiment", "-m", moods, "-o", "out", *argv, stdin=stdin).code == code
    assert (Path("out").read_text(), {path.name for path in Path().iterdir()}) == ("old", {"cut.gz", "out"})


def test_failed_records_do_not_keep_the_output_back(cli: Cli, moods: Path, work: Path) -> None:
    Path("out").write_text("old")
    Path("out").chmod(0o640)
    assert cli("sentiment", "-m", moods, "-o", "out", stdin=b"good\n\xff\n").code == 1
    assert (Path("out").read_text(), Path("out").stat().st_mode & 0o777) == (GOOD + "\n", 0o640)
    assert [path.name for path in work.iterdir()] == ["out"]


def test_the_first_result_of_a_slow_producer_comes_at_once(moods: Path) -> None:
    with start("sentiment", "-m", moods) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(LINE)
        process.stdin.flush()
        process.stdout.readline()  # it has started
        for _ in range(3):
            process.stdin.write(LINE)
            process.stdin.flush()
            written = time.monotonic()
            assert process.stdout.readline() == GOOD.encode()
            assert time.monotonic() - written < 1
        process.stdin.close()
        assert process.wait(TIMEOUT) == 0


def test_stdin_on_a_terminal_is_an_accident(moods: Path) -> None:
    ended = on_terminal(["sentiment", "-m", moods], "stdin", stdout=subprocess.DEVNULL)
    assert (ended.code, ended.err) == (
        2,
        "lmcli: no input\n       name files, or pipe text in; `-` reads the terminal\n",
    )


@pytest.mark.parametrize(
    ("options", "shown"),
    [([], "POSITIVE\t0.7311\tgood \\x1b[31m\r\n"), (["-O", "jsonl"], '{"text":"good \\u001b[31m"')],
    ids=["text", "jsonl"],
)
def test_control_characters_are_shown_on_a_terminal(moods: Path, options: list[str], shown: str) -> None:
    Path("in.txt").write_bytes(b"good \x1b[31m\n")
    ended = on_terminal(["sentiment", "-m", moods, *options, "in.txt"], "stdout")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(shown)
    assert "\x1b" not in ended.out


@pytest.mark.parametrize(
    ("options", "variables", "is_colored"),
    [
        ([], {}, True),
        ([], {"NO_COLOR": "1"}, False),
        ([], {"TERM": "dumb"}, False),
        (["--color", "never"], {}, False),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
    ],
    ids=["terminal", "NO_COLOR", "dumb", "never", "always"],
)
def test_entities_are_coloured_on_a_terminal(
    names: Path, options: list[str], variables: dict[str, str], is_colored: bool
) -> None:
    Path("in.txt").write_bytes(b"by Marie \x1b[31m\n")
    environment = os.environ | {"TERM": "xterm"} | variables
    ended = on_terminal(["ner", "-m", names, *options, "in.txt"], "stdout", env=environment)
    marked = "\x1b[1;36mMarie\x1b[0m\x1b[2m/PER\x1b[0m" if is_colored else "[Marie](PER)"
    assert ended == Ended(0, f"by {marked} \\x1b[31m\r\n", "")


def test_entities_are_coloured_whatever_ends_them(names: Path) -> None:
    Path("in.txt").write_bytes(b"by Marie\n")
    ended = on_terminal(
        ["ner", "-m", names, "-O", "nul", "in.txt"], "stdout", env=os.environ | {"TERM": "xterm"}
    )
    assert "\x1b[1;36mMarie\x1b[0m" in ended.out


def test_entities_are_not_coloured_in_a_pipe(cli: Cli, names: Path) -> None:
    assert cli("ner", "-m", names, stdin=b"by Marie\n") == Ended(0, "by [Marie](PER)\n", "")


def test_control_characters_are_data_in_a_pipe(cli: Cli, moods: Path) -> None:
    ended = cli("sentiment", "-m", moods, stdin=b"good \x1b[31m\n")
    assert ended.out == "POSITIVE\t0.7311\tgood \x1b[31m\n"


def test_progress_is_shown_on_a_terminal_only_and_gone_at_the_end(moods: Path) -> None:
    Path("in.txt").write_bytes(LINE * 5000)
    ended = on_terminal(["sentiment", "-m", moods, "in.txt"], "stderr")
    assert ended.code == 0
    assert "records" in ended.out
    assert ended.out.rstrip().endswith("\x1b[2K")


@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full"])
def test_messages_that_nobody_reads_are_no_error(moods: Path, stream: str) -> None:
    ended = shell(f"lmcli {stream}", "sentiment", "-m", moods, stdin=b"good\n\xff\n")
    assert ended == Ended(1, GOOD + "\n", "")


def test_an_environment_without_home(moods: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name == "PATH"}
    assert run("sentiment", "-m", moods, stdin=LINE, env=environment) == Ended(0, GOOD, "")


def test_the_c_locale_reads_and_writes_utf_8(moods: Path) -> None:
    ended = run("sentiment", "-m", moods, stdin="good é\n".encode(), env=os.environ | {"LC_ALL": "C"})
    assert ended == Ended(0, "POSITIVE\t0.7311\tgood é\n", "")


def test_signals_that_were_ignored_stay_so(moods: Path) -> None:
    """As with nohup, or a job that a shell starts with `&`."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = start("sentiment", "-m", moods)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(LINE)
        process.stdin.flush()
        first = process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(LINE, timeout=TIMEOUT)
    assert (process.returncode, first + out, err) == (0, GOOD.encode() * 2, b"")


def peak_memory(moods: Path, path: Path) -> int:
    """The most memory that a run over the file had at once, in bytes."""
    with start("sentiment", "-m", moods, "--threads", 2, "-o", "out", path) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss * 1024


def test_memory_does_not_grow_with_the_number_of_records(moods: Path, work: Path) -> None:
    few, many = work / "few.txt", work / "many.txt"
    few.write_text("".join(f"good {index}\n" for index in range(200)))
    many.write_text("".join(f"good {index}\n" for index in range(20_000)))
    grown = peak_memory(moods, many) - peak_memory(moods, few)
    assert grown < 40e6
    assert len(Path("out").read_text().splitlines()) == 200
