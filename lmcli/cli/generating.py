"""The commands `translate` and `summarize`."""

from typing import Annotated, Literal

import typer

from lmcli.cli.generation import Generation
from lmcli.cli.labelling import As
from lmcli.cli.streams import Streams, with_streams
from lmcli.errors import UsageError

Option = typer.Option


@with_streams
def translate(
    *,
    to: Annotated[
        str | None,
        Option(metavar="LANG[,LANG...]", help="Languages to translate into, by code or name: fr, French."),
    ] = None,
    from_: Annotated[
        str | None,
        Option("--from", metavar="LANG", help="Language of the texts, where the model has several."),
    ] = None,
    split: Annotated[
        bool, Option("--split/--no-split", help="Translate sentence by sentence, or line by line.")
    ] = True,
    unwrap: Annotated[
        bool, Option("--unwrap", help="Single line breaks are spaces; blank lines part paragraphs.")
    ] = False,
    as_field: As = "translation",
    generation: Generation,
    streams: Streams,
) -> None:
    """Translate each text.

    Text output has the translation; several languages are separated by tabs. JSONL and tables, written
    in the format they came in, keep every original field and add `translation`.

    Example: lmcli translate --by doc letter.txt
    """
    from lmcli.bundle.load import load_seq2seq
    from lmcli.cli.run import run_task
    from lmcli.tasks.generation import GenerationOptions
    from lmcli.tasks.translate import Translate, TranslateOptions, plan

    targets = () if to is None else tuple(name.strip() for name in to.split(",") if name.strip())
    if to is not None and not targets:
        raise UsageError("--to names no language", hint="separate several by commas: --to fr,de")
    options = TranslateOptions(
        to=targets,
        from_=from_,
        split=split,
        unwrap=unwrap,
        as_field=as_field,
        generation=GenerationOptions(**vars(generation)),
    )
    run_task(
        streams,
        "translation",
        load_seq2seq,
        lambda manifest, engine: Translate(manifest, engine, options),
        check=lambda manifest: plan(manifest, options),
        prose=len(targets) <= 1 and options.generation.has_plain_text,
    )


@with_streams
def summarize(
    *,
    length: Annotated[
        Literal["short", "medium", "long"],
        Option(help="A tenth of the text, what the model was made for, or a third of the text."),
    ] = "medium",
    language: Annotated[
        str, Option(metavar="LANG", help="Language of the texts; decides where sentences end.")
    ] = "en",
    as_field: As = "summary",
    generation: Generation,
    streams: Streams,
) -> None:
    """Summarize each text; --by doc makes a file one text.

    Text output has the summary. JSONL and tables, written in the format they came in, keep every original
    field and add `summary`. No model for this ships with lmcli: `lmcli export` makes one.

    Example: lmcli summarize --model my-summarizer --by doc report.txt
    """
    from lmcli.bundle.load import load_seq2seq
    from lmcli.cli.run import reporter, run_task
    from lmcli.tasks.generation import GenerationOptions
    from lmcli.tasks.summarize import Summarize, SummarizeOptions, plan

    options = SummarizeOptions(
        length=length,
        language=language,
        as_field=as_field,
        generation=GenerationOptions(**vars(generation)),
    )
    run_task(
        streams,
        "summarization",
        load_seq2seq,
        lambda manifest, engine: Summarize(manifest, engine, options, report=reporter(streams)),
        check=lambda manifest: plan(manifest, options),
        prose=options.generation.has_plain_text,
    )
