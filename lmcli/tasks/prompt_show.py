"""`ShowPrompts`: what a model would see of the first records. It needs a tokenizer, and no model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from lmcli.bundle.manifest import Manifest
from lmcli.engine.tokenizer import Tokenizer
from lmcli.prompting.dialogue import Frame
from lmcli.prompting.examples import Shots
from lmcli.prompting.fit import fit
from lmcli.records.record import Failure, Record
from lmcli.tasks.prompt import Questions, has_text
from lmcli.tasks.prompt_choosing import room_for
from lmcli.tasks.prompt_options import PromptOptions, plan


class ShowPrompts:
    """Adds the prompt and its number of tokens to the first records, and leaves all others out."""

    def __init__(
        self,
        manifest: Manifest,
        tokenizer: Tokenizer,
        frame: Frame,
        options: PromptOptions,
        *,
        shots: Shots | None = None,
        num_records: int,
    ) -> None:
        """Raises UsageError like `plan`."""
        self._frame = frame
        self._questions = Questions(options, shots)
        self._context_length = tokenizer.context_length
        self._drop = options.fit == "drop"
        self._num_records = num_records
        if options.choices:
            self._room = self._least_room = room_for(options.choices, tokenizer)
        else:
            self._room = plan(manifest, options).max_new_tokens
            self._least_room = 1 if options.generation.max_new_tokens is None else self._room
        self.adds = (f"{options.as_field}_prompt", f"{options.as_field}_tokens")
        self.columns = self.adds

    def __call__(self, records: Iterable[Record]) -> Iterator[Record]:
        """Show prompts lazily, in order."""
        return map(self._shown, islice(records, self._num_records))

    def lines(self, record: Record) -> list[str]:
        """A line that tells of the prompt, and the prompt as it is."""
        prompt, count = (record.fields[name] for name in self.adds)
        if prompt is None:
            return [f"=== {record.source}:{record.line}, blank: nothing is asked"]
        return [f"=== {record.source}:{record.line}, {count} tokens", *prompt.split("\n")]

    def remarks(self, _: Mapping[str, int]) -> list[str]:
        """Nothing."""
        return []

    def _shown(self, record: Record) -> Record:
        if not record.is_open:
            return record
        fields = self._questions.pick(record)
        if isinstance(fields, Failure):
            return record.failed(fields.code, fields.message)
        if not has_text(fields):
            return record.with_fields(**dict(zip(self.adds, (None, 0), strict=True)))
        [fitted] = fit(
            self._frame,
            self._questions.dialogues([fields]),
            context_length=self._context_length,
            room=self._room,
            least_room=self._least_room,
            drop=self._drop,
        )
        if isinstance(fitted, Failure):
            return record.failed(fitted.code, fitted.message)
        prompt = fitted.prompt
        return record.with_fields(
            **dict(zip(self.adds, (prompt.guarded.text, len(prompt.input_ids)), strict=True))
        )
