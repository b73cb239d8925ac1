"""`trt-yolo val`: the table, the JSON, the differences, and what bad input is answered with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tests.cli.commands import Command, assert_one_error, run_process
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.demo.scenes import write_yolo_dataset

IMAGES = 6
DIGITS = [str(digit) for digit in range(10)]


@pytest.fixture(scope="module")
def _written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    write_yolo_dataset(folder, train=2, val=IMAGES)
    return folder


@pytest.fixture
def scenes(_written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A labelled data set of demo scenes with its data.yaml, as working folder: a copy to spoil."""
    folder = tmp_path / "scenes"
    shutil.copytree(_written, folder)
    _data(folder, path=".", val="images/val", names=DIGITS)
    monkeypatch.chdir(folder)
    return folder


def _data(folder: Path, **entries: object) -> None:
    (folder / "data.yaml").write_text(yaml.safe_dump(entries))


def test_table_and_json(scenes: Path, demo_onnx: Path, cli: Command) -> None:
    outcome = cli("val", str(demo_onnx), "--data", "data.yaml", "--threads", "1", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    *table, line = outcome.out.splitlines()
    answer = json.loads(line)
    assert list(answer) == ["data", "split", "images", "instances", "models"]
    assert (answer["data"], answer["split"], answer["images"]) == ("data.yaml", "val", IMAGES)
    labels = (scenes / "labels" / "val").glob("*.txt")
    assert answer["instances"] == sum(len(path.read_text().splitlines()) for path in labels)
    (model,) = answer["models"]
    assert set(model) == {"path", "precision", "map50_95", "map50"}
    assert (model["path"], model["precision"]) == (str(demo_onnx), "fp32")
    assert 0.8 < model["map50_95"] < model["map50"] <= 1
    text = "\n".join(table)
    assert f"{model['map50_95']:.4f}" in text
    assert f"{model['map50']:.4f}" in text
    assert "points" not in text, "one model has no differences"


def test_several_models_are_compared_with_the_first(scenes: Path, demo_onnx: Path, cli: Command) -> None:
    shutil.copy(demo_onnx, scenes / "demo.onnx")
    models = [str(demo_checkpoint()), "demo.onnx"]
    outcome = cli("val", *models, "--data", "data.yaml", "--threads", "1", "--json", "--imgsz", "256")
    assert (outcome.code, outcome.err) == (0, "")
    *table, line = outcome.out.splitlines()
    first, second = json.loads(line)["models"]
    assert [first["path"], second["path"]] == models
    (row,) = [row for row in table if "demo.onnx" in row]
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[-2:] == [f"{100 * (second[key] - first[key]):+.2f}" for key in ("map50_95", "map50")]
    assert cells[3:5] == [f"{second[key]:.4f}" for key in ("map50_95", "map50")]
    assert cells[2] == f"{demo_onnx.stat().st_size / 1e6:.1f}"


def test_a_worse_model_shows_by_how_much(scenes: Path, demo_onnx: Path, cli: Command) -> None:
    outcome = cli(
        "val", str(demo_checkpoint()), str(demo_checkpoint()), "--data", "data.yaml", "--imgsz", "128"
    )
    (row, same) = [row for row in outcome.out.splitlines() if "demo.pt" in row]
    assert same.count("+0.00") == 2
    assert "+0.00" not in row


def test_per_class(scenes: Path, demo_onnx: Path, cli: Command) -> None:
    outcome = cli("val", str(demo_onnx), "--data", "data.yaml", "--threads", "1", "--json", "--per-class")
    *table, line = outcome.out.splitlines()
    answer = json.loads(line)
    (model,) = answer["models"]
    classes = model["per_class"]
    assert sum(one["instances"] for one in classes) == answer["instances"]
    assert [one["name"] for one in classes] == [str(one["class_id"]) for one in classes]
    assert model["map50"] == pytest.approx(sum(one["map50"] for one in classes) / len(classes), abs=1e-5)
    assert sum("objects" in row for row in table) == 3, "the title, the title and the head of the classes"


def test_another_split(scenes: Path, demo_onnx: Path, cli: Command) -> None:
    _data(scenes, test="images/train", names=DIGITS)
    outcome = cli("val", str(demo_onnx), "--data", "data.yaml", "--split", "test", "--json")
    answer = json.loads(outcome.out.splitlines()[-1])
    assert (outcome.code, answer["split"], answer["images"]) == (0, "test", 2)


def test_images_that_cannot_be_read_are_reported_once(scenes: Path, demo_onnx: Path, cli: Command) -> None:
    (scenes / "images" / "val" / "00002.jpg").write_text("no image")
    outcome = cli("val", str(demo_onnx), str(demo_onnx), "--data", "data.yaml", "--json")
    assert outcome.code == 1
    first, last = outcome.err.splitlines()
    assert first.startswith("warning: ")
    assert "00002.jpg is no image" in first
    assert last == f"warning: 1 of {IMAGES} images could not be read"
    assert json.loads(outcome.out.splitlines()[-1])["images"] == IMAGES - 1


def test_no_image_that_can_be_read(scenes: Path, demo_onnx: Path, cli: Command) -> None:
    for path in (scenes / "images" / "val").iterdir():
        path.write_text("no image")
    outcome = cli("val", str(demo_onnx), "--data", "data.yaml")
    *warnings, error = outcome.err.splitlines()
    assert (outcome.code, outcome.out, len(warnings)) == (1, "", IMAGES)
    assert error.startswith("error: there is no image to measure accuracy with")


def _without_labels(folder: Path) -> None:
    shutil.rmtree(folder / "labels" / "val")


def _with_empty_labels(folder: Path) -> None:
    for path in (folder / "labels" / "val").iterdir():
        path.write_text("")


def _with_a_label_outside(folder: Path) -> None:
    (folder / "labels" / "val" / "00003.txt").write_text("1 0.5 0.5 0.1 0.1\n10 0.5 0.5 0.1 0.1\n")


def _without_images(folder: Path) -> None:
    shutil.rmtree(folder / "images" / "val")
    (folder / "images" / "val").mkdir()


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (_without_labels, ["none of the 6 images has labels", "labels/val/00000.txt", "put"]),
        (_with_empty_labels, ["have no object", "give"]),
        (_with_a_label_outside, ["00003.txt, line 2", "no class 10", "0 to 9"]),
        (_without_images, ["data.yaml holds no images", ".jpg"]),
        (lambda folder: _data(folder, val="gone", names=DIGITS), ["gone", "no such file or folder"]),
        (lambda folder: _data(folder, train="images/train", names=DIGITS), ["no split val", "--split"]),
        (lambda folder: _data(folder, val="images/val", names=DIGITS, nc=9), ["nc: 9", "10 names"]),
        (lambda folder: _data(folder, val="images/val", names=DIGITS[:9]), ["10 classes", "has 9", "give"]),
        (lambda folder: (folder / "data.yaml").write_text("names: [a"), ["data.yaml is no YAML", "give"]),
        (lambda folder: (folder / "data.yaml").unlink(), ["no such file: data.yaml", "give"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_spoilt_data_set(
    spoil: object, parts: list[str], scenes: Path, demo_onnx: Path, cli: Command
) -> None:
    assert callable(spoil)
    spoil(scenes)
    assert_one_error(cli("val", str(demo_onnx), "--data", "data.yaml", "--threads", "1"), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["gone.onnx"], ["no such file: gone.onnx", "give"]),
        (["gone.pt"], ["no such file: gone.pt", "give"]),
        (["model.engine"], ["model.engine is a TensorRT engine", "cannot look behind", ".onnx"]),
        (["model.plan"], ["model.plan is a TensorRT engine"]),
        (["data.yaml"], ["data.yaml is no .pt or .onnx file", "give"]),
        (["images"], ["images is no .pt or .onnx file"]),
        (["text.onnx"], ["text.onnx", "cannot load", "again"]),
        (["text.pt"], ["text.pt is damaged", "again"]),
        (["yolov8n-seg"], ["another task (seg)"]),
        (["demo.onnx", "text.onnx"], ["text.onnx", "cannot load"]),
        (["demo.onnx", "--split", "all"], ["--split 'all'", "train, val or test"]),
        (["demo.onnx", "--imgsz", "100"], ["--imgsz '100'", "multiples of 32"]),
        (["demo.onnx", "--imgsz", "320"], ["fixed at 256x256", "asked for 320x320", "--imgsz"]),
        (["demo.onnx", "--threads", "0"], ["threads", "at least 1"]),
        (["demo.onnx", "--data", "images"], ["images is a folder", "give"]),
        (["demo.onnx", "--data", "gone.yaml"], ["no such file: gone.yaml", "give"]),
        ([], ["'models'", "--help"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)  # fmt: skip
def test_bad_arguments(
    arguments: list[str], parts: list[str], scenes: Path, demo_onnx: Path, cli: Command
) -> None:
    shutil.copy(demo_onnx, "demo.onnx")
    for name in ("text.onnx", "text.pt"):
        Path(name).write_text("this is no model\n" * 40)
    given = [] if "--data" in arguments else ["--data", "data.yaml"]
    assert_one_error(cli("val", *arguments, *given), *parts)


def test_the_data_file_must_be_named(demo_onnx: Path, cli: Command) -> None:
    assert_one_error(cli("val", str(demo_onnx)), "--data", "--help")


def test_without_the_evaluator_in_a_process_of_its_own(scenes: Path, demo_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "faster_coco_eval.py").write_text("raise ModuleNotFoundError(name='faster_coco_eval')\n")
    outcome = run_process(
        "val", str(demo_onnx), "--data", "data.yaml", env={"PYTHONPATH": str(tmp_path)}, cwd=scenes
    )
    assert_one_error(outcome, "computing mAP needs faster-coco-eval", "pip install 'trt-yolo[cpu]'")
