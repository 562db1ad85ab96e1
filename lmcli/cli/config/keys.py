"""Which options may be set in files and variables, and what the keys of a file set; wrong keys are refused.

All keys are checked, whatever command runs, so that a slip of the pen is found at the first run. Values are
not: only the command that has the option knows what it takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import typer.core

from lmcli.cli.config.file import PROJECT_FILE, ConfigFile
from lmcli.errors import ConfigError
from lmcli.spelling import did_you_mean

Command = typer.core.TyperCommand
Option = typer.core.TyperOption

_ALL = ""
_ONE_RUN = "it belongs to one run"
_REFUSED: Mapping[str, str] = {
    "force": "it lets a run replace its inputs",
    "resume": _ONE_RUN,
    "show-prompt": _ONE_RUN,
}
# The file of a project comes with what was downloaded: it must not make lmcli write anything.
_REFUSED_OF_PROJECTS: Mapping[str, str] = {
    "cache": "it writes to your cache",
    "cache-size": "it decides how much of your cache is kept",
    "prefix-cache": "it writes to your cache",
}
# Each may name a file that is only read, and says what to do with the texts rather than which texts.
MAY_NAME_FILES = frozenset({"choices", "examples", "strategy", "system", "template"})
_FILE_WORDS = frozenset({"DIR", "FILE", "LIST", "PATH"})


class Setting(NamedTuple):
    """The value that a file has for an option, and where it stands there."""

    value: str | list[str]
    file: ConfigFile
    path: tuple[str, ...]

    @property
    def origin(self) -> str:
        """`FILE:LINE`."""
        return self.file.where(*self.path)


Settings = Mapping[str, Mapping[str, Setting]]
"""What a file sets: by command, "" for all of them, and by option."""


def reads_records(command: Any) -> bool:
    """Whether `command` has the options of a run over records."""
    return isinstance(command, Command) and "input-format" in options(command)


def configured(root: Any) -> dict[str, Command]:
    """The commands of `root` whose options may be set elsewhere, by name."""
    return {name: command for name, command in root.commands.items() if reads_records(command)}


def options(command: Any) -> dict[str, Option]:
    """The options of a command by what files call them: the long name without its dashes."""
    found = (param for param in command.params if isinstance(param, Option))
    return {max(option.opts, key=len).lstrip("-"): option for option in found}


def refusal(key: str, option: Option, *, file: str = "") -> str:
    """Why an option may not be set outside the command line, or not in `file`; "" if it may."""
    if key in _REFUSED:
        return _REFUSED[key]
    if key not in MAY_NAME_FILES and _FILE_WORDS & set(re.findall("[A-Z]+", option.metavar or "")):
        return "it names files of one run"
    return _REFUSED_OF_PROJECTS.get(key, "") if file == PROJECT_FILE else ""


def variable(key: str, *, command: str = "") -> str:
    """The environment variable that sets an option for all commands, or for one."""
    return "_".join(filter(None, ["LMCLI", command, key])).replace("-", "_").upper()


def read_settings(file: ConfigFile, root: Any) -> Settings:
    """What `file` sets for the commands of `root`. Raises ConfigError at the first key that is no good."""
    commands = {name: options(command) for name, command in configured(root).items()}
    commands[_ALL] = {key: option for known in commands.values() for key, option in known.items()}
    settings: dict[str, dict[str, Setting]] = {}
    for table, path, value in _iter_keys(file, commands, others=set(root.commands) - commands.keys()):
        key = spell(path[-1])
        if key in settings.setdefault(table, {}):
            raise ConfigError(f"{file.where(*path)}: {path[-1]!r} is set twice{_in(table)}")
        option = _find_option(file, table, path, commands)
        settings[table][key] = Setting(as_typed(value, option, file.where(*path)), file, path)
    return settings


def _iter_keys(
    file: ConfigFile, commands: Mapping[str, Mapping[str, Option]], *, others: set[str]
) -> Iterator[tuple[str, tuple[str, ...], Any]]:
    """Each key with its table, its path, and its value."""
    for name, value in file.data.items():
        if not isinstance(value, dict):
            yield _ALL, (name,), value
            continue
        table = spell(name)
        if table in others:
            raise ConfigError(f"{file.where(name)}: the options of {table!r} are for the command line only")
        if table not in commands or table == _ALL:
            hint = did_you_mean(table, commands) or f"the tables are: {', '.join(sorted(commands)[1:])}"
            raise ConfigError(f"{file.where(name)}: unknown table [{name}]", hint=hint)
        for key, inner in value.items():
            yield table, (name, key), inner


def _find_option(
    file: ConfigFile, table: str, path: tuple[str, ...], commands: Mapping[str, Mapping[str, Option]]
) -> Option:
    key, known = spell(path[-1]), commands[table]
    if key not in known:
        raise ConfigError(
            f"{file.where(*path)}: unknown key {path[-1]!r}{_in(table)}",
            hint=_hint(key, table, commands),
        )
    option = known[key]
    if refusal(key, option):
        raise ConfigError(
            f"{file.where(*path)}: {path[-1]!r} is for the command line only: {refusal(key, option)}"
        )
    if why := refusal(key, option, file=file.name):
        raise ConfigError(
            f"{file.where(*path)}: {path[-1]!r} cannot be set in {PROJECT_FILE}: {why}",
            hint="your own file may set it: `lmcli config path`",
        )
    return option


def _hint(key: str, table: str, commands: Mapping[str, Mapping[str, Option]]) -> str:
    if table == _ALL and key in commands:
        return f"options of one command stand in its table: [{key}]"
    allowed = [name for name, option in commands[table].items() if not refusal(name, option)]
    return (
        did_you_mean(key, allowed)
        or f"`lmcli --no-config config show {table or 'COMMAND'}` lists the options"
    )


def as_typed(value: Any, option: Option, where: str) -> str | list[str]:
    """A value of TOML as one would type it, for Typer to convert. Raises ConfigError if nobody could."""
    if option.is_flag and not isinstance(value, bool):
        raise ConfigError(f"{where}: {option.opts[0]} takes true or false")
    if option.multiple:
        return [_text(each, option, where) for each in (value if isinstance(value, list) else [value])]
    return _text(value, option, where)


def _text(value: Any, option: Option, where: str) -> str:
    if isinstance(value, bool) and option.is_flag:
        return str(value).lower()
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        return str(value)
    many = "texts or numbers" if option.multiple else "a text or a number"
    raise ConfigError(f"{where}: {option.opts[0]} takes {many}, not {_KINDS.get(type(value), 'a date')}")


_KINDS = {bool: "true or false", dict: "a table", list: "a list"}


def spell(name: str) -> str:
    """The name of an option as it is typed."""
    return name.replace("_", "-")


def _in(table: str) -> str:
    return f" in [{table}]" if table else ""
