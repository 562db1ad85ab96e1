"""`Select`: `select text, label=sentiment.label` leaves a record the values that are named, and no others."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson

from lmcli.pipeline.fragment import Fragment, PipelineError, unquoted
from lmcli.pipeline.values import find
from lmcli.records.record import Record

_EXAMPLE = "for example: select text, label=sentiment.label"

_NAME = r"""[^\s,='"|()\[\]{}]+|'[^']*'|"(?:[^"\\]|\\.)*\""""
_ITEM = re.compile(rf"\s*(?:(?P<name>{_NAME})\s*=\s*)?(?P<path>{_NAME})\s*", re.DOTALL)


class Select:
    """Gives each open record the values at `paths`, by name, in the place of all that it carried."""

    def __init__(
        self, paths: Mapping[str, str], fragment: Fragment, places: Mapping[str, tuple[int, int]]
    ) -> None:
        self._fragment = fragment
        self._places = places
        self._paths = dict(paths)
        self.names = tuple(dict.fromkeys(paths.values()))
        """The dotted paths that it reads, each once."""
        self.adds = self.columns = tuple(paths)

    @classmethod
    def parse(cls, fragment: Fragment) -> Select:
        """Read `PATH` and `NAME=PATH` between commas; without a name it is the path's last part.

        Raises PipelineError for all else, and for names that occur twice or that records need themselves.
        """
        paths: dict[str, str] = {}
        places: dict[str, tuple[int, int]] = {}
        for item in _items(fragment):
            path = unquoted(item["path"])
            name = unquoted(item["name"]) if item["name"] else path.rpartition(".")[2]
            if problem := _problem(name, paths):
                hint = f"give it another name: NAME={item['path']}"
                raise fragment.error(problem, *item.span("name" if item["name"] else "path"), hint=hint)
            paths[name] = path
            places.setdefault(path, item.span("path"))
        return cls(paths, fragment, places)

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Select lazily; a value that is missing is null."""
        return (self._select(record) if record.is_open else record for record in records)

    def lines(self, record: Record) -> list[str]:
        r"""The values separated by tabs: strings with theirs as `\t`, null as nothing, all else as JSON."""
        return ["\t".join(_cell(record.fields[name]) for name in self.adds)]

    def remarks(self, _: Mapping[str, int]) -> list[str]:
        """Nothing."""
        return []

    def error(self, message: str, name: str, *, hint: str = "") -> PipelineError:
        """An error about one of `names`."""
        return self._fragment.error(message, *self._places[name], hint=hint)

    def _select(self, record: Record) -> Record:
        values = record.all_values()
        fields = {name: find(values, path) for name, path in self._paths.items()}
        return replace(record, raw=None, parse=None, fields=fields)


def _items(fragment: Fragment) -> Iterator[re.Match[str]]:
    text, position = fragment.text, 0
    if not text.strip():
        raise fragment.error("the names of values are missing", 0, len(text), hint=_EXAMPLE)
    while True:
        item = _ITEM.match(text, position)
        if item is None:
            start = min(position + len(text[position:]) - len(text[position:].lstrip()), len(text))
            raise fragment.error("no name of a value", start, start + 1, hint=_EXAMPLE)
        yield item
        position = item.end()
        if position == len(text):
            return
        if text[position] != ",":
            raise fragment.error("a comma is missing", position, position + 1, hint=_EXAMPLE)
        position += 1


def _problem(name: str, names: Iterable[str]) -> str:
    if not name:
        return "a value without a name"
    if name == "error":
        return "records need the name 'error' themselves"
    return f"two values are called {name!r}" if name in names else ""


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value.replace("\t", r"\t")
    return "" if value is None else orjson.dumps(value).decode()
