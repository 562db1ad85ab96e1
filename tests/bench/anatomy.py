"""Where the time of an encoder goes, and what share of the machine's integer GEMM peak it reaches.

    python -m tests.bench.anatomy [--data FILE] [--bundle NAME]

The peak is that of the packed U8S8 kernel on the largest product of the model, 512 rows, one thread, times
the cores. The work of a text is counted as the model defines it, 2 operations for each weight of the
layers and each token: what the graph saves (the last layer of a classifier beyond the first position) counts
as done.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from lmcli.bundle.load import load_encoder
from lmcli.bundle.store import Bundle, find_bundle, read_bundle
from lmcli.engine.devices import Device, num_cores
from lmcli.engine.encoder import Encoder, equal_batches
from tests.bench.programs import SHARED, need

WINDOW = 1024


def main() -> None:
    """Measure peak, speed and profile, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "reviews.txt")
    parser.add_argument("--bundle", default="sentiment-en")
    options = parser.parse_args()
    need(options.data)
    bundle = read_bundle(find_bundle(options.bundle))
    lines = options.data.read_text(encoding="utf-8").split("\n")[:10_000]
    cores = num_cores()
    peak = gemm_peak(*_largest(bundle)) * cores
    weights, useful = _layer_weights(bundle), 0
    with load_encoder(bundle, Device("cpu"), threads=cores, report=print) as encoder:
        useful = 2 * weights * sum(_num_tokens(encoder, lines))
        seconds = min(_seconds(encoder, lines) for _ in range(3))
    rate = useful / seconds / 1e9
    print(f"peak of the integer GEMM, {cores} threads: {peak:.0f} GOPS")
    print(
        f"{len(lines) / seconds:.0f} lines/s in the encoder: {rate:.0f} GOPS, {rate / peak:.0%} of the peak"
    )
    print("share of the time inside ONNX Runtime, one thread:")
    shares = _profile(bundle, lines[:2000])
    total = sum(shares.values())
    for name, micros in shares.most_common(12):
        print(f"  {name:28} {micros / total:6.1%}")


def _largest(bundle: Bundle) -> tuple[int, int]:
    """The shape of the largest weight of a MatMulIntegerToFloat of the bundle."""
    graph = onnx.load(bundle.file("model.onnx")).graph
    weights = [item for item in graph.initializer if item.data_type == TensorProto.INT8]
    used = {node.input[1] for node in graph.node if node.op_type == "MatMulIntegerToFloat"}
    inner, columns = max((tuple(item.dims) for item in weights if item.name in used), key=np.prod)
    return inner, columns


def gemm_peak(inner: int, columns: int) -> float:
    """GOPS of a MatMulIntegerToFloat with a weight of this shape, 512 rows, one thread."""
    rows = 512
    node = helper.make_node(
        "MatMulIntegerToFloat", ["x", "w", "scale", "scales", "zero"], ["y"], domain="com.microsoft"
    )
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.integers(-127, 128, (inner, columns)).astype(np.int8),
        "scale": np.float32(0.01),
        "scales": np.full(columns, 0.01, np.float32),
        "zero": np.uint8(128),
    }
    model = helper.make_model(
        helper.make_graph(
            [node],
            "peak",
            [helper.make_tensor_value_info("x", TensorProto.UINT8, [rows, inner])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)],
        ir_version=10,
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), _options())
    x = rng.integers(0, 256, (rows, inner)).astype(np.uint8)
    seconds = []
    for _ in range(200):
        started = time.perf_counter()
        session.run(None, {"x": x})
        seconds.append(time.perf_counter() - started)
    return float(2 * rows * inner * columns / np.median(seconds) / 1e9)


def _layer_weights(bundle: Bundle) -> int:
    """How many weights a token is multiplied with: those of the layers, without embeddings and head."""
    graph = onnx.load(bundle.file("model.onnx")).graph
    sizes = {item.name: int(np.prod(item.dims)) for item in graph.initializer}
    return sum(sizes[node.input[1]] for node in graph.node if node.op_type == "MatMulIntegerToFloat")


def _num_tokens(encoder: Encoder, lines: list[str]) -> list[int]:
    found = encoder.tokenizer.windows(lines)
    return [len(window.input_ids) for windows in found if isinstance(windows, list) for window in windows]


def _seconds(encoder: Encoder, lines: list[str]) -> float:
    started = time.perf_counter()
    jobs = [encoder.submit(lines[start : start + WINDOW]) for start in range(0, len(lines), WINDOW)]
    for job in jobs:
        job.results()
    return time.perf_counter() - started


def _profile(bundle: Bundle, lines: list[str]) -> Counter[str]:
    """Microseconds by operator over the batches that the engine would run."""
    options = _options()
    options.enable_profiling = True
    session = onnxruntime.InferenceSession(bundle.file("model.onnx"), options)
    with load_encoder(bundle, Device("cpu"), threads=1, report=print) as encoder:
        found = encoder.tokenizer.windows(lines)
    rows = [window.input_ids for windows in found if isinstance(windows, list) for window in windows]
    for batch in equal_batches([len(row) for row in rows], 512):
        session.run(None, {"input_ids": np.stack([rows[index] for index in batch])})
    path = Path(session.end_profiling())
    events = json.loads(path.read_text())
    path.unlink()
    shares: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time"):
            shares[event["args"]["op_name"]] += event["dur"]
    return shares


def _options() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


if __name__ == "__main__":
    main()
