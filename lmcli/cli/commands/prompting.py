"""The command `prompt`."""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from lmcli.cli.commands.few_shot import FewShot
from lmcli.cli.commands.generation import Generation
from lmcli.cli.commands.prompt_request import Request
from lmcli.cli.streams import As, Model, Streams
from lmcli.errors import UsageError, reason

if TYPE_CHECKING:
    from lmcli.pipeline.stage import Stage
    from lmcli.tasks.generation import GenerationOptions

Option = typer.Option


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How a causal model writes, besides what all models have."""

    min_p: Annotated[
        float | None,
        Option(metavar="P", help="With --sample: among tokens at least P times as likely as the likeliest."),
    ] = None
    frequency_penalty: Annotated[
        float | None, Option(metavar="X", help="Above 0 makes tokens less likely each time they come.")
    ] = None
    stop: Annotated[
        list[str] | None, Option(metavar="STRING", help="End before this string; may be given again.")
    ] = None


def prompt(
    *,
    model: Model = None,
    template: Annotated[
        str, Option(metavar="TEXT|FILE", help="What to ask; {text} is the record's text, {name} a field.")
    ] = "{text}",
    system: Annotated[
        str | None, Option(metavar="TEXT|FILE", help="What the model is to be, for its chat template.")
    ] = None,
    raw: Annotated[
        bool, Option("--raw", help="Continue plain text, without the model's chat template.")
    ] = False,
    few_shot: FewShot,
    fit: Annotated[
        Literal["drop", "fail"], Option(help="A prompt that is too long loses examples, or its record fails.")
    ] = "drop",
    choices: Annotated[
        str | None, Option(metavar="A,B,...|FILE", help="Score these answers instead of writing one.")
    ] = None,
    normalize: Annotated[
        Literal["sum", "mean", "pmi"] | None,
        Option(help="How the tokens of a choice become one score. Default: sum."),
    ] = None,
    calibrate: Annotated[
        bool, Option("--calibrate", help="Correct for what choices get where nothing is asked.")
    ] = False,
    strategy: Annotated[
        str, Option(metavar="NAME|FILE", help="plain, cot, least-to-most, last-letter, or FILE.toml.")
    ] = "plain",
    samples: Annotated[
        int | None, Option(min=1, max=1024, metavar="N", help="Ask N times, take the most frequent answer.")
    ] = None,
    extract: Annotated[
        str | None, Option(metavar="REGEX", help="The answer in what the model writes: the last match.")
    ] = None,
    gold: Annotated[
        str | None, Option(metavar="FIELD", help="The right answer; reports the accuracy.")
    ] = None,
    prefix_cache: Annotated[
        bool, Option("--prefix-cache", help="Keep what the prompts begin with for the next run.")
    ] = False,
    show_prompt: Annotated[
        int | None, Option(min=1, metavar="N", help="Show the first N prompts and run no model.")
    ] = None,
    as_field: As = "answer",
    writing: Writing,
    generation: Generation,
    streams: Streams,
) -> "Stage":
    """Ask a language model about each text, or have it choose between given answers.

    Text output has the answer; with --choices answer, score and text. JSONL and tables, written in the
    format they came in, keep every original field and add `answer`. `lmcli pull smollm2-135m-instruct` gets
    the model.

    Example: lmcli prompt --template 'Translate to French: {text}' notes.txt
    """
    from lmcli.prompting.strategy import read_strategy
    from lmcli.prompting.template import Template
    from lmcli.tasks.prompt_options import PromptOptions

    if samples is not None and generation.num_beams is not None:
        raise UsageError("--samples and --num-beams exclude each other", hint="samples are drawn one by one")
    sampling = generation.sample or samples is not None
    options = PromptOptions(
        template=Template.parse(_text_or_file(template)),
        choices=_choices(choices),
        normalize=normalize,
        calibrate=calibrate,
        strategy=read_strategy(strategy),
        extract=_pattern(extract),
        samples=samples,
        gold=gold,
        fit=fit,
        as_field=as_field,
        generation=_generation_options(generation, few_shot, sampling=sampling),
        min_p=writing.min_p,
        frequency_penalty=writing.frequency_penalty,
        stop=tuple(writing.stop or ()),
    )
    request = Request(
        options,
        streams,
        few_shot,
        model=model,
        seed=generation.seed or 0,
        system=None if system is None else _text_or_file(system),
        raw=raw,
        prefix_cache=prefix_cache,
    )
    stage = request.answering() if show_prompt is None else request.showing(show_prompt)
    # Each may name a file; a text is the name of none.
    may_be_files = (template, system, strategy, few_shot.examples, choices and choices.removeprefix("@"))
    return replace(stage, files=tuple(filter(None, may_be_files)))


def _generation_options(generation: Generation, few_shot: FewShot, *, sampling: bool) -> "GenerationOptions":
    """Raises UsageError for --seed without anything random."""
    from lmcli.tasks.generation import GenerationOptions

    given = vars(generation) | {"sample": sampling}
    if generation.seed is not None and not sampling:
        if few_shot.select not in ("random", "balanced"):
            raise UsageError(
                "--seed is for sampling and for random examples",
                hint="add --sample, --select random or --select balanced",
            )
        given["seed"] = None
    return GenerationOptions(**given)


def _choices(given: str | None) -> tuple[str, ...]:
    """Answers from a list or a file."""
    if given is None:
        return ()
    text = _text_or_file(given.removeprefix("@"), is_file=given.startswith("@"))
    is_list = text == given
    lines = [line for line in text.splitlines() if line.strip()]
    found = tuple(part.strip() for part in (text.split(",") if is_list else lines))
    if not any(found):
        raise UsageError("--choices names no answer", hint="--choices positive,negative")
    return found


def _pattern(source: str | None) -> re.Pattern[str] | None:
    try:
        return None if source is None else re.compile(source)
    except re.error as error:
        raise UsageError(f"--extract: not a regular expression: {error}") from error


def _text_or_file(given: str, *, is_file: bool = False) -> str:
    """What stands in the file of that name, if there is one, without a newline at its end; else the text."""
    path = Path(given)
    if not is_file:
        with suppress(OSError, ValueError):  # a text may be too long for a name, or hold a NUL
            is_file = path.exists() and not path.is_dir()  # a pipe is none that `is_file` knows
    if not is_file:
        return given
    try:
        return path.read_text(encoding="utf-8-sig").removesuffix("\n")
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {given}: {reason(error)}") from error
