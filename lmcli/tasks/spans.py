"""Labels of tokens to entities: the aggregation strategies of transformers, for every tagging scheme.

`simple` groups tokens. The others first give each word one label: `first` that of its first token, `max` that
of its most certain token, `average` that of the mean of its tokens' scores. Then neighbours with the same
entity label are one entity, split where the scheme says that a new one begins.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Strategy = Literal["first", "average", "max", "simple"]
OUTSIDE = "O"
_SCHEMES = ("BI", "BIES", "BILU", "BMES")


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text, without special ones; every array has a row for each token."""

    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    """(tokens, labels)"""
    starts_word: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Entity:
    """A span of characters with its label; the score is the mean over its words (`simple`: tokens)."""

    label: str
    start: int
    end: int
    score: float


class Labels:
    """The label names of a model, read as a tagging scheme.

    IO, IOB1, IOB2, BIOES, BILOU and BMES prefixes are understood, and names without prefix. As IOB1 and IOB2
    differ only in where they write B, one rule serves them: an entity begins at B or where the name changes.
    """

    def __init__(self, names: Sequence[str]) -> None:
        prefixes = {name[:2] for name in names if name != OUTSIDE}
        # Beyond B and I only where all names agree: E-MAIL may be the name of a label.
        fits = (known for known in _SCHEMES if prefixes <= {f"{prefix}-" for prefix in known})
        known = next(fits, "BI")
        self._roles = [name[0] if name[1:2] == "-" and name[0] in known else "I" for name in names]
        self._entities = [name[2:] if name[1:2] == "-" and name[0] in known else name for name in names]

    def entity(self, label: int) -> str:
        """The name without its prefix."""
        return self._entities[label]

    def begins(self, label: int) -> bool:
        """Whether an entity begins here whatever stands before it."""
        return self._roles[label] in "BSU"

    def ends(self, label: int) -> bool:
        """Whether an entity ends here whatever comes next."""
        return self._roles[label] in "ESLU"


def decode(tokens: Tokens, labels: Labels, strategy: Strategy) -> list[Entity]:
    """The entities of a text, in order."""
    if len(tokens.starts) == 0:
        return []
    units = tokens if strategy == "simple" else _words(tokens, strategy)
    best = units.scores.argmax(axis=1).tolist()
    certainty = units.scores.max(axis=1)
    return [
        Entity(
            labels.entity(best[first]),
            int(units.starts[first]),
            int(units.ends[last]),
            float(certainty[first : last + 1].mean()),
        )
        for first, last in _groups(best, labels)
        if labels.entity(best[first]) != OUTSIDE
    ]


def _words(tokens: Tokens, strategy: Strategy) -> Tokens:
    """Words as units: spans from first to last token, scores by the strategy."""
    begins = tokens.starts_word.copy()
    begins[0] = True
    firsts = np.flatnonzero(begins)
    lasts = np.append(firsts[1:], len(begins)) - 1
    return Tokens(
        tokens.starts[firsts],
        tokens.ends[lasts],
        _word_scores(tokens.scores, firsts, lasts, strategy),
        np.ones(len(firsts), np.bool_),
    )


def _word_scores(
    scores: npt.NDArray[np.float32],
    firsts: npt.NDArray[np.int64],
    lasts: npt.NDArray[np.int64],
    strategy: Strategy,
) -> npt.NDArray[np.float32]:
    """(tokens, labels) to (words, labels)."""
    if strategy == "first":
        return scores[firsts]
    words = [scores[first : last + 1] for first, last in zip(firsts, lasts, strict=True)]
    if strategy == "average":
        return np.stack([word.mean(axis=0) for word in words])
    return np.stack([word[word.max(axis=1).argmax()] for word in words])


def _groups(best: list[int], labels: Labels) -> Iterator[tuple[int, int]]:
    """First and last unit of each run that is one entity (or outside of any)."""
    first = 0
    for index in range(1, len(best) + 1):
        if index < len(best):
            before, here = best[index - 1], best[index]
            same = labels.entity(before) == labels.entity(here)
            if same and not labels.begins(here) and not labels.ends(before):
                continue
        yield first, index - 1
        first = index
