"""INT8 for TensorRT: the form of the graph, and that its arithmetic is that of integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.precision import graphs
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.backends.base import images_for_head
from trt_yolo.precision.calibration import Calibration, calibration_of
from trt_yolo.precision.fp16_from_float import fp16_from_float
from trt_yolo.precision.int8_for_cpu import cpu_network
from trt_yolo.precision.int8_from_float import int8_from_float
from trt_yolo.precision.network import Convolution, Network
from trt_yolo.precision.observer import observe


@pytest.fixture(scope="module")
def demo() -> Network:
    return graphs.demo_network()


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return graphs.demo_calibration("tensorrt")


@pytest.fixture(scope="module")
def kept(demo: Network) -> list[str]:
    """Convolutions left as they are: the first, one that shares its input, and one in the middle."""
    return [demo.quantizable[index].output for index in (0, 8, 20, 48)]


@pytest.fixture(scope="module")
def int8(demo: Network, calibration: Calibration, kept: list[str]) -> onnx.ModelProto:
    return int8_from_float(demo, calibration, keep_float=kept)


def test_checker_and_interface(demo: Network, calibration: Calibration, int8: onnx.ModelProto) -> None:
    before = demo.model.SerializeToString()
    full = int8_from_float(demo, calibration)
    assert demo.model.SerializeToString() == before
    for model in (int8, full):
        onnx.checker.check_model(model, full_check=True)
        assert model.graph.input == demo.model.graph.input
        assert model.graph.output == demo.model.graph.output
        assert model.metadata_props == demo.model.metadata_props
        names = [node.name for node in model.graph.node]
        assert len(set(names)) == len(names)


def _taken(network: Network, kept: list[str]) -> list[Convolution]:
    return [one for one in network.quantizable if one.output not in kept]


def test_quantized_convolutions_read_int8(
    demo: Network, calibration: Calibration, int8: onnx.ModelProto, kept: list[str]
) -> None:
    arrays, floats = graphs.initializers(int8), graphs.initializers(demo.model)
    for one in _taken(demo, kept):
        values, weights, bias = graphs.node_of(int8, one.output).input
        read, weight = graphs.node_of(int8, values), graphs.node_of(int8, weights)
        assert read.op_type == weight.op_type == "DequantizeLinear"
        quantizer = graphs.node_of(int8, read.input[0])
        assert quantizer.op_type == "QuantizeLinear"
        assert list(quantizer.input) == [one.input, *read.input[1:]]
        scale, zero = (arrays[name] for name in read.input[1:])
        assert (scale.dtype, scale.shape, zero.dtype, zero.shape) == (np.float32, (), np.int8, ())
        assert scale == calibration.activations[one.input].scale
        assert zero == 0
        levels, scales, zeros = (arrays[name] for name in weight.input)
        assert (levels.dtype, scales.dtype, zeros.dtype) == (np.int8, np.float32, np.int8)
        assert levels.shape == floats[one.weight].shape
        assert scales.shape == zeros.shape == (len(levels),)
        assert not zeros.any()
        assert {attribute.name: attribute.i for attribute in weight.attribute} == {"axis": 0}
        np.testing.assert_array_equal(scales.astype(np.float16).astype(np.float32), scales)
        assert arrays[bias].dtype == np.float32
        np.testing.assert_allclose(
            arrays[bias], floats[one.bias] + calibration.bias_shifts[one.output], rtol=1e-6
        )


def test_the_others_are_untouched(demo: Network, int8: onnx.ModelProto, kept: list[str]) -> None:
    taken = {one.output for one in _taken(demo, kept)}
    before, after = graphs.initializers(demo.model), graphs.initializers(int8)
    for node in demo.model.graph.node:
        if node.output[0] not in taken:
            assert graphs.node_of(int8, node.output[0]) == node
            for name in node.input:
                if name in before:
                    np.testing.assert_array_equal(after[name], before[name])
    for one in demo.convolutions:
        same = graphs.node_of(int8, one.output).attribute == graphs.node_of(demo.model, one.output).attribute
        assert same, "strides, padding and groups"


def test_one_q_for_a_tensor_and_nothing_unused(demo: Network, int8: onnx.ModelProto, kept: list[str]) -> None:
    kinds, taken = graphs.kinds(int8), _taken(demo, kept)
    inputs = {one.input for one in taken}
    assert len(inputs) < len(taken), "some share their input"
    assert kinds["QuantizeLinear"] == len(inputs)
    assert kinds["DequantizeLinear"] == len(inputs) + len(taken)
    assert kinds["Conv"] == 63
    assert {node.input[0] for node in int8.graph.node if node.op_type == "QuantizeLinear"} == inputs
    used = {name for node in int8.graph.node for name in node.input}
    assert {tensor.name for tensor in int8.graph.initializer} <= used
    assert len({tensor.name for tensor in int8.graph.initializer}) == len(int8.graph.initializer)


def test_keeping_all_changes_nothing(demo: Network, calibration: Calibration) -> None:
    model = int8_from_float(demo, calibration, keep_float=[one.output for one in demo.quantizable])
    assert list(model.graph.node) == list(demo.model.graph.node)
    assert not graphs.kinds(model)["QuantizeLinear"]


def _as_uint8(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same levels, 128 higher, in uint8: activations only."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    zeros = {node.input[2] for node in other.graph.node if node.op_type == "QuantizeLinear"}
    for tensor in other.graph.initializer:
        if tensor.name in zeros:
            tensor.CopyFrom(numpy_helper.from_array(np.uint8(128), tensor.name))
    assert zeros
    onnx.checker.check_model(other, full_check=True)
    return other


@pytest.mark.parametrize("half", [False, True], ids=["float32 between", "float16 between"])
def test_uint8_gives_the_same_bits(demo: Network, int8: onnx.ModelProto, half: bool) -> None:
    model = fp16_from_float(int8, demo) if half else int8
    frames = graphs.demo_frames(6)
    np.testing.assert_array_equal(
        graphs.outputs_of(_as_uint8(model), frames), graphs.outputs_of(model, frames)
    )


@pytest.mark.parametrize("half", [False, True], ids=["float32 between", "float16 between"])
def test_uint8_gives_the_same_bits_for_yolov8n(yolov8n: Path, val_images: list[Path], half: bool) -> None:
    network = graphs.network_of_checkpoint(yolov8n, 320)
    frames = list(graphs.letterboxed(val_images[:8], 320))
    inputs = list(dict.fromkeys(one.input for one in network.quantizable))
    observed = observe(network.model, inputs, lambda: frames[4:], threads=graphs.THREADS)
    model = int8_from_float(network, calibration_of(network, observed, "l2.4", target="tensorrt"))
    if half:
        model = fp16_from_float(model, network)
    got, wanted = graphs.outputs_of(_as_uint8(model), frames[:4]), graphs.outputs_of(model, frames[:4])
    np.testing.assert_array_equal(got, wanted)
    plain = graphs.outputs_of(network.model, frames[:4])
    assert np.abs(plain - wanted).max() > 0
    assert np.abs(plain - wanted)[:, 4:].mean() < 1e-3


def _integer_convolution(levels: np.ndarray, weight: np.ndarray, *, stride: int, padding: int) -> np.ndarray:
    """int32 accumulation of (Cin, H, W) and (Cout, Cin, k, k) int8."""
    padded = np.pad(levels.astype(np.int32), ((0, 0), (padding, padding), (padding, padding)))
    side = weight.shape[2]
    windows = np.lib.stride_tricks.sliding_window_view(padded, (side, side), axis=(1, 2))
    windows = windows[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", windows, weight.astype(np.int32), dtype=np.int32, casting="safe")


@pytest.mark.parametrize("index", [1, 2, 5, 21])
def test_convolution_is_integer_arithmetic(demo: Network, calibration: Calibration, index: int) -> None:
    one = demo.quantizable[index]
    model = int8_from_float(demo, calibration)
    images = images_for_head(graphs.demo_frames(1, 3)[0][None])
    shown = graphs.run_showing(model, [one.input, f"{one.input}.q", one.output], images)
    arrays = graphs.initializers(model)
    levels = shown[f"{one.input}.q"]
    activation = calibration.activations[one.input]
    wanted_levels = np.clip(np.rint(shown[one.input] / np.float32(activation.scale)), -128, 127)
    np.testing.assert_array_equal(levels, wanted_levels)
    attributes = {entry.name: list(entry.ints) for entry in graphs.node_of(model, one.output).attribute}
    accumulated = _integer_convolution(
        levels[0],
        arrays[f"{one.output}.weight.q"],
        stride=attributes.get("strides", [1])[0],
        padding=attributes.get("pads", [0])[0],
    )
    scales = arrays[f"{one.output}.weight.scale"].astype(np.float64) * activation.scale
    wanted = accumulated * scales[:, None, None] + arrays[f"{one.output}.bias"][:, None, None]
    magnitude = np.abs(wanted).max()
    np.testing.assert_allclose(shown[one.output][0], wanted, rtol=1e-5, atol=1e-5 * magnitude)
    assert magnitude > 100 * 1e-5


@pytest.mark.parametrize("value", [1e6, -1e6, 300.0, -300.0])
def test_extreme_inputs_clip(demo: Network, calibration: Calibration, value: float) -> None:
    model = int8_from_float(demo, calibration)
    names = [f"{one}.q" for one in calibration.activations]
    shown = graphs.run_showing(model, names, np.full((1, 3, 256, 256), value, np.float32))
    wanted = 127 if value > 0 else -128
    assert (shown[f"{demo.input}.q"] == wanted).all()
    for name, levels in shown.items():
        assert levels.dtype == np.int8, name


@pytest.mark.parametrize("batch", [BatchRange(3, 3), BatchRange(1, 4)], ids=str)
def test_other_batches_compute_the_same(calibration: Calibration, batch: BatchRange) -> None:
    single = int8_from_float(graphs.demo_network(), calibration)
    several = int8_from_float(graphs.demo_network(batch=batch), calibration)
    onnx.checker.check_model(several, full_check=True)
    images = images_for_head(np.stack(graphs.demo_frames(3)))
    got = graphs.run_showing(several, ["output0"], images)["output0"]
    np.testing.assert_allclose(got, graphs.outputs_of(single, graphs.demo_frames(3)), atol=2.0)
    assert np.abs(got - graphs.outputs_of(single, graphs.demo_frames(3)))[:, 4:].mean() < 1e-5


def test_close_to_float(demo: Network, calibration: Calibration) -> None:
    frames = graphs.demo_frames(8)
    plain = graphs.outputs_of(demo.model, frames)
    off = np.abs(graphs.outputs_of(int8_from_float(demo, calibration), frames) - plain)
    found = plain[:, 4:].max(axis=1) > 0.25
    assert found.sum() > 200
    assert off[:, :4].transpose(0, 2, 1)[found].mean() < 0.2
    assert off[:, 4:].transpose(0, 2, 1)[found].mean() < 0.02


def test_uint8_of_a_cpus_calibration(demo: Network) -> None:
    """The same form with a CPU's levels, by which the search judges convolutions alone."""
    calibration, network = graphs.demo_calibration("cpu"), cpu_network(demo)
    model = int8_from_float(network, calibration)
    onnx.checker.check_model(model, full_check=True)
    arrays = graphs.initializers(model)
    for one in network.quantizable:
        _, scale, zero = graphs.node_of(model, f"{one.input}.dq").input
        assert arrays[zero].dtype == np.uint8
        assert arrays[zero] == calibration.activations[one.input].zero
        assert arrays[scale] == np.float32(calibration.activations[one.input].scale)
    frames = graphs.demo_frames(4)
    off = np.abs(graphs.outputs_of(model, frames) - graphs.outputs_of(demo.model, frames))
    assert 0 < off[:, 4:].mean() < 2e-4
