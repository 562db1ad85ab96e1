"""`Tally`: answers compared with right ones: accuracy, what to hold it against, and each label by itself."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

_Z = 1.959964
"""Of a normal distribution 95 % lie within so many standard deviations."""
_DECIMALS = 6


def marks(gold: str, answer: str) -> dict[str, int]:
    """What one answer adds to the counts of which a `Tally` is made."""
    is_right = _normalized(gold) == _normalized(answer)
    return {f"gold:{gold.strip()}": 1, f"given:{answer.strip()}": 1, f"right:{gold.strip()}": int(is_right)}


class Tally:
    """Right and wrong answers. Case, and white space around an answer, make no difference."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        """`counts` are those of `marks`, added up; it may hold others."""
        self._names: dict[str, str] = {}
        self._gold: Counter[str] = Counter()
        self._answered: Counter[str] = Counter()
        self._correct: Counter[str] = Counter()
        kinds = {"gold": self._gold, "given": self._answered, "right": self._correct}
        for name, count in counts.items():
            kind, _, label = name.partition(":")
            if kind == "gold":
                self._names.setdefault(_normalized(label), label)
            if kind in kinds:
                kinds[kind][_normalized(label)] += count

    @property
    def num_answers(self) -> int:
        """How many there are."""
        return self._gold.total()

    @property
    def num_correct(self) -> int:
        """How many of them are right."""
        return self._correct.total()

    def summary(self) -> dict[str, Any]:
        """All numbers, as JSON values; a quotient is null where there is nothing to divide by."""
        low, high = wilson_interval(self.num_correct, self.num_answers)
        [(majority, count)] = self._gold.most_common(1) or [("", 0)]
        return {
            "count": self.num_answers,
            "correct": self.num_correct,
            "accuracy": _share(self.num_correct, self.num_answers),
            "interval_95": [round(low, _DECIMALS), round(high, _DECIMALS)],
            "majority": {"label": self._names.get(majority), "accuracy": _share(count, self.num_answers)},
            "labels": {
                self._names[label]: {
                    "count": self._gold[label],
                    "answered": self._answered[label],
                    "correct": self._correct[label],
                    "precision": _share(self._correct[label], self._answered[label]),
                    "recall": _share(self._correct[label], self._gold[label]),
                }
                for label in self._gold
            },
        }

    def line(self) -> str:
        """The accuracy for a person."""
        if not self.num_answers:
            return "accuracy: there is nothing to compare"
        low, high = wilson_interval(self.num_correct, self.num_answers)
        [(majority, count)] = self._gold.most_common(1)
        return (
            f"accuracy {self.num_correct / self.num_answers:.4f} ({self.num_correct} of {self.num_answers}), "
            f"95 % interval {low:.4f} to {high:.4f}; always {self._names[majority]!r} would be "
            f"{count / self.num_answers:.4f}"
        )


def wilson_interval(num_correct: int, count: int) -> tuple[float, float]:
    """Where the true share lies with 95 % confidence (Wilson 1927); all of [0, 1] if nothing was counted."""
    if not count:
        return 0.0, 1.0
    share, square = num_correct / count, _Z * _Z
    middle = share + square / (2 * count)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    scale = 1 + square / count
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, _DECIMALS) if whole else None


def _normalized(answer: str) -> str:
    return answer.strip().casefold()
