"""Which nodes of a network FP16 cannot hold: those that read or write values near its limit.

Enters: a network and frames. Leaves: first outputs of nodes, for `fp16_from_float`'s `keep_fp32`.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from trt_yolo.export.graph import FLOAT
from trt_yolo.precision.network import Network
from trt_yolo.precision.observing import Frames, observe_ranges

LIMIT = float(np.finfo(np.float16).max) / 4  # other images reach further than those that were looked at


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


def _is_large(tensor: onnx.TensorProto) -> bool:
    if tensor.data_type != FLOAT:
        return False
    array = numpy_helper.to_array(tensor)
    return bool(array.size and np.abs(array).max() > LIMIT)
