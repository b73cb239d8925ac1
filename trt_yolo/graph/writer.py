"""A small writer of ONNX graphs: nodes in order, constants by value, names that can be read.

Knows ONNX and the differences between its opsets; knows nothing of YOLO.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
FLOAT16 = TensorProto.FLOAT16
UINT8 = TensorProto.UINT8

DEFAULT_OPSET = 19  # the first with Q/DQ around FP16 tensors; TensorRT 10.3 and ONNX Runtime 1.18 read it
MIN_OPSET = 13
MAX_OPSET = 21
NEWEST_IR = 10  # of opset 21; ONNX Runtime 1.18 reads no newer one
_IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: NEWEST_IR}


class GraphWriter:
    """Appends nodes and initializers; `op` returns the name of the tensor it made.

    Attributes:
        modules: How many modules of a checkpoint have been written; counted by who writes them.

    Args:
        opset: The ONNX operator set that the nodes are written for.
        prefix: Put before every name made here, so that it can extend a graph it did not begin.
    """

    def __init__(self, *, opset: int, prefix: str = "") -> None:
        self.opset = opset
        self.modules = 0
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._prefix = prefix
        self._taken: dict[str, int] = {}

    def op(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """The output of a new node with one output."""
        output = self._unique(name or kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def split(self, tensor: str, sizes: Sequence[int], *, axis: int, name: str = "") -> list[str]:
        """The parts of a tensor of those sizes along an axis."""
        base = self._unique(name or "split")
        outputs = [f"{base}.{part}" for part in range(len(sizes))]
        split = self.constant(np.array(sizes, np.int64), name=f"{base}.sizes")
        self.nodes.append(helper.make_node("Split", [tensor, split], outputs, name=base, axis=axis))
        return outputs

    def constant(self, value: npt.ArrayLike, *, dtype: npt.DTypeLike | None = None, name: str = "") -> str:
        """The name of a new initializer."""
        output = self._unique(name or "constant")
        array = np.ascontiguousarray(np.asarray(value, dtype))
        self.initializers.append(numpy_helper.from_array(array.reshape(np.shape(value)), output))
        return output

    def reduce(self, kind: str, tensor: str, *, axis: int, keepdims: bool = True, name: str = "") -> str:
        """ReduceMax or ReduceSum along one axis: opset 18 moved the axes of ReduceMax into an input."""
        if kind != "ReduceSum" and self.opset < 18:
            return self.op(kind, tensor, name=name, axes=[axis], keepdims=int(keepdims))
        axes = self.constant([axis], dtype=np.int64, name=f"{name or kind.lower()}.axes")
        return self.op(kind, tensor, axes, name=name, keepdims=int(keepdims))

    def reshape(self, tensor: str, shape: Sequence[int], *, name: str = "") -> str:
        """Reshape to a fixed shape, where 0 keeps a dimension."""
        target = self.constant(np.array(shape, np.int64), name=f"{name or 'reshape'}.shape")
        return self.op("Reshape", tensor, target, name=name)

    def model(
        self,
        *,
        name: str,
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        metadata: dict[str, str],
    ) -> onnx.ModelProto:
        """The whole as a model."""
        graph = helper.make_graph(self.nodes, name, list(inputs), list(outputs), self.initializers)
        model = helper.make_model(
            graph,
            producer_name="trt-yolo",
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=_IR_VERSIONS[self.opset],
        )
        helper.set_model_props(model, metadata)
        return model

    def _unique(self, name: str) -> str:
        name = self._prefix + name
        count = self._taken.get(name, 0)
        self._taken[name] = count + 1
        return f"{name}_{count}" if count else name


def value_info(name: str, dtype: int, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """A graph input or output; a string names a dynamic dimension."""
    return helper.make_tensor_value_info(name, dtype, list(shape))


def dimensions(value: onnx.ValueInfoProto) -> list[int | str]:
    """The shape of a graph input or output: numbers, and names ('' if unnamed, 0 or -1) for dynamic dimensions."""
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param for dim in value.type.tensor_type.shape.dim]


def text_of(value: str | bytes) -> str:
    """A text of the file's own, such as a name; what is not UTF-8 is shown as well as it can be."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operator set that a model is written for."""
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def serialized(model: onnx.ModelProto, added: dict[str, str]) -> bytes:
    """The model's bytes with entries added to its metadata; the model itself stays as it is."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    helper.set_model_props(copy, {entry.key: entry.value for entry in model.metadata_props} | added)
    return bytes(copy.SerializeToString())


def subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def sort_nodes(graph: onnx.GraphProto) -> bool:
    """Puts nodes after those that they read from, as the standard wants it, in subgraphs too.

    Returns:
        Whether that is possible: not where nodes read each other in a circle; then the graph is as it was.
    """
    makers = {output: index for index, node in enumerate(graph.node) for output in node.output if output}
    needed = [{makers[name] for name in _read_by(node) if name in makers} for node in graph.node]
    try:
        order = list(graphlib.TopologicalSorter(dict(enumerate(needed))).static_order())
    except graphlib.CycleError:
        return False
    if any(max(read, default=-1) > index for index, read in enumerate(needed)):
        nodes = [graph.node[index] for index in order]
        del graph.node[:]
        graph.node.extend(nodes)
    return all([sort_nodes(inner) for node in graph.node for inner in subgraphs(node)])


def _read_by(node: onnx.NodeProto) -> set[str]:
    """The tensors that a node reads, those that its subgraphs read from outside included."""
    names = set(node.input)
    for inner in subgraphs(node):
        own = {value.name for value in (*inner.input, *inner.initializer)}  # names that may occur outside too
        own = own.union(*(each.output for each in inner.node))
        read = {value.name for value in inner.output}.union(*(_read_by(each) for each in inner.node))
        names |= read - own
    return names
