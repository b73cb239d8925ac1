"""What the tests of precision share: head graphs, their frames, what was observed of them, and sessions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.backends.base import images_for_head
from trt_yolo.backends.onnxruntime import open_session
from trt_yolo.demo.scenes import scene
from trt_yolo.graph.head_from_checkpoint import checkpoint_from_file, head_from_checkpoint
from trt_yolo.graph.head_from_onnx import head_from_onnx
from trt_yolo.graph.writer import DEFAULT_OPSET
from trt_yolo.media.images import read_image
from trt_yolo.precision import maker, speed
from trt_yolo.precision.calibration import Calibration, Target, calibration_of
from trt_yolo.precision.int8_for_cpu import cpu_network, cpu_tensors
from trt_yolo.precision.network import Network, network_of
from trt_yolo.precision.observer import Frame, Observed, observe
from trt_yolo.precision.scales import Method
from trt_yolo.vision.letterbox import fit_letterbox, letterbox_into

Floats = np.ndarray[Any, np.dtype[np.float32]]

STATIC = BatchRange(1, 1)
THREADS = 2


@cache
def demo_network(*, batch: BatchRange = STATIC, opset: int = DEFAULT_OPSET) -> Network:
    """The demo model at 256x256; not to be changed."""
    head = head_from_checkpoint(
        checkpoint_from_file(demo_checkpoint()), imgsz_hw=(256, 256), batch=batch, opset=opset
    )
    return network_of(head, origin="demo")


@cache
def network_of_checkpoint(path: Path, side: int, *, batch: BatchRange = STATIC) -> Network:
    """A checkpoint's network at a square size; not to be changed."""
    head = head_from_checkpoint(checkpoint_from_file(path), imgsz_hw=(side, side), batch=batch)
    return network_of(head, origin=path.name)


@cache
def head_of_ultralytics(path: Path) -> onnx.ModelProto:
    """The demo's head graph as Ultralytics wrote it and trt-yolo reads it; not to be changed."""
    return head_from_onnx(path, imgsz_hw=(256, 256), batch=BatchRange(1, 4))[0]


@cache
def demo_frames(count: int, first: int = 0) -> tuple[Frame, ...]:
    """Scenes of the demo."""
    return tuple(scene(index).image_bgr for index in range(first, first + count))


def letterboxed(paths: Sequence[Path], side: int) -> Iterator[Frame]:
    """Image files as frames of a square size."""
    for path in paths:
        image, frame = read_image(path), np.empty((side, side, 3), np.uint8)
        letterbox_into(image, frame, fit_letterbox(image.shape[:2], (side, side)))
        yield frame


@cache
def demo_observed() -> dict[str, Observed]:
    """All tensors that a CPU quantizes, and the image, on eight scenes."""
    network = demo_network()
    tensors = [network.input, *cpu_tensors(network)]
    return observe(network.model, tensors, lambda: demo_frames(8, 100), threads=THREADS)


@cache
def demo_calibration(target: Target, method: Method = "l2.4") -> Calibration:
    """Of the demo network."""
    network, observed = demo_network(), demo_observed()
    if target == "cpu":
        network = cpu_network(network)
        observed = {tensor: observed[tensor] for tensor in cpu_tensors(network)}
    else:
        observed = {one.input: observed[one.input] for one in network.quantizable}
    return calibration_of(network, observed, method, target=target)


def quicken_int8(patch: pytest.MonkeyPatch, *methods: Method, search: bool = False) -> None:
    """INT8 exports calibrate by these methods; without a search no layer stays in float for its accuracy."""
    patch.setattr(maker, "METHODS", methods)
    patch.setattr(maker, "_PROBES", 2)
    patch.setattr(speed, "_SECONDS", 0.0)
    if not search:
        patch.setattr(maker, "sensitivities", lambda *_, **__: [])


def outputs_of(model: onnx.ModelProto, frames: Sequence[Frame]) -> Floats:
    """(N, 4 + classes, anchors): a head graph's output for each frame alone."""
    session = open_session(model.SerializeToString(), threads=THREADS)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: images_for_head(one[None])})[0] for one in frames])


def run_showing(model: onnx.ModelProto, tensors: Sequence[str], images: Floats) -> dict[str, Floats]:
    """Tensors of a graph for one input."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    there = {value.name for value in shown.graph.output}
    for name in tensors:
        if name not in there:
            shown.graph.output.add(name=name)
    session = open_session(shown.SerializeToString(), threads=THREADS)
    return dict(zip(tensors, session.run(list(tensors), {session.get_inputs()[0].name: images}), strict=True))


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    """The node that makes a tensor."""
    (node,) = (one for one in model.graph.node if output in one.output)
    return node


def initializers(model: onnx.ModelProto) -> dict[str, Any]:
    """Arrays of a graph by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def kinds(model: onnx.ModelProto) -> Counter[str]:
    """How many nodes of each operator there are."""
    return Counter(node.op_type for node in model.graph.node)


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Element types of all tensors, as shape inference finds them."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    types = {
        one.name: one.type.tensor_type.elem_type for one in (*graph.value_info, *graph.input, *graph.output)
    }
    return types | {tensor.name: tensor.data_type for tensor in graph.initializer}
