"""INT8 for a CPU: the form of the graph, and what ONNX Runtime really runs of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.precision import graphs
from trt_yolo.precision.calibration import Activation, Calibration, calibration_of
from trt_yolo.precision.int8_for_cpu import cpu_network, cpu_tensors, int8_for_cpu
from trt_yolo.precision.network import Network, network_of
from trt_yolo.precision.observing import observe
from trt_yolo.shapes import BatchRange

ort = pytest.importorskip("onnxruntime")

MOVERS = {"MaxPool", "Split", "Resize"}
FUSED = {"Sigmoid": "QLinearSigmoid", "Concat": "QLinearConcat", "Add": "QLinearAdd", "Mul": "QLinearMul"}


@pytest.fixture(scope="module")
def demo() -> Network:
    return cpu_network(graphs.demo_network())


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return graphs.demo_calibration("cpu")


@pytest.fixture(scope="module")
def int8(demo: Network, calibration: Calibration) -> onnx.ModelProto:
    return int8_for_cpu(demo, calibration)


def _optimized(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """What ONNX Runtime makes of a graph."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "optimized.onnx")


def test_checker_and_interface(demo: Network, int8: onnx.ModelProto) -> None:
    onnx.checker.check_model(int8, full_check=True)
    assert int8.graph.input == demo.model.graph.input
    assert int8.graph.output == demo.model.graph.output
    assert int8.metadata_props == demo.model.metadata_props
    names = [node.name for node in int8.graph.node]
    assert len(set(names)) == len(names)
    used = {name for node in int8.graph.node for name in node.input}
    assert {tensor.name for tensor in int8.graph.initializer} <= used


def test_tensors_are_all_that_flows_to_the_last_convolutions(demo: Network) -> None:
    tensors = cpu_tensors(demo)
    last = {one.output for one in demo.convolutions if one.is_last}
    assert len(set(tensors)) == len(tensors)
    assert tensors[0] == demo.input
    assert {one.input for one in demo.convolutions} <= set(tensors)
    assert not last & set(tensors)
    made = {name for node in demo.model.graph.node if node.output[0] in demo.nodes for name in node.output}
    assert set(tensors) == {demo.input} | made - last


@pytest.mark.parametrize("batch", [BatchRange(4, 4), BatchRange(1, 4)], ids=str)
def test_tensors_of_other_batches_are_the_same(demo: Network, batch: BatchRange) -> None:
    assert cpu_tensors(graphs.demo_network(batch=batch)) == cpu_tensors(demo)


def test_every_tensor_between_has_q_and_dq(demo: Network, int8: onnx.ModelProto) -> None:
    tensors, arrays = cpu_tensors(demo), graphs.initializers(int8)
    quantized = {node.input[0]: node for node in int8.graph.node if node.op_type == "QuantizeLinear"}
    assert quantized.keys() == set(tensors)
    for tensor in tensors:
        readers = [node.op_type for node in int8.graph.node if tensor in node.input]
        assert readers == ["QuantizeLinear"], "nothing else reads the float tensor"
        back = graphs.node_of(int8, f"{tensor}.dq")
        assert back.op_type == "DequantizeLinear"
        assert list(back.input) == [quantized[tensor].output[0], *quantized[tensor].input[1:]]
        scale, zero = (arrays[name] for name in back.input[1:])
        assert (scale.dtype, scale.shape, zero.dtype, zero.shape) == (np.float32, (), np.uint8, ())


def test_movers_share_the_scale_of_their_source(demo: Network, int8: onnx.ModelProto) -> None:
    arrays = graphs.initializers(int8)
    moved = 0
    for node in demo.model.graph.node:
        if node.op_type in MOVERS and node.output[0] in demo.nodes:
            for output in node.output:
                moved += 1
                assert arrays[f"{output}.scale"] == arrays[f"{node.input[0]}.scale"]
                assert arrays[f"{output}.zero"] == arrays[f"{node.input[0]}.zero"]
    assert moved > 20


def test_convolutions_have_int8_weights_and_int32_biases(
    demo: Network, calibration: Calibration, int8: onnx.ModelProto
) -> None:
    arrays, floats = graphs.initializers(int8), graphs.initializers(demo.model)
    for one in demo.convolutions:
        node = graphs.node_of(int8, one.output)
        assert node.input[0] == f"{one.input}.dq"
        if one.is_last:
            assert list(node.input[1:]) == [one.weight, one.bias]
            continue
        levels, scales, zeros = (arrays[name] for name in graphs.node_of(int8, node.input[1]).input)
        assert (levels.dtype, zeros.any()) == (np.int8, False)
        bias, unit = (arrays[name] for name in graphs.node_of(int8, node.input[2]).input)
        assert (bias.dtype, unit.dtype) == (np.int32, np.float32)
        np.testing.assert_allclose(unit, scales * arrays[f"{one.input}.scale"], rtol=1e-6)
        wanted = floats[one.bias] + calibration.bias_shifts[one.output]
        assert (np.abs(bias * unit.astype(np.float64) - wanted) <= unit * 0.51 + 1e-6 * np.abs(wanted)).all()


def test_runtime_fuses(int8: onnx.ModelProto, tmp_path: Path) -> None:
    kinds = graphs.kinds(_optimized(int8, tmp_path))
    assert kinds["QLinearConv"] == 57
    assert kinds["Conv"] == 6, "the last ones"
    assert kinds["QLinearSigmoid"] == kinds["QLinearMul"] == 57
    assert kinds["QLinearConcat"] == 13
    assert kinds["QLinearAdd"] == 6
    assert kinds["QuantizeLinear"] == 1, "only the image is made 8 bits"
    assert kinds["DequantizeLinear"] == 6, "only what the last ones read is made float"


@pytest.mark.parametrize("kept", [[0], [0, 8, 20, 48], list(range(57))], ids=["first", "four", "all"])
def test_runtime_keeps_in_float_what_shall_be_kept(
    demo: Network, calibration: Calibration, kept: list[int], tmp_path: Path
) -> None:
    outputs = [demo.quantizable[index].output for index in kept]
    model = int8_for_cpu(demo, calibration, keep_float=outputs)
    onnx.checker.check_model(model, full_check=True)
    for one in demo.quantizable:
        if one.output in outputs:
            assert list(graphs.node_of(model, one.output).input[1:]) == [one.weight, one.bias]
    kinds = graphs.kinds(_optimized(model, tmp_path))
    assert kinds["QLinearConv"] == 57 - len(kept)
    assert kinds["Conv"] == 6 + len(kept)


@pytest.mark.parametrize("batch", [BatchRange(1, 1), BatchRange(3, 3), BatchRange(1, 4)], ids=str)
def test_close_to_float(demo: Network, calibration: Calibration, batch: BatchRange) -> None:
    network = graphs.demo_network(batch=batch)
    frames = graphs.demo_frames(6)
    plain = graphs.outputs_of(demo.model, frames)
    model = int8_for_cpu(network, calibration)
    images = graphs.images_for_head(np.stack(frames))
    count = 6 if not batch.is_static else batch.minimum
    parts = [images[start : start + count] for start in range(0, 6, count)]
    got = np.concatenate([graphs.run_showing(model, ["output0"], part)["output0"] for part in parts])
    off = np.abs(got - plain)
    found = plain[:, 4:].max(axis=1) > 0.25
    assert found.sum() > 150
    assert off.max() > 0
    assert off[:, :4].transpose(0, 2, 1)[found].mean() < 0.25
    assert off[:, 4:].transpose(0, 2, 1)[found].mean() < 0.02
    assert off[:, 4:].mean() < 3e-4


@pytest.mark.parametrize("bias", [1e4, -1e4, 1e6])
def test_large_biases_over_tiny_weights(demo: Network, calibration: Calibration, bias: float) -> None:
    """A dead channel: its weights are nothing, its bias is all; in int32 it must not overflow."""
    model = onnx.ModelProto()
    model.CopyFrom(demo.model)
    one = demo.quantizable[3]
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if tensor.name == one.weight:
            array[2] *= 1e-9
            array[3] = 0
        elif tensor.name == one.bias:
            array[2:4] = bias, -bias
        else:
            continue
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    activations = dict(calibration.activations)
    activations[one.input] = Activation(scale=1e-6, zero=128)  # too little, to make the unit tiny
    activations[one.output] = Activation(scale=abs(bias) / 100, zero=128)
    changed = network_of(model, origin="changed")
    int8 = int8_for_cpu(changed, dataclasses.replace(calibration, activations=activations))
    onnx.checker.check_model(int8, full_check=True)
    arrays = graphs.initializers(int8)
    levels, unit = arrays[f"{one.output}.bias.q"], arrays[f"{one.output}.bias.scale"]
    assert (np.abs(levels[2:4].astype(np.int64)) <= 2**30 + 2**10).all()
    assert np.sign(levels[2:4]).tolist() == [np.sign(bias), -np.sign(bias)]
    np.testing.assert_allclose(levels[2:4] * unit[2:4].astype(np.float64), [bias, -bias], rtol=1e-5)
    images = graphs.images_for_head(graphs.demo_frames(1)[0][None])
    shown = graphs.run_showing(int8, [f"{one.output}.dq"], images)[f"{one.output}.dq"]
    np.testing.assert_allclose(shown[0, 2], bias, rtol=0.02)
    np.testing.assert_allclose(shown[0, 3], -bias, rtol=0.02)


def test_other_channels_keep_their_levels_beside_a_dead_one(demo: Network, calibration: Calibration) -> None:
    one = demo.quantizable[3]
    plain = graphs.initializers(int8_for_cpu(demo, calibration))
    shifts = dict(calibration.bias_shifts)
    shifts[one.output] = shifts[one.output].copy()
    shifts[one.output][5] = 1e7
    other = graphs.initializers(int8_for_cpu(demo, dataclasses.replace(calibration, bias_shifts=shifts)))
    rest = np.arange(len(shifts[one.output])) != 5
    for part in ("weight.q", "weight.scale", "bias.q", "bias.scale"):
        name = f"{one.output}.{part}"
        np.testing.assert_array_equal(other[name][rest], plain[name][rest])
        assert not np.array_equal(other[name][5], plain[name][5])


def test_the_network_is_left_as_it_was(demo: Network, calibration: Calibration) -> None:
    before = demo.model.SerializeToString()
    int8_for_cpu(demo, calibration)
    assert demo.model.SerializeToString() == before


def _assert_becomes_int8(head: onnx.ModelProto, folder: Path) -> None:
    network = network_of(head, origin="theirs")
    frames = graphs.demo_frames(4, 100)
    observed = observe(head, cpu_tensors(network), lambda: frames, threads=graphs.THREADS)
    model = int8_for_cpu(network, calibration_of(network, observed, "minmax", target="cpu"))
    onnx.checker.check_model(model, full_check=True)
    kinds = graphs.kinds(_optimized(model, folder))
    assert kinds["QLinearConv"] == 57
    assert kinds["QuantizeLinear"] == 1
    off = np.abs(graphs.outputs_of(model, frames) - graphs.outputs_of(head, frames))
    assert 0 < off[:, 4:].mean() < 3e-4


@pytest.mark.parametrize("batch", [BatchRange(1, 1), BatchRange(1, 4)], ids=str)
def test_heads_of_ultralytics(batch: BatchRange, tmp_path: Path) -> None:
    pytest.importorskip("ultralytics")
    _assert_becomes_int8(graphs.ultralytics_demo_head(batch), tmp_path)


def test_constants_as_nodes(demo: Network, tmp_path: Path) -> None:
    """Ultralytics' export without onnxslim keeps the scales of Resize in nodes; they are no activations."""
    model = onnx.ModelProto()
    model.CopyFrom(demo.model)
    scales = {node.input[2] for node in model.graph.node if node.op_type == "Resize"}
    moved = [tensor for tensor in model.graph.initializer if tensor.name in scales]
    constants = [onnx.helper.make_node("Constant", [], [one.name], name=one.name, value=one) for one in moved]
    nodes = [*constants, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for tensor in moved:
        model.graph.initializer.remove(tensor)
    onnx.checker.check_model(model, full_check=True)
    assert len(moved) == 2
    assert cpu_tensors(network_of(model, origin="made")) == cpu_tensors(demo)
    _assert_becomes_int8(model, tmp_path)
