"""Completion, as the shells that are installed do it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lmcli.cli.commands.completion import VARIABLE
from tests.cli.commands import TIMEOUT
from tests.cli.conftest import Cli

Complete = Callable[..., set[str]]
SHELLS = ["bash", "zsh", "fish"]
BASH = """
source <(lmcli completion bash)
COMP_WORDS=(lmcli "$@")
COMP_CWORD=$#
_lmcli_completion lmcli
printf '%s\\n' "${COMPREPLY[@]}"
"""


def shell(tmp_path: Path, name: str, script: str, *argv: str) -> str:
    """What a shell prints that knows the command `lmcli`."""
    folder = tmp_path / "bin"
    folder.mkdir(exist_ok=True)
    lmcli = folder / "lmcli"
    lmcli.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lmcli "$@"\n')
    lmcli.chmod(0o755)
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
    done = subprocess.run(
        [name, *options, "-c", script, name, *argv],
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert done.stderr == b""
    return done.stdout.decode()


@pytest.fixture
def complete(tmp_path: Path) -> Complete:
    """What bash offers for the last of these words."""
    return lambda *words: set(shell(tmp_path, "bash", BASH, *words).split())


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["sum"], {"summarize"}),
        (["models", ""], {"list", "show", "verify", "rm"}),
        (["--no-config", "tra"], {"translate"}),
        (["ner", "--input"], {"--input-format"}),
        (["translate", "--no-s"], {"--no-split"}),
        (["ner", "--by", ""], {"line", "para", "doc", "nul"}),
        (["ner", "--by", "=", "pa"], {"para"}),
        (["ner", "--by", "="], {"line", "para", "doc", "nul"}),
        (["ner", "--by", "=", "doc", "--style", "s"], {"spans"}),
        (["completion", ""], {"bash", "zsh", "fish"}),
        (["man", "tra"], {"translate"}),
        (["config", "show", "tra"], {"translate"}),
        (["pull", "all-"], {"all-minilm-l6-v2"}),
        (["ner", "file"], set()),
    ],
    ids=" ".join,
)
def test_bash_offers_what_the_parser_knows(complete: Complete, words: list[str], offered: set[str]) -> None:
    assert complete(*words) == offered


@pytest.mark.parametrize(
    "words",
    [["ner", "-m", "m"], ["prompt", "--embedder", "m"], ["models", "show", "m"], ["models", "rm", "m"]],
)
def test_names_of_bundles_are_offered(complete: Complete, work: Path, words: list[str]) -> None:
    for name in ("mine", "more", "my model", "m$(touch stolen)", "other"):
        (work / "exported" / name).mkdir(parents=True)
        (work / "exported" / name / "manifest.json").touch()
    (work / "exported" / "mere-folder").mkdir()
    assert complete(*words) == {"mine", "more"}
    assert not (work / "stolen").exists()


def test_a_wrong_configuration_file_does_not_disturb(complete: Complete, work: Path) -> None:
    (work / "lmcli.toml").write_text("wrong\n")
    assert complete("ner", "--by", "p") == {"para"}


def test_bash_falls_back_to_names_of_files(tmp_path: Path) -> None:
    shown = shell(tmp_path, "bash", "source <(lmcli completion bash); complete -p lmcli")
    assert shown == "complete -o default -F _lmcli_completion lmcli\n"


@pytest.mark.parametrize("name", SHELLS)
def test_the_script_asks_lmcli(cli: Cli, name: str) -> None:
    ended = cli("completion", name)
    assert (ended.code, ended.err) == (0, "")
    assert f"{VARIABLE}=complete_{name} " in ended.out


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_the_shell_accepts_the_script(cli: Cli, work: Path, name: str) -> None:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not installed")
    (work / "script").write_text(cli("completion", name).out)
    done = subprocess.run([name, "-n", "script"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_fish_offers_options_with_their_help(tmp_path: Path, work: Path) -> None:
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    (work / "reviews.txt").touch()
    script = 'lmcli completion fish | source; complete -C "lmcli ner --inp"; complete -C "lmcli ner rev"'
    assert shell(tmp_path, "fish", script).splitlines() == [
        "--input-format\tFormat of the inputs; auto goes by suffix.",
        "reviews.txt",
    ]


def test_zsh_is_told_options_with_their_help(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.setenv(VARIABLE, "complete_zsh")
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "lmcli ner --inp")
    ended = cli()
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (
        """_arguments '*: :(("--input-format":"Format of the inputs; auto goes by suffix."))'\n"""
    )


def test_2_an_unknown_shell(cli: Cli) -> None:
    ended = cli("completion", "tcsh")
    assert (ended.code, ended.out) == (2, "")
    assert "'tcsh' is not one of 'bash', 'zsh', 'fish'" in ended.err
