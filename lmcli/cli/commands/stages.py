"""`STAGES`: the commands that a pipeline may hold. `alone` runs one, `StageParser` makes parts of a pipeline.

The options of a stage are those of its command, read by the same parser.
"""

import inspect
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from lmcli.cli.commands.embedding import embed
from lmcli.cli.commands.generating import summarize, translate
from lmcli.cli.commands.labelling import ner, sentiment
from lmcli.cli.commands.prompting import prompt
from lmcli.cli.config.context import ConfiguredContext, blamed, let_be_set
from lmcli.cli.config.keys import Setting, as_typed, options
from lmcli.cli.streams import Streams, with_groups
from lmcli.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from lmcli.pipeline.stage import Stage

STAGES: "tuple[Callable[..., Stage], ...]" = (sentiment, ner, translate, summarize, prompt, embed)

_YES, _NO = ("yes", "true", "on", "1"), ("no", "false", "off", "0")
_FIELD = "field"
_Field = Annotated[str | None, typer.Option(metavar="FIELD", help="The field that the stage reads.")]


def alone(make: Callable[..., "Stage"]) -> Callable[..., None]:
    """The command that runs one stage: its options are those of the stage and those of all runs."""

    @wraps(make)
    def command(*, streams: Streams, **options: Any) -> None:
        from lmcli.cli.running.run import run_parts

        run_parts(streams, [make(streams=streams, **options)])

    return with_groups(command)


class Given(NamedTuple):
    """An option as it was given: its name with dashes, and its values; none if only the name was."""

    name: str
    values: tuple[str, ...]


class BadOptionError(UsageError):
    """An option of a stage does not exist or has a bad value."""

    def __init__(self, message: str, index: int, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.index = index
        """Of the option among those that were given."""


class _StageContext(ConfiguredContext):
    """Looks up the options of a stage. Configured is the field of an input, not that of a stage."""

    def setting(self, name: str) -> Setting | None:
        return None if name == _FIELD else super().setting(name)


class StageParser:
    """Makes stages, for a run with `streams`."""

    def __init__(self, streams: Streams, context: typer.Context) -> None:
        app = typer.Typer(add_completion=False, rich_markup_mode=None)
        for make in STAGES:
            app.command()(_reading(make, streams))
        group: Any = typer.main.get_command(app)
        self._context = context
        self._commands: dict[str, Any] = group.commands
        for name, command in self._commands.items():
            let_be_set(name, command)
            command.context_class = _StageContext
            options(command)[_FIELD].envvar = None
            for key, option in options(command).items():
                if option.is_flag and not option.secondary_opts:
                    option.secondary_opts = [f"--no-{key}"]  # `KEY=no` wins over what is configured

    @property
    def names(self) -> list[str]:
        """The names of all stages."""
        return list(self._commands)

    def options(self, name: str) -> list[str]:
        """The names of the options of a stage."""
        return list(options(self._commands[name]))

    def typed(self, name: str, key: str, value: Any, where: str) -> tuple[str, ...]:
        """A value of TOML for the option `key` of a stage, as one would type it. Raises ConfigError."""
        typed = as_typed(value, options(self._commands[name])[key], where)
        return (typed,) if isinstance(typed, str) else tuple(typed)

    def takes_several(self, name: str, option: str) -> bool:
        """Whether an option of a stage may be given more than once."""
        return bool(options(self._commands[name])[option].multiple)

    def __call__(self, name: str, given: Iterable[Given]) -> "Stage":
        """The stage of that name.

        Raises BadOptionError for one option, ConfigError for one that was configured, and UsageError for what
        they ask for.
        """
        command = self._commands[name]
        given = list(given)
        words: list[str] = []
        for index, option in enumerate(given):
            words += _as_typed(command, option, index)
        try:
            with command.make_context(name, words, parent=self._context) as context:
                stage: Stage = command.invoke(context)
                return stage
        except typer.BadParameter as error:
            if isinstance(blame := blamed(error), ConfigError):
                raise blame from error
            typed = [max(option.opts, key=len) for option in [error.param] if option is not None]
            index = next((i for i, each in enumerate(given) if f"--{each.name}" in typed), 0)
            message = error.message.removeprefix("Value error, ").rstrip(".")
            raise BadOptionError(message[:1].lower() + message[1:], index) from error


def _reading(make: "Callable[..., Stage]", streams: Streams) -> "Callable[..., Stage]":
    """The stage with one option more: the field that it reads."""
    inner = with_groups(make, streams=streams)

    def build(*, field: str | None = None, **options: Any) -> "Stage":
        return replace(inner(**options), reads=field)

    field = inspect.Parameter("field", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_Field)
    signature = inspect.signature(inner)
    parameters = [field, *signature.parameters.values()]
    build.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    build.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    build.__name__ = make.__name__
    return build


def _as_typed(command: Any, given: Given, index: int) -> list[str]:
    """An option as it is typed on a command line."""
    option = options(command).get(given.name)
    if option is None:
        raise BadOptionError(f"{command.name} has no option {given.name!r}", index)
    if not option.is_flag:
        if not given.values:
            raise BadOptionError(f"{given.name} needs a value", index, hint=f"{given.name}=VALUE")
        return [f"--{given.name}={value}" for value in given.values]
    [value] = given.values or ("yes",)
    if value.lower() not in (*_YES, *_NO):
        raise BadOptionError(f"{given.name} is yes or no, not {value!r}", index)
    if value.lower() in _YES:
        return [f"--{given.name}"]
    return option.secondary_opts[:1]
