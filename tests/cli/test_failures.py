import json
from pathlib import Path

import pytest

from tests.cli.commands import Ended
from tests.cli.conftest import Cli

BROKEN = b"good\n\xff\nbad\n\xfe\ngood\n"
FIRST = "lmcli: -:2: not valid UTF-8 at byte 0 (0xff)\n"
SECOND = "lmcli: -:4: not valid UTF-8 at byte 0 (0xfe)\n"
SLOTS = ["POSITIVE\t0.7311\tgood\n", "\n", "NEGATIVE\t0.7311\tbad\n", "\n", "POSITIVE\t0.7311\tgood\n"]


STOPPED = "lmcli: stopped after 1 failed record (--fail-fast); the output is not complete\n"
STOPPED_AT_1 = STOPPED.replace("--fail-fast", "--max-errors 0")
STOPPED_AT_2 = "lmcli: stopped after 2 failed records (--max-errors 1); the output is not complete\n"


@pytest.mark.parametrize(
    ("options", "num_slots", "code", "messages"),
    [
        pytest.param([], 5, 1, FIRST + SECOND, id="go on"),
        pytest.param(["--fail-fast"], 2, 65, FIRST + STOPPED, id="fail fast"),
        pytest.param(["--max-errors", "0"], 2, 65, FIRST + STOPPED_AT_1, id="max 0"),
        pytest.param(["--max-errors", "1"], 4, 65, FIRST + SECOND + STOPPED_AT_2, id="max 1"),
        pytest.param(["--max-errors", "2"], 5, 1, FIRST + SECOND, id="max 2"),
        pytest.param(["--quiet"], 5, 1, "", id="quiet"),
        pytest.param(["--quiet", "--fail-fast"], 2, 65, STOPPED, id="quiet and fail fast"),
    ],
)
def test_a_run_goes_on_until_it_is_enough(
    cli: Cli, moods: Path, options: list[str], num_slots: int, code: int, messages: str
) -> None:
    assert cli("sentiment", "-m", moods, *options, stdin=BROKEN) == Ended(
        code, "".join(SLOTS[:num_slots]), messages
    )


def test_errors_are_logged_and_can_be_run_again(cli: Cli, moods: Path) -> None:
    stdin = b'{"text":"good"}\n{"txt":"bad"}\nnonsense\n'
    cli("sentiment", "-m", moods, "-I", "jsonl", "--errors", "log.jsonl", stdin=stdin)
    logged = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    assert [(entry["source"], entry["line"], entry["code"], entry["input"]) for entry in logged] == [
        ("-", 2, "missing_field", '{"txt":"bad"}'),
        ("-", 3, "invalid_json", "nonsense"),
    ]
    again = cli("sentiment", "-m", moods, "--field", "input", "log.jsonl")
    assert (again.code, len(again.out.splitlines())) == (0, 2)


def test_the_log_is_empty_when_nothing_failed(cli: Cli, moods: Path) -> None:
    ended = cli("sentiment", "-m", moods, "--errors", "log.jsonl", stdin=b"good\n")
    assert (ended.code, Path("log.jsonl").read_bytes()) == (0, b"")


def test_the_log_cannot_be_created(cli: Cli, moods: Path) -> None:
    assert cli("sentiment", "-m", moods, "--errors", "no/log", stdin=b"good\n") == Ended(
        73, "", "lmcli: cannot create no/log: No such file or directory\n"
    )


def test_the_log_never_replaces_an_input(cli: Cli, moods: Path) -> None:
    Path("in.txt").write_bytes(BROKEN)
    cli("sentiment", "-m", moods, "in.txt", "--errors", "in.txt")
    assert Path("in.txt").read_bytes() == BROKEN


def test_the_log_is_not_the_output(cli: Cli, moods: Path) -> None:
    assert cli("sentiment", "-m", moods, "--errors", "out", "-o", "out", stdin=BROKEN).code != 1


def test_many_failures_are_told_in_short(cli: Cli, moods: Path) -> None:
    ended = cli("sentiment", "-m", moods, stdin=b"\xff\n" * 25)
    lines = ended.err.splitlines()
    assert (ended.code, len(lines)) == (1, 22)
    assert lines[-2:] == [
        "lmcli: 25 of 25 records failed; the first 20 are named above",
        "       --errors FILE keeps them all",
    ]


def test_verbose_names_every_failure(cli: Cli, moods: Path) -> None:
    ended = cli("sentiment", "-m", moods, "--verbose", stdin=b"\xff\n" * 25)
    assert sum("not valid UTF-8" in line for line in ended.err.splitlines()) == 25


def test_a_text_that_the_tokenizer_refuses_fails_its_record(cli: Cli, strict_moods: Path) -> None:
    ended = cli("sentiment", "-m", strict_moods, stdin=b"good\ngrief\nbad\n")
    assert (ended.code, ended.out) == (1, SLOTS[0] + "\n" + SLOTS[2])
    assert ended.err.startswith("lmcli: -:2: the tokenizer refuses the text: ")
    assert ended.err.count("\n") == 1
