"""The commands `config show` and `config path`: tables on a terminal, JSON Lines elsewhere."""

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from lmcli.cli.commands.models import show_rows
from lmcli.cli.config.context import ConfiguredContext, stray_variables
from lmcli.cli.config.file import PROJECT_FILE, exists, user_file
from lmcli.cli.config.keys import configured, options
from lmcli.cli.messages import say
from lmcli.errors import UsageError
from lmcli.spelling import did_you_mean

app = typer.Typer(
    help="Show what variables and configuration files set.", rich_markup_mode=None, no_args_is_help=True
)
Row = dict[str, Any]


def _commands(context: typer.Context) -> list[str]:
    return list(configured(context.find_root().command))


@app.command()
def show(
    context: typer.Context,
    command: Annotated[
        str | None,
        typer.Argument(
            help="Show all options of this command, with the values it would run with.",
            autocompletion=_commands,
        ),
    ] = None,
    *,
    origin: Annotated[bool, typer.Option("--origin", help="Show where each value comes from.")] = False,
) -> None:
    """Show the options that variables and configuration files set.

    A value is checked as the command would check it. `*` stands for all commands that have the option.

    Example: lmcli config show translate --origin
    """
    root = context.find_root()
    names = _commands(context)
    if command is not None and command not in names:
        known = did_you_mean(command, names) or f"those with options to set are: {', '.join(names)}"
        raise UsageError(f"there is no command {command!r} to show", hint=known)
    rows = [row for name in names if command in (None, name) for row in _rows(root, name)]
    if command is None:
        sharing = Counter(row["option"] for row in rows)
        rows = _shared([row for row in rows if row["origin"] != "default"], sharing)
    show_rows([_shown(row, hidden=set() if origin else {"origin"}) for row in rows])
    for name, hint in stray_variables(root.command):
        say(f"{name} is set and sets nothing", hint=hint, level="warning")


@app.command()
def path() -> None:
    """Show the configuration files, the stronger first, and whether they exist."""
    user = user_file()
    rows: list[Row] = [{"file": "project", "path": PROJECT_FILE, "exists": exists(PROJECT_FILE)}]
    if user is not None:
        rows.append({"file": "user", "path": str(user), "exists": exists(str(user))})
    show_rows(rows)


def _rows(root: Any, name: str) -> Iterator[Row]:
    """Each option of a command with the value that the command would see now."""
    command = configured(root.command)[name]
    context = ConfiguredContext(command, info_name=name, parent=root)
    for key, option in options(command).items():
        option.handle_parse_result(context, {}, [])
        yield {
            "command": name,
            "option": key,
            "value": context.params[option.name],
            "origin": context.origin(option),
        }


def _shared(rows: list[Row], sharing: Counter[str]) -> list[Row]:
    """One row for what all commands with an option have from the same place, `sharing` of them."""
    same = Counter((row["option"], row["origin"]) for row in rows)
    shared: dict[tuple[str, str, str], Row] = {}
    for row in rows:
        option, origin = row["option"], row["origin"]
        is_shared = same[option, origin] == sharing[option] > 1
        command = "*" if is_shared else row["command"]
        shared.setdefault((command, option, origin), row | {"command": command})
    return sorted(shared.values(), key=lambda row: str(row["command"]) != "*")


def _shown(row: Row, *, hidden: set[str]) -> Row:
    """A row as JSON has it, or as a person would type the value."""
    row = {name: value for name, value in row.items() if name not in hidden}
    if sys.stdout is not None and sys.stdout.isatty():
        value = row["value"]
        row["value"] = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    elif isinstance(row["value"], Path):
        row["value"] = str(row["value"])
    return row
