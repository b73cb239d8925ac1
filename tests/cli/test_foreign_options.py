"""What people type out of habit from Ultralytics and trtexec: each gets the equivalent, in one line."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import typer
import yaml

from tests.cli.commands import Command, assert_one_error
from trt_yolo.cli.foreign_options import FIRST_WORDS, TABLES, equivalents
from trt_yolo.cli.main import app, options_of

_OPTIONS = options_of(typer.main.get_command(app))
_LINES = [
    ("export imgsz=640", "imgsz=640 is Ultralytics' syntax; instead: --imgsz 640"),
    ("export yolov8n.pt --half", "--half is Ultralytics' syntax; instead: --fp16"),
    ("export --dynamic", "--dynamic is Ultralytics' syntax; instead: --batch 1:16"),
    ("export --device 0", "--device is Ultralytics' syntax; instead: leave it out"),
    ("export format=engine", "instead: --format engine"),
    ("export quantize=8", "instead: --int8 for 8, --fp16 for 16"),
    ("export int8=True", "instead: --int8"),
    ("export int8=False", "instead: leave it out"),
    ("export imgsz=[384,640]", "instead: --imgsz 384x640"),
    ("export workspace=4", "instead: --workspace 4G"),
    ("export a.pt opset=17 batch=8", "instead: opset=17 -> --opset 17; batch=8 -> --batch 8"),
    ("export --simplify", "instead: leave it out"),
    ("export a.pt project=runs name=x", "project=runs -> --out FOLDER"),
    ("predict a.onnx b.jpg --device 0", "--device is Ultralytics' syntax; instead: --devices 0"),
    ("predict --source x", "--source is Ultralytics' syntax; instead: just x"),
    (
        "predict model=yolov8n.pt source=a.jpg conf=0.3",
        "this is Ultralytics' syntax; instead: model=yolov8n.pt -> just yolov8n.pt; source=a.jpg -> just a.jpg; "
        "conf=0.3 -> --conf 0.3",
    ),
    ("predict a.onnx b.jpg save=True", "instead: --save FOLDER"),
    ("predict a.onnx b.jpg --save_txt", "instead: --json"),
    ("predict a.onnx b.jpg --max_det 3", "--max_det is Ultralytics' syntax; instead: --max-det 3"),
    ("predict a.onnx b.jpg --imgsz 320", "instead: a model made with trt-yolo export --imgsz 320"),
    ("predict a.onnx b.jpg --opset=17", "--opset is another command's option; instead: trt-yolo export --opset 17"),
    ("val model=yolov8n.pt data=coco.yaml", "model=yolov8n.pt -> just yolov8n.pt; data=coco.yaml -> --data coco.yaml"),
    ("bench --half", "instead: a model made with trt-yolo export --fp16"),
    ("inspect model=yolov8n.pt", "instead: just yolov8n.pt"),
    ("yolo detect predict model=a.pt source=b", "detect -> leave it out; model=a.pt -> just a.pt"),
    ("mode=export model=a.pt format=engine", "mode=export -> trt-yolo export; model=a.pt -> just a.pt; format=engine"),
    ("task=detect mode=val data=a.yaml", "mode=val -> trt-yolo val; task=detect -> leave it out, all models are"),
    ("benchmark model=a.pt", "benchmark -> trt-yolo bench; model=a.pt -> just a.pt"),
    ("train", "train is Ultralytics' syntax; instead: train with Ultralytics, then trt-yolo export best.pt"),
    ("--half", "--half is Ultralytics' syntax; instead: trt-yolo export --fp16"),
    (
        "--onnx=a.onnx --saveEngine=a.engine --fp16",
        "this is trtexec's syntax; instead: --onnx -> trt-yolo export a.onnx; --saveEngine -> trt-yolo export "
        "--format engine --out FOLDER; --fp16 -> trt-yolo export --fp16",
    ),
    ("export --minShapes=images:1x3x640x640", "is trtexec's syntax; instead: --batch 1:16 --imgsz 640"),
    ("export --memPoolSize=workspace:4096", "is trtexec's syntax; instead: --workspace 2G"),
    ("bench --loadEngine=a.engine", "is trtexec's syntax; instead: just a.engine"),
    ("export --weights a.pt", "instead: just a.pt"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "part"), _LINES, ids=[line for line, _ in _LINES])
def test_habits_get_the_equivalent(line: str, part: str, cli: Command) -> None:
    assert_one_error(cli(*line.split()), part)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("export --letterbx gpu", "--letterbox"),
        ("export --nonsense", "No such option: --nonsense"),
        ("export --imgsz", "Option '--imgsz' requires an argument"),
        ("inspect lr=0.1", "no such file: lr=0.1"),
        ("nonsense imgsz", "No such command 'nonsense'"),
    ],
)
def test_other_mistakes_are_told_as_they_are(line: str, part: str, cli: Command) -> None:
    assert_one_error(cli(*line.split()), part)


def test_a_file_of_such_a_name_is_a_file(
    demo_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(demo_onnx, "imgsz=640")
    outcome = cli("inspect", "imgsz=640", "--html", "batch=8")
    assert (outcome.code, outcome.err) == (0, "")
    assert Path("batch=8").is_file()
    assert not equivalents("predict", ["imgsz=*"], _OPTIONS)


@pytest.mark.parametrize("tool", TABLES)
def test_every_option_that_is_named_exists(tool: str) -> None:
    for name, texts in TABLES[tool].items():
        for commands, text in texts.items():
            assert set(commands.split()) <= {*_OPTIONS, "*"}, name
            for command in commands.split():
                _assert_exists(text, command, name)


def _assert_exists(text: str, command: str, name: str) -> None:
    """Options belong to the command before them: the one that was typed, or that of `trt-yolo COMMAND`."""
    own, *others = re.split(r"trt-yolo ([a-z]+)", text)
    for one, part in [(command, own), *zip(others[::2], others[1::2], strict=True)]:
        for option in re.findall(r"--[a-z0-9-]+", part):
            assert option in _OPTIONS.get(one, {}), f"{name}: {one} has no {option}"


def test_every_first_word_leads_to_a_command() -> None:
    for word, text in FIRST_WORDS.items():
        assert set(re.findall(r"trt-yolo ([a-z]+)", text)) <= set(_OPTIONS), word
        assert word not in _OPTIONS


def test_every_argument_of_ultralytics_is_known() -> None:
    """Of its sections for val, predict and export; what only training takes is not ours."""
    package = importlib.util.find_spec("ultralytics")
    if package is None or package.origin is None:
        pytest.skip("Ultralytics is not installed")
    text = (Path(package.origin).parent / "cfg" / "default.yaml").read_text()
    start, end = text.index("# Val/Test settings"), text.index("# Hyperparameters")
    names = [*yaml.safe_load(text[start:end]), "model", "data", "imgsz", "batch", "device", "half", "int8"]
    unknown = [name for name in names if not equivalents("predict", [f"{name}=1"], _OPTIONS)]
    assert len(names) > 30
    assert unknown == ["val"]  # of training too
