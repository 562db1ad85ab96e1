"""`PrefixStore`: the keys and values of prompts' beginnings, kept in files from one run to the next."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]

SHORTEST = 32
"""In tokens: less is computed as fast as it is read from a file."""
_MOST_FILES = 16
_PART, _PART_SECONDS = ".part", 3600
"""What files under way are called, and after how long nobody writes them any more."""


class Prefix(NamedTuple):
    """The beginning of a prompt, as a model has read it."""

    tokens: Ints
    """(tokens,)"""
    past: Floats
    """(inputs, heads, tokens, head size)"""


class PrefixStore:
    """A folder for one model, on machines that compute alike. The files longest unused give way to new ones.

    It is a cache: what cannot be read or written is computed again, without a word.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def find(self, tokens: Ints) -> Prefix | None:
        """The longest beginning of a prompt that any file has, if it is worth it."""
        length, path = self._longest(tokens)
        if length < SHORTEST:
            return None
        with _unreadable():
            prefix = Prefix(tokens[:length], _read(path, "past")[:, :, :length])
            os.utime(path)
            return prefix
        return None

    def save(self, prefix: Prefix) -> None:
        """Keep a prefix, unless a file has it already."""
        if len(prefix.tokens) < SHORTEST:
            return
        name = hashlib.sha256(prefix.tokens.astype("<i8").tobytes()).hexdigest()[:32]
        if self._longest(prefix.tokens)[0] == len(prefix.tokens):
            return
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # prompts are nobody else's business
            self._clean()
            descriptor, part_name = tempfile.mkstemp(dir=self._folder, suffix=_PART)
            part = Path(part_name)
            try:
                with os.fdopen(descriptor, "wb") as file:
                    np.savez(file, tokens=prefix.tokens, past=prefix.past)
                part.replace(self._folder / f"{name}.npz")
            finally:
                part.unlink(missing_ok=True)

    def _longest(self, tokens: Ints) -> tuple[int, Path]:
        """How many tokens the best file has in common with a prompt, and which one that is."""
        found = (0, self._folder)
        for path in self._files():
            with _unreadable():
                found = max(found, (common_length(_read(path, "tokens"), tokens), path))
        return found

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob("*.npz"))

    def _clean(self) -> None:
        """Make room for one more file, and remove what processes that were killed have left."""
        by_age = sorted(self._files(), key=lambda path: path.stat().st_mtime)
        abandoned = time.time() - _PART_SECONDS
        parts = [part for part in self._folder.glob(f"*{_PART}") if part.stat().st_mtime < abandoned]
        for path in (*by_age[: 1 - _MOST_FILES], *parts):
            path.unlink(missing_ok=True)


def common_length(one: Ints, other: Ints) -> int:
    """How many tokens two rows begin with alike."""
    size = min(len(one), len(other))
    differs = one[:size] != other[:size]
    return int(differs.argmax()) if differs.any() else size


def _read(path: Path, name: str) -> npt.NDArray[Any]:
    # Opened here, because numpy leaves a file that it cannot read open.
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        array: npt.NDArray[Any] = file[name]
        return array


def _unreadable() -> suppress:
    """Damaged, half-written, of another kind, or removed by another process."""
    return suppress(OSError, ValueError, TypeError, LookupError, EOFError, zipfile.BadZipFile)
