"""The commands `models list`, `show`, `verify` and `rm`: tables on a terminal, JSON Lines elsewhere."""

import json
import sys
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lmcli.cli.messages import one_line, print_data, say
from lmcli.errors import BundleError
from lmcli.records.terminal import escape_controls

if TYPE_CHECKING:
    from lmcli.bundle.store import Broken, Bundle

app = typer.Typer(help="List, show, verify and remove model bundles.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="Bundle name or path.")]


@app.callback(invoke_without_command=True)
def models(context: typer.Context) -> None:
    """List, show, verify and remove model bundles. Without a command: list."""
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_() -> None:
    """List the bundles that a name finds: ./exported, your store, those shipped with lmcli."""
    from lmcli.bundle.store import Broken, iter_bundles

    found = list(iter_bundles())
    show_rows([_row(item) for item in found], hidden={"graph", "labels"})
    for item in found:
        if isinstance(item, Broken):
            say(item.error.message, hint=item.error.hint)
    if any(isinstance(item, Broken) for item in found):
        raise typer.Exit(BundleError.exit_code)


@app.command()
def show(name: Name) -> None:
    """Show what a bundle says of itself: its manifest with labels, source and measured proof."""
    from lmcli.bundle.store import find_bundle, read_bundle

    bundle = read_bundle(find_bundle(name))
    print_data(bundle.manifest.to_json().decode())


@app.command("verify")
def verify_(
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME", help="Bundles; default all.")] = None,
) -> None:
    """Check every file of the bundles against its SHA-256. Exits with 76 if one does not match."""
    from lmcli.bundle.store import find_bundle, iter_bundles, verify

    paths = [find_bundle(name) for name in names] if names else [item.path for item in iter_bundles()]
    rows: list[dict[str, str]] = []
    broken: list[BundleError] = []
    for path in paths:
        try:
            found = verify(path)
        except BundleError as error:
            broken.append(error)
            continue
        rows += [{"bundle": str(path), "file": file, "status": status} for file, status in found]
    show_rows(rows)
    for other in broken[:-1]:
        say(other.message, hint=other.hint)
    if broken:
        raise broken[-1]
    if bad := [row for row in rows if row["status"] != "ok"]:
        raise BundleError(
            f"{len(bad)} of {len(rows)} files are not as the manifests say",
            hint="export the model again, or reinstall lmcli for a shipped bundle",
        )


@app.command()
def rm(name: Annotated[str, typer.Argument(help="Bundle name.")]) -> None:
    """Remove a bundle from ./exported or from your store. Shipped bundles stay."""
    from lmcli.bundle.write import remove

    print_data(f"{remove(name)}\n")


def _row(item: "Bundle | Broken") -> dict[str, Any]:
    from lmcli.bundle.store import COMMANDS, Broken

    if isinstance(item, Broken):
        return {"name": item.path.name, "status": "broken", "path": str(item.path)}
    manifest = item.manifest
    return {
        "name": item.path.name,
        "command": COMMANDS[manifest.task],
        "model": manifest.model_type,
        "graph": manifest.tier,
        "precision": manifest.precision,
        "device": manifest.device,
        "size_mb": round(sum(facts.size for facts in manifest.files.values()) / 1e6, 1),
        "labels": len(manifest.labels),
        "path": str(item.path),
    }


def show_rows(rows: Sequence[Mapping[str, Any]], *, hidden: Set[str] = frozenset()) -> None:
    """A table for a person, without what would not fit; JSON Lines for a program."""
    if sys.stdout is not None and sys.stdout.isatty():
        names = dict.fromkeys(name for row in rows for name in row if name not in hidden)
        _show_table([{name: str(row.get(name, "")) for name in names} for row in rows])
        return
    print_data("".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows))


def _show_table(rows: Sequence[Mapping[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in rows[0] if rows else ():
        is_long = name in {"path", "bundle", "description"}
        table.add_column(name, overflow="fold", no_wrap=not is_long)
    for row in rows:
        table.add_row(*(escape_controls(one_line(cell)) for cell in row.values()))
    console = Console(markup=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    print_data(capture.get(), styled=True)
