"""Mixed FP16: which tensors are half, that the interface stays, and that the outputs stay close."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.precision import graphs
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.backends.base import images_for_head
from trt_yolo.graph.writer import FLOAT, FLOAT16, value_info
from trt_yolo.precision.fp16_from_float import fp16_from_float
from trt_yolo.precision.int8_from_float import int8_from_float
from trt_yolo.precision.network import Network, network_of

LARGEST = float(np.finfo(np.float16).max)


@pytest.fixture(scope="module")
def demo() -> Network:
    return graphs.demo_network()


@pytest.fixture(scope="module")
def half(demo: Network) -> onnx.ModelProto:
    return fp16_from_float(demo.model, demo)


def _assert_close(model: onnx.ModelProto, plain: onnx.ModelProto) -> None:
    frames = graphs.demo_frames(4)
    wanted, got = graphs.outputs_of(plain, frames), graphs.outputs_of(model, frames)
    found = wanted[:, 4:].max(axis=1) > 0.1
    assert found.sum() > 100
    off = np.abs(got - wanted).transpose(0, 2, 1)
    assert off[found][:, :4].max() < 0.15, "pixels"
    assert off[found][:, 4:].max() < 0.01, "score"
    assert 0 < off.mean() < 0.05


def _assert_halved(model: onnx.ModelProto, plain: onnx.ModelProto, network: Network, kept: set[str]) -> None:
    """The network's tensors are FP16, all others what they were."""
    onnx.checker.check_model(model, full_check=True)
    before, after = graphs.types_of(plain), graphs.types_of(model)
    for node in plain.graph.node:
        for output in node.output:
            if before.get(output) == FLOAT and node.output[0] in network.nodes and node.output[0] not in kept:
                assert after[output] == FLOAT16, output
            elif output in before:
                assert after[output] == before[output], output


def test_the_network_is_half_and_decoding_is_not(demo: Network, half: onnx.ModelProto) -> None:
    before = demo.model.SerializeToString()
    fp16_from_float(demo.model, demo)
    assert demo.model.SerializeToString() == before
    assert half.graph.input == demo.model.graph.input
    assert half.graph.output == demo.model.graph.output
    assert half.metadata_props == demo.model.metadata_props
    _assert_halved(half, demo.model, demo, set())
    types = graphs.types_of(half)
    decoding = [node for node in half.graph.node if node.op_type in ("Softmax", "Sub", "ReduceSum")]
    assert len(decoding) >= 4
    assert all(types[node.output[0]] == FLOAT for node in decoding)
    last = {one.output for one in demo.convolutions if one.is_last}
    assert all(types[output] == FLOAT16 for output in last)


def test_casts_are_only_where_the_network_begins_and_ends(demo: Network, half: onnx.ModelProto) -> None:
    casts = [(node.input[0], node.attribute[0].i) for node in half.graph.node if node.op_type == "Cast"]
    last = [one.output for one in demo.convolutions if one.is_last]
    assert sorted(casts) == sorted([("images", FLOAT16), *((output, FLOAT) for output in last)])


def test_weights_are_rounded_and_half_as_large(demo: Network, half: onnx.ModelProto) -> None:
    floats, arrays = graphs.initializers(demo.model), graphs.initializers(half)
    for one in demo.convolutions:
        for before, after in zip(
            (one.weight, one.bias), graphs.node_of(half, one.output).input[1:], strict=True
        ):
            assert arrays[after].dtype == np.float16
            np.testing.assert_array_equal(arrays[after], floats[before].astype(np.float16))
    used = {name for node in half.graph.node for name in node.input}
    assert arrays.keys() <= used, "nothing is stored twice"
    assert 0.49 < half.ByteSize() / demo.model.ByteSize() < 0.53


def test_resize_keeps_float32_scales(half: onnx.ModelProto) -> None:
    types = graphs.types_of(half)
    resizes = [node for node in half.graph.node if node.op_type == "Resize"]
    assert len(resizes) == 2
    for node in resizes:
        assert types[node.input[0]] == types[node.output[0]] == FLOAT16
        assert types[node.input[2]] == FLOAT


@pytest.mark.parametrize("opset", [13, 17, 19, 21])
def test_every_opset(opset: int) -> None:
    network = graphs.demo_network(opset=opset)
    model = fp16_from_float(network.model, network)
    _assert_halved(model, network.model, network, set())
    _assert_close(model, network.model)


def test_heads_of_ultralytics(ultralytics_demo_onnx: Path) -> None:
    head = graphs.head_of_ultralytics(ultralytics_demo_onnx)
    network = network_of(head, origin="theirs")
    model = fp16_from_float(head, network)
    assert (model.graph.input, model.graph.output) == (head.graph.input, head.graph.output)
    _assert_halved(model, head, network, set())
    _assert_close(model, head)


@pytest.mark.parametrize("batch", [BatchRange(4, 4), BatchRange(1, 4)], ids=str)
def test_other_batches(demo: Network, batch: BatchRange) -> None:
    network = graphs.demo_network(batch=batch)
    model = fp16_from_float(network.model, network)
    _assert_halved(model, network.model, network, set())
    images = images_for_head(np.stack(graphs.demo_frames(4)))
    got = graphs.run_showing(model, ["output0"], images)["output0"]
    wanted = graphs.outputs_of(fp16_from_float(demo.model, demo), graphs.demo_frames(4))
    assert np.abs(got - wanted)[:, 4:].max() < 0.01


@pytest.mark.parametrize("pick", [slice(0, 1), slice(5, 9), slice(-1, None), slice(None)], ids=str)
def test_kept_nodes_are_float_between_casts(demo: Network, pick: slice) -> None:
    kept = [node.output[0] for node in demo.model.graph.node if node.output[0] in demo.nodes][pick]
    model = fp16_from_float(demo.model, demo, keep_fp32=kept)
    _assert_halved(model, demo.model, demo, set(kept))
    types = graphs.types_of(model)
    for output in kept:
        node = graphs.node_of(model, output)
        data = [name for name in node.input if types.get(name) in (FLOAT, FLOAT16)]
        assert all(types[name] == FLOAT for name in data), node.name
    if pick != slice(None):
        _assert_close(model, demo.model)
    else:
        assert list(model.graph.node) == list(demo.model.graph.node)
        assert not graphs.kinds(model)["Cast"]


def test_a_tensor_is_cast_once(demo: Network) -> None:
    kept = [one.output for one in demo.quantizable[4:20]]
    model = fp16_from_float(demo.model, demo, keep_fp32=kept)
    casts = [(node.input[0], node.attribute[0].i) for node in model.graph.node if node.op_type == "Cast"]
    assert len(set(casts)) == len(casts)
    outputs = [output for node in model.graph.node for output in node.output]
    assert len(set(outputs)) == len(outputs)


@pytest.mark.parametrize("index", [4, 10, 30])
@pytest.mark.parametrize("kind", ["Conv", "Mul"])
def test_an_output_of_the_graph_inside_the_network(demo: Network, index: int, kind: str) -> None:
    """A head whose features are shown too: that output stays float32, and its readers go on in half."""
    model = onnx.ModelProto()
    model.CopyFrom(demo.model)
    inner = [node for node in model.graph.node if node.op_type == kind and node.output[0] in demo.nodes][
        index
    ]
    inferred = onnx.shape_inference.infer_shapes(demo.model).graph.value_info
    model.graph.output.append(next(value for value in inferred if value.name == inner.output[0]))
    onnx.checker.check_model(model, full_check=True)
    half = fp16_from_float(model, network_of(model, origin="made"))
    onnx.checker.check_model(half, full_check=True)
    assert half.graph.output == model.graph.output
    images = images_for_head(graphs.demo_frames(1)[0][None])
    names = [inner.output[0], "output0"]
    got, wanted = (graphs.run_showing(one, names, images) for one in (half, model))
    assert got[names[0]].dtype == np.float32
    assert 0 < np.abs(got[names[0]] - wanted[names[0]]).max() < 0.02 * np.abs(wanted[names[0]]).max()
    _assert_close(half, demo.model)


def _made(nodes: list[onnx.NodeProto], arrays: dict[str, np.ndarray], *, opset: int = 19) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "made",
        [value_info("images", FLOAT, [1, 3, 8, 8])],
        [value_info("output0", FLOAT, [1, 3, 8, 8])],
        [numpy_helper.from_array(np.asarray(array, np.float32), name) for name, array in arrays.items()],
    )
    ir_version = 9 if opset <= 20 else 10
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(model, full_check=True)
    return model


def _run_made(model: onnx.ModelProto, images: graphs.Floats) -> graphs.Floats:
    onnx.checker.check_model(model, full_check=True)
    return graphs.run_showing(model, ["output0"], images)["output0"]


IMAGES = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
WEIGHT = np.random.default_rng(1).normal(0, 0.3, (3, 3, 1, 1)).astype(np.float32)


def test_an_initializer_shared_by_both_precisions() -> None:
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["first"]),
        helper.make_node("Mul", ["first", "shared"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w"], ["second"]),
        helper.make_node("Mul", ["second", "shared"], ["output0"]),
    ]
    model = _made(nodes, {"w": WEIGHT, "shared": np.float32(1.0001)})
    network = network_of(model, origin="made")
    assert network.nodes == {"first", "scaled", "second"}
    half = fp16_from_float(model, network)
    arrays = graphs.initializers(half)
    assert sorted(array.dtype.name for array in arrays.values()) == ["float16", "float16", "float32"]
    assert arrays["shared"] == np.float32(1.0001)
    np.testing.assert_allclose(_run_made(half, IMAGES), _run_made(model, IMAGES), atol=3e-3)
    kept = fp16_from_float(model, network, keep_fp32=["second"])
    assert sorted(array.dtype.name for array in graphs.initializers(kept).values()) == [
        *["float16"] * 2,
        *["float32"] * 2,
    ]
    np.testing.assert_allclose(_run_made(kept, IMAGES), _run_made(model, IMAGES), atol=3e-3)


@pytest.mark.parametrize("value", [1e5, -1e9, 65_519.0, -65_504.0])
def test_an_initializer_beyond_fp16_is_clipped(value: float) -> None:
    weight = WEIGHT.copy()
    weight[1, 2] = value
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["y"]),
        helper.make_node("Sigmoid", ["y"], ["output0"]),
    ]
    model = _made(nodes, {"w": weight})
    half = fp16_from_float(model, network_of(model, origin="made"))
    (stored,) = graphs.initializers(half).values()
    assert stored.dtype == np.float16
    assert np.isfinite(stored).all()
    assert stored[1, 2, 0, 0] == np.sign(value) * LARGEST
    assert np.isfinite(_run_made(half, IMAGES)).all()


@pytest.mark.parametrize("opset", [13, 21])
def test_constants_as_nodes(opset: int) -> None:
    """An export that was not simplified keeps its constants in nodes."""
    factor = numpy_helper.from_array(np.float32(0.5), "factor.value")
    scales = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales.value")
    nodes = [
        helper.make_node("Constant", [], ["factor"], value=factor),
        helper.make_node("Constant", [], ["scales"], value=scales),
        helper.make_node("Conv", ["images", "w"], ["first"]),
        helper.make_node("Resize", ["first", "", "scales"], ["larger"], mode="nearest"),
        helper.make_node("Mul", ["larger", "factor"], ["scaled"]),
        helper.make_node("Conv", ["scaled", "w"], ["second"], strides=[2, 2]),
        helper.make_node("Sigmoid", ["second"], ["output0"]),
    ]
    model = _made(nodes, {"w": WEIGHT}, opset=opset)
    half = fp16_from_float(model, network_of(model, origin="made"))
    np.testing.assert_allclose(_run_made(half, IMAGES), _run_made(model, IMAGES), atol=3e-3)


def test_a_cast_inside_the_network_follows() -> None:
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["first"]),
        helper.make_node("Greater", ["first", "zero"], ["positive"]),
        helper.make_node("Cast", ["positive"], ["mask"], to=FLOAT),
        helper.make_node("Mul", ["first", "mask"], ["masked"]),
        helper.make_node("Conv", ["masked", "w"], ["second"]),
        helper.make_node("Sigmoid", ["second"], ["output0"]),
    ]
    model = _made(nodes, {"w": WEIGHT, "zero": np.float32(0)})
    half = fp16_from_float(model, network_of(model, origin="made"))
    assert graphs.types_of(half)["mask"] == FLOAT16
    np.testing.assert_allclose(_run_made(half, IMAGES), _run_made(model, IMAGES), atol=3e-3)


@pytest.mark.parametrize("keep", [0, 1], ids=["all half", "one in float32"])
def test_int8_graphs_become_half_between_q_and_dq(demo: Network, keep: int) -> None:
    int8 = int8_from_float(demo, graphs.demo_calibration("tensorrt"))
    kept = [one.output for one in demo.quantizable[6 : 6 + keep]]
    half = fp16_from_float(int8, demo, keep_fp32=kept)
    onnx.checker.check_model(half, full_check=True)
    assert half.graph.output == demo.model.graph.output
    types = graphs.types_of(half)
    for node in half.graph.node:
        if node.op_type == "DequantizeLinear":
            wanted = FLOAT if any(node.output[0] == f"{one}.weight.dq" for one in kept) else FLOAT16
            assert types[node.output[0]] == types[node.input[1]] == wanted, node.name
        if node.op_type == "QuantizeLinear":
            assert types[node.input[0]] == types[node.input[1]] == FLOAT16
    for one in demo.convolutions:
        assert types[one.output] == (FLOAT if one.output in kept else FLOAT16)
    floats, arrays = graphs.initializers(int8), graphs.initializers(half)
    scales = [name for name in floats if name.endswith(".scale")]
    assert len(scales) > 100
    for name in scales:
        other = arrays.get(f"{name}.fp16", arrays.get(name))
        assert other is not None
        np.testing.assert_array_equal(other.astype(np.float32), floats[name], "no scale is rounded")
    frames = graphs.demo_frames(4)
    off = np.abs(graphs.outputs_of(half, frames) - graphs.outputs_of(int8, frames))
    assert off[:, 4:].mean() < 2e-4
