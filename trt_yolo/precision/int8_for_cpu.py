"""INT8 for a CPU: the same calibration, laid out for ONNX Runtime's kernels.

Enters: a float32 head graph's network, and its calibration. Leaves: the graph with uint8 around every operator
of its network, so that ONNX Runtime runs convolution, SiLU, concatenation and upsampling on 8 bits. FP32 stay what
decodes boxes, the last convolutions, and the convolution that reads the image, which is faster so.
TensorRT does not parse this form, and needs none of it.
Does not know how ranges are chosen, nor which convolutions are worth it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from trt_yolo.graph.writer import FLOAT
from trt_yolo.precision.calibration import Activation, Calibration, quantized_weights
from trt_yolo.precision.int8_from_float import (
    corrected_bias,
    quantizing_nodes,
    rebuild,
    weight_node,
    weights_of,
)
from trt_yolo.precision.network import Convolution, Network

_MOVERS = frozenset({"Split", "Resize", "Slice", "Reshape", "Transpose"})  # their values are copies
_LARGEST_BIAS = 2.0**30


def cpu_tensors(network: Network) -> list[str]:
    """The tensors that become uint8: everything that flows between the first and the last convolutions."""
    graph = network.model.graph
    last = {one.output for one in network.convolutions if one.is_last}
    inferred = onnx.shape_inference.infer_shapes(network.model).graph
    floats = {value.name for value in inferred.value_info if value.type.tensor_type.elem_type == FLOAT}
    made = [
        output
        for node in graph.node
        if node.output[0] in network.nodes - last and node.op_type != "MaxPool"  # bytes pass by themselves
        for output in node.output
        if output in floats
    ]
    return made


def cpu_network(network: Network) -> Network:
    """The network with the convolutions that read the image set apart: with three channels int8 is slower."""
    readers = {one.output for one in network.convolutions if one.input == network.input}
    return dataclasses.replace(network, float_only=network.float_only | readers)


def int8_for_cpu(
    network: Network, calibration: Calibration, *, keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy of the network's head graph in uint8.

    Args:
        network: What `cpu_network` made.
        calibration: Of its `cpu_tensors`, for the target `cpu`.
        keep_float: Outputs of convolutions that compute in float, their SiLU too, between 8 bits.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    keep_float = network.float_only.union(keep_float)
    activations = _followed(network, calibration.activations)
    for tensor in _inside(network, keep_float):
        activations.pop(tensor, None)
    weights = weights_of(network)
    convolutions = {one.output: one for one in network.quantizable if one.output not in keep_float}
    added: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        one = convolutions.get(node.output[0])
        for index, tensor in enumerate(node.input):
            if tensor in activations:
                node.input[index] = f"{tensor}.dq"
        if one is not None:
            bias = corrected_bias(one, weights, calibration.bias_shifts[one.output])
            nodes += _convolution_nodes(one, weights[one.weight], bias, activations[one.input].scale, added)
            del node.input[1:]
            node.input.extend([f"{one.output}.weight.dq", f"{one.output}.bias.dq"])
        nodes.append(node)
        for output in node.output:
            if output in activations:
                nodes += quantizing_nodes(output, activations[output], np.uint8, added)
    rebuild(model.graph, nodes, added)
    return model


def _inside(network: Network, keep_float: Collection[str]) -> set[str]:
    """What lies between those convolutions and the end of their SiLU.

    8 bits after a convolution would make ONNX Runtime take it for an int8 one, and quantize its weights as it likes.
    """
    kept = set(keep_float)
    silu = network.before_silu & kept
    for node in network.model.graph.node:
        if node.op_type == "Sigmoid" and node.input[0] in silu:
            kept.add(node.output[0])
    return kept


def _followed(network: Network, activations: dict[str, Activation]) -> dict[str, Activation]:
    """Where values are only moved, 8 bits move as they are: the result has the scale of the source."""
    followed = dict(activations)
    for node in network.model.graph.node:
        if node.op_type in _MOVERS and node.input[0] in followed:
            followed.update({output: followed[node.input[0]] for output in node.output if output in followed})
    return followed


def _convolution_nodes(
    one: Convolution,
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    scale: float,
    added: list[onnx.TensorProto],
) -> list[onnx.NodeProto]:
    """DQ of weights and of the bias, int32 in units of what a product is, as ONNX Runtime's kernel adds it."""
    levels, scales = quantized_weights(weight)
    too_fine = np.abs(bias) > _LARGEST_BIAS * scale * scales
    if too_fine.any():  # all but dead channels: their bias is all they say
        wanted = np.where(too_fine, np.abs(bias) / (_LARGEST_BIAS * scale), scales).astype(np.float32)
        levels = np.rint(levels * (scales / wanted).reshape(-1, *[1] * (weight.ndim - 1))).astype(np.int8)
        scales = wanted
    name, unit = f"{one.output}.bias", (scales * np.float32(scale)).astype(np.float32)
    parts = {"q": np.rint(bias / unit).astype(np.int32), "scale": unit}
    added.extend(numpy_helper.from_array(array, f"{name}.{part}") for part, array in parts.items())
    inputs = [f"{name}.{part}" for part in parts]
    return [
        weight_node(one, (levels, scales), added),
        helper.make_node("DequantizeLinear", inputs, [f"{name}.dq"], name=f"{name}.dq", axis=0),
    ]
