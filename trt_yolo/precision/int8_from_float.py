"""INT8 for TensorRT: explicit Q/DQ around the convolutions of a head graph.

Enters: a float32 head graph's network, and its calibration. Leaves: the same graph with Q/DQ nodes, float32
between them; `fp16_from_float` makes the rest FP16. The form is what TensorRT 10 and 11 parse and fuse: symmetric
int8 with zero point 0, one scale for an activation, one for each output channel of weights, biases in floating
point. Every scale is a number that FP16 holds, so that both precisions compute the same.
Does not know how ranges are chosen, nor which convolutions are worth it.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from trt_yolo.precision.calibration import Activation, Calibration, Means, Weights, quantized_weights
from trt_yolo.precision.network import Convolution, Network


def int8_from_float(
    network: Network, calibration: Calibration, *, keep_float: Collection[str] = ()
) -> onnx.ModelProto:
    """A copy of the network's head graph whose quantizable convolutions are int8.

    Args:
        network: The network.
        calibration: Of its tensors; TensorRT takes only what was found for the target `tensorrt`.
        keep_float: Outputs of convolutions that are left as they are.
    """
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    weights = weights_of(network)
    convolutions = {one.output: one for one in network.quantizable if one.output not in keep_float}
    levels = np.int8 if calibration.target == "tensorrt" else np.uint8
    added: list[onnx.TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    done: set[str] = set()
    for node in model.graph.node:
        one = convolutions.get(node.output[0])
        if one is not None:
            if one.input not in done:
                done.add(one.input)
                nodes += quantizing_nodes(one.input, calibration.activations[one.input], levels, added)
            nodes.append(weight_node(one, quantized_weights(weights[one.weight]), added))
            bias = corrected_bias(one, weights, calibration.bias_shifts[one.output])
            added.append(numpy_helper.from_array(bias, f"{one.output}.bias"))
            del node.input[:]
            node.input.extend([f"{one.input}.dq", f"{one.output}.weight.dq", f"{one.output}.bias"])
        nodes.append(node)
    rebuild(model.graph, nodes, added)
    return model


def weights_of(network: Network) -> dict[str, Weights]:
    """The initializers of the head graph."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in network.model.graph.initializer}


def corrected_bias(one: Convolution, weights: dict[str, Weights], shift: Means) -> npt.NDArray[np.float32]:
    """(Cout,) float32: a convolution's bias with what quantization takes from it."""
    bias = weights[one.bias] if one.bias else np.zeros(len(shift), np.float32)
    return np.asarray(bias + shift, np.float32)


def quantizing_nodes(
    tensor: str, activation: Activation, dtype: type[np.int8 | np.uint8], added: list[onnx.TensorProto]
) -> list[onnx.NodeProto]:
    """Q and DQ of a tensor; the result is called `TENSOR.dq`. Their parameters go to `added`."""
    added.append(numpy_helper.from_array(np.array(activation.scale, np.float32), f"{tensor}.scale"))
    added.append(numpy_helper.from_array(np.array(activation.zero, dtype), f"{tensor}.zero"))
    parameters = [f"{tensor}.scale", f"{tensor}.zero"]
    levels, result = f"{tensor}.q", f"{tensor}.dq"
    return [
        helper.make_node("QuantizeLinear", [tensor, *parameters], [levels], name=levels),
        helper.make_node("DequantizeLinear", [levels, *parameters], [result], name=result),
    ]


def weight_node(
    one: Convolution,
    quantized: tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]],
    added: list[onnx.TensorProto],
) -> onnx.NodeProto:
    """DQ of a convolution's weights; the result is called `OUTPUT.weight.dq`."""
    name = f"{one.output}.weight"
    levels, scales = quantized
    parts: dict[str, npt.NDArray[np.generic]] = {
        "q": levels,
        "scale": scales,
        "zero": np.zeros(len(scales), np.int8),
    }
    added.extend(numpy_helper.from_array(array, f"{name}.{part}") for part, array in parts.items())
    inputs = [f"{name}.{part}" for part in parts]
    return helper.make_node("DequantizeLinear", inputs, [f"{name}.dq"], name=f"{name}.dq", axis=0)


def rebuild(graph: onnx.GraphProto, nodes: list[onnx.NodeProto], added: list[onnx.TensorProto]) -> None:
    """Gives a graph these nodes, and of its own and the added initializers those that are read."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    used = {tensor for node in copies for tensor in node.input}
    kept = [
        onnx.TensorProto.FromString(tensor.SerializeToString())
        for tensor in (*graph.initializer, *added)
        if tensor.name in used
    ]
    for field, content in ((graph.node, copies), (graph.initializer, kept)):
        del field[:]
        field.extend(content)
