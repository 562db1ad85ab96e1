from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.pipeline.expression import Expression, ExpressionError
from lmcli.pipeline.fragment import Fragment, PipelineError
from lmcli.pipeline.grammar import parse

VALUES = {
    "text": "It's a nice \\ day",
    "stars": 4,
    "cell": " 0.5 ",
    "ok": True,
    "nothing": None,
    "tags": ["a", "b", 1, True],
    "sentiment": {"label": "POSITIVE", "score": 0.98, "by source": {"x.y": 1}},
    "dotted.key": {"in.side": "here"},
    "entities": [{"text": "Ada", "at": [1, 2]}, {"text": "Paris"}],
    "Review Text": "fine",
    "naïve": "é",
    "len": 3,
}
TEXT = """"It's a nice \\\\ day\""""
"""As messages show it."""
ATTACKS = [
    "().__class__",
    "().__class__.__bases__[0].__subclasses__()",
    "''.__class__",
    "text.__class__()",
    "text.upper()",
    "__import__('os')",
    "__import__('os').system('true')",
    "eval('1')",
    "exec('1')",
    "open('/etc/passwd')",
    "getattr(text, '__class__')",
    "lambda: true",
    "(lambda: true)()",
    "[x for x in tags]",
    "{x for x in tags}",
    "{x: x for x in tags}",
    "any(x for x in tags)",
    "f'{text}'",
    "f'{text.__class__}' == ''",
    "text % stars",
    "(x := true)",
    "9**9**9**9",
    "'a' * 10**9",
    "1 << 99999999",
    "stars + 1",
    "stars - 1",
    "~stars",
    "+stars",
    "-stars",
    "-true",
    "--1",
    "stars if ok else 1",
    "(1, 2)",
    "{}",
    "{'a': 1}",
    "...",
    "1j",
    "b'a'",
    "u'a'",
    "'a' 'b'",
    "'''a'''",
    "text is null",
    "tags[0:1]",
    "tags[stars]",
    "tags[true]",
    "*tags",
    "len(*tags)",
    "len(**sentiment)",
    "len(text, text)",
    "len()",
    "len(text=text)",
    "field(text)",
    "field('a', 'b')",
    "matches(text, text)",
    "matches(text)",
    "matches(text, '(')",
    "matches(text, 'a{99999999999}')",
    "matches(text, b'a')",
    "await text",
    "yield text",
    "'abc'[0]",
    "[1][0]",
    "true.x",
    "true[0]",
    "len(text)[0]",
    "(ok or ok).x",
    "text; text",
    "text = 1",
    "import os",
    "text)or(text",
    "text # comment",
    "text \\\n",
    "'unclosed",
    "text > 1 and",
    "é $ 1",
    "\x00",
    "\ud800",
    "1" * 5000,
    "(" * 5000,
    "[" * 150 + "]" * 150,
    "not " * 2000 + "ok",
    "ok" + ".a" * 3000,
    "ok" + "[0]" * 1000,
    "ok == " * 1500,
    "'" + "a" * 20_000 + "'",
    "",
    "  ",
]


def ask(source: str, values: dict[str, Any] | None = None) -> bool:
    return Expression.parse(Fragment.of(source))(VALUES if values is None else values)


def refused(source: str) -> PipelineError:
    with pytest.raises(PipelineError) as error:
        Expression.parse(Fragment.of(source))
    return error.value


def carets(error: PipelineError) -> str:
    """What the carets stand under."""
    line, under = error.excerpt.split("\n")
    return line[under.index("^") : len(under)]


@pytest.mark.parametrize(
    "source",
    [
        "true",
        "ok",
        "not false",
        "not null",
        "not missing",
        "True and not False and not None",
        "false or null or true",
        "stars == 4",
        "stars == 4.0",
        "stars != '4'",
        "ok != 1",
        "1 != true",
        "[1, [true]] != [1, [1]]",
        "[1, 'a'] == [1.0, 'a']",
        "nothing == null",
        "missing == null",
        "missing.deeper == null",
        "text.deeper == null",
        "stars > 3",
        "-1 < -0.5 < stars <= 4 <= stars",
        "not 1 < stars > 4",
        "'a' < 'b'",
        "not missing < 1",
        "not missing >= 1",
        "not 1 > null",
        "sentiment.label == 'POSITIVE'",
        'sentiment["label"] == "POSITIVE"',
        "sentiment['by source']['x.y'] == 1",
        "field('dotted.key.in.side') == 'here'",
        "dotted.key['in.side'] == 'here'",
        "field('Review Text') == 'fine'",
        "naïve == 'é' and stars == 4",
        "len == 3",
        "entities[0].text == 'Ada'",
        "entities[-1]['text'] == 'Paris'",
        "entities[0].at[1] == 2",
        "entities[7].text == null",
        "missing[0].a == null",
        "len(entities) == 2 and len(text) == 17 and len(sentiment) == 3",
        "len(missing) == null",
        "lower(sentiment.label) == 'positive' and lower(null) == null",
        "number(cell) < 0.6 and number(stars) == 4 and number('') == null and number(null) == null",
        "contains(text, 'nice') and contains(tags, 'a') and not contains(missing, 'a')",
        "'nice' in text and 1 in tags and 'label' in sentiment and 'x' not in tags",
        "null not in text and 'a' not in missing",
        "stars in [3, 4]",
        "true not in [1] and true in tags",
        "startswith(text, 'It') and endswith(text, 'day')",
        "not startswith(missing, 'a') and not endswith(text, null)",
        "matches(text, 'nice?')",
        "not matches(missing, '.')",
        r"matches(text, '\bday$')",
        r'matches(text, "t\'s .* \\ ")',
        r"matches(text, r'\bday$')",
        "text == 'It\\'s a nice \\\\ day'",
        "(stars == 4\n\tor  \n  missing)\u00a0and ok",
        "  ok  ",
    ],
)
def test_true_of_the_record(source: str) -> None:
    assert ask(source) is True
    assert ask(f"not ({source})") is False


@pytest.mark.parametrize("source", ["null", "missing", "nothing", "false", "missing or null"])
def test_null_is_false(source: str) -> None:
    assert ask(source) is False


def test_what_decides_ends_the_question() -> None:
    assert ask("stars == 4 or stars < text") is True
    assert ask("stars == 5 and stars < text") is False
    assert ask("stars < 1 < text") is False


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("sentiment.score", "the filter gives 0.98, not true or false"),
        ("text", f"the filter gives {TEXT}, not true or false"),
        ("[ok]", "the filter gives [true], not true or false"),
        ("ok and stars", "stars gives 4, not true or false"),
        ("not text", f"text gives {TEXT}, not true or false"),
        ("missing or lower(\n'A')", "lower( 'A') gives \"a\", not true or false"),
        ("cell > 0.4", 'cannot order " 0.5 " and 0.4; number(...) makes a number of a string'),
        ("4 > cell", 'cannot order 4 and " 0.5 "; number(...) makes a number of a string'),
        ("ok > 0", "cannot order true and 0"),
        ("tags > tags", 'cannot order ["a","b",1,true] and ["a","b",1,true]'),
        ("len(stars) > 1", "len() is for strings, lists and objects, not for 4"),
        ("lower(stars) == ''", "lower() is for strings, not for 4"),
        ("startswith(text, 1)", "startswith() is for strings, not for 1"),
        ("endswith(1, 'a')", "endswith() is for strings, not for 1"),
        ("matches(stars, '4')", "matches() is for strings, not for 4"),
        ("1 in text", f"cannot look for 1 in {TEXT}"),
        ("1 in stars", "cannot look for 1 in 4"),
        ("contains(stars, 'a')", 'cannot look for "a" in 4'),
        ("text[0] == 'I'", f"cannot take item 0 of {TEXT}"),
        ("number(text) > 1", f"number() finds no number in {TEXT}"),
        ("number('nan') > 1", 'number() finds no number in "nan"'),
        ("number(ok) > 1", "number() is for strings, not for true"),
    ],
)
def test_values_that_make_no_sense_fail(source: str, message: str) -> None:
    with pytest.raises(ExpressionError) as error:
        ask(source)
    assert str(error.value) == message


def test_long_values_are_cut_in_messages() -> None:
    with pytest.raises(ExpressionError) as error:
        ask("a > 1", {"a": "x" * 1000})
    assert len(str(error.value)) < 120


def test_values_nested_too_deeply_fail() -> None:
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(ExpressionError, match="nested too deeply"):
        ask("a == b", {"a": deep, "b": [deep[0]]})


@pytest.mark.parametrize("source", ATTACKS, ids=lambda source: ascii(source)[:40])
def test_nothing_else_is_allowed(source: str) -> None:
    error = refused(source)
    assert "\n" not in error.message
    assert "^" in error.excerpt


@pytest.mark.parametrize(
    "source",
    ["text.__class__", "text.__class__.__mro__", "len.__globals__", "__builtins__", "tags[0].__doc__"],
)
def test_names_with_underscores_are_names_like_any_other(source: str) -> None:
    assert ask(f"{source} == null")
    assert ask("a.__class__ == 1", {"a": {"__class__": 1}})


@pytest.mark.parametrize(
    ("source", "message", "place", "hint"),
    [
        ("ok and [x for x in y]", "an expression cannot do this", "[x for x in y]", "there are and, or, not"),
        ("é == 'ß' and lenn(é)", "no function 'lenn'; did you mean 'len'?", "lenn", "there are and, or, not"),
        ("len(a, b) > 1", "len() takes 1 value", "len(a, b)", "for example: filter"),
        ("startswith(a)", "startswith() takes 2 values", "startswith(a)", "for example: filter"),
        ("a = 1", "'=' is no part of an expression", "=", "write == to compare"),
        ("a && b", "'&&' is no part of an expression", "&&", "write `and`"),
        ("!a", "'!' is no part of an expression", "!", "write `not`"),
        ("a # b", "'#' is no part of an expression", "#", "there are no comments"),
        ("lang.is == 1", "not an expression from here on", "is", "a name with 'is' in it is written as"),
        ("é b", "not an expression from here on", "b", "for example: filter"),
        ("é and", "an expression that ends too early", "", "for example: filter"),
        ("", "an expression is missing", "", "for example: filter"),
        ("matches(a, 'x(')", "not a regular expression: missing ), unterminated", "'x('", "for example"),
        ("field(a)", "field() takes a name in quotes", "field(a)", "for example: filter"),
    ],
)
def test_errors_show_their_place(source: str, message: str, place: str, hint: str) -> None:
    error = refused(source)
    assert error.message.startswith(message)
    assert error.hint.startswith(hint)
    assert carets(error) == place


def test_places_are_those_in_the_pipeline() -> None:
    source = r'ner | filter "a == \"x\" and lenn(b)" | ner'
    with pytest.raises(PipelineError) as error:
        Expression.parse(parse(source)[1].rest)
    assert error.value.excerpt.split("\n")[0].strip() == source
    assert carets(error.value) == "lenn"


def test_a_filter_without_an_expression_shows_where_it_is_missing() -> None:
    with pytest.raises(PipelineError) as error:
        Expression.parse(parse("filter | ner")[0].rest)
    assert error.value.excerpt == "       filter | ner\n             ^"


def test_names_are_the_paths_that_it_reads() -> None:
    expression = Expression.parse(
        Fragment.of("a.b > 1 and a.b < 9 and len(c['d e']) > field('f g.h') and i[0].j == true and null == k")
    )
    assert expression.names == ("a.b", "c.d e", "f g.h", "i", "k")


def test_a_name_shows_errors_of_others() -> None:
    error = Expression.parse(Fragment.of(" ok and a.b > a.b")).error("no", "a.b", hint="go")
    assert (error.message, error.hint, error.excerpt) == (
        "no",
        "go",
        "        ok and a.b > a.b\n               ^^^",
    )


WORDS = r"""
a b.c d['e'] f[0] 1 -2.5 's' "\d" true null [ ] ( ) , and or not in == != < >= len( lower( matches( contains(
field( number( lambda for if else is : := ** f' __import__( .__class__ # é
"""


@given(st.lists(st.sampled_from(WORDS.split()), max_size=25).map(" ".join) | st.text())
def test_any_text_is_an_expression_or_a_clean_error(source: str) -> None:
    try:
        expression = Expression.parse(Fragment.of(source))
    except PipelineError as error:
        refusal = error
    else:
        for values in ({}, VALUES, {"a": 1, "b": {"c": "x"}, "d": {"e": [1]}, "f": [None]}):
            with suppress(ExpressionError):
                assert expression(values) in (True, False)
        return
    assert "\n" not in refusal.message
    assert "^" in refusal.excerpt


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OPERATIONS = [
    *(f"a {sign} b" for sign in ("==", "!=", "<", ">=", "in", "not in")),
    "a",
    "not a",
    "a[0] == b.c",
] + [f"{name}(a) == b" for name in ("len", "lower", "number")]


@given(st.sampled_from(OPERATIONS), JSON, JSON)
def test_any_values_have_an_answer_or_a_clean_error(source: str, a: Any, b: Any) -> None:
    with suppress(ExpressionError):
        assert ask(source, {"a": a, "b": b}) in (True, False)


@given(JSON)
def test_every_value_is_equal_to_itself(value: Any) -> None:
    assert ask("a == b and a in [b]", {"a": value, "b": value})
