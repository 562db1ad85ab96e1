"""`prepare`: from what is asked for to models that are found, checked and, later, loaded."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lmcli import __version__
from lmcli.bundle.store import Bundle, open_bundle, user_cache
from lmcli.cli.messages import say
from lmcli.cli.running.inputs import Inputs
from lmcli.cli.streams import Streams
from lmcli.engine.devices import num_cores, parse_device
from lmcli.errors import LmcliError
from lmcli.pipeline.stage import Part, Report, Stage, Step
from lmcli.records.job import as_json
from lmcli.records.record import Record
from lmcli.tasks.base import Task
from lmcli.tasks.cached import Cached
from lmcli.tasks.rehearsal import Rehearsal, RehearsalTask, parse_rehearsal

if TYPE_CHECKING:
    from lmcli.records.result_cache import ResultCache


# Threads that share an operator wait for each other after every one of them.
_MOST_TOGETHER = 8


@dataclass(frozen=True)
class Staged:
    """A part of a pipeline and the model that it runs."""

    part: Part
    model: Bundle | Rehearsal | None
    """None: it needs none."""

    def facts(self) -> dict[str, Any]:
        """What a summary says of it before a record is read."""
        facts: dict[str, Any] = {"command": self.part.command}
        if isinstance(self.part, Stage):
            facts["field"] = self.part.adds
        if isinstance(self.model, Bundle):
            manifest = self.model.manifest
            facts["bundle"] = {
                "name": manifest.name,
                "precision": manifest.precision,
                "sha256": self.model.digest,
            }
        elif isinstance(self.part, Stage):
            facts["bundle"] = {"name": self.part.model}
        return facts

    def identity(self, device: str) -> dict[str, Any]:
        """All that decides its results: JSON values by name."""
        if isinstance(self.part, Step):
            return {"command": self.part.command, "says": self.part.says}
        facts: dict[str, Any] = {
            "command": self.part.command,
            "reads": self.part.reads,
            "options": dict(self.part.identity),
            "model": self.part.model if isinstance(self.model, Rehearsal) else None,
        }
        if isinstance(self.model, Bundle):
            manifest = self.model.manifest
            facts["model"] = {
                "name": manifest.name,
                "sha256": self.model.digest,
                "device": manifest.device if manifest.device == "cpu" else device,
            }
        return facts

    def open(
        self, stack: ExitStack, streams: Streams, inputs: Inputs, cache: ResultCache | None, report: Report
    ) -> Task:
        """Load the model; `stack` closes it. What `cache` has of its results is not computed again."""
        part = self.part
        if isinstance(part, Step):
            return part.task
        if isinstance(self.model, Rehearsal):
            style = part.identity.get("style", "inline")
            task: Task = RehearsalTask(self.model, part.command, part.adds, style=style)
        else:
            assert self.model is not None
            device, threads = parse_device(streams.device), streams.threads or num_cores()
            together, is_for_cpu = min(threads, _MOST_TOGETHER), self.model.manifest.device == "cpu"
            # With half as many rows as threads, or fewer, most threads would have nothing to do.
            if part.is_one_row and is_for_cpu and inputs.has_few_records(streams, most=together // 2):
                device = replace(device, threads_each=together)
                report(f"few records: {together} threads work on each together")
            engine = stack.enter_context(part.load(self.model, device, threads=threads, report=report))
            task = part.make(self.model.manifest, engine)
        if cache is None:
            return task
        return Cached(
            task,
            cache,
            identity=json.dumps(self._results_identity(streams.device), sort_keys=True).encode(),
            key=self._cache_key(part),
            name=part.adds,
        )

    def _cache_key(self, stage: Stage) -> Callable[[Record], str | None]:
        """A double makes its result of the text alone, if it does not fail by the number of the line."""
        if not isinstance(self.model, Rehearsal):
            return stage.cache_key
        return (lambda _: None) if self.model.every else (lambda record: record.text)

    def _results_identity(self, device: str) -> Any:
        """What decides a result: not where its text came from, nor how it is shown."""
        identity = self.identity(device)
        options = {name: value for name, value in identity["options"].items() if name != "style"}
        return as_json({**identity, "options": options, "reads": None, "versions": versions([self])})


@contextmanager
def open_cache(streams: Streams) -> Iterator[ResultCache]:
    """The cache of --cache, in the user's folder for what can be computed again."""
    from lmcli.records.result_cache import ResultCache

    place = user_cache()
    path = None if place is None else results_path(place)

    def warn(message: str) -> None:
        if not streams.quiet:
            say(message, level="warning")

    with ResultCache(path, max_bytes=streams.cache_size * 10**6, report=warn) as cache:
        yield cache


def results_path(place: Path) -> Path:
    """The file of --cache in the folder for what can be computed again."""
    return place / "results" / "results.db"


def versions(staged: Iterable[Staged]) -> dict[str, Any]:
    """Of lmcli, and of what decides how models round."""
    found: dict[str, Any] = {"lmcli": __version__}
    if any(isinstance(each.model, Bundle) for each in staged):
        from lmcli.engine.session import kernels

        found["onnxruntime"], *found["processor"] = kernels()
    return found


def prepare(
    streams: Streams, parts: Sequence[Part], report: Report, blame: Callable[[int, LmcliError], None]
) -> list[Staged]:
    """Find and check the bundle of each part. Raises UsageError or BundleError, after `blame` has seen it."""
    parse_device(streams.device)
    staged = []
    for index, part in enumerate(parts):
        try:
            staged.append(Staged(part, _find_model(part, report) if isinstance(part, Stage) else None))
        except LmcliError as error:
            blame(index, error)
            raise
    return staged


def _find_model(stage: Stage, report: Report) -> Bundle | Rehearsal:
    if rehearsal := parse_rehearsal(stage.model or ""):
        return rehearsal
    bundle = open_bundle(stage.model, task=stage.task, also=stage.also)
    stage.check(bundle.manifest)
    report(f"bundle {bundle.path} ({bundle.manifest.precision}, {bundle.manifest.device})")
    return bundle
