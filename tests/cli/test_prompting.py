"""`lmcli prompt` with a toy model that shouts what it is asked, in the place of a graph."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from lmcli.bundle import load
from lmcli.bundle.store import read_bundle
from lmcli.cli import app
from tests import tiny, tiny_embedder
from tests.cli.commands import Ended, Stdin
from tests.cli.conftest import Cli
from tests.prompting import toy
from tests.prompting.toy import ToyLoader


def likes_good(prompt: str, choice: str) -> float:
    """Bad is likelier, unless the question says good."""
    if choice.strip() == "bad":
        return -1.0
    return 1.0 if "good" in prompt.rpartition("user\n")[2] else -2.0


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> ToyLoader:
    """Loads toy models, and has the list of them."""
    loader = ToyLoader(taste=likes_good)
    monkeypatch.setattr(load, "load_causal", loader, raising=False)
    return loader


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return toy.write_bundle(tmp_path / "toy")


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
        (["--scores"], "a\n", "-0.5000\tA\n"),
        (["--nbest", "2"], "a\n", "1\t-0.5000\tA\n1\t-1.5000\tA\n"),
        (["--stop", "X", "--stop", "B"], "a b c\n", "A\n"),
        (["--raw"], "a\n", "A\n"),
        (["-O", "jsonl", "--as", "said"], "a\n", '{"text":"a","said":"A"}\n'),
        (["-O", "tsv"], "a\n", "text\tanswer\tanswer_flags\na\tA\t\n"),
        (["--choices", "good, bad"], "good\nx\n", "good\t0.8808\tgood\nbad\t0.7311\tx\n"),
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
def test_prompt(cli: Cli, bundle: Path, models: ToyLoader, options: list[str], stdin: str, out: str) -> None:
    assert cli("prompt", "-m", bundle, *options, stdin=stdin.encode()) == Ended(0, out, "")
    assert len(models.models) == 1


def test_texts_and_answers_from_files(cli: Cli, bundle: Path, models: ToyLoader) -> None:
    Path("ask.txt").write_text("Q: {text}\n")
    Path("system.txt").write_text("Be kind.\n")
    Path("answers.txt").write_text("good\nbad\n")
    options = ["--template", "ask.txt", "--system", "system.txt"]
    for choices in ("answers.txt", "@answers.txt"):
        ended = cli("prompt", "-m", bundle, *options, "--choices", choices, stdin=b"x\n")
        assert ended == Ended(0, "bad\t0.7311\tx\n", "")
    assert models.models[0].seen[0] == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nQ: x<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.usefixtures("models")
def test_examples_come_before_the_question(cli: Cli, bundle: Path, moods: Path) -> None:
    Path("in.jsonl").write_text('{"body": "hm"}\n')
    ended = cli("prompt", "-m", bundle, "--examples", moods, "-k", 1, "--template", "{body}", "in.jsonl")
    assert (ended.code, ended.err.splitlines()[0]) == (
        65,
        "lmcli: moods.tsv:2: no field 'body'; there are 'text', 'label'",
    )
    ended = cli("prompt", "-m", bundle, "--examples", moods, "--field", "body", "--raw", "in.jsonl")
    assert ended == Ended(0, '{"body": "hm","answer":"FINE GOOD\\n\\nSAD BAD\\n\\nHM"}\n', "")


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
def test_which_examples(
    cli: Cli, bundle: Path, models: ToyLoader, moods: Path, options: list[str], shots: list[str]
) -> None:
    ended = cli("prompt", "-m", bundle, "--examples", moods, *options, stdin=b"so sad\n")
    assert ended == Ended(0, "SO SAD\n", "")
    [seen] = models.models[0].seen
    users = [turn.partition(toy.END)[0] for turn in seen.split(f"{toy.BEGIN}user\n")[1:]]
    assert users == [*shots, "so sad"]


def test_prompts_are_shown_without_loading_a_model(
    cli: Cli, bundle: Path, models: ToyLoader, moods: Path
) -> None:
    options = ["--examples", moods, "-k", 1, "--raw", "--show-prompt", 2]
    ended = cli("prompt", "-m", bundle, *options, stdin=b"<s>x\nb\nc\n")
    assert ended == Ended(
        0, "=== -:1, 15 tokens\nfine good\n\n<s>x\n=== -:2, 12 tokens\nfine good\n\nb\n", ""
    )
    as_json = cli("prompt", "-m", bundle, "--show-prompt", 1, "-O", "jsonl", "--raw", stdin=b"a\n")
    assert as_json.out == '{"text":"a","answer_prompt":"a","answer_tokens":2}\n'
    assert models.models == []


@pytest.mark.usefixtures("models")
def test_accuracy_is_reported(cli: Cli, bundle: Path) -> None:
    Path("in.tsv").write_text("text\tlabel\ngood\tGood\nx\tgood\ny\tbad\n")
    options = ["--choices", "good,bad", "--gold", "label", "--summary", "summary.json", "-O", "text"]
    ended = cli("prompt", "-m", bundle, *options, "in.tsv")
    assert (ended.code, ended.err) == (
        0,
        "lmcli: accuracy 0.6667 (2 of 3), 95 % interval 0.2077 to 0.9385; always 'Good' would be 0.6667\n",
    )
    summary = json.loads(Path("summary.json").read_text())
    assert (summary["format"], summary["records"], summary["gold"]["correct"]) == (1, 3, 2)
    quiet = cli("prompt", "-q", "-m", bundle, *options, "in.tsv")
    assert (quiet.out, quiet.err) == (ended.out, "")


@pytest.mark.usefixtures("models")
def test_the_summary_is_written_if_records_failed(cli: Cli, bundle: Path) -> None:
    given = b'{"text": "a", "right": "a"}\n{"text": "b"}\n'
    options = ["-I", "jsonl", "--gold", "right", "--summary", "summary.json"]
    ended = cli("prompt", "-m", bundle, *options, stdin=given)
    assert ended.code == 1
    assert json.loads(ended.out.splitlines()[1])["error"]["code"] == "missing_field"
    summary = json.loads(Path("summary.json").read_text())
    assert (summary["failed"], summary["gold"]["accuracy"]) == (1, 1.0)


@pytest.mark.usefixtures("models")
@pytest.mark.parametrize("suffix", ["", "_flags", "_dropped", "_votes", "_trace"])
def test_no_field_comes_twice(cli: Cli, bundle: Path, suffix: str) -> None:
    given = json.dumps({"text": "a", f"answer{suffix}": 1}).encode()
    options = ["-I", "jsonl", "--samples", "2", "--strategy", "cot"]
    ended = cli("prompt", "-m", bundle, *options, stdin=given)
    assert json.loads(ended.out)["error"]["code"] == "field_exists"


def test_samples_are_the_same_every_time(cli: Cli, bundle: Path, models: ToyLoader) -> None:
    options = ["--samples", "5", "--temperature", "0.9", "--seed", "1", "-O", "jsonl"]
    first, second = (cli("prompt", "-m", bundle, *options, stdin=b"a ?\n") for _ in range(2))
    assert first == second
    config = models.models[0].config
    assert config is not None
    assert (config.do_sample, config.temperature, config.seed) == (True, 0.9, 1)
    assert sum(json.loads(first.out)["answer_votes"].values()) == 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--template", "{text"], "template, line 1, column 1: a '{' that belongs to no field"),
        (["--template", "{body}"], "no field 'body' in the input; there are 'text'"),
        (["--gold", "label"], "no field 'label' in the input; there are 'text'"),
        (["--template", "hello"], "the template names no field"),
        (["--choices", "a"], "--choices needs two answers or more"),
        (["--choices", " "], "--choices names no answer"),
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
def test_wrong_use(
    cli: Cli, bundle: Path, models: ToyLoader, moods: Path, options: list[str], message: str
) -> None:
    assert moods.exists()
    ended = cli("prompt", "-m", bundle, *options, stdin=b"a\n")
    assert (ended.code, ended.out, ended.err.splitlines()[0]) == (2, "", f"lmcli: {message}")
    assert models.models == []


def test_columns_are_checked_before_a_model_is_loaded(cli: Cli, bundle: Path, models: ToyLoader) -> None:
    Path("in.csv").write_text("q,a\n1,2\n")
    ended = cli("prompt", "-m", bundle, "--template", "{q} {b}", "in.csv")
    assert (ended.code, ended.err.splitlines()[0]) == (
        2,
        "lmcli: no field 'b' in the input; there are 'text', 'q', 'a'",
    )
    assert models.models == []
    assert cli("prompt", "-m", bundle, "--template", "{q} {a}", "in.csv").out.endswith("1,2,1 2,\n")


@pytest.mark.usefixtures("models")
def test_missing_fields_fail_their_record(cli: Cli, bundle: Path) -> None:
    given = b"q\ta\nx\ty\n"
    ended = cli("prompt", "-m", bundle, "-I", "tsv", "--template", "{q} {b}", stdin=given)
    assert (ended.code, ended.out) == (1, "q\ta\tanswer\tanswer_flags\nx\ty\t\t\n")
    assert "no field 'b'; there are 'text', 'q', 'a'" in ended.err


def test_a_summary_that_cannot_be_written(cli: Cli, bundle: Path, models: ToyLoader) -> None:
    ended = cli("prompt", "-m", bundle, "--summary", "none/summary.json", stdin=b"a\n")
    assert (ended.code, ended.err) == (
        73,
        "lmcli: cannot create none/summary.json: there is no such directory\n",
    )
    assert models.models == []


def test_a_chat_template_without_a_system_role(cli: Cli, tmp_path: Path, models: ToyLoader) -> None:
    source = "{% if messages[0].role == 'system' %}{{ raise_exception('No system') }}{% endif %}"
    path = toy.write_bundle(tmp_path / "gemma", chat_template=source + toy.CHATML)
    ended = cli("prompt", "-m", path, "--system", "Be kind.", stdin=b"a\n")
    assert ended == Ended(
        2,
        "",
        "lmcli: gemma: the chat template refuses it: No system\n       --raw leaves the chat template out\n",
    )
    assert models.models == []
    assert cli("prompt", "-m", path, "--system", "Be kind.", "--raw", stdin=b"a\n").code == 0


@pytest.mark.usefixtures("models")
def test_a_broken_chat_template(cli: Cli, tmp_path: Path) -> None:
    path = toy.write_bundle(tmp_path / "broken", chat_template="{% if %}")
    ended = cli("prompt", "-m", path, stdin=b"a\n")
    assert (ended.code, "not a chat template: syntax error" in ended.err) == (76, True)
    assert cli("prompt", "-m", path, "--raw", stdin=b"a\n").out == "A\n"


def test_a_bundle_for_another_command(cli: Cli, bundle: Path, tmp_path: Path) -> None:
    path = tiny.write_sentiment(tmp_path / "moods")
    assert "lmcli sentiment" in cli("prompt", "-m", path, stdin=b"a\n").err
    assert "lmcli prompt" in cli("sentiment", "-m", bundle, stdin=b"a\n").err
    assert read_bundle(bundle).manifest.task == "text-generation"


def test_similar_examples(cli: Cli, bundle: Path, models: ToyLoader, tmp_path: Path) -> None:
    embedder = tiny_embedder.write_embedder(tmp_path / "words")
    Path("animals.csv").write_text("text,label\na cat,pet\na stock,thing\na dog,pet\n")
    options = ["--examples", "animals.csv", "--select", "similar", "-k", 2, "--embedder", embedder]
    assert cli("prompt", "-m", bundle, *options, stdin=b"the stock\nmy cat\n").code == 0
    seen = models.models[0].seen
    shots = [[word for word in ("cat", "stock", "dog") if f"a {word}<" in prompt] for prompt in seen]
    assert shots == [["stock", "dog"], ["cat", "dog"]]
    assert seen[1].index("a dog<") < seen[1].index("a cat<")  # the nearest is the last


def test_an_embedder_must_be_one(cli: Cli, bundle: Path, models: ToyLoader, moods: Path) -> None:
    options = ["--examples", moods, "--select", "similar", "--embedder", bundle]
    ended = cli("prompt", "-m", bundle, *options, stdin=b"x\n")
    assert (ended.code, "not for feature-extraction" in ended.err, models.models) == (76, True, [])


def test_answers_come_token_by_token_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, bundle: Path, models: ToyLoader
) -> None:
    """What a person sees in the end is what a pipe gets."""
    terminal = Screen()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stdin", Stdin(b"say \x1b it\n"))
    assert app.run(["prompt", "-m", str(bundle), "-q"]) == 0
    assert len(models.models) == 1
    assert terminal.buffer.getvalue() == b"SAY \\x1b IT\n"
    assert terminal.num_writes > 3


class Screen(io.TextIOWrapper):
    """A terminal that remembers."""

    buffer: io.BytesIO

    def __init__(self) -> None:
        super().__init__(io.BytesIO(), encoding="utf-8", write_through=True)
        self.num_writes = 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.num_writes += 1
        return super().write(text)
