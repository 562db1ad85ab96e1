"""`catalogue`: models that `lmcli pull` gets by name, from catalogue.toml beside this file."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import msgspec

from lmcli.bundle.manifest import Task
from lmcli.errors import UsageError
from lmcli.spelling import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model that is known by name."""

    task: Task
    source: str
    """What `lmcli export` takes."""
    size: int
    """Bytes of the download."""
    sha256: str
    """Of the download, in hex."""
    license: str
    description: str

    @property
    def cost(self) -> str:
        """What there is to know before the download: `93 MB, Apache-2.0`."""
        return f"{self.size / 1e6:.0f} MB, {self.license}"


@cache
def catalogue() -> Mapping[str, Entry]:
    """All entries by name, which is also the name of the bundle."""
    text = resources.files("lmcli.bundle").joinpath("catalogue.toml").read_text(encoding="utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Entry])


def find_entry(name: str) -> Entry:
    """The entry `name`. Raises UsageError when there is none."""
    entries = catalogue()
    if name not in entries:
        raise UsageError(
            f"the catalogue has no {name!r}{did_you_mean(name, entries, before='; ')}",
            hint=f"it has {', '.join(entries)}; `lmcli export SOURCE` takes other models",
        )
    return entries[name]
