"""`FewShot`: the options for the examples that a prompt begins with; what reads and chooses them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lmcli.errors import UsageError

if TYPE_CHECKING:
    from lmcli.engine.devices import Device
    from lmcli.prompting.examples import Embedder, Example, Shots
    from lmcli.tasks.prompt_options import PromptOptions

Option = typer.Option

_MOST_SHOTS = 8


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """The examples that a prompt begins with."""

    examples: Annotated[
        str | None, Option(metavar="FILE", help="Examples with their answers: JSONL, TSV or CSV.")
    ] = None
    examples_format: Annotated[
        Literal["auto", "jsonl", "csv", "tsv"], Option(help="Format of the examples; auto goes by suffix.")
    ] = "auto"
    answer: Annotated[
        str | None,
        Option(metavar="FIELD", help="Answer of an example. Default: its label, answer or output."),
    ] = None
    shots: Annotated[
        int | None,
        Option("--shots", "-k", min=0, metavar="N", help="Examples of a prompt. Default: up to 8."),
    ] = None
    select: Annotated[
        Literal["first", "random", "balanced", "bm25", "similar"] | None,
        Option(help="Which examples; bm25 and similar choose for each text. Default: first."),
    ] = None
    embedder: Annotated[
        str | None, Option(metavar="NAME", help="Bundle that compares texts for --select similar.")
    ] = None


def examples_of(
    few_shot: FewShot,
    options: "PromptOptions",
    *,
    text_field: str,
    encoding: str | None,
    inputs: Sequence[str],
) -> "list[Example]":
    """The examples, if there are to be any. Raises UsageError for options that need a file of them.

    inputs: the names of the records' files; none is standard input.
    """
    from lmcli.prompting.examples import read_examples
    from lmcli.records.source import STDIN, check_is_read_once
    from lmcli.tasks.prompt_options import check_takes_examples

    if few_shot.examples is None:
        for name in ("answer", "shots", "select", "embedder"):
            if getattr(few_shot, name) is not None:
                raise UsageError(f"--{name} is for examples", hint="name a file of them with --examples")
        return []
    check_takes_examples(options)
    check_is_read_once([few_shot.examples, *(inputs or [STDIN])])
    if few_shot.embedder is not None and few_shot.select != "similar":
        raise UsageError("--embedder is for --select similar", hint="add it, or leave --embedder out")
    examples = read_examples(
        few_shot.examples,
        options.template.fields,
        answer=few_shot.answer,
        text_field=text_field,
        file_format=few_shot.examples_format,
        encoding=encoding,
    )
    if few_shot.shots is not None and few_shot.shots > len(examples):
        raise UsageError(f"--shots {few_shot.shots}: {few_shot.examples} has {len(examples)} examples")
    return examples


def embedder_digest(few_shot: FewShot) -> str | None:
    """The digest of the bundle that compares texts, if one does. Raises BundleError."""
    from lmcli.bundle.store import open_bundle

    if few_shot.select != "similar":
        return None
    return open_bundle(few_shot.embedder, task="feature-extraction").digest


@contextmanager
def open_shots(
    few_shot: FewShot,
    examples: "list[Example]",
    device: "Device",
    threads: int,
    report: Callable[[str], None],
    *,
    seed: int,
) -> "Iterator[Shots | None]":
    """What chooses the examples of a prompt, if there are any. Raises BundleError."""
    from lmcli.prompting.examples import make_shots

    if not examples:
        yield None
        return
    wanted = few_shot.shots
    with _open_embedder(few_shot, device, threads, report) as embedder:
        yield make_shots(
            examples,
            few_shot.select or "first",
            num_shots=min(_MOST_SHOTS, len(examples)) if wanted is None else wanted,
            seed=seed,
            embedder=embedder,
        )


def _open_embedder(
    few_shot: FewShot, device: "Device", threads: int, report: Callable[[str], None]
) -> AbstractContextManager["Embedder | None"]:
    """What compares texts, if something does. There are many examples, however few the records are."""
    if few_shot.select != "similar":
        return nullcontext()
    from lmcli.bundle.load import load_embedder
    from lmcli.bundle.store import open_bundle

    bundle = open_bundle(few_shot.embedder, task="feature-extraction")
    return load_embedder(bundle, replace(device, threads_each=1), threads=threads, report=report)
