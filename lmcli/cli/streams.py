"""`Streams`: the options that all runs share, declared once; `with_groups` gives them to a command."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_type_hints

import typer

from lmcli.cli.messages import LogFormat, set_log_format

T = TypeVar("T")

Option = typer.Option
As = Annotated[str, Option("--as", metavar="NAME", help="Name of the field that is added.")]
Model = Annotated[str | None, Option("--model", "-m", help="Bundle name or path.")]


def _choose_log_format(log_format: LogFormat) -> LogFormat:
    """In force from here on: what is wrong with other options is told in that format, too."""
    set_log_format(log_format)
    return log_format


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Where records come from, where they go, what runs them, and what happens to the ones that fail."""

    is_pipeline: ClassVar[bool] = False
    """Whether several stages may be at work."""

    @property
    def is_talkative(self) -> bool:
        """Whether to say what runs where, and how."""
        return self.verbose and not self.quiet

    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Inputs; `-` or none is standard input."),
    ] = None
    device: Annotated[str, Option(metavar="auto|cpu|cuda[:N]", help="Where the model runs.")] = "auto"
    threads: Annotated[
        int | None, Option(min=1, help="Worker threads; default the cores this process may use.")
    ] = None
    input_format: Annotated[
        Literal["auto", "text", "jsonl", "csv", "tsv"],
        Option("--input-format", "-I", help="Format of the inputs; auto goes by suffix."),
    ] = "auto"
    output_format: Annotated[
        Literal["auto", "text", "jsonl", "csv", "tsv", "nul"],
        Option("--output-format", "-O", help="Format of the output; auto is that of the input."),
    ] = "auto"
    by: Annotated[Literal["line", "para", "doc", "nul"], Option(help="What a record of a text input is.")] = (
        "line"
    )
    field: Annotated[str, Option(help="Key or column that holds the text (JSONL, CSV, TSV).")] = "text"
    encoding: Annotated[
        str | None, Option(help="Encoding of the inputs; default UTF-8, or UTF-16 with a BOM.")
    ] = None
    files_from: Annotated[
        str | None, Option(metavar="LIST", help="Read input names from LIST, one a line.")
    ] = None
    files0_from: Annotated[
        str | None, Option("--files0-from", metavar="LIST", help="The same, each name ended by NUL.")
    ] = None
    output: Annotated[
        str | None, Option("--output", "-o", metavar="FILE", help="Write FILE, whole or not at all.")
    ] = None
    force: Annotated[bool, Option("--force", help="Let --output replace one of the inputs.")] = False
    resume: Annotated[
        bool, Option("--resume", help="Continue a run that ended early; keeps a journal beside --output.")
    ] = False
    lock_wait: Annotated[
        float | None, Option(min=0, metavar="SECONDS", help="Wait for another run that writes the same file.")
    ] = None
    max_seconds: Annotated[
        float | None, Option(min=0.001, metavar="N", help="Stop after N seconds, with exit code 75.")
    ] = None
    cache: Annotated[bool, Option("--cache", help="Keep results for later runs, and use those kept.")] = False
    cache_size: Annotated[
        int, Option(min=1, max=1_000_000, metavar="MB", help="What --cache may keep, in megabytes.")
    ] = 1000
    errors: Annotated[
        str | None, Option(metavar="FILE", help="Log failed records to FILE as JSON Lines.")
    ] = None
    fail_fast: Annotated[bool, Option("--fail-fast", help="Stop at the first failed record.")] = False
    max_errors: Annotated[
        int | None, Option(min=0, metavar="N", help="Stop when more than N records failed.")
    ] = None
    summary: Annotated[
        str | None, Option(metavar="FILE", help="Write the run in numbers, as JSON, when it is over.")
    ] = None
    log_format: Annotated[
        Literal["text", "json"],
        Option(
            help="Messages on stderr: lines for people, or JSON Lines.",
            callback=_choose_log_format,
            is_eager=True,
        ),
    ] = "text"
    quiet: Annotated[bool, Option("--quiet", "-q", help="No messages but fatal errors.")] = False
    verbose: Annotated[bool, Option("--verbose", "-v", help="Say what runs where, and how fast.")] = False


def with_groups(command: Callable[..., T], **given: Any) -> Callable[..., T]:
    """A command that takes the options of each dataclass in its signature, such as Streams, one by one.

    What is `given` is no option.
    """
    signature = inspect.signature(command)
    taken = {name: each for name, each in signature.parameters.items() if name not in given}
    groups = {
        name: _options_of(each.annotation)
        for name, each in taken.items()
        if isinstance(each.annotation, type) and is_dataclass(each.annotation)
    }
    own = [parameter for name, parameter in taken.items() if name not in groups]

    @wraps(command)
    def extended(**options: Any) -> T:
        mine = {parameter.name: options[parameter.name] for parameter in own}
        for name, group in groups.items():
            kind = taken[name].annotation
            mine[name] = kind(**{parameter.name: options[parameter.name] for parameter in group})
        return command(**mine, **given)

    parameters = [*own, *(parameter for group in groups.values() for parameter in group)]
    extended.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    extended.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return extended


def _options_of(kind: type[Any]) -> list[inspect.Parameter]:
    """The fields of a dataclass as parameters of a command."""
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            item.name, inspect.Parameter.KEYWORD_ONLY, default=item.default, annotation=hints[item.name]
        )
        for item in fields(kind)
    ]
