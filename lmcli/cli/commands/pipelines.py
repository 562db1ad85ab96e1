"""The commands `pipe` and `run`: several stages over the same records, in one process."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import typer

from lmcli.cli.commands.jobfile import job_of, read_job
from lmcli.cli.config.keys import spell
from lmcli.cli.streams import Streams, with_groups
from lmcli.errors import BundleError, ConfigError, LmcliError, UsageError
from lmcli.spelling import did_you_mean

if TYPE_CHECKING:
    from lmcli.cli.commands.jobfile import Job
    from lmcli.cli.commands.stages import StageParser
    from lmcli.pipeline.fragment import Fragment
    from lmcli.pipeline.grammar import StageCall
    from lmcli.pipeline.plan import Problem
    from lmcli.pipeline.stage import Part, Step

Argument = typer.Argument

_KEY_OF_STEP = {"filter": "where", "select": "fields"}
_STEPS = tuple(_KEY_OF_STEP)


class Piped(Streams):
    """The options of a run with several stages."""

    is_pipeline: ClassVar[bool] = True


@with_groups
def pipe(
    *,
    pipeline: Annotated[str, Argument(metavar="PIPELINE", help="Stages with `|` between them.")],
    streams: Piped,
    context: typer.Context,
) -> None:
    r"""Run several tasks over the same records, in one process.

    A stage has the options of its command: `translate to=fr num-beams=4 | sentiment as=mood`. It reads the
    text that the stage before it wrote, or that of field=NAME. `filter EXPRESSION` keeps records, and
    `select NAME, NAME=FIELD` values.

    Example: lmcli pipe 'sentiment | filter sentiment.score > 0.9 | ner' reviews.jsonl
    """
    _run_pipeline(pipeline, streams, context)


@with_groups
def run(
    *,
    job: Annotated[  # noqa: ARG001
        str, Argument(metavar="JOB", help="A TOML file.", is_eager=True, callback=read_job)
    ],
    streams: Piped,
    context: typer.Context,
) -> None:
    """Run the job that a TOML file describes: its inputs, stages and output, and what happens to errors.

    Options given here win over those of the file. What it reads and writes is named from the folder that the
    file is in.

    Example: lmcli run nightly.toml --resume
    """
    found = job_of(context)
    streams = replace(streams, files=streams.files or found.inputs or None)
    if found.pipeline is not None:
        _run_pipeline(found.pipeline, streams, context, job=found)
    else:
        _run_stages(found, streams, context)


def _run_pipeline(
    pipeline: str, streams: Streams, context: typer.Context, *, job: "Job | None" = None
) -> None:
    """Run what is written as one text, perhaps in a job. Every error shows its place there."""
    from lmcli.cli.commands.stages import StageParser
    from lmcli.cli.running.run import run_parts
    from lmcli.pipeline.fragment import PipelineError
    from lmcli.pipeline.grammar import parse
    from lmcli.pipeline.stage import Stage

    where = "" if job is None else f"{job.file.where('pipeline')}: "
    parser = StageParser(streams, context)
    try:
        calls = parse(pipeline, [*parser.names, *_STEPS])
        parts = [_part_of_call(parser, call) for call in calls]
    except PipelineError as error:
        if not where:
            raise
        raise ConfigError(where + error.message, hint=error.hint, excerpt=error.excerpt) from error

    def refuse(problem: "Problem") -> UsageError:
        call, part = calls[problem.index], parts[problem.index]
        message, hint = where + problem.message, problem.hint
        if not isinstance(part, Stage):
            return part.error(message, problem.name, hint=hint)
        named = [each for each in call.options if each.value == problem.name]
        return call.error(message, *named[:1], hint=hint)

    def blame(index: int, error: LmcliError) -> None:
        call = calls[index]
        named = [each for each in call.options if each.name == "model" and isinstance(error, BundleError)]
        error.message = where + error.message
        error.excerpt = call.error("", *named[:1]).excerpt

    run_parts(streams, parts, refuse=refuse, blame=blame, reads=[] if job is None else [job.file.name])


def _part_of_call(parser: "StageParser", call: "StageCall") -> "Part":
    from lmcli.cli.commands.stages import BadOptionError, Given
    from lmcli.pipeline.grammar import unknown_option

    if call.name in _STEPS:
        return _step(call.name, call.rest)
    known = parser.options(call.name)
    given: list[Given] = []
    for option in call.options:
        if (name := spell(option.name)) not in known:
            raise unknown_option(call, option, known)
        if any(name == each.name for each in given) and not parser.takes_several(call.name, name):
            raise call.error(f"{name} is given twice", option)
        given.append(Given(name, () if option.value is None else (option.value,)))
    try:
        return parser(call.name, given)
    except BadOptionError as error:
        raise call.error(error.message, call.options[error.index], hint=error.hint) from error
    except UsageError as error:
        raise call.error(error.message, hint=error.hint) from error


def _run_stages(job: "Job", streams: Streams, context: typer.Context) -> None:
    """Run what is written as tables. Every error names the number of its stage."""
    from lmcli.cli.commands.stages import StageParser
    from lmcli.cli.running.run import run_parts

    parser = StageParser(streams, context)
    parts = [_part_of_table(parser, job, number, each) for number, each in enumerate(job.stages, start=1)]

    def refuse(problem: "Problem") -> UsageError:
        return UsageError(f"{job.file.name}: stage {problem.index + 1}: {problem.message}", hint=problem.hint)

    def blame(index: int, error: LmcliError) -> None:
        error.message = f"{job.file.name}: stage {index + 1}: {error.message}"

    run_parts(streams, parts, refuse=refuse, blame=blame, reads=[job.file.name])


def _part_of_table(parser: "StageParser", job: "Job", number: int, table: Mapping[str, Any]) -> "Part":
    from lmcli.cli.commands.stages import BadOptionError, Given

    where = f"{job.file.name}: stage {number}"
    given: dict[str, Any] = {}
    for key, value in table.items():
        if (spelled := spell(key)) in given:
            raise ConfigError(f"{where}: {key!r} is set twice")
        given[spelled] = value
    name = given.pop("task", None)
    if not isinstance(name, str) or name not in (*parser.names, *_STEPS):
        known = [*parser.names, *_STEPS]
        message = (
            f"no task {name!r}{did_you_mean(str(name), known, before='; ')}"
            if name is not None
            else "it has no `task`"
        )
        raise ConfigError(f"{where}: {message}", hint=f"tasks are {', '.join(known)}")
    if name in _STEPS:
        return _step_of_table(where, name, given)
    known = parser.options(name)
    for key in given:
        if key not in known:
            raise ConfigError(
                f"{where}: {name} has no option {key!r}{did_you_mean(key, known, before='; ')}",
                hint=f"its options are {', '.join(known)}",
            )
    typed = [Given(key, parser.typed(name, key, value, where)) for key, value in given.items()]
    try:
        return parser(name, typed)
    except BadOptionError as error:
        raise ConfigError(f"{where}: {list(given)[error.index]}: {error.message}", hint=error.hint) from error
    except UsageError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint) from error


def _step_of_table(where: str, name: str, given: Mapping[str, Any]) -> "Step":
    from lmcli.pipeline.fragment import Fragment, PipelineError

    key = _KEY_OF_STEP[name]
    if list(given) != [key]:
        raise ConfigError(f"{where}: {name} has `{key}` and nothing else")
    says = [given[key]] if isinstance(given[key], str) or name == "filter" else given[key]
    if not isinstance(says, list) or not all(isinstance(each, str) for each in says):
        raise ConfigError(f"{where}: {key} is a text{' or a list of texts' if name == 'select' else ''}")
    try:
        return _step(name, Fragment.of(", ".join(says)))
    except PipelineError as error:
        raise ConfigError(f"{where}: {error.message}", hint=error.hint, excerpt=error.excerpt) from error


def _step(name: str, fragment: "Fragment") -> "Step":
    """A part without a model."""
    from lmcli.pipeline.expression import Expression
    from lmcli.pipeline.filtering import Filter
    from lmcli.pipeline.selecting import Select
    from lmcli.pipeline.stage import Step

    if name == "filter":
        expression = Expression.parse(fragment)
        return Step(
            command=name,
            says=fragment.text,
            task=Filter(expression),
            reads=expression.names,
            error=expression.error,
        )
    select = Select.parse(fragment)
    return Step(
        command=name,
        says=fragment.text,
        task=select,
        reads=select.names,
        error=select.error,
        replaces_fields=True,
    )
