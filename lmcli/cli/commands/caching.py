"""The commands `cache show` and `cache clear`: what `--cache` and `--prefix-cache` keep between runs."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from lmcli.cli.commands.models import show_rows
from lmcli.cli.messages import print_data
from lmcli.errors import StreamError, UsageError, reason

app = typer.Typer(help="Show and clear what runs keep for the next ones.", rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def cache(context: typer.Context) -> None:
    """Show and clear what runs keep for the next ones. Without a command: show."""
    if context.invoked_subcommand is None:
        show()


@app.command()
def show() -> None:
    """Show the results of `--cache` and the prefixes of `--prefix-cache`: where, how many, how large."""
    from lmcli.cli.running.staging import results_path

    place = _place()
    show_rows([_results_row(results_path(place)), _prefixes_row(place / "prefixes")])


@app.command()
def clear() -> None:
    """Remove the results and the prefixes, and print where they were. Runs go on without them."""
    from lmcli.cli.running.staging import results_path
    from lmcli.records.result_cache import clear as clear_results

    place = _place()
    results, prefixes = results_path(place), place / "prefixes"
    gone = [results] if clear_results(results) else []
    if prefixes.exists():
        try:
            shutil.rmtree(prefixes)
        except OSError as error:
            raise StreamError(f"cannot remove {prefixes}: {reason(error)}") from error
        gone.append(prefixes)
    print_data("".join(f"{path}\n" for path in gone))


def _place() -> Path:
    from lmcli.bundle.store import user_cache

    place = user_cache()
    if place is None:
        raise UsageError("there is no home directory for a cache", hint="set LMCLI_HOME")
    return place


def _results_row(path: Path) -> dict[str, Any]:
    from lmcli.records.result_cache import usage

    found = usage(path)
    row: dict[str, Any] = {"cache": "results", "count": 0, "bytes": 0}
    if found is not None:
        row |= {"count": found.num_results, "bytes": found.num_bytes}
        row |= {"limit": found.max_bytes} if found.max_bytes else {}
        row |= _days(day.isoformat() for day in (found.oldest, found.newest) if day is not None)
    return row | {"path": str(path)}


def _prefixes_row(folder: Path) -> dict[str, Any]:
    statuses = [file.stat() for file in folder.glob("*/*.npz")]
    row = {"cache": "prefixes", "count": len(statuses), "bytes": sum(each.st_size for each in statuses)}
    row |= _days(str(datetime.fromtimestamp(each.st_mtime, UTC).date()) for each in statuses)
    return row | {"path": str(folder)}


def _days(days: Iterable[str]) -> dict[str, str]:
    in_order = sorted(days)
    return {"oldest_use": in_order[0], "newest_use": in_order[-1]} if in_order else {}
