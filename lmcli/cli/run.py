"""`run_task`: open the inputs, the model and the output, and move records from one end to the other."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol, TypeVar

import typer

from lmcli.bundle.manifest import Manifest
from lmcli.bundle.manifest import Task as TaskName
from lmcli.bundle.store import Bundle, open_bundle
from lmcli.cli.failures import Failures
from lmcli.cli.messages import say, wants_color
from lmcli.cli.progress import progress
from lmcli.cli.streams import Streams
from lmcli.engine.devices import Device, num_cores, parse_device
from lmcli.errors import EXIT_RECORDS_FAILED, UsageError
from lmcli.records.output import open_output
from lmcli.records.read import InputFormat, ReadOptions, RecordReader, resolve_format
from lmcli.records.source import STDIN, check_inputs, files_from
from lmcli.records.write import RecordWriter, WriteOptions
from lmcli.tasks.base import Task

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)
Report = Callable[[str], None]


class Load(Protocol[E_co]):
    """`load_encoder`, `load_seq2seq` and their like."""

    def __call__(
        self, bundle: Bundle, device: Device, /, *, threads: int, report: Report
    ) -> AbstractContextManager[E_co]:
        """Load the engine of a bundle."""
        ...


def run_task(
    streams: Streams,
    task_name: TaskName,
    load: Load[E],
    make_task: Callable[[Manifest, E], Task],
    *,
    also: tuple[TaskName, ...] = (),
    check: Callable[[Manifest], object] = lambda _: None,
    styled: bool = False,
    prose: bool = False,
) -> None:
    """Run one task over the inputs. Exits with 1 if records failed; raises LmcliError for all else.

    The bundle may be for one of the tasks of `also` instead. `check` refuses, before a model is loaded in
    vain, what its manifest shows to be impossible. With `styled` the task's lines are made for a terminal and
    bring their own escape sequences; with `prose` its texts keep their line breaks where records are
    paragraphs or documents.
    """
    inputs = _inputs(streams)
    check_inputs(inputs)  # before a model is loaded in vain
    input_format = resolve_format(inputs, streams.input_format)
    _check_options(streams, input_format)
    device, threads = parse_device(streams.device), streams.threads or num_cores()
    report = reporter(streams)
    bundle = open_bundle(streams.model, task=task_name, also=also)
    check(bundle.manifest)
    report(f"bundle {bundle.path} ({bundle.manifest.precision}, {bundle.manifest.device})")
    with load(bundle, device, threads=threads, report=report) as engine:
        task = make_task(bundle.manifest, engine)
        options = _write_options(streams, input_format, task, styled=styled, prose=prose)
        num_failed = _pump(streams, inputs, task, options, report)
    if num_failed:
        raise typer.Exit(EXIT_RECORDS_FAILED)


def colors_data(streams: Streams, choice: str) -> bool:
    """Whether results are to be shown in colour."""
    return wants_color(choice, is_terminal=_shows_data(streams))


def reporter(streams: Streams) -> Report:
    """Says what runs where, and how, if that is wanted."""
    return say if streams.verbose and not streams.quiet else (lambda _: None)


def _pump(streams: Streams, inputs: list[str], task: Task, options: WriteOptions, report: Report) -> int:
    """Move every record through `task` to its slot in the output; how many failed."""
    reader = RecordReader(inputs, _read_options(streams, task))
    started, count = time.monotonic(), 0
    lists = [name for name in (streams.files_from, streams.files0_from) if name is not None]
    with (
        Failures(streams, [*inputs, *lists]) as failures,
        open_output(streams.output, inputs=[*inputs, *lists], force=streams.force) as output,
        progress(wanted=not streams.quiet and not _shows_data(streams)) as advance,
    ):
        writer = RecordWriter(output, options, lambda: reader.header)
        for count, record in enumerate(task(reader), start=1):
            writer.write(record)
            if output.is_live:  # whoever reads it wants each result as soon as it is there
                writer.flush()
            failures.note(record)
            advance(count)
        writer.finish()
    failures.summarize(count)
    for remark in () if streams.quiet else task.remarks():
        say(remark)
    seconds = time.monotonic() - started
    report(f"{count} records, {failures.count} failed, {seconds:.2f} s, {count / seconds:.0f} records/s")
    return failures.count


def _inputs(streams: Streams) -> list[str]:
    """The names of all inputs; standard input if none is named, but never a terminal by accident."""
    names = list(streams.files or [])
    if names.count(STDIN) + [streams.files_from, streams.files0_from].count(STDIN) > 1:
        raise UsageError("standard input (-) can be read only once")
    if streams.files_from is not None:
        names += files_from(streams.files_from)
    if streams.files0_from is not None:
        names += files_from(streams.files0_from, nul=True)
    if names or streams.files_from is not None or streams.files0_from is not None:
        return names
    if sys.stdin is not None and sys.stdin.isatty():
        raise UsageError("no input", hint="name files, or pipe text in; `-` reads the terminal")
    return [STDIN]


def _check_options(streams: Streams, input_format: InputFormat) -> None:
    """Refuse options that say what the input is not: a CSV on stdin would be labelled line by line."""
    if input_format == "text" and streams.field != Streams.field:
        raise UsageError(
            "--field is for JSONL, CSV and TSV, but the input is text", hint="name its format: -I"
        )
    if input_format != "text" and streams.by != Streams.by:
        raise UsageError(f"--by is for text, but the input is {input_format}", hint="or read it with -I text")


def _read_options(streams: Streams, task: Task) -> ReadOptions:
    return ReadOptions(
        format=streams.input_format,
        by=streams.by,
        field=streams.field,
        encoding=streams.encoding,
        adds=task.adds,
        columns=task.columns,
    )


def _write_options(
    streams: Streams, input_format: InputFormat, task: Task, *, styled: bool, prose: bool
) -> WriteOptions:
    output_format = input_format if streams.output_format == "auto" else streams.output_format
    return WriteOptions(
        format=output_format,
        input_format=input_format,
        lines=task.lines,
        columns=task.columns,
        prose=streams.by if prose and streams.by in ("para", "doc") else None,
        for_terminal=_shows_data(streams) and not (styled and output_format == "text"),
    )


def _shows_data(streams: Streams) -> bool:
    """Whether a person sees the data itself on a terminal."""
    return streams.output in (None, STDIN) and sys.stdout is not None and sys.stdout.isatty()
