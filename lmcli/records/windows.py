"""`iter_windows`: records in lists large enough for a model, soon enough for a slow producer."""

import threading
import time
from collections.abc import Generator, Iterable

from lmcli.records.record import Record


def iter_windows(
    records: Iterable[Record],
    *,
    max_records: int,
    max_chars: int,
    patience: float = 0.05,
    ramp: int = 1,
) -> Generator[list[Record], None, None]:
    """Read ahead in a thread and hand out what has come, in order.

    A window is handed out when it holds `max_records` records or `max_chars` characters, when
    nothing new has come for `patience` seconds, when its first record has waited for half a second, or at
    the end. An empty one says that nothing more is there for now, or at all: who still works on a window had
    better finish it. Where windows begin and end depends on timing, so they may only ever be a hint: results
    must not depend on it. With a `ramp` the first window is smaller by that factor, and each may be twice as
    large as the one before: first results come soon. An exception of the producer is raised here, after the
    records before it. The thread never outlives the process.
    """
    buffer = _Buffer(max_records, max_chars, ramp)
    threading.Thread(target=buffer.fill, args=(records,), name="reader", daemon=True).start()
    window: list[Record] = []
    try:
        while True:
            if window and not buffer.wait(patience):
                yield []
            buffer.wait(None)
            window = buffer.take(patience)
            yield window
            if not window:
                break
    finally:
        buffer.close()
    if buffer.error is not None:
        raise buffer.error


# A steady trickle must not keep its first record waiting for a full window.
_MOST_PATIENCE = 0.5


class _Buffer:
    """The next window, between the thread that fills it and the one that takes it."""

    def __init__(self, max_records: int, max_chars: int, ramp: int) -> None:
        self.error: BaseException | None = None
        self._max_records = max_records
        self._max_chars = max_chars
        self._ramp = ramp
        self._records: list[Record] = []
        self._num_chars = 0
        self._first_put = self._last_put = 0.0
        self._is_over = False
        self._changed = threading.Condition()

    def fill(self, records: Iterable[Record]) -> None:
        """Run the producer until it ends, fails, or nobody takes any more."""
        try:
            for record in records:
                if not self._put(record):
                    return
        except BaseException as error:
            self.error = error
        finally:
            self.close()

    def wait(self, timeout: float | None) -> bool:
        """Wait for a record or the end; whether one is there before `timeout` seconds are over."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._records) or self._is_over, timeout)

    def take(self, patience: float) -> list[Record]:
        """The next window, once something is there; empty at the end."""
        with self._changed:
            while not self._is_ready():
                now = time.monotonic()
                deadline = min(self._last_put + patience, self._first_put + _MOST_PATIENCE)
                if now >= deadline:
                    break
                self._changed.wait_for(self._is_ready, timeout=deadline - now)
            window, self._records, self._num_chars = self._records, [], 0
            self._ramp = max(1, self._ramp // 2)
            self._changed.notify()
            return window

    def close(self) -> None:
        """No more records: neither put nor expected."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    def _put(self, record: Record) -> bool:
        with self._changed:
            self._changed.wait_for(self._has_room)
            if self._is_over:
                return False
            self._records.append(record)
            self._num_chars += len(record.text)
            self._last_put = time.monotonic()
            if len(self._records) == 1:
                self._first_put = self._last_put
            if len(self._records) == 1 or self._is_full():  # all that a taker waits for
                self._changed.notify()
            return True

    def _has_room(self) -> bool:
        return self._is_over or not self._is_full()

    def _is_ready(self) -> bool:
        return self._is_over or self._is_full()

    def _is_full(self) -> bool:
        num_records, num_chars = len(self._records) * self._ramp, self._num_chars * self._ramp
        return num_records >= self._max_records or num_chars >= self._max_chars
