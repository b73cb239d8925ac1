"""Head graphs that somebody else exported, and that are not what they say: one error, from every command."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path

import cv2
import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli.commands import Command, assert_one_error, run_process
from trt_yolo.demo.scenes import scene

_MEMORY_BYTES = 4 << 30


def _graph(
    *, channels: int = 9, hw: tuple[int | str, int | str] = (32, 32), fails: bool = False, **metadata: str
) -> onnx.ModelProto:
    """A graph with the input and output of a YOLOv8 head for 5 classes; `fails` makes one that cannot run."""
    sound = [
        helper.make_node("GlobalAveragePool", ["images"], ["pooled"]),
        helper.make_node("Conv", ["pooled", "weight"], ["features"]),
        helper.make_node("Reshape", ["features", "column"], ["one"]),
        helper.make_node("Expand", ["one", "shape"], ["output0"]),
    ]
    wrong = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["output0"]),
    ]
    graph = helper.make_graph(
        wrong if fails else sound,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, *hw])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, channels, 21])],
        [
            helper.make_tensor("weight", TensorProto.FLOAT, [9, 3, 1, 1], [0.5] * 27),
            helper.make_tensor("column", TensorProto.INT64, [3], [1, 9, 1]),
            helper.make_tensor("shape", TensorProto.INT64, [3], [1, 9, 21]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    return model


def _changed(change: Callable[[onnx.ModelProto], object]) -> bytes:
    model = _graph()
    change(model)
    return bytes(model.SerializeToString())


def _stored_at(place: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=place)

    return change


def _with(**options: object) -> bytes:
    return bytes(_graph(**options).SerializeToString())  # type: ignore[arg-type]


_EXTRA = helper.make_tensor_value_info("more", TensorProto.FLOAT, [1])
_GRAPHS = {
    "two inputs": _changed(lambda model: model.graph.input.append(_EXTRA)),
    "no input": _changed(lambda model: model.graph.ClearField("input")),
    "no output": _changed(lambda model: model.graph.ClearField("output")),
    "uint8 input": _changed(lambda model: setattr(model.graph.input[0].type.tensor_type, "elem_type", 2)),
    "another task": _with(task="segment"),
    "an unknown operator": _changed(lambda model: setattr(model.graph.node[0], "op_type", "Nonsense")),
    "a node that reads from nowhere": _changed(lambda model: model.graph.node[0].input.__setitem__(0, "x")),
    "data in a file that is missing": _changed(_stored_at("missing.bin")),
    "data outside the folder": _changed(_stored_at("../../../../../../../../etc/passwd")),
    "a size that nobody says": _with(hw=("h", "w")),
    "a size of texts": _with(hw=("h", "w"), imgsz="['a', 'b']"),
    "a size of nothing": _with(hw=("h", "w"), imgsz="[0, 0]"),
    "metadata that is no text": _with(author="name").replace(b"name", b"\xff\xfe\xfd\xfc"),
    "a damaged manifest": _with(trt_yolo="{"),
    "a manifest that is a list": _with(trt_yolo="[1]"),
    "a manifest of a later version": _with(trt_yolo='{"schema": 99}'),
    "a reshape that fails when it is run": _with(hw=("h", "w"), imgsz="[32, 32]", fails=True),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one image."""
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("scene.png", scene(0).image_bgr)
    return tmp_path


def test_the_graph_is_sound_before_it_is_changed(folder: Path, cli: Command) -> None:
    (folder / "graph.onnx").write_bytes(_with())
    assert cli("export", "graph.onnx", "--no-check", "--out", "out").code == 0
    assert cli("predict", "graph.onnx", "scene.png").code == 0
    assert cli("predict", "out/graph.onnx", "scene.png").code == 0


@pytest.mark.parametrize(
    "command", [["export", "graph.onnx", "--out", "out"], ["predict", "graph.onnx", "scene.png"]]
)
@pytest.mark.parametrize("graph", _GRAPHS.values(), ids=_GRAPHS)
def test_a_graph_that_is_no_head_is_one_error(
    graph: bytes, command: list[str], folder: Path, cli: Command
) -> None:
    (folder / "graph.onnx").write_bytes(graph)
    assert_one_error(cli(*command), "graph.onnx")
    assert sorted(path.name for path in folder.iterdir()) == ["graph.onnx", "scene.png"]


@pytest.mark.parametrize("channels", [4, 8, 12])
def test_a_graph_that_says_another_shape_than_it_computes_is_not_exported(
    channels: int, folder: Path, cli: Command
) -> None:
    (folder / "graph.onnx").write_bytes(_with(channels=channels))
    assert_one_error(cli("export", "graph.onnx", "--out", "out"), "graph.onnx")
    assert not (folder / "out").exists()


def _little_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


_EXPORT, _PREDICT = ["export", "graph.onnx", "--out", "out"], ["predict", "graph.onnx", "scene.png"]


@pytest.mark.parametrize(
    ("graph", "command"),
    [
        (_with(channels=4 + 10**9), _EXPORT),  # ONNX Runtime knows better what the graph computes
        (_with(hw=(1 << 20, 1 << 20)), _EXPORT),
        (_with(hw=(1 << 20, 1 << 20)), _PREDICT),
        (_with(hw=("h", "w"), imgsz="[1048576, 1048576]"), _EXPORT),
        (_with(hw=("h", "w"), imgsz="[1048576, 1048576]"), _PREDICT),
    ],
)
def test_a_graph_of_impossible_size_is_one_error(graph: bytes, command: list[str], folder: Path) -> None:
    (folder / "graph.onnx").write_bytes(graph)
    assert_one_error(run_process(*command, before=_little_memory), "graph.onnx")
