"""Options from variables and configuration files: who wins, what is refused, and how `config` shows it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main

import lmcli
from lmcli.cli.app import app
from lmcli.cli.config.context import is_typed
from lmcli.cli.config.file import ConfigFile, read_file
from lmcli.cli.config.keys import MAY_NAME_FILES, configured, options, refusal
from tests.cli.commands import Ended, on_terminal, run
from tests.cli.conftest import Cli


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith("LMCLI_") and name != "LMCLI_HOME":
            monkeypatch.delenv(name)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


def write(folder: Path, text: str | bytes) -> None:
    """The project's file in the working directory, or that of the user."""
    name = "config.toml" if folder.name == "home" else "lmcli.toml"
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def rows(ended: Ended) -> list[dict[str, Any]]:
    assert ended.code == 0
    return [json.loads(line) for line in ended.out.splitlines()]


def setting(cli: Cli, command: str, option: str) -> tuple[Any, str]:
    """The value of an option, and where it comes from."""
    found = {row["option"]: row for row in rows(cli("config", "show", command, "--origin"))}
    return found[option]["value"], found[option]["origin"]


# Who wins.


def test_a_file_sets_options_of_a_run(cli: Cli, work: Path, moods: Path) -> None:
    write(work, '[sentiment]\noutput-format = "jsonl"\nas = "mood"\n')
    ended = cli("sentiment", "-m", moods, stdin=b"good\n")
    assert (ended.code, json.loads(ended.out)["mood"]["label"]) == (0, "POSITIVE")


def test_a_variable_sets_options_of_a_run(cli: Cli, moods: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCLI_MODEL", str(moods))
    assert cli("sentiment", stdin=b"good\n") == Ended(0, "POSITIVE\t0.7311\tgood\n", "")


def test_the_command_line_wins(cli: Cli, work: Path, moods: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(work, 'output-format = "jsonl"\n')
    monkeypatch.setenv("LMCLI_OUTPUT_FORMAT", "csv")
    ended = cli("sentiment", "-m", moods, "-O", "text", stdin=b"good\n")
    assert ended.out == "POSITIVE\t0.7311\tgood\n"


def test_the_default_holds_where_nothing_is_set(cli: Cli) -> None:
    assert setting(cli, "ner", "strategy") == ("first", "default")


@pytest.mark.parametrize(
    ("variables", "project", "user", "value", "origin"),
    [
        ({}, "", "threads = 1", 1, "{home}/config.toml:1"),
        ({}, "threads = 2", "threads = 1", 2, "./lmcli.toml:1"),
        ({}, "threads = 2\n[ner]\nthreads = 3", "", 3, "./lmcli.toml:3"),
        ({}, "threads = 2", "[ner]\nthreads = 3", 2, "./lmcli.toml:1"),
        ({"LMCLI_THREADS": "4"}, "[ner]\nthreads = 3", "", 4, "env LMCLI_THREADS"),
        ({"LMCLI_THREADS": "4", "LMCLI_NER_THREADS": "5"}, "threads = 3", "", 5, "env LMCLI_NER_THREADS"),
        ({"LMCLI_NER_THREADS": ""}, "threads = 3", "", 3, "./lmcli.toml:1"),
    ],
    ids=[
        "the user's file",
        "the project before the user",
        "a table before what holds for all",
        "the project before a table of the user",
        "a variable before a file",
        "the variable of one command before that of all",
        "an empty variable is none",
    ],
)
def test_the_stronger_place_wins(
    cli: Cli,
    work: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    project: str,
    user: str,
    value: int,
    origin: str,
) -> None:
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    write(work, project)
    write(home, user)
    assert setting(cli, "ner", "threads") == (value, origin.format(home=home))


def test_a_table_is_for_one_command(cli: Cli, work: Path) -> None:
    write(work, "[ner]\nthreads = 3\n")
    assert setting(cli, "sentiment", "threads") == (None, "default")


@pytest.mark.parametrize(
    ("text", "command", "option", "value"),
    [
        ("[translate]\nnum_beams = 4", "translate", "num-beams", 4),
        ("translate.num-beams = 4", "translate", "num-beams", 4),
        ("translate = {num-beams = 4}", "translate", "num-beams", 4),
        ("[translate]\nsplit = false", "translate", "split", False),
        ("[translate]\nlength-penalty = 2", "translate", "length-penalty", 2.0),
        ("[translate]\nfrom = 'en'", "translate", "from", "en"),
        ("[prompt]\nstop = ['a b', 'c']", "prompt", "stop", ["a b", "c"]),
        ("[prompt]\nstop = 'a b'", "prompt", "stop", ["a b"]),
    ],
)
def test_values_are_converted_as_on_the_command_line(
    cli: Cli, work: Path, text: str, command: str, option: str, value: object
) -> None:
    write(work, text)
    assert setting(cli, command, option)[0] == value


def test_a_variable_with_several_values_separates_them_by_spaces(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LMCLI_PROMPT_STOP", "a b")
    assert setting(cli, "prompt", "stop") == (["a", "b"], "env LMCLI_PROMPT_STOP")


# What no file may say.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[translate]\nnum-beam = 4",
            "2: unknown key 'num-beam' in [translate]\n       did you mean 'num-beams'?",
        ),
        ("treads = 4", "1: unknown key 'treads'\n       did you mean 'threads'?"),
        (
            "[ner]\nxyz = 4",
            "2: unknown key 'xyz' in [ner]\n       `lmcli --no-config config show ner` lists the options",
        ),
        ("num-beams = 4\nhelp = true", "2: unknown key 'help'\n"),
        ("translate = 4", "1: unknown key 'translate'\n       options of one command stand in its table: [t"),
        ("[[translate]]\nnum-beams = 4", "1: unknown key 'translate'\n"),
        ("\n[translat]\n", "2: unknown table [translat]\n       did you mean 'translate'?"),
        ("[xyz]\n", "1: unknown table [xyz]\n       the tables are: "),
        ("[export]\nallow-pickle = true", "1: the options of 'export' are for the command line only\n"),
        ("[models]\n", "1: the options of 'models' are for the command line only\n"),
        ("[ner]\nby = 'doc'\n\n'by' = 'doc'", " cannot overwrite a value at the end of the file\n"),
        ("[ner]\nmax-errors = 1\nmax_errors = 1", "3: 'max_errors' is set twice in [ner]\n"),
        ("threads = true", "1: --threads takes a text or a number, not true or false\n"),
        ("threads = [1]", "1: --threads takes a text or a number, not a list\n"),
        ("[ner]\nthreads.x = 1", "2: --threads takes a text or a number, not a table\n"),
        ("threads = 2024-01-01", "1: --threads takes a text or a number, not a date\n"),
        ("[prompt]\nstop = [true]", "2: --stop takes texts or numbers, not true or false\n"),
        ("quiet = 1", "1: --quiet takes true or false\n"),
        ("by = \n", "1: invalid value\n       a line is KEY = VALUE, and texts stand in quotes: "),
        ("by = [\n", " invalid value at the end of the file\n"),
        (b"# \xff\n", "1: not UTF-8: invalid start byte\n"),
        ("x = " + "[" * 9000, " lists or tables are nested too deep\n"),
        ("x = " + "9" * 9000, " Exceeds the limit"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_78_wrong_files_are_refused_with_the_line(
    cli: Cli, work: Path, text: str | bytes, message: str
) -> None:
    write(work, text)
    ended = cli("sentiment", stdin=b"good\n")
    assert (ended.code, ended.out) == (78, "")
    assert ended.err.startswith(f"lmcli: ./lmcli.toml:{message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("threads = 0", "1: invalid value for '--threads': Input should be greater than or equal to 1\n"),
        ("threads = 'many'", "1: invalid value for '--threads': Input should be a valid integer"),
        ("\n[sentiment]\nby = 'word'", "3: invalid value for '--by': 'word' is not one of 'line', 'para', "),
    ],
)
def test_78_wrong_values_are_refused_in_the_words_of_the_parser(
    cli: Cli, work: Path, text: str, message: str
) -> None:
    write(work, text)
    ended = cli("sentiment", stdin=b"good\n")
    assert (ended.code, ended.out) == (78, "")
    assert ended.err.startswith(f"lmcli: ./lmcli.toml:{message}")
    assert "\n       `lmcli sentiment --help` says what --" in ended.err


def test_78_a_variable_with_a_wrong_value(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LMCLI_NER_STRATEGY", "last")
    ended = cli("ner", stdin=b"good\n")
    assert (ended.code, ended.out) == (78, "")
    assert ended.err.startswith(
        "lmcli: LMCLI_NER_STRATEGY: invalid value for '--strategy': 'last' is not one of"
    )


def test_2_a_wrong_value_on_the_command_line_is_still_wrong_use(cli: Cli, work: Path) -> None:
    write(work, "threads = 2\n")
    assert cli("ner", "--threads", "0").code == 2


def test_a_wrong_value_for_another_command_does_not_matter(cli: Cli, work: Path, moods: Path) -> None:
    write(work, "[translate]\nnum-beams = 0\n")
    assert cli("sentiment", "-m", moods, stdin=b"good\n").code == 0


def test_78_config_show_finds_it(cli: Cli, work: Path) -> None:
    write(work, "[translate]\nnum-beams = 0\n")
    ended = cli("config", "show")
    assert (ended.code, ended.err[:35]) == (78, "lmcli: ./lmcli.toml:2: invalid valu")


@pytest.mark.parametrize(
    "key", ["output", "errors", "summary", "files-from", "files0-from", "force", "resume", "show-prompt"]
)
@pytest.mark.parametrize("folder", ["work", "home"])
def test_78_no_file_names_what_a_run_reads_or_writes(
    cli: Cli, work: Path, home: Path, folder: str, key: str
) -> None:
    write(work if folder == "work" else home, f"[prompt]\n{key} = 'stolen'\n")
    ended = cli("sentiment", stdin=b"good\n")
    assert (ended.code, ended.out) == (78, "")
    assert f"config.toml:2: {key!r} is for the command line only: it" in ended.err.replace(
        "lmcli.t", "config.t"
    )
    assert not (work / "stolen").exists()


@pytest.mark.parametrize("key", ["cache", "prefix-cache"])
def test_78_a_project_does_not_write_to_the_cache(cli: Cli, work: Path, home: Path, key: str) -> None:
    write(home, f"[prompt]\n{key} = true\n")
    assert cli("config", "show").code == 0
    write(work, f"[prompt]\n{key} = true\n")
    ended = cli("sentiment", stdin=b"good\n")
    assert (ended.code, ended.out) == (78, "")
    assert f"./lmcli.toml:2: {key!r} cannot be set in ./lmcli.toml: it writes to your cache\n" in ended.err


def every_option() -> Iterator[tuple[str, str, typer.core.TyperOption]]:
    for name, command in configured(typer.main.get_command(app)).items():
        for key, option in options(command).items():
            yield name, key, option


def test_options_that_name_files_are_refused_unless_it_was_decided_otherwise() -> None:
    names_files = {
        key
        for _, key, option in every_option()
        if "FILE" in f"{option.help} {option.metavar}" or "LIST" in f"{option.metavar}"
    }
    free = {key for _, key, option in every_option() if not refusal(key, option)}
    assert names_files & free <= MAY_NAME_FILES


@pytest.mark.parametrize("make", ["folder", "pipe", "loop", "large", "private"])
def test_78_what_cannot_be_read(cli: Cli, work: Path, make: str) -> None:
    path = work / "lmcli.toml"
    match make:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "loop":
            path.symlink_to(path)
        case "large":
            path.write_text("#" * 2**20)
        case "private" if os.geteuid() == 0:
            pytest.skip("root reads everything")
        case "private":
            path.touch(mode=0)
    ended = cli("sentiment", stdin=b"good\n")
    assert (ended.code, ended.out) == (78, "")
    assert "./lmcli.toml" in ended.err


# What configuration must not disturb.


@pytest.mark.parametrize(
    "argv", [["sentiment", "--help"], ["--version"], ["config", "path"], ["models", "list"]]
)
def test_a_wrong_file_stops_only_what_it_would_change(cli: Cli, work: Path, argv: list[str]) -> None:
    write(work, "wrong\n")
    assert (cli(*argv).code, cli("sentiment", stdin=b"good\n").code) == (0, 78)


def test_help_shows_the_defaults_of_lmcli(cli: Cli, work: Path) -> None:
    before = cli("ner", "--help")
    write(work, "[ner]\nstrategy = 'max'\n")
    assert cli("ner", "--help") == before


@pytest.mark.parametrize("by_variable", [False, True])
def test_no_config_reads_no_file(
    cli: Cli, work: Path, home: Path, monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    write(work, "wrong\n")
    write(home, "wrong\n")
    monkeypatch.setenv("LMCLI_THREADS", "2")
    if by_variable:
        monkeypatch.setenv("LMCLI_NO_CONFIG", "1")
    flags = [] if by_variable else ["--no-config"]
    assert rows(cli(*flags, "config", "show")) == [{"command": "*", "option": "threads", "value": 2}]


def test_without_files_no_toml_is_imported() -> None:
    script = "import sys; from lmcli.cli.app import run; run(); sys.exit('tomllib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script, "config", "show", "ner"], check=False)
    assert done.returncode == 0


def test_it_works_without_a_home(moods: Path) -> None:
    ended = run("sentiment", "-m", moods, stdin=b"good\n", env={"PATH": os.environ["PATH"]})
    assert ended == Ended(0, "POSITIVE\t0.7311\tgood\n", "")


def test_the_platform_has_the_file_where_lmcli_home_is_not_set(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LMCLI_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "lmcli").mkdir()
    (tmp_path / "lmcli" / "config.toml").write_text("threads = 2\n")
    assert setting(cli, "ner", "threads") == (2, f"{tmp_path}/lmcli/config.toml:1")


def test_a_conflict_with_an_option_from_a_file_says_so(cli: Cli, work: Path) -> None:
    write(work, "[sentiment]\nas = 'text'\n")
    ended = cli("sentiment", stdin=b"good\n")
    assert ended.code == 2
    assert ended.err.endswith("; --as is set by ./lmcli.toml:2\n")


@pytest.mark.parametrize(("argv", "typed"), [(["--by", "para"], True), ([], False)])
def test_a_command_can_tell_what_was_typed(work: Path, argv: list[str], typed: bool) -> None:
    write(work, "by = 'para'\n")
    root = typer.main.get_command(app)
    outside = root.make_context("lmcli", ["sentiment"])
    with configured(root)["sentiment"].make_context("sentiment", argv, parent=outside) as context:
        assert (context.params["by"], is_typed("by"), is_typed("threads")) == ("para", typed, False)


# Where keys stand.


@pytest.mark.parametrize(
    ("text", "path", "line"),
    [
        ("a = 1\nb = 2", ("b",), 2),
        ("# b = 1\nb = 2", ("b",), 2),
        ("a = '''\nb = 1\n'''\nb = 2", ("b",), 4),
        ("a = [\n  'b = 1', # ]\n]\nb = 2", ("b",), 4),
        ("a = [\n 1,\n]", ("a",), 1),
        ("'b' = 1", ("b",), 1),
        ('\n"\\u0062" = 1', ("b",), 2),
        ("[t]\na = 1\n[u]\na = 2", ("u", "a"), 4),
        ("[ 't' ] # [u]\na = 1", ("t", "a"), 2),
        ("t.a = 1\nt.b = 2", ("t", "b"), 2),
        ("\nt = {a = 1, b = 2}", ("t", "b"), 2),
        ("a = 1\r\nb = 2\r\n", ("b",), 2),
        ("  [t]\n\tb = 1", ("t", "b"), 2),
        ("[t.u]\na = 1\n[t]\na = 2", ("t", "a"), 4),
        ("[[t]]\na = 1", ("t",), 1),
        ("a = 1", ("b",), None),
        ("a = [\n" + "1,\n" * 200 + "]\nb = 1", ("b",), None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_the_line_of_a_key_is_right_or_not_said(
    tmp_path: Path, text: str, path: tuple[str, ...], line: int | None
) -> None:
    (tmp_path / "x.toml").write_bytes(text.encode())
    file = read_file(str(tmp_path / "x.toml"))
    assert isinstance(file, ConfigFile)
    assert file.where(*path) == (file.name if line is None else f"{file.name}:{line}")


def test_a_byte_order_mark_is_no_key(cli: Cli, work: Path) -> None:
    write(work, b"\xef\xbb\xbfthreads = 2\n")
    assert setting(cli, "ner", "threads") == (2, "./lmcli.toml:1")


# `lmcli config`.


def test_show_has_one_row_for_what_all_commands_share(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(work, "threads = 2\nquiet = true\n[ner]\nstyle = 'spans'\n")
    monkeypatch.setenv("LMCLI_NER_THREADS", "1")
    shown = [tuple(row.values()) for row in rows(cli("config", "show"))]
    assert shown[0] == ("*", "quiet", True)
    assert {("ner", "threads", 1), ("ner", "style", "spans"), ("sentiment", "threads", 2)} < set(shown)


def test_show_is_empty_where_nothing_is_set(cli: Cli) -> None:
    assert cli("config", "show") == Ended(0, "", "")


def test_show_a_command_lists_every_option(cli: Cli) -> None:
    shown = {row["option"] for row in rows(cli("config", "show", "translate"))}
    assert shown == {key for name, key, _ in every_option() if name == "translate"}


def test_show_is_a_table_on_a_terminal(work: Path) -> None:
    write(work, "quiet = true\n")
    ended = on_terminal(["config", "show", "--origin"], "stdout")
    words = [line.split() for line in re.sub(r"\x1b\[[0-9;]*m", "", ended.out).splitlines()]
    assert words == [["command", "option", "value", "origin"], ["*", "quiet", "true", "./lmcli.toml:1"]]


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("LMCLI_TREADS", "       did you mean 'LMCLI_THREADS'?\n"),
        ("LMCLI_OUTPUT", "       --output is for the command line only: it names files of one run\n"),
        ("LMCLI_NER_ERRORS", "       --errors is for the command line only: it names files of one run\n"),
        ("LMCLI_ZZZZZZZZZZZZ", ""),
    ],
)
def test_show_names_variables_that_set_nothing(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    monkeypatch.setenv(name, "1")
    assert cli("config", "show") == Ended(0, "", f"lmcli: {name} is set and sets nothing\n{hint}")


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("translat", "did you mean 'translate'?"),
        ("export", "those with options to set are: sentiment, ner, "),
    ],
)
def test_2_show_knows_no_such_command(cli: Cli, command: str, hint: str) -> None:
    ended = cli("config", "show", command)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"lmcli: there is no command {command!r} to show\n       {hint}")


def test_path_names_both_files(cli: Cli, work: Path, home: Path) -> None:
    write(work, "")
    assert rows(cli("config", "path")) == [
        {"file": "project", "path": "./lmcli.toml", "exists": True},
        {"file": "user", "path": f"{home}/config.toml", "exists": False},
    ]


def test_show_knows_the_variables_that_are_no_options(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = Path(lmcli.__file__).parent.rglob("*.py")
    names = {name for each in modules for name in re.findall(r'"(LMCLI_[A-Z_]+)"', each.read_text())}
    assert names >= {"LMCLI_HOME", "LMCLI_NO_CONFIG"}
    for name in names - {"LMCLI_HOME", "LMCLI_"}:
        monkeypatch.setenv(name, "1")
    assert cli("config", "show") == Ended(0, "", "")
