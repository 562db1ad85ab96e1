"""The command `man`: manual pages, written from the parser's own definitions."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from lmcli import __version__, errors
from lmcli.cli.commands.roff import definition, escape, example, prose, section, title
from lmcli.cli.config.keys import options, reads_records, refusal, variable
from lmcli.cli.messages import print_data
from lmcli.errors import (
    EXIT_HUNG_UP,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_RECORDS_FAILED,
    EXIT_TERMINATED,
    LmcliError,
)
from lmcli.spelling import did_you_mean

# The codes that no error has; each error says itself what it means.
_EXIT_CODES = {
    EXIT_OK: "Every record is good.",
    EXIT_RECORDS_FAILED: "The run finished, and some records failed.",
    LmcliError.exit_code: "A bug in lmcli.",
    EXIT_HUNG_UP: "Hung up (SIGHUP): the terminal has gone.",
    EXIT_INTERRUPTED: "Interrupted (SIGINT).",
    EXIT_TERMINATED: "Terminated (SIGTERM).",
}
_FILES = {
    "./lmcli.toml": "Options for a project: keys for all commands, tables for single ones.",
    "$LMCLI_HOME/config.toml": "Options of the user. Without LMCLI_HOME the file lmcli/config.toml in the "
    "platform's folder for configuration, such as ~/.config.",
    "./exported, $LMCLI_HOME/bundles": "Where bundles are looked up. Without LMCLI_HOME the folder "
    "lmcli/bundles in the platform's folder for data, such as ~/.local/share.",
}
_ENVIRONMENT = {
    "LMCLI_HOME": "Folder of the user's bundles, caches and configuration.",
    "LMCLI_NO_CONFIG": "If 1, no configuration file is read.",
    "NO_COLOR": "If not empty, nothing is coloured.",
}


def _commands(context: typer.Context) -> list[str]:
    return list(_root(context).commands)


def man(
    context: typer.Context,
    command: Annotated[
        str | None,
        typer.Argument(
            help="Show the page of this command; default that of lmcli.", autocompletion=_commands
        ),
    ] = None,
    *,
    write: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the page of each command into DIR.")
    ] = None,
) -> None:
    """Print a manual page.

    With --write all pages are written, or that of COMMAND, and their paths printed.

    Example: lmcli man translate | man -l -
    """
    root = _root(context)
    if command is not None and command not in root.commands:
        known = did_you_mean(command, root.commands) or f"the commands are: {', '.join(root.commands)}"
        raise errors.UsageError(f"there is no command {command!r}", hint=known)
    if write is None:
        print_data(page(context, command))
        return
    names = [None, *root.commands] if command is None else [command]
    for name in names:
        path = write / f"{_page_name(name)}.1"
        _write(path, page(context, name))
        print_data(f"{path}\n")


def page(context: typer.Context, name: str | None) -> str:
    """The manual page of a command, or that of lmcli, in roff."""
    root = _root(context)
    command = root if name is None else root.commands[name]
    outside = typer.Context(root, info_name="lmcli", **root.context_settings)
    inside = outside if name is None else _context(outside, name)
    text = _help(command)
    parts = [
        title(_page_name(name), f"lmcli {__version__}"),
        section("NAME", f"{escape(_page_name(name))} \\- {escape(_headline(text))}\n"),
        section("SYNOPSIS", _synopsis(inside)),
        section("DESCRIPTION", "".join(prose(paragraph) for paragraph in _paragraphs(text))),
        *_parameters(inside),
        section("COMMANDS", "".join(_commands_of(inside, is_root=name is None))),
        section("EXIT STATUS", "".join(definition(str(code), said) for code, said in exit_codes())),
        section("ENVIRONMENT", _environment(name, command)),
        section("FILES", "".join(definition(file, said) for file, said in _FILES.items())),
        section("EXAMPLES", "".join(example(line) for line in _examples_of(command))),
        section("SEE ALSO", _see_also(root, name)),
    ]
    return "".join(parts)


def exit_codes() -> list[tuple[int, str]]:
    """Each exit code with what it means, in order."""
    said: dict[int, list[str]] = {code: [meaning] for code, meaning in _EXIT_CODES.items()}
    for error in vars(errors).values():
        if isinstance(error, type) and issubclass(error, LmcliError) and error is not LmcliError:
            said.setdefault(error.exit_code, []).append(inspect.getdoc(error) or "")
    return [(code, " ".join(meanings)) for code, meanings in sorted(said.items())]


def _root(context: typer.Context) -> typer.core.TyperGroup:
    root = context.find_root().command
    assert isinstance(root, typer.core.TyperGroup)
    return root


def _context(outside: Any, name: str) -> Any:
    """A context as the parser would have it, to be asked for usage and options."""
    command = outside.command.commands[name]
    return command.context_class(command, info_name=name, parent=outside)


def _synopsis(context: Any) -> str:
    pieces = context.command.collect_usage_pieces(context)
    return f"\\fB{escape(context.command_path)}\\fR {escape(' '.join(pieces))}\n"


def _parameters(context: Any) -> Iterator[str]:
    params = context.command.get_params(context)
    for heading, kind in (("ARGUMENTS", "argument"), ("OPTIONS", "option")):
        found = (param for param in params if param.param_type_name == kind)
        yield section(heading, "".join(_parameter(param, context) for param in found))


def _parameter(param: Any, context: Any) -> str:
    record = param.get_help_record(context)
    if record is None:
        return ""
    names, text = record
    if param.param_type_name == "argument":
        names = names.partition(" <")[0]  # `FILE <list[str]>`
    if reads_records(context.command):
        named = (key for key, option in options(context.command).items() if option is param)
        text += "".join(f" [env var: {variable(key)}]" for key in named if not refusal(key, param))
    return definition(names, text)


def _commands_of(context: Any, *, is_root: bool) -> Iterator[str]:
    """The commands of a group: those of lmcli have pages, all others are described here."""
    for name, command in getattr(context.command, "commands", {}).items():
        if is_root:
            yield definition(f"{_page_name(name)}(1)", _headline(_help(command)))
            continue
        inside = _context(context, name)
        yield f".SS {escape(name)}\n{_synopsis(inside)}"
        yield from (prose(paragraph) for paragraph in _paragraphs(_help(command)))
        yield from (_parameter(param, inside) for param in command.params)


def _environment(name: str | None, command: Any) -> str:
    known = "".join(definition(variable_, said) for variable_, said in _ENVIRONMENT.items())
    if name is not None and not reads_records(command):
        return known
    both = (
        f"{variable('threads')} for every command, {variable('threads', command=name or 'translate')} for one"
    )
    return known + prose(
        f"Variables set options: {both}. The command line is stronger, configuration files are weaker."
    )


def _see_also(root: typer.core.TyperGroup, name: str | None) -> str:
    pages = [None, *root.commands]
    return ", ".join(f"\\fB{escape(_page_name(each))}\\fR(1)" for each in pages if each != name) + "\n"


def _page_name(name: str | None) -> str:
    return "lmcli" if name is None else f"lmcli-{name}"


def _help(command: Any) -> str:
    return inspect.cleandoc(command.help or "")


def _headline(text: str) -> str:
    """The first sentence of a docstring, as one line without its full stop."""
    return " ".join(text.partition("\n\n")[0].split()).rstrip(".")


def _paragraphs(text: str) -> list[str]:
    return [part for part in text.split("\n\n") if not part.startswith("Example: ")]


def _examples(text: str) -> list[str]:
    return [part.removeprefix("Example: ") for part in text.split("\n\n") if part.startswith("Example: ")]


def _examples_of(command: Any) -> Iterator[str]:
    """The examples of a command; lmcli itself has those of its commands."""
    yield from _examples(_help(command))
    for inner in getattr(command, "commands", {}).values():
        yield from _examples_of(inner)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise errors.OutputError(f"cannot write {path}: {errors.reason(error)}") from error
