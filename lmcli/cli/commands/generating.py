"""The commands `translate` and `summarize`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import typer

from lmcli.cli.commands.generation import Generation
from lmcli.cli.messages import reporter
from lmcli.cli.streams import As, Model, Streams
from lmcli.errors import BundleError, UsageError

if TYPE_CHECKING:
    from lmcli.bundle.store import Bundle
    from lmcli.engine.devices import Device
    from lmcli.pipeline.stage import Stage
    from lmcli.prompting.chat import ChatTemplate
    from lmcli.tasks.generator import Engine

Option = typer.Option


def translate(
    *,
    model: Model = None,
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
    streams: Streams,  # noqa: ARG001
) -> "Stage":
    """Translate each text.

    Text output has the translation; several languages are separated by tabs. JSONL and tables, written
    in the format they came in, keep every original field and add `translation`.

    Example: lmcli translate --by doc letter.txt
    """
    from lmcli.bundle.load import load_seq2seq
    from lmcli.pipeline.stage import Stage
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
    return Stage(
        command="translate",
        task="translation",
        adds=as_field,
        model=model,
        load=load_seq2seq,
        make=lambda manifest, engine: Translate(manifest, engine, options),
        identity=asdict(options),
        check=lambda manifest: plan(manifest, options),
        writes_text=len(targets) <= 1,
        writes_texts=len(targets) > 1,
        parts=None if len(targets) > 1 else (),
        is_prose=len(targets) <= 1 and options.generation.has_plain_text,
    )


def summarize(
    *,
    model: Model = None,
    length: Annotated[
        Literal["short", "medium", "long"],
        Option(help="A sentence or a tenth of the text, the model's own length, or more detail."),
    ] = "medium",
    language: Annotated[
        str, Option(metavar="LANG", help="Language of the texts; decides where sentences end.")
    ] = "en",
    as_field: As = "summary",
    generation: Generation,
    streams: Streams,
) -> "Stage":
    """Summarize each text; --by doc makes a file one text.

    Text output has the summary. JSONL and tables, written in the format they came in, keep every original
    field and add `summary`. `lmcli pull smollm2-135m-instruct` gets the model.

    Example: lmcli summarize --by doc report.txt
    """
    from lmcli.pipeline.stage import Stage
    from lmcli.tasks.generation import GenerationOptions
    from lmcli.tasks.summarize import Summarize
    from lmcli.tasks.summarize_options import SummarizeOptions, plan

    options = SummarizeOptions(
        length=length,
        language=language,
        as_field=as_field,
        generation=GenerationOptions(**vars(generation)),
    )
    return Stage(
        command="summarize",
        task="summarization",
        adds=as_field,
        model=model,
        load=_load_summarizer,
        make=lambda manifest, loaded: Summarize(
            manifest, loaded.engine, options, chat=loaded.chat, report=reporter(wanted=streams.is_talkative)
        ),
        identity=asdict(options),
        also=("text-generation",),
        check=lambda manifest: plan(manifest, options),
        writes_text=True,
        parts=(),
        is_prose=options.generation.has_plain_text,
    )


class _Summarizer(NamedTuple):
    """A model that summarizes, and how a language model is asked for it."""

    engine: "Engine"
    chat: "ChatTemplate | None"


@contextmanager
def _load_summarizer(
    bundle: "Bundle", device: "Device", /, *, threads: int, report: Callable[[str], None]
) -> Iterator[_Summarizer]:
    from lmcli.bundle.load import load_causal, load_seq2seq

    if bundle.manifest.causal is None:
        with load_seq2seq(bundle, device, threads=threads, report=report) as engine:
            yield _Summarizer(engine, None)
    else:
        chat = _chat_template(bundle)  # what it refuses is refused before a model is loaded in vain
        with load_causal(bundle, device, threads=threads, report=report) as model:
            yield _Summarizer(model, chat)


def _chat_template(bundle: "Bundle") -> "ChatTemplate":
    """How to ask the bundle's model. Raises BundleError if it takes no questions."""
    from lmcli.prompting.chat import ChatError, Message, read_chat_template

    name = bundle.manifest.name
    chat = read_chat_template(bundle)
    if chat is None:
        raise BundleError(
            f"{name} has no chat template: it continues texts and takes no instructions",
            hint="--model names another one; `lmcli prompt --raw` has this one continue a text",
        )
    try:
        chat.render([Message("user", "text")])
    except ChatError as error:
        raise BundleError(f"{name}: {error}") from error
    return chat
