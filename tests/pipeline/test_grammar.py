import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.errors import UsageError
from lmcli.pipeline.fragment import PipelineError, at
from lmcli.pipeline.grammar import StageCall, parse, unknown_option

EXAMPLE = "for example: sentiment | ner"

NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,8}", fullmatch=True)
STAGE_NAMES = NAMES.filter(lambda name: not name.startswith(("filter", "select")))
SPACES = st.text(" \t\n", min_size=1, max_size=3)
Option = tuple[str, str | None]


@st.composite
def options(draw: st.DrawFn) -> tuple[str, Option]:
    """An option as it is written, and what it says."""
    name = draw(NAMES)
    written = draw(st.sampled_from([name, name.replace("_", "-")]))
    pieces = draw(st.none() | st.lists(st.tuples(st.sampled_from(["bare", "'", '"']), st.text()), min_size=1))
    if pieces is None:
        return written, (name, None)
    texts = [(quotes, as_kind(quotes, text)) for quotes, text in pieces]
    value = "".join(text for _, text in texts)
    quoted = "".join(in_quotes(quotes, text) for quotes, text in texts)
    return f"{written}={quoted or repr('')}", (name, value)


def as_kind(quotes: str, text: str) -> str:
    """What of a text can be written so."""
    if quotes == "bare":
        return "".join(char for char in text if not char.isspace() and char not in "|'\"")
    return text.replace("'", "") if quotes == "'" else text


def in_quotes(quotes: str, text: str) -> str:
    if quotes == "bare":
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"') if quotes == '"' else text
    return f"{quotes}{escaped}{quotes}"


@st.composite
def pipelines(draw: st.DrawFn) -> tuple[str, list[tuple[str, list[Option]]]]:
    """A pipeline as it is written, and what it says."""
    written, meant = [], []
    for _ in range(draw(st.integers(1, 4))):
        name, given_options = draw(STAGE_NAMES), draw(st.lists(options(), max_size=3))
        words = "".join(draw(SPACES) + text for text, _ in given_options)
        written.append(draw(SPACES) + name + words + draw(SPACES | st.just("")))
        meant.append((name, [option for _, option in given_options]))
    return "|".join(written), meant


def said(calls: list[StageCall]) -> list[tuple[str, list[Option]]]:
    return [(call.name, [(option.name, option.value) for option in call.options]) for call in calls]


def refused(source: str) -> PipelineError:
    with pytest.raises(PipelineError) as error:
        parse(source)
    return error.value


def shown(error: PipelineError) -> list[str]:
    """The lines of the excerpt, without what they have in common."""
    lines = error.excerpt.split("\n")
    assert all(line.startswith(" " * 7) for line in lines)
    return [line[7:] for line in lines]


@given(pipelines())
def test_what_is_written_is_what_is_meant(pipeline: tuple[str, list[tuple[str, list[Option]]]]) -> None:
    source, meant = pipeline
    assert said(parse(source)) == meant


@given(pipelines())
def test_every_place_is_where_its_text_stands(pipeline: tuple[str, object]) -> None:
    source, _ = pipeline
    for call in parse(source):
        assert source[call.start : call.end].strip() == source[call.start : call.end]
        assert source.startswith(call.name, call.start)
        for option in call.options:
            assert source[option.start : option.end].replace("-", "_").startswith(option.name)


@given(st.text() | st.text("afilter select|='\" \\\n\t-_", max_size=30))
def test_any_text_is_a_pipeline_or_a_clean_error(source: str) -> None:
    try:
        calls = parse(source)
    except PipelineError as error:
        refusal = error
    else:
        assert calls
        return
    assert "\n" not in refusal.message
    assert refusal.hint
    lines = shown(refusal) if refusal.excerpt else ["", "^"]
    assert (len(lines), lines[1].strip(" \t^"), "^" in lines[1]) == (2, "", True)


def test_stages_have_options_flags_and_quoted_values() -> None:
    source = 'translate to=en\n| prompt template="Say \\"{text}\\": \\n"\'|\' all-scores | ner'
    assert said(parse(source)) == [
        ("translate", [("to", "en")]),
        ("prompt", [("template", 'Say "{text}": \\n|'), ("all_scores", None)]),
        ("ner", []),
    ]


def test_an_option_may_be_given_twice() -> None:
    assert said(parse("translate to=en to=fr to=''")) == [
        ("translate", [("to", "en"), ("to", "fr"), ("to", "")])
    ]


@pytest.mark.parametrize(
    ("source", "rest"),
    [
        ("filter a > 1", "a > 1"),
        ("filter(a > 1)", "(a > 1)"),
        ("filter\n a > 1 \n and b ", "a > 1 \n and b"),
        ('filter a == \'|\' or b == "|\\"|"', 'a == \'|\' or b == "|\\"|"'),
        ("filter a == 'it\\'s |'", "a == 'it\\'s |'"),
        ("filter 'a == \"|\"'", 'a == "|"'),
        ("filter 'a' == 'b'", "'a' == 'b'"),
        (r'filter "a == \"b\\c\" or \d"', r'a == "b\c" or \d'),
        ("filter", ""),
        ("filter ''", ""),
        ("select text, label=sentiment.label", "text, label=sentiment.label"),
        ('select "Review Text"', '"Review Text"'),
        ("select", ""),
    ],
)
def test_filter_and_select_take_the_rest_of_the_stage(source: str, rest: str) -> None:
    for whole in (source, f"{source} | ner", f"ner|{source}"):
        call = next(call for call in parse(whole) if call.name != "ner")
        assert (call.rest.text, call.options) == (rest, ())
        assert [whole[place] for place in call.rest.places[:-1]] == list(rest)


@pytest.mark.parametrize(
    ("source", "message", "line", "carets"),
    [
        ("ner | | a", "a stage is empty", "ner | | a", "      ^"),
        ("ner || a", "a stage is empty", "ner || a", "     ^"),
        ("| a", "a stage is empty", "| a", "^"),
        ("a | ", "a stage is empty", "a | ", "  ^"),
        ("|", "a stage is empty", "|", "^"),
        ("to=en | a", "a stage begins with its name", "to=en | a", "^^^^^"),
        ("'ner' | a", "a stage begins with its name", "'ner' | a", "^"),
        ("a b='c", "a quote is never closed", "a b='c", "    ^"),
        ('a b=x"c\\"', "a quote is never closed", 'a b=x"c\\"', "     ^"),
        ("filter a == 'b | ner", "a quote is never closed", "filter a == 'b | ner", "            ^"),
        ("filter it's", "a quote is never closed", "filter it's", "         ^"),
        ("a =b", "nothing before =", "a =b", "  ^"),
        ("a to = b", "nothing before =", "a to = b", "     ^"),
        ("a to= b", 'nothing after = (an empty value is "")', "a to= b", "    ^"),
        ("a to=|b", 'nothing after = (an empty value is "")', "a to=|b", "    ^"),
        ("a 'to'=b", "a stray quote", "a 'to'=b", "  ^"),
        ('a to"b"', "a stray quote", 'a to"b"', "    ^"),
        ("a --to=b", "'--to' is not the name of an option", "a --to=b", "  ^^^^"),
        ("a é", "'é' is not the name of an option", "a é", "  ^"),
        ("a\n\tb=1\tc$ \nd", "'c$' is not the name of an option", "\tb=1\tc$ ", "\t   \t^^"),
        ("a\n\n|\n| b", "a stage is empty", "| b", "^"),
    ],
)
def test_errors_show_their_place(source: str, message: str, line: str, carets: str) -> None:
    error = refused(source)
    assert (error.message, shown(error), error.hint) == (message, [line, carets], EXAMPLE)


@pytest.mark.parametrize("source", ["", " \n\t"])
def test_an_empty_pipeline_is_refused(source: str) -> None:
    error = refused(source)
    assert (error.message, error.hint, error.excerpt) == ("the pipeline is empty", EXAMPLE, "")
    assert isinstance(error, UsageError)


def test_an_unknown_stage_says_what_there_is() -> None:
    with pytest.raises(PipelineError) as caught:
        parse("ner | sentimant 0.9", ["sentiment", "ner"])
    assert caught.value.message == "no stage 'sentimant'; did you mean 'sentiment'?"
    assert caught.value.hint == "stages are ner, sentiment"
    assert shown(caught.value) == ["ner | sentimant 0.9", "      ^^^^^^^^^"]


def test_an_unknown_option_says_what_there_is() -> None:
    call = parse("sentiment all-score=1")[0]
    error = unknown_option(call, call.options[0], ["threshold", "all_scores"])
    assert error.message == "sentiment has no option 'all-score'; did you mean 'all-scores'?"
    assert error.hint == "its options are all-scores, threshold"
    assert shown(error) == ["sentiment all-score=1", "          ^^^^^^^^^^^"]


def test_a_stage_without_options_says_so() -> None:
    call = parse("ner x")[0]
    error = unknown_option(call, call.options[0], [])
    assert (error.message, error.hint) == ("ner has no option 'x'", "ner has no options")


def test_a_stage_and_its_options_show_errors_of_others() -> None:
    call = parse("a | b c=d e ")[1]
    assert shown(call.error("no")) == ["a | b c=d e ", "    ^^^^^^^"]
    error = call.error("no", call.options[0], hint="go")
    assert (shown(error), error.hint) == (["a | b c=d e ", "      ^^^"], "go")


def test_long_lines_are_cut_around_the_place() -> None:
    source = "x" * 200 + "HERE" + "y" * 200
    line, carets = at(source, 200, 204).split("\n")
    assert (line.strip()[:4], line[-4:]) == ("...x", "y...")
    assert line[carets.index("^") : len(carets)] == "HERE"
    assert len(line) <= 7 + 76


@given(st.text("ab\t\n\x1b\u202e", min_size=1, max_size=300), st.data())
def test_carets_stand_under_their_place(source: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(source) - 1))
    line, carets = at(source, start, start + 1).split("\n")
    place, under = source[start], line[len(carets) - 1 : len(carets)]
    assert under == {"\n": "", "\x1b": "\ufffd", "\u202e": "\ufffd"}.get(place, place)
    assert [char == "\t" for char in carets[:-1]] == [char == "\t" for char in line[: len(carets) - 1]]
