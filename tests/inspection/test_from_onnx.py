"""What an ONNX file holds: real graphs of every precision, and small ones for each rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.inspection.small_graphs import branch, inspected, model_of, weights
from tests.precision import graphs
from trt_yolo.inspection.from_onnx import inspection_from_onnx
from trt_yolo.inspection.inspection import Inspection, Layer
from trt_yolo.precision.fp16_from_float import fp16_from_float
from trt_yolo.precision.int8_for_cpu import cpu_network, int8_for_cpu
from trt_yolo.precision.int8_from_float import int8_from_float


def _layer(inspection: Inspection, kind: str) -> Layer:
    (layer,) = (one for one in inspection.layers if one.kind == kind)
    return layer


# real graphs


@pytest.fixture(scope="module")
def models() -> dict[str, onnx.ModelProto]:
    """The demo's head graph in each precision."""
    network = graphs.demo_network()
    int8 = int8_from_float(network, graphs.demo_calibration("tensorrt"))
    cpu = cpu_network(network)
    return {
        "fp32": network.model,
        "fp16": fp16_from_float(network.model, network),
        "int8": int8,
        "int8+fp16": fp16_from_float(int8, network),
        "cpu": int8_for_cpu(cpu, graphs.demo_calibration("cpu")),
    }


def _int8_outputs(name: str) -> set[str]:
    network = graphs.demo_network()
    convolutions = cpu_network(network).quantizable if name == "cpu" else network.quantizable
    return {one.output for one in convolutions} if name in ("int8", "int8+fp16", "cpu") else set()


@pytest.mark.parametrize(
    ("name", "rest"),
    [("fp32", "fp32"), ("fp16", "fp16"), ("int8", "fp32"), ("int8+fp16", "fp16"), ("cpu", "fp32")],
)
def test_every_convolution_has_its_precision(
    name: str, rest: str, models: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    inspection = inspected(models[name], tmp_path)
    int8, network = _int8_outputs(name), graphs.demo_network()
    found = {
        layer.outputs[0].removesuffix(".fp16"): layer for layer in inspection.layers if layer.kind == "Conv"
    }
    assert set(found) == {one.output for one in network.convolutions}
    for one in network.convolutions:
        layer = found[one.output]
        assert layer.precision == ("int8" if one.output in int8 else rest), one.name
        assert layer.macs == one.macs
    sums = inspection.multiplying
    assert sum(share.macs for share in sums.values()) == network.macs
    if int8:
        assert sums["int8"].macs == pytest.approx(network.share(int8) * network.macs)
        share = 100 * network.share(int8)
        assert inspection.headline.startswith(f"int8: {len(int8)} convolutions, {share:.1f}% of")
    assert (inspection.notes, inspection.loads_here, inspection.why_not) == ((), True, "")


@pytest.mark.parametrize("name", ["fp32", "fp16", "int8", "int8+fp16", "cpu"])
def test_nodes_and_parameters_are_counted(
    name: str, models: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    inspection, kinds = inspected(models[name], tmp_path), graphs.kinds(models[name])
    assert inspection.quantize_nodes == kinds["QuantizeLinear"]
    assert inspection.dequantize_nodes == kinds["DequantizeLinear"]
    assert len(inspection.layers) == len(models[name].graph.node)
    network = graphs.demo_network()
    stored = graphs.initializers(network.model)
    learned = sum(stored[one.weight].size + stored[one.bias].size for one in network.convolutions)
    assert inspection.parameters == learned


def test_layers_between_q_and_dq_are_8_bits(models: dict[str, onnx.ModelProto], tmp_path: Path) -> None:
    inspection = inspected(models["cpu"], tmp_path)
    sigmoids = [layer.precision for layer in inspection.layers if layer.kind == "Sigmoid"]
    assert sigmoids.count("uint8") == len(_int8_outputs("cpu"))
    assert set(sigmoids) == {"uint8", "fp32"}


def test_the_deploy_graph_has_its_manifest(demo_onnx: Path) -> None:
    inspection = inspection_from_onnx(demo_onnx)
    assert inspection.manifest is not None
    assert (inspection.manifest.graph, inspection.manifest.imgsz_hw) == ("deploy", (256, 256))
    assert [(one.name, one.dtype) for one in inspection.inputs] == [
        ("frames", "uint8"), ("conf", "fp32"), ("iou", "fp32"),
    ]  # fmt: skip
    assert inspection.inputs[0].shape == (1, 256, 256, 3)
    assert inspection.facts["producer"].startswith("trt-yolo")
    assert inspection.facts["opset"] == "19"
    assert inspection.bytes == demo_onnx.stat().st_size
    assert json.loads(json.dumps(inspection.to_dict()))["manifest"]["graph"] == "deploy"


def test_a_dynamic_batch_has_multiply_accumulates_of_one_image(demo_dynamic_onnx: Path) -> None:
    inspection = inspection_from_onnx(demo_dynamic_onnx)
    assert inspection.inputs[0].shape == ("batch", 256, 256, 3)
    network = graphs.demo_network()
    assert sum(layer.macs or 0 for layer in inspection.layers if layer.kind == "Conv") == network.macs


def test_what_ultralytics_wrote(ultralytics_demo_onnx: Path, tmp_path: Path) -> None:
    inspection = inspected(graphs.head_of_ultralytics(ultralytics_demo_onnx), tmp_path)
    assert inspection.manifest is not None
    assert (inspection.manifest.graph, len(inspection.manifest.names)) == ("head", 10)
    assert (inspection.manifest.precision, inspection.manifest.opset) == ("fp32", 19)
    assert inspection.multiplying["fp32"].convolutions == 64  # decoding of boxes is one of them
    assert inspection.facts["metadata task"] == "detect"


def test_the_precision_of_a_graph_of_ultralytics_is_what_its_layers_say(
    models: dict[str, onnx.ModelProto], tmp_path: Path
) -> None:
    manifest = inspected(models["int8+fp16"], tmp_path).manifest
    assert manifest is not None
    assert manifest.precision == "int8"


# rules


@pytest.mark.parametrize(
    ("node", "stored", "shape", "macs", "parameters"),
    [
        (("Conv", "x", "w", "b"), {"w": weights(8, 3, 3, 3), "b": weights(8)}, [1, 3, 10, 10], 8 * 64 * 27, 224),
        (("Conv", "x", "w"), {"w": weights(8, 3, 3, 3)}, [4, 3, 10, 10], 8 * 64 * 27, 216),
        (("Conv", "x", "w"), {"w": weights(8, 3, 3, 3)}, ["n", 3, 10, 10], 8 * 64 * 27, 216),
        (("Conv", "x", "w"), {"w": weights(8, 3, 3, 3)}, [1, 3, "h", "w"], None, 216),
        (("ConvTranspose", "x", "w"), {"w": weights(3, 8, 2, 2)}, [1, 3, 10, 10], 3 * 100 * 32, 96),
        (("MatMul", "x", "w"), {"w": weights(5, 7)}, [4, 5], 35, 35),
        (("MatMul", "w", "x"), {"w": weights(7, 5)}, [2, 5, 3], 7 * 3 * 5, 35),
        (("MatMul", "x", "x"), {}, [6, 6], 216, 0),
        (("MatMul", "x", "x"), {}, [2, 6, 6], 216, 0),
        (("Gemm", "x", "w", "b"), {"w": weights(5, 7), "b": weights(7)}, [1, 5], 35, 42),
        (("Relu", "x"), {}, [1, 5], None, 0),
        (("BatchNormalization", "x", *"abcd"), {name: weights(3) for name in "abcd"}, [1, 3, 4, 4], None, 6),
    ],
)  # fmt: skip
def test_work_and_parameters(
    node: tuple[str, ...],
    stored: dict[str, Any],
    shape: list[int | str],
    macs: int | None,
    parameters: int,
    tmp_path: Path,
) -> None:
    kind, *inputs = node
    inspection = inspected(model_of([helper.make_node(kind, inputs, ["y"])], {"x": shape}, stored), tmp_path)
    layer = _layer(inspection, kind)
    assert (layer.macs, layer.parameters, layer.precision) == (macs, parameters, "fp32")


def test_weights_of_two_layers_count_once(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", [read, "w"], [made]) for read, made in (("x", "h"), ("h", "y"))]
    inspection = inspected(model_of(nodes, {"x": [1, 5]}, {"w": weights(5, 5)}), tmp_path)
    assert [layer.parameters for layer in inspection.layers] == [25, 25]
    assert inspection.parameters == 25


@pytest.mark.parametrize("form", ["stored int8", "fake quantized", "transposed", "half", "cast to half"])
def test_the_weights_decide(form: str, tmp_path: Path) -> None:
    scale = {"s": np.float32(0.1), "z": np.int8(0)}
    dequantized = [helper.make_node("DequantizeLinear", ["q", "s", "z"], ["w"])]
    before: list[onnx.NodeProto]
    if form == "stored int8":
        before, stored = dequantized, {"q": weights(4, 3, 1, 1, dtype=np.int8), **scale}
    elif form == "fake quantized":
        quantized = helper.make_node("QuantizeLinear", ["f", "s", "z"], ["q"])
        before, stored = [quantized, *dequantized], {"f": weights(4, 3, 1, 1), **scale}
    elif form == "transposed":
        dequantize = helper.make_node("DequantizeLinear", ["q", "s", "z"], ["t"])
        before = [dequantize, helper.make_node("Transpose", ["t"], ["w"], perm=[3, 2, 1, 0])]
        stored = {"q": weights(1, 1, 3, 4, dtype=np.int8), **scale}
    else:
        before, stored = [], {"w": weights(4, 3, 1, 1, dtype=np.float16)}
        if form == "cast to half":
            before = [helper.make_node("Cast", ["f"], ["w"], to=TensorProto.FLOAT16)]
            stored = {"f": weights(4, 3, 1, 1)}
    nodes = [*before, helper.make_node("Conv", ["x", "w"], ["y"])]
    inspection = inspected(model_of(nodes, {"x": [1, 3, 4, 4]}, stored), tmp_path)
    layer = _layer(inspection, "Conv")
    assert layer.precision == ("fp16" if "half" in form else "int8")
    assert (layer.parameters, layer.macs, layer.inputs) == (12, 192, ("x", *(["w"] if before else [])))


def test_quantized_operators(tmp_path: Path) -> None:
    stored = {
        "s": np.float32(0.1),
        "z": np.uint8(0),
        "w": weights(4, 3, 1, 1, dtype=np.int8),
        "wz": np.int8(0),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "wz", "s", "z"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["y"]),
    ]
    inspection = inspected(model_of(nodes, {"x": [1, 3, 4, 4]}, stored), tmp_path)
    layer = _layer(inspection, "QLinearConv")
    assert (layer.precision, layer.parameters, layer.macs) == ("int8", 12, 192)
    assert [one.precision for one in inspection.layers] == ["uint8", "int8", "uint8"]


def test_constants_are_no_layers(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights(4, 3, 1, 1)))
    shape = helper.make_node("Constant", [], ["shape"], value_ints=[1, -1])
    convolution = helper.make_node("Conv", ["x", "w"], ["c"])
    nodes = [constant, shape, convolution, helper.make_node("Reshape", ["c", "shape"], ["y"])]
    inspection = inspected(model_of(nodes, {"x": [1, 3, 4, 4]}), tmp_path)
    assert [layer.kind for layer in inspection.layers] == ["Conv", "Reshape"]
    assert [layer.inputs for layer in inspection.layers] == [("x",), ("c",)]
    assert inspection.parameters == 12


def test_branches_keep_their_tensors_apart(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["more"]),
        helper.make_node(
            "If", ["more"], ["y"], name="if", then_branch=branch("Relu"), else_branch=branch("Neg")
        ),
    ]
    inspection = inspected(model_of(nodes, {"x": []}, {"zero": np.float32(0)}), tmp_path)
    assert [layer.kind for layer in inspection.layers] == ["Greater", "Neg", "Abs", "Relu", "Abs", "If"]
    made = [name for layer in inspection.layers for name in layer.outputs]
    assert len(made) == len(set(made))
    assert [layer.inputs for layer in inspection.layers if layer.kind in ("Relu", "Neg")] == [("x",), ("x",)]
    assert set(_layer(inspection, "If").inputs) == {"more", "if/0/r", "if/1/r"}
    assert inspection.loads_here


@pytest.mark.parametrize("nodes", [[], [helper.make_node("Identity", ["x"], ["y"])]])
def test_a_graph_of_nearly_nothing(nodes: list[onnx.NodeProto], tmp_path: Path) -> None:
    inspection = inspected(model_of(nodes, {"x": [1]}, results=["y" if nodes else "x"]), tmp_path)
    assert len(inspection.layers) == len(nodes)
    assert (inspection.parameters, inspection.headline) == (0, "")


def test_an_operator_of_somebody_elses(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Magic", ["x"], ["y"], domain="com.example")], {"x": [1, 3]})
    model.opset_import.append(helper.make_opsetid("com.example", 3))
    inspection = inspected(model, tmp_path)
    assert inspection.layers[0].kind == "com.example.Magic"
    assert inspection.facts["opset"] == "17, com.example 3"
    assert inspection.loads_here is False
    assert "com.example" in inspection.why_not


def test_shapes_that_cannot_be_inferred_are_a_note(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Conv", ["x", "w"], ["y"])], {"x": [1, 3, 4, 4]}, {"w": weights(2, 3)})
    inspection = inspected(model, tmp_path)
    layer = _layer(inspection, "Conv")
    assert (layer.precision, layer.parameters, layer.macs) == ("fp32", 6, None)
    assert inspection.loads_here is False
