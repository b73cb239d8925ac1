"""`trt-yolo export`: what it writes, what it calls it, what it prints."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.cli.commands import Command
from trt_yolo.artifacts.manifest import METADATA_KEY
from trt_yolo.demo.scenes import NAMES
from trt_yolo.graph.writer import dimensions

pytest.importorskip("onnxruntime")


def _shapes(values: Any) -> dict[str, list[int | str]]:
    return {value.name: dimensions(value) for value in values}


def _metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


def test_ends_with_one_line_of_json(tmp_path: Path, cli: Command) -> None:
    outcome = cli("export", "--out", str(tmp_path), "--json")
    assert (outcome.code, outcome.err) == (0, "")
    *table, line = outcome.out.splitlines()
    report = json.loads(line)
    path = tmp_path / "demo.onnx"
    assert set(report) == {"artifacts", "parity", "accuracy"}
    assert report["accuracy"] is None, "nothing was quantized"
    assert report["artifacts"] == [
        {"path": str(path), "format": "onnx", "precision": "fp32", "bytes": path.stat().st_size}
    ]
    assert report["parity"]["holds"] is True
    assert report["parity"]["detections"] > 0
    assert any(str(path) in row for row in table)
    assert any("256x256" in row for row in table)


def test_without_json_there_is_only_the_table(tmp_path: Path, cli: Command) -> None:
    outcome = cli("export", "--out", str(tmp_path), "--no-check")
    assert (outcome.code, outcome.err) == (0, "")
    assert "demo.onnx" in outcome.out
    assert "{" not in outcome.out


def test_the_manifest_lies_beside_and_inside(tmp_path: Path, cli: Command) -> None:
    cli("export", "--out", str(tmp_path), "--no-check")
    beside = json.loads((tmp_path / "demo.onnx.json").read_text())
    assert beside == json.loads(_metadata(tmp_path / "demo.onnx")[METADATA_KEY])
    assert (beside["graph"], beside["task"], beside["precision"]) == ("deploy", "detect", "fp32")
    assert (beside["source"], beside["exporter"]) == ("demo.pt", "native")
    assert (beside["imgsz_hw"], beside["batch"]) == ([256, 256], {"minimum": 1, "maximum": 1})
    assert len(beside["names"]) == len(NAMES)


@pytest.mark.parametrize(
    ("options", "name", "frames"),
    [
        ([], "demo.onnx", [1, 256, 256, 3]),
        (["--batch", "4"], "demo-b4.onnx", [4, 256, 256, 3]),
        (["--batch", "1:4"], "demo-b1-4.onnx", ["batch", 256, 256, 3]),
        (["--imgsz", "128"], "demo-128.onnx", [1, 128, 128, 3]),
        (["--imgsz", "128x256"], "demo-128x256.onnx", [1, 128, 256, 3]),
        (["--imgsz", "64", "--batch", "2:3"], "demo-64-b2-3.onnx", ["batch", 64, 64, 3]),
        (["--opset", "13"], "demo.onnx", [1, 256, 256, 3]),
    ],
    ids=["default", "static", "dynamic", "square", "wide", "small", "opset"],
)
def test_deploy_graphs(
    options: list[str], name: str, frames: list[int | str], tmp_path: Path, cli: Command
) -> None:
    assert cli("export", *options, "--out", str(tmp_path), "--no-check").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, f"{name}.json"]
    model = onnx.load(tmp_path / name)
    rows = json.loads((tmp_path / f"{name}.json").read_text())["rows"]
    (images, shape), *thresholds = _shapes(model.graph.input).items()
    assert shape == frames, images
    assert [shape for _, shape in thresholds] == [[1], [1]]
    assert _shapes(model.graph.output) == {
        "detections": [frames[0], rows, 6],
        "unconverged": [frames[0], 1],
    }
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    assert opset == (13 if "--opset" in options else 19)


@pytest.mark.parametrize(
    ("options", "name", "images", "anchors"),
    [
        ([], "demo-head.onnx", [1, 3, 256, 256], 1344),
        (
            ["--batch", "1:4", "--imgsz", "128x256"],
            "demo-128x256-b1-4-head.onnx",
            ["batch", 3, 128, 256],
            672,
        ),
    ],
)
def test_head_graphs(
    options: list[str],
    name: str,
    images: list[int | str],
    anchors: int,
    tmp_path: Path,
    cli: Command,
) -> None:
    outcome = cli("export", "--head", *options, "--out", str(tmp_path), "--json")
    assert outcome.code == 0
    assert json.loads(outcome.out.splitlines()[-1])["parity"] is None
    graph = onnx.load(tmp_path / name).graph
    assert _shapes(graph.input) == {"images": images}
    assert _shapes(graph.output) == {"output0": [images[0], 4 + len(NAMES), anchors]}
    metadata = _metadata(tmp_path / name)
    assert metadata["task"] == "detect", "as Ultralytics writes it, for those who read its graphs"
    assert json.loads(metadata["imgsz"]) == images[2:]


def test_the_check_uses_the_images_given(tmp_path: Path, val_images: list[Path], cli: Command) -> None:
    for path in val_images[:3]:
        (tmp_path / path.name).symlink_to(path)
    outcome = cli("export", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--json")
    assert json.loads(outcome.out.splitlines()[-1])["parity"]["images"] == 3


def test_no_check_is_no_parity(tmp_path: Path, cli: Command) -> None:
    outcome = cli("export", "--no-check", "--out", str(tmp_path), "--json")
    assert json.loads(outcome.out.splitlines()[-1])["parity"] is None


def test_artifacts_go_to_engines_unless_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli("export", "--no-check").code == 0
    assert (tmp_path / "engines" / "demo.onnx").is_file()


def test_a_second_export_replaces_the_first(tmp_path: Path, cli: Command) -> None:
    cli("export", "--no-check", "--out", str(tmp_path), "--opset", "13")
    cli("export", "--no-check", "--out", str(tmp_path), "--opset", "17")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo.onnx", "demo.onnx.json"]
    assert json.loads((tmp_path / "demo.onnx.json").read_text())["opset"] == 17
    assert json.loads(_metadata(tmp_path / "demo.onnx")[METADATA_KEY])["opset"] == 17


@pytest.mark.parametrize("name", ["ärger [bold]x[/y]", "with space", "%s {0}"])
def test_folders_may_have_any_name(name: str, tmp_path: Path, cli: Command) -> None:
    outcome = cli("export", "--no-check", "--out", str(tmp_path / name))
    assert (outcome.code, outcome.err) == (0, "")
    assert (tmp_path / name / "demo.onnx").is_file()
    assert f"{name}/demo.onnx" in outcome.out.replace("\n", "")


def test_the_native_exporter_needs_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from trt_yolo.cli.main import run\n"
        "try:\n    run()\n"
        "except SystemExit as stopped:\n"
        "    print(stopped.code or 0, sorted({'torch', 'ultralytics'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", script, "export", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
