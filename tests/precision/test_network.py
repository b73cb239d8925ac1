"""The convolutions that are found in head graphs, native and Ultralytics', and the graphs that are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.precision import graphs
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.errors import InputError, UnsupportedModelError
from trt_yolo.graph.writer import FLOAT, FLOAT16, value_info
from trt_yolo.precision.int8_from_float import int8_from_float
from trt_yolo.precision.network import Network, network_of

YOLOV8N_MACS_640 = 4_371_456_000


@pytest.fixture(scope="module")
def demo() -> Network:
    return graphs.demo_network()


def _measured_macs(network: Network) -> int:
    """From the sizes of what ONNX Runtime really computes, not from shape inference."""
    side = network.model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    outputs = [one.output for one in network.convolutions]
    values = graphs.run_showing(network.model, outputs, np.zeros((1, 3, side, side), np.float32))
    weights = graphs.initializers(network.model)
    return sum(values[one.output].size * weights[one.weight][0].size for one in network.convolutions)


def test_demo(demo: Network) -> None:
    assert len(demo.convolutions) == 63
    assert len({one.output for one in demo.convolutions}) == 63
    assert len(demo.quantizable) == 57
    assert demo.input == "images"
    assert demo.macs == _measured_macs(demo)


def test_last_convolutions_are_the_heads_own(demo: Network) -> None:
    last = [one for one in demo.convolutions if one.is_last]
    weights = graphs.initializers(demo.model)
    assert sorted(len(weights[one.weight]) for one in last) == [10, 10, 10, 64, 64, 64]
    assert not set(demo.quantizable) & set(last)


def test_yolov8n(yolov8n: Path) -> None:
    network = graphs.network_of_checkpoint(yolov8n, 640)
    assert len(network.convolutions) == 63
    assert len(network.quantizable) == 57
    assert network.macs == YOLOV8N_MACS_640 == _measured_macs(network)
    assert graphs.network_of_checkpoint(yolov8n, 320).macs * 4 == YOLOV8N_MACS_640


@pytest.mark.parametrize("batch", [BatchRange(1, 1), BatchRange(4, 4), BatchRange(1, 4)], ids=str)
@pytest.mark.parametrize("opset", [13, 19, 21])
def test_batch_and_opset_change_nothing(demo: Network, batch: BatchRange, opset: int) -> None:
    network = graphs.demo_network(batch=batch, opset=opset)
    assert network.convolutions == demo.convolutions
    assert network.nodes == demo.nodes


def test_ultralytics_head_is_the_same_network(demo: Network, ultralytics_demo_onnx: Path) -> None:
    head = graphs.head_of_ultralytics(ultralytics_demo_onnx)
    network = network_of(head, origin="theirs")
    assert graphs.kinds(head)["Conv"] == 64, "with the one that decodes boxes"
    assert [one.macs for one in network.convolutions] != []
    assert sorted(one.macs for one in network.convolutions) == sorted(one.macs for one in demo.convolutions)
    assert len(network.quantizable) == 57
    assert network.macs == demo.macs
    dfl = [node for node in head.graph.node if node.op_type == "Conv" and "dfl" in node.name.lower()]
    assert len(dfl) == 1
    assert dfl[0].output[0] not in network.nodes


def test_nodes_end_where_decoding_begins(demo: Network) -> None:
    inside = {node.op_type for node in demo.model.graph.node if node.output[0] in demo.nodes}
    outside = {node.op_type for node in demo.model.graph.node if node.output[0] not in demo.nodes}
    assert inside == {"Conv", "Sigmoid", "Mul", "Split", "Add", "Concat", "MaxPool", "Resize"}
    assert {"Softmax", "Reshape", "Sub"} <= outside
    assert not {"Conv", "MaxPool", "Resize"} & outside


def test_shares_add_up(demo: Network) -> None:
    outputs = [one.output for one in demo.convolutions]
    assert demo.share([]) == 0
    assert demo.share(outputs) == 1
    assert demo.share(outputs[:20]) + demo.share(outputs[20:]) == pytest.approx(1)
    heaviest = max(demo.convolutions, key=lambda one: one.macs)
    assert demo.share([heaviest.output]) == heaviest.macs / demo.macs
    assert demo.share(["no such tensor"]) == 0


def _model(
    *, dtype: int = FLOAT, groups: int = 1, stored: bool = True, convolution: bool = True
) -> onnx.ModelProto:
    weight = np.ones((4, 4 // groups, 3, 3), helper.tensor_dtype_to_np_dtype(dtype))
    nodes = []
    if not stored:
        nodes.append(helper.make_node("Neg", ["stored"], ["weight"]))
    if convolution:
        nodes.append(helper.make_node("Conv", ["images", "weight"], ["output0"], group=groups))
    else:
        nodes.append(helper.make_node("Relu", ["images"], ["output0"]))
    graph = helper.make_graph(
        nodes,
        "made",
        [value_info("images", dtype, [1, 4, 10, 8])],
        [value_info("output0", dtype, [1, 4, 8, 6] if convolution else [1, 4, 10, 8])],
        [numpy_helper.from_array(weight, "weight" if stored else "stored")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)])
    onnx.checker.check_model(model, full_check=True)
    return model


@pytest.mark.parametrize(
    ("groups", "macs"), [(1, 4 * 8 * 6 * 4 * 9), (2, 4 * 8 * 6 * 2 * 9), (4, 4 * 8 * 6 * 9)]
)
def test_groups_do_less(groups: int, macs: int) -> None:
    (one,) = network_of(_model(groups=groups), origin="made").convolutions
    assert one.macs == macs
    assert one.is_last
    assert one.bias == ""
    assert one.name == one.output == "output0"


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (_model(dtype=FLOAT16), InputError, "m.onnx is in half precision already; give the .pt"),
        (_model(convolution=False), UnsupportedModelError, "m.onnx has no convolutions; give a YOLOv8"),
        (
            _model(stored=False),
            UnsupportedModelError,
            "weights of output0 are computed, not stored; export it",
        ),
    ],
)
def test_refused(model: onnx.ModelProto, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        network_of(model, origin="m.onnx")


def test_a_quantized_graph_is_refused(demo: Network) -> None:
    model = int8_from_float(demo, graphs.demo_calibration("tensorrt"))
    with pytest.raises(InputError, match=r"m\.onnx is quantized already; give the \.pt"):
        network_of(model, origin="m.onnx")


@pytest.mark.parametrize("op_type", ["QLinearConv", "ConvInteger", "DynamicQuantizeLinear"])
def test_other_forms_of_quantization_are_refused(op_type: str) -> None:
    model = _model()
    model.graph.node.add(op_type=op_type, input=["images"], output=["levels"])
    with pytest.raises(InputError, match="quantized already"):
        network_of(model, origin="m.onnx")


@pytest.mark.parametrize(
    ("bins", "counted"),
    [
        (np.arange(16), False),
        (np.arange(8), False),
        (np.ones(16), True),
        (np.arange(16) + 1, True),
        ([0], True),
    ],
)
def test_only_the_mean_of_bins_is_not_counted(bins: np.ndarray, counted: bool) -> None:
    weight = np.asarray(bins, np.float32).reshape(1, -1, 1, 1)
    inner = np.ones((weight.shape[1], 3, 1, 1), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["images", "inner"], ["sides"]),
            helper.make_node("Conv", ["sides", "bins"], ["output0"]),
        ],
        "made",
        [value_info("images", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value_info("output0", TensorProto.FLOAT, [1, 1, 8, 8])],
        [numpy_helper.from_array(inner, "inner"), numpy_helper.from_array(weight, "bins")],
    )
    network = network_of(helper.make_model(graph), origin="made")
    assert [one.output for one in network.convolutions] == ["sides", *["output0"] * counted]
    assert network.convolutions[0].is_last == (not counted)
