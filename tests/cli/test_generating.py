import json
from pathlib import Path

import pytest

from lmcli.bundle.store import read_bundle
from tests import tiny, tiny_causal, tiny_seq2seq
from tests.cli.commands import Ended, start
from tests.cli.conftest import Cli


@pytest.fixture(scope="module")
def beginnings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 24 characters of a text are its summary."""
    return tiny_seq2seq.write_summarizer(tmp_path_factory.mktemp("bundles") / "beginnings")


@pytest.fixture(scope="module")
def chatty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model that summarizes by the first 24 characters, with other cases; a row takes 128."""
    path = tmp_path_factory.mktemp("bundles") / "chatty"
    return tiny_causal.write_causal(path, str.swapcase, ends_after=24, context_length=256)


LOOKS = (
    "lmcli: 1 of 2 translations looks degenerate: 1 repetition, 1 length "
    "(see translation_flags in JSONL output)\n"
)


@pytest.mark.parametrize(
    ("options", "stdin", "out"),
    [
        ([], "One. Two.\n\n 12\n", "ONÉ. TWO.\n\n 12\n"),
        (["--by", "para"], "a\nb\n\n\nc", "A\nB\n\nC\n"),
        (["--by", "para", "--unwrap"], "a\nb\n\n\nc", "A B\n\nC\n"),
        (["--by", "doc"], "a\n\n b\n", "A\n\n B\n"),
        (["--by", "doc"], "", "\n"),
        (["--by", "doc", "--scores"], "12\n13", "\t12\\n13\n"),
        (["--by", "para", "-O", "jsonl"], "a\nb\n", '{"text":"a\\nb","translation":"A\\nB"}\n'),
        (["--by", "para", "-O", "nul"], "a\nb\n\nc\n", "A\nB\0C\0"),
        (["--by", "nul"], "a\nb\0c", "A\\nB\nC\n"),
        (["--nbest", "2"], "12\n\n34\n", "1\t\t12\n\n3\t\t34\n"),
        (["--no-split"], "One. Two.\n", "ONÉ. TWO.\n"),
        (["-O", "jsonl", "--as", "fr"], "a\n", '{"text":"a","fr":"A"}\n'),
        (["-O", "tsv"], "a\n\n", "text\ttranslation\ttranslation_flags\na\tA\t\n\t\t\n"),
        (["--to", "French"], "a\n", "A\n"),
        (["--from", "en", "--to", "fr"], "a\n", "A\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_translate(cli: Cli, capitals: Path, options: list[str], stdin: str, out: str) -> None:
    assert cli("translate", "-m", capitals, *options, stdin=stdin.encode()) == Ended(0, out, "")


@pytest.mark.parametrize(
    ("options", "out"),
    [
        ([], "HÉLLO\tURYYB\n"),
        (["--by", "para"], "HÉLLO\tURYYB\n"),
        (["-O", "jsonl"], '{"text":"Hello","translation":{"fr":"HÉLLO","de":"URYYB"}}\n'),
        (["-O", "csv"], "text,translation.fr,translation.de,translation_flags\nHello,HÉLLO,URYYB,\n"),
    ],
    ids=str,
)
def test_translate_into_several_languages(cli: Cli, polyglot: Path, options: list[str], out: str) -> None:
    assert cli("translate", "-m", polyglot, "--to", "fr, German", *options, stdin=b"Hello\n") == Ended(
        0, out, ""
    )


def test_documents_follow_one_another(cli: Cli, capitals: Path) -> None:
    Path("a.txt").write_text("one\n\n  two\n")
    Path("b.txt").write_bytes(b"\xff")
    Path("c.txt").write_text("three")
    ended = cli("translate", "-m", capitals, "--by", "doc", "-q", "a.txt", "b.txt", "c.txt")
    assert ended == Ended(1, "ONÉ\n\n  TWO\n\nTHRÉÉ\n", "")


def test_a_failed_paragraph_keeps_its_place(cli: Cli, capitals: Path) -> None:
    ended = cli("translate", "-m", capitals, "--by", "para", "-q", stdin=b"a\n\n\xff\n\nb\n")
    assert ended == Ended(1, "A\n\n\n\nB\n", "")


def test_scores_and_the_n_best(cli: Cli, capitals: Path) -> None:
    scored = cli("translate", "-m", capitals, "--scores", stdin=b"\tab\n").out
    score, text = scored.removesuffix("\n").split("\t", 1)
    assert (float(score) < 0, text) == (True, "\\tAB")
    ended = cli("translate", "-m", capitals, "--nbest", 2, "-O", "jsonl", stdin=b"ab\n")
    nbest = json.loads(ended.out)["translation_nbest"]
    assert [item["text"].casefold() for item in nbest] == ["ab", "ab"]
    assert nbest[0]["score"] > nbest[1]["score"]
    as_text = cli("translate", "-m", capitals, "--nbest", 2, stdin=b"ab\n").out
    assert as_text == "".join(f"1\t{item['score']:.4f}\t{item['text']}\n" for item in nbest)


def test_degenerate_translations_are_told_of(cli: Cli, capitals: Path) -> None:
    ended = cli("translate", "-m", capitals, "-O", "jsonl", stdin=b"fine\na ^\n")
    first, second = map(json.loads, ended.out.splitlines())
    assert (ended.code, ended.err) == (0, LOOKS)
    assert "translation_flags" not in first
    assert second["translation_flags"] == ["repetition", "length"]
    table = cli("translate", "-m", capitals, "-O", "tsv", "--quiet", stdin=b"a ^\n")
    assert table.err == ""
    assert table.out.endswith('\t["repetition","length"]\n')


def test_degenerate_translations_are_decoded_again(cli: Cli, capitals: Path) -> None:
    ended = cli("translate", "-m", capitals, "--retry-degenerate", stdin=b"Not a ^.\n")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("NOT A")


@pytest.mark.parametrize("field", ["translation", "translation_flags", "translation_score"])
def test_no_field_comes_twice(cli: Cli, capitals: Path, field: str) -> None:
    given = json.dumps({"text": "a", field: 1})
    ended = cli("translate", "-m", capitals, "-I", "jsonl", "--scores", stdin=given.encode())
    assert ended.code == 1
    assert json.loads(ended.out)["error"]["code"] == "field_exists"
    table = cli("translate", "-m", capitals, "-I", "csv", "--scores", stdin=f"text,{field}\na,b\n".encode())
    assert (table.code, table.out) == (65, "")
    assert table.err.startswith(f"lmcli: -: it has a column {field!r} already\n")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        (
            [],
            "--to is missing: the model has 3 languages to choose from",
            "--to fr, for example; there are de, fr, ru",
        ),
        (
            ["--to", "fr,es"],
            "--to 'es': the model has no such language",
            "it has de, fr, ru",
        ),
        (["--to", " ,"], "--to names no language", "separate several by commas: --to fr,de"),
        (
            ["--to", "fr", "--sample", "--num-beams", "2"],
            "--sample and --num-beams exclude each other",
            "choose one of the two",
        ),
        (
            ["--to", "fr", "--sample", "--top-p", "0"],
            "--top-p is 0.0",
            "it must be above 0, at most 1",
        ),
        (["--as", "text"], "--as 'text': records have or need that field", "choose another name"),
    ],
    ids=["missing", "unknown", "empty", "excluded", "meaningless", "field"],
)
def test_wrong_use(cli: Cli, polyglot: Path, options: list[str], message: str, hint: str) -> None:
    ended = cli("translate", "-m", polyglot, *options, stdin=b"a\n")
    assert ended == Ended(2, "", f"lmcli: {message}\n       {hint}\n")


def test_languages_are_checked_before_the_model_is_loaded(cli: Cli, tmp_path: Path) -> None:
    path = tiny_seq2seq.write_polyglot(tmp_path / "broken")
    manifest = read_bundle(path).manifest
    (path / "encoder.onnx").write_bytes(b"no graph")
    tiny.write_manifest(path, manifest)
    assert cli("translate", "-m", path, stdin=b"a\n").code == 2
    assert cli("translate", "-m", path, "--to", "fr", stdin=b"a\n").code == 76


def test_a_bundle_for_another_command(cli: Cli, capitals: Path, moods: Path) -> None:
    ended = cli("translate", "-m", moods, stdin=b"a\n")
    assert (ended.code, ended.out) == (76, "")
    assert f"`lmcli sentiment --model {moods}` runs it" in ended.err
    assert "`lmcli translate --model" in cli("summarize", "-m", capitals, stdin=b"a\n").err


@pytest.mark.parametrize(
    ("options", "stdin", "out"),
    [
        ([], "A text that is longer than its summary.\nShort.\n\n", "A text that is longer th\nShort.\n\n"),
        (["--by", "doc"], "A text that is\nlonger than\nthat.\n", "A text that is longer th\n"),
        (["--by", "para"], "Short,\nit is.\n\nShort.\n", "Short,\nit is.\n\nShort.\n"),
        (["-O", "jsonl", "--as", "s"], "Short.\n", '{"text":"Short.","s":"Short."}\n'),
        (["--length", "short", "--language", "German"], "A text that is longer.\n", "A text that is l\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_summarize(cli: Cli, beginnings: Path, options: list[str], stdin: str, out: str) -> None:
    ended = cli("summarize", "-m", beginnings, "--quiet", *options, stdin=stdin.encode())
    assert ended == Ended(0, out, "")


def test_verbose_tells_the_plan(cli: Cli, beginnings: Path) -> None:
    text = "The first sentence is here. And a second one follows it. A third one ends it all."
    Path("notes.txt").write_text(f"\n{text}\n")
    ended = cli("summarize", "-m", beginnings, "-v", "notes.txt")
    plan = "lmcli: notes.txt:2: 2 chunks of about 40 tokens, then one summary of their summaries\n"
    assert (ended.code, ended.out) == (0, "\nThe first sentence is he\n")
    assert plan in ended.err
    assert cli("summarize", "-m", beginnings, "notes.txt").err == ""


@pytest.mark.parametrize(
    ("options", "stdin", "out"),
    [
        ([], "A text that is longer than its summary.\nShort.\n\n", "a TEXT THAT IS LONGER TH\nShort.\n\n"),
        (["--by", "doc"], "A text that is\nlonger than\nthat.\n", "a TEXT THAT IS LONGER TH\n"),
        (["-O", "jsonl", "--as", "s"], "Short.\n", '{"text":"Short.","s":"Short."}\n'),
        (["--length", "short"], "A text that is longer than that.\n", "a TEXT THAT IS LONGER TH\n"),
        (["--max-new-tokens", "6"], "A text that is longer.\n", "a TEXT\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_summarize_with_a_language_model(
    cli: Cli, chatty: Path, options: list[str], stdin: str, out: str
) -> None:
    ended = cli("summarize", "-m", chatty, "--quiet", *options, stdin=stdin.encode())
    assert ended == Ended(0, out, "")


def test_a_language_model_takes_several_passes(cli: Cli, chatty: Path) -> None:
    text = "The first sentence is here. And a second one follows it. A third one comes, and then it ends."
    ended = cli("summarize", "-m", chatty, "-v", stdin=f"{text}\n".encode())
    assert (ended.code, ended.out) == (0, "The first sentence is he\n")
    assert "lmcli: -:1: 2 chunks of about 46 tokens, then one summary of their summaries\n" in ended.err


def test_what_cannot_be_asked_for_a_summary(cli: Cli, tmp_path: Path) -> None:
    path = tiny_causal.write_causal(tmp_path / "plain", chat_template=None)
    assert cli("summarize", "-m", path, stdin=b"a\n") == Ended(
        76,
        "",
        "lmcli: plain has no chat template: it continues texts and takes no instructions\n"
        "       --model names another one; `lmcli prompt --raw` has this one continue a text\n",
    )
    path = tiny_causal.write_causal(tmp_path / "mute", chat_template="{{ raise_exception('No') }}")
    ended = cli("summarize", "-m", path, stdin=b"a\n")
    assert ended == Ended(76, "", "lmcli: mute: the chat template refuses it: No\n")


def test_the_default_summarizer_can_be_got(cli: Cli) -> None:
    assert cli("summarize", stdin=b"a\n") == Ended(
        76,
        "",
        "lmcli: there is no bundle 'smollm2-135m-instruct'\n"
        "       `lmcli pull smollm2-135m-instruct` gets it (93 MB, Apache-2.0)\n",
    )


def test_length_and_limits_exclude_each_other(cli: Cli, beginnings: Path) -> None:
    ended = cli("summarize", "-m", beginnings, "--length", "short", "--max-new-tokens", 9, stdin=b"a\n")
    assert ended == Ended(
        2, "", "lmcli: --length and --max-new-tokens exclude each other\n       choose one of the two\n"
    )


def test_a_slow_producer_gets_each_translation_at_once(capitals: Path) -> None:
    with start("translate", "-m", capitals) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line, translation in ((b"one\n", "ONÉ\n"), (b"two\n", "TWO\n")):
            process.stdin.write(line)
            assert process.stdout.readline().decode() == translation
        process.stdin.close()
        assert (process.wait(), process.stdout.read()) == (0, b"")
