"""What --resume continues, what it refuses, and what it begins anew."""

import gzip
import json
import os
import shutil
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lmcli.cli.running import staging
from tests import tiny
from tests.cli.commands import Ended
from tests.cli.conftest import Cli
from tests.cli.test_kill import read_journal

FAIL = "test:fail?every=3&unless=fixed"
"""A double that fails as long as there is no file `fixed`."""
LINES = "".join(f"Line {number}\n" for number in range(1, 8))
OUT = Path("out.txt")
STATE = Path("out.txt.lmcli")
JOB = ("sentiment", "-m", FAIL, "in.txt", "-o", "out.txt", "--resume")


@pytest.fixture(autouse=True)
def inputs(work: Path) -> None:
    (work / "in.txt").write_text(LINES)
    (work / "in.jsonl").write_text("".join(f'{{"text":"{line}"}}\n' for line in LINES.splitlines()))


def begin(cli: Cli, *argv: object, stdin: bytes = b"") -> None:
    """Run a job that ends early, because a record fails; the next run finds the reason gone."""
    assert cli(*argv, "--fail-fast", stdin=stdin).code == 65
    Path("fixed").touch()


def whole(cli: Cli, *argv: object, stdin: bytes = b"") -> bytes:
    """What the job writes when nothing fails."""
    at = argv.index("-o") + 1
    target = Path(f"whole.{argv[at]}")
    Path("fixed").touch()
    assert cli(*argv[:at], target, *argv[at + 1 :], stdin=stdin).code in (0, 1)
    Path("fixed").unlink()
    return target.read_bytes()


# What is continued.


def test_a_run_is_continued_where_it_ended(cli: Cli) -> None:
    expected = whole(cli, *JOB)
    OUT.write_text("old\n")
    begin(cli, *JOB)
    assert OUT.read_text() == "old\n"
    assert [line["records"] for line in read_journal(OUT)] == [3]
    assert cli(*JOB, "--verbose").err.splitlines()[0] == "lmcli: 2 records are done already"
    assert OUT.read_bytes() == expected
    assert not STATE.exists()


def test_a_run_may_end_early_many_times(cli: Cli) -> None:
    expected = whole(cli, *JOB)
    for number in range(3):
        assert cli(*JOB, "--max-errors", number // 2).code == 65
    Path("fixed").touch()
    assert cli(*JOB) == Ended(0, "", "")
    assert OUT.read_bytes() == expected


def write_files() -> None:
    """Inputs of all kinds, with blank lines, and with lines that are no text or no object."""
    lines = LINES.encode().splitlines()
    objects = [b'{"id":%d,"text":"%b"}' % (number, line) for number, line in enumerate(lines)]
    rows = [b'%d,"%b"' % (number, line) for number, line in enumerate(lines)]
    Path("odd.txt").write_bytes(b"Line 1\n\n\xff\nLine 4\n\n\nLine 7\nLine 8")
    Path("odd.jsonl").write_bytes(b"\n".join([*objects[:2], b"", b"nonsense", *objects[2:]]))
    Path("in.csv").write_bytes(b"id,text\r\n" + b"\r\n".join(rows) + b"\r\n")
    Path("in.tsv").write_bytes(b"text\n" + b"\n".join(lines) + b"\n")
    Path("ragged.csv").write_bytes(b"id,text\n1,one\n\n2\n3,three\n4,four\n5,five\n6,six\n")
    Path("in.para").write_bytes(b"A text\nof two lines.\n\n\nAnother,\n\nand\none.\n\n\n\nThe last\n")
    Path("in.nul").write_bytes(b"A\nB\n\0C\n\0\0\nD\nE\0F")
    Path("in.txt.gz").write_bytes(gzip.compress(LINES.encode()))
    Path("names").write_text("in.txt\nin.txt.gz\nodd.txt\n")
    for number in range(1, 4):
        Path(f"{number}.doc").write_bytes(b"\n" * (number - 1) + b"\nA document\n\nof paragraphs.\n")


@pytest.mark.parametrize("ending", ["--fail-fast", "--verbose"], ids=["incomplete", "complete"])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize(
    "words",
    [
        "sentiment odd.txt -o out.txt",
        "sentiment odd.txt -O jsonl -o out.jsonl",
        "sentiment odd.txt -O csv -o out.csv",
        "sentiment odd.jsonl -o out.jsonl",
        "sentiment odd.jsonl -O text -o out.txt",
        "embed odd.jsonl -O csv -o out.csv",
        "ner in.csv -o out.csv",
        "ner in.csv -O jsonl -o out.jsonl.gz",
        "ner in.csv -O tsv -o out.tsv",
        "sentiment ragged.csv -o out.csv",
        "translate --to fr in.tsv -o out.tsv.xz",
        "translate --to fr --by para in.para -o out.txt",
        "translate --to fr --by doc 1.doc 2.doc 3.doc -o out.txt",
        "translate --to fr --by nul -O nul in.nul -o out.nul",
        "summarize --by para in.para -O jsonl -o out.jsonl",
        "prompt in.txt.gz -o out.txt.zst",
        "sentiment in.txt odd.txt in.txt.gz -o out.txt",
        "sentiment --files-from names -o out.txt.bz2",
    ],
)
def test_all_formats_are_continued(cli: Cli, words: str, every: int, ending: str) -> None:
    write_files()
    model = f"test:fail?every={every}&unless=fixed"
    job = [*words.split(), "-q", "--resume", "-m", model]
    expected = whole(cli, *job)
    cli(*job, ending)
    Path("fixed").touch()
    assert cli(*job).code in (0, 1)
    output = Path(job[job.index("-o") + 1])
    assert output.read_bytes() == expected


@pytest.mark.parametrize("name", ["odd.jsonl", "in.csv", "in.txt"])
@pytest.mark.parametrize("ending", ["--fail-fast", "--verbose"], ids=["incomplete", "complete"])
@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("output_format", ["jsonl", "csv"])
def test_pipelines_are_continued(cli: Cli, name: str, every: int, output_format: str, ending: str) -> None:
    write_files()
    pipeline = (
        f"sentiment model=test:echo | filter sentiment.score > 0.6 "
        f"| translate to=fr model=test:fail?every={every}&unless=fixed | select text, translation"
    )
    job = ["pipe", pipeline, name, "-q", "-O", output_format, "-o", "out", "--resume"]
    expected = whole(cli, *job)
    cli(*job, ending)
    Path("fixed").touch()
    assert cli(*job).code in (0, 1)
    assert Path("out").read_bytes() == expected


@pytest.mark.parametrize(("data", "expected"), [("", ""), ("\n\n", "\n\n")])
def test_empty_inputs(cli: Cli, data: str, expected: str) -> None:
    Path("in.txt").write_text(data)
    assert cli(*JOB) == Ended(0, "", "")
    assert OUT.read_text() == expected
    assert not STATE.exists()


def test_an_empty_table_has_the_header_that_it_has_without_resume(cli: Cli) -> None:
    for data in ("", "id,text\n"):
        Path("in.csv").write_text(data)
        argv = ["sentiment", "-m", "test:echo", "in.csv", "-o"]
        cli(*argv, "plain.csv")
        assert cli(*argv, "out.csv", "--resume") == Ended(0, "", "")
        assert Path("out.csv").read_bytes() == Path("plain.csv").read_bytes()


def test_standard_input_is_continued_if_it_begins_the_same(cli: Cli) -> None:
    job = ["sentiment", "-m", FAIL, "-o", "out.txt", "--resume"]
    data = LINES.encode()
    expected = whole(cli, *job, stdin=data + b"more\n")
    begin(cli, *job, stdin=data)
    assert cli(*job, stdin=data + b"more\n") == Ended(0, "", "")
    assert OUT.read_bytes() == expected


@pytest.mark.parametrize("data", [b"Line 1\nLine 2!\nLine 3\nLine 4\n", b"Line 1\nLine 2\n", b""])
def test_standard_input_is_refused_if_it_begins_otherwise(cli: Cli, data: bytes) -> None:
    job = ["sentiment", "-m", FAIL, "-o", "out.txt", "--resume"]
    begin(cli, *job, stdin=LINES.encode())
    assert cli(*job, stdin=data) == Ended(
        73,
        "",
        "lmcli: the input does not begin with the 3 records that out.txt was made of\n"
        f"       give it the same input, or delete {STATE.absolute()} to begin anew\n",
    )
    assert cli(*job, stdin=LINES.encode()) == Ended(0, "", "")


def test_an_output_behind_a_link_is_continued_beside_its_target(cli: Cli) -> None:
    Path("real").mkdir()
    OUT.symlink_to("real/out")
    begin(cli, *JOB)
    assert Path("real/out.lmcli").exists()
    assert cli(*JOB) == Ended(0, "", "")
    assert OUT.is_symlink()
    assert os.listdir("real") == ["out"]  # noqa: PTH208


def test_what_is_unfinished_is_as_private_as_the_old_file(cli: Cli) -> None:
    OUT.touch()
    OUT.chmod(0o600)
    begin(cli, *JOB)
    modes = {stat.S_IMODE((STATE / name).stat().st_mode) for name in ("part", "journal", "job.json")}
    assert modes == {0o600}
    assert cli(*JOB).code == 0
    assert stat.S_IMODE(OUT.stat().st_mode) == 0o600


# What is retried.


def test_records_that_failed_are_retried_when_the_output_is_complete(cli: Cli) -> None:
    expected = whole(cli, *JOB)
    ended = cli(*JOB)
    assert (ended.code, ended.err.count("\n")) == (1, 2)
    assert OUT.read_text().splitlines()[2] == ""
    assert cli(*JOB) == ended
    Path("fixed").touch()
    assert cli(*JOB, "--verbose").err.splitlines()[0] == "lmcli: 5 records are done already"
    assert OUT.read_bytes() == expected
    assert not STATE.exists()


def test_a_complete_output_with_failures_takes_no_more_records(cli: Cli) -> None:
    job = ["sentiment", "-m", FAIL, "-o", "out.txt", "--resume"]
    assert cli(*job, stdin=LINES.encode()).code == 1
    before = OUT.read_bytes()
    assert cli(*job, stdin=LINES.encode() + b"more\n") == Ended(
        73,
        "",
        "lmcli: the input has more than the 7 records that out.txt was made of, and that is complete but for "
        "those that failed\n"
        f"       give it the same input, or delete {STATE.absolute()} to begin anew\n",
    )
    assert OUT.read_bytes() == before
    Path("fixed").touch()
    assert cli(*job, stdin=LINES.encode()) == Ended(0, "", "")


def test_the_log_has_what_fails_still(cli: Cli) -> None:
    Path("in.txt").write_bytes(LINES.encode() + b"\xff\n")

    def logged() -> list[int]:
        assert cli(*JOB, "-q", "--errors", "log") == Ended(1, "", "")
        return [json.loads(line)["line"] for line in Path("log").read_text().splitlines()]

    assert [logged(), logged()] == [[3, 6, 8]] * 2
    Path("fixed").touch()
    assert [logged(), logged()] == [[8]] * 2


def test_an_output_with_failures_and_another_input_begins_anew(cli: Cli) -> None:
    assert cli(*JOB).code == 1
    Path("in.txt").write_text("Other\n")
    assert cli(*JOB) == Ended(0, "", "")
    assert OUT.read_text().endswith("\tOther\n")
    assert not STATE.exists()


def test_an_output_with_failures_that_has_changed_since_begins_anew(cli: Cli) -> None:
    expected = whole(cli, *JOB)
    assert cli(*JOB).code == 1
    OUT.write_text("by hand\n")
    Path("fixed").touch()
    assert cli(*JOB) == Ended(0, "", "")
    assert OUT.read_bytes() == expected


def test_a_plain_run_may_replace_an_output_with_failures(cli: Cli) -> None:
    assert cli(*JOB).code == 1
    plain = [word for word in JOB if word != "--resume"]
    Path("fixed").touch()
    assert cli(*plain) == Ended(0, "", "")
    assert cli(*JOB) == Ended(0, "", "")
    assert not STATE.exists()


def test_a_complete_run_begins_anew(cli: Cli) -> None:
    Path("fixed").touch()
    for text in ("one\n", "two\n"):
        Path("in.txt").write_text(text)
        assert cli(*JOB) == Ended(0, "", "")
        assert OUT.read_text().endswith(f"\t{text}")


# What is refused.


def write(name: str, text: str) -> Callable[[], object]:
    return partial(Path(name).write_text, text)


@pytest.mark.parametrize(
    ("before", "after", "change", "difference"),
    [
        (JOB, JOB, write("in.txt", LINES.replace("7", "8")), "inputs.0.sha256 was "),
        (
            JOB,
            JOB,
            write("in.txt", LINES + "more\n"),
            "inputs.0.size was 49, is now 54; inputs.0.sha256 was ",
        ),
        (JOB, (*JOB, "other.txt"), None, "inputs.1 was not there, is now "),
        ((*JOB, "other.txt"), JOB, None, 'inputs.1 was {"name": "other.txt", "size": 4, '),
        (
            (*JOB, "other.txt"),
            (*JOB[:3], "other.txt", *JOB[4:], "in.txt"),
            None,
            'inputs.0.name was "in.txt", is now "other.txt"; inputs.0.size was 49, is now 4; ',
        ),
        (JOB, (*JOB, "--threshold", 0.7), None, "stages.0.options.threshold was 0.5, is now 0.7"),
        (JOB, (*JOB, "--all-scores"), None, "stages.0.options.all_scores was false, is now true"),
        (JOB, (*JOB, "--as", "mood"), None, "mood"),
        (JOB, ("ner", *JOB[1:]), None, 'stages.0.command was "sentiment", is now "ner"'),
        (JOB, (*JOB, "-m", "test:echo"), None, f'stages.0.model was "{FAIL}", is now "test:echo"'),
        (JOB, (*JOB, "-O", "jsonl"), None, 'writing.format was "text", is now "jsonl"'),
        (JOB, (*JOB, "--by", "para"), None, 'reading.by was "line", is now "para"'),
        (JOB, (*JOB, "--encoding", "latin-1"), None, 'reading.encoding was null, is now "latin-1"'),
        (
            ("sentiment", "-m", FAIL, "two.jsonl", "-o", "out.txt", "--resume"),
            ("sentiment", "-m", FAIL, "two.jsonl", "-o", "out.txt", "--resume", "--field", "body"),
            None,
            'reading.field was "text", is now "body"',
        ),
        (
            ("prompt", "--template", "ask.txt", *JOB[1:]),
            ("prompt", "--template", "ask.txt", *JOB[1:]),
            write("ask.txt", "Say {text}!"),
            'stages.0.options.template.literals.1 was "", is now "!"',
        ),
        (
            ("pipe", f"filter text != 'x' | sentiment model={FAIL}", *JOB[3:]),
            ("pipe", f"filter text != 'y' | sentiment model={FAIL}", *JOB[3:]),
            None,
            "stages.0.says was \"text != 'x'\", is now \"text != 'y'\"",
        ),
    ],
    ids=[
        "content",
        "size",
        "one more input",
        "one input less",
        "order",
        "option",
        "switch",
        "field name",
        "command",
        "model",
        "output format",
        "records",
        "encoding",
        "field",
        "template",
        "expression",
    ],
)
def test_another_job_is_refused(
    cli: Cli,
    before: tuple[object, ...],
    after: tuple[object, ...],
    change: Callable[[], object] | None,
    difference: str,
) -> None:
    Path("other.txt").write_text("one\n")
    Path("ask.txt").write_text("Say {text}")
    Path("two.jsonl").write_text('{"text":"a","body":"b"}\n' * 4)
    begin(cli, *before)
    names = {path.name: path.read_bytes() for path in STATE.iterdir()}
    if change is not None:
        change()
    ended = cli(*after)
    assert (ended.code, ended.out) == (73, "")
    message, hint = ended.err.splitlines()
    assert message.startswith(f"lmcli: {STATE.absolute()} holds an unfinished job that is not this one: ")
    assert difference in message
    assert hint == "       finish that job with its own options, or delete the folder to begin anew"
    assert {path.name: path.read_bytes() for path in STATE.iterdir()} == names


def test_another_version_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(cli, *JOB)
    monkeypatch.setattr(staging, "__version__", "9.9")
    ended = cli(*JOB)
    assert ended.code == 73
    assert 'versions.lmcli was "0.1.0", is now "9.9"' in ended.err


def begin_with_a_bundle(cli: Cli) -> list[str]:
    """A run that ended early because of a word that its tokenizer refuses; how to continue it."""
    tokenizer = tiny.word_level(tiny.MOOD_WEIGHTS, refuses_unknown=True)
    tiny.write_sentiment(Path("moods"), tokenizer=tokenizer)
    Path("in.txt").write_text("good\ngrief\nbad\n")
    job = ["sentiment", "-m", "./moods", "in.txt", "-o", "out.txt", "--resume"]
    assert cli(*job, "--fail-fast").code == 65
    return job


def test_another_model_of_the_same_name_is_refused(cli: Cli) -> None:
    job = begin_with_a_bundle(cli)
    shutil.rmtree("moods")
    tiny.write_sentiment(Path("moods"), {"good": (1, 0)})
    ended = cli(*job)
    assert ended.code == 73
    assert "stages.0.model.sha256 was " in ended.err


def test_another_runtime_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    job = begin_with_a_bundle(cli)
    monkeypatch.setattr("lmcli.engine.session.kernels", lambda: ("9.9", "a processor"))
    ended = cli(*job)
    assert ended.code == 73
    assert 'versions.onnxruntime was "' in ended.err
    assert ', is now "9.9"; versions.processor.0 was "' in ended.err


@pytest.mark.parametrize(
    "options",
    [
        ["--threads", "1"],
        ["--device", "cpu"],
        ["--quiet"],
        ["--verbose"],
        ["--errors", "log"],
        ["--summary", "s.json"],
        ["--max-errors", "9"],
        ["--max-seconds", "60"],
        ["--lock-wait", "1"],
        ["--cache", "--cache-size", "1"],
        ["--log-format", "json"],
    ],
    ids=lambda options: options[0],
)
def test_what_does_not_change_the_output_may_change(cli: Cli, options: list[str]) -> None:
    expected = "POSITIVE\t0.7311\tgood\n\nNEGATIVE\t0.7311\tbad\n"
    job = begin_with_a_bundle(cli)
    assert cli(*job, *options).code == 1
    assert OUT.read_text() == expected


def test_a_plain_run_beside_an_unfinished_one_is_refused(cli: Cli) -> None:
    begin(cli, *JOB)
    plain = [word for word in JOB if word != "--resume"]
    assert cli(*plain) == Ended(
        73,
        "",
        f"lmcli: an unfinished run of out.txt is kept in {STATE.absolute()}\n"
        "       --resume continues it; delete that folder to begin anew\n",
    )
    assert not OUT.exists()
    assert cli(*JOB) == Ended(0, "", "")


@pytest.mark.parametrize(
    "options", [[], ["-o", "-"], ["-o", "/dev/stdout"], ["-o", "fifo"], ["-o", "/dev/null"]]
)
@pytest.mark.parametrize("option", [["--resume"], ["--lock-wait", "1"]], ids=lambda option: option[0])
def test_only_a_file_can_be_continued_or_locked(cli: Cli, options: list[str], option: list[str]) -> None:
    os.mkfifo("fifo")
    assert cli("sentiment", "-m", FAIL, "in.txt", *options, *option) == Ended(
        2, "", f"lmcli: {option[0]} is for a file\n       name it with --output\n"
    )


def test_an_input_is_not_replaced_even_by_force(cli: Cli) -> None:
    """The input would be another one for the run that continues."""
    job = ["sentiment", "-m", FAIL, "in.txt", "-o", "in.txt", "--force", "--resume"]
    assert cli(*job) == Ended(73, "", "lmcli: in.txt is also an input\n       write to another file\n")
    assert Path("in.txt").read_text() == LINES


def test_the_state_of_another_version_is_refused(cli: Cli) -> None:
    begin(cli, *JOB)
    document = json.loads((STATE / "job.json").read_bytes())
    (STATE / "job.json").write_text(json.dumps({**document, "format": 99}))
    ended = cli(*JOB)
    assert ended.code == 73
    assert "its job.json is missing, damaged or of another version of lmcli" in ended.err


# What is told.


def test_a_run_in_pieces_has_the_summary_of_one(cli: Cli) -> None:
    def summary(name: str) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(Path(name).read_bytes())
        for key in ("started", "seconds", "records_per_second", "resumed_at", "output"):
            del document[key]
        return document

    pipeline = f"sentiment model=test:echo | filter sentiment.score > 0.6 | ner model={FAIL}"
    job = ["pipe", pipeline, "in.jsonl", "-o", "out.txt", "--resume", "--summary"]
    whole(cli, *job, "one.json")
    begin(cli, *job, "s.json")
    Path("fixed").unlink()
    assert cli(*job, "s.json").code == 1
    Path("fixed").touch()
    assert cli(*job, "s.json") == Ended(0, "", "")
    assert summary("s.json") == summary("one.json")


def test_a_folder_that_somebody_else_made_is_left_alone(cli: Cli) -> None:
    STATE.mkdir()
    (STATE / "notes").write_text("mine\n")
    Path("fixed").touch()
    assert cli(*JOB) == Ended(0, "", "")
    assert [path.name for path in STATE.iterdir()] == ["notes"]
