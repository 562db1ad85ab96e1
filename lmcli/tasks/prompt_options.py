"""`PromptOptions`: what a user asks of `prompt`; `plan` says what that means for a model."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from lmcli.bundle.manifest import Manifest
from lmcli.engine.generation import GenerationConfig
from lmcli.errors import UsageError
from lmcli.prompting.choices import Normalize, check_choices
from lmcli.prompting.strategy import SUBQUESTION, Direct, Stepwise, Strategy, read_strategy
from lmcli.prompting.template import Template
from lmcli.tasks.base import check_field_name
from lmcli.tasks.generation import GenerationOptions, as_typed

_MAX_NEW_TOKENS = 256
_SAMPLES_TEMPERATURE = 0.7  # as in Wang et al. 2022, arXiv:2203.11171


@dataclass(frozen=True, kw_only=True)
class PromptOptions:
    """What to ask of each record, how to answer, and what to report."""

    template: Template = field(default_factory=lambda: Template.parse("{text}"))
    choices: tuple[str, ...] = ()
    """The possible answers; empty: the model writes one."""
    normalize: Normalize | None = None
    """How the tokens of a choice become one score; None: "sum"."""
    calibrate: bool = False
    """Divide by what choices get where nothing is asked."""
    strategy: Strategy = field(default_factory=lambda: read_strategy("plain"))
    extract: re.Pattern[str] | None = None
    """The answer in what the model writes; None: as the strategy says."""
    samples: int | None = None
    """Ask so many times, and take what most answers say."""
    gold: str | None = None
    """The field with the right answer."""
    fit: Literal["drop", "fail"] = "drop"
    """What happens to a prompt that is too long: it loses its first examples, or its record fails."""
    as_field: str = "answer"
    """The name of the field that it adds, and the beginning of those of the others."""
    generation: GenerationOptions = field(default_factory=GenerationOptions)
    min_p: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise UsageError for options that make no sense together."""
        check_field_name(self.as_field)
        if not self.template.names:
            raise UsageError("the template names no field", hint="{text} is where the text of a record goes")
        if isinstance(self.strategy, Stepwise) and SUBQUESTION in self.template.names:
            raise UsageError(
                f"the strategy needs {{{SUBQUESTION}}} itself", hint="give the field another name"
            )
        if "" in self.stop:
            raise UsageError("--stop is empty", hint="an output would end before it begins")
        if self.choices:
            check_choices(self.choices)
        self._check_companions()
        self._check_rivals()

    def _check_companions(self) -> None:
        """What needs another option."""
        if self.normalize is not None and not self.choices:
            raise UsageError("--normalize is for --choices", hint="name the answers to choose from")
        if self.calibrate and not self.choices:
            raise UsageError("--calibrate is for --choices", hint="name the answers to choose from")
        if self.min_p is not None and not self.generation.sample:
            raise UsageError("--min-p is for sampling", hint="add --sample")

    def _check_rivals(self) -> None:
        """What excludes another option."""
        writes = {
            "--strategy": self.strategy != read_strategy("plain"),
            "--samples": self.samples is not None,
            "--extract": self.extract is not None,
            "--frequency-penalty": self.frequency_penalty is not None,
            "--stop": bool(self.stop),
            "--" + next(iter(self.generation.given()), "").replace("_", "-"): self.generation.given(),
        }
        for name, is_given in writes.items():
            if self.choices and is_given:
                raise UsageError(
                    f"--choices and {name} exclude each other", hint="choices are scored, nothing is written"
                )
        if self.calibrate and self.normalize == "pmi":
            raise UsageError(
                "--calibrate and --normalize pmi exclude each other",
                hint="both take off what a choice gets anyway",
            )
        for name, is_given in (
            ("nbest", self.generation.nbest is not None),
            ("scores", self.generation.scores),
        ):
            if self.samples is not None and is_given:
                raise UsageError(
                    f"--samples and --{name} exclude each other", hint="samples become one answer"
                )
        if self.gold is not None and self.gold == self.as_field:
            raise UsageError(
                f"--gold {self.gold} is also what the answer is added as", hint="name that one: --as NAME"
            )
        if isinstance(self.strategy, Stepwise):
            for name, given in (("--samples", self.samples), ("--nbest", self.generation.nbest)):
                if given is not None:
                    raise UsageError(
                        f"{name} is for strategies of one step",
                        hint="this one answers parts of a question in turn",
                    )

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """What finds the answer in an output."""
        if self.extract is not None:
            return self.extract
        return self.strategy.extract if isinstance(self.strategy, Direct) else self.strategy.solve.extract

    @property
    def has_plain_text(self) -> bool:
        """Whether an answer is shown as text alone."""
        return not self.choices and self.generation.has_plain_text

    @property
    def is_shown_at_once(self) -> bool:
        """Whether an answer is what the model writes, from its first token on."""
        is_direct = self.pattern is None and self.samples is None and isinstance(self.strategy, Direct)
        return is_direct and self.has_plain_text and not self.generation.retry_degenerate


def check_takes_examples(options: PromptOptions) -> None:
    """Raise UsageError for a strategy that has examples of its own."""
    if isinstance(options.strategy, Stepwise):
        raise UsageError(
            "--examples is for strategies of one step", hint="this one has its examples in its own file"
        )


def plan(manifest: Manifest, options: PromptOptions) -> GenerationConfig:
    """How the model is to write. Raises UsageError for values that mean nothing."""
    facts = manifest.causal
    assert facts is not None, "the manifest of a language model has causal"
    wanted = options.generation.max_new_tokens
    if wanted is not None and wanted >= manifest.context_length:
        raise UsageError(
            f"--max-new-tokens {wanted}: the model's context has {manifest.context_length} tokens",
            hint="prompt and answer share it",
        )
    defaults = replace(facts.generation, max_new_tokens=_MAX_NEW_TOKENS)
    if options.samples is not None:
        defaults = replace(defaults, temperature=_SAMPLES_TEMPERATURE)
    config = options.generation.config(defaults, most_tokens=manifest.context_length - 1)
    with as_typed():
        return replace(
            config,
            min_p=config.min_p if options.min_p is None else options.min_p,
            frequency_penalty=(
                config.frequency_penalty if options.frequency_penalty is None else options.frequency_penalty
            ),
            stop_strings=options.stop,
            num_return_sequences=options.samples or config.num_return_sequences,
        )
