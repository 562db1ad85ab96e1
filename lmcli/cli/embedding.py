"""The command `embed`."""

from lmcli.cli.labelling import As
from lmcli.cli.streams import Streams, with_streams


@with_streams
def embed(*, as_field: As = "embedding", streams: Streams) -> None:
    """Turn each text into a vector; texts that mean similar things have vectors that lie close together.

    Text output has the vector as a JSON array. JSONL and tables, written in the format they came in, keep
    every original field and add `embedding`. `lmcli pull all-minilm-l6-v2` gets the model.

    Example: lmcli embed -O jsonl notes.txt > notes.jsonl
    """
    from lmcli.bundle.load import load_embedder
    from lmcli.cli.run import run_task
    from lmcli.tasks.embed import Embed, EmbedOptions

    options = EmbedOptions(as_field=as_field)
    run_task(streams, "feature-extraction", load_embedder, lambda _, embedder: Embed(embedder, options))
