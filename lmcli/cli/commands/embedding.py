"""The command `embed`."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from lmcli.cli.streams import As, Model, Streams

if TYPE_CHECKING:
    from lmcli.pipeline.stage import Stage


def embed(
    *,
    model: Model = None,
    as_field: As = "embedding",
    streams: Streams,  # noqa: ARG001
) -> "Stage":
    """Turn each text into a vector; texts that mean similar things have vectors that lie close together.

    Text output has the vector as a JSON array. JSONL and tables, written in the format they came in, keep
    every original field and add `embedding`. `lmcli pull all-minilm-l6-v2` gets the model.

    Example: lmcli embed -O jsonl notes.txt > notes.jsonl
    """
    from lmcli.bundle.load import load_embedder
    from lmcli.pipeline.stage import Stage
    from lmcli.tasks.embed import Embed, EmbedOptions

    options = EmbedOptions(as_field=as_field)
    return Stage(
        command="embed",
        task="feature-extraction",
        adds=as_field,
        model=model,
        load=load_embedder,
        make=lambda _, embedder: Embed(embedder, options),
        identity=asdict(options),
    )
