"""Progress on stderr while a person waits: records done and their rate."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]


@contextmanager
def progress(*, wanted: bool) -> Iterator[Advance]:
    """Yield a function to call with the count of records; shown if `wanted` and stderr is a terminal."""
    if not wanted or sys.stderr is None or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.completed:,.0f} records"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("records", total=None, rate="")
        started = time.monotonic()

        def advance(count: int) -> None:
            seconds = time.monotonic() - started
            bar.update(task, completed=count, rate=f"{count / max(seconds, 0.1):,.0f}/s")

        yield advance
