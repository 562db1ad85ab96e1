"""Every exit code, with what is said. The ones of signals are in test_signals.py."""

import gzip
from pathlib import Path

import pytest

from tests.cli.commands import Ended, shell
from tests.cli.conftest import Cli
from tests.engine.test_devices import NO_CUDA, without_gpu


def test_0_all_good_and_silent(cli: Cli, moods: Path) -> None:
    assert cli("sentiment", "-m", moods, stdin=b"good\nbad\n") == Ended(
        0, "POSITIVE\t0.7311\tgood\nNEGATIVE\t0.7311\tbad\n", ""
    )


def test_0_of_no_input_at_all(cli: Cli, moods: Path) -> None:
    assert cli("sentiment", "-m", moods) == Ended(0, "", "")


def test_1_some_records_failed(cli: Cli, moods: Path) -> None:
    assert cli("sentiment", "-m", moods, stdin=b"good\n\xff\nbad\n") == Ended(
        1,
        "POSITIVE\t0.7311\tgood\n\nNEGATIVE\t0.7311\tbad\n",
        "lmcli: -:2: not valid UTF-8 at byte 0 (0xff)\n",
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--no-such-option"], "No such option"),
        (["-O", "xml"], "'xml' is not one of"),
        (["--threads", "0"], "Invalid value for '--threads'"),
        (["--device", "tpu"], "lmcli: unknown device 'tpu'\n       choose auto, cpu, cuda or cuda:N\n"),
        (["--encoding", "klingon"], "lmcli: unknown encoding 'klingon'"),
        (["-m", "no such name"], "lmcli: 'no such name' cannot be the name of a bundle"),
        (["-", "-"], "lmcli: standard input (-) can be read only once"),
        (["a.csv", "b.jsonl"], "lmcli: the inputs are of different formats: "),
    ],
    ids=["option", "choice", "range", "device", "encoding", "name", "stdin twice", "formats"],
)
def test_2_wrong_use(cli: Cli, moods: Path, argv: list[str], message: str) -> None:
    for name in ("a.csv", "b.jsonl"):
        Path(name).touch()
    ended = cli("sentiment", *(["-m", moods] if "-m" not in argv else []), *argv)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err


def test_2_no_command(cli: Cli) -> None:
    assert cli().code == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.gz", gzip.compress(b"good\n" * 99)[:-9], "lmcli: cut.gz: truncated gzip data\n"),
        (
            "table.csv",
            b"id,body\n1,good\n",
            "lmcli: table.csv: no column 'text'; its columns are id, body\n"
            "       name the column of the text with --field\n",
        ),
        (
            "has.csv",
            b"text,sentiment.label\ngood,x\n",
            "lmcli: has.csv: it has a column 'sentiment.label' already\n       name the new one with --as\n",
        ),
    ],
    ids=["truncated", "no column", "column exists"],
)
def test_65_unusable_input(cli: Cli, moods: Path, name: str, content: bytes, message: str) -> None:
    Path(name).write_bytes(content)
    ended = cli("sentiment", "-m", moods, name)
    assert (ended.code, ended.err) == (65, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.txt", "lmcli: cannot open missing.txt: No such file or directory\n"),
        (".", "lmcli: cannot read .: it is a directory\n       name the files in it\n"),
    ],
)
def test_66_no_input(cli: Cli, moods: Path, name: str, message: str) -> None:
    assert cli("sentiment", "-m", moods, name) == Ended(66, "", message)


def test_66_closed_stdin(moods: Path) -> None:
    ended = shell("lmcli <&-", "sentiment", "-m", moods)
    assert ended == Ended(66, "", "lmcli: standard input is closed\n")


@without_gpu
def test_69_unavailable_device(cli: Cli, moods: Path) -> None:
    ended = cli("sentiment", "-m", moods, "--device", "cuda", stdin=b"good\n")
    assert ended == Ended(
        69,
        "",
        "lmcli: moods is a bundle for the CPU (fp32)\n"
        "       export the model with `--device cuda`, or run this one with `--device cpu`\n",
    )
    assert NO_CUDA  # test_devices.py has the case of a bundle made for CUDA


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("no/such/out.txt", "lmcli: cannot create no/such/out.txt: No such file or directory\n"),
        (".", "lmcli: cannot write .: it is a directory\n"),
        ("new/", "lmcli: cannot write new/: it is a directory\n"),
        ("", "lmcli: the name of the output is empty\n"),
        (
            "in.txt",
            "lmcli: in.txt is also an input\n       write to another file\n",
        ),
    ],
    ids=["no folder", "folder", "new folder", "no name", "input"],
)
def test_73_no_output(cli: Cli, moods: Path, output: str, message: str) -> None:
    Path("in.txt").write_text("good\n")
    assert cli("sentiment", "-m", moods, "in.txt", "-o", output) == Ended(73, "", message)
    assert Path("in.txt").read_text() == "good\n"


@pytest.mark.parametrize("option", ["--summary", "--errors"])
def test_73_nothing_is_done_for_a_file_that_cannot_be(cli: Cli, moods: Path, option: str) -> None:
    for name in (".", ""):
        ended = cli("sentiment", "-m", moods, option, name, stdin=b"good\n")
        assert (ended.code, ended.out) == (73, "")


def test_a_long_name_of_an_output(cli: Cli, moods: Path) -> None:
    name = "文" * 80  # 240 bytes, of 255 that file systems allow
    assert cli("sentiment", "-m", moods, "-o", name, stdin=b"good\n") == Ended(0, "", "")
    assert Path(name).read_text() == "POSITIVE\t0.7311\tgood\n"


@pytest.mark.parametrize("redirection", ["2>&-", "2>/dev/full"])
def test_2_wrong_use_that_nobody_hears_of(redirection: str) -> None:
    assert shell(f"lmcli --nope {redirection}", "sentiment") == Ended(2, "", "")


def test_2_a_wrong_choice_is_named_without_more_ado(cli: Cli) -> None:
    err = " ".join(cli("ner", "--style", "span").err.split())
    assert "'span' is not one of" in err
    assert "Value error" not in err


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        (">/dev/full", "lmcli: cannot write standard output: No space left on device\n"),
        (">&-", "lmcli: cannot write standard output: it is closed\n"),
        ("-o /dev/full", "lmcli: cannot write /dev/full: No space left on device\n"),
    ],
)
def test_74_output_fails(moods: Path, redirection: str, message: str) -> None:
    ended = shell(f"lmcli {redirection}", "sentiment", "-m", moods, stdin=b"good\n")
    assert ended == Ended(74, "", message)


@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("words", ["models", "models show sentiment-en", "models verify"])
def test_74_output_of_models_fails(words: str, redirection: str) -> None:
    ended = shell(f"lmcli {words} {redirection}")
    assert (ended.code, ended.out) == (74, "")
    assert ended.err.startswith("lmcli: cannot write standard output")


def test_76_no_such_bundle(cli: Cli) -> None:
    ended = cli("sentiment", "-m", "sentiment-em", stdin=b"good\n")
    assert (ended.code, ended.out) == (76, "")
    assert ended.err.startswith("lmcli: there is no bundle 'sentiment-em'; did you mean 'sentiment-en'?\n")


def test_76_bundle_of_another_task(cli: Cli, moods: Path) -> None:
    assert cli("ner", "-m", moods, stdin=b"good\n") == Ended(
        76,
        "",
        f"lmcli: {moods} is a bundle for text-classification, not for token-classification\n"
        f"       `lmcli sentiment --model {moods}` runs it\n",
    )
