"""The commands `sentiment` and `ner`."""

from typing import Annotated, Literal

import typer

from lmcli.cli.streams import Streams, with_streams

Option = typer.Option
As = Annotated[str, Option("--as", metavar="NAME", help="Name of the field that is added.")]


@with_streams
def sentiment(
    *,
    all_scores: Annotated[bool, Option("--all-scores", help="Show the score of every label.")] = False,
    threshold: Annotated[
        float, Option(min=0, max=1, help="Score from which a multi-label model reports a label.")
    ] = 0.5,
    as_field: As = "sentiment",
    streams: Streams,
) -> None:
    """Label each text: POSITIVE or NEGATIVE, or whatever the model knows.

    Text output has the label, the score and the text, separated by tabs. JSONL and tables, written in
    the format they came in, keep every original field and add `sentiment`.

    Example: lmcli sentiment reviews.txt | grep ^NEGATIVE
    """
    from lmcli.bundle.load import load_encoder
    from lmcli.cli.run import run_task
    from lmcli.tasks.sentiment import Sentiment, SentimentOptions

    options = SentimentOptions(all_scores=all_scores, threshold=threshold, as_field=as_field)
    run_task(
        streams,
        "text-classification",
        load_encoder,
        lambda manifest, encoder: Sentiment(manifest, encoder, options),
    )


@with_streams
def ner(
    *,
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
) -> None:
    r"""Find persons, places, organisations and other entities in each text.

    Text output marks them, `[Marie Curie](PER)`. JSONL and tables, written in the format they came in,
    keep every original field and add `entities` with label, text, character offsets and score.

    Example: lmcli ner --style spans notes.txt | awk -F'\t' '$5 == "PER" {print $7}'
    """
    from lmcli.bundle.load import load_encoder
    from lmcli.cli.run import colors_data, run_task
    from lmcli.tasks.ner import Ner, NerOptions

    styled = style == "inline" and colors_data(streams, color)
    options = NerOptions(strategy=strategy, style="highlight" if styled else style, as_field=as_field)
    run_task(
        streams,
        "token-classification",
        load_encoder,
        lambda manifest, encoder: Ner(manifest, encoder, options),
        styled=styled,
    )
