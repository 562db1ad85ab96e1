"""`Generation`: the options that all commands share whose models write text, declared once."""

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

Option = typer.Option


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How outputs are searched for, and how much of them is shown; the default is what the model says."""

    num_beams: Annotated[
        int | None,
        Option(min=1, max=64, metavar="N", help="Beams; 1 is greedy search. Default: the model's."),
    ] = None
    length_penalty: Annotated[
        float | None,
        Option(metavar="X", help="With beams: above 0 prefers longer outputs, below 0 shorter."),
    ] = None
    early_stopping: Annotated[
        Literal["yes", "no", "never"] | None,
        Option(help="Stop when all beams have ended; never: only when no better one is possible."),
    ] = None
    no_repeat_ngram_size: Annotated[
        int | None, Option(min=0, metavar="N", help="No N tokens come twice in the same order; 0: no limit.")
    ] = None
    repetition_penalty: Annotated[
        float | None, Option(min=1, metavar="X", help="Above 1 makes tokens that came already less likely.")
    ] = None
    min_new_tokens: Annotated[int | None, Option(min=0, metavar="N", help="Least tokens of an output.")] = (
        None
    )
    max_new_tokens: Annotated[int | None, Option(min=1, metavar="N", help="Most tokens of an output.")] = None
    sample: Annotated[
        bool, Option("--sample", help="Draw tokens by their probability, the same for equal texts.")
    ] = False
    temperature: Annotated[
        float | None, Option(metavar="X", help="With --sample: below 1 is more cautious, above 1 bolder.")
    ] = None
    top_k: Annotated[
        int | None, Option(min=0, metavar="K", help="With --sample: among the K likeliest tokens; 0: all.")
    ] = None
    top_p: Annotated[
        float | None,
        Option(max=1, metavar="P", help="With --sample: among the likeliest, up to this probability."),
    ] = None
    seed: Annotated[
        int | None, Option(min=0, metavar="N", help="With --sample: another seed, other draws.")
    ] = None
    nbest: Annotated[
        int | None, Option(min=1, max=64, metavar="N", help="Show the N best outputs with their scores.")
    ] = None
    scores: Annotated[bool, Option("--scores", help="Show the mean log-probability of the tokens.")] = False
    retry_degenerate: Annotated[
        bool,
        Option("--retry-degenerate", help="Decode what looks degenerate once more, with other settings."),
    ] = False
