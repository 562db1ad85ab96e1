"""`read_job`: a run in a TOML file: `inputs`, the options of the run, and `pipeline` or `[[stages]]`."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer

from lmcli.cli.config.context import JOB
from lmcli.cli.config.file import ConfigFile, read_file
from lmcli.cli.config.keys import Setting, as_typed, options, spell
from lmcli.errors import ConfigError, NoInputError
from lmcli.records.source import STDIN
from lmcli.spelling import did_you_mean

_STAGES = "lmcli.job.stages"
_OWN = ("inputs", "pipeline", "stages")
# Where these name files, they are relative to the job: cron starts it anywhere.
_PATHS = frozenset({"output", "errors", "summary", "files-from", "files0-from"})


class Job(NamedTuple):
    """What a job says besides the options of the run."""

    file: ConfigFile
    inputs: list[str]
    pipeline: str | None
    """As `lmcli pipe` takes it."""
    stages: Sequence[Mapping[str, Any]]
    """Else the task and the options of each stage."""

    def error(self, message: str, *path: str, hint: str = "") -> ConfigError:
        """An error about one of its keys."""
        return ConfigError(f"{self.file.where(*path)}: {message}", hint=hint)


def read_job(context: typer.Context, name: str) -> str:
    """Read the job and give the context its options, before those are looked up. Raises ConfigError."""
    if context.resilient_parsing:
        return name
    file = read_file(name)
    if file is None:
        raise NoInputError(f"cannot open {name}: there is no such file")
    known = {key: option for key, option in options(context.command).items() if key != "help"}
    settings: dict[str, Setting] = {}
    for key, value in file.data.items():
        if key in _OWN:
            continue
        if (spelled := spell(key)) not in known:
            hint = (
                did_you_mean(spelled, [*known, *_OWN])
                or f"a job has {', '.join(_OWN)} and the options of a run"
            )
            raise ConfigError(f"{file.where(key)}: unknown key {key!r}", hint=hint)
        option = known[spelled]
        typed = as_typed(value, option, file.where(key))
        if spelled in _PATHS and isinstance(typed, str):
            typed = _beside(name, typed)
        assert option.name is not None
        if option.name in settings:
            raise ConfigError(f"{file.where(key)}: {key!r} is set twice")
        settings[option.name] = Setting(typed, file, (key,))
    context.meta[JOB] = settings
    context.meta[_STAGES] = _job(file, name)
    return name


def job_of(context: typer.Context) -> Job:
    """The job that was read for a context."""
    job: Job = context.meta[_STAGES]
    return job


def _job(file: ConfigFile, name: str) -> Job:
    """The part of a job that is no option."""
    inputs, pipeline, stages = (file.data.get(key) for key in _OWN)
    if inputs == []:
        raise ConfigError(f"{file.where('inputs')}: inputs names no file", hint='"-" is standard input')
    inputs = [inputs] if isinstance(inputs, str) else inputs or []
    job = Job(file, [], pipeline, stages or [])
    if not isinstance(inputs, list) or not all(isinstance(each, str) for each in inputs):
        raise job.error("inputs is a list of file names", "inputs")
    if (pipeline is None) == (stages is None):
        raise ConfigError(
            f"{file.name}: a job has either `pipeline` or [[stages]]",
            hint='for example: pipeline = "translate to=fr | sentiment"',
        )
    if pipeline is not None and not isinstance(pipeline, str):
        raise job.error("pipeline is a text", "pipeline", hint='pipeline = "translate to=fr | sentiment"')
    is_list = isinstance(job.stages, list) and job.stages
    if stages is not None and not (is_list and all(isinstance(each, dict) for each in job.stages)):
        raise job.error("stages are tables: [[stages]]", "stages")
    return job._replace(inputs=[_beside(name, each) for each in inputs])


def _beside(job: str, path: str) -> str:
    """A path of a job, the same from wherever it is run: an unfinished output knows its inputs by name."""
    return path if path == STDIN else os.path.abspath(Path(job).parent / path)  # noqa: PTH100
