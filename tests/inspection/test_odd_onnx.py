"""ONNX files that are damaged, hostile, incomplete, or too new: an inspection with notes, or one error."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.inspection.small_graphs import branch, inspected, model_of, weights
from tests.precision import graphs
from trt_yolo.errors import InputError
from trt_yolo.inspection.from_onnx import inspection_from_onnx


@pytest.mark.parametrize("text", ["{", "[1]", '{"schema": 99}', "null", '{"schema": 1, "names": 3}'])
def test_a_damaged_manifest_is_a_note(text: str, tmp_path: Path) -> None:
    model = onnx.ModelProto()
    model.CopyFrom(graphs.demo_network().model)
    helper.set_model_props(model, {"trt_yolo": text})
    inspection = inspected(model, tmp_path)
    assert inspection.manifest is None
    assert "manifest" in inspection.notes[0]
    assert inspection.multiplying["fp32"].convolutions == len(graphs.demo_network().convolutions)


def test_weights_in_another_file_are_counted_and_not_read(tmp_path: Path) -> None:
    model, path = graphs.demo_network().model, tmp_path / "outside.onnx"
    copy = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.save(copy, str(path), save_as_external_data=True, location="weights.bin", size_threshold=256)
    inspection = inspection_from_onnx(path)
    assert inspection.facts["weights in"] == "weights.bin"
    assert inspection.bytes == path.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert inspection.multiplying["fp32"].macs == graphs.demo_network().macs
    assert (inspection.notes, inspection.loads_here) == ((), True)
    (tmp_path / "weights.bin").unlink()
    inspection = inspection_from_onnx(path)
    assert "weights.bin, which is missing" in inspection.notes[0]
    assert inspection.multiplying["fp32"].macs == graphs.demo_network().macs
    assert inspection.loads_here is False


@pytest.mark.parametrize("place", ["../../etc/passwd", "/etc/passwd", "C:\\secrets.bin", "a/../../b"])
def test_weights_outside_the_folder_are_not_looked_at(place: str, tmp_path: Path) -> None:
    model = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": [1, 5]}, {"w": weights(5, 5)})
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    inspection = inspected(model, tmp_path)
    assert "outside its folder" in inspection.notes[0]
    assert (inspection.loads_here, inspection.parameters) == (False, 25)


@pytest.mark.parametrize(("opset", "ir"), [(99, 8), (17, 99)])
def test_versions_that_onnx_runtime_does_not_know(opset: int, ir: int, tmp_path: Path) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"])], {"x": [1]}, opset=opset)
    model.ir_version = ir
    inspection = inspected(model, tmp_path)
    assert inspection.loads_here is False
    assert "ONNX Runtime" in inspection.why_not
    assert [layer.kind for layer in inspection.layers] == ["Relu"]


def test_of_a_large_model_only_its_versions_are_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("trt_yolo.inspection.from_onnx._LARGEST_SESSION", 0)
    broken = model_of([helper.make_node("Relu", ["nowhere"], ["y"])], {"x": [1]})
    assert inspected(broken, tmp_path).loads_here
    broken.ir_version = 99
    assert inspected(broken, tmp_path).loads_here is False


def test_onnx_runtime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, demo_head_onnx: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    inspection = inspection_from_onnx(demo_head_onnx)
    assert inspection.loads_here is False
    assert inspection.why_not


# hostile


@pytest.mark.parametrize(
    "content", [b"", b"# text\n", b"{}", b"\x00" * 64, b"\x08\x07", b"PK\x03\x04", b"\xff" * 99]
)
def test_what_is_no_onnx_is_one_error(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.onnx is (damaged|empty|no ONNX model but a zip)"):
        inspected(content, tmp_path)


def test_a_file_cut_off_anywhere_is_one_error(demo_head_onnx: Path, tmp_path: Path) -> None:
    content = demo_head_onnx.read_bytes()
    for length in (1, 2, 10, 100, 1000, len(content) // 2, len(content) - 4000):
        with pytest.raises(InputError, match="damaged"):
            inspected(content[:length], tmp_path)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir()], ids=["missing", "folder"])
def test_no_file_is_one_error(make: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    make(path)
    with pytest.raises(InputError, match=r"no such file|is a folder"):
        inspection_from_onnx(path)


def test_changed_bytes_are_an_inspection_or_one_error(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
        helper.make_node("If", ["more"], ["r"], then_branch=branch("Relu"), else_branch=branch("Neg")),
        helper.make_node("MatMul", ["c", "c"], ["y"]),
    ]
    model = model_of(
        nodes, {"x": [1, 3, 4, 4]}, {"w": weights(4, 3, 1, 1), "more": np.array(True)}, task="detect"
    )
    content, chance = model.SerializeToString(), random.Random(0)
    read = 0
    for _ in range(400):
        changed = bytearray(content)
        for _ in range(chance.randint(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        try:
            json.dumps(inspected(bytes(changed), tmp_path).to_dict())
            read += 1
        except InputError:
            continue
    assert 0 < read < 400


def _with_functions(calls: Sequence[Sequence[str]]) -> onnx.ModelProto:
    """A model of functions f0, f1, ..., each calling in a row what `calls` says; the graph calls the last."""
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    functions = []
    for index, called in enumerate(calls):
        nodes = [
            helper.make_node(kind, [f"t{step}"], [f"t{step + 1}"], domain="own" if kind[0] == "f" else "")
            for step, kind in enumerate(called)
        ]
        made = f"t{len(called)}"
        functions.append(helper.make_function("own", f"f{index}", ["t0"], [made], nodes, opsets))
    model = model_of([helper.make_node(f"f{len(calls) - 1}", ["x"], ["y"], domain="own")], {"x": [2, 3]})
    model.functions.extend(functions)
    model.opset_import.append(opsets[1])
    return model


def test_functions_are_layers_and_their_shapes_known(tmp_path: Path) -> None:
    inspection = inspected(_with_functions([["Relu"], ["f0", "f0", "Abs"]]), tmp_path)
    assert [layer.kind for layer in inspection.layers] == ["own.f1"]
    assert inspection.loads_here
    assert inspection.layers[0].precision == "fp32"


@pytest.mark.parametrize(
    "calls",
    [[["f0"]], [["f1"], ["f0"]], [["Relu"], *[[f"f{index}"] * 2 for index in range(30)]]],
    ids=["itself", "each other", "2^30 nodes"],
)
def test_functions_without_end_are_a_note(calls: list[list[str]], tmp_path: Path) -> None:
    inspection = inspected(_with_functions(calls), tmp_path)
    assert "unfold to more than" in inspection.notes[-1]
    assert inspection.loads_here is False
    assert len(inspection.layers) == 1


def test_names_that_are_no_text_are_shown_as_well_as_they_can_be(tmp_path: Path) -> None:
    model = model_of([helper.make_node("Relu", ["x"], ["y"], name="NAME")], {"x": [1]}, author="NAME")
    inspection = inspected(model.SerializeToString().replace(b"NAME", b"\xff\xfe\xfda"), tmp_path)
    assert inspection.layers[0].name == "\ufffd\ufffd\ufffda"
    assert json.dumps(inspection.to_dict())
