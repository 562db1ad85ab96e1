"""The fast graph of a causal language model, straight from its weights: no torch.

All parts have the names that Llama has for them; export/causal_names.py gives them to GPT-2 and others. Which
of the parts there are decides what is computed: norms with a bias, tables of positions, gates.

One graph makes every step, that of a whole prompt and that of one more token for many rows:

- attention is GroupQueryAttention on a cache that is updated in place, each row at its own length; its
  kernels round the same whatever was computed before, so a prompt may be read in any parts;
- hidden states are (tokens, hidden size), and only those of `wanted` tokens reach the output layer;
- the head returns the k best tokens and the log-probabilities of `scored_ids`, so nothing of the size of the
  vocabulary leaves the graph.

For CUDA, where rows cannot be moved by numpy, the graph takes the cache by the row that each row continues
(`parents`) and returns a new one, longer by what it has read; all rows are of equal length. There,
GroupQueryAttention takes several tokens of several rows only at the beginning.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto

from lmcli.export.causal_shape import CausalShape
from lmcli.export.choice import CHOICE, choose
from lmcli.export.graph import MICROSOFT, Tensor
from lmcli.export.layers import Layers, Weights, attention_attributes, cache_names
from lmcli.export.quantize import POSITIONS
from lmcli.export.rope import Rotation

FLOAT, INT32, INT64 = TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64

SCORED: Mapping[str, Tensor] = {"scored": (FLOAT, ("outputs", "scored"))}


def build_causal(
    layers: Layers, shape: CausalShape, *, context_length: int, in_place: bool
) -> onnx.ModelProto:
    """The graph. With `in_place` it updates the cache, else it returns a new one by `parents`."""
    return _Causal(layers, shape, context_length, in_place=in_place).build()


class _Causal:
    """Tokens stand one behind the other, (tokens, ...); only attention knows rows."""

    def __init__(self, layers: Layers, shape: CausalShape, context_length: int, *, in_place: bool) -> None:
        self._layers = layers
        self._graph = graph = layers.graph
        self._shape = shape
        self._in_place = in_place
        self._context_length = context_length
        self._tables: dict[Rotation, list[str]] = {}
        self._rows, self._sequence = graph.size("input_ids", 0), graph.size("input_ids", 1)

    def build(self) -> onnx.ModelProto:
        layers, graph, shape = self._layers, self._graph, self._shape
        ids = graph.op("Reshape", "input_ids", graph.constant([-1]))
        hidden = layers.embed(ids, "model.embed_tokens.weight")
        if shape.embedding_scale != 1:
            hidden = graph.op("Mul", hidden, graph.constant(np.array(shape.embedding_scale, np.float32)))
        self._last, self._total = self._lengths()
        if TABLE in layers.weights:
            hidden = graph.op("Add", hidden, self._positions())
        layer = self._sandwich if has_norms_behind(layers.weights) else self._layer
        for index in range(shape.num_layers):
            hidden = layer(hidden, f"model.layers.{index}.", index)
        hidden = self._norm(graph.op("Gather", hidden, "wanted"), "model.norm")
        logits = layers.linear(hidden, head_of(layers.weights))
        if shape.logit_cap:
            cap = graph.constant(np.array(shape.logit_cap, np.float32))
            logits = graph.op("Mul", graph.op("Tanh", graph.op("Div", logits, cap)), cap)
        choose(graph, logits)
        graph.op("GatherElements", "choice_log_probabilities", "scored_ids", axis=-1, output="scored")
        return graph.model(inputs=self._inputs(), outputs={**CHOICE, **SCORED, **self._cache("present")})

    def _positions(self) -> str:
        """What a table has for the position of each token."""
        graph = self._graph
        first = graph.op("Sub", graph.op("Cast", self._last, to=INT64), self._sequence)  # less 1, (rows,)
        end = graph.op("Add", graph.op("Squeeze", self._sequence), graph.constant(1))
        counts = graph.op("Range", graph.constant(1), end, graph.constant(1))
        positions = graph.op("Add", graph.op("Unsqueeze", first, graph.constant([1])), counts)
        table = graph.constant(self._layers.weights[TABLE], POSITIONS)
        return graph.op("Gather", table, graph.op("Reshape", positions, graph.constant([-1])))

    def _layer(self, hidden: str, prefix: str, index: int) -> str:
        graph = self._graph
        x = self._norm(hidden, prefix + "input_layernorm")
        attended = graph.op("Add", hidden, self._attention(x, prefix + "self_attn.", index))
        x = self._norm(hidden if self._shape.is_parallel else attended, prefix + "post_attention_layernorm")
        return graph.op("Add", attended, self._feed_forward(x, prefix + "mlp."))

    def _sandwich(self, hidden: str, prefix: str, index: int) -> str:
        """The same with a norm on both sides of either part, as Gemma has it since its second generation."""
        graph = self._graph
        x = self._attention(self._norm(hidden, prefix + "input_layernorm"), prefix + "self_attn.", index)
        hidden = graph.op("Add", hidden, self._norm(x, prefix + "post_attention_layernorm"))
        x = self._feed_forward(self._norm(hidden, prefix + "pre_feedforward_layernorm"), prefix + "mlp.")
        return graph.op("Add", hidden, self._norm(x, prefix + "post_feedforward_layernorm"))

    def _inputs(self) -> Mapping[str, Tensor]:
        place: Mapping[str, Tensor] = (
            {"past_length": (INT32, ("rows",)), "total_length": (INT32, ())}
            if self._in_place
            else {"parents": (INT64, ("rows",))}
        )
        return {
            "input_ids": (INT64, ("rows", "sequence")),
            **place,
            "wanted": (INT64, ("outputs",)),
            "scored_ids": (INT64, ("outputs", "scored")),
            "k": (INT64, (1,)),
            **self._cache("past"),
        }

    def _cache(self, kind: str) -> dict[str, Tensor]:
        shape = self._shape
        rows = "rows" if self._in_place or kind == "present" else "past_rows"
        length = "capacity" if self._in_place else f"{kind}_length"
        axes = (rows, shape.num_kv_heads, length, shape.head_size)
        return dict.fromkeys(cache_names(kind, shape.num_layers), (FLOAT, axes))

    def _norm(self, x: str, name: str) -> str:
        shape = self._shape
        return self._layers.norm(x, name, shape.epsilon, offset=shape.norm_offset)

    def _attention(self, x: str, prefix: str, index: int) -> str:
        graph, shape = self._graph, self._shape
        names = cache_names("past", shape.num_layers)[2 * index : 2 * index + 2]
        past = names if self._in_place else [graph.op("Gather", name, "parents", axis=0) for name in names]
        rotation, window = shape.attention[index]
        outputs = [f"attended_{index}", *(name.replace("past", "present") for name in names)]
        attended, *_ = graph.ops(
            "GroupQueryAttention",
            *self._queries(x, prefix),
            *past,
            self._last,
            self._total,
            *(self._rotated_by(rotation) if rotation else []),
            outputs=outputs,
            domain=MICROSOFT,
            kv_num_heads=shape.num_kv_heads,
            do_rotary=int(rotation is not None),
            **attention_attributes(shape.num_heads, shape.attention_scale),
            **({"local_window_size": window} if window else {}),
            **({"softcap": shape.attention_cap} if shape.attention_cap else {}),
        )
        flat = graph.op("Reshape", attended, graph.constant([-1, shape.hidden_size]))
        return self._layers.linear(flat, prefix + "o_proj")

    def _rotated_by(self, rotation: Rotation) -> list[str]:
        """Cosines and sines, which are in the graph once."""
        if rotation not in self._tables:
            tables = zip(("cosines", "sines"), rotation.tables(self._context_length), strict=True)
            number = str(len(self._tables) or "")
            self._tables[rotation] = [self._graph.constant(table, name + number) for name, table in tables]
        return self._tables[rotation]

    def _lengths(self) -> tuple[str, str]:
        """The last position of each row, (rows,), and how many the cache has after the step, (); int32."""
        layers, graph = self._layers, self._graph
        if not self._in_place:
            past = graph.size(cache_names("past", 1)[0], 2)
            return layers.row_lengths(self._rows, graph.op("Add", past, self._sequence))
        new = graph.op("Cast", graph.op("Sub", self._sequence, graph.constant(1)), to=INT32)
        return graph.op("Add", "past_length", new), "total_length"

    def _queries(self, x: str, prefix: str) -> list[str]:
        """Queries, keys and values by row: in one, or apart where each head has a norm for them."""
        graph, shape = self._graph, self._shape
        names = [prefix + name for name in ("q_proj", "k_proj", "v_proj")]
        sizes = [heads * shape.head_size for heads in (shape.num_heads, *[shape.num_kv_heads] * 2)]
        packed = self._layers.linear(x, *names)
        if prefix + "q_norm.weight" not in self._layers.weights:
            return [self._by_row(packed, sum(sizes)), "", ""]
        parts = graph.ops(
            "Split", packed, graph.constant(sizes), outputs=[f"{name}_part" for name in names], axis=-1
        )
        for place, norm in enumerate(("q_norm", "k_norm")):
            heads = graph.op("Reshape", parts[place], graph.constant([-1, shape.head_size]))
            parts[place] = self._norm(heads, prefix + norm)
        return [self._by_row(part, size) for part, size in zip(parts, sizes, strict=True)]

    def _by_row(self, x: str, size: int) -> str:
        """(rows, sequence, size) of what stands by token."""
        graph = self._graph
        return graph.op(
            "Reshape", x, graph.op("Concat", self._rows, self._sequence, graph.constant([size]), axis=0)
        )

    def _feed_forward(self, x: str, prefix: str) -> str:
        graph = self._graph
        if prefix + "gate_proj.weight" not in self._layers.weights:
            up = self._layers.linear(x, prefix + "up_proj")
            return self._layers.linear(
                self._layers.activate(up, self._shape.activation), prefix + "down_proj"
            )
        gate, up = graph.split(self._layers.linear(x, prefix + "gate_proj", prefix + "up_proj"), 2)
        product = graph.op("Mul", self._layers.activate(gate, self._shape.activation), up)
        return self._layers.linear(product, prefix + "down_proj")


TABLE = "model.embed_positions.weight"
"""What is added to the embedding of a token at each position, in models that have such a table."""


def head_of(weights: Weights) -> str:
    """The output layer: one of its own, or the table of embeddings."""
    return "lm_head" if "lm_head.weight" in weights else "model.embed_tokens"


def has_norms_behind(weights: Weights) -> bool:
    """Whether what attention and feed-forward layers give is normed, too."""
    return "model.layers.0.pre_feedforward_layernorm.weight" in weights
