"""Manual pages: everything the parser has is on them, and roff shows it as it is."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from lmcli import errors
from lmcli.cli.app import app
from lmcli.cli.commands.roff import definition, escape, example, prose, section
from lmcli.cli.config.keys import configured, options, refusal
from lmcli.errors import LmcliError
from tests.cli.commands import Ended
from tests.cli.conftest import Cli

ROOT: Any = typer.main.get_command(app)
PAGES = [None, *ROOT.commands]


def page(cli: Cli, name: str | None) -> str:
    ended = cli("man", *([] if name is None else [name]))
    assert (ended.code, ended.err) == (0, "")
    return ended.out


def params(command: Any) -> Iterator[Any]:
    yield from command.params
    for inner in getattr(command, "commands", {}).values():
        yield from params(inner)


def plain(text: str) -> str:
    """A page without the marks of roff."""
    text = re.sub(r"\\f[BRI]|\\&", "", text)
    for mark, character in {"\\-": "-", "\\(aq": "'", "\\(dq": '"', "\\(ga": "`", "\\(ha": "^"}.items():
        text = text.replace(mark, character)
    return text.replace("\\(ti", "~").replace("\\e", "\\")


@pytest.mark.parametrize("name", ROOT.commands)
def test_every_option_and_its_help_is_on_the_page(cli: Cli, name: str) -> None:
    found = re.findall(r"^\.TP\n(.*)\n(.*)$", plain(page(cli, name)), re.MULTILINE)
    shown = [(set(re.findall(r"(?<!\S)--?[\w-]+", term)), text) for term, text in found]
    for param in params(ROOT.commands[name]):
        names = {*param.opts, *param.secondary_opts} if param.param_type_name == "option" else set()
        said = " ".join(param.help.replace("`", "").split())
        assert any(text.startswith(said) and term >= names for term, text in shown)


@pytest.mark.parametrize(("name", "command"), configured(ROOT).items())
def test_every_option_that_a_variable_sets_has_it_on_the_page(cli: Cli, name: str, command: Any) -> None:
    variables = set(re.findall(r"\[env var: (\w+)\]", page(cli, name)))
    settable = {key for key, option in options(command).items() if not refusal(key, option)}
    assert variables == {f"LMCLI_{key.replace('-', '_').upper()}" for key in settable}


def test_choices_defaults_and_ranges_are_on_the_page(cli: Cli) -> None:
    shown = plain(page(cli, "translate"))
    assert "--by <line|para|doc|nul>\n" in shown
    assert "What a record of a text input is. [default: line] [env var: LMCLI_BY]" in shown
    assert "[1<=x<=64]" in shown


@pytest.mark.parametrize("name", PAGES)
def test_every_page_has_all_sections_and_exit_codes(cli: Cli, name: str | None) -> None:
    shown = page(cli, name)
    sections = re.findall(r"^\.SH (.*)$", shown, re.MULTILINE)
    wanted = ["NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "FILES", "SEE ALSO"]
    assert [each for each in sections if each in wanted] == wanted
    codes = {value for key, value in vars(errors).items() if key.startswith("EXIT_")} | {
        error.exit_code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, LmcliError)
    }
    assert {int(code) for code in re.findall(r"^\.TP\n\\fB(\d+)\\fR$", shown, re.MULTILINE)} == codes


def test_examples_are_those_of_the_docstrings(cli: Cli) -> None:
    shown = plain(page(cli, "prompt"))
    line = "lmcli prompt --template 'Translate to French: {text}' notes.txt"
    assert f".SH EXAMPLES\n.EX\n{line}\n.EE\n" in shown
    assert line in plain(page(cli, None))


def test_the_page_of_a_group_describes_its_commands(cli: Cli) -> None:
    shown = plain(page(cli, "models"))
    assert [line for line in shown.splitlines() if line.startswith(".SS")] == [
        f".SS {name}" for name in ROOT.commands["models"].commands
    ]
    assert "\nlmcli models rm [OPTIONS] " in shown


def test_the_first_page_names_all_others(cli: Cli) -> None:
    shown = plain(page(cli, None))
    assert all(f"\n.TP\nlmcli-{name}(1)\n" in shown for name in ROOT.commands)


@pytest.mark.parametrize("name", PAGES)
def test_no_line_of_text_is_taken_for_a_command_of_roff(cli: Cli, name: str | None) -> None:
    known = r"\.(TH|SH|SS|PP|TP|EX|EE|nr|nh|ad)( |$)"
    for line in page(cli, name).splitlines():
        assert not line.startswith("'")
        assert not line.startswith(".") or re.match(known, line)
        assert not re.search(r"(?<!\\)-", line), "a hyphen that cannot be copied as a dash"


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(
    "command",
    [["mandoc", "-T", "lint", "-W", "error"], ["groff", "-man", "-Tutf8", "-z", "-W", "break"]],
    ids=lambda c: c[0],
)
def test_formatters_have_nothing_to_complain_of(cli: Cli, name: str | None, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, input=page(cli, name).encode(), capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize("command", [["mandoc", "-T", "ascii"], ["groff", "-man", "-Tascii", "-P-c"]])
def test_a_reader_sees_what_one_would_type(cli: Cli, command: list[str]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, input=page(cli, "ner").encode(), capture_output=True, check=True)
    shown = re.sub(".\b", "", done.stdout.decode())
    assert "lmcli ner --style spans notes.txt | cut -f 5,7\n" in shown
    assert "       -O, --output-format <auto|text|jsonl|csv|tsv|nul>\n" in shown
    assert "       ./lmcli.toml\n" in shown


@pytest.mark.parametrize(
    ("written", "roff"),
    [
        (prose("a `b` c\nd"), ".PP\na \\fBb\\fR c d\n"),
        (prose(".hidden"), ".PP\n\\&.hidden\n"),
        (prose("'quoted'"), ".PP\n\\(aqquoted\\(aq\n"),
        (prose("a\\b"), ".PP\na\\eb\n"),
        (prose("one ` backtick"), ".PP\none \\(ga backtick\n"),
        (example(".x 'a' ~ ^ \"b\""), ".PP\n.EX\n\\&.x \\(aqa\\(aq \\(ti \\(ha \\(dqb\\(dq\n.EE\n"),
        (definition("-a, --b-c N", "x"), ".TP\n\\fB\\-a\\fR, \\fB\\-\\-b\\-c\\fR N\nx\n"),
        (definition("./x", ""), ".TP\n\\fB\\&./x\\fR\n\\&\n"),
        (section("A", ""), ""),
        (escape("a\n.b"), "a\n\\&.b"),
    ],
)
def test_what_roff_would_change_is_escaped(written: str, roff: str) -> None:
    assert written == roff


def test_write_has_a_page_for_each_command(cli: Cli, work: Path) -> None:
    ended = cli("man", "--write", "share/man1")
    names = ["lmcli.1", *(f"lmcli-{name}.1" for name in ROOT.commands)]
    assert ended == Ended(0, "".join(f"share/man1/{name}\n" for name in names), "")
    assert (work / "share/man1/lmcli-ner.1").read_text() == page(cli, "ner")


def test_write_a_single_page(cli: Cli, work: Path) -> None:
    assert cli("man", "ner", "--write", ".") == Ended(0, "lmcli-ner.1\n", "")
    assert [path.name for path in work.iterdir()] == ["lmcli-ner.1"]


def test_73_no_folder_to_write_into(cli: Cli, work: Path) -> None:
    (work / "file").touch()
    ended = cli("man", "--write", "file")
    assert (ended.code, ended.out) == (73, "")
    assert ended.err.startswith("lmcli: cannot write file/lmcli.1: ")


@pytest.mark.parametrize(
    ("name", "hint"), [("ne", "did you mean 'ner'?"), ("xyz", "the commands are: sentiment, ner, ")]
)
def test_2_no_such_command(cli: Cli, name: str, hint: str) -> None:
    ended = cli("man", name)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"lmcli: there is no command {name!r}\n       {hint}")
