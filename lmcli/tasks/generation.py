"""`GenerationOptions`: what a user asks of the search for outputs; None leaves it to the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import Literal

from lmcli.engine.generation import EarlyStopping, GenerationConfig
from lmcli.errors import UsageError

_SAMPLING = ("temperature", "top_k", "top_p", "seed")
_PLAIN = ("length_penalty", "no_repeat_ngram_size", "repetition_penalty", *_SAMPLING)
"""What takes the place of the model's own value as it is."""
_EARLY_STOPPING: dict[str, EarlyStopping] = {"yes": True, "no": False, "never": "never"}


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to search for outputs, and how much of them to report."""

    num_beams: int | None = None
    length_penalty: float | None = None
    early_stopping: Literal["yes", "no", "never"] | None = None
    no_repeat_ngram_size: int | None = None
    repetition_penalty: float | None = None
    min_new_tokens: int | None = None
    max_new_tokens: int | None = None
    sample: bool = False
    """Draw tokens by their probability instead of taking the likeliest."""
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int | None = None
    nbest: int | None = None
    """Also report this many outputs."""
    scores: bool = False
    """Also report the mean log-probability of the tokens."""
    retry_degenerate: bool = False
    """Decode once more, with other settings, what looks degenerate."""

    def __post_init__(self) -> None:
        """Raise UsageError for options that exclude each other."""
        for name in _SAMPLING:
            if getattr(self, name) is not None and not self.sample:
                raise UsageError(f"--{name.replace('_', '-')} is for sampling", hint="add --sample")
        if self.sample and (self.num_beams or 1) > 1:
            raise UsageError("--sample and --num-beams exclude each other", hint="choose one of the two")
        if not self.sample and self.num_beams is not None and self.num_beams < (self.nbest or 1):
            raise UsageError(
                f"--nbest {self.nbest} needs {self.nbest} beams, not {self.num_beams}",
                hint=f"set --num-beams to {self.nbest} or more, or leave it out",
            )

    def given(self) -> list[str]:
        """The names of the options that are not as they are by default."""
        return [option.name for option in fields(self) if getattr(self, option.name) != option.default]

    @property
    def has_plain_text(self) -> bool:
        """Whether an output is shown as text alone."""
        return self.nbest is None and not self.scores

    def config(self, defaults: GenerationConfig, *, most_tokens: int) -> GenerationConfig:
        """The model's settings with those of the user in their place; no output has more than `most_tokens`.

        Raises UsageError for values that mean nothing.
        """
        given = {name: value for name in _PLAIN if (value := getattr(self, name)) is not None}
        most = min(self.max_new_tokens or defaults.max_new_tokens, most_tokens)
        least = min(defaults.min_new_tokens, most) if self.min_new_tokens is None else self.min_new_tokens
        if least > most:
            raise UsageError(
                f"at least {least} new tokens, but at most {most}",
                hint="set --min-new-tokens and --max-new-tokens so that both are possible",
            )
        with as_typed():
            return replace(
                defaults,
                **given,
                max_new_tokens=most,
                min_new_tokens=least,
                early_stopping=_EARLY_STOPPING.get(self.early_stopping or "", defaults.early_stopping),
                do_sample=self.sample,
                num_beams=self.num_beams or (1 if self.sample else max(defaults.num_beams, self.nbest or 1)),
                num_return_sequences=self.nbest or 1,
            )


@contextmanager
def as_typed() -> Iterator[None]:
    """Name the option as it is typed in what a configuration says of a bad value: `--top-p is 0.0`."""
    try:
        yield
    except UsageError as error:
        name, _, rest = error.message.partition(" ")
        if name not in {option.name for option in fields(GenerationConfig)}:
            raise
        raise UsageError(f"--{name.replace('_', '-')} {rest}", hint=error.hint) from error


def retry_config(config: GenerationConfig) -> GenerationConfig:
    """Other settings, for a source whose output looks degenerate: stricter rules, and a wider search.

    What is to be sampled is sampled again: votes are counted over samples, not over beams.
    """
    beams = 1 if config.do_sample else max(4, config.num_beams, config.num_return_sequences)
    return replace(
        config,
        num_beams=beams,
        no_repeat_ngram_size=min(config.no_repeat_ngram_size or 3, 3),
        repetition_penalty=max(config.repetition_penalty, 1.2),
    )
