"""`trt-yolo inspect`: tables, JSON, a page; and one error for what is no model."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from tests.cli.commands import Command, assert_one_error
from trt_yolo.artifacts.weights import demo_checkpoint


def _relu(**metadata: str) -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"], name="relu")], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    return bytes(model.SerializeToString())


def test_an_onnx(demo_onnx: Path, cli: Command) -> None:
    outcome = cli("inspect", str(demo_onnx))
    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == f"{demo_onnx}: onnx"
    for part in ("uint8 1 x 256 x 256 x 3", "deploy graph, fp32, 10 classes", "fp32: 63 convolutions"):
        assert part in outcome.out, part
    (loads,) = (line for line in lines if "loads here" in line)
    assert "yes" in loads


def test_a_checkpoint(cli: Command) -> None:
    outcome = cli("inspect", str(demo_checkpoint()))
    assert (outcome.code, outcome.err) == (0, "")
    assert "YOLOv8 (yolov8n.yaml)" in outcome.out


@pytest.mark.parametrize("name", ["demo.pt", "demo-head.onnx"])
def test_json_is_the_last_line(name: str, demo_head_onnx: Path, cli: Command) -> None:
    path = demo_checkpoint() if name == "demo.pt" else demo_head_onnx
    outcome = cli("inspect", str(path), "--json")
    found = json.loads(outcome.out.splitlines()[-1])
    assert found["path"] == str(path)
    assert found["format"] == path.suffix[1:]
    assert sum(share["layers"] for share in found["precisions"].values()) == len(found["layers"])
    assert found["parameters"] == sum(layer["parameters"] for layer in found["layers"]) > 3_000_000


@pytest.mark.parametrize("name", ["model.engine", "model.pt", "model", "model.txt"])
def test_content_says_more_than_a_suffix(
    name: str, demo_head_onnx: Path, tmp_path: Path, cli: Command
) -> None:
    shutil.copy(demo_head_onnx, tmp_path / name)
    assert cli("inspect", str(tmp_path / name)).out.splitlines()[0].endswith(f"{name}: onnx")
    shutil.copy(demo_checkpoint(), tmp_path / name)
    assert cli("inspect", str(tmp_path / name)).out.splitlines()[0].endswith(f"{name}: pt")


def test_a_page_is_written_whole(demo_head_onnx: Path, tmp_path: Path, cli: Command) -> None:
    page = tmp_path / "new" / "page.html"
    outcome = cli("inspect", str(demo_head_onnx), "--html", str(page))
    assert (outcome.code, outcome.err) == (0, "")
    assert f"wrote {page}" in outcome.out
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert text.endswith("</html>\n")
    assert os.listdir(page.parent) == ["page.html"]


def test_a_page_that_cannot_be_written_is_one_error(
    demo_head_onnx: Path, tmp_path: Path, cli: Command
) -> None:
    (tmp_path / "file").write_text("here before")
    for page in (tmp_path / "file" / "page.html", tmp_path, Path("/proc/page.html")):
        assert_one_error(cli("inspect", str(demo_head_onnx), "--html", str(page)), str(page), "--html")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.json", "times.json", "link.html"])
def test_a_page_does_not_replace_what_it_is_made_from(name: str, tmp_path: Path, cli: Command) -> None:
    model, page = tmp_path / "model.onnx", tmp_path / name
    model.write_bytes(_relu())
    (tmp_path / "model.onnx.json").write_text("{}")
    (tmp_path / "times.json").write_text('[{"name": "relu", "medianMs": 1}]')
    (tmp_path / "link.html").symlink_to(model)
    before = page.read_bytes()
    refused = cli("inspect", str(model), "--times", str(tmp_path / "times.json"), "--html", str(page))
    assert_one_error(refused, f"{page} is an input of this command")
    assert page.read_bytes() == before


@pytest.mark.parametrize("name", ["model.onnx", "model.pt", "model.xyz"])
@pytest.mark.parametrize(
    "content", [b"", b"# a text\n", b"{}", b"\x08\x07\x12", b"PK\x03\x04", b"\x08\x00\x00"]
)
def test_what_is_no_model_is_one_error(content: bytes, name: str, tmp_path: Path, cli: Command) -> None:
    (tmp_path / name).write_bytes(content)
    assert_one_error(cli("inspect", str(tmp_path / name)), name)


def test_no_file_is_one_error(tmp_path: Path, cli: Command) -> None:
    assert_one_error(cli("inspect", str(tmp_path / "none.onnx")), "no such file")
    assert_one_error(cli("inspect", str(tmp_path)), "is no file")
    assert_one_error(cli("inspect", "/dev/null"), "is no file")
    os.mkfifo(tmp_path / "pipe.onnx")
    assert_one_error(cli("inspect", str(tmp_path / "pipe.onnx")), "is no file")


def test_notes_are_said_and_the_graph_is_shown(tmp_path: Path, cli: Command) -> None:
    (tmp_path / "model.onnx").write_bytes(_relu(trt_yolo="{"))
    outcome = cli("inspect", str(tmp_path / "model.onnx"))
    assert outcome.code == 0
    (note,) = (line for line in outcome.out.splitlines() if line.startswith("note: "))
    assert "damaged manifest" in note
    assert "fp32" in outcome.out


def test_a_terminal_obeys_nothing_of_a_file(tmp_path: Path, cli: Command) -> None:
    model = onnx.ModelProto.FromString(_relu(**{"\x1b[2Jkey": "\x1b]0;title\x07[red]text"}))
    model.producer_name = "\x1b[31mred"
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    outcome = cli("inspect", str(tmp_path / "model.onnx"), "--json")
    assert outcome.code == 0
    assert "\x1b]" not in outcome.out
    assert "\x1b[2J" not in outcome.out
    assert "[red]text" in outcome.out


def test_times_of_layers(demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    layer = next(node.name for node in onnx.load(demo_onnx).graph.node if node.op_type == "Conv")
    profile = tmp_path / "profile.json"
    profile.write_text(
        json.dumps([{"count": 10}, {"name": layer, "medianMs": 0.25}, {"name": "other", "medianMs": 1}])
    )
    outcome = cli(
        "inspect", str(demo_onnx), "--times", str(profile), "--html", str(tmp_path / "p.html"), "--json"
    )
    assert (outcome.code, outcome.err) == (0, "")
    timed = [one for one in json.loads(outcome.out.splitlines()[-1])["layers"] if one["time_ms"] is not None]
    assert [(one["name"], one["time_ms"]) for one in timed] == [(layer, 0.25)]
    assert "0.250 ms" in (tmp_path / "p.html").read_text()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "cannot read"),
        ("{", "damaged or no JSON"),
        ('[{"name": "x", "medianMs": 1}]', "none of the 1 layers"),
    ],
)
def test_times_that_do_not_fit(
    content: str | None, part: str, demo_onnx: Path, tmp_path: Path, cli: Command
) -> None:
    profile = tmp_path / "profile.json"
    if content is not None:
        profile.write_text(content)
    assert_one_error(cli("inspect", str(demo_onnx), "--times", str(profile)), part)
