from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from lmcli.engine.devices import Device
from lmcli.engine.session import Session
from lmcli.errors import BundleError
from tests import tiny

TABLE = np.array([[0, 1], [2, 3], [4, 5]], np.float32)


def whole_graph() -> bytes:
    return bytes(tiny.summing(TABLE).SerializeToString())


@pytest.mark.parametrize(
    "content",
    [None, b"", b"not a graph", whole_graph()[:-20], whole_graph().replace(b"ReduceSum", b"ReduceXYZ")],
    ids=["missing", "empty", "garbage", "truncated", "unknown operator"],
)
def test_a_broken_graph_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BundleError, match="refuses the graph") as caught:
        Session(path, Device("cpu"))
    assert (caught.value.exit_code, "\n" in caught.value.message) == (76, False)


@pytest.fixture
def session(tmp_path: Path) -> Session:
    path = tmp_path / "model.onnx"
    onnx.save(tiny.summing(TABLE), path)
    return Session(path, Device("cpu"))


def test_inputs_and_outputs_have_names(session: Session) -> None:
    assert (session.inputs, session.outputs, session.on_cuda) == (("input_ids",), ("logits",), False)


def test_feeds_that_the_graph_does_not_take_are_left_out(session: Session) -> None:
    ids = np.array([[0, 2]], np.int64)
    found = session.run({"input_ids": ids, "attention_mask": ids})
    assert {name: value.tolist() for name, value in found.items()} == {"logits": [[4, 6]]}


def test_threads_share_a_session(session: Session) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: session.run({"input_ids": np.full((1, i), 1)}), range(1, 40)))
    assert [value["logits"].tolist() for value in found] == [[[2 * i, 3 * i]] for i in range(1, 40)]
