"""Where a graph runs: `parse_device` for the option, `num_cores` for the threads, `cuda_session` for CUDA.

ONNX Runtime's GPU wheel lists CUDA as available on every machine and falls back to the CPU without an error.
Only a live session tells where it runs, so that is what is asked.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from lmcli.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    import onnxruntime

Kind = Literal["auto", "cpu", "cuda"]

CUDA = "CUDAExecutionProvider"
CPU = "CPUExecutionProvider"


@dataclass(frozen=True)
class Device:
    """A device as asked for: `auto` takes CUDA where the bundle and the machine allow it."""

    kind: Kind
    index: int = 0
    threads_each: int = 1
    """Among how many threads the CPU divides one operator: worth it while few rows are at work."""


def parse_device(text: str) -> Device:
    """Read `auto`, `cpu`, `cuda` or `cuda:N`. Raises UsageError for anything else."""
    if text in ("auto", "cpu", "cuda"):
        return Device(cast(Kind, text))
    if match := re.fullmatch(r"cuda:(\d{1,3})", text):
        return Device("cuda", int(match[1]))
    raise UsageError(f"unknown device {text!r}", hint="choose auto, cpu, cuda or cuda:N")


def num_cores() -> int:
    """The cores that this process may use: its affinity, further limited by its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, _quota() or cores))


def _quota(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Whole cores of the least CPU quota of the cgroups (v2) above this process, rounded up; None: no limit.

    A container sees its own cgroup as the root; a service of systemd is in one below.
    """
    try:
        [name] = re.findall(r"^0::/(.*)$", own.read_text(), re.MULTILINE)
    except (OSError, ValueError):
        name = ""
    group = root / name
    quotas = [_quota_of(folder) for folder in (group, *group.parents) if folder.is_relative_to(root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def _quota_of(group: Path) -> int | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else -(-int(quota) // int(period))
    except (OSError, ValueError):
        return None


def cuda_session(path: Path, options: onnxruntime.SessionOptions, index: int) -> onnxruntime.InferenceSession:
    """A session that runs on CUDA device `index`. Raises UnavailableError naming what is missing."""
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        raise UnavailableError(
            "this onnxruntime was built without CUDA",
            hint="install `lmcli[cuda]` (the onnxruntime-gpu wheel), and only that one of the two wheels",
        )
    onnxruntime.set_default_logger_severity(4)  # what is missing is said below, once
    messages = io.StringIO()
    with contextlib.redirect_stdout(messages):  # it prints what it misses, and stdout is for data
        onnxruntime.preload_dlls()
    providers = [(CUDA, {"device_id": index}), CPU]
    reason = ""
    try:
        session = onnxruntime.InferenceSession(path, options, providers=providers)
    except Exception as error:  # ONNX Runtime raises plain exceptions of many kinds here
        reason = str(error)
    else:
        if CUDA in session.get_providers():
            return session
    raise UnavailableError(
        f"CUDA device {index} cannot be used: {_missing(messages.getvalue(), reason)}",
        hint="check `nvidia-smi` and install `lmcli[cuda]`, or run with `--device cpu`",
    )


def _missing(messages: str, reason: str) -> str:
    """The first useful line about what CUDA lacks: the driver, a library, or the session's own error."""
    if not any(Path(name).exists() for name in ("/dev/nvidiactl", "/dev/dxg")):
        return "no NVIDIA driver on this machine"
    libraries = re.findall(r"lib\w+\.so[.\d]*", messages + reason)
    if libraries:
        return "missing " + ", ".join(dict.fromkeys(libraries))
    return reason.splitlines()[0] if reason else "the session fell back to the CPU"
