import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.errors import UsageError
from lmcli.prompting.template import MissingFieldError, Template, pick

NAMES = st.text(st.characters(exclude_characters="{}\n"), min_size=1)
TEXTS = st.text()


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@pytest.mark.parametrize(
    ("source", "fields", "filled"),
    [
        ("{text}", {"text": "a"}, "a"),
        ("", {}, ""),
        ("Review: {text}\nMood:", {"text": "{b}"}, "Review: {b}\nMood:"),
        ("{a} {b.c} {a}", {"a": "1", "b.c": "2"}, "1 2 1"),
        ("{{text}} {text}", {"text": "a"}, "{text} a"),
        ("{{{text}}}", {"text": "a"}, "{a}"),
        ('{{"q": "{my question}"}}', {"my question": "why"}, '{"q": "why"}'),
        ("{text.__class__}", {"text.__class__": "a name like any other"}, "a name like any other"),
    ],
)
def test_fields_are_filled_in(source: str, fields: dict[str, str], filled: str) -> None:
    template = Template.parse(source)
    assert (template.fields, template.fill(fields)) == (tuple(fields), filled)


@given(TEXTS)
def test_a_text_without_fields_stays_as_it_is(text: str) -> None:
    template = Template.parse(escaped(text))
    assert (template.names, template.fill({})) == ((), text)


@given(st.lists(st.tuples(TEXTS, NAMES, TEXTS)), TEXTS)
def test_a_template_is_what_is_between_its_fields(parts: list[tuple[str, str, str]], last: str) -> None:
    source = "".join(f"{escaped(text)}{{{name}}}" for text, name, _ in parts) + escaped(last)
    template = Template.parse(source)
    assert template.names == tuple(name for _, name, _ in parts)
    values = {name: value for _, name, value in parts}
    assert template.fill(values) == "".join(text + values[name] for text, name, _ in parts) + last


@given(st.lists(st.tuples(TEXTS, NAMES)), TEXTS, TEXTS)
def test_a_template_stands_in_the_place_of_a_field(
    inner: list[tuple[str, str]], last: str, text: str
) -> None:
    source = "".join(f"{escaped(text)}{{{name}}}" for text, name in inner) + escaped(last)
    fields = {name: f"<{name}>" for _, name in inner}
    template = Template.parse(source)
    outer = Template.parse(f"{escaped(text)}{{\x00q}} {{\x00q}}{{\x00other}}")
    whole = template.into(outer, "\x00q").fill({**fields, "\x00other": "o"})
    filled = template.fill(fields)
    assert whole == f"{text}{filled} {filled}o"


def test_each_value_can_be_marked() -> None:
    assert (
        Template.parse("<{a}> <{b}>").fill({"a": "1", "b": "2"}, lambda value: f"[{value}]") == "<[1]> <[2]>"
    )


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("{text", "template, line 1, column 1: a '{' that belongs to no field"),
        ("ok {text}}", "template, line 1, column 10: a '}' that belongs to no field"),
        ("a\nb {} c", "template, line 2, column 3: a field without a name"),
        ("{a\nb}", "template, line 1, column 1: a '{' that belongs to no field"),
    ],
)
def test_stray_braces(source: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        Template.parse(source)
    assert (error.value.message, error.value.hint) == (
        message,
        "{name} is a field of the record; write {{ and }} for braces",
    )


def test_values_are_picked_by_name_and_path() -> None:
    values = {"a": {"b": 1.5}, "n": None, "l": ["x"], "text": "other", "s": "s"}
    assert pick(["a.b", "n", "l", "s", "text"], values, text="own") == {
        "a.b": "1.5",
        "n": "null",
        "l": '["x"]',
        "s": "s",
        "text": "own",
    }
    assert pick(["text"], values) == {"text": "other"}


@pytest.mark.parametrize(
    ("values", "text", "message"),
    [
        ({"b": 1}, "t", "no field 'a'; there are 'text', 'b'"),
        ({}, None, "no field 'a'; there are none"),
        (
            dict.fromkeys("bcdefghij"),
            None,
            "no field 'a'; there are 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i' and others",
        ),
    ],
)
def test_a_missing_field_says_what_there_is(values: dict[str, int], text: str | None, message: str) -> None:
    with pytest.raises(MissingFieldError) as error:
        pick(["a"], values, text=text)
    assert str(error.value) == message
