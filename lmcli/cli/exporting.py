"""The command `export`."""

import importlib.util
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from lmcli.cli.messages import print_data, say
from lmcli.errors import NoInputError, UnavailableError, UsageError

Option = typer.Option
# As a command, or as transformers calls it.
TaskName = Literal[
    "sentiment",
    "ner",
    "translate",
    "summarize",
    "text-classification",
    "token-classification",
    "translation",
    "summarization",
]


def export(
    source: Annotated[
        str, typer.Argument(help="A checkpoint directory, or a hub id: org/model or org/model@revision.")
    ],
    name: Annotated[
        str | None, typer.Argument(help="Name of the bundle; default the last part of SOURCE.")
    ] = None,
    *,
    task: Annotated[
        TaskName | None, Option(help="Task of the model; default what it was trained for.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8"] | None,
        Option(help="Precision of the weights; default int8 for the CPU, fp16 for CUDA."),
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], Option(help="What the graph is made for.")] = "cpu",
    context_length: Annotated[
        int | None,
        Option(
            min=16,
            metavar="N",
            help="Longest row in tokens, at most what the model allows; default 512, or 1024 where the "
            "model writes text.",
        ),
    ] = None,
    lines: Annotated[
        Path | None, Option(metavar="FILE", help="Prove the export on these lines, not the built-in ones.")
    ] = None,
    license_: Annotated[
        str | None, Option("--license", metavar="NAME", help="License, where the source names none.")
    ] = None,
    notes: Annotated[Path | None, Option(metavar="FILE", help="Markdown to add to the model card.")] = None,
    into: Annotated[
        Path | None, Option(metavar="DIR", help="Folder for the bundle; default the user's store.")
    ] = None,
    allow_pickle: Annotated[
        bool, Option("--allow-pickle", help="Read pickled weights where there are no safetensors.")
    ] = False,
    force: Annotated[bool, Option("--force", help="Replace a bundle of that name.")] = False,
    quiet: Annotated[bool, Option("--quiet", "-q", help="Do not report the steps.")] = False,
) -> None:
    """Turn a trained checkpoint into a bundle, and prove that it gives the same answers.

    Needs the extra `export`: pip install 'lmcli[export]'. Prints the path of the new bundle.

    Example: lmcli export distilbert/distilbert-base-uncased-finetuned-sst-2-english
    """
    from lmcli.bundle.store import COMMANDS, user_store

    parent = into or user_store()
    if parent is None:
        raise UsageError("there is no home directory for the bundle", hint="set LMCLI_HOME or use --into")
    _check_extra()
    from lmcli.export.convert import export as convert
    from lmcli.export.options import ExportOptions

    tasks = {command: known for known, command in COMMANDS.items()} | {known: known for known in COMMANDS}
    options = ExportOptions(
        task=tasks[task] if task else None,
        precision=precision,
        device=device,
        context_length=context_length,
        lines=_read_lines(lines),
        license=license_,
        notes=_read(notes) if notes else "",
        allow_pickle=allow_pickle,
        force=force,
    )
    name = name or _name_of(source)
    path = convert(
        source,
        name,
        options,
        parent=parent,
        report=(lambda _: None) if quiet else say,
        progress=not quiet and sys.stderr is not None and sys.stderr.isatty(),
    )
    print_data(f"{path}\n")


def _name_of(source: str) -> str:
    """The last part of a directory's path, or of a hub id without its revision."""
    return Path(source).resolve().name if Path(source).is_dir() else Path(source.partition("@")[0]).name


def _check_extra() -> None:
    """Raise UnavailableError unless everything of the extra `export` is installed."""
    needed = ("torch", "transformers", "optimum", "onnx", "safetensors", "sentencepiece", "huggingface_hub")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UnavailableError(
            f"export needs packages that are not installed: {', '.join(missing)}",
            hint="install them: pip install 'lmcli[export]'",
        )


def _read_lines(path: Path | None) -> tuple[str, ...]:
    """The lines to prove on: blank ones say nothing."""
    if path is None:
        return ()
    kept = tuple(line for line in _read(path).split("\n") if line.strip())
    if not kept:
        raise NoInputError(f"{path} has no lines of text")
    return kept


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise NoInputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise NoInputError(f"{path} is not UTF-8: {error.reason}") from error
