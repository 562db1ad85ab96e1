"""`run_parts`: open the inputs, the models and the output, and move records from one end to the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import typer

from lmcli.cli.messages import reporter, say
from lmcli.cli.running.delivery import (
    Delivery,
    can_be_retried,
    only_run,
    open_delivery,
    open_journal,
    target_of,
)
from lmcli.cli.running.failures import Failures
from lmcli.cli.running.inputs import Inputs, find_inputs, may_show_data, shows_data
from lmcli.cli.running.job import job_identity, output_shape
from lmcli.cli.running.progress import progress
from lmcli.cli.running.staging import open_cache, prepare
from lmcli.cli.running.summary import Summary
from lmcli.cli.signals import Stopped, time_limit
from lmcli.cli.streams import Streams
from lmcli.errors import EXIT_RECORDS_FAILED, LmcliError, TryAgainError, UsageError
from lmcli.pipeline.compose import Pipeline, input_field
from lmcli.pipeline.plan import Problem, find_problem
from lmcli.pipeline.stage import Part, Stage
from lmcli.records.output import check_is_no_input
from lmcli.records.read import ReadOptions, RecordReader
from lmcli.records.write import WriteOptions

Refuse = Callable[[Problem], UsageError]
Blame = Callable[[int, LmcliError], None]


def run_parts(
    streams: Streams,
    parts: Sequence[Part],
    *,
    refuse: Refuse = lambda problem: UsageError(problem.message, hint=problem.hint),
    blame: Blame = lambda _index, _error: None,
    reads: Sequence[str] = (),
) -> None:
    """Run the parts of a pipeline over the inputs. Exits with 1 if records failed; raises LmcliError.

    `refuse` makes the error of a problem that shows before any model is loaded, `blame` has an error name the
    part that it comes from. `reads` are files that must not be written over.
    """
    others = [*reads, *(file for part in parts if isinstance(part, Stage) for file in part.files)]
    with (
        ExitStack() as at_last,  # what is left to do once the summary is written
        Summary(streams, parts, others) as summary,
        time_limit(streams.max_seconds),
    ):
        try:
            _run(streams, parts, find_inputs(streams, others), summary, refuse, blame, at_last)
        except Stopped:
            _tell_of_stop(streams, summary)
            raise
        if summary.numbers["failed"]:
            raise typer.Exit(EXIT_RECORDS_FAILED)


def _run(
    streams: Streams,
    parts: Sequence[Part],
    inputs: Inputs,
    summary: Summary,
    refuse: Refuse,
    blame: Blame,
    at_last: ExitStack,
) -> None:
    summary.spare(inputs.all)
    field = _input_field(streams, parts)
    if problem := find_problem(parts, inputs.fields(streams, has_text=field is not None)):
        raise refuse(problem)
    report = reporter(wanted=streams.is_talkative)
    staged = prepare(streams, parts, report, blame)
    summary.stages = [each.facts() for each in staged if isinstance(each.part, Stage)]
    if streams.resume or not streams.force:  # who continues must find the inputs as they were
        check_is_no_input(streams.output, inputs.all)
    with summary.waiting():
        at_last.enter_context(only_run(streams))
    journal = None
    if streams.resume:
        identity = job_identity(streams, inputs, staged)
        can_retry = can_be_retried(parts, output_shape(streams, inputs, parts)[1])
        journal = at_last.enter_context(open_journal(streams, identity, can_retry=can_retry))
    with ExitStack() as stack:
        delivery = stack.enter_context(open_delivery(streams, inputs.all, journal))
        if delivery.is_over:
            report(f"{streams.output} is complete already")
            summary.resume(delivery.numbers)
            delivery.finish()
            return
        cache = stack.enter_context(open_cache(streams)) if streams.cache else None
        tasks = [each.open(stack, streams, inputs, cache, report) for each in staged]
        pipeline = Pipeline(parts, tasks, has_objects=inputs.format == "jsonl")
        _pump(streams, inputs, pipeline, delivery, summary)


def _pump(streams: Streams, inputs: Inputs, pipeline: Pipeline, delivery: Delivery, summary: Summary) -> None:
    """Move every record through the pipeline to its slot in the output."""
    report = reporter(wanted=streams.is_talkative)
    reader = RecordReader(inputs.names, _read_options(streams, inputs, pipeline))
    records = delivery.begin(reader, _write_options(streams, inputs, pipeline))
    summary.resume(delivery.numbers)
    if num_done := delivery.numbers.get("records", 0):
        report(f"{num_done} records are done already")
    with (
        Failures(streams, inputs.all) as failures,
        progress(
            wanted=not streams.quiet and not may_show_data(streams) and streams.log_format == "text",
            total=reader.estimate,
            done=delivery.numbers.get("records", 0),
        ) as advance,
    ):
        for record in pipeline(records):
            delivery.put(record)
            summary.add(record)
            failures.note(record)
            advance(summary.numbers["records"])
        delivery.finish()
    failures.summarize(summary.numbers["records"])
    for remark in () if streams.quiet else pipeline.remarks(summary.numbers):
        say(remark, level="warning")
    report(summary.line())


def _tell_of_stop(streams: Streams, summary: Summary) -> None:
    """Say what a run that was stopped leaves behind; of a signal its sender knows."""
    if streams.quiet:
        return
    is_late = Stopped.exit_code == TryAgainError.exit_code
    unit = "second" if streams.max_seconds == 1 else "seconds"
    why = f"stopped after {streams.max_seconds:g} {unit} (--max-seconds)" if is_late else "stopped"
    if streams.resume and summary.num_new:
        say(f"{why}; the same command continues where it ended", level="warning")
    elif streams.resume:
        say(f"{why} before a record was finished", hint="the same command needs more time", level="warning")
    elif is_late and target_of(streams) is not None:
        hint = "--resume continues such a run"
        say(f"{why}; {streams.output} is left as it was", hint=hint, level="warning")
    elif is_late:
        say(f"{why}; the output is not complete", level="warning")


def _input_field(streams: Streams, parts: Sequence[Part]) -> str | None:
    return input_field(parts, streams.field if streams.field != Streams.field else None)


def _read_options(streams: Streams, inputs: Inputs, pipeline: Pipeline) -> ReadOptions:
    return ReadOptions(
        format=inputs.format,
        by=streams.by,
        field=_input_field(streams, pipeline.parts),
        encoding=streams.encoding,
        adds=pipeline.adds if inputs.format != "jsonl" else pipeline.first_adds,
        columns=() if pipeline.only_fields else pipeline.columns,
    )


def _write_options(streams: Streams, inputs: Inputs, pipeline: Pipeline) -> WriteOptions:
    output_format, prose = output_shape(streams, inputs, pipeline.parts)
    has_style = isinstance(pipeline.shown, Stage) and pipeline.shown.is_styled
    is_styled = has_style and output_format in ("text", "nul")
    return WriteOptions(
        format=output_format,
        input_format=inputs.format,
        lines=pipeline.lines,
        columns=pipeline.columns,
        prose=prose,
        text_field=_input_field(streams, pipeline.parts),
        only_fields=pipeline.only_fields,
        for_terminal=shows_data(streams) and not is_styled,
    )
