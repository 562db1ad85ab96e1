"""What expressions do with the values of records: compare them, look into them, call `FUNCTIONS`.

Values are those of JSON. What is missing is None: a function makes None of it, and what is asked about it is
false. Only `==` and `!=` tell it from other values.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from lmcli.records.record import find_value

_CHARS_SHOWN = 40

Compare = Callable[[Any, Any], bool]


class ExpressionError(Exception):
    """An expression makes no sense for the values of a record; the message says why."""


def truth(value: Any, what: str) -> bool:
    """A boolean as it is, None as false. Raises ExpressionError for all else; `what` gave it."""
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ExpressionError(f"{what} gives {_shown(value)}, not true or false")


def is_equal(left: Any, right: Any) -> bool:
    """Whether two values are the same in JSON: there true is not 1."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(is_equal, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def is_in(item: Any, holder: Any) -> bool:
    """Whether `holder` is a list with this item, an object with this key, or a string with this part."""
    match holder:
        case None:
            return False
        case list():
            return any(is_equal(item, each) for each in holder)
        case Mapping() | str() if item is None:
            return False
        case Mapping() | str() if isinstance(item, str):
            return item in holder
    raise ExpressionError(f"cannot look for {_shown(item)} in {_shown(holder)}")


def find(holder: Any, path: str) -> Any:
    """What the dotted path leads to in an object; None where there is nothing."""
    try:
        return find_value(holder, path) if isinstance(holder, Mapping) else None
    except KeyError:
        return None


def item_at(holder: Any, index: int) -> Any:
    """An item of a list, from the end if negative; None where there is nothing."""
    if holder is None:
        return None
    if not isinstance(holder, list):
        raise ExpressionError(f"cannot take item {index} of {_shown(holder)}")
    return holder[index] if -len(holder) <= index < len(holder) else None


def _ordered(compare: Compare) -> Compare:
    def ordered(left: Any, right: Any) -> bool:
        if left is None or right is None:
            return False
        if isinstance(left, str) if isinstance(right, str) else _is_number(left) and _is_number(right):
            return compare(left, right)
        raise ExpressionError(f"cannot order {_shown(left)} and {_shown(right)}{_advice(left, right)}")

    return ordered


def _advice(left: Any, right: Any) -> str:
    """Columns of tables hold strings only."""
    text, number = (left, right) if isinstance(left, str) else (right, left)
    is_mixed = isinstance(text, str) and _is_number(number)
    return "; number(...) makes a number of a string" if is_mixed else ""


COMPARISONS: Mapping[str, Compare] = {
    "Eq": is_equal,
    "NotEq": lambda left, right: not is_equal(left, right),
    "Lt": _ordered(operator.lt),
    "LtE": _ordered(operator.le),
    "Gt": _ordered(operator.gt),
    "GtE": _ordered(operator.ge),
    "In": is_in,
    "NotIn": lambda left, right: not is_in(left, right),
}
"""By the names of Python's syntax tree."""


def text_of(value: Any, function: str) -> str | None:
    """What a function of strings is given. Raises ExpressionError for all but a string and None."""
    if value is None or isinstance(value, str):
        return value
    raise ExpressionError(f"{function}() is for strings, not for {_shown(value)}")


def _len(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, str | list | Mapping):
        return len(value)
    raise ExpressionError(f"len() is for strings, lists and objects, not for {_shown(value)}")


def _lower(value: Any) -> str | None:
    text = text_of(value, "lower")
    return None if text is None else text.lower()


def _number(value: Any) -> float | None:
    if _is_number(value):
        return float(value)
    text = text_of(value, "number")
    if text is None or not text.strip():
        return None
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ExpressionError(f"number() finds no number in {_shown(value)}")
    return number


def _starts(value: Any, start: Any) -> bool:
    text, start = text_of(value, "startswith"), text_of(start, "startswith")
    return text is not None and start is not None and text.startswith(start)


def _ends(value: Any, end: Any) -> bool:
    text, end = text_of(value, "endswith"), text_of(end, "endswith")
    return text is not None and end is not None and text.endswith(end)


FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int]] = {
    "len": (_len, 1),
    "lower": (_lower, 1),
    "number": (_number, 1),
    "contains": (lambda holder, item: is_in(item, holder), 2),
    "startswith": (_starts, 2),
    "endswith": (_ends, 2),
}
"""With the number of arguments."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    try:
        text = orjson.dumps(value).decode()
    except orjson.JSONEncodeError:  # a number or a nesting beyond JSON's limits
        text = repr(value)
    return text if len(text) <= _CHARS_SHOWN else text[:_CHARS_SHOWN] + "..."
