"""INT8 for a CPU: the form of the graph, and what ONNX Runtime really runs of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.precision import graphs
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.precision.calibration import Activation, Calibration, calibration_of
from trt_yolo.precision.int8_for_cpu import cpu_network, cpu_tensors, int8_for_cpu
from trt_yolo.precision.network import Convolution, Network, network_of
from trt_yolo.precision.observer import observe

ort = pytest.importorskip("onnxruntime")

FIRST = "model.0.conv"
INT8 = 56  # convolutions: all but the first and the six last ones
MOVERS = {"Split", "Resize"}
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


def _pooled(network: Network) -> list[str]:
    """What max pooling makes."""
    return [node.output[0] for node in network.model.graph.node if node.op_type == "MaxPool"]


def _inside(network: Network, outputs: Collection[str]) -> set[str]:
    """What those convolutions make, and the Sigmoid of it: the inside of a float convolution with its SiLU."""
    sigmoids = {
        node.output[0]
        for node in network.model.graph.node
        if node.op_type == "Sigmoid" and node.input[0] in outputs
    }
    assert len(sigmoids) == len(outputs)
    return sigmoids.union(outputs)


def _assert_float(model: onnx.ModelProto, one: Convolution, read: str) -> None:
    """A convolution as the head graph has it, float until the end of its SiLU, 8 bits after that."""
    node = graphs.node_of(model, one.output)
    assert list(node.input) == [read, one.weight, one.bias]
    readers = {kind.op_type: kind for kind in model.graph.node if one.output in kind.input}
    assert readers.keys() == {"Sigmoid", "Mul"}
    sigmoid = readers["Sigmoid"].output[0]
    assert sorted(readers["Mul"].input) == sorted([one.output, sigmoid])
    assert [kind.op_type for kind in model.graph.node if sigmoid in kind.input] == ["Mul"]
    after = [kind.op_type for kind in model.graph.node if readers["Mul"].output[0] in kind.input]
    assert after == ["QuantizeLinear"]


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
    pooled = set(_pooled(demo))
    assert len(set(tensors)) == len(tensors)
    assert demo.input not in tensors
    assert {one.input for one in demo.convolutions} - {demo.input} <= set(tensors)
    assert not last & set(tensors)
    made = {name for node in demo.model.graph.node if node.output[0] in demo.nodes for name in node.output}
    assert set(tensors) == made - last - pooled
    assert len(pooled) == 3
    assert cpu_tensors(graphs.demo_network()) == tensors, "whether or not convolutions are set apart"


def test_only_the_convolution_that_reads_the_image_is_set_apart(demo: Network) -> None:
    whole = graphs.demo_network()
    assert demo == dataclasses.replace(whole, float_only=frozenset({FIRST}))
    assert [one.output for one in whole.quantizable] == [FIRST, *(one.output for one in demo.quantizable)]
    assert len(demo.quantizable) == INT8
    assert cpu_network(demo) == demo


def test_what_was_set_apart_before_stays_so() -> None:
    whole = graphs.demo_network()
    other = whole.quantizable[5].output
    apart = cpu_network(dataclasses.replace(whole, float_only=frozenset({other})))
    assert apart.float_only == {FIRST, other}


@pytest.mark.parametrize("batch", [BatchRange(4, 4), BatchRange(1, 4)], ids=str)
def test_tensors_of_other_batches_are_the_same(demo: Network, batch: BatchRange) -> None:
    assert cpu_tensors(graphs.demo_network(batch=batch)) == cpu_tensors(demo)


def test_every_tensor_between_has_q_and_dq(demo: Network, int8: onnx.ModelProto) -> None:
    arrays = graphs.initializers(int8)
    tensors = set(cpu_tensors(demo)) - _inside(demo, {FIRST})
    assert len(tensors) == len(cpu_tensors(demo)) - 2
    quantized = {node.input[0]: node for node in int8.graph.node if node.op_type == "QuantizeLinear"}
    assert quantized.keys() == tensors
    for tensor in tensors:
        readers = [node.op_type for node in int8.graph.node if tensor in node.input]
        assert readers == ["QuantizeLinear"], "nothing else reads the float tensor"
        back = graphs.node_of(int8, f"{tensor}.dq")
        assert back.op_type == "DequantizeLinear"
        assert list(back.input) == [quantized[tensor].output[0], *quantized[tensor].input[1:]]
        scale, zero = (arrays[name] for name in back.input[1:])
        assert (scale.dtype, scale.shape, zero.dtype, zero.shape) == (np.float32, (), np.uint8, ())


def test_max_pooling_has_no_q_and_dq(demo: Network, int8: onnx.ModelProto) -> None:
    """One DQ leads to the poolings, from the SiLU before them; none lies between them or after them.

    Of the graph as it is written: what ONNX Runtime makes of it is another matter, it may move the DQ behind them.
    """
    pooled = _pooled(demo)
    kept = [node for node in int8.graph.node if node.op_type == "MaxPool"]
    assert [node.output[0] for node in kept] == pooled
    assert [node.input[0] for node in kept] == ["model.9.cv1.silu.dq", *pooled[:2]]
    for tensor in pooled:
        readers = {node.op_type for node in int8.graph.node if tensor in node.input}
        assert readers <= {"MaxPool", "Concat"}
        assert "Concat" in readers
    names = {name for node in int8.graph.node for name in node.output}
    assert not {f"{tensor}.{part}" for tensor in pooled for part in ("q", "dq")} & names
    assert list(graphs.node_of(int8, "model.9.concat").input) == ["model.9.cv1.silu.dq", *pooled]


def test_the_first_convolution_stays_float_and_reads_the_image(
    demo: Network, int8: onnx.ModelProto, tmp_path: Path
) -> None:
    first = demo.convolutions[0]
    assert (first.output, first.input) == (FIRST, demo.input)
    _assert_float(int8, first, demo.input)
    assert [node.output[0] for node in int8.graph.node if demo.input in node.input] == [FIRST]
    readers = [node for node in _optimized(int8, tmp_path).graph.node if demo.input in node.input]
    assert [node.op_type for node in readers] == ["Conv"], "ONNX Runtime puts nothing before it"


def test_movers_share_the_scale_of_their_source(demo: Network, calibration: Calibration) -> None:
    apart = {
        tensor: Activation(scale=one.scale * (1 + index / 1000), zero=one.zero)
        for index, (tensor, one) in enumerate(calibration.activations.items())
    }  # what is copied has the same range as its source; not so here
    arrays = graphs.initializers(int8_for_cpu(demo, dataclasses.replace(calibration, activations=apart)))
    moved = 0
    for node in demo.model.graph.node:
        if node.op_type in MOVERS and node.output[0] in demo.nodes:
            for output in node.output:
                moved += 1
                assert arrays[f"{output}.scale"] == arrays[f"{node.input[0]}.scale"]
                assert arrays[f"{output}.zero"] == arrays[f"{node.input[0]}.zero"]
    assert moved == 8 * 2 + 2, "eight Splits in two, two Resizes"


def test_convolutions_have_int8_weights_and_int32_biases(
    demo: Network, calibration: Calibration, int8: onnx.ModelProto
) -> None:
    arrays, floats = graphs.initializers(int8), graphs.initializers(demo.model)
    for one in demo.convolutions:
        node = graphs.node_of(int8, one.output)
        if one.output == FIRST:
            assert list(node.input) == [demo.input, one.weight, one.bias]
            continue
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
    assert kinds["QLinearConv"] == INT8
    assert kinds["Conv"] == 1 + 6, "the first and the last ones"
    assert kinds["QLinearSigmoid"] == kinds["QLinearMul"] == INT8
    assert kinds["QLinearConcat"] == 13
    assert kinds["QLinearAdd"] == 6
    assert kinds["QuantizeLinear"] == 1, "only what the first one gives is made 8 bits"
    assert kinds["DequantizeLinear"] == 6, "only what the last ones read is made float"


@pytest.mark.parametrize("kept", [[0], [0, 8, 20, 48], list(range(INT8))], ids=["first", "four", "all"])
def test_runtime_keeps_in_float_what_shall_be_kept(
    demo: Network, calibration: Calibration, kept: list[int], tmp_path: Path
) -> None:
    outputs = [demo.quantizable[index].output for index in kept]
    model = int8_for_cpu(demo, calibration, keep_float=outputs)
    onnx.checker.check_model(model, full_check=True)
    for one in demo.quantizable:
        if one.output in outputs:
            _assert_float(model, one, f"{one.input}.dq")
    quantized = {node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert quantized == set(cpu_tensors(demo)) - _inside(demo, {FIRST, *outputs})
    kinds = graphs.kinds(_optimized(model, tmp_path))
    assert kinds["QLinearConv"] == INT8 - len(kept)
    assert kinds["QLinearSigmoid"] == kinds["QLinearMul"] == INT8 - len(kept)
    assert kinds["Conv"] == 1 + 6 + len(kept)


@pytest.mark.parametrize("batch", [BatchRange(1, 1), BatchRange(3, 3), BatchRange(1, 4)], ids=str)
def test_close_to_float(demo: Network, calibration: Calibration, batch: BatchRange) -> None:
    network = cpu_network(graphs.demo_network(batch=batch))
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
    changed = cpu_network(network_of(model, origin="changed"))
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
    network = cpu_network(network_of(head, origin="theirs"))
    frames = graphs.demo_frames(4, 100)
    observed = observe(head, cpu_tensors(network), lambda: frames, threads=graphs.THREADS)
    model = int8_for_cpu(network, calibration_of(network, observed, "minmax", target="cpu"))
    onnx.checker.check_model(model, full_check=True)
    kinds = graphs.kinds(_optimized(model, folder))
    assert kinds["QLinearConv"] == INT8
    assert kinds["Conv"] == graphs.kinds(head)["Conv"] - INT8, "the first, the last ones, and DFL's"
    assert kinds["QuantizeLinear"] == 1
    off = np.abs(graphs.outputs_of(model, frames) - graphs.outputs_of(head, frames))
    assert 0 < off[:, 4:].mean() < 3e-4


def test_heads_of_ultralytics(ultralytics_demo_onnx: Path, tmp_path: Path) -> None:
    _assert_becomes_int8(graphs.head_of_ultralytics(ultralytics_demo_onnx), tmp_path)


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
