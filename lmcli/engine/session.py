"""`Session`: one ONNX graph by name, numpy in and out."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
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

    Each run uses the calling thread alone, unless the device says otherwise: throughput comes from running
    batches side by side, which shares one copy of the weights and wastes no time on joining threads inside
    small operators.
    """

    def __init__(self, path: Path, device: Device, *, plans_memory: bool = True) -> None:
        """Load a graph. Raises BundleError if it is broken, UnavailableError if `device` is not there.

        ONNX Runtime plans which results may lie in the memory of others. That makes a run 2 % faster, and
        takes time that grows with the square of the graph: 0.4 s for a language model of 1,200 operators.
        """
        options = _options(device.threads_each)
        options.enable_mem_reuse = plans_memory
        if device.kind == "cuda":
            self._session = cuda_session(path, options, device.index)
        else:
            self._session = _cpu_session(path, options)
        self.inputs = tuple(item.name for item in self._session.get_inputs())
        self.outputs = tuple(item.name for item in self._session.get_outputs())
        self.input_shapes: Mapping[str, tuple[int | str, ...]] = {
            item.name: tuple(item.shape) for item in self._session.get_inputs()
        }
        """The axes of each input: a size, or the name of what may vary."""
        self.input_types = {item.name: _TYPES.get(item.type) for item in self._session.get_inputs()}
        self.on_cuda = device.kind == "cuda"
        self._run_options = onnxruntime.RunOptions()

    def stop(self) -> None:
        """Have every run fail at its next operator, for good: nobody waits for results any more."""
        self._run_options.terminate = True

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run the graph once. Feeds that it does not take are left out. Raises BundleError if it fails."""
        with _failures():
            wanted = {name: feeds[name] for name in self.inputs}
            found = self._session.run(self.outputs, wanted, self._run_options)
            return dict(zip(self.outputs, found, strict=True))

    def bind(self) -> Binding:
        """Inputs and outputs that stay where they are from run to run."""
        return Binding(self._session, "cuda" if self.on_cuda else "cpu", self._run_options)


class Binding:
    """The inputs and outputs of one thread's runs of a graph, bound to memory once.

    An array that is bound is used where it lies: changing its content changes what the next run reads.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, device: str, run_options: onnxruntime.RunOptions
    ) -> None:
        self._session = session
        self._device = device
        self._run_options = run_options
        self._io = session.io_binding()
        self._kept: dict[str, onnxruntime.OrtValue] = {}  # ONNX Runtime holds addresses, not references

    def input(self, name: str, value: Array | onnxruntime.OrtValue) -> None:
        """Bind an input to an array, or to an output of another run."""
        self._io.bind_ortvalue_input(name, self._keep(name, value))

    def output(self, name: str, array: Array) -> None:
        """Bind an output to an array of its shape."""
        self._io.bind_ortvalue_output(name, self._keep(name, array))

    def in_place(self, name: str, output: str, array: Array) -> None:
        """Bind an input and the output that takes its place to the same array."""
        value = self._keep(name, array)
        self._io.bind_ortvalue_input(name, value)
        self._io.bind_ortvalue_output(output, value)

    def run(self) -> None:
        """Run the graph. Raises BundleError if it fails."""
        with _failures():
            self._session.run_with_iobinding(self._io, self._run_options)

    def run_for(self, *names: str) -> dict[str, onnxruntime.OrtValue]:
        """Run the graph, and give the outputs `names` as they lie on the device, in new memory."""
        with _failures():
            self._io.clear_binding_outputs()
            for name in names:
                self._io.bind_output(name, self._device)
            self._session.run_with_iobinding(self._io, self._run_options)
            return dict(zip(names, self._io.get_outputs(), strict=True))

    def _keep(self, name: str, value: Array | onnxruntime.OrtValue) -> onnxruntime.OrtValue:
        if not isinstance(value, onnxruntime.OrtValue):
            value = onnxruntime.OrtValue.ortvalue_from_numpy(value)
        self._kept[name] = value
        return value


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    """Turn what ONNX Runtime raises into errors that say whose fault it is."""
    try:
        yield
    except (KeyError, InvalidArgument, InvalidGraph, Fail) as error:
        raise BundleError(f"the graph fails: {_first_line(error)}", hint=REBUILD) from error
    except (RuntimeException, RuntimeError) as error:  # what the machine lacks, memory above all
        raise UnavailableError(f"the graph cannot run here: {_first_line(error)}") from error


def kernels() -> list[str]:
    """What decides how results are rounded: the version of ONNX Runtime, and what the processor can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return [onnxruntime.__version__, platform.machine(), platform.processor(), features]


_SPIN_MICROSECONDS = 20

_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


def _options(threads_each: int) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads_each
    # Threads wait for the next operator in a loop, which wakes them at once. For a short while only: a loop
    # takes the time of whoever else needs the core, of another thread of the same operator above all.
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SPIN_MICROSECONDS))
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
