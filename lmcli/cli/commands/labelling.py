"""The commands `sentiment` and `ner`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lmcli.cli.streams import As, Model, Streams

if TYPE_CHECKING:
    from lmcli.pipeline.stage import Stage

Option = typer.Option


def sentiment(
    *,
    model: Model = None,
    all_scores: Annotated[bool, Option("--all-scores", help="Show the score of every label.")] = False,
    threshold: Annotated[
        float, Option(min=0, max=1, help="Score from which a multi-label model reports a label.")
    ] = 0.5,
    as_field: As = "sentiment",
    streams: Streams,  # noqa: ARG001
) -> "Stage":
    """Label each text: POSITIVE or NEGATIVE, or whatever the model knows.

    Text output has the label, the score and the text, separated by tabs. JSONL and tables, written in
    the format they came in, keep every original field and add `sentiment`.

    Example: lmcli sentiment reviews.txt | grep ^NEGATIVE
    """
    from lmcli.bundle.load import load_encoder
    from lmcli.pipeline.stage import Stage
    from lmcli.tasks.sentiment import Sentiment, SentimentOptions

    options = SentimentOptions(all_scores=all_scores, threshold=threshold, as_field=as_field)
    return Stage(
        command="sentiment",
        task="text-classification",
        adds=as_field,
        model=model,
        load=load_encoder,
        make=lambda manifest, encoder: Sentiment(manifest, encoder, options),
        identity=asdict(options),
        parts=("label", "score", "labels", "scores"),
    )


def ner(
    *,
    model: Model = None,
    strategy: Annotated[
        Literal["first", "average", "max", "simple"],
        Option(help="How a word's tokens decide its label; simple labels tokens."),
    ] = "first",
    style: Annotated[
        Literal["inline", "spans", "conll"],
        Option(help="Text output: marks in the text, a line for each entity, or a line for each word."),
    ] = "inline",
    as_field: As = "entities",
    color: Annotated[
        Literal["auto", "always", "never"],
        Option(help="Colour entities in inline style; auto: on a terminal, unless NO_COLOR is set."),
    ] = "auto",
    streams: Streams,
) -> "Stage":
    r"""Find persons, places, organisations and other entities in each text.

    Text output marks them, `[Marie Curie](PER)`. JSONL and tables, written in the format they came in,
    keep every original field and add `entities` with label, text, character offsets and score.

    Example: lmcli ner --style spans notes.txt | cut -f 5,7
    """
    from lmcli.bundle.load import load_encoder
    from lmcli.cli.running.inputs import colors_data
    from lmcli.pipeline.stage import Stage
    from lmcli.tasks.ner import Ner, NerOptions

    is_styled = style == "inline" and colors_data(streams, color)
    options = NerOptions(strategy=strategy, style="highlight" if is_styled else style, as_field=as_field)
    return Stage(
        command="ner",
        task="token-classification",
        adds=as_field,
        model=model,
        load=load_encoder,
        make=lambda manifest, encoder: Ner(manifest, encoder, options),
        identity=asdict(options),
        is_styled=is_styled,
    )
