"""The command `prompt`."""

import dataclasses
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from lmcli.cli.commands.generation import Generation
from lmcli.cli.streams import As, Model, Streams
from lmcli.errors import UsageError

if TYPE_CHECKING:
    from lmcli.bundle.store import Bundle
    from lmcli.engine.devices import Device
    from lmcli.engine.tokenizer import Tokenizer
    from lmcli.pipeline.stage import Stage
    from lmcli.prompting.dialogue import Frame
    from lmcli.prompting.examples import Embedder, Example, Shots
    from lmcli.prompting.model import LanguageModel
    from lmcli.tasks.generation import GenerationOptions
    from lmcli.tasks.prompt_options import PromptOptions

Option = typer.Option

TEXT = Streams.field
_MOST_SHOTS = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
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


@dataclasses.dataclass(frozen=True, kw_only=True)
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
    request = _Request(
        options,
        streams,
        few_shot,
        model=model,
        seed=generation.seed or 0,
        system=None if system is None else _text_or_file(system),
        raw=raw,
        prefix_cache=prefix_cache,
    )
    return request.answering() if show_prompt is None else request.showing(show_prompt)


class _Loaded(NamedTuple):
    """What a run needs of its bundles."""

    model: "LanguageModel"
    frame: "Frame"
    shots: "Shots | None"


class _Tools(NamedTuple):
    """What shows prompts: as `_Loaded`, without a model."""

    tokenizer: "Tokenizer"
    frame: "Frame"
    shots: "Shots | None"


class _Request:
    """What the command asks for: examples are read first, then bundles are loaded, then records answered."""

    def __init__(
        self,
        options: "PromptOptions",
        streams: Streams,
        few_shot: FewShot,
        *,
        model: str | None,
        seed: int,
        system: str | None,
        raw: bool,
        prefix_cache: bool,
    ) -> None:
        self._options = options
        self._streams = streams
        self._few_shot = few_shot
        self._model = model
        self._seed = seed
        self._system = system
        self._raw = raw
        self._prefix_cache = prefix_cache
        self._examples = _read_examples(few_shot, options, streams)

    def answering(self) -> "Stage":
        """The stage that answers records."""
        from lmcli.pipeline.stage import Stage
        from lmcli.tasks.prompt import Prompt, question_of
        from lmcli.tasks.prompt_options import plan

        options = self._options
        return Stage(
            **self._common(),
            load=self._load,
            make=lambda manifest, loaded: Prompt(
                manifest,
                loaded.model,
                loaded.frame,
                options,
                shots=loaded.shots,
                show=_live_output(self._streams),
            ),
            check=lambda manifest: plan(manifest, options),
            writes_text=not options.choices,
            is_prose=options.has_plain_text,
            cache_key=lambda record: question_of(record, options),
        )

    def showing(self, num_records: int) -> "Stage":
        """The stage that shows the prompts of the first records."""
        from lmcli.pipeline.stage import Stage
        from lmcli.tasks.prompt_options import plan
        from lmcli.tasks.prompt_show import ShowPrompts

        return Stage(
            **self._common(),
            load=self._load_tools,
            make=lambda manifest, tools: ShowPrompts(
                manifest,
                tools.tokenizer,
                tools.frame,
                self._options,
                shots=tools.shots,
                num_records=num_records,
            ),
            check=lambda manifest: plan(manifest, self._options),
            is_for_people=True,
            cache_key=lambda _: None,
        )

    def _common(self) -> dict[str, Any]:
        """What both stages have in common."""
        options = self._options
        names = [*options.template.fields, *([] if options.gold is None else [options.gold])]
        return {
            "command": "prompt",
            "task": "text-generation",
            "adds": options.as_field,
            "model": self._model,
            "text_field": _text_field(options),
            "needs": tuple(name for name in names if name != TEXT),
            "identity": {
                **dataclasses.asdict(options),
                **vars(self._few_shot),
                "examples": [example._asdict() for example in self._examples],
                "embedder": self._embedder_digest(),
                "seed": self._seed,
                "system": self._system,
                "raw": self._raw,
            },
        }

    @contextmanager
    def _load(
        self, bundle: "Bundle", device: "Device", /, *, threads: int, report: Callable[[str], None]
    ) -> Iterator[_Loaded]:
        from lmcli.bundle.load import load_causal, prefix_store

        prefixes = prefix_store(bundle) if self._prefix_cache else None
        make_frame = self._framing(bundle)  # what it refuses is refused before a model is loaded in vain
        with ExitStack() as stack:
            embedder = stack.enter_context(self._open_embedder(device, threads, report))
            model = stack.enter_context(
                load_causal(bundle, device, threads=threads, report=report, prefixes=prefixes)
            )
            yield _Loaded(model, make_frame(model.tokenizer), self._shots(embedder))
            computed, reused = model.num_tokens
            report(f"prompts: {computed} tokens computed, {reused} taken over from others")

    @contextmanager
    def _load_tools(
        self, bundle: "Bundle", device: "Device", /, *, threads: int, report: Callable[[str], None]
    ) -> Iterator[_Tools]:
        from lmcli.engine.tokenizer import Tokenizer

        make_frame = self._framing(bundle)
        tokenizer = Tokenizer(bundle.file("tokenizer.json"), context_length=bundle.manifest.context_length)
        with self._open_embedder(device, threads, report) as embedder:
            yield _Tools(tokenizer, make_frame(tokenizer), self._shots(embedder))

    def _framing(self, bundle: "Bundle") -> Callable[["Tokenizer"], "Frame"]:
        """How the bundle's prompts are written. Raises UsageError if its chat template refuses them."""
        from lmcli.prompting.chat import ChatError, Message, read_chat_template
        from lmcli.prompting.dialogue import Frame

        chat = None if self._raw else read_chat_template(bundle)
        if chat is not None:
            probe = [Message("system", "a")] if self._system is not None else []
            if self._examples:
                probe += [Message("user", "b"), Message("assistant", "c")]
            try:
                chat.render([*probe, Message("user", "d")])
            except ChatError as error:
                raise UsageError(
                    f"{bundle.manifest.name}: {error}", hint="--raw leaves the chat template out"
                ) from error
        facts = bundle.manifest.causal
        assert facts is not None, "the manifest of a language model has causal"
        return lambda tokenizer: Frame(tokenizer, chat, before=facts.before, system=self._system)

    def _embedder_digest(self) -> str | None:
        from lmcli.bundle.store import open_bundle

        if self._few_shot.select != "similar":
            return None
        return open_bundle(self._few_shot.embedder, task="feature-extraction").digest

    def _open_embedder(
        self, device: "Device", threads: int, report: Callable[[str], None]
    ) -> AbstractContextManager["Embedder | None"]:
        if self._few_shot.select != "similar":
            return nullcontext()
        from lmcli.bundle.load import load_embedder
        from lmcli.bundle.store import open_bundle

        bundle = open_bundle(self._few_shot.embedder, task="feature-extraction")
        return load_embedder(bundle, device, threads=threads, report=report)

    def _shots(self, embedder: "Embedder | None") -> "Shots | None":
        from lmcli.prompting.examples import make_shots

        if not self._examples:
            return None
        wanted = self._few_shot.shots
        return make_shots(
            self._examples,
            self._few_shot.select or "first",
            num_shots=min(_MOST_SHOTS, len(self._examples)) if wanted is None else wanted,
            seed=self._seed,
            embedder=embedder,
        )


def _text_field(options: "PromptOptions") -> str | None:
    """Without --field, and without {text}, the text of a record is the first field of the template."""
    return None if TEXT in options.template.fields else options.template.fields[0]


def _read_examples(few_shot: FewShot, options: "PromptOptions", streams: Streams) -> "list[Example]":
    """The examples, if there are to be any. Raises UsageError for options that need a file of them."""
    from lmcli.prompting.examples import read_examples
    from lmcli.tasks.prompt_options import check_takes_examples

    if few_shot.examples is None:
        for name in ("answer", "shots", "select", "embedder"):
            if getattr(few_shot, name) is not None:
                raise UsageError(f"--{name} is for examples", hint="name a file of them with --examples")
        return []
    check_takes_examples(options)
    if few_shot.embedder is not None and few_shot.select != "similar":
        raise UsageError("--embedder is for --select similar", hint="add it, or leave --embedder out")
    examples = read_examples(
        few_shot.examples,
        options.template.fields,
        answer=few_shot.answer,
        text_field=streams.field if streams.field != TEXT else _text_field(options) or TEXT,
        file_format=few_shot.examples_format,
        encoding=streams.encoding,
    )
    if few_shot.shots is not None and few_shot.shots > len(examples):
        raise UsageError(f"--shots {few_shot.shots}: {few_shot.examples} has {len(examples)} examples")
    return examples


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
    found = tuple(part.strip() for part in (text.split(",") if is_list else text.splitlines()))
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
    try:
        if is_file or Path(given).is_file():
            return Path(given).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:  # a text may be too long for a name, or hold a NUL
        if is_file:
            raise UsageError(f"cannot read {given}: {getattr(error, 'strerror', None) or error}") from error
    return given


def _live_output(streams: Streams) -> Callable[[str], None] | None:
    """Shows pieces of an answer on a terminal, as the whole answer would be shown there."""
    from lmcli.records.read import resolve_format
    from lmcli.records.terminal import escape_controls

    if streams.is_pipeline:
        return None
    wanted = streams.output_format
    shown = resolve_format(streams.files or [], streams.input_format) if wanted == "auto" else wanted
    is_terminal = streams.output in (None, "-") and sys.stdout is not None and sys.stdout.isatty()
    if (
        not is_terminal or shown != "text" or streams.by == "para"
    ):  # paragraphs are parted when they are whole
        return None

    def show(piece: str) -> None:
        sys.stdout.write(escape_controls(piece if streams.by == "doc" else piece.replace("\n", r"\n")))
        sys.stdout.flush()

    return show
