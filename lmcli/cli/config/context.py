"""Options that are set outside the command line: by variables, by ./lmcli.toml, by the user's config.toml.

The command line wins over a variable, that over ./lmcli.toml, that over the user's file, and each over the
default. `configure` makes a command look there. Typer does the looking: it asks a parameter's variables and
then `Context.lookup_default`, and converts and refuses what it gets as it does on the command line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import typer

from lmcli.cli.config.file import PROJECT_FILE, read_file, user_file
from lmcli.cli.config.keys import (
    Command,
    Option,
    Setting,
    Settings,
    configured,
    options,
    read_settings,
    reads_records,
    refusal,
    variable,
)
from lmcli.errors import ConfigError, LmcliError, UsageError
from lmcli.spelling import did_you_mean

T = TypeVar("T")

NO_CONFIG = "LMCLI_NO_CONFIG"
_OTHERS = {"LMCLI_HOME", "LMCLI_NO_PROGRESS", NO_CONFIG}
_META = "lmcli.config"
JOB = "lmcli.job"
"""Where a context keeps the settings of a job by the name of the parameter."""
_BY_HAND = {"command line", "default"}


class ConfiguredContext(typer.Context):
    """Looks up an option in the files when neither the command line nor a variable has it."""

    def lookup_default(self, name: str, call: bool = True) -> Any | None:
        """The value of the parameter `name`. Raises ConfigError if a file is no good."""
        # Help asks without `call`: it shows the defaults of lmcli, also where a file is broken.
        if not call or self.resilient_parsing:
            return None
        found = self.setting(name)
        return None if found is None else found.value

    def setting(self, name: str) -> Setting | None:
        """What the files say of the parameter `name`; a job that is run is the strongest."""
        if (said := self.meta.get(JOB, {}).get(name)) is not None and self.parent is self.find_root():
            found: Setting = said
            return found
        if not (files := _files(self)):
            return None
        keys = [key for key, option in options(self.command).items() if option.name == name]
        tables = [file.get(table, {}) for file in files for table in (self.info_name or "", "")]
        return next((table[key] for table in tables for key in keys if key in table), None)

    def origin(self, option: Option) -> str:
        """What set `option`: `env NAME`, `FILE:LINE`, `command line` or `default`."""
        source = self.get_parameter_source(option.name)
        setting = self.setting(option.name)
        match source.name if source else "DEFAULT":
            case "ENVIRONMENT":
                return f"env {next(name for name in _variables(option) if os.environ.get(name))}"
            case "DEFAULT_MAP" if setting is not None:
                return setting.origin
            case "COMMANDLINE":
                return "command line"
            case _:
                return "default"

    def invoke(self, callback: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call the command. Where it refuses an option that nobody typed, the hint says who set it."""
        try:
            return super().invoke(callback, *args, **kwargs)
        except UsageError as error:
            words = set(re.findall(r"--[\w-]+", error.message))
            for option in options(self.command).values():
                if words & set(option.opts) and (where := self.origin(option)) not in _BY_HAND:
                    error.hint = "; ".join(filter(None, [error.hint, f"{option.opts[0]} is set by {where}"]))
            raise


def configure(name: str, command: Any) -> None:
    """Let the options of a command be set elsewhere, if it reads records.

    All other commands make, replace or remove things. What they do is said on the command line only.
    """
    if reads_records(command):
        let_be_set(name, command)


def let_be_set(name: str, command: Any) -> None:
    """Let the options of a command, or of a stage of that name, be set elsewhere."""
    command.context_class = ConfiguredContext
    for key, option in options(command).items():
        if not refusal(key, option):
            option.envvar = [variable(key, command=name), variable(key)]
            option.show_envvar = False  # two more names for each option would bury the rest of --help


def is_typed(key: str) -> bool:
    """Whether the running command has the option from its command line, or from the job that it runs.

    One that was set for all commands, and has no meaning for this run, is no mistake.
    """
    from typer._click.globals import get_current_context

    context = get_current_context(silent=True)
    option = options(context.command).get(key) if context else None
    if context is None or option is None:
        return False
    source = context.get_parameter_source(option.name)
    is_of_job = option.name in context.meta.get(JOB, {})
    return is_of_job or (source is not None and source.name == "COMMANDLINE")


def blamed(error: typer.BadParameter) -> LmcliError | typer.BadParameter:
    """The error to raise for a bad value: ConfigError if it was not the command line that has it."""
    context, option = error.ctx, error.param
    if not isinstance(context, ConfiguredContext) or not isinstance(option, Option):
        return error
    where = context.origin(option)
    if where in _BY_HAND:
        return error
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    return ConfigError(
        f"{where.removeprefix('env ')}: {message[:1].lower()}{message[1:]}",
        hint=f"`lmcli {context.info_name} --help` says what {option.opts[0]} takes",
    )


def stray_variables(root: Any) -> Iterator[tuple[str, str]]:
    """The variables LMCLI_* that set nothing, each with a hint."""
    commands = configured(root)
    found = (option for command in commands.values() for option in options(command).values())
    names = {name for option in found for name in _variables(option)}
    for name in sorted(set(os.environ) - names - _OTHERS):
        if name.startswith("LMCLI_"):
            yield name, _refused_variable(name, commands) or did_you_mean(name, names)


def _variables(option: Option) -> list[str]:
    return option.envvar if isinstance(option.envvar, list) else []


def _refused_variable(name: str, commands: Mapping[str, Command]) -> str:
    for command_name, command in commands.items():
        for key, option in options(command).items():
            if name in {variable(key), variable(key, command=command_name)} and refusal(key, option):
                return f"{option.opts[0]} is for the command line only: {refusal(key, option)}"
    return ""


def _files(context: typer.Context) -> list[Settings]:
    """What the files set, the strongest first. They are read once."""
    root = context.find_root()
    if root.params.get("no_config"):
        return []
    if _META not in root.meta:
        user = user_file()
        names = [PROJECT_FILE] if user is None else [PROJECT_FILE, str(user)]
        found = [file for name in names if (file := read_file(name)) is not None]
        root.meta[_META] = [read_settings(file, root.command) for file in found]
    return list(root.meta[_META])
