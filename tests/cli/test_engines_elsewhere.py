"""Engines in predict, bench, val and doctor, on a machine that has no GPU for them."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.commands import Command, Outcome, assert_one_error, run_process
from tests.engine.plans import gpu, left_in, manifest_for, tensorrt_plan, ultralytics, write_pair
from trt_yolo.build.engine_from_onnx import engine_from_onnx
from trt_yolo.demo.scenes import scene, write_yolo_dataset
from trt_yolo.engine import compatibility
from trt_yolo.engine.plan import manifest_path
from trt_yolo.media.images import write_jpeg

pytest.importorskip("onnxruntime")

NO_GPU = "no NVIDIA GPU answers here"


@pytest.fixture(autouse=True)
def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.hardware.gpus._driver", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")


@pytest.fixture(scope="module")
def _files(tmp_path_factory: pytest.TempPathFactory, demo_onnx: Path) -> Path:
    """Engines, one of them sound, and an image."""
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    folder = tmp_path_factory.mktemp("engines")
    graph = Path(shutil.copy(demo_onnx, folder))
    good = engine_from_onnx(graph).path.rename(folder / "good.engine")
    manifest_path(folder / "demo-rtx.engine").rename(manifest_path(good))
    plan = good.read_bytes()
    shutil.copy(manifest_path(good), manifest_path(folder / "cut.engine"))
    (folder / "cut.engine").write_bytes(plan[: len(plan) // 2])
    shutil.copy(manifest_path(good), manifest_path(folder / "changed.engine"))
    (folder / "changed.engine").write_bytes(plan[:-1] + bytes([plan[-1] ^ 1]))
    (folder / "nobodys.engine").write_bytes(plan)
    (folder / "ultralytics.engine").write_bytes(ultralytics(plan))
    shutil.copy(demo_onnx, folder / "graph.engine")
    (folder / "garbage.engine").write_bytes(b"this is no engine\n" * 99)
    (folder / "empty.engine").touch()
    (folder / "folder.engine").mkdir()
    (folder / "stub.engine").write_bytes(plan[:20])
    (folder / "link.engine").symlink_to(folder / "gone")
    write_pair(folder / "orin.plan", tensorrt_plan(), manifest_for(tensorrt_plan(), device="Orin"))
    shutil.copy(manifest_path(good), manifest_path(folder / "manifest.engine"))
    (folder / "manifest.engine").write_bytes(plan)
    manifest_path(folder / "manifest.engine").write_text("{no json")
    write_jpeg(folder / "image.jpg", scene(0).image_bgr)
    write_yolo_dataset(folder / "data", train=0, val=4)
    return folder


@pytest.fixture
def files(_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as working folder, so that names are short."""
    monkeypatch.chdir(_files)
    return _files


_NOT_HERE = [
    ("good.engine", ["good.engine does not load here", NO_GPU, "demo.onnx runs on the CPU", "trt-yolo doctor",
                     "trt-yolo export demo.onnx --format engine"]),
    ("nobodys.engine", ["nobodys.engine does not load here", NO_GPU, "MODEL.onnx --format engine"]),
    ("ultralytics.engine", ["ultralytics.engine does not load here", NO_GPU]),
    (
        "orin.plan",
        ["orin.plan does not load here", "built with tensorrt 10.13.0.35", "here is tensorrt-", "pip install"],
    ),
    ("cut.engine", ["cut.engine is damaged or was replaced", "bytes", "copy it again"]),
    ("changed.engine", ["changed.engine is damaged or was replaced", "copy it again"]),
    ("manifest.engine", ["manifest.engine.json has a damaged manifest"]),
    ("graph.engine", ["graph.engine is no TensorRT engine", "ONNX graph"]),
    ("garbage.engine", ["garbage.engine is no TensorRT engine", "again"]),
    ("empty.engine", ["empty.engine is no TensorRT engine", "empty"]),
    ("stub.engine", ["stub.engine is cut short", "again"]),
    ("folder.engine", ["folder.engine is a folder", "give an .engine"]),
    ("missing.engine", ["no such file: missing.engine", "give an .engine"]),
    ("x" * 300 + ".engine", ["x" * 300]),
]  # fmt: skip


@pytest.mark.parametrize("rebuild", [[], ["--rebuild"]], ids=["", "rebuild"])
@pytest.mark.parametrize(("name", "parts"), _NOT_HERE, ids=[row[0][:20] for row in _NOT_HERE])
def test_predict(name: str, parts: list[str], rebuild: list[str], files: Path, cli: Command) -> None:
    """Without a GPU nothing is built anew either: what would be built would not load."""
    before = {path: path.stat().st_mtime_ns for path in files.iterdir() if path.exists()}
    assert_one_error(cli("predict", name, "image.jpg", *rebuild), *parts)
    assert {path: path.stat().st_mtime_ns for path in files.iterdir() if path.exists()} == before


def test_predict_in_a_process_of_its_own(files: Path) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "-1"}
    outcome = run_process("predict", "good.engine", "image.jpg", "--workers", "2", env=env, cwd=files)
    assert_one_error(outcome, "good.engine does not load here", NO_GPU)


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.usefixtures("files")
def test_predict_where_it_would_load_but_for_a_cuda_binding(
    workers: str, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    """A GPU is made up in this process; a worker looks for itself, and finds none."""
    monkeypatch.setattr(compatibility, "devices", lambda: [gpu()])
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    outcome = cli("predict", "good.engine", "image.jpg", "--workers", workers)
    assert_one_error(outcome, "pip install 'trt-yolo[gpu]'" if workers == "0" else NO_GPU)


_MEASURED: list[tuple[str, list[str]]] = [
    ("good.engine", ["good.engine does not load here", NO_GPU]),
    ("orin.plan", ["orin.plan does not load here"]),
    ("garbage.engine", ["garbage.engine is no TensorRT engine"]),
    ("missing.engine", ["no such file: missing.engine"]),
]


@pytest.mark.parametrize(("name", "parts"), _MEASURED, ids=[row[0] for row in _MEASURED])
@pytest.mark.parametrize("against", [False, True], ids=["alone", "against"])
@pytest.mark.usefixtures("files")
def test_bench(against: bool, name: str, parts: list[str], cli: Command) -> None:
    arguments = ["demo.onnx", name] if against else [name]
    assert_one_error(cli("bench", *arguments, "--seconds", "0.1"), *parts)


@pytest.mark.parametrize("name", [row[0] for row in _MEASURED])
@pytest.mark.parametrize(
    "arguments",
    [
        lambda name: ["val", name, "--data", "data/data.yaml"],
        lambda name: ["val", "demo.onnx", name, "--data", "data/data.yaml"],
    ],
    ids=["val", "second"],
)
@pytest.mark.usefixtures("files")
def test_val_takes_none(arguments: Callable[[str], list[str]], name: str, cli: Command) -> None:
    assert_one_error(cli(*arguments(name)), f"{name} is a TensorRT engine", "give the .onnx")


@pytest.mark.usefixtures("files")
def test_the_runtime_is_measured_on_a_cpu(cli: Command) -> None:
    outcome = cli("bench", "good.engine", "--runtime", "--seconds", "1")
    assert_one_error(
        outcome, "--runtime divides the cores", "good.engine is an engine", "leave --runtime out"
    )


# doctor


def _rows(outcome: Outcome) -> dict[str, list[str]]:
    """The table of engines: what it was built with, and whether it loads, by name."""
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    lines = outcome.out[outcome.out.index("engines in ") :].splitlines()
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    return {name: rest for name, *rest in cells}


def test_doctor_looks_at_every_engine(files: Path, cli: Command) -> None:
    rows = _rows(cli("doctor", "--engines", "."))
    engines = {path.name for path in files.iterdir() if path.suffix in (".engine", ".plan")}
    assert set(rows) == engines
    built, loads = rows["good.engine"]
    assert built.startswith("tensorrt-rtx 1.")
    assert loads.startswith(f"no: {NO_GPU}")
    assert rows["ultralytics.engine"][0] == built
    assert rows["orin.plan"][0] == "tensorrt 10.13.0.35"
    for name, parts in _NOT_HERE[3:12]:
        assert rows[name][1].startswith("no: "), name
        assert all(part in rows[name][1] for part in parts[1:2]), name


def test_doctor_in_a_process_of_its_own(files: Path) -> None:
    env = {"CUDA_VISIBLE_DEVICES": "-1", "COLUMNS": "300"}
    rows = _rows(run_process("doctor", "--engines", str(files), env=env))
    assert rows["good.engine"][1].startswith(f"no: {NO_GPU}")


def test_doctor_looks_into_engines(files: Path, tmp_path: Path, cli: Command) -> None:
    """The folder that export writes to."""
    (files / "engines").mkdir(exist_ok=True)
    shutil.copy(files / "nobodys.engine", files / "engines" / "mine.engine")
    assert set(_rows(cli("doctor"))) == {"mine.engine"}


@pytest.mark.parametrize("folder", ["missing", "image.jpg", "data", "/proc/1/nope", "x" * 300, ""])
@pytest.mark.usefixtures("files")
def test_doctor_without_engines(folder: str, cli: Command) -> None:
    outcome = cli("doctor", "--engines", folder)
    assert (outcome.code, outcome.err) == (0, ""), outcome.err
    assert "core: ready" in outcome.out


def test_doctor_says_what_loads(files: Path, monkeypatch: pytest.MonkeyPatch, cli: Command) -> None:
    """With a GPU that is made up."""
    monkeypatch.setattr(compatibility, "devices", lambda: [gpu("12.0", "NVIDIA [bold]RTX[/bold] 5090")])
    outcome = cli("doctor", "--engines", ".")
    assert _rows(outcome)["good.engine"][1] == "yes"
    assert _rows(outcome)["nobodys.engine"][1] == "yes"
    assert "GPU 0: NVIDIA [bold]RTX[/bold] 5090, compute capability 12.0, 24.0 GiB" in outcome.out


def test_doctor_gives_a_terminal_nothing_to_obey(tmp_path: Path, cli: Command) -> None:
    """Neither a file's name nor what lies in a manifest."""
    engine = tmp_path / "a\x1b[31m[bold].engine"
    plan = tensorrt_plan()
    write_pair(engine, plan, manifest_for(plan, platform="\x1b]0;title\x07", builder="tensorrt\x1b[2J"))
    outcome = cli("doctor", "--engines", str(tmp_path))
    assert (outcome.code, outcome.err) == (0, "")
    assert "[bold].engine" in outcome.out
    assert not {"\x1b", "\x07"} & set(outcome.out)


def test_nothing_is_written_by_looking(files: Path, tmp_path: Path, cli: Command) -> None:
    for name in ("good.engine", "good.engine.json", "cut.engine", "cut.engine.json"):
        shutil.copy(files / name, tmp_path)
    before = left_in(tmp_path)
    cli("doctor", "--engines", str(tmp_path))
    cli("predict", str(tmp_path / "good.engine"), "image.jpg")
    cli("inspect", str(tmp_path / "good.engine"), "--json")
    assert {path.name for path in tmp_path.iterdir()} == before


def test_inspect_names_what_predict_names(files: Path, cli: Command) -> None:
    report = json.loads(cli("inspect", "good.engine", "--json").out.splitlines()[-1])
    assert report["loads_here"] is False
    assert report["why_not"] in cli("predict", "good.engine", "image.jpg").err
