"""`lmcli prompt` with a tiny model that shouts what it is asked."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from lmcli.bundle.store import read_bundle
from lmcli.cli import app
from tests import tiny, tiny_causal, tiny_embedder
from tests.cli.commands import TIMEOUT, Ended, Stdin, on_terminal, run, start
from tests.cli.conftest import Cli


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_causal.write_causal(tmp_path_factory.mktemp("bundles") / "shouts")


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that shows when its model is loaded: it cannot be."""
    path = tiny_causal.write_causal(tmp_path_factory.mktemp("bundles") / "broken")
    manifest = read_bundle(path).manifest
    (path / "model.onnx").write_bytes(b"no graph")
    tiny.write_manifest(path, manifest)
    return path


@pytest.fixture
def moods() -> Path:
    """A file of examples."""
    path = Path("moods.tsv")
    path.write_text("text\tlabel\nfine\tgood\nsad\tbad\n")
    return path


@pytest.mark.parametrize(
    ("options", "stdin", "out"),
    [
        ([], "one\n\ntwo\n", "ONE\n\nTWO\n"),
        (["--template", "say {text}"], "a\n", "SAY A\n"),
        (["--template", "{{{text}}}\n"], "a\n", "{A}\n"),
        (["--by", "doc"], "a\nb\n", "A\nB\n"),
        (["--by", "para"], "a\nb\n\nc\n", "A\nB\n\nC\n"),
        (["--scores"], "a\n", "-0.0550\tA\n"),
        (["--nbest", "2"], "a\n", "1\t-0.0550\tA\n1\t-1.5550\ta\n"),
        (["--stop", "X", "--stop", "B"], "a b c\n", "A\n"),
        (["--raw"], "abc\n", "defghijklmnopqrstuvwxyz\n"),
        (["-O", "jsonl", "--as", "said"], "a\n", '{"text":"a","said":"A"}\n'),
        (["-O", "tsv"], "a\n", "text\tanswer\tanswer_flags\na\tA\t\n"),
        (["--choices", "GOOD, BAD"], "good\nx\n", "GOOD\t1.0000\tgood\nBAD\t0.9985\tx\n"),
        (
            ["--choices", "good,bad", "--normalize", "mean"],
            "good\nx\n",
            "good\t0.9975\tgood\ngood\t0.6543\tx\n",
        ),
        (["--extract", "[A-Z]"], "ab 1\n", "B\n"),
        (["-I", "tsv", "--template", "{q}-{n}"], "n\tq\n1\ta\n", "n\tq\tanswer\tanswer_flags\n1\ta\tA-1\t\n"),
        (
            ["-I", "jsonl", "--template", "{q.a} {n}"],
            '{"q": {"a": "x"}, "n": 2}\n',
            '{"q": {"a": "x"}, "n": 2,"answer":"X 2"}\n',
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_prompt(cli: Cli, bundle: Path, options: list[str], stdin: str, out: str) -> None:
    assert cli("prompt", "-m", bundle, *options, stdin=stdin.encode()) == Ended(0, out, "")


def test_prompt_as_a_process(bundle: Path) -> None:
    assert run("prompt", "-m", bundle, stdin=b"one\n\ntwo\n") == Ended(0, "ONE\n\nTWO\n", "")


def test_a_slow_producer_gets_each_answer_at_once(bundle: Path) -> None:
    with start("prompt", "-m", bundle) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line, answer in ((b"one\n", b"ONE\n"), (b"two\n", b"TWO\n")):
            process.stdin.write(line)
            assert process.stdout.readline() == answer
        process.stdin.close()
        assert (process.wait(TIMEOUT), process.stdout.read()) == (0, b"")


def test_a_killed_run_leaves_whole_lines(tmp_path: Path) -> None:
    """It is stopped in the middle of an answer that would take minutes."""
    path = tiny_causal.write_causal(tmp_path / "wide", context_length=1 << 19)
    with start("prompt", "-m", path, "--max-new-tokens", 1 << 18) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"one\n")
        assert process.stdout.readline() == b"ONE\n"
        process.stdin.write(b"two\n^\nthree\n")
        time.sleep(0.5)
        sent = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, err) == (-signal.SIGINT, b"")
    assert out in (b"", b"TWO\n")
    assert time.monotonic() - sent < 2


def test_an_empty_input_has_no_answers(cli: Cli, bundle: Path) -> None:
    Path("empty.txt").touch()
    assert cli("prompt", "-m", bundle, "empty.txt") == Ended(0, "", "")
    assert cli("prompt", "-m", bundle, "--by", "doc", "empty.txt") == Ended(0, "\n", "")


def test_texts_and_answers_from_files(cli: Cli, bundle: Path) -> None:
    Path("ask.txt").write_text("Q: {text}\n")
    Path("system.txt").write_text("Be kind.\n")
    Path("answers.txt").write_text("GOOD\nBAD\n")
    options = ["--template", "ask.txt", "--system", "system.txt"]
    for choices in ("answers.txt", "@answers.txt"):
        ended = cli("prompt", "-m", bundle, *options, "--choices", choices, stdin=b"x\n")
        assert ended == Ended(0, "BAD\t0.9999\tx\n", "")
    shown = cli("prompt", "-m", bundle, *options, "--show-prompt", 1, stdin=b"x\n").out
    assert shown.partition("\n")[2] == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nQ: x<|im_end|>\n<|im_start|>assistant\n\n"
    )


def test_examples_come_before_the_question(cli: Cli, bundle: Path, moods: Path) -> None:
    Path("in.jsonl").write_text('{"body": "hm"}\n')
    ended = cli("prompt", "-m", bundle, "--examples", moods, "-k", 1, "--template", "{body}", "in.jsonl")
    assert (ended.code, ended.err.splitlines()[0]) == (
        65,
        "lmcli: moods.tsv:2: no field 'body'; there are 'text', 'label'",
    )
    ended = cli("prompt", "-m", bundle, "--examples", moods, "--field", "body", "--raw", "in.jsonl")
    assert ended == Ended(0, '{"body": "hm","answer":"nopqrstuvwxyz"}\n', "")


@pytest.mark.parametrize(
    ("options", "shots"),
    [
        ([], ["fine", "sad"]),
        (["-k", "1"], ["fine"]),
        (["-k", "0"], []),
        (["-k", "1", "--select", "bm25"], ["sad"]),
        (["-k", "1", "--select", "random", "--seed", "3"], ["sad"]),
        (["-k", "1", "--select", "random", "--seed", "5"], ["fine"]),
        (["--select", "balanced", "--seed", "0"], ["fine", "sad"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_which_examples(cli: Cli, bundle: Path, moods: Path, options: list[str], shots: list[str]) -> None:
    options = ["-m", str(bundle), "--examples", str(moods), *options]
    assert cli("prompt", *options, stdin=b"so sad\n") == Ended(0, "SO SAD\n", "")
    shown = cli("prompt", *options, "--show-prompt", 1, stdin=b"so sad\n").out
    users = [turn.partition("<|im_end|>")[0] for turn in shown.split("<|im_start|>user\n")[1:]]
    assert users == [*shots, "so sad"]


def test_prompts_are_shown_without_loading_a_model(cli: Cli, broken: Path, moods: Path) -> None:
    options = ["--examples", moods, "-k", 1, "--raw", "--show-prompt", 2]
    ended = cli("prompt", "-m", broken, *options, stdin=b"<s>x\nb\nc\n")
    assert ended == Ended(
        0, "=== -:1, 16 tokens\nfine good\n\n<s>x\n=== -:2, 13 tokens\nfine good\n\nb\n", ""
    )
    as_json = cli("prompt", "-m", broken, "--show-prompt", 1, "-O", "jsonl", "--raw", stdin=b"a\n")
    assert as_json.out == '{"text":"a","answer_prompt":"a","answer_tokens":2}\n'
    assert cli("prompt", "-m", broken, stdin=b"a\n").code == 76


def test_a_blank_record_has_no_prompt_to_show(cli: Cli, broken: Path) -> None:
    options = ["-m", broken, "--raw", "--show-prompt", 2]
    ended = cli("prompt", *options, stdin=b"\na\n")
    assert ended == Ended(0, "=== -:1, blank: nothing is asked\n=== -:2, 2 tokens\na\n", "")


def test_accuracy_is_reported(cli: Cli, bundle: Path) -> None:
    Path("in.tsv").write_text("text\tlabel\ngood\tGood\nx\tgood\ny\tbad\n")
    options = ["--choices", "GOOD,BAD", "--gold", "label", "--summary", "summary.json", "-O", "text"]
    ended = cli("prompt", "-m", bundle, *options, "in.tsv")
    assert (ended.code, ended.err) == (
        0,
        "lmcli: accuracy 0.6667 (2 of 3), 95 % interval 0.2077 to 0.9385; always 'Good' would be 0.6667\n",
    )
    summary = json.loads(Path("summary.json").read_text())
    assert (summary["schema_version"], summary["records"]) == (1, 3)
    assert summary["stages"][0]["gold"]["correct"] == 2
    quiet = cli("prompt", "-q", "-m", bundle, *options, "in.tsv")
    assert (quiet.out, quiet.err) == (ended.out, "")


def test_the_summary_is_written_if_records_failed(cli: Cli, bundle: Path) -> None:
    given = b'{"text": "a", "right": "a"}\n{"text": "b"}\n'
    options = ["-I", "jsonl", "--gold", "right", "--summary", "summary.json"]
    ended = cli("prompt", "-m", bundle, *options, stdin=given)
    assert ended.code == 1
    assert json.loads(ended.out.splitlines()[1])["error"]["code"] == "missing_field"
    summary = json.loads(Path("summary.json").read_text())
    assert (summary["failed"], summary["stages"][0]["gold"]["accuracy"]) == (1, 1.0)


@pytest.mark.parametrize("suffix", ["", "_flags", "_dropped", "_votes", "_trace"])
def test_no_field_comes_twice(cli: Cli, bundle: Path, suffix: str) -> None:
    given = json.dumps({"text": "a", f"answer{suffix}": 1}).encode()
    options = ["-I", "jsonl", "--samples", "2", "--strategy", "cot"]
    ended = cli("prompt", "-m", bundle, *options, stdin=given)
    assert json.loads(ended.out)["error"]["code"] == "field_exists"


def test_samples_are_the_same_every_time(cli: Cli, bundle: Path) -> None:
    options = ["--samples", "5", "--temperature", "9", "--max-new-tokens", "4", "-O", "jsonl", "--seed"]
    first, again, other = (
        cli("prompt", "-m", bundle, *options, seed, stdin=b"what?\n").out for seed in (1, 1, 2)
    )
    assert first == again != other
    assert sum(json.loads(first)["answer_votes"].values()) == 5


NO_UTF_8 = "'utf-8' codec can't decode byte 0xe9 in position 3: unexpected end of data"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--template", "{text"], "template, line 1, column 1: a '{' that belongs to no field"),
        (["--template", "{body}"], "no field 'body' in the input; there are 'text'"),
        (["--gold", "label"], "no field 'label' in the input; there are 'text'"),
        (["--template", "hello"], "the template names no field"),
        (["--choices", "a"], "--choices needs two answers or more"),
        (["--choices", " "], "--choices names no answer"),
        (["--choices", "a,b,"], "--choices has an empty answer"),
        (["--choices", "latin.txt"], f"cannot read latin.txt: {NO_UTF_8}"),
        (["--system", "latin.txt"], f"cannot read latin.txt: {NO_UTF_8}"),
        (["--gold", "answer"], "--gold answer is also what the answer is added as"),
        (["--samples", "2", "--scores"], "--samples and --scores exclude each other"),
        (["--samples", "2", "--num-beams", "2"], "--samples and --num-beams exclude each other"),
        (["--examples", "-", "--examples-format", "tsv"], "standard input (-) can be read only once"),
        (["--choices", "@none.txt"], "cannot read none.txt: No such file or directory"),
        (
            ["--extract", "("],
            "--extract: not a regular expression: missing ), unterminated subpattern at position 0",
        ),
        (["--strategy", "magic"], "there is no strategy 'magic'"),
        (["--shots", "2"], "--shots is for examples"),
        (["--select", "first"], "--select is for examples"),
        (["--answer", "label"], "--answer is for examples"),
        (["--embedder", "e"], "--embedder is for examples"),
        (["--examples", "moods.tsv", "--embedder", "e"], "--embedder is for --select similar"),
        (["--examples", "moods.tsv", "-k", "3"], "--shots 3: moods.tsv has 2 examples"),
        (
            ["--examples", "moods.tsv", "--strategy", "last-letter"],
            "--examples is for strategies of one step",
        ),
        (["--seed", "1"], "--seed is for sampling and for random examples"),
        (["--temperature", "1"], "--temperature is for sampling"),
        (["--sample", "--top-p", "0"], "--top-p is 0.0"),
        (["--sample", "--min-p", "1"], "--min-p is 1.0"),
        (["--max-new-tokens", "512"], "--max-new-tokens 512: the model's context has 512 tokens"),
        (["--as", "error"], "--as 'error': records have or need that field"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_use(cli: Cli, broken: Path, moods: Path, options: list[str], message: str) -> None:
    """It is found before a model is loaded."""
    assert moods.exists()
    Path("latin.txt").write_bytes(b"caf\xe9")
    ended = cli("prompt", "-m", broken, *options, stdin=b"a\n")
    assert (ended.code, ended.out, ended.err.splitlines()[0]) == (2, "", f"lmcli: {message}")


def test_columns_are_checked_before_a_model_is_loaded(cli: Cli, bundle: Path, broken: Path) -> None:
    Path("in.csv").write_text("q,a\nx,y\n")
    ended = cli("prompt", "-m", broken, "--template", "{q} {b}", "in.csv")
    assert (ended.code, ended.err.splitlines()[0]) == (
        2,
        "lmcli: no field 'b' in the input; there are 'text', 'q', 'a'",
    )
    assert cli("prompt", "-m", bundle, "--template", "{q} {a}", "in.csv").out.endswith("x,y,X Y,\n")


def test_missing_fields_fail_their_record(cli: Cli, bundle: Path) -> None:
    given = b"q\ta\nx\ty\n"
    ended = cli("prompt", "-m", bundle, "-I", "tsv", "--template", "{q} {b}", stdin=given)
    assert (ended.code, ended.out) == (1, "q\ta\tanswer\tanswer_flags\nx\ty\t\t\n")
    assert "no field 'b'; there are 'text', 'q', 'a'" in ended.err


def test_a_summary_that_cannot_be_written(cli: Cli, broken: Path) -> None:
    ended = cli("prompt", "-m", broken, "--summary", "none/summary.json", stdin=b"a\n")
    assert (ended.code, ended.err) == (
        73,
        "lmcli: cannot create none/summary.json: there is no such directory\n",
    )


def test_a_chat_template_without_a_system_role(cli: Cli, tmp_path: Path) -> None:
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    path = tiny_causal.write_causal(tmp_path / "gemma", chat_template=source + tiny_causal.CHATML)
    ended = cli("prompt", "-m", path, "--system", "Be kind.", stdin=b"a\n")
    assert ended == Ended(
        2,
        "",
        "lmcli: gemma: the chat template refuses it: No system\n       --raw leaves the chat template out\n",
    )
    assert cli("prompt", "-m", path, "--system", "Be kind.", "--raw", stdin=b"y\n").out == "z\n"


def test_a_broken_chat_template(cli: Cli, tmp_path: Path) -> None:
    path = tiny_causal.write_causal(tmp_path / "broken", chat_template="{% if %}")
    ended = cli("prompt", "-m", path, stdin=b"a\n")
    assert (ended.code, "not a chat template: syntax error" in ended.err) == (76, True)
    assert cli("prompt", "-m", path, "--raw", stdin=b"y\n").out == "z\n"


def test_a_bundle_for_another_command(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    path = tiny.write_sentiment(tmp_path / "moods")
    assert "lmcli sentiment" in cli("prompt", "-m", path, stdin=b"a\n").err
    assert "lmcli prompt" in cli("sentiment", "-m", bundle, stdin=b"a\n").err
    assert read_bundle(bundle).manifest.task == "text-generation"


def test_similar_examples(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    embedder = tiny_embedder.write_embedder(tmp_path / "words")
    Path("animals.csv").write_text("text,label\na cat,pet\na stock,thing\na dog,pet\n")
    options = ["--examples", "animals.csv", "--select", "similar", "-k", 2, "--embedder", embedder]
    assert cli("prompt", "-m", bundle, *options, stdin=b"my cat\n").out == "MY CAT\n"
    shown = cli("prompt", "-m", bundle, *options, "--show-prompt", 2, stdin=b"the stock\nmy cat\n").out
    seen = shown.split("===")[1:]
    shots = [[word for word in ("cat", "stock", "dog") if f"a {word}<" in prompt] for prompt in seen]
    assert shots == [["stock", "dog"], ["cat", "dog"]]
    assert seen[1].index("a dog<") < seen[1].index("a cat<")  # the nearest is the last


def test_files_of_text_may_be_pipes_and_have_a_byte_order_mark(cli: Cli, bundle: Path) -> None:
    Path("choices.txt").write_bytes(b"\xef\xbb\xbfgood\n\nbad\n")
    Path("template.txt").write_bytes(b"\xef\xbb\xbf{text}!\n")
    options = ["--template", "template.txt", "--choices", "choices.txt", "-O", "jsonl"]
    found = json.loads(cli("prompt", "-m", bundle, *options, stdin=b"x\n").out)
    assert sorted(found["answer_scores"]) == ["bad", "good"]
    os.mkfifo("pipe")
    with subprocess.Popen(["sh", "-c", "printf 'You are {x}.' > pipe"]):
        shown = cli("prompt", "-m", bundle, "--system", "pipe", "--show-prompt", 1, stdin=b"x\n")
    assert "You are {x}." in shown.out


def test_shown_prompts_are_no_job(cli: Cli, bundle: Path) -> None:
    ended = cli("prompt", "-m", bundle, "--show-prompt", 1, "-o", "out.txt", "--resume", stdin=b"x\n")
    assert ended == Ended(2, "", "lmcli: --show-prompt runs no model, so there is nothing to --resume\n")


def test_an_embedder_must_be_one(cli: Cli, bundle: Path, moods: Path) -> None:
    options = ["--examples", moods, "--select", "similar", "--embedder", bundle]
    ended = cli("prompt", "-m", bundle, *options, stdin=b"x\n")
    assert (ended.code, "not for feature-extraction" in ended.err) == (76, True)


def test_answers_come_token_by_token_on_a_terminal(monkeypatch: pytest.MonkeyPatch, bundle: Path) -> None:
    terminal = Screen()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stdin", Stdin(b"say \x1b it\n"))
    assert app.run(["prompt", "-m", str(bundle), "-q"]) == 0
    assert terminal.buffer.getvalue() == b"SAY \\x1b IT\n"
    assert terminal.buffer.num_writes > 3


def test_a_terminal_shows_in_the_end_what_a_pipe_gets(bundle: Path) -> None:
    Path("in.txt").write_text("one é\n\ntwo ^\n")
    argv = ["prompt", "-m", bundle, "-q", "--max-new-tokens", 8, "in.txt"]
    piped, shown = run(*argv), on_terminal(argv, "stdout", env=os.environ | {"TERM": "xterm"})
    assert piped == Ended(0, "ONE é\n\nTWO  la la la la\n", "")
    assert shown == Ended(0, piped.out.replace("\n", "\r\n"), "")


def test_a_terminal_of_another_encoding_gets_the_same_bytes(bundle: Path) -> None:
    Path("in.txt").write_text("one é\n")
    argv = ["prompt", "-m", bundle, "-q", "in.txt"]
    environment = os.environ | {"TERM": "xterm", "PYTHONIOENCODING": "ascii"}
    assert on_terminal(argv, "stdout", env=environment) == Ended(0, "ONE é\r\n", "")


class Screen(io.TextIOWrapper):
    """A terminal that remembers."""

    buffer: Pixels

    def __init__(self) -> None:
        super().__init__(Pixels(), encoding="utf-8", write_through=True)

    def isatty(self) -> bool:
        return True


class Pixels(io.BytesIO):
    num_writes = 0

    def write(self, data: Any) -> int:
        self.num_writes += 1
        return super().write(data)


@pytest.mark.parametrize(
    ("options", "stdin", "together"),
    [
        ([], b"one\n\n", True),
        ([], b"one\ntwo\n", True),
        ([], b"one\ntwo\nthree\n", False),
        (["--by", "doc"], b"one\ntwo\nthree\n", True),
        (["-I", "csv"], b"text\none\ntwo\n", True),
        (["-I", "csv"], b"text\none\ntwo\nthree\n", False),
        (["--samples", "3"], b"one\n", False),
        ([], gzip.compress(b"one\n"), False),
    ],
    ids=["blank", "two", "three", "doc", "table", "long table", "samples", "compressed"],
)
def test_few_records_are_worked_on_together(
    bundle: Path, options: list[str], stdin: bytes, *, together: bool
) -> None:
    command = ["prompt", "-m", bundle, "--threads", "4", *options]
    plain, told = run(*command, stdin=stdin), run(*command, "-v", stdin=stdin)
    assert plain.code == 0
    assert told.out == plain.out
    assert ("few records: 4 threads" in told.err) == together


def test_few_records_in_files_are_worked_on_together(cli: Cli, bundle: Path) -> None:
    for name in ("a.txt", "b.txt"):
        Path(name).write_text(f"{name}\n")
    said = [
        cli("prompt", "-m", bundle, "--threads", threads, "-v", "a.txt", "b.txt").err for threads in (2, 4)
    ]
    assert ["few records" in err for err in said] == [False, True]
