"""`choose`: the end of every decoder's graph, which gives the best next tokens instead of all logits."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import TensorProto

from lmcli.export.graph import Graph, Tensor

# The k best tokens are in the k groups with the best ones. The best of each group is found four numbers at a
# time, while TopK takes one after the other.
GROUP = 64
NEVER = -1e30
"""The logit of what is no token and only fills a group."""


CHOICE: Mapping[str, Tensor] = {
    "top_logits": (TensorProto.FLOAT, ["rows", "k"]),
    "top_ids": (TensorProto.INT64, ["rows", "k"]),
    "log_normalizer": (TensorProto.FLOAT, ["rows", 1]),
}
"""What a decoder's graph gives of its logits, plain or fast."""


def choose(graph: Graph, logits: str, num_groups: int = 0) -> None:
    """The end of a decoder's graph: logits (rows, vocabulary) to the outputs of CHOICE.

    Its results have names of their own, so that they stay in float32 when the others become fp16.
    num_groups: into how many groups of GROUP the logits can be cut.
    """
    logits = graph.op("Identity", logits, output="choice_logits")  # the one place where fp16 ends
    if num_groups:
        _best_of_groups(graph, logits, num_groups)
    else:
        graph.ops("TopK", logits, "k", outputs=["top_logits", "top_ids"], axis=-1)
    # log(sum(exp)) = largest logit - its log-probability. ReduceLogSumExp would take ten times as long, and
    # Log of a whole column rounds an element differently by its place.
    first, behind, last = graph.constant([0]), graph.constant([1]), graph.constant([-1])
    best = graph.op("Slice", "top_ids", first, behind, last, output="choice_id")  # (rows, 1)
    all_of_them = graph.op("LogSoftmax", logits, axis=-1, output="choice_log_probabilities")
    log_probability = graph.op("GatherElements", all_of_them, best, axis=-1, output="choice_log_probability")
    largest = graph.op("Slice", "top_logits", first, behind, last, output="choice_logit")
    graph.op("Sub", largest, log_probability, output="log_normalizer")


def _best_of_groups(graph: Graph, logits: str, num_groups: int) -> None:
    """TopK by way of the k groups whose largest logits are the largest."""
    size, last = graph.constant(GROUP), graph.constant([-1])
    grouped = graph.op(
        "Reshape", logits, graph.constant([0, num_groups, GROUP]), output="choice_grouped"
    )  # (rows, groups, size)
    largest = graph.op("ReduceMax", grouped, last, keepdims=0, output="choice_largest")
    k = graph.op("Min", "k", graph.constant([num_groups]), output="choice_num_groups")
    _, groups = graph.ops("TopK", largest, k, outputs=["choice_bests", "choice_groups"], axis=-1)  # (rows, k)
    index = graph.op("Unsqueeze", groups, last, output="choice_index")
    picked = graph.op("GatherND", grouped, index, batch_dims=1, output="choice_picked")  # (rows, k, size)
    candidates = graph.op("Flatten", picked, output="choice_candidates")
    graph.ops("TopK", candidates, "k", outputs=["top_logits", "choice_places"], axis=-1)
    nth = graph.op("Div", "choice_places", size, output="choice_nth")
    group = graph.op("GatherElements", groups, nth, axis=-1, output="choice_group")
    start = graph.op("Mul", group, size, output="choice_start")
    graph.op("Add", start, graph.op("Mod", "choice_places", size, output="choice_place"), output="top_ids")


CHOICE_PREFIX = "choice_"
"""What the names of all results of `choose` begin with, but those of CHOICE."""
