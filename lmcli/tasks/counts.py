"""What the numbers of a run add up for a task: names of counts, and what a summary makes of their sums.

Each name begins with the field that the task adds, so that no two tasks of a pipeline share one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lmcli.metrics.accuracy import Tally

_ALWAYS = ("results", "cached", "tokens", "new_tokens", "truncated", "degenerate", "dropped")


def read_counts(field: str, num_tokens: int) -> dict[str, int]:
    """The counts of one result for which the model read so many tokens and wrote none."""
    return {f"{field}.results": 1, f"{field}.tokens": num_tokens}


def own_counts(field: str, counts: Mapping[str, int]) -> dict[str, int]:
    """Of all counts of a run those of the task that adds `field`, by their own names."""
    return {name.removeprefix(f"{field}."): n for name, n in counts.items() if name.startswith(f"{field}.")}


def summary(field: str, counts: Mapping[str, int]) -> dict[str, Any]:
    """The task that adds `field` in numbers, as JSON values; with gold answers their accuracy as well."""
    own = own_counts(field, counts)
    flags = {name.removeprefix("flag:"): n for name, n in own.items() if name.startswith("flag:")}
    found = {name: own.get(name, 0) for name in _ALWAYS} | {"flags": flags}
    if any(name.startswith("gold:") for name in own):
        found["gold"] = Tally(own).summary()
    return found
