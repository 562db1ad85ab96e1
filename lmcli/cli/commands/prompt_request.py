"""`Request`: what the command `prompt` asks for, as a stage that answers records or shows prompts."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from lmcli.cli.commands.few_shot import FewShot, embedder_digest, examples_of, open_shots
from lmcli.cli.streams import Streams
from lmcli.errors import UsageError

if TYPE_CHECKING:
    from lmcli.bundle.store import Bundle
    from lmcli.engine.devices import Device
    from lmcli.engine.tokenizer import Tokenizer
    from lmcli.pipeline.stage import Stage
    from lmcli.prompting.dialogue import Frame
    from lmcli.prompting.examples import Shots
    from lmcli.prompting.model import LanguageModel
    from lmcli.tasks.prompt_options import PromptOptions

TEXT = Streams.field


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


class Request:
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
        self._examples = examples_of(
            few_shot,
            options,
            text_field=streams.field if streams.field != TEXT else _text_field(options) or TEXT,
            encoding=streams.encoding,
            inputs=streams.files or [],
        )

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
            parts=(),
            is_prose=options.has_plain_text,
            is_one_row=options.samples is None,
            cache_key=lambda record: question_of(record, options),
        )

    def showing(self, num_records: int) -> "Stage":
        """The stage that shows the prompts of the first records. Raises UsageError with --resume."""
        if self._streams.resume:
            raise UsageError("--show-prompt runs no model, so there is nothing to --resume")
        from lmcli.pipeline.stage import Stage
        from lmcli.tasks.prompt_options import plan
        from lmcli.tasks.prompt_show import ShowPrompts

        common = self._common()
        return Stage(
            **common | {"identity": {**common["identity"], "show_prompt": num_records}},
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
                **asdict(options),
                **vars(self._few_shot),
                "examples": [example._asdict() for example in self._examples],
                "embedder": embedder_digest(self._few_shot),
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
            shots = stack.enter_context(self._open_shots(device, threads, report))
            model = stack.enter_context(
                load_causal(bundle, device, threads=threads, report=report, prefixes=prefixes)
            )
            yield _Loaded(model, make_frame(model.tokenizer), shots)
            computed, reused = model.num_tokens
            report(f"prompts: {computed} tokens computed, {reused} taken over from others")

    @contextmanager
    def _load_tools(
        self, bundle: "Bundle", device: "Device", /, *, threads: int, report: Callable[[str], None]
    ) -> Iterator[_Tools]:
        from lmcli.engine.tokenizer import Tokenizer

        make_frame = self._framing(bundle)
        tokenizer = Tokenizer(bundle.file("tokenizer.json"), context_length=bundle.manifest.context_length)
        with self._open_shots(device, threads, report) as shots:
            yield _Tools(tokenizer, make_frame(tokenizer), shots)

    def _open_shots(
        self, device: "Device", threads: int, report: Callable[[str], None]
    ) -> AbstractContextManager["Shots | None"]:
        return open_shots(self._few_shot, self._examples, device, threads, report, seed=self._seed)

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


def _text_field(options: "PromptOptions") -> str | None:
    """Without --field, and without {text}, the text of a record is the first field of the template."""
    return None if TEXT in options.template.fields else options.template.fields[0]


def _live_output(streams: Streams) -> Callable[[str], None] | None:
    """Shows pieces of an answer on a terminal, as the whole answer would be shown there."""
    from lmcli.cli.running.inputs import shows_data
    from lmcli.records.output import open_output
    from lmcli.records.read import resolve_format
    from lmcli.records.terminal import escape_controls

    if streams.is_pipeline:
        return None
    wanted = streams.output_format
    shown = resolve_format(streams.files or [], streams.input_format) if wanted == "auto" else wanted
    # Paragraphs are parted when they are whole.
    if not shows_data(streams) or shown != "text" or streams.by == "para":
        return None

    def show(piece: str) -> None:
        shown = escape_controls(piece if streams.by == "doc" else piece.replace("\n", r"\n"))
        with open_output(None) as output:
            output.write(shown.encode(errors="backslashreplace"))

    return show
