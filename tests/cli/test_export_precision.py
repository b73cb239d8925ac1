"""`trt-yolo export --fp16` and `--int8`: what is written and printed, and what bad input gets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.cli.commands import TIMEOUT_S, Command, Outcome, assert_one_error, run_process
from tests.precision import graphs
from trt_yolo.demo.scenes import write_yolo_dataset
from trt_yolo.media.images import write_jpeg
from trt_yolo.precision import maker, search

pytest.importorskip("onnxruntime")

OFFLINE = "http://127.0.0.1:9"
ROOT = Path(__file__).resolve().parents[2]
_QUICK = """
import pytest
from tests.precision.graphs import quicken_int8
from trt_yolo.cli.main import run
quicken_int8(pytest.MonkeyPatch(), "l2.4")
run()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data.yaml of 20 scenes to calibrate and 16 to judge."""
    return write_yolo_dataset(tmp_path_factory.mktemp("data"), train=20, val=16)


@pytest.fixture(scope="module")
def exported(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder and the outcome of one quick export in a process of its own."""
    out = tmp_path_factory.mktemp("int8")
    arguments = ["--calib-method", "l2.4", "--data", data, "--out", out, "--max-drop", "5", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", _QUICK, "export", "--int8", *map(str, arguments)],
        env={**os.environ, "COLUMNS": "200"}, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    return out, Outcome(done.returncode, done.stdout, done.stderr)


def _report(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    report: dict[str, Any] = json.loads(outcome.out.splitlines()[-1])
    return report


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What a command run in this process warned of: pytest's handlers take the place of those of `run`."""
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


# What is written and printed


def test_int8_ends_with_one_line_of_json(exported: tuple[Path, Outcome], data: Path) -> None:
    out, outcome = exported
    report = _report(outcome)
    assert set(report) == {"artifacts", "parity", "accuracy"}
    (artifact,) = report["artifacts"]
    path = out / "demo-int8.onnx"
    assert artifact == {
        "path": str(path), "format": "onnx", "precision": "int8", "bytes": path.stat().st_size
    }  # fmt: skip
    assert report["parity"]["holds"] is True
    accuracy = report["accuracy"]
    assert set(accuracy) >= {
        "map50_95_before", "map50_95_after", "map50_before", "map50_after", "drop_points", "max_drop", "reference",
        "held_out_images", "calibration_images", "calibration_reused", "method", "methods", "target", "int8_share",
        "kept_fp16", "bytes_before", "bytes_after", "size_ratio",
    }  # fmt: skip
    assert 0.8 < accuracy["map50_95_before"] < 1
    assert accuracy["map50_95_after"] == pytest.approx(accuracy["map50_95_before"], abs=0.05)
    assert (accuracy["held_out_images"], accuracy["calibration_images"]) == (16, 20)
    assert (accuracy["method"], accuracy["target"], accuracy["max_drop"]) == ("l2.4", "tensorrt", 5)
    for layer in accuracy["kept_fp16"]:
        assert set(layer) == {"name", "precision", "reason", "macs_share", "error"}
    kept = sum(layer["macs_share"] for layer in accuracy["kept_fp16"])
    assert accuracy["int8_share"] + kept == pytest.approx(1, abs=1e-3)
    assert accuracy["size_ratio"] < 0.3
    assert sorted(one.name for one in out.iterdir()) == [
        "demo-int8.onnx", "demo-int8.onnx.json", "demo.calibration.json"
    ]  # fmt: skip


def test_the_table_says_what_it_costs(exported: tuple[Path, Outcome]) -> None:
    outcome = exported[1]
    report = _report(outcome)["accuracy"]
    text = outcome.out
    for part in (
        f"mAP50-95 {report['map50_95_before']:.4f} before, {report['map50_95_after']:.4f} after",
        "-5.00 allowed", "16 images held out, against labels", "l2.4, 20 images, made",
        f"{report['int8_share']:.1%} of the multiply-accumulates, for tensorrt", "layers not in int8",
        "of FP32's",
    ):  # fmt: skip
        assert part in text, part
    rows = text[text.index("layers not in int8") :]
    for layer in report["kept_fp16"]:
        assert layer["name"] in rows
    assert "gives boxes and scores" in rows


def test_few_images_are_one_warning(exported: tuple[Path, Outcome], data: Path) -> None:
    (line,) = exported[1].err.splitlines()
    assert line.lower().startswith("warning: ")
    assert all(part in line for part in (str(data), "20 images", "fewer than 100"))


def test_predict_runs_it(exported: tuple[Path, Outcome], data: Path, cli: Command) -> None:
    image = sorted((data.parent / "images" / "val").iterdir())[0]
    outcome = cli("predict", str(exported[0] / "demo-int8.onnx"), str(image), "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)["detections"]
    truth = (data.parent / "labels" / "val" / f"{image.stem}.txt").read_text().splitlines()
    assert abs(len(found) - len(truth)) <= 2


def test_val_agrees_with_the_report(
    exported: tuple[Path, Outcome], data: Path, tmp_path: Path, cli: Command
) -> None:
    assert cli("export", "--no-check", "--out", str(tmp_path)).code == 0
    models = [str(tmp_path / "demo.onnx"), str(exported[0] / "demo-int8.onnx")]
    outcome = cli("val", *models, "--data", str(data), "--json")
    assert (outcome.code, outcome.err) == (0, "")
    before, after = json.loads(outcome.out.splitlines()[-1])["models"]
    told = _report(exported[1])["accuracy"]
    for model, name in ((before, "before"), (after, "after")):
        assert model["map50_95"] == pytest.approx(told[f"map50_95_{name}"], abs=1e-4)
        assert model["map50"] == pytest.approx(told[f"map50_{name}"], abs=1e-4)
    assert [before["precision"], after["precision"]] == ["fp32", "int8"]


def test_fp16(data: Path, tmp_path: Path, cli: Command) -> None:
    outcome = cli("export", "--fp16", "--data", str(data), "--out", str(tmp_path), "--json")
    report = _report(outcome)
    assert report["artifacts"][0]["precision"] == "fp16"
    assert report["artifacts"][0]["path"] == str(tmp_path / "demo-fp16.onnx")
    accuracy = report["accuracy"]
    assert abs(accuracy["drop_points"]) < 0.5
    assert (accuracy["kept_fp16"], accuracy["method"], accuracy["calibration_images"]) == ([], "", 0)
    assert "calibration" not in outcome.out.replace("calibration_", "").split("{")[0]
    assert sorted(one.name for one in tmp_path.iterdir()) == ["demo-fp16.onnx", "demo-fp16.onnx.json"]


def test_fp16_without_labels_is_judged_by_the_float_model(data: Path, tmp_path: Path, cli: Command) -> None:
    shutil.copytree(data.parent / "images" / "train", tmp_path / "alone")
    for index in range(4):
        shutil.copy(data.parent / "images" / "val" / f"{index:05d}.jpg", tmp_path / "alone" / f"v{index}.jpg")
    outcome = cli(
        "export", "--fp16", "--data", str(tmp_path / "alone"), "--out", str(tmp_path / "out"), "--json"
    )
    accuracy = _report(outcome)["accuracy"]
    assert accuracy["reference"] == "the float model's detections"
    assert accuracy["held_out_images"] == 6
    assert accuracy["map50_95_before"] < 1
    assert "both models on mirrored images" in outcome.out


def test_unreadable_images_are_left_out(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, cli: Command
) -> None:
    """Wherever they stand, at the beginning too, where the float graph's check takes its images."""
    shutil.copytree(data.parent, tmp_path / "data")
    copied = tmp_path / "data" / "data.yaml"
    copied.write_text(data.read_text().replace(str(data.parent), str(copied.parent)))
    for split, index in (("train", 3), ("val", 1), ("val", 9)):
        (tmp_path / "data" / "images" / split / f"{index:05d}.jpg").write_text("no image")
    outcome = cli("export", "--fp16", "--data", str(copied), "--out", str(tmp_path / "out"), "--json")
    assert _report(outcome)["accuracy"]["held_out_images"] == 14
    for name in ("train/00003.jpg", "val/00001.jpg", "val/00009.jpg"):
        assert sum(name in line and "left out" in line for line in _warnings(caplog)) == 1, name


def test_fp16_of_a_coco_model_offline_is_written_unjudged(
    yolov8n: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    cli: Command,
) -> None:
    monkeypatch.setenv("TRT_YOLO_WEIGHTS_URL", OFFLINE)
    outcome = cli(
        "export", str(yolov8n), "--fp16", "--imgsz", "64", "--no-check", "--out", str(tmp_path), "--json"
    )
    assert _report(outcome)["accuracy"] is None
    (line,) = _warnings(caplog)
    assert all(part in line for part in ("accuracy", "not measured", "--data"))
    assert (tmp_path / "yolov8n-64-fp16.onnx").is_file()


# Bad input


def _scenes(folder: Path, count: int) -> None:
    folder.mkdir()
    for index in range(count):
        write_jpeg(folder / f"{index}.jpg", np.full((32, 32, 3), index, np.uint8))


def _quantized_head(source: Path, target: Path) -> None:
    """A head graph with one Q/DQ pair after its input, as other quantizers write them."""
    model = onnx.load(source)
    graph = model.graph
    name = graph.input[0].name
    for node in graph.node:
        for index, tensor in enumerate(node.input):
            if tensor == name:
                node.input[index] = "dq"
    graph.initializer.append(numpy_helper.from_array(np.array(1 / 255, np.float32), "scale"))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), "zero"))
    pair = [
        helper.make_node("QuantizeLinear", [name, "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], name="dq"),
    ]
    nodes = [*pair, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, target)


def _half_head(source: Path, target: Path) -> None:
    """The whole head graph in FP16, its input and output too, as `half=True` writes it."""
    model = onnx.load(source)
    graph = model.graph
    resized = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in resized:
            array = np.clip(numpy_helper.to_array(tensor), -65504, 65504).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for node in graph.node:
        for attribute in node.attribute if node.output[0] not in resized else ():
            if attribute.name == "value" and attribute.t.data_type == TensorProto.FLOAT:
                array = numpy_helper.to_array(attribute.t).astype(np.float16)
                attribute.t.CopyFrom(numpy_helper.from_array(array, attribute.t.name))
    del graph.value_info[:]
    onnx.save(model, target)


@pytest.fixture(scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory, data: Path, demo_head_onnx: Path) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    _scenes(folder / "three", 3)
    _scenes(folder / "twenty", 20)
    _scenes(folder / "grey", 24)
    (folder / "empty").mkdir()
    (folder / "texts").mkdir()
    for index in range(24):
        (folder / "texts" / f"{index}.jpg").write_text("no image")
    text = data.read_text()
    (folder / "good.yaml").write_text(text)
    (folder / "noval.yaml").write_text(text.replace("val: images/val\n", ""))
    (folder / "notrain.yaml").write_text(text.replace("train: images/train\n", ""))
    (folder / "nofolder.yaml").write_text(text.replace("train: images/train", "train: images/nothing"))
    (folder / "classes.yaml").write_text(text + "  10: 'ten'\n")
    (folder / "text.yaml").write_text("{no yaml")
    shutil.copytree(data.parent, folder / "labels")
    (folder / "labels.yaml").write_text(text.replace(str(data.parent), str(folder / "labels")))
    label = folder / "labels" / "labels" / "val" / "00002.txt"
    label.write_text(label.read_text() + "12 0.5 0.5 0.1 0.1\n")
    shutil.copy(demo_head_onnx, folder / "float-head.onnx")
    _quantized_head(demo_head_onnx, folder / "quantized-head.onnx")
    _half_head(demo_head_onnx, folder / "half-head.onnx")
    return folder


@pytest.fixture
def files(_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as working folder, so that names are short."""
    monkeypatch.chdir(_files)
    return _files


def _assert_refused(cli: Command, files: Path, out: Path, arguments: list[str], parts: list[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in files.rglob("*")}
    assert_one_error(cli("export", *arguments, "--out", str(out)), *parts)
    assert not out.exists() or not any(out.iterdir()), "nothing is left half-written"
    assert {path: path.stat().st_mtime_ns for path in files.rglob("*")} == before


_BAD = [
    (["--data", "empty"], ["empty", "no images", ".jpg"]),
    (["--data", "three"], ["three gives 3 images", "at least 16"]),
    (["--data", "twenty"], ["twenty gives 15 images", "at least 16"]),
    (["--data", "missing"], ["missing", "give images"]),
    (["--data", "missing.yaml"], ["no such file: missing.yaml", "data.yaml"]),
    (["--data", "*.gif"], ["*.gif", ".jpg"]),
    (["--data", "noval.yaml"], ["noval.yaml has no split val", "train"]),
    (["--data", "notrain.yaml"], ["notrain.yaml has no split train", "val"]),
    (["--data", "nofolder.yaml"], ["nofolder.yaml", "images/nothing", "no such file or folder"]),
    (["--data", "classes.yaml"], ["classes.yaml has 11 classes", "the model has 10"]),
    (["--data", "labels.yaml"], ["00002.txt", "no class 12", "0 to 9"]),
    (["--data", "text.yaml"], ["text.yaml is no YAML file"]),
    (["--data", "good.yaml", "--max-drop", "nan"], ["--max-drop nan", "such as 1.0"]),
    (["--data", "good.yaml", "--max-drop", "-1"], ["--max-drop -1", "such as 1.0"]),
    (["--data", "good.yaml", "--max-drop", "much"], ["--max-drop", "number", "--help"]),
    (["--data", "good.yaml", "--target", "gpu"], ["--target 'gpu'", "tensorrt, cpu"]),
    (["--data", "good.yaml", "--calib-method", "best"], ["--calib-method 'best'", "entropy"]),
    (["--data", "good.yaml", "quantized-head.onnx"], ["quantized-head.onnx", "quantized already", "give the .pt"]),
    (["--data", "good.yaml", "half-head.onnx"], ["half-head.onnx", "half", "give the .pt"]),
]  # fmt: skip


@pytest.mark.parametrize("precision", ["--int8", pytest.param("--fp16", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("arguments", "parts"), _BAD, ids=[" ".join(row[0])[-40:] for row in _BAD])
def test_bad_input(
    precision: str, arguments: list[str], parts: list[str], files: Path, tmp_path: Path, cli: Command
) -> None:
    _assert_refused(cli, files, tmp_path / "out", [precision, *arguments], parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--int8", "--fp16"], ["--fp16 and --int8", "give one"]),
        (["--int8", "--opset", "17"], ["--int8 needs opset 19", "17", "leave --opset out"]),
        (["--int8", "missing.pt"], ["no such file: missing.pt"]),
        (["--int8", "--data", "texts", "--no-check"], ["none of the", "images of texts can be read"]),
        (["--int8", "--data", "grey", "--no-check"], ["finds nothing", "give images"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_other_bad_input(
    arguments: list[str], parts: list[str], files: Path, tmp_path: Path, cli: Command
) -> None:
    _assert_refused(cli, files, tmp_path / "out", arguments, parts)


def test_only_unreadable_images(files: Path, tmp_path: Path, cli: Command) -> None:
    _assert_refused(cli, files, tmp_path / "out", ["--int8", "--data", "texts"], ["texts"])


def test_int8_of_a_coco_model_offline(
    yolov8n: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    monkeypatch.setenv("TRT_YOLO_WEIGHTS_URL", OFFLINE)
    arguments = [str(yolov8n), "--int8", "--imgsz", "64", "--no-check"]
    parts = ["give --data", "coco128 could not be downloaded", f"{OFFLINE}/coco128.zip"]
    _assert_refused(cli, files, tmp_path / "out", arguments, parts)


def test_its_own_artifact_is_quantized_already(
    exported: tuple[Path, Outcome], files: Path, tmp_path: Path, cli: Command
) -> None:
    path = str(exported[0] / "demo-int8.onnx")
    _assert_refused(cli, files, tmp_path / "out", [path, "--int8"], [path, "give the .pt"])


def test_a_head_graph_of_an_older_opset(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    """Q/DQ around FP16 needs opset 19: the graph is brought there."""
    graphs.quicken_int8(monkeypatch, "l2.4")
    assert cli("export", "--head", "--opset", "17", "--out", str(tmp_path / "head")).code == 0
    head = str(tmp_path / "head" / "demo-head.onnx")
    arguments = ["--data", str(files / "good.yaml"), "--max-drop", "5", "--out", str(tmp_path), "--json"]
    done = cli("export", head, "--int8", "--calib-method", "l2.4", *arguments)
    assert done.code == 0, done.err
    report = json.loads(done.out.splitlines()[-1])
    assert abs(report["accuracy"]["drop_points"]) <= 5
    graph = onnx.load(report["artifacts"][0]["path"])
    assert [entry.version for entry in graph.opset_import if not entry.domain] == [19]


def test_bad_input_in_a_process_of_its_own(files: Path, tmp_path: Path) -> None:
    outcome = run_process("export", "--int8", "--data", "three", "--out", str(tmp_path / "out"), cwd=files)
    assert_one_error(outcome, "three gives 3 images", "at least 16")
    assert not (tmp_path / "out").exists()


def test_a_drop_that_is_not_allowed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    graphs.quicken_int8(monkeypatch, "minmax")
    monkeypatch.setattr(maker, "LEAST_INT8_SHARE", 1.0)
    monkeypatch.setattr(search, "drop_points", lambda before, after: 2.5)
    arguments = ["--imgsz", "128", "--calib-method", "minmax", "--data", str(data), "--no-check"]
    outcome = cli("export", "--int8", *arguments, "--out", str(tmp_path / "out"))
    assert_one_error(outcome, "loses 2.50 points", "1 allowed", "--max-drop", "--data")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["demo-128.calibration.json"]
