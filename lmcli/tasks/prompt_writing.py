"""`Writer`: dialogues to what a model writes next. `Stream` shows it while it is written."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from lmcli.engine.generation import GenerationConfig
from lmcli.engine.search import Hypothesis, Source
from lmcli.prompting.dialogue import Dialogue, Frame
from lmcli.prompting.examples import content
from lmcli.prompting.fit import Fitted, fit
from lmcli.prompting.model import LanguageModel
from lmcli.records.record import Failure
from lmcli.tasks import degenerate
from lmcli.tasks.generation import retry_config
from lmcli.tasks.generator import Output, output_of

Show = Callable[[str], None]
"""Shows a piece of text as soon as it is written."""


class Written(NamedTuple):
    """What a model wrote."""

    outputs: Sequence[Output]
    """The best first."""
    flags: Sequence[Sequence[str]]
    """What is wrong with each."""
    num_dropped: int
    """How many examples its prompt had to do without."""
    num_read: int
    """Tokens of the prompt."""


class Writer:
    """Continues dialogues, all of them at once.

    An answer may have as many tokens as `config` says, or as the context leaves if `leaves_room` is not set.
    """

    def __init__(
        self,
        model: LanguageModel,
        frame: Frame,
        config: GenerationConfig,
        *,
        leaves_room: bool = False,
        drop: bool = True,
        retry: bool = False,
    ) -> None:
        self._model = model
        self._frame = frame
        self._config = config
        self._context_length = model.tokenizer.context_length
        self._least_room = config.max_new_tokens if leaves_room else 1
        self._drop = drop
        self._retry = retry

    def __call__(
        self, dialogues: Sequence[Dialogue], stream: Stream | None = None
    ) -> list[Written | Failure]:
        """What the model writes for each dialogue, or why its prompt cannot be made."""
        fitted = fit(
            self._frame,
            dialogues,
            context_length=self._context_length,
            room=self._config.max_new_tokens,
            least_room=self._least_room,
            drop=self._drop,
        )
        good = [each for each in fitted if isinstance(each, Fitted)]
        written = iter(self._write(good, self._config, stream))
        return [each if isinstance(each, Failure) else next(written) for each in fitted]

    def _write(
        self, fitted: Sequence[Fitted], config: GenerationConfig, stream: Stream | None
    ) -> list[Written]:
        sources = [self._source(each) for each in fitted]
        found = (
            self._model.generate(sources, config, listen=stream.hear if stream else None) if sources else []
        )
        outputs = list(self._outputs(found, config))
        written = [
            Written(
                each,
                [_flags(asked, output) for output in each],
                asked.num_dropped,
                len(asked.prompt.input_ids),
            )
            for asked, each in zip(fitted, outputs, strict=True)
        ]
        loops = [number for number, each in enumerate(written) if "repetition" in each.flags[0]]
        if self._retry and loops and config is self._config:
            again = self._write([fitted[number] for number in loops], retry_config(config), None)
            for number, second in zip(loops, again, strict=True):
                written[number] = min(written[number], second, key=lambda either: len(either.flags[0]))
        return written

    def _source(self, fitted: Fitted) -> Source:
        input_ids = fitted.prompt.input_ids
        return Source(
            input_ids,
            min(self._config.max_new_tokens, self._context_length - len(input_ids)),
            seed=zlib.crc32(fitted.prompt.guarded.text.encode()),  # equal prompts have equal samples
        )

    def _outputs(
        self, found: Sequence[Sequence[Hypothesis]], config: GenerationConfig
    ) -> Iterator[list[Output]]:
        rows = [hypothesis.token_ids for hypotheses in found for hypothesis in hypotheses]
        texts = iter(self._model.tokenizer.decode(rows))
        for hypotheses in found:
            yield [_output(next(texts), each, config) for each in hypotheses]


class Stream:
    """Shows an output token by token, never more than what the output will be in the end."""

    def __init__(self, step: Callable[[int], str], show: Show, stops: Sequence[str]) -> None:
        self._step = step
        self._show = show
        self._stops = stops
        self._text = ""
        self.shown = ""
        """What has been shown."""

    def hear(self, _source: int, token_id: int) -> None:
        """Take the next token."""
        self._text += self._step(token_id)
        sure = self._sure()
        if len(sure) > len(self.shown):
            self._show(sure[len(self.shown) :])
            self.shown = sure

    def _sure(self) -> str:
        """The text without white space around it, and without what may be the beginning of a stop string."""
        text = self._text.lstrip()
        for stop in self._stops:
            text = text.partition(stop)[0]
            begun = (size for size in range(len(stop) - 1, 0, -1) if text.endswith(stop[:size]))
            text = text[: len(text) - next(begun, 0)]
        return text.rstrip()


def _flags(asked: Fitted, output: Output) -> list[str]:
    before = degenerate.words(content(asked.dialogue.fields))
    signs = {
        "repetition": degenerate.repeats_itself(before, degenerate.words(output.text)),
        "length_limit": not output.is_complete,
    }
    return [flag for flag, is_so in signs.items() if is_so]


def _output(text: str, hypothesis: Hypothesis, config: GenerationConfig) -> Output:
    kept = min((text.partition(stop)[0] for stop in config.stop_strings), key=len, default=text)
    output = output_of(kept, hypothesis, config.length_penalty)
    return output._replace(is_complete=output.is_complete or len(kept) < len(text))
