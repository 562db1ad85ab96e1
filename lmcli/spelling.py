"""`did_you_mean`: the known name that somebody may have meant; `names_known`: which names there are."""

from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN = 8


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, if one is close."""
    close = get_close_matches(name, list(known), n=1)
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str], *, before: str = "") -> str:
    """A question with the closest known name, with `before` in front of it; "" if none is close."""
    found = closest(name, known)
    return "" if found is None else f"{before}did you mean {found!r}?"


def names_known(names: Iterable[str]) -> str:
    """Which names there are, the first of many."""
    different = list(dict.fromkeys(names))
    if not different:
        return "there are none"
    shown = ", ".join(map(repr, different[:_SHOWN]))
    return f"there are {shown}{' and others' if len(different) > _SHOWN else ''}"
