"""ONNX files as people have them: what ONNX Runtime runs is read, what is none is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.inspection.small_graphs import branch, model_of, weights
from tests.precision.graphs import demo_network
from trt_yolo.backends.onnxruntime import open_session
from trt_yolo.errors import InputError, UnsupportedModelError
from trt_yolo.graph.onnx_file import model_from_file
from trt_yolo.graph.writer import sort_nodes, subgraphs

Change = Callable[[onnx.ModelProto], object]


def _saved(folder: Path, change: Change, model: onnx.ModelProto | None = None) -> Path:
    changed = onnx.ModelProto()
    changed.CopyFrom(model or model_of(_NODES, {"x": [1, 3, 4, 4]}, {"w": weights(4, 3, 1, 1)}))
    change(changed)
    path = folder / "model.onnx"
    path.write_bytes(changed.SerializeToString())
    return path


_NODES = [
    helper.make_node("Conv", ["x", "w"], ["c"], name="first"),
    helper.make_node("Relu", ["c"], ["r"]),
    helper.make_node("Neg", ["r"], ["y"]),
]


def _reversed(model: onnx.ModelProto) -> None:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _with_stored_inputs(model: onnx.ModelProto) -> None:
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 1, 1]))


def _with_a_function(model: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 17)]
    nodes = [helper.make_node("Neg", ["a"], ["b"])]
    model.functions.append(helper.make_function("own", "negate", ["a"], ["b"], nodes, opsets))
    model.opset_import.append(helper.make_opsetid("own", 1))
    model.graph.node[2].op_type, model.graph.node[2].domain = "negate", "own"


@pytest.mark.parametrize(
    "change",
    [
        lambda model: None,
        _reversed,
        _with_stored_inputs,
        _with_a_function,
        lambda model: setattr(model, "ir_version", 99),
        lambda model: model.graph.ClearField("name"),
        lambda model: model.graph.value_info.add(name="c"),
        lambda model: model.graph.output[0].type.tensor_type.ClearField("shape"),
    ],
    ids=[
        "sound",
        "unsorted",
        "stored inputs",
        "function",
        "newer IR",
        "no name",
        "a tensor without type",
        "no output shape",
    ],
)
def test_what_onnx_runtime_runs_is_read_and_gives_the_same(change: Change, tmp_path: Path) -> None:
    model = model_from_file(_saved(tmp_path, change))
    onnx.checker.check_model(model, full_check=True)
    assert [value.name for value in model.graph.input] == ["x"]
    images = np.random.default_rng(0).normal(size=(1, 3, 4, 4)).astype(np.float32)
    (found,) = open_session(model.SerializeToString(), threads=1).run(None, {"x": images})
    np.testing.assert_allclose(found[0, 0], -np.maximum(images.sum(axis=1)[0], 0), atol=1e-6)


def _in_a_circle(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "r"


@pytest.mark.parametrize(
    ("change", "kind", "line"),
    [
        (_in_a_circle, InputError, r"is damaged: its nodes form a cycle"),
        (
            lambda model: setattr(model.graph.node[1], "op_type", "Nonsense"),
            InputError,
            r"is damaged or no ONNX model",
        ),
        (
            lambda model: setattr(model.graph.node[1], "domain", "com.microsoft"),
            UnsupportedModelError,
            r"com\.microsoft\.Relu; give",
        ),
        (
            lambda model: model.graph.initializer[0].float_data.append(1.0),
            UnsupportedModelError,
            r"runs in ONNX Runtime, but is not valid ONNX",
        ),
    ],
    ids=["circle", "unknown operator", "another domain", "valid for ONNX Runtime alone"],
)
def test_what_cannot_be_exported_is_one_line(
    change: Change, kind: type[InputError], line: str, tmp_path: Path
) -> None:
    with pytest.raises(kind, match=rf"model\.onnx .*{line}"):
        model_from_file(_saved(tmp_path, change))


def test_weights_in_another_file(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    copy = onnx.ModelProto.FromString(demo_network().model.SerializeToString())
    onnx.save(copy, str(path), save_as_external_data=True, location="model.onnx.data", size_threshold=256)
    model = model_from_file(path)
    assert not any(tensor.data_location for tensor in model.graph.initializer)
    (tmp_path / "model.onnx.data").write_bytes(b"short")
    with pytest.raises(InputError, match=r"the weights of .*model\.onnx cannot be read"):
        model_from_file(path)
    (tmp_path / "model.onnx.data").unlink()
    with pytest.raises(InputError, match=r"its weights are in model\.onnx\.data, which is missing; copy it"):
        model_from_file(path)


@pytest.mark.parametrize(("content", "line"), [(b"<html>", "web page"), (b"\x80\x02}q.", r"name it \.pt")])
def test_another_file_is_named(content: bytes, line: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=line):
        model_from_file(path)


def test_nodes_of_branches_are_sorted_too_and_what_they_read_comes_first() -> None:
    then = branch("Relu")
    then.node[0].output[0], then.node[1].input[0] = "first", "first"
    nodes = list(then.node)[::-1]
    del then.node[:]
    then.node.extend(nodes)
    choice = helper.make_node("If", ["more"], ["y"], then_branch=then, else_branch=branch("Neg"))
    model = model_of([choice, helper.make_node("Abs", ["z"], ["x"])], {"z": [2]}, {"more": np.array(True)})
    assert sort_nodes(model.graph)
    assert [node.op_type for node in model.graph.node] == ["Abs", "If"]
    sorted_branches = {
        inner.name: [node.op_type for node in inner.node] for inner in subgraphs(model.graph.node[1])
    }
    assert sorted_branches == {"Relu": ["Relu", "Abs"], "Neg": ["Neg", "Abs"]}


def test_a_branch_may_call_its_output_as_the_node_does() -> None:
    """Exporters do so, and neither the standard nor ONNX Runtime minds: it is no circle."""
    choice = helper.make_node("If", ["more"], ["r"], then_branch=branch("Relu"), else_branch=branch("Neg"))
    last = helper.make_node("Neg", ["r"], ["y"])
    model = model_of([last, choice], {"x": [2]}, {"more": np.array(True)})
    assert sort_nodes(model.graph)
    assert [node.op_type for node in model.graph.node] == ["If", "Neg"]
    (found,) = open_session(model.SerializeToString(), threads=1).run(None, {"x": np.float32([-1, 2])})
    np.testing.assert_array_equal(found, [0, -2])
