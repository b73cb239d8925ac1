"""What TensorRT's inspector and profiler say, in the forms of its versions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from trt_yolo.errors import InputError
from trt_yolo.inspection.from_inspector import (
    layers_from_inspector,
    tensors_from_inspector,
    times_from_profile,
)


def _tensor(name: str, dimensions: list[int], **types: str) -> dict[str, Any]:
    return {"Name": name, "Location": "Device", "Dimensions": dimensions, **types}


def _convolution(read: dict[str, Any], made: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "Name": "model.0.weight + QuantizeLinear_7 + model.0.conv",
        "LayerType": "CaskConvolution",
        "Inputs": [read],
        "Outputs": [made],
        "ParameterType": "Convolution",
        "Kernel": [3, 3],
        "OutMaps": 16,
        "Groups": 1,
        "StreamId": 0,
        "Metadata": "[ONNX Layer: model.0.conv]\u001e[ONNX Layer: model.0.silu]",
        **more,
    }  # fmt: skip


FOUR_WIDE = "Four wide channel vectorized row major Int8 format"
VERSION_10 = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to model.0.conv",
            "LayerType": "Reformat",
            "Inputs": [_tensor("images", [1, 3, 64, 64], **{"Format/Datatype": "Row major linear FP32"})],
            "Outputs": [
                _tensor("moved", [1, 3, 64, 64], **{"Format/Datatype": FOUR_WIDE})
            ],
        },
        _convolution(
            _tensor("moved", [1, 3, 64, 64], **{"Format/Datatype": FOUR_WIDE}),
            _tensor("features", [1, 16, 32, 32], **{"Format/Datatype": "Half"}),
            Weights={"Type": "Int8", "Count": 432},
            Bias={"Type": "Float", "Count": 16},
            TacticName="sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32",
        ),
    ],
    "Bindings": ["images", "features"],
}  # fmt: skip
VERSION_11 = {
    "Layers": [
        _convolution(
            _tensor("moved", [1, 3, 64, 64], Format="Row major linear", Datatype="Half"),
            _tensor("features", [1, 16, 32, 32], Format="Row major linear", Datatype="Half"),
            Weights={"Type": "Half", "Count": 432},
        )
    ],
    "I/O Tensors": [{"Name": "moved", "IOMode": "Input", "DataType": "Half", "Dimensions": [1, 3, 64, 64]}],
}

# As TensorRT for RTX 1.7 says it of the demo in int8.
RTX = {
    "Layers": [
        {
            "Name": "entry^bb^signal^1_myl0_0",
            "LayerType": "signal",
            "Inputs": [],
            "Constants": [],
            "Outputs": [],
        },
        {
            "Name": "model.0.conv_U218_myl0_5",
            "LayerType": "correlation",
            "Inputs": [_tensor("x", [1, 4, 256, 256], Datatype="Int8", Format="(NHWC) Channel major format")],
            "Constants": [
                _tensor("scale", [1, 16, 1, 1], Datatype="Float", Format="(NHWC) Channel major format"),
                _tensor("dconst", [16, 4, 3, 3], Datatype="Int8", Format="(NHWC) Channel major format"),
            ],
            "Outputs": [
                _tensor("y", [1, 16, 128, 128], Datatype="Float", Format="(NHWC) Channel major format")
            ],
            "TacticName": "__myelin_CASK_STUB",
            "StreamId": 0,
            "Metadata": "[ONNX Layer: model.0.conv][ONNX Layer: images.dq]",
        },
        {
            "Name": "__myl_MulCastAddSiluMulMinMaxRounCast_myl0_6",
            "LayerType": "kgen",
            "Inputs": [
                _tensor("y", [1, 16, 128, 128], Datatype="Float", Format="(NHWC) Channel major format")
            ],
            "Constants": [_tensor("c", [1], Datatype="Half", Format="(Linear) Row major linear format")],
            "Outputs": [
                _tensor("z", [1, 16, 128, 128], Datatype="Int8", Format="(NHWC) Channel major format")
            ],
            "Metadata": "[ONNX Layer: model.0.silu][ONNX Layer: model.0.conv]",
        },
    ],
    "I/O Tensors": [],
}


def test_layers_of_tensorrt_for_rtx() -> None:
    convolution, generated = layers_from_inspector(json.dumps(RTX))
    assert (convolution.precision, convolution.multiplies) == ("int8", "convolution")
    assert (convolution.parameters, convolution.macs) == (16 * 36, 16 * 36 * 128 * 128)
    assert (generated.precision, generated.multiplies, generated.parameters) == ("mixed", "", 0)


def test_layers_of_version_10() -> None:
    moved, convolution = layers_from_inspector(json.dumps(VERSION_10))
    assert (moved.kind, moved.precision, moved.multiplies) == ("Reformat", "mixed", "")
    assert (convolution.precision, convolution.multiplies) == ("int8", "convolution")
    assert (convolution.inputs, convolution.outputs) == (("moved",), ("features",))
    assert convolution.parameters == 432 + 16
    assert convolution.macs == 432 * 32 * 32


def test_layers_of_version_11() -> None:
    (convolution,) = layers_from_inspector(json.dumps(VERSION_11))
    assert (convolution.precision, convolution.parameters) == ("fp16", 432)
    tensors = {tensor.name: tensor for tensor in tensors_from_inspector(json.dumps(VERSION_11))}
    assert tensors["features"].dtype == "fp16"
    assert tensors["features"].shape == (1, 16, 32, 32)


@pytest.mark.parametrize(
    ("said", "precision"),
    [
        ({"Format/Datatype": "Half"}, "fp16"),
        ({"Format/Datatype": "Float"}, "fp32"),
        ({"Format/Datatype": "BFloat16"}, "bf16"),
        ({"Format/Datatype": "FP8"}, "fp8"),
        ({"Format/Datatype": "UInt8"}, "uint8"),
        ({"Format/Datatype": "Row major linear FP32"}, "fp32"),
        ({"Format/Datatype": "Row major linear Int32"}, "int32"),
        ({"Format/Datatype": "Row major linear BOOL"}, "bool"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "fp16"),
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}, "int8"),
        ({"Format/Datatype": "Row major linear INT64 format (kLINEAR)"}, "int64"),
        ({"Format": "Thirty-two wide channel vectorized row major INT8 format (kCHW32)"}, "int8"),
        ({"Format": "Row major linear", "Datatype": "Int8"}, "int8"),
        ({"Format": "N/A due to dynamic shapes", "DataType": "Half"}, "fp16"),
        ({"Format/Datatype": "N/A due to dynamic shapes"}, ""),
        ({"Format/Datatype": "Unknown format"}, ""),
        ({"Format/Datatype": "Int3"}, ""),
        ({"Format/Datatype": 7}, ""),
        ({}, ""),
    ],
)
def test_the_type_of_a_tensor(said: dict[str, Any], precision: str) -> None:
    one = {"Name": "x", "Dimensions": [1], **said}
    text = json.dumps(
        {"Layers": [{"Name": "pool", "LayerType": "Pooling", "Inputs": [one], "Outputs": [one]}]}
    )
    assert layers_from_inspector(text)[0].precision == precision
    assert tensors_from_inspector(text)[0].dtype == precision


@pytest.mark.parametrize(
    ("kind", "more", "multiplies", "precision"),
    [
        ("CaskConvolution", {"Weights": {"Type": "Int8", "Count": 9}}, "convolution", "int8"),
        ("CaskGemmConvolution", {}, "convolution", "fp16"),
        ("CaskDeconvolutionV2", {}, "convolution", "fp16"),
        ("correlation", {"TacticName": "sm80_xmma_fprop_implicit_gemm_i8i8_i8i32"}, "convolution", "int8"),
        ("gemm", {"TacticName": "sm90_xmma_gemm_e4m3e4m3_f32"}, "matrix product", "fp8"),
        ("MatrixMultiply", {"Weights": "none"}, "matrix product", "fp16"),
        ("gemm", {"Metadata": "[ONNX Layer: model.2.cv1.conv]"}, "convolution", "fp16"),
        ("runtime_fusion", {"Metadata": "[ONNX Layer: model.2.cv1.conv]"}, "convolution", "fp16"),
        ("PointWiseV2", {}, "", "fp16"),
        ("", {}, "", "fp16"),
    ],
)
def test_what_multiplies(kind: str, more: dict[str, Any], multiplies: str, precision: str) -> None:
    one = _tensor("x", [1, 8, 4, 4], **{"Format/Datatype": "Half"})
    entry = {"Name": "layer", "LayerType": kind, "Inputs": [one], "Outputs": [one], **more}
    (layer,) = layers_from_inspector(json.dumps({"Layers": [entry]}))
    assert (layer.multiplies, layer.precision) == (multiplies, precision)


def test_an_engine_that_tells_names_only() -> None:
    first, second = layers_from_inspector(json.dumps({"Layers": ["conv", "pool"], "Bindings": ["x"]}))
    assert (first.name, first.kind, first.precision, first.inputs) == ("conv", "", "", ())
    assert second.name == "pool"


def test_layers_of_other_profiles_are_left_out() -> None:
    names = ["conv", "conv [profile 1]", "pool", "pool [profile 12]", "conv [profile 0]"]
    text = json.dumps({"Layers": [{"Name": name} for name in names]})
    assert [layer.name for layer in layers_from_inspector(text)] == ["conv", "pool", "conv [profile 0]"]


def test_metadata_with_quotes_as_they_are_and_control_characters() -> None:
    text = json.dumps(VERSION_10, indent=2, ensure_ascii=False).replace("\\u001e", "\u001e")
    damaged = text.replace('"[ONNX Layer: model.0.conv]', '"{"tta": {"name": "conv"}}')
    with pytest.raises(ValueError, match="delimiter"):
        json.loads(damaged, strict=False)
    assert layers_from_inspector(text) == layers_from_inspector(damaged)
    assert len(layers_from_inspector(damaged)) == 2


@pytest.mark.parametrize("dimensions", [None, "1x3", [], [1, "x"], [-1, 3, -1, -1], [1.5], [[1]], {"a": 1}])
def test_odd_dimensions_are_unknown(dimensions: Any) -> None:
    entry = _convolution(
        {"Name": "x"}, {"Name": "y", "Dimensions": dimensions}, Weights={"Type": "Half", "Count": 432}
    )
    (layer,) = layers_from_inspector(json.dumps({"Layers": [entry]}))
    assert layer.macs is None


def test_entries_of_odd_types_are_left_out() -> None:
    entries: list[Any] = [
        7, None, [], {}, {"Name": 3, "LayerType": {}, "Inputs": "x", "Outputs": [1, None, "y"]},
        {"Name": "conv", "LayerType": "Convolution", "Weights": {"Type": 1, "Count": -3}, "Bias": []},
    ]  # fmt: skip
    empty, odd, convolution = layers_from_inspector(json.dumps({"Layers": entries}))
    assert (empty.name, odd.name, odd.outputs) == ("", "", ("y",))
    assert (convolution.name, convolution.parameters, convolution.precision) == ("conv", 0, "")


@pytest.mark.parametrize("text", ["", "{", "null", "3", '"text"', "{}", '{"Layers": {}}', "[" * 100_000])
def test_what_is_no_layer_information_is_one_error(text: str) -> None:
    with pytest.raises(InputError, match="layer information"):
        layers_from_inspector(text)


def test_times_are_medians() -> None:
    text = """[
      { "count" : 200 }
    , { "name" : "conv", "timeMs" : 40, "averageMs" : 0.2, "medianMs" : 0.19, "percentage" : 60 }
    , { "name" : "pool", "averageMs" : 0.1 }
    , { "name" : "twice", "averageMs" : 0.1 }, { "name" : "twice", "averageMs" : 0.25 }
    , { "name" : "odd", "averageMs" : "fast" }, { "name" : "nan", "medianMs" : NaN }, 7, { "name": 3, "averageMs": 1 }
    ]"""
    assert times_from_profile(text) == pytest.approx({"conv": 0.19, "pool": 0.1, "twice": 0.35})


@pytest.mark.parametrize("text", ["", "[", "{}", "null", "[" * 100_000])
def test_what_is_no_profile_is_one_error(text: str) -> None:
    with pytest.raises(InputError, match="profile"):
        times_from_profile(text)
