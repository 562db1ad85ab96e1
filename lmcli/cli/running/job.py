"""`job_identity`: everything that decides the bytes of an output, to tell whether a run may be continued."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lmcli.bundle.store import sha256
from lmcli.cli.running.inputs import Inputs
from lmcli.cli.running.staging import Staged, versions
from lmcli.cli.streams import Streams
from lmcli.errors import NoInputError, reason
from lmcli.pipeline.compose import shown
from lmcli.pipeline.stage import Part, Stage
from lmcli.records.source import STDIN
from lmcli.records.write import OutputFormat


def output_shape(
    streams: Streams, inputs: Inputs, parts: Sequence[Part]
) -> tuple[OutputFormat, Literal["para", "doc"] | None]:
    """The format of the output, and what its texts are if they keep their line breaks."""
    last = shown(parts)
    by_default: OutputFormat = "text" if isinstance(last, Stage) and last.is_for_people else inputs.format
    output_format = by_default if streams.output_format == "auto" else streams.output_format
    is_prose = isinstance(last, Stage) and last.is_prose and inputs.format == output_format == "text"
    return output_format, streams.by if is_prose and streams.by in ("para", "doc") else None


def job_identity(streams: Streams, inputs: Inputs, staged: Sequence[Staged]) -> dict[str, Any]:
    """Versions, inputs with their content, formats and stages with all options, by name.

    What only decides the speed is not in it. Reads all regular files. Raises NoInputError.
    """
    output_format, prose = output_shape(streams, inputs, [each.part for each in staged])
    return {
        "versions": versions(staged),
        "inputs": [_input_facts(name) for name in inputs.names],
        "reading": {
            "format": inputs.format,
            "by": streams.by,
            "field": streams.field,
            "encoding": streams.encoding,
        },
        "writing": {"format": output_format, "prose": prose},
        "stages": [each.identity(streams.device) for each in staged],
    }


def _input_facts(name: str) -> dict[str, Any]:
    """Of a pipe only the name: its content can be compared as it comes, and no sooner."""
    try:
        if name == STDIN or not stat.S_ISREG((status := Path(name).stat()).st_mode):
            return {"name": name}
        return {"name": name, "size": status.st_size, "sha256": sha256(Path(name))}
    except OSError as error:
        raise NoInputError(f"cannot read {name}: {reason(error)}") from error
