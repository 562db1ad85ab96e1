"""JSON Lines: from a line to a record, and from a record to a line that keeps the original's bytes.

`parse` and `carry` are each other's inverse: an object goes out as it came in, digit by digit, with
the new fields behind its own.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from lmcli.records.encoding import decode
from lmcli.records.record import Failure, Record, find_value
from lmcli.spelling import names_known

_BLANKS = b" \t\r\n"


def parse(line: bytes, *, source: str, number: int, field: str | None, adds: tuple[str, ...]) -> Record:
    """The record of one line; `adds` are the keys it must leave free.

    A blank line is a record without text. An object that failed upstream is a failed record.
    """
    if not line.strip(_BLANKS):
        return Record("", source, number)
    text, failure = decode(line)
    if failure is None:
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            failure = Failure("invalid_json", f"not valid JSON: {error}")
        else:
            if isinstance(value, dict):
                record = Record(text, source, number, raw=line, parse=orjson.loads)
                return _from_object(record, value, field, adds)
            failure = Failure("not_an_object", f"{_kind(value)} instead of a JSON object")
    return Record(text, source, number, failure=failure)


_EMPTY: Mapping[str, Any] = {}


def carry(record: Record, blank: Mapping[str, Any] = _EMPTY) -> bytes:
    """The record's original object with its fields, or its failure, appended.

    blank: the object of a blank line.
    """
    if record.raw is None:
        return encode(record, blank if record.failure is None else {})
    added = dict(record.fields)
    if record.failure is not None:
        original = orjson.loads(record.raw)
        if upstream_failure(original) == record.failure:
            return record.raw
        if "error" in original:
            return encode(record, original)
        added["error"] = _error(record)
    return _append(record.raw, added)


def encode(record: Record, original: Mapping[str, Any]) -> bytes:
    """A new object: the original values, then the record's fields or its failure.

    What is no object, or has an `error` of its own, goes whole, as a string, into `error.input`: neither
    error hides the other, and nothing is lost.
    """
    if record.failure is None:
        return orjson.dumps({**original, **record.fields})
    error = _error(record)
    if "error" in original or not original:
        original = {}
        error["input"] = input_of(record)
    return orjson.dumps({**original, **record.fields, "error": error})


def upstream_failure(original: Mapping[str, Any]) -> Failure | None:
    """The failure an object arrived with."""
    match original.get("error"):
        case {"code": str(code), "message": str(message)}:
            return Failure(code, message)
    return None


def check_is_free(record: Record, original: Mapping[str, Any], adds: Sequence[str]) -> Record:
    """The record, failed if its object has a key already that is to be added."""
    for name in adds:
        if name in original:
            return record.failed(
                "field_exists", f"the object has a {name!r} already: name the new one with --as"
            )
    return record


def text_of(record: Record, original: Mapping[str, Any], field: str) -> Record:
    """The record with the text in a field of its object, or failed without one."""
    try:
        text = find_value(original, field)
    except KeyError:
        return record.failed("missing_field", f"no field {field!r}; {names_known(original)}")
    if not isinstance(text, str):
        return record.failed("not_a_string", f"field {field!r} is {_kind(text)}, not a string")
    return record.with_text(text)


def input_of(record: Record) -> str:
    """What the record was read from: its object or row, else its text."""
    return record.first_text if record.raw is None else record.raw.decode()


def _from_object(
    record: Record, original: dict[str, Any], field: str | None, adds: tuple[str, ...]
) -> Record:
    """The record of a parsed line, whose text is still the whole line."""
    if failure := upstream_failure(original):
        return record.failed(failure.code, failure.message)
    record = check_is_free(record, original, adds)
    if record.failure is not None:
        return record
    if field is None:
        return record.with_text("")
    return text_of(record, original, field)


def _append(raw: bytes, added: dict[str, Any]) -> bytes:
    if not added:
        return raw
    body = raw.rstrip(_BLANKS).removesuffix(b"}")
    comma = b"" if body.rstrip(_BLANKS).endswith(b"{") else b","
    return body + comma + orjson.dumps(added)[1:]


def _error(record: Record) -> dict[str, Any]:
    assert record.failure is not None
    return {
        "code": record.failure.code,
        "message": record.failure.message,
        "source": record.source,
        "line": record.line,
    }


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "an array"
    return "an object"
