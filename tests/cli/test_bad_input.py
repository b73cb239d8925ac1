"""Every bad input ends in exit code 1 and one line that says what was given and what to do."""

from __future__ import annotations

import json
import os
import pickle
import resource
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.cli.commands import TIMEOUT_S, Command, Outcome, assert_one_error, run_process
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.demo.scenes import scene


class _Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch pwned",)


@pytest.fixture(scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory, demo_onnx: Path) -> Path:
    """A folder of everything that somebody might give by mistake, or on purpose."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "folder.pt").mkdir()
    (folder / "folder.onnx").mkdir()
    (folder / "good").mkdir()
    for name in ("empty.pt", "empty.onnx", "empty.jpg"):
        (folder / name).touch()
    for name in ("text.pt", "text.onnx", "text.jpg", "text.txt"):
        (folder / name).write_text("this is no model and no image\n" * 40)
    demo = demo_checkpoint().read_bytes()
    (folder / "cut.pt").write_bytes(demo[: len(demo) // 2])
    with zipfile.ZipFile(folder / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", pickle.dumps({"model": _Evil()}))
    shutil.copy(demo_onnx, folder / "deploy.onnx")
    deploy = demo_onnx.read_bytes()
    (folder / "cut.onnx").write_bytes(deploy[: len(deploy) // 2])
    (folder / "mixed.onnx").write_bytes(
        deploy[: len(deploy) // 2] + b"\x07" * 999 + deploy[len(deploy) // 2 :]
    )
    for index in range(2):
        cv2.imwrite(str(folder / "good" / f"{index}.jpg"), scene(index).image_bgr)
    jpeg = (folder / "good" / "0.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    cv2.imwrite(str(folder / "wide.png"), np.zeros((2, 70000, 3), np.uint8))
    return folder


@pytest.fixture(scope="module")
def _torch_files(_files: Path) -> None:
    """Checkpoints as torch and Ultralytics save them, of what trt-yolo does not take."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("ultralytics")
    from ultralytics.nn.tasks import ClassificationModel

    model = ClassificationModel("yolov8n-cls.yaml", nc=3, verbose=False).half()
    model.args = {"task": "classify", "imgsz": 224}
    torch.save({"epoch": -1, "model": model, "ema": None, "train_args": model.args}, _files / "classify.pt")
    torch.save(model.state_dict(), _files / "weights.pt")
    torch.save({"model": model.state_dict()}, _files / "wrapped.pt")
    torch.save(torch.ones(3), _files / "tensor.pt")
    torch.save(model, _files / "old.pt", _use_new_zipfile_serialization=False)


@pytest.fixture
def files(_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder, as working folder, so that names in tables and messages are short."""
    monkeypatch.chdir(_files)
    return _files


def _contents(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def _assert_export_fails(
    cli: Command, files: Path, out: Path, arguments: list[str], parts: list[str]
) -> None:
    before = _contents(files)
    assert_one_error(cli("export", *arguments, "--out", str(out)), *parts)
    assert not out.exists() or not any(out.iterdir()), "nothing is left half-written"
    assert _contents(files) == before


_EXPORTS = [
    (["missing.pt"], ["no such file: missing.pt", "give the path"]),
    (["missing"], ["no such file: missing", "yolov8n"]),
    (["missing.onnx"], ["missing.onnx", "give"]),
    ([""], ["give the path"]),
    (["x" * 300], ["x" * 300, "give"]),
    (["x" * 300 + ".pt"], ["x" * 300, "give"]),
    (["folder.pt"], ["folder.pt is a folder", "give"]),
    (["folder.onnx"], ["folder.onnx is a folder", "give"]),
    (["good"], ["good is a folder", "give"]),
    (["empty.pt"], ["empty.pt is empty", "again"]),
    (["empty.onnx"], ["empty.onnx is empty", "again"]),
    (["text.pt"], ["text.pt is damaged", "again"]),
    (["text.onnx"], ["text.onnx is damaged", "again"]),
    (["text.txt"], ["text.txt is no .pt or .onnx file", "give"]),
    (["cut.pt"], ["cut.pt is damaged", "again"]),
    (["cut.onnx"], ["cut.onnx is damaged", "again"]),
    (["mixed.onnx"], ["mixed.onnx is damaged", "again"]),
    (["evil.pt"], ["evil.pt was refused", "posix.system", "source you trust"]),
    (["evil.pt", "--exporter", "native"], ["evil.pt was refused", "posix.system"]),
    (["evil.pt", "--exporter", "ultralytics"], ["evil.pt was refused", "posix.system", "--trust"]),
    (["deploy.onnx"], ["deploy.onnx is a deploy graph already", "give the .pt"]),
    (["yolov8n-seg"], ["yolov8n-seg", "another task (seg)", "yolov8n"]),
    (["--batch", "0"], ["--batch '0'", "such as 8", "1:16"]),
    (["--batch", "4:2"], ["--batch '4:2'", "1:16"]),
    (["--batch", "abc"], ["--batch 'abc'", "1:16"]),
    (["--batch", "-1"], ["--batch '-1'", "1:16"]),
    (["--batch", "1:2:3"], ["--batch '1:2:3'", "1:16"]),
    (["--batch", "99999"], ["--batch '99999'", "1024"]),
    (["--imgsz", "100"], ["--imgsz '100'", "multiples of 32", "96 and 128"]),
    (["--imgsz", "0"], ["--imgsz '0'", "multiples of 32"]),
    (["--imgsz", "630x640"], ["--imgsz '630x640'", "608x640 and 640x640"]),
    (["--imgsz", "abc"], ["--imgsz 'abc'", "384x640"]),
    (["--imgsz", "640x"], ["--imgsz '640x'", "384x640"]),
    (["--imgsz", "99968"], ["--imgsz '99968'", "8192"]),
    (["--opset", "3"], ["--opset 3", "13 to 21"]),
    (["--opset", "22"], ["--opset 22", "13 to 21"]),
    (["--opset", "new"], ["--opset", "integer", "--help"]),
    (["--rows", "0"], ["--rows 0", "512"]),
    (["--rows", "99999"], ["--rows 99999", "3840"]),
    (["--exporter", "foo"], ["--exporter 'foo'", "auto, native, ultralytics"]),
    (["--data", "folder.pt"], ["folder.pt", "no images", ".jpg"]),
    (["--data", "missing"], ["missing", "give images"]),
    (["--data", "*.gif"], ["*.gif", ".jpg"]),
    (["--data", "text.jpg"], ["text.jpg", "give a JPEG"]),
    (["--data", "cut.jpg"], ["cut.jpg is cut short", "again"]),
    (["--nonsense"], ["--nonsense", "--help"]),
    (["cut.pt", "text.pt"], ["text.pt", "--help"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "parts"), _EXPORTS, ids=[" ".join(row[0])[:40] for row in _EXPORTS])
def test_export_of_bad_input(
    arguments: list[str], parts: list[str], files: Path, tmp_path: Path, cli: Command
) -> None:
    _assert_export_fails(cli, files, tmp_path / "out", arguments, parts)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("classify.pt", ["classify.pt is a classification model", "detection models"]),
        ("weights.pt", ["weights.pt holds no YOLO model", "state_dict", "best.pt"]),
        ("wrapped.pt", ["wrapped.pt holds no YOLO model", "state_dict", "best.pt"]),
        ("tensor.pt", ["tensor.pt holds no YOLO model", "best.pt"]),
        ("old.pt", ["old.pt is a classification model", "detection models"]),
    ],
)
@pytest.mark.usefixtures("_torch_files")
def test_export_of_other_checkpoints(
    name: str, parts: list[str], files: Path, tmp_path: Path, cli: Command
) -> None:
    _assert_export_fails(cli, files, tmp_path / "out", [name], parts)


def test_export_of_a_segmentation_model(shared: Path, files: Path, tmp_path: Path, cli: Command) -> None:
    model = shared / "weights" / "yolov8n-seg.pt"
    parts = [str(model), "segmentation model", "yolov8n.pt"]
    _assert_export_fails(cli, files, tmp_path / "out", [str(model)], parts)


@pytest.mark.parametrize("out", ["text.pt/deep", "text.pt", "/proc/nope", "/dev/null/x", "x" * 300])
def test_export_where_nothing_can_be_written(out: str, files: Path, cli: Command) -> None:
    before = _contents(files)
    assert_one_error(cli("export", "--out", out), "cannot write", out, "--out")
    assert _contents(files) == before


def _small_files_only() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))


def test_export_to_a_full_disk_keeps_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "demo.onnx").write_text("an earlier artifact")
    outcome = run_process("export", "--no-check", "--out", str(tmp_path), before=_small_files_only)
    assert_one_error(outcome, "cannot write", str(tmp_path), "too large", "--out")
    assert [path.name for path in tmp_path.iterdir()] == ["demo.onnx"]
    assert (tmp_path / "demo.onnx").read_text() == "an earlier artifact"


_PREDICTIONS = [
    (["missing.onnx", "good"], ["no such file: missing.onnx", "give"]),
    (["missing.pt", "good"], ["no such file: missing.pt", "give"]),
    (["x" * 300, "good"], ["x" * 300, "give"]),
    (["folder.onnx", "good"], ["folder.onnx is a folder", "give"]),
    (["empty.onnx", "good"], ["empty.onnx is empty", "again"]),
    (["text.onnx", "good"], ["text.onnx", "again"]),
    (["cut.onnx", "good"], ["cut.onnx", "again"]),
    (["text.txt", "good"], ["text.txt is no .pt or .onnx file", "give"]),
    (["text.pt", "good"], ["text.pt is damaged", "again"]),
    (["evil.pt", "good"], ["evil.pt was refused", "posix.system", "source you trust"]),
    (["model.engine", "good"], ["no such file: model.engine", "give an .engine"]),
    (["deploy.onnx"], ["sources", "--help"]),
    (["deploy.onnx", "missing.jpg"], ["missing.jpg", "give files"]),
    (["deploy.onnx", "good", "missing.jpg"], ["missing.jpg", "give files"]),
    (["deploy.onnx", "x" * 300], ["x" * 300, "give files"]),
    (["deploy.onnx", "folder.pt"], ["folder.pt", "no images", ".jpg"]),
    (["deploy.onnx", "*.gif"], ["*.gif", ".jpg"]),
    (["deploy.onnx", "good", "--conf", "2"], ["conf", "2", "0 to 1"]),
    (["deploy.onnx", "good", "--conf", "-0.1"], ["conf", "-0.1", "0 to 1"]),
    (["deploy.onnx", "good", "--conf", "nan"], ["conf", "nan", "0 to 1"]),
    (["deploy.onnx", "good", "--conf", "high"], ["--conf", "number", "--help"]),
    (["deploy.onnx", "good", "--iou", "1.5"], ["iou", "1.5", "0 to 1"]),
    (["deploy.onnx", "good", "--classes", "99"], ["--classes '99'", "0 to 9"]),
    (["deploy.onnx", "good", "--classes", "cat"], ["--classes 'cat'", "0 to 9"]),
    (["deploy.onnx", "good", "--classes", "0,,1"], ["--classes ''", "0 to 9"]),
    (["deploy.onnx", "good", "--classes", "-1"], ["--classes '-1'", "0 to 9"]),
    (["deploy.onnx", "good", "--classes", "9" * 5000], ["--classes", "0 to 9"]),
    (["deploy.onnx", "good", "--max-det", "0"], ["max_det", "0", "at least 1"]),
    (["deploy.onnx", "good", "--threads", "0"], ["threads", "0", "at least 1"]),
    (["deploy.onnx", "good", "--save", "text.txt/deep"], ["cannot write", "text.txt/deep", "--save"]),
    (["deploy.onnx", "good", "--save", "text.txt"], ["cannot write", "text.txt", "--save"]),
    (["deploy.onnx", "good", "--save", "x" * 300], ["cannot write", "x" * 300, "--save"]),
    (["deploy.onnx", "good", "--nonsense"], ["--nonsense", "--help"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "parts"), _PREDICTIONS, ids=[" ".join(row[0])[:50] for row in _PREDICTIONS]
)
def test_predict_with_bad_input(arguments: list[str], parts: list[str], files: Path, cli: Command) -> None:
    before = _contents(files)
    assert_one_error(cli("predict", *arguments), *parts)
    assert _contents(files) == before


def _warnings(outcome: Outcome) -> list[str]:
    """The lines on stderr, after checking that all of them are warnings."""
    lines = outcome.err.splitlines()
    assert all(line.startswith("warning: ") for line in lines), outcome.err
    return lines


@pytest.mark.parametrize("batch", ["deploy.onnx", "batches.onnx"])
def test_unreadable_images_are_skipped_and_the_others_answered(
    batch: str, files: Path, demo_dynamic_onnx: Path, cli: Command
) -> None:
    shutil.copy(demo_dynamic_onnx, files / "batches.onnx")
    sources = ["good/0.jpg", "cut.jpg", "text.jpg", "good/1.jpg", "empty.jpg"]
    outcome = cli("predict", batch, *sources, "--json")
    assert outcome.code == 1
    assert [json.loads(line)["path"] for line in outcome.out.splitlines()] == ["good/0.jpg", "good/1.jpg"]
    lines = _warnings(outcome)
    assert len(lines) == 4
    for name, line in zip(("cut.jpg", "text.jpg", "empty.jpg", "3 of 5 images"), lines, strict=True):
        assert name in line


_ODD_IMAGES: dict[str, np.ndarray[Any, Any]] = {
    "1x1.png": np.full((1, 1, 3), 200, np.uint8),
    "long.png": np.tile(np.arange(20000, dtype=np.uint8)[None, :, None], (10, 1, 3)),
    "tall.jpg": np.full((20000, 10, 3), 99, np.uint8),
    "16bit.png": scene(0).image_bgr.astype(np.uint16) * 257,
    "grey.jpg": scene(0).image_bgr[..., 0],
    "alpha.png": np.dstack([scene(0).image_bgr, np.full((256, 256), 128, np.uint8)]),
}


@pytest.mark.parametrize("name", _ODD_IMAGES)
def test_odd_images_are_answered(name: str, demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    image = _ODD_IMAGES[name]
    assert cv2.imwrite(str(tmp_path / name), image)
    outcome = cli(
        "predict", str(demo_onnx), str(tmp_path / name), "--json", "--save", str(tmp_path / "drawn")
    )
    assert (outcome.code, outcome.err) == (0, "")
    (line,) = outcome.out.splitlines()
    answer = json.loads(line)
    assert (answer["height"], answer["width"]) == image.shape[:2]
    if min(image.shape[:2]) == 256:
        assert answer["detections"], "the same scene in another format still shows its digits"
    drawn = cv2.imread(str(tmp_path / "drawn" / Path(name).with_suffix(".jpg").name))
    assert drawn is not None
    assert drawn.shape[:2] == image.shape[:2]


def test_an_image_too_large_to_be_drawn_as_jpeg(files: Path, tmp_path: Path, cli: Command) -> None:
    """JPEG ends at 65,500 pixels a side."""
    outcome = cli("predict", "deploy.onnx", "wide.png", "--save", str(tmp_path / "drawn"))
    assert outcome.code == 1
    assert "wide" in outcome.err
    assert all(line.startswith(("error: ", "warning: ")) for line in outcome.err.splitlines())
    assert not any((tmp_path / "drawn").iterdir())


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["missing.onnx"], ["no such file: missing.onnx", "give"]),
        (["cut.onnx"], ["cut.onnx", "again"]),
        (["deploy.onnx", "--seconds", "0"], ["--duration 0", "more than 0"]),
        (["deploy.onnx", "--seconds", "-1"], ["--duration -1", "more than 0"]),
        (["deploy.onnx", "--seconds", "nan"], ["--duration nan", "more than 0"]),
        (["deploy.onnx", "--seconds", "long"], ["--duration", "number", "--help"]),
        (["deploy.onnx", "--batch", "3"], ["batch of 3", "takes 1"]),
        (["deploy.onnx", "--batch", "0"], ["batch of 0", "takes 1"]),
        (["deploy.onnx", "--data", "folder.pt"], ["folder.pt", "no images", ".jpg"]),
        (["deploy.onnx", "--data", "missing"], ["missing", "give images"]),
        (["deploy.onnx", "--threads", "0"], ["threads", "0", "at least 1"]),
        (["deploy.onnx", "--threads", "-2"], ["--threads", "-2", "no list of numbers"]),
        (["deploy.onnx", "--nonsense"], ["--nonsense", "--help"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_bench_with_bad_input(arguments: list[str], parts: list[str], files: Path, cli: Command) -> None:
    assert_one_error(cli("bench", *arguments), *parts)


def test_bench_with_no_readable_image(files: Path, cli: Command) -> None:
    outcome = cli("bench", "deploy.onnx", "--data", "text.jpg")
    warning, error = outcome.err.splitlines()
    assert (outcome.code, outcome.out) == (1, "")
    assert warning.startswith("warning: ")
    assert "text.jpg" in warning
    assert error.startswith("error: no image to measure with")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["expert"], ["No such command 'expert'", "trt-yolo --help"]),
        (["--nonsense"], ["--nonsense", "trt-yolo --help"]),
        (["doctor", "--nonsense"], ["--nonsense", "trt-yolo --help"]),
        (["export", "--imgsz"], ["--imgsz", "trt-yolo --help"]),
        (["doctor", "patient"], ["patient", "trt-yolo --help"]),
    ],
)
def test_commands_that_do_not_exist(arguments: list[str], parts: list[str], cli: Command) -> None:
    assert_one_error(cli(*arguments), *parts)


def test_no_command_at_all_shows_the_help(cli: Command) -> None:
    outcome = cli()
    assert all(command in outcome.out for command in ("export", "predict", "bench", "doctor"))
    assert "error" not in outcome.err


# In processes of their own: what the process around it does to the command


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["export", "missing.pt"], ["no such file: missing.pt"]),
        (["export", "evil.pt"], ["evil.pt was refused", "posix.system"]),
        (["export", "--batch", "0"], ["--batch '0'"]),
        (["predict", "cut.onnx", "good"], ["cut.onnx"]),
    ],
    ids=lambda value: " ".join(value)[:30],
)
def test_the_same_in_a_process_of_its_own(arguments: list[str], parts: list[str], files: Path) -> None:
    before = _contents(files)
    assert_one_error(run_process(*arguments, cwd=files), *parts)
    assert _contents(files) == before


@pytest.mark.parametrize(
    ("command", "error"),
    [("export", "RuntimeError"), ("predict", "ImportError"), ("predict", "AttributeError")],
)
def test_a_broken_onnxruntime_is_one_error(command: str, error: str, files: Path, tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text(f"raise {error}('built against another numpy')\n")
    arguments = ["--out", str(tmp_path / "out")] if command == "export" else ["deploy.onnx", "good"]
    outcome = run_process(command, *arguments, env={"PYTHONPATH": str(tmp_path)}, cwd=files)
    assert_one_error(outcome, "ONNX Runtime", "pip install")
    assert not (tmp_path / "out").exists()


def test_a_reader_that_goes_away_is_no_traceback(files: Path) -> None:
    command = [sys.executable, "-m", "trt_yolo", "predict", "deploy.onnx", *["good"] * 40, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=files) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(TIMEOUT_S) == 1


def test_control_c_ends_a_download_and_leaves_no_file(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(TIMEOUT_S)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-m", "trt_yolo", "export", "yolov8n", "--out", str(tmp_path / "out")],
            env={**os.environ, "TRT_YOLO_CACHE": str(tmp_path), "TRT_YOLO_WEIGHTS_URL": url, "no_proxy": "*"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        connection, _ = server.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + bytes(200_000))
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out, err) == (130, "", "")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
