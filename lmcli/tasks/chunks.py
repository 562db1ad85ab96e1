"""`chunks`: a text that is longer than the model's context, in parts of about equal size that fit."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence, Set
from itertools import accumulate, pairwise
from typing import NamedTuple

from lmcli.engine.tokenizer import Ints
from lmcli.tasks.generator import Rows, fit, good_rows
from lmcli.tasks.sentences import sentences


class Chunk(NamedTuple):
    """A part of a text, with its row."""

    text: str
    row: Ints


def chunks(text: str, rows: Rows, context_length: int, language: str) -> list[Chunk]:
    """Cut a text between paragraphs or sentences; a sentence that does not fit is taken apart further.

    All white space becomes single spaces. Raises TokenizeError.
    """
    paragraphs = [sentences(" ".join(part.split()) + " ", language) for part in re.split(r"\n\s*\n", text)]
    fitted = fit((unit for units in paragraphs for unit in units), rows, context_length, wanted=_has_text)
    [empty] = good_rows(rows([""]))
    parts: list[str] = []
    ends = set()
    for units in paragraphs:
        parts += [part for unit in units for part in fitted.parts(unit)]
        ends.add(len(parts))
    lengths = dict(zip(fitted.rows, map(len, good_rows(fitted.rows.values())), strict=True))
    sizes = [lengths.get(part, len(empty)) - len(empty) for part in parts]
    num_chunks = -(-sum(sizes) // (context_length - len(empty)))
    while True:  # more and smaller ones, until the largest sentences are well placed
        runs = ("".join(parts[start:end]).strip() for start, end in balanced(sizes, ends, num_chunks))
        texts = list(filter(None, runs))
        found = good_rows(rows(texts))
        if max(map(len, found)) <= context_length:
            return [Chunk(text, row) for text, row in zip(texts, found, strict=True)]
        num_chunks += 1 + num_chunks // 8


def balanced(sizes: Sequence[int], ends: Set[int], num_runs: int) -> Iterable[tuple[int, int]]:
    """Start and end of at most `num_runs` runs of items, of about equal size.

    Between two items where a paragraph ends (`ends`) a run may end an eighth of its size early or late.
    """
    reached = list(accumulate(sizes))
    share = reached[-1] / num_runs
    cuts = [0]
    for goal in (share * index for index in range(1, num_runs)):
        first, last = (bisect_left(reached, goal + near) + 1 for near in (-share / 2, share / 2))
        possible = range(max(first, cuts[-1] + 1), min(last, len(sizes) - 1) + 1)
        if possible:
            cuts.append(
                min(possible, key=lambda cut: abs(reached[cut - 1] - goal) - share / 8 * (cut in ends))
            )
    return pairwise([*cuts, len(sizes)])


def _has_text(part: str) -> bool:
    return bool(part.strip())
