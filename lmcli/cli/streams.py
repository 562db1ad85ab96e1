"""`Streams`: the options that every task shares, declared once; `with_streams` gives them to a command."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, Literal, get_type_hints

import typer

Option = typer.Option


@dataclass(frozen=True, kw_only=True)
class Streams:
    """Where records come from, where they go, what runs them, and what happens to the ones that fail."""

    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Inputs; `-` or none is standard input."),
    ] = None
    model: Annotated[str | None, Option("--model", "-m", help="Bundle name or path.")] = None
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
    errors: Annotated[
        str | None, Option(metavar="FILE", help="Log failed records to FILE as JSON Lines.")
    ] = None
    fail_fast: Annotated[bool, Option("--fail-fast", help="Stop at the first failed record.")] = False
    max_errors: Annotated[
        int | None, Option(min=0, metavar="N", help="Stop when more than N records failed.")
    ] = None
    quiet: Annotated[bool, Option("--quiet", "-q", help="No messages but fatal errors.")] = False
    verbose: Annotated[bool, Option("--verbose", "-v", help="Say what runs where, and how fast.")] = False


def with_streams(command: Callable[..., None]) -> Callable[..., None]:
    """Extend a command by the options of each dataclass that it takes, such as Streams, and give it those."""
    signature = inspect.signature(command)
    kinds: dict[str, Any] = {name: each.annotation for name, each in signature.parameters.items()}
    groups = {
        name: _options_of(kind)
        for name, kind in kinds.items()
        if isinstance(kind, type) and is_dataclass(kind)
    }
    own = [parameter for name, parameter in signature.parameters.items() if name not in groups]

    @wraps(command)
    def extended(**options: Any) -> None:
        mine = {parameter.name: options[parameter.name] for parameter in own}
        for name, group in groups.items():
            mine[name] = kinds[name](**{parameter.name: options[parameter.name] for parameter in group})
        command(**mine)

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
