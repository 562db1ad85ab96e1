import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmcli.records.jsonl import carry, encode, parse
from lmcli.records.record import Failure, Record


def read(line: bytes, *, field: str = "text", adds: tuple[str, ...] = ()) -> Record:
    return parse(line, source="in", number=7, field=field, adds=adds)


@pytest.mark.parametrize(
    ("line", "field", "text"),
    [
        pytest.param(b'{"text":"a"}', "text", "a", id="key"),
        pytest.param(b' {"n":1.000, "text" : "\\u00e9" } ', "text", "é", id="spacing"),
        pytest.param(b'{"a":{"b":{"c":"deep"}}}', "a.b.c", "deep", id="path"),
        pytest.param(b'{"a":{"b":"path"},"a.b":"key"}', "a.b", "key", id="exact key wins"),
        pytest.param(b'{"text":""}', "text", "", id="empty"),
        pytest.param(b'{"text":"a\\r\\nb"}', "text", "a\r\nb", id="newlines are the value's own"),
        pytest.param(b'{"text":"a","text":"b"}', "text", "b", id="last of equal keys"),
        pytest.param(b'{"text":"a","error":"none"}', "text", "a", id="some error, no failure"),
        pytest.param(b'{"text":"a","error":{"code":1}}', "text", "a", id="some error object"),
    ],
)
def test_text_of_an_object(line: bytes, field: str, text: str) -> None:
    assert read(line, field=field) == Record(text, "in", 7, raw=line)


@pytest.mark.parametrize("line", [b"", b"  \t", b"\r"])
def test_a_blank_line_is_an_empty_record(line: bytes) -> None:
    assert read(line) == Record("", "in", 7)


@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        pytest.param(
            b'{"text":"\xff"}',
            "invalid_encoding",
            "not valid UTF-8 at byte 9 (0xff)",
            id="encoding",
        ),
        pytest.param(b'["a"]', "not_an_object", "an array instead of a JSON object", id="array"),
        pytest.param(b'"a"', "not_an_object", "a string instead of a JSON object", id="string"),
        pytest.param(b"12", "not_an_object", "a number instead of a JSON object", id="number"),
        pytest.param(b"null", "not_an_object", "null instead of a JSON object", id="null"),
        pytest.param(
            b'{"id":1,"body":"a"}',
            "missing_field",
            "no field 'text'; there are 'id', 'body'",
            id="missing",
        ),
        pytest.param(
            orjson.dumps({str(n): n for n in range(9)}),
            "missing_field",
            "no field 'text'; there are '0', '1', '2', '3', '4', '5', '6', '7' and others",
            id="missing among many",
        ),
        pytest.param(b"{}", "missing_field", "no field 'text'; there are none", id="missing in none"),
        pytest.param(b'{"text":null}', "not_a_string", "field 'text' is null, not a string", id="null field"),
        pytest.param(
            b'{"text":true}',
            "not_a_string",
            "field 'text' is a boolean, not a string",
            id="boolean field",
        ),
        pytest.param(
            b'{"text":{}}',
            "not_a_string",
            "field 'text' is an object, not a string",
            id="object field",
        ),
        pytest.param(
            b'{"text":"a","label":0}',
            "field_exists",
            "the object has a 'label' already: name the new one with --as",
            id="field exists",
        ),
        pytest.param(
            b'{"error":{"code":"too_long","message":"900 tokens"},"label":0}',
            "too_long",
            "900 tokens",
            id="failed upstream",
        ),
    ],
)
def test_failures(line: bytes, code: str, message: str) -> None:
    assert read(line, adds=("label",)).failure == Failure(code, message)


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b"[" * 200_000, id="nesting"),
        pytest.param(b'{"text":"a","n":' + b"9" * 5000 + b"}", id="5000 digits"),
        pytest.param(b"nope", id="no json"),
        pytest.param(b'{"text":"a","n":NaN}', id="nan"),
        pytest.param(b'{"text":"\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"text":"a"}}', id="one brace too many"),
        pytest.param(b'{"text":"a"', id="cut off"),
    ],
)
def test_what_is_not_json_fails_and_keeps_the_line(line: bytes) -> None:
    record = read(line)
    assert record.failure is not None
    assert (record.failure.code, record.text, record.raw) == ("invalid_json", line.decode(), None)


@pytest.mark.parametrize(
    ("path", "mapping"),
    [("a.b", b'{"a":{"c":""}}'), ("a.b", b'{"a":"b"}'), ("a.b", b'{"a":["b"]}'), ("", b'{"a":""}')],
)
def test_paths_that_lead_nowhere(path: str, mapping: bytes) -> None:
    failure = read(mapping, field=path).failure
    assert failure is not None
    assert failure.code == "missing_field"


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        pytest.param(b'{"text":"a"}', b'{"text":"a","label":"pos"}', id="compact"),
        pytest.param(b' { "n" : 1.000 } ', b' { "n" : 1.000 ,"label":"pos"}', id="spacing"),
        pytest.param(b"{}", b'{"label":"pos"}', id="empty object"),
        pytest.param(b"{ }", b'{ "label":"pos"}', id="empty object with a blank"),
        pytest.param(b'{"a":{}}', b'{"a":{},"label":"pos"}', id="ends in an empty object"),
        pytest.param(b'{"a":"{"}', b'{"a":"{","label":"pos"}', id="ends in a brace"),
        pytest.param(
            b'{"n":123456789012345678901234567890}',
            b'{"n":123456789012345678901234567890,"label":"pos"}',
            id="large number",
        ),
        pytest.param(None, b'{"label":"pos"}', id="blank line"),
    ],
)
def test_carry_appends_to_the_original_bytes(raw: bytes | None, line: bytes) -> None:
    assert carry(Record("", raw=raw, fields={"label": "pos"})) == line


def test_carry_without_news_is_the_original() -> None:
    assert carry(Record("a", raw=b' {"text":"a"} ')) == b' {"text":"a"} '


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        pytest.param(
            b'{"n":1.0}',
            b'{"n":1.0,"ner":[],"error":{"code":"too_long","message":"900","source":"in","line":7}}',
            id="object",
        ),
        pytest.param(
            None,
            b'{"ner":[],"error":{"code":"too_long","message":"900","source":"in","line":7,"input":""}}',
            id="no object",
        ),
        pytest.param(
            b'{"n":1.0,"error":"none"}',
            b'{"ner":[],"error":{"code":"too_long","message":"900","source":"in","line":7,'
            b'"input":"{\\"n\\":1.0,\\"error\\":\\"none\\"}"}}',
            id="object with an error of its own",
        ),
    ],
)
def test_carry_of_a_failure(raw: bytes | None, line: bytes) -> None:
    record = Record("", "in", 7, raw=raw, fields={"ner": []}, failure=Failure("too_long", "900"))
    assert carry(record) == line


def test_what_failed_upstream_passes_unchanged() -> None:
    line = b'{ "n":1.0, "error":{"code":"too_long","message":"900","line":3} }'
    assert carry(read(line)) == line


def test_encode_puts_fields_behind_the_original() -> None:
    record = Record("b", fields={"label": "pos", "score": 0.5})
    assert encode(record, {"text": "b"}) == b'{"text":"b","label":"pos","score":0.5}'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=3), JSON.filter(lambda v: v != float("inf")), max_size=4)


def dump(value: Any, *, spaced: bool) -> bytes:
    return json.dumps(value, allow_nan=True, separators=(" , ", " : ") if spaced else None).encode()


@given(original=OBJECTS, text=st.text(), spaced=st.booleans())
def test_what_is_carried_keeps_its_bytes(original: dict[str, Any], text: str, spaced: bool) -> None:
    line = dump({**original, "text": text}, spaced=spaced)
    record = read(line)
    if record.failure is None:  # lone surrogates and infinities are refused
        assert record == Record(text, "in", 7, raw=line)
        out = carry(record.with_fields(**{"\0new": [1]}))
        assert out.startswith(line.removesuffix(b"}"))
        assert json.loads(out) == {**json.loads(line), "\0new": [1]}


@given(st.binary(max_size=30))
def test_any_line_has_its_slot(line: bytes) -> None:
    out = carry(read(line.replace(b"\n", b"")))
    assert isinstance(orjson.loads(out), dict)
    assert b"\n" not in out
