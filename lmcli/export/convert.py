"""`export`: fetch, build, quantize, prove, write. The steps of `lmcli export` in the order of their names."""

from __future__ import annotations

import contextlib
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from lmcli.bundle.manifest import MANIFEST_NAME
from lmcli.bundle.store import COMMANDS
from lmcli.bundle.write import file_facts, new_bundle
from lmcli.errors import ExportError
from lmcli.export import config as configs
from lmcli.export.card import model_card
from lmcli.export.classifier import write_classifier
from lmcli.export.conversion import Conversion
from lmcli.export.generator import write_generator
from lmcli.export.options import ExportOptions
from lmcli.export.source import Checkpoint, fetch

_WRITERS = {
    "text-classification": write_classifier,
    "token-classification": write_classifier,
    "translation": write_generator,
    "summarization": write_generator,
}


def export(
    source: str,
    name: str,
    options: ExportOptions,
    *,
    parent: Path,
    report: Callable[[str], None],
    progress: bool = False,
) -> Path:
    """Export the checkpoint `source` as the bundle `name` in `parent`; its directory.

    `report` hears of each step. Raises ExportError with the figures when a proof fails: then nothing is left.
    """
    with new_bundle(parent, name, force=options.force) as directory:
        checkpoint = fetch(source, allow_pickle=options.allow_pickle, progress=progress)
        report(f"read {checkpoint.id}" + (f" at {checkpoint.revision}" if checkpoint.revision else ""))
        with tempfile.TemporaryDirectory(dir=directory.parent) as scratch, _quiet():
            conversion = _begin(checkpoint, options, Path(scratch), report)
            manifest = _WRITERS[conversion.task](conversion, name, directory)
        card = model_card(manifest, notes=options.notes, source_card=checkpoint.card)
        (directory / "README.md").write_text(card, encoding="utf-8")
        manifest = replace(manifest, files=file_facts(directory))
        (directory / MANIFEST_NAME).write_bytes(manifest.to_json())
    return parent / name


def _begin(
    checkpoint: Checkpoint, options: ExportOptions, scratch: Path, report: Callable[[str], None]
) -> Conversion:
    """Raises ExportError when the checkpoint is for no task that lmcli knows."""
    config = configs.sanitize(configs.load_config(checkpoint))
    task = options.task or configs.task_of(config)
    if task is None:
        raise ExportError(
            f"{checkpoint.id} was trained for no task that lmcli runs: {config.get('architectures')}",
            hint=f"--task names one: {', '.join(COMMANDS.values())}",
        )
    return Conversion(
        checkpoint=checkpoint, config=config, task=task, options=options, scratch=scratch, report=report
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporters log, warn and print away from the user's terminal, and stdout for data."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
