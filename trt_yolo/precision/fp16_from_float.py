"""Mixed FP16: the network of a head graph in half precision, everything after it as it was.

Enters: a float32 head graph, with Q/DQ nodes or without. Leaves: the same graph, inputs and outputs unchanged,
whose network computes in FP16 between two Casts. Box decoding stays FP32, and so does every node that is named, such
as those that would overflow: `overflowing_nodes` looks for them. Q/DQ around FP16 tensors needs opset 19.
Does not know calibration or files.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import numpy_helper

from trt_yolo.graph.writer import FLOAT, FLOAT16
from trt_yolo.precision.network import Network, producers
from trt_yolo.precision.observer import Frames, observe_ranges

LIMIT = float(np.finfo(np.float16).max) / 4  # other images reach further than those that were looked at
_FLOAT32_INPUTS = {"Resize": (1, 2), "Upsample": (1,)}  # by the standard, whatever the type of the data


def fp16_from_float(
    model: onnx.ModelProto, network: Network, *, keep_fp32: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy of the model with its network in FP16.

    Args:
        model: The head graph of the network, or that graph with Q/DQ nodes.
        network: Where the network ends: its `nodes`, and Q/DQ nodes that feed them, become FP16.
        keep_fp32: First outputs of nodes that stay FP32.
    """
    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    _Halving(graph, _half_nodes(graph, network, keep_fp32)).rewrite()
    del graph.value_info[:]
    return half


def overflowing_nodes(network: Network, frames: Frames, *, threads: int) -> list[str]:
    """First outputs of the network's nodes with a value beyond a quarter of FP16's limit.

    Args:
        network: The network.
        frames: A few frames are enough.
        threads: CPU threads of one inference.
    """
    graph = network.model.graph
    inferred = onnx.shape_inference.infer_shapes(network.model).graph
    floats = {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == FLOAT}
    nodes = [node for node in graph.node if node.output[0] in network.nodes]
    tensors = [output for node in nodes for output in node.output if output in floats]
    ranges = observe_ranges(network.model, tensors, frames, threads=threads)
    large = {name for name, (low, high) in ranges.items() if max(-low, high) > LIMIT}
    large |= {tensor.name for tensor in graph.initializer if _is_large(tensor)}
    return [node.output[0] for node in nodes if large.intersection((*node.input, *node.output))]


def _half_nodes(graph: onnx.GraphProto, network: Network, keep_fp32: Collection[str]) -> set[str]:
    """First outputs of the nodes that become FP16."""
    stored = {tensor.name for tensor in graph.initializer}
    maker = producers(graph)
    nodes = {node.output[0] for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")}
    nodes |= network.nodes
    kept = set(keep_fp32)
    for output in keep_fp32:  # the weights of a convolution go with it: TensorRT wants no Cast between
        for tensor in maker[output].input:
            node = maker.get(tensor)
            if node is not None and node.op_type == "DequantizeLinear" and node.input[0] in stored:
                kept.add(node.output[0])
    return nodes - kept


class _Halving:
    """Rewrites a graph node by node: every float input of a node gets the node's own precision."""

    def __init__(self, graph: onnx.GraphProto, half_nodes: set[str]) -> None:
        self._graph = graph
        self._half_nodes = half_nodes
        self._types = _float_tensors(graph)  # the precision that each float tensor has now
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._results = {value.name for value in graph.output}
        self._nodes: list[onnx.NodeProto] = []
        self._other: dict[tuple[str, int], str] = {}  # a tensor in another precision

    def rewrite(self) -> None:
        for node in list(self._graph.node):
            wanted = FLOAT16 if node.output[0] in self._half_nodes else FLOAT
            skipped = _FLOAT32_INPUTS.get(node.op_type, ())
            for index, tensor in enumerate(node.input):
                if self._types.get(tensor) not in (None, wanted) and index not in skipped:
                    node.input[index] = self._in(tensor, wanted)
            self._nodes.append(_copy(node))
            if wanted == FLOAT16:
                self._halve_outputs(self._nodes[-1])
        used = {tensor for node in self._nodes for tensor in node.input}
        kept = [tensor for tensor in self._stored.values() if tensor.name in used]
        for field, content in ((self._graph.node, self._nodes), (self._graph.initializer, kept)):
            del field[:]
            field.extend(content)

    def _halve_outputs(self, node: onnx.NodeProto) -> None:
        for index, tensor in enumerate(node.output):
            if self._types.get(tensor) != FLOAT:
                continue
            if tensor in self._results:  # the graph's own outputs keep their type
                node.output[index] = self._other[(tensor, FLOAT16)] = f"{tensor}.fp16"
                self._nodes.append(
                    onnx.helper.make_node(
                        "Cast", [f"{tensor}.fp16"], [tensor], name=f"{tensor}.cast", to=FLOAT
                    )
                )
            else:
                self._types[tensor] = FLOAT16
        if node.op_type == "Cast":
            _set_integer(node, "to", FLOAT, FLOAT16)

    def _in(self, tensor: str, precision: int) -> str:
        """The name of a tensor in another precision than it has."""
        key = (tensor, precision)
        if key not in self._other:
            name = f"{tensor}.fp{16 if precision == FLOAT16 else 32}"
            self._other[key] = name
            if tensor in self._stored:
                self._stored[name] = _converted(self._stored[tensor], name)
            else:
                self._nodes.append(
                    onnx.helper.make_node("Cast", [tensor], [name], name=f"{name}.cast", to=precision)
                )
        return self._other[key]


def _float_tensors(graph: onnx.GraphProto) -> dict[str, int]:
    """FLOAT for each tensor of that type."""
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)])
    inferred = onnx.shape_inference.infer_shapes(model).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types: dict[str, int] = {
        value.name: FLOAT for value in values if value.type.tensor_type.elem_type == FLOAT
    }
    types.update({tensor.name: FLOAT for tensor in graph.initializer if tensor.data_type == FLOAT})
    return types


def _converted(tensor: onnx.TensorProto, name: str) -> onnx.TensorProto:
    """An initializer in FP16, what is larger than FP16 knows at its limit."""
    array = numpy_helper.to_array(tensor)
    limit = np.finfo(np.float16).max
    return numpy_helper.from_array(np.clip(array, -limit, limit).astype(np.float16), name)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _set_integer(node: onnx.NodeProto, name: str, old: int, new: int) -> None:
    for attribute in node.attribute:
        if attribute.name == name and attribute.i == old:
            attribute.i = new


def _is_large(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != FLOAT:
        return False
    array = numpy_helper.to_array(tensor)
    return bool(array.size and np.abs(array).max() > LIMIT)
