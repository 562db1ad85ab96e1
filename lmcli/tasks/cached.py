"""`Cached`: a task that takes from a cache what earlier runs computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from typing import Any, Protocol

import orjson

from lmcli.records.record import Record
from lmcli.tasks.base import Task

_FORMAT = b"lmcli result 1\0"


class Cache(Protocol):
    """Values by key, such as a `ResultCache`."""

    def get(self, key: bytes, /) -> bytes | None:
        """The value, if it is there."""
        ...

    def put(self, key: bytes, value: bytes, /) -> None:
        """Keep a value."""
        ...


class Cached:
    """The same task; a record whose result is in the cache passes it settled.

    `identity` is what decides about a result besides the text: bundle, options, versions. `key` is the text
    that does, or None for a record whose result must not be kept. Failed records, and those without text, are
    not kept.
    """

    def __init__(
        self, task: Task, cache: Cache, *, identity: bytes, key: Callable[[Record], str | None], name: str
    ) -> None:
        """Hits are counted as `NAME.cached`."""
        self._task = task
        self._cache = cache
        self._key = key
        self._hit = f"{name}.cached"
        self._digest = blake2b(_FORMAT + blake2b(identity).digest(), digest_size=32)
        self.adds, self.columns = task.adds, task.columns
        self.lines, self.remarks = task.lines, task.remarks

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Process records lazily, in order."""
        asked: deque[_Asked | None] = deque()  # what the task has read ahead, which its windows bound
        for record in self._task(self._looked_up(records, asked)):
            before = asked.popleft()
            if before is not None and record.failure is None and not record.is_dropped:
                self._keep(before, record)
            yield record.settled(False) if record.is_settled else record

    def _looked_up(self, records: Iterable[Record], asked: deque[_Asked | None]) -> Iterator[Record]:
        """The records as the task is to see them; runs where the task reads, mostly in a thread."""
        for record in records:
            key = self._key_of(record)
            found = self._cache.get(key) if key is not None else None
            if key is None or found is not None:
                asked.append(None)
            else:
                asked.append((record, key))
            yield record if found is None else self._with_result(record, found)

    def _key_of(self, record: Record) -> bytes | None:
        if not record.is_open or not record.text.strip():
            return None
        # A field of that name would hide what the task adds.
        if any(name in record.fields for name in self.adds):
            return None
        text = self._key(record)
        if text is None:
            return None
        digest = self._digest.copy()
        digest.update(text.encode(errors="surrogatepass"))
        return digest.digest()

    def _with_result(self, record: Record, found: bytes) -> Record:
        result = orjson.loads(found)
        return record.with_result(result["fields"], result["counts"] | {self._hit: 1}).settled()

    def _keep(self, before: _Asked, record: Record) -> None:
        old, key = before
        result: dict[str, Any] = {
            "fields": {name: value for name, value in record.fields.items() if name not in old.fields},
            "counts": {
                name: added for name, n in record.counts.items() if (added := n - old.counts.get(name, 0))
            },
        }
        try:
            value = orjson.dumps(result)
        except TypeError:
            return
        # What JSON cannot say, such as NaN, would be another result the next time.
        if orjson.loads(value) == result:
            self._cache.put(key, value)


_Asked = tuple[Record, bytes]
"""A record that is not in the cache, as it was before, and its key."""
