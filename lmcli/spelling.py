"""`did_you_mean`: the known name that somebody may have meant who wrote another."""

from collections.abc import Iterable
from difflib import get_close_matches


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that looks most like `name`, if one is close."""
    close = get_close_matches(name, list(known), n=1)
    return close[0] if close else None


def did_you_mean(name: str, known: Iterable[str], *, before: str = "") -> str:
    """A question with the closest known name, with `before` in front of it; "" if none is close."""
    found = closest(name, known)
    return "" if found is None else f"{before}did you mean {found!r}?"
