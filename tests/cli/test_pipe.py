"""`lmcli pipe`: the same bytes as separate commands, what goes wrong, and the options of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import tiny_causal, tiny_seq2seq
from tests.cli.commands import Ended
from tests.cli.conftest import Cli
from tests.tiny_embedder import write_embedder


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LMCLI_NO_CONFIG", raising=False)


class Part(NamedTuple):
    """A part of a pipeline, and the command that does the same."""

    text: str
    argv: tuple[str, ...]
    writes: str = ""
    """The field of its text, if the stages behind it read that."""


WRITES = {"translate": "translation", "summarize": "summary", "prompt": "answer"}


def stage(command: str, model: str = "test:echo", **options: str) -> Part:
    given = {"model": model, **{name.rstrip("_"): value for name, value in options.items()}}
    text = " ".join([command, *(f"{name}={value}" for name, value in given.items())])
    argv = [command, *(f"--{name}={value}" for name, value in given.items())]
    return Part(text, tuple(argv), given.get("as", WRITES[command]) if command in WRITES else "")


def step(text: str) -> Part:
    return Part(text, ("pipe", text))


SENTIMENT, NER, SUMMARIZE, PROMPT, EMBED = map(stage, ("sentiment", "ner", "summarize", "prompt", "embed"))
TRANSLATE = stage("translate", "test:grow?times=2")
STAGES = (SENTIMENT, NER, TRANSLATE, SUMMARIZE, PROMPT, EMBED)
EVERY_SECOND = stage("summarize", "test:fail?every=2")


def joined(parts: Sequence[Part]) -> str:
    return " | ".join(part.text for part in parts)


def ids(value: object) -> str:
    return joined(value) if isinstance(value, (list, tuple)) and value and isinstance(value[0], Part) else ""


def separate(cli: Cli, parts: Sequence[Part], *argv: object, field: str = "") -> Ended:
    """Each part as a command of its own; JSON Lines between them."""
    ended: Ended | None = None
    for part in parts:
        reads = ["--field", field] if field and part.argv[0] != "pipe" else []
        if ended is None:
            ended = cli(*part.argv, *reads, *argv, "-O", "jsonl")
        else:
            ended = cli(*part.argv, "-I", "jsonl", *reads, stdin=ended.out.encode())
        field = part.writes or field
    assert ended is not None
    return ended


def without_place(line: str) -> Any:
    """An object, less where its error says that it comes from."""
    value = json.loads(line)
    for key in ("source", "line"):
        if isinstance(value.get("error"), dict):
            value["error"].pop(key, None)
    return value


def check_equal(cli: Cli, parts: Sequence[Part], *argv: object, field: str = "") -> list[str]:
    """Both ways give the same bytes, but for the place of an error that is not the first part's."""
    reads = ["--field", field] if field else []
    together = cli("pipe", joined(parts), *argv, *reads, "-O", "jsonl")
    apart = separate(cli, parts, *argv, field=field)
    assert together.code == apart.code
    lines, others = together.out.splitlines(), apart.out.splitlines()
    assert len(lines) == len(others)
    for line, other in zip(lines, others, strict=True):
        if line != other:
            assert without_place(line) == without_place(other)
            assert json.loads(other)["error"]["source"] == "-"
            assert json.loads(line)["error"]["source"] in map(str, argv)
    return lines


TEXTS = (
    b"Marie Curie left Paris.\n\nIt was good, \xe4\xb8\x96\n\xff\xfe broken\n  \nNew York\tis great\nbad\r\n"
)
OBJECTS = b"""\
{"text":"Marie left Paris","id":1.50,"more":{"a":[1,2]}}
{"text":"caf\\u00e9 good", "x" : "y" }
{"text":"","id":2}
{"nope":1}
{"text":3}
[1, 2]
broken
{"text":"upstream","error":{"code":"c","message":"m","source":"s","line":9}}
{"text":"odd","error":"text"}
{"text":"taken","entities":[],"translation_flags":0}
{"text":"Paris is great"}
"""
CSV = b'id,text,note\n1,"Marie, ""the"" first","two\nlines"\n2,Paris,\n3,ragged\n4,,x\n'
TSV = b"text\tid\nMarie left\\tParis\t1\nragged\n\t2\n"
INPUTS: Mapping[str, tuple[str, bytes, tuple[str, ...]]] = {
    "lines": ("in.txt", TEXTS, ()),
    "paragraphs": ("in.txt", b"One Marie\ntwo\n\n\nThree Paris\n", ("--by", "para")),
    "document": ("in.txt", b"One Marie\ntwo\n\nThree Paris\n", ("--by", "doc")),
    "nul": ("in.txt", b"One\nMarie\0\0Two Paris\0", ("--by", "nul")),
    "jsonl": ("in.jsonl", OBJECTS, ()),
    "csv": ("in.csv", CSV, ()),
    "tsv": ("in.tsv", TSV, ()),
    "empty text": ("in.txt", b"", ()),
    "empty jsonl": ("in.jsonl", b"", ()),
    "empty csv": ("in.csv", b"", ()),
}


def given(work: Path, kind: str) -> list[str]:
    """The input of that kind, and its options."""
    name, data, options = INPUTS[kind]
    (work / name).write_bytes(data)
    return [name, *options]


# Byte for byte.


@pytest.mark.parametrize("parts", list(permutations(STAGES, 2)), ids=ids)
def test_two_stages_give_the_bytes_of_two_commands(cli: Cli, work: Path, parts: Sequence[Part]) -> None:
    assert len(check_equal(cli, parts, *given(work, "jsonl"))) == OBJECTS.count(b"\n")


CHAINS = (
    (SENTIMENT, TRANSLATE, NER),
    (EVERY_SECOND, TRANSLATE, stage("ner", as_="a"), stage("translate", "test:echo", as_="again"), PROMPT),
)


@pytest.mark.parametrize("kind", INPUTS)
@pytest.mark.parametrize("parts", CHAINS, ids=ids)
def test_many_stages_over_any_input(cli: Cli, work: Path, parts: Sequence[Part], kind: str) -> None:
    lines = check_equal(cli, parts, *given(work, kind))
    assert bool(lines) == (not kind.startswith("empty"))


GOOD = b"""\
{"text":"Marie left Paris","id":1.50,"more":{"a":[1,2]}}
{"text":"caf\\u00e9 good", "x" : "y" }

{"text":"","id":2}
broken
{"id":2,"text":"Paris is great"}
"""


@pytest.mark.parametrize(
    "parts",
    [
        (step("filter 'Marie' in text"), NER),
        (SENTIMENT, step("filter sentiment.score > 0.7"), NER),
        (SENTIMENT, NER, step("filter len(entities) > 0 or id == 2")),
        (TRANSLATE, step("filter 'Paris' in translation"), step("filter text != 'x'"), NER),
        (TRANSLATE, step("filter nothing > 3"), NER),
        (step("select id, text"), SENTIMENT),
        (SENTIMENT, step("select text, label=sentiment.label"), NER, step("filter label == 'POSITIVE'")),
        (TRANSLATE, NER, step("select text, e=entities, translation"), step("select n=e")),
        (EVERY_SECOND, step("filter text != ''"), SENTIMENT, step("select text, sentiment")),
    ],
    ids=ids,
)
def test_filters_and_selections_between_stages(cli: Cli, work: Path, parts: Sequence[Part]) -> None:
    (work / "in.jsonl").write_bytes(GOOD.replace(b"\n\n", b"\n"))
    assert check_equal(cli, parts, "in.jsonl")


def test_the_field_of_the_input(cli: Cli, work: Path) -> None:
    (work / "in.jsonl").write_text('{"text":"a","body":"Marie"}\n{"body":{"b":1}}\n')
    check_equal(cli, (SENTIMENT, TRANSLATE, NER), "in.jsonl", field="body")
    check_equal(cli, (SENTIMENT, NER), "in.jsonl", field="body.b")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_blank_line_stays_one_for_all_stages(cli: Cli, work: Path, kind: str) -> None:
    (work / f"in.{kind}").write_text('{"text":"a"}\n\n' if kind == "jsonl" else "id,text\n1,a\n\n")
    blank = cli("pipe", joined([SENTIMENT, NER]), f"in.{kind}", "-O", "jsonl").out.splitlines()[1]
    before = '"text":""' if kind == "jsonl" else '"id":"","text":""'
    assert blank == f'{{{before},"sentiment":{{"label":null,"score":null}},"entities":[]}}'
    assert separate(cli, [SENTIMENT, NER], f"in.{kind}").out.splitlines()[1] == blank


@pytest.mark.parametrize("kind", ["lines", "paragraphs", "jsonl", "csv", "tsv", "empty csv"])
@pytest.mark.parametrize("output_format", ["auto", "text", "jsonl", "csv", "nul"])
def test_a_stage_alone_is_its_command(cli: Cli, work: Path, kind: str, output_format: str) -> None:
    argv = [*given(work, kind), "-O", output_format]
    for part in (TRANSLATE, NER):
        assert cli("pipe", part.text, *argv) == cli(*part.argv, *argv)


@pytest.mark.parametrize("part", [SENTIMENT, SUMMARIZE, PROMPT, EMBED], ids=lambda part: part.text)
def test_every_command_is_a_stage(cli: Cli, work: Path, part: Part) -> None:
    argv = given(work, "lines")
    assert cli("pipe", part.text, *argv) == cli(*part.argv, *argv)


def test_a_stage_finds_in_a_pipe_what_it_finds_alone(cli: Cli, work: Path) -> None:
    argv = [*given(work, "lines"), "-O", "jsonl"]
    together = cli("pipe", joined([SENTIMENT, NER, SUMMARIZE, EMBED]), *argv)
    for part, name in (
        (SENTIMENT, "sentiment"),
        (NER, "entities"),
        (SUMMARIZE, "summary"),
        (EMBED, "embedding"),
    ):
        alone = cli(*part.argv, *argv)
        values, others = (
            [json.loads(line).get(name) for line in each.out.splitlines()] for each in (together, alone)
        )
        assert values == others


# With models.


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, moods: Path, names: Path, capitals: Path) -> list[Part]:
    folder = tmp_path_factory.mktemp("bundles")
    summarizer = tiny_seq2seq.write_summarizer(folder / "beginnings")
    causal = tiny_causal.write_causal(folder / "chatty", str.swapcase, ends_after=8, context_length=256)
    return [
        stage("sentiment", str(moods)),
        stage("ner", str(names)),
        stage("translate", str(capitals)),
        stage("summarize", str(summarizer)),
        stage("prompt", str(causal)),
        stage("embed", str(write_embedder(folder / "vectors"))),
    ]


def test_models_give_the_bytes_of_separate_commands(cli: Cli, work: Path, models: list[Part]) -> None:
    text = b"Marie Curie left Paris , good great\n\nA text that is a good deal longer than its summary\nbad\n"
    (work / "in.txt").write_bytes(text)
    for parts in (models, models[::-1], [models[1], models[0], models[5]]):
        assert len(check_equal(cli, parts, "in.txt")) == 4


def test_a_text_that_a_tokenizer_refuses_fails_on_its_way(
    cli: Cli, work: Path, names: Path, strict_moods: Path
) -> None:
    (work / "in.txt").write_text("good bad\nMarie good\n\nbad\n")
    lines = check_equal(
        cli, [stage("ner", str(names)), stage("sentiment", str(strict_moods)), EMBED], "in.txt"
    )
    failed = json.loads(lines[1])
    assert [*failed] == ["text", "entities", "error"]
    assert (failed["error"]["code"], failed["error"]["source"], failed["error"]["line"]) == (
        "tokenizer",
        "in.txt",
        2,
    )


def test_one_of_several_languages_is_read_by_its_path(cli: Cli, polyglot: Path) -> None:
    pipeline = f"translate model={polyglot} to=fr,de | sentiment model=test:echo field=translation.de"
    ended = cli("pipe", pipeline, "-O", "csv", stdin=b"ab\n")
    assert (ended.code, ended.out) == (
        0,
        "text,translation.fr,translation.de,translation_flags,sentiment.label,sentiment.score\n"
        "ab,AB,NO,,POSITIVE,0.919349\n",
    )


# What is written.

THREE = joined([SENTIMENT, TRANSLATE, NER])
PEOPLE = "Marie\n\nParis\n"


def test_text_output_is_that_of_the_last_stage(cli: Cli) -> None:
    assert cli("pipe", THREE, stdin=PEOPLE.encode()) == Ended(
        0, "[Marie](PER) [Marie](PER)\n\n[Paris](ORG) [Paris](ORG)\n", ""
    )


def test_a_filter_in_the_end_leaves_the_text_form_to_the_stage_before_it(cli: Cli) -> None:
    ended = cli("pipe", f"{joined([NER])} | filter 'Paris' in text", stdin=PEOPLE.encode())
    assert ended == Ended(0, "[Paris](ORG)\n", "")


def test_a_filter_alone_gives_the_text(cli: Cli) -> None:
    assert cli("pipe", "filter text != ''", stdin=PEOPLE.encode()) == Ended(0, "Marie\nParis\n", "")


def test_tables_have_the_columns_of_all_stages(cli: Cli, work: Path) -> None:
    (work / "in.csv").write_text('id,text\n1,"Marie"\n2,a,b\n3,\n')
    ended = cli("pipe", joined([SENTIMENT, TRANSLATE, EMBED]), "in.csv")
    assert (ended.code, ended.out) == (
        1,
        "id,text,sentiment.label,sentiment.score,translation,translation_flags,embedding\n"
        '1,"Marie",NEGATIVE,0.638527,Marie Marie,,"[0.504203,0.901892,0.565147,0.661751]"\n'
        ",,,,,,\n"
        "3,,,,,,\n",
    )


SELECTED = f"{joined([SENTIMENT])} | select text, n=id, label=sentiment.label"


@pytest.mark.parametrize(
    ("output_format", "out"),
    [
        ("text", "Marie\t1\tNEGATIVE\n\nPa\\tris\t\tPOSITIVE\n"),
        ("nul", "Marie\t1\tNEGATIVE\0\0Pa\\tris\t\tPOSITIVE\0"),
        (
            "jsonl",
            '{"text":"Marie","n":"1","label":"NEGATIVE"}\n{"error":ERROR}\n'
            '{"text":"Pa\\tris","n":"","label":"POSITIVE"}\n',
        ),
        ("csv", "text,n,label\nMarie,1,NEGATIVE\n,,\nPa\tris,,POSITIVE\n"),
        ("tsv", "text\tn\tlabel\nMarie\t1\tNEGATIVE\n\t\t\nPa\\tris\t\tPOSITIVE\n"),
    ],
)
def test_a_selection_of_a_table(cli: Cli, work: Path, output_format: str, out: str) -> None:
    (work / "in.csv").write_text("id,text,label\n1,Marie,x\n2\n,Pa\tris,y\n")
    ended = cli("pipe", "-q", SELECTED, "in.csv", "-O", output_format)
    error = (
        '{"code":"ragged_row","message":"1 cell where the header has 3",'
        '"source":"in.csv","line":3,"input":"2"}'
    )
    assert (ended.code, ended.out) == (1, out.replace("ERROR", error))


def test_a_table_is_selected_to_a_table(cli: Cli, work: Path) -> None:
    (work / "in.tsv").write_text("id\ttext\n1\tMarie\n")
    assert cli("pipe", "select text, id", "in.tsv") == Ended(0, "text\tid\nMarie\t1\n", "")
    (work / "empty.tsv").write_text("")
    assert cli("pipe", "select text, id", "empty.tsv").code == 0


@pytest.mark.parametrize("name", ["in.txt", "in.jsonl"])
def test_a_selection_of_objects_and_texts(cli: Cli, work: Path, name: str) -> None:
    (work / "in.txt").write_bytes(b"Marie\n\xff\n")
    (work / "in.jsonl").write_bytes(b'{"text":"Marie","id":1}\n{"text":"\xff"}\n')
    pipeline = f"{joined([SENTIMENT])} | select label=sentiment.label, text"
    ended = cli("pipe", "-q", pipeline, name, "-O", "jsonl")
    good, failed = ended.out.splitlines()
    assert good == '{"label":"NEGATIVE","text":"Marie"}'
    assert json.loads(failed)["error"]["code"] == "invalid_encoding"
    assert (cli("pipe", "-q", pipeline, name, "-O", "csv").out) == "label,text\nNEGATIVE,Marie\n,\n"
    assert (cli("pipe", "-q", pipeline, name, "-O", "text").out) == "NEGATIVE\tMarie\n\n"


def test_a_filter_keeps_failed_records(cli: Cli, work: Path) -> None:
    (work / "in.txt").write_bytes(b"Marie\n\xff\nParis\n")
    ended = cli("pipe", "filter text == 'Paris'", "in.txt", "-O", "jsonl")
    failed, good = ended.out.splitlines()
    assert (ended.code, json.loads(failed)["error"]["line"], good) == (1, 2, '{"text":"Paris"}')


def test_a_filter_that_makes_no_sense_for_a_record_fails_it(cli: Cli) -> None:
    ended = cli("pipe", "filter number(text) > 3", stdin=b"4\nx\n1\n")
    assert (ended.code, ended.out) == (1, "4\n\n")
    assert ended.err.startswith("lmcli: -:2: ")


def test_a_stage_may_add_what_a_selection_leaves_out(cli: Cli, work: Path) -> None:
    (work / "in.csv").write_text("text,entities\nParis,x\n")
    (work / "in.jsonl").write_text('{"text":"Paris","entities":1}\n')
    for name in ("in.csv", "in.jsonl"):
        ended = cli("pipe", f"select text | {NER.text} | select n=len", name, "-O", "text")
        assert ended.code == 2  # no field 'len'
        ended = cli("pipe", f"select text | {NER.text} as=entities", name, "-O", "text")
        assert ended == Ended(0, "[Paris](ORG)\n", "")


# What goes wrong before any record is read.


STEPS = "embed, filter, ner, prompt, select, sentiment, summarize, translate"
EXAMPLE = "for example: sentiment | ner"
IN_EXPRESSIONS = 'for example: filter sentiment.score > 0.9 and lang != "en"'
FORMAT = "-I names the format of the input"


@pytest.mark.parametrize(
    ("pipeline", "message", "caret", "hint"),
    [
        ("  ", "the pipeline is empty", "", EXAMPLE),
        ("sentiment |", "a stage is empty", "          ^", EXAMPLE),
        ("sentiment | | ner", "a stage is empty", "            ^", EXAMPLE),
        ("sentimen", "no stage 'sentimen'; did you mean 'sentiment'?", "^^^^^^^^", f"stages are {STEPS}"),
        ("ner | export x=3", "no stage 'export'", "      ^^^^^^", f"stages are {STEPS}"),
        (
            "sentiment modl=x | ner",
            "sentiment has no option 'modl'; did you mean 'model'?",
            "          ^^^^^^",
            "its options are all-scores, as, field, model, threshold",
        ),
        (
            "ner output=x",
            "ner has no option 'output'",
            "    ^^^^^^^^",
            "its options are as, color, field, model, strategy, style",
        ),
        ("ner | ner style", "style needs a value", "          ^^^^^", "style=VALUE"),
        ("ner style=", 'nothing after = (an empty value is "")', "         ^", EXAMPLE),
        ("ner 'x'", "a stray quote", "    ^", EXAMPLE),
        ("ner style='x", "a quote is never closed", "          ^", EXAMPLE),
        (
            "embed | sentiment threshold=7",
            "input should be less than or equal to 1",
            "                  ^^^^^^^^^^^",
            "",
        ),
        (
            "ner strategy=max style=x",
            "'x' is not one of 'inline', 'spans', 'conll'",
            "                 ^^^^^^^",
            "",
        ),
        (
            "sentiment all_scores=perhaps",
            "all-scores is yes or no, not 'perhaps'",
            "          ^^^^^^^^^^^^^^^^^^",
            "",
        ),
        (
            "sentiment | ner as=text",
            "--as 'text': records have or need that field",
            "            ^^^^^^^^^^^",
            "choose another name",
        ),
        (
            "summarize length=short max-new-tokens=3",
            "--length and --max-new-tokens exclude each other",
            "^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^",
            "choose one of the two",
        ),
        (
            "sentiment | ner as=x | embed as=x",
            "two stages add 'x'",
            "                             ^^^^",
            "name one of them: embed as=NAME",
        ),
        (
            "ner | sentiment | ner",
            "two stages add 'entities'",
            "                  ^^^",
            "name one of them: ner as=NAME",
        ),
        (
            "sentiment | ner field=body",
            "no field 'body' in the input; there are 'text', 'sentiment'",
            "                ^^^^^^^^^^",
            FORMAT,
        ),
        (
            "sentiment | filter sentimnt.score > 0.5",
            "no field 'sentimnt.score' in the input; there are 'text', 'sentiment';"
            " did you mean 'sentiment'?",
            "                   ^^^^^^^^^^^^^^",
            FORMAT,
        ),
        (
            "sentiment | select text, m=mood.label",
            "no field 'mood.label' in the input; there are 'text', 'sentiment'",
            "                           ^^^^^^^^^^",
            FORMAT,
        ),
        (
            "ner | prompt template='{q}?'",
            "no field 'q' in the input; there are 'text', 'entities'",
            "      ^^^^^^^^^^^^^^^^^^^^^^",
            f"{FORMAT}; write {{{{ and }}}} for braces in a template",
        ),
        ("filter", "an expression is missing", "      ^", IN_EXPRESSIONS),
        (
            "ner | filter text ==",
            "an expression that ends too early",
            "                    ^",
            IN_EXPRESSIONS,
        ),
        ("filter text = 'x'", "'=' is no part of an expression", "            ^", "write == to compare"),
        (
            "select",
            "the names of values are missing",
            "      ^",
            "for example: select text, label=sentiment.label",
        ),
        (
            "select text, text",
            "two values are called 'text'",
            "             ^^^^",
            "give it another name: NAME=text",
        ),
    ],
)
def test_errors_show_their_place(cli: Cli, pipeline: str, message: str, caret: str, hint: str) -> None:
    lines = [f"lmcli: {message}", *([f"       {pipeline}", f"       {caret}"] if caret else [])]
    err = "".join(f"{line}\n" for line in [*lines, *([f"       {hint}"] if hint else [])])
    assert cli("pipe", pipeline, stdin=b"x\n") == Ended(2, "", err)


def test_a_model_that_does_not_exist(cli: Cli) -> None:
    ended = cli("pipe", "ner model=nope | sentiment model=test:echo", stdin=b"x\n")
    assert (ended.code, ended.out) == (76, "")
    assert ended.err.startswith("lmcli: there is no bundle 'nope'\n")


def test_a_double_that_does_not_exist(cli: Cli) -> None:
    ended = cli("pipe", "sentiment model=test:echo | ner model=test:ech", stdin=b"x\n")
    assert ended == Ended(
        2,
        "",
        "lmcli: unknown rehearsal double 'test:ech'\n"
        "       sentiment model=test:echo | ner model=test:ech\n"
        "                                   ^^^^^^^^^^^^^^^^^^\n"
        "       did you mean test:echo?\n",
    )


def test_the_bundle_of_another_task(cli: Cli, moods: Path) -> None:
    ended = cli("pipe", f"sentiment model=test:echo | ner model={moods}", stdin=b"x\n")
    assert (ended.code, ended.out) == (76, "")
    assert "token-classification" in ended.err


def test_the_columns_of_a_table_are_known(cli: Cli, work: Path) -> None:
    (work / "in.csv").write_text("id,body\n1,Paris\n")
    ended = cli("pipe", "ner model=test:echo field=bdy", "in.csv")
    assert ended == Ended(
        2,
        "",
        "lmcli: no field 'bdy' in the input; there are 'id', 'body'; did you mean 'body'?\n"
        "       ner model=test:echo field=bdy\n"
        "                           ^^^^^^^^^\n"
        f"       {FORMAT}\n",
    )
    assert cli("pipe", "ner model=test:echo field=body", "in.csv", "-O", "text").out == "[Paris](ORG)\n"


def test_a_table_that_has_a_column_already(cli: Cli, work: Path) -> None:
    (work / "in.csv").write_text("text,entities\nParis,\n")
    ended = cli("pipe", joined([SENTIMENT, NER]), "in.csv")
    assert (ended.code, ended.err) == (
        65,
        "lmcli: in.csv: it has a column 'entities' already\n       name the new one with --as\n",
    )
    assert cli("pipe", f"{NER.text} as=found", "in.csv").out == (
        'text,entities,found\nParis,,"[{""label"":""ORG"",""text"":""Paris"",""start"":0,""end"":5,'
        '""score"":0.705472}]"\n'
    )


def test_a_pipeline_is_needed(cli: Cli) -> None:
    assert cli("pipe").code == 2


# Configuration.


def test_stages_are_configured_by_their_commands(
    cli: Cli, work: Path, moods: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (work / "lmcli.toml").write_text(
        f'[sentiment]\nmodel = "{moods}"\nas = "mood"\nall-scores = true\n[ner]\nmodel = "test:echo"\n'
    )
    plain = cli("pipe", "sentiment | ner", "-O", "jsonl", stdin=b"good Paris\n")
    assert (plain.code, [*json.loads(plain.out)]) == (0, ["text", "mood", "entities"])
    assert [*json.loads(plain.out)["mood"]] == ["label", "score", "scores"]
    typed = cli("pipe", "sentiment as=x all-scores=no | ner", "-O", "jsonl", stdin=b"good Paris\n")
    assert [*json.loads(typed.out)["x"]] == ["label", "score"]
    monkeypatch.setenv("LMCLI_SENTIMENT_AS", "y")
    variable = cli("pipe", "sentiment | ner", "-O", "jsonl", stdin=b"good Paris\n")
    assert [*json.loads(variable.out)] == ["text", "y", "entities"]


def test_options_of_a_stage_are_those_of_no_other(cli: Cli, work: Path) -> None:
    (work / "lmcli.toml").write_text('[translate]\nas = "french"\n[pipe]\noutput-format = "jsonl"\n')
    ended = cli("pipe", f"{SENTIMENT.text} | translate model=test:echo", stdin=b"a\n")
    assert [*json.loads(ended.out)] == ["text", "sentiment", "french"]


@pytest.mark.parametrize("text", ['field = "body"', '[pipe]\nfield = "body"'])
def test_the_field_of_the_input_can_be_configured(cli: Cli, work: Path, text: str) -> None:
    """It is that of no stage: `ner` reads the translation."""
    (work / "lmcli.toml").write_text(text)
    (work / "in.jsonl").write_text('{"text":"Marie","body":"Paris"}\n')
    ended = cli("pipe", f"{TRANSLATE.text} | {NER.text}", "in.jsonl", "-O", "text")
    assert ended == Ended(0, "[Paris](ORG) [Paris](ORG)\n", "")


@pytest.mark.parametrize("name", ["LMCLI_FIELD", "LMCLI_NER_FIELD", "LMCLI_TRANSLATE_FIELD"])
def test_the_field_of_a_stage_is_set_by_no_variable(
    cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "body")
    (work / "in.jsonl").write_text('{"text":"Marie","body":"Paris"}\n')
    ended = cli("pipe", f"{TRANSLATE.text} | {NER.text}", "in.jsonl", "-O", "text")
    assert ended.out == (
        "[Paris](ORG) [Paris](ORG)\n" if name == "LMCLI_FIELD" else "[Marie](PER) [Marie](PER)\n"
    )


def test_the_field_of_a_command_is_not_that_of_its_stage(cli: Cli, work: Path) -> None:
    (work / "lmcli.toml").write_text('[ner]\nfield = "body"\n')
    (work / "in.jsonl").write_text('{"text":"Marie","body":"Paris"}\n')
    assert cli(*NER.argv, "in.jsonl", "-O", "text").out == "[Paris](ORG)\n"
    assert cli("pipe", NER.text, "in.jsonl", "-O", "text").out == "[Marie](PER)\n"
    assert cli("pipe", f"{NER.text} field=body", "in.jsonl", "-O", "text").out == "[Paris](ORG)\n"


def test_a_configured_value_that_is_wrong(cli: Cli, work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no place in the pipeline to show."""
    (work / "lmcli.toml").write_text("[sentiment]\nthreshold = 7\n")
    ended = cli("pipe", "ner model=test:echo | sentiment", stdin=b"a\n")
    assert ended == Ended(
        78,
        "",
        "lmcli: ./lmcli.toml:2: invalid value for '--threshold': Input should be less than or equal to 1\n"
        "       `lmcli sentiment --help` says what --threshold takes\n",
    )
    monkeypatch.setenv("LMCLI_SENTIMENT_THRESHOLD", "x")
    ended = cli("pipe", "sentiment model=test:echo", stdin=b"a\n")
    assert (ended.code, ended.err.partition(":")[2].partition(":")[0]) == (78, " LMCLI_SENTIMENT_THRESHOLD")


def test_a_configured_value_that_cannot_be(cli: Cli, work: Path) -> None:
    (work / "lmcli.toml").write_text('[sentiment]\nas = "text"\n')
    ended = cli("pipe", "ner model=test:echo | sentiment", stdin=b"a\n")
    assert ended == Ended(
        2,
        "",
        "lmcli: --as 'text': records have or need that field\n"
        "       ner model=test:echo | sentiment\n"
        "                             ^^^^^^^^^\n"
        "       choose another name; --as is set by ./lmcli.toml:2\n",
    )


# The options of a run.


def test_output_goes_to_a_file(cli: Cli, work: Path) -> None:
    expected = cli("pipe", THREE, "-O", "jsonl", stdin=TEXTS)
    ended = cli("pipe", THREE, "-O", "jsonl", "-o", "out.jsonl", stdin=TEXTS)
    assert (ended.code, ended.out) == (1, "")
    assert (work / "out.jsonl").read_text() == expected.out


def test_failed_records_are_logged_with_their_place_in_the_input(cli: Cli, work: Path) -> None:
    (work / "in.txt").write_text("a\nb\nc\nd\n")
    pipeline = f"filter text != 'a' | {EVERY_SECOND.text} | {SENTIMENT.text}"
    ended = cli("pipe", pipeline, "in.txt", "--errors", "errors.jsonl")
    assert (ended.code, len(ended.out.splitlines())) == (1, 3)
    errors = [json.loads(line) for line in (work / "errors.jsonl").read_text().splitlines()]
    assert [(each["source"], each["line"], each["code"]) for each in errors] == [
        ("in.txt", 2, "rehearsal"),
        ("in.txt", 4, "rehearsal"),
    ]


def test_too_many_errors_of_a_later_stage_end_a_run(cli: Cli, work: Path) -> None:
    argv = ["pipe", joined([SENTIMENT, EVERY_SECOND])]
    assert cli(*argv, "--max-errors", "2", "-o", "out.txt", stdin=b"a\n" * 5).code == 1
    (work / "out.txt").unlink()
    assert cli(*argv, "--max-errors", "1", "-o", "out.txt", stdin=b"a\n" * 5).code == 65
    assert not (work / "out.txt").exists()
    assert cli(*argv, "--fail-fast", "-o", "out.txt", stdin=b"a\n" * 5).code == 65
    assert not (work / "out.txt").exists()


def test_a_summary_has_the_numbers_of_each_stage(cli: Cli, work: Path) -> None:
    pipeline = f"{SENTIMENT.text} | {EVERY_SECOND.text} as=s | filter text != 'three' | {NER.text}"
    ended = cli("pipe", pipeline, "--summary", "s.json", stdin=b"one One\ntwo\nthree\nfour\n\n")
    assert ended.code == 1
    summary = json.loads((work / "s.json").read_text())
    assert (summary["command"], summary["status"]) == (
        "sentiment | summarize | filter | ner",
        "failed_records",
    )
    assert [summary[name] for name in ("records", "failed", "filtered", "tokens")] == [5, 2, 1, 5 + 3 + 2]
    stages = [
        [each[name] for name in ("command", "field", "results", "tokens")] for each in summary["stages"]
    ]
    assert stages == [
        ["sentiment", "sentiment", 4, 5],
        ["summarize", "s", 2, 3],
        ["ner", "entities", 1, 2],
    ]


def test_results_are_kept_for_each_stage(cli: Cli, work: Path) -> None:
    def hits(pipeline: str, stdin: bytes) -> list[int]:
        ended = cli("pipe", pipeline, "-O", "jsonl", "--cache", "--summary", "s.json", stdin=stdin)
        plain = cli("pipe", pipeline, "-O", "jsonl", stdin=stdin)
        assert ended == plain
        return [each["cached"] for each in json.loads((work / "s.json").read_text())["stages"]]

    assert hits(joined([SENTIMENT, NER]), b"Marie\nParis\n\n") == [0, 0]
    assert hits(joined([NER, TRANSLATE, SENTIMENT]), b"Paris\nMarie\nYork\n") == [2, 0, 0]
    assert hits(joined([NER, TRANSLATE, SENTIMENT]), b"Paris\nMarie\nYork\n") == [3, 3, 3]


def test_a_run_is_continued(cli: Cli, work: Path) -> None:
    failing = stage("ner", f"test:fail?every=2&unless={work / 'fixed'}")
    pipeline = joined([SENTIMENT, failing])
    (work / "in.txt").write_text("a\nb\nc\n")
    argv = ["pipe", pipeline, "in.txt", "-O", "jsonl"]
    expected = cli(*argv, "-o", "plain.jsonl").code
    assert cli(*argv, "-o", "out.jsonl", "--resume").code == expected == 1
    assert (work / "out.jsonl").read_text() == (work / "plain.jsonl").read_text()
    (work / "fixed").touch()
    assert cli(*argv, "-o", "out.jsonl", "--resume").code == 0
    assert (work / "out.jsonl").read_text() == cli(*argv).out


def test_an_option_is_given_once_unless_it_takes_several(cli: Cli) -> None:
    ended = cli("pipe", "ner model=test:echo as=a as=b", stdin=b"x\n")
    assert (ended.code, ended.err.splitlines()[0]) == (2, "lmcli: as is given twice")
    assert cli("pipe", "prompt model=test:echo stop=a stop=b", stdin=b"x\n").code == 0
