"""The convolutions of a head graph, and where its network ends and its box decoding begins.

Enters: a head graph, whoever exported it. Leaves: a `Network`. Changes nothing, knows no precision.
A node is known by its first output, which is never empty; names are for people.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from trt_yolo.errors import InputError, UnsupportedModelError
from trt_yolo.graph.writer import FLOAT, dimensions

_QUANTIZERS = frozenset(
    {"QuantizeLinear", "DequantizeLinear", "QLinearConv", "ConvInteger", "DynamicQuantizeLinear"}
)


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """One convolution of the network.

    Attributes:
        name: For people: the node's name, or its output's.
        output: Its output tensor, by which it is known.
        input: The tensor it reads.
        weight: Its weights' initializer.
        bias: Its bias' initializer; empty where it has none.
        macs: Multiply-accumulates for one image.
        is_last: Whether no other convolution comes after it: boxes and scores are made of what it gives.
    """

    name: str
    output: str
    input: str
    weight: str
    bias: str
    macs: int
    is_last: bool


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a head graph computes before boxes are decoded.

    Attributes:
        model: The head graph, float32, what it has as Constant nodes made initializers.
        convolutions: In the order in which they run; not the one that Ultralytics decodes boxes with (DFL).
        nodes: First outputs of all nodes up to the last convolutions.
        float_only: Outputs of convolutions, besides the last ones, that int8 shall not take.
    """

    model: onnx.ModelProto
    convolutions: list[Convolution]
    nodes: frozenset[str]
    float_only: frozenset[str] = frozenset()

    @property
    def input(self) -> str:
        """Name of the graph's input, float32 (N, 3, H, W)."""
        return str(self.model.graph.input[0].name)

    @property
    def before_silu(self) -> frozenset[str]:
        """Tensors that only SiLU reads: x of `x * Sigmoid(x)`."""
        readers: dict[str, list[str]] = {}
        for node in self.model.graph.node:
            for tensor in node.input:
                readers.setdefault(tensor, []).append(node.op_type)
        return frozenset(tensor for tensor, kinds in readers.items() if sorted(kinds) == ["Mul", "Sigmoid"])

    @property
    def quantizable(self) -> list[Convolution]:
        """The convolutions that int8 may take: all but the last ones and those set apart."""
        return [one for one in self.convolutions if not one.is_last and one.output not in self.float_only]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all convolutions, for one image."""
        return sum(one.macs for one in self.convolutions)

    def share(self, outputs: Iterable[str]) -> float:
        """The share of all multiply-accumulates that those convolutions do, 0 to 1."""
        wanted = set(outputs)
        return sum(one.macs for one in self.convolutions if one.output in wanted) / self.macs


def network_of(head: onnx.ModelProto, *, origin: str) -> Network:
    """The network in a head graph; `origin` is named in errors.

    Raises:
        InputError: The model is quantized already, or of half precision.
        UnsupportedModelError: No convolution, or one whose weights are not in the file.
    """
    head = _with_constants_stored(head)
    graph = head.graph
    if any(node.op_type in _QUANTIZERS for node in graph.node):
        raise InputError(
            f"{origin} is quantized already; give the .pt, or the float32 graph that it was made from"
        )
    stored = {tensor.name: tensor for tensor in graph.initializer}
    found = [node for node in graph.node if node.op_type == "Conv" and not _is_dfl(node, stored)]
    if not found:
        raise UnsupportedModelError(f"{origin} has no convolutions; give a YOLOv8 detection model")
    weights = {stored[node.input[1]].data_type for node in found if node.input[1] in stored}
    if graph.input[0].type.tensor_type.elem_type != FLOAT or not weights <= {FLOAT}:
        raise InputError(
            f"{origin} is in half precision already; give the .pt, or a float32 graph (Ultralytics: half=False)"
        )
    for node in found:
        if node.input[1] not in stored:
            raise UnsupportedModelError(
                f"{origin}: the weights of {node.name or node.output[0]} are computed, not stored; "
                "export it again with constants folded (onnxslim), or give the .pt"
            )
    before = _ancestors(graph, found)
    outputs = {node.output[0] for node in found}
    shapes = _shapes(head)
    convolutions = [
        Convolution(
            name=node.name or node.output[0],
            output=node.output[0],
            input=node.input[0],
            weight=node.input[1],
            bias=node.input[2] if len(node.input) > 2 else "",
            macs=int(np.prod(shapes[node.output[0]][1:]) * np.prod(stored[node.input[1]].dims[1:])),
            is_last=node.output[0] not in before,
        )
        for node in found
    ]
    return Network(model=head, convolutions=convolutions, nodes=frozenset(before | outputs))


def producers(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """The node that makes each tensor."""
    return {output: node for node in graph.node for output in node.output}


def _with_constants_stored(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose Constant nodes of tensors are initializers."""
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    graph = stored.graph
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        value = next((attribute for attribute in node.attribute if attribute.name == "value"), None)
        if value is not None:
            value.t.name = node.output[0]
            graph.initializer.append(value.t)
            graph.node.remove(node)
    return stored


def _is_dfl(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> bool:
    """Whether a convolution only takes the mean of box side bins, as Ultralytics writes DFL."""
    weight = stored.get(node.input[1])
    if weight is None or weight.dims[0] != 1 or list(weight.dims[2:]) != [1, 1]:
        return False
    bins = numpy_helper.to_array(weight).ravel().astype(np.float64)
    return len(bins) > 1 and np.array_equal(bins, np.arange(len(bins)))


def _ancestors(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> set[str]:
    """First outputs of the nodes that those nodes need."""
    maker = producers(graph)
    waiting = [tensor for node in nodes for tensor in node.input]
    seen: set[str] = set()
    while waiting:
        node = maker.get(waiting.pop())
        if node is not None and node.output[0] not in seen:
            seen.add(node.output[0])
            waiting.extend(node.input)
    return seen


def _shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    """Shapes of the tensors; a dynamic batch counts as 0 and is not looked at."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {}
    for value in (*graph.value_info, *graph.output):
        shapes[value.name] = [side if isinstance(side, int) else 0 for side in dimensions(value)]
    return shapes
