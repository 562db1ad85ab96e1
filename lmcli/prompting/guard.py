"""`Guard`: data that is spelled like a control token stays text.

A character that occurs nowhere else is put into each such spelling before a chat template sees the data. The
tokenizer recognises control tokens in what is left of the prompt, then takes the character out again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from itertools import chain

# Characters that mean nothing to anybody: they are for private use.
_PRIVATE = (range(0xE000, 0xF900), range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE))


class Guard:
    """Protects data from `spellings`, those of a model's control tokens."""

    def __init__(self, spellings: Collection[str]) -> None:
        longest = sorted(spellings, key=len, reverse=True)
        # Spellings may overlap, so each place where one begins is found by itself.
        begins = "|".join(map(re.escape, longest)) or r"(?!)"
        self._first_char = re.compile(f"(?={begins})(.)", re.DOTALL)
        self._spellings = tuple(longest)
        self._starts = {text[:size] for text in longest for size in range(1, len(text))}
        self._ends = {text[-size:] for text in longest for size in range(1, len(text))}
        self._sizes = range(1, max(map(len, longest), default=1))

    def protect(self, data: str, guard: str) -> str:
        """The data with guards: no control token is spelled in it, nor by it and what is around."""
        marked = self._first_char.sub(rf"\1{guard}", data)
        core = marked.strip()  # chat templates may strip white space, so the guards go inside of it
        if not core:
            return data
        start = marked.index(core)
        is_inside = len(core) in self._sizes and any(core in spelling for spelling in self._spellings)
        is_end = any(core[:size] in self._ends for size in self._sizes)
        before = guard if is_inside or is_end else ""
        after = guard if any(core[-size:] in self._starts for size in self._sizes) else ""
        return marked[:start] + before + core + after + marked[start + len(core) :]


def free_character(texts: Iterable[str]) -> str:
    """A character that none of the texts has. Raises ValueError if they have all that could be taken."""
    known = list(texts)
    for code in chain(*_PRIVATE):
        if not any(chr(code) in text for text in known):
            return chr(code)
    raise ValueError("it has every character for private use")
