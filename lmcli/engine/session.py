"""`Session`: one ONNX graph by name, numpy in and out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    RuntimeException,
)

from lmcli.engine.devices import CPU, Device, cuda_session
from lmcli.errors import REBUILD, BundleError, UnavailableError

Array = npt.NDArray[Any]


class Session:
    """One graph, safe to run from several threads at once.

    Each run uses the calling thread alone: throughput comes from running batches side by side, which shares
    one copy of the weights and wastes no time on joining threads inside small operators.
    """

    def __init__(self, path: Path, device: Device) -> None:
        """Load a graph. Raises BundleError if it is broken, UnavailableError if `device` is not there."""
        options = _options()
        if device.kind == "cuda":
            self._session = cuda_session(path, options, device.index)
        else:
            self._session = _cpu_session(path, options)
        self.inputs = tuple(item.name for item in self._session.get_inputs())
        self.outputs = tuple(item.name for item in self._session.get_outputs())
        self.on_cuda = device.kind == "cuda"

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once. Feeds that it does not take are left out. Raises BundleError if it fails."""
        try:
            wanted = {name: feeds[name] for name in self.inputs}
            return dict(zip(self.outputs, self._session.run(self.outputs, wanted), strict=True))
        except (KeyError, InvalidArgument, InvalidGraph, Fail) as error:
            raise BundleError(f"the graph fails: {_first_line(error)}", hint=REBUILD) from error
        except RuntimeException as error:  # what the machine lacks, memory above all
            raise UnavailableError(f"the graph cannot run here: {_first_line(error)}") from error


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # The graph was optimized at export; patterns of memory are per shape, and each batch has its own.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    return options


def _cpu_session(path: Path, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(path, options, providers=[CPU])
    except Exception as error:  # ONNX Runtime raises plain exceptions of many kinds here
        version = onnxruntime.__version__
        raise BundleError(
            f"{path}: ONNX Runtime {version} refuses the graph: {_first_line(error)}", hint=REBUILD
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
