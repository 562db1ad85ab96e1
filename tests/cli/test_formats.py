import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmcli.records.compression import CODECS
from tests.cli.commands import Ended, run
from tests.cli.conftest import Cli

GOOD = '{"label":"POSITIVE","score":0.731059}'
BAD = '{"label":"NEGATIVE","score":0.731059}'
JSONL = '{"id": 1.0, "text": "good"}\n{"text":"bad","n":[1, 2]}\n'
CSV = 'id,text\r\n"1",good\r\n2,"""x"", bad"\r\n'
TSV = "id\ttext\n1\tgood\n2\tbad\n"
TEXT = "good\nbad\n"


@pytest.mark.parametrize(
    ("name", "content", "output_format", "expected"),
    [
        pytest.param("a.txt", TEXT, "auto", "POSITIVE\t0.7311\tgood\nNEGATIVE\t0.7311\tbad\n", id="text"),
        pytest.param(
            "a.txt",
            TEXT,
            "jsonl",
            f'{{"text":"good","sentiment":{GOOD}}}\n{{"text":"bad","sentiment":{BAD}}}\n',
            id="text to jsonl",
        ),
        pytest.param(
            "a.txt",
            "good\n\nx, bad\n",
            "csv",
            'text,sentiment.label,sentiment.score\ngood,POSITIVE,0.731059\n,,\n"x, bad",NEGATIVE,0.731059\n',
            id="text to csv",
        ),
        pytest.param(
            "a.txt",
            "good\tx\n",
            "tsv",
            "text\tsentiment.label\tsentiment.score\ngood\\tx\tPOSITIVE\t0.731059\n",
            id="text to tsv",
        ),
        pytest.param(
            "a.txt", TEXT, "nul", "POSITIVE\t0.7311\tgood\0NEGATIVE\t0.7311\tbad\0", id="text to nul"
        ),
        pytest.param(
            "a.jsonl",
            JSONL,
            "auto",
            f'{{"id": 1.0, "text": "good","sentiment":{GOOD}}}\n'
            f'{{"text":"bad","n":[1, 2],"sentiment":{BAD}}}\n',
            id="jsonl",
        ),
        pytest.param(
            "a.jsonl", JSONL, "text", "POSITIVE\t0.7311\tgood\nNEGATIVE\t0.7311\tbad\n", id="jsonl to text"
        ),
        pytest.param(
            "a.jsonl",
            JSONL,
            "csv",
            "text,sentiment.label,sentiment.score\ngood,POSITIVE,0.731059\nbad,NEGATIVE,0.731059\n",
            id="jsonl to csv",
        ),
        pytest.param(
            "a.csv",
            CSV,
            "auto",
            "id,text,sentiment.label,sentiment.score\n"
            '"1",good,POSITIVE,0.731059\n2,"""x"", bad",NEGATIVE,0.731059\n',
            id="csv",
        ),
        pytest.param(
            "a.csv",
            CSV,
            "jsonl",
            f'{{"id":"1","text":"good","sentiment":{GOOD}}}\n'
            f'{{"id":"2","text":"\\"x\\", bad","sentiment":{BAD}}}\n',
            id="csv to jsonl",
        ),
        pytest.param(
            "a.csv",
            CSV,
            "tsv",
            "id\ttext\tsentiment.label\tsentiment.score\n"
            '1\tgood\tPOSITIVE\t0.731059\n2\t"x", bad\tNEGATIVE\t0.731059\n',
            id="csv to tsv",
        ),
        pytest.param(
            "a.tsv",
            TSV,
            "auto",
            "id\ttext\tsentiment.label\tsentiment.score\n"
            "1\tgood\tPOSITIVE\t0.731059\n2\tbad\tNEGATIVE\t0.731059\n",
            id="tsv",
        ),
    ],
)
def test_sentiment_formats(
    cli: Cli, moods: Path, name: str, content: str, output_format: str, expected: str
) -> None:
    Path(name).write_bytes(content.encode())
    ended = cli("sentiment", "-m", moods, "-O", output_format, name)
    # Tables keep the line ends of each row as they are read; what counts here are the rows.
    assert Ended(ended.code, ended.out.replace("\r\n", "\n"), ended.err) == Ended(0, expected, "")


ENTITY = '{"label":"PER","text":"Marie Curie","start":0,"end":11,"score":0.85}'


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "[Marie Curie](PER) x\n\n"),
        (["--style", "spans"], "-\t1\t0\t11\tPER\t0.8500\tMarie Curie\n"),
        (["--style", "conll"], "Marie B-PER\nCurie I-PER\nx O\n\n\n"),
        (["-O", "jsonl"], f'{{"text":"Marie Curie x","entities":[{ENTITY}]}}\n{{"text":"","entities":[]}}\n'),
        (["-O", "tsv"], f"text\tentities\nMarie Curie x\t[{ENTITY}]\n\t[]\n"),
    ],
    ids=["inline", "spans", "conll", "jsonl", "tsv"],
)
def test_ner_formats(cli: Cli, names: Path, options: list[str], expected: str) -> None:
    assert cli("ner", "-m", names, *options, stdin=b"Marie Curie x\n\n") == Ended(0, expected, "")


def test_the_format_can_be_named(cli: Cli, moods: Path) -> None:
    ended = cli("sentiment", "-m", moods, "-I", "jsonl", stdin=b'{"text":"good"}\n')
    assert ended == Ended(0, f'{{"text":"good","sentiment":{GOOD}}}\n', "")


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("body", b'{"body":"good"}'),
        ("a.b", b'{"a":{"b":"good"}}'),
        ("a.b", b'{"a.b":"good","a":{"b":"bad"}}'),
    ],
    ids=["key", "path", "key with a dot"],
)
def test_field_names_the_text(cli: Cli, moods: Path, field: str, line: bytes) -> None:
    ended = cli("sentiment", "-m", moods, "-I", "jsonl", "--field", field, stdin=line + b"\n")
    assert json.loads(ended.out)["sentiment"]["label"] == "POSITIVE"


@pytest.mark.parametrize("name", ["mood", "self"])
def test_as_names_the_new_field(cli: Cli, moods: Path, name: str) -> None:
    ended = cli("sentiment", "-m", moods, "-I", "jsonl", "--as", name, stdin=b'{"text":"good"}\n')
    assert ended == Ended(0, f'{{"text":"good","{name}":{GOOD}}}\n', "")


def test_as_takes_a_name_with_a_dot(cli: Cli, moods: Path) -> None:
    ended = cli("sentiment", "-m", moods, "--as", "a.b", "-O", "csv", stdin=b"good\n")
    assert ended.out == "text,a.b.label,a.b.score\ngood,POSITIVE,0.731059\n"


@pytest.mark.parametrize("name", ["text", "error"])
def test_as_does_not_replace_what_records_need(cli: Cli, moods: Path, name: str) -> None:
    ended = cli("sentiment", "-m", moods, "--as", name, stdin=b"good\n")
    message = f"lmcli: --as '{name}': records have or need that field\n       choose another name\n"
    assert ended == Ended(2, "", message)


def test_an_object_with_the_field_fails_and_is_carried_through(cli: Cli, moods: Path) -> None:
    line = b'{"text":"good","sentiment":"fine"}\n'
    message = "the object has a 'sentiment' already: name the new one with --as"
    ended = cli("sentiment", "-m", moods, "-I", "jsonl", stdin=line)
    assert (ended.code, ended.err) == (1, f"lmcli: -:1: {message}\n")
    assert json.loads(ended.out) == {
        "text": "good",
        "sentiment": "fine",
        "error": {"code": "field_exists", "message": message, "source": "-", "line": 1},
    }


def test_a_failed_record_can_be_run_again(cli: Cli, moods: Path) -> None:
    first = cli("sentiment", "-m", moods, "-I", "jsonl", stdin=b'{"txt":"good"}\n')
    again = cli("sentiment", "-m", moods, "-I", "jsonl", stdin=first.out.encode())
    assert (again.code, again.out) == (1, first.out)


def zstd_of(data: bytes) -> bytes:
    stream = io.BytesIO()
    with CODECS[".zst"].open_writer(stream) as writer:
        writer.write(data)
    return stream.getvalue()


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, bz2.compress, lzma.compress, zstd_of],
    ids=["gzip", "bzip2", "xz", "zstd"],
)
def test_compressed_stdin(cli: Cli, moods: Path, compress: Callable[[bytes], bytes]) -> None:
    ended = cli("sentiment", "-m", moods, stdin=compress(b"good\n"))
    assert ended == Ended(0, "POSITIVE\t0.7311\tgood\n", "")


@pytest.mark.parametrize(
    ("stdin", "options"),
    [
        ("good é\n".encode("utf-8-sig"), []),
        ("good é\r\n".encode("utf-16"), []),
        (b"\xfe\xff" + "good é\n".encode("utf-16-be"), []),
        ("good é\n".encode("utf-16-le"), ["--encoding", "utf-16-le"]),
        ("good é\n".encode("latin-1"), ["--encoding", "latin-1"]),
        (gzip.compress("good é\n".encode("utf-16")), []),
    ],
    ids=["utf-8 bom", "utf-16", "utf-16 be", "utf-16-le named", "latin-1", "gzip of utf-16"],
)
def test_encodings_of_stdin(cli: Cli, moods: Path, stdin: bytes, options: list[str]) -> None:
    assert cli("sentiment", "-m", moods, *options, stdin=stdin) == Ended(0, "POSITIVE\t0.7311\tgood é\n", "")


@pytest.mark.parametrize(
    ("by", "stdin", "expected"),
    [
        ("line", b"good\nbad", "POSITIVE\t0.7311\tgood\nNEGATIVE\t0.7311\tbad\n"),
        ("para", b"good\nx\n\n\nbad\n", "POSITIVE\t0.7311\tgood\\nx\nNEGATIVE\t0.7311\tbad\n"),
        ("doc", b"good\n\nbad bad", "NEGATIVE\t0.7311\tgood\\n\\nbad bad\n"),
        ("nul", b"good\nx\0bad\0", "POSITIVE\t0.7311\tgood\\nx\nNEGATIVE\t0.7311\tbad\n"),
    ],
)
def test_by(cli: Cli, moods: Path, by: str, stdin: bytes, expected: str) -> None:
    assert cli("sentiment", "-m", moods, "--by", by, stdin=stdin) == Ended(0, expected, "")


def test_a_document_keeps_the_blank_line_at_its_end(cli: Cli) -> None:
    ended = cli("translate", "-m", "test:echo", "--by", "doc", stdin=b"x\n\n")
    assert ended == Ended(0, "x\n\n", "")


@pytest.mark.parametrize(
    ("output_format", "expected"),
    [
        ("csv", b'text,translation,translation_flags\na,a,\n"",,\nb,b,\n'),
        ("tsv", b"text\ttranslation\ttranslation_flags\na\ta\t\n\t\t\nb\tb\t\n"),
        (
            "jsonl",
            b'{"text":"a","translation":"a"}\n{"text":"","translation":""}\n{"text":"b","translation":"b"}\n',
        ),
    ],
)
def test_a_blank_row_of_one_column(cli: Cli, output_format: str, expected: bytes) -> None:
    argv = ["translate", "-m", "test:echo", "-I", "csv", "-O", output_format]
    found = cli(*argv, stdin=b"text\na\n\nb\n")
    assert (found.code, found.out.encode().replace(b"\n,,", b'\n"",,')) == (0, expected)


def test_a_text_that_failed_stays_in_its_row(cli: Cli) -> None:
    ended = cli("sentiment", "-q", "-m", "test:fail?every=2", "-O", "csv", stdin=b"a\nb\n")
    assert (ended.code, ended.out.splitlines()[2]) == (1, "b,,")


def test_names_from_a_list_may_hold_line_endings(cli: Cli, moods: Path) -> None:
    Path("a\r\nb.txt").write_text("good\n")
    ended = cli("sentiment", "-m", moods, "--files0-from", "-", stdin=b"a\r\nb.txt\0")
    assert ended == Ended(0, "POSITIVE\t0.7311\tgood\n", "")


def test_files_are_read_in_order(cli: Cli, moods: Path) -> None:
    Path("a.txt").write_text("good\n")
    Path("b.txt.gz").write_bytes(gzip.compress(b"bad\n"))
    ended = cli("sentiment", "-m", moods, "b.txt.gz", "-", "a.txt", stdin=b"great\n")
    assert ended.out == "NEGATIVE\t0.7311\tbad\nPOSITIVE\t0.8808\tgreat\nPOSITIVE\t0.7311\tgood\n"


@pytest.mark.parametrize(
    ("option", "listed"), [("--files-from", b"a b.txt\nc.txt\n"), ("--files0-from", b"a b.txt\0c.txt\0")]
)
@pytest.mark.parametrize("from_stdin", [True, False], ids=["stdin", "file"])
def test_names_from_a_list(cli: Cli, moods: Path, option: str, listed: bytes, from_stdin: bool) -> None:
    Path("a b.txt").write_text("good\n")
    Path("c.txt").write_text("bad\n")
    Path("list").write_bytes(listed)
    ended = cli(
        "sentiment", "-m", moods, option, "-" if from_stdin else "list", stdin=listed if from_stdin else b""
    )
    assert ended == Ended(0, "POSITIVE\t0.7311\tgood\nNEGATIVE\t0.7311\tbad\n", "")


@pytest.mark.parametrize(
    ("listed", "ended"),
    [
        (b"", Ended(0, "", "")),
        (b"a.txt\n\n", Ended(65, "", "lmcli: -: name 2 of the list is empty\n")),
        (b"-\n", Ended(2, "", "lmcli: standard input cannot be both the list of inputs and one of them\n")),
        (b"gone\n", Ended(66, "", "lmcli: cannot open gone: No such file or directory\n")),
    ],
    ids=["nothing", "empty name", "stdin", "missing"],
)
def test_lists_that_name_no_input(cli: Cli, moods: Path, listed: bytes, ended: Ended) -> None:
    assert cli("sentiment", "-m", moods, "--files-from", "-", stdin=listed) == ended


@pytest.mark.parametrize(
    ("command", "options"),
    [("sentiment", ["-O", "jsonl"]), ("sentiment", ["--errors", "log"]), ("ner", ["--style", "spans"])],
    ids=["jsonl", "errors", "spans"],
)
def test_a_file_name_that_is_not_utf_8(moods: Path, names: Path, command: str, options: list[str]) -> None:
    Path("\udcff.txt").write_bytes(b"good Marie\n\xff\n")
    model = moods if command == "sentiment" else names
    ended = run(command, "-m", model, "\udcff.txt", *options)
    assert ended.code == 1
    assert "Traceback" not in ended.err


def fields_of(ended: Ended) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ended.out.splitlines()]


def test_all_scores_reach_every_format(cli: Cli, moods: Path) -> None:
    scores = {"NEGATIVE": 0.268941, "POSITIVE": 0.731059}
    ended = cli("sentiment", "-m", moods, "--all-scores", "-O", "jsonl", stdin=b"good\n")
    assert fields_of(ended)[0]["sentiment"]["scores"] == scores
    ended = cli("sentiment", "-m", moods, "--all-scores", "-O", "tsv", stdin=b"good\n")
    assert json.loads(ended.out.splitlines()[1].split("\t")[3]) == scores
