"""What the real builder of TensorRT for RTX makes of each precision, without a GPU: the layers of its engines."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.precision import graphs
from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.graph.deploy_from_head import deploy_from_head
from trt_yolo.graph.writer import dimensions
from trt_yolo.precision.calibration import calibration_of
from trt_yolo.precision.fp16_from_float import fp16_from_float
from trt_yolo.precision.int8_from_float import int8_from_float
from trt_yolo.precision.network import Convolution, Network
from trt_yolo.precision.observer import observe

trt: Any = pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")

BATCHES = [pytest.param(BatchRange(1, 1), marks=pytest.mark.slow), BatchRange(1, 16)]
ROWS = 64
CONVOLVING = ("correlation", "runtime_fusion", "gemm")


class _Messages(trt.ILogger):
    """Everything that TensorRT says."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[str] = []
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        self.lines += message.splitlines()
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self.errors.append(message)


@dataclass(frozen=True)
class Layer:
    """One line of the "Engine Layer Information".

    Attributes:
        kind: correlation is a convolution; runtime_fusion one with what follows it; kgen a generated kernel.
        inputs: Number of elements (of one image) and type of each.
        constants: The same.
        outputs: The same.
        nodes: Names of the ONNX nodes that went into it.
    """

    kind: str
    inputs: list[tuple[int, str]]
    constants: list[tuple[int, str]]
    outputs: list[tuple[int, str]]
    nodes: frozenset[str]


def _layer(line: str) -> Layer:
    parts = {}
    for part in ("Inputs", "Constants", "Outputs"):
        found = re.search(rf" {part}: \[(.*?)\](?=, (?:Constants|Outputs|TacticName): )", line)
        assert found, line
        tensors = re.findall(r"Dimensions: \[([-\d,]*)\].*?Datatype: (\w+)", found[1])
        parts[part] = [
            (prod(abs(int(side)) for side in sides.split(",") if side), kind) for sides, kind in tensors
        ]
    kind = re.search(r"LayerType: (\w+)", line)
    assert kind, line
    return Layer(
        kind[1],
        parts["Inputs"],
        parts["Constants"],
        parts["Outputs"],
        frozenset(re.findall(r"\[ONNX Layer: ([^\]]+)\]", line)),
    )


def _layers(head: onnx.ModelProto) -> list[Layer]:
    """Of the engine that is built of the head's deploy graph."""
    batch, _, height, width = dimensions(head.graph.input[0])
    classes = int(dimensions(head.graph.output[0])[1]) - 4
    manifest = Manifest(
        graph="deploy",
        names={index: str(index) for index in range(classes)},
        imgsz_hw=(int(height), int(width)),
        batch=BatchRange(1, 16) if isinstance(batch, str) else BatchRange(batch, batch),
        rows=ROWS,
        anchors=0,
    )
    deploy = deploy_from_head(head, manifest)
    onnx.checker.check_model(deploy, full_check=True)
    messages = _Messages()
    builder = trt.Builder(messages)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, messages)
    parsed = parser.parse(deploy.SerializeToString())
    assert parsed, [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if isinstance(batch, str):
        profile = builder.create_optimization_profile()
        profile.set_shape("frames", *((count, height, width, 3) for count in (1, 4, 16)))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, messages.errors
    assert not messages.errors
    outputs = {
        network.get_output(index).name: network.get_output(index) for index in range(network.num_outputs)
    }
    assert outputs.keys() == {"detections", "unconverged"}
    assert all(tensor.dtype == trt.float32 for tensor in outputs.values())
    assert tuple(outputs["detections"].shape)[1:] == (ROWS, 6)
    return [_layer(line) for line in messages.lines if "LayerType: " in line]


def _layer_of(layers: list[Layer], one: Convolution, network: Network) -> Layer:
    """The layer that holds the weights of a convolution."""
    weights = prod(
        next(tensor for tensor in network.model.graph.initializer if tensor.name == one.weight).dims
    )
    holding = [
        layer
        for layer in layers
        if one.name in layer.nodes
        and layer.kind in CONVOLVING
        and any(size >= weights for size, _ in layer.constants)
    ]
    assert len(holding) == 1, f"{one.name} is in {len(holding)} layers"
    return holding[0]


def _types_of(layers: list[Layer], one: Convolution, network: Network) -> tuple[str, str]:
    """Types of a convolution's input and of its weights."""
    layer = _layer_of(layers, one, network)
    return layer.inputs[0][1], max(layer.constants)[1]


def _int8_network(network: Network, kept: Collection[str]) -> onnx.ModelProto:
    return int8_from_float(network, graphs.demo_calibration("tensorrt"), keep_float=kept)


def _kept(network: Network) -> tuple[str, ...]:
    """The first two, one in a bottleneck, and one that reads what others read in int8."""
    return tuple(network.quantizable[index].output for index in (0, 1, 8, 48))


@cache
def _engine(precision: str, batch: BatchRange) -> list[Layer]:
    network = graphs.demo_network(batch=batch)
    heads = {
        "fp32": lambda: network.model,
        "fp16": lambda: fp16_from_float(network.model, network),
        "int8": lambda: fp16_from_float(_int8_network(network, _kept(network)), network),
        "int8 all": lambda: fp16_from_float(_int8_network(network, ()), network),
        "int8 over fp32": lambda: _int8_network(network, ()),
    }
    return _layers(heads[precision]())


def _counted(layers: list[Layer], network: Network) -> dict[tuple[str, str], int]:
    types = [_types_of(layers, one, network) for one in network.convolutions]
    return {kind: types.count(kind) for kind in types}


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize(
    ("precision", "wanted"),
    [
        ("fp32", {("Float", "Float"): 63}),
        ("fp16", {("Half", "Half"): 63}),
        ("int8", {("Int8", "Int8"): 53, ("Half", "Half"): 10}),
        ("int8 all", {("Int8", "Int8"): 57, ("Half", "Half"): 6}),
        ("int8 over fp32", {("Int8", "Int8"): 57, ("Float", "Float"): 6}),
    ],
)
def test_every_convolution_has_the_precision_asked_for(
    precision: str, wanted: dict[tuple[str, str], int], batch: BatchRange
) -> None:
    assert _counted(_engine(precision, batch), graphs.demo_network(batch=batch)) == wanted


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_int8_is_where_it_was_asked_for(batch: BatchRange) -> None:
    network, layers = graphs.demo_network(batch=batch), _engine("int8", batch)
    for one in network.convolutions:
        is_float = one.is_last or one.output in _kept(network)
        assert _types_of(layers, one, network)[0] == ("Half" if is_float else "Int8"), one.name


@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_nothing_is_int8_that_was_not_asked_for(precision: str, batch: BatchRange) -> None:
    layers = _engine(precision, batch)
    seen = {kind for layer in layers for _, kind in (*layer.inputs, *layer.constants, *layer.outputs)}
    assert "Int8" not in seen
    assert ("Half" in seen) == (precision == "fp16")


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_boxes_are_decoded_in_float32(batch: BatchRange) -> None:
    decoding = [layer for layer in _engine("fp16", batch) if any(".dfl" in name for name in layer.nodes)]
    assert decoding
    assert all(kind == "Float" for layer in decoding for _, kind in layer.outputs)


@pytest.mark.parametrize("batch", BATCHES, ids=str)
def test_weights_are_quantized_when_the_engine_is_built(batch: BatchRange) -> None:
    """No kernel does at run time what the graph's weight Q/DQ says."""
    for layer in _engine("int8 all", batch):
        if (
            layer.kind == "kgen" and "deploy.rgb" not in layer.nodes
        ):  # a fourth channel is padded to the image
            assert not any(kind == "Int8" for _, kind in layer.constants)


@pytest.mark.shared
def test_convolutions_of_yolov8n(yolov8n: Path, val_images: list[Path]) -> None:
    network = graphs.network_of_checkpoint(yolov8n, 320)
    inputs = list(dict.fromkeys(one.input for one in network.quantizable))
    frames = list(graphs.letterboxed(val_images[:4], 320))
    observed = observe(network.model, inputs, lambda: frames, threads=graphs.THREADS)
    calibration = calibration_of(network, observed, "l2.4", target="tensorrt")
    int8 = int8_from_float(network, calibration, keep_float=_kept(network))
    layers = _layers(fp16_from_float(int8, network))
    assert _counted(layers, network) == {("Int8", "Int8"): 53, ("Half", "Half"): 10}
