"""`trt-yolo export --format engine`: what it writes, what it says, what it refuses, and how it is interrupted."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.cli.commands import TIMEOUT_S, Command, Outcome, assert_one_error, run_process
from tests.engine.plans import children_of, left_in
from tests.precision import graphs
from tests.runtime.models import is_running, wait_until
from trt_yolo.artifacts.manifest import METADATA_KEY, manifest_from_json
from trt_yolo.build.engine_from_onnx import engine_from_onnx
from trt_yolo.demo.scenes import write_yolo_dataset
from trt_yolo.engine.compatibility import engine_at
from trt_yolo.engine.plan import plan_file

pytest.importorskip("onnxruntime")
pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")


@pytest.fixture(autouse=True)
def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever the tests run, TensorRT for RTX builds, and nothing runs what it built."""
    monkeypatch.setattr("trt_yolo.hardware.gpus._driver", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")


def _report(outcome: Outcome) -> dict[str, Any]:
    assert outcome.code == 0, outcome.err
    report: dict[str, Any] = json.loads(outcome.out.splitlines()[-1])
    return report


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _contents(folder: Path) -> dict[str, str]:
    """The files of a folder and below."""
    return {str(path.relative_to(folder)): _sha256(path) for path in folder.rglob("*") if path.is_file()}


def _stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def _files_of(stem: str, *, onnx_stem: str | None = None) -> set[str]:
    name = stem if onnx_stem is None else onnx_stem
    return {f"{name}.onnx", f"{name}.onnx.json"} | {
        f"{stem}-rtx.engine{end}" for end in ("", ".json", ".log")
    }


# What is written and said


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    """The folder and the outcome of one export of the demo model in a process of its own."""
    out = tmp_path_factory.mktemp("exported")
    env = {"COLUMNS": "300", "CUDA_VISIBLE_DEVICES": "-1"}
    return out, run_process("export", "--format", "engine", "--out", str(out), "--json", env=env)


def test_the_demo_model(exported: tuple[Path, Outcome]) -> None:
    out, outcome = exported
    assert outcome.err == ""
    report = _report(outcome)
    assert set(report) == {"artifacts", "parity", "accuracy", "engine"}
    engine = out / "demo-rtx.engine"
    assert report["artifacts"] == [
        {"path": str(path), "format": name, "precision": "fp32", "bytes": path.stat().st_size}
        for path, name in ((out / "demo.onnx", "onnx"), (engine, "engine"))
    ]
    assert report["parity"]["holds"] is True
    assert left_in(out) == _files_of("demo")
    assert plan_file(engine).family == "tensorrt-rtx"


def test_the_json_says_what_the_engine_is(exported: tuple[Path, Outcome]) -> None:
    out, outcome = exported
    found = _report(outcome)["engine"]
    engine = out / "demo-rtx.engine"
    beside = json.loads((out / "demo-rtx.engine.json").read_text())
    more = {"log", "warnings", "build_seconds", "peak_bytes", "self_test"}
    assert {name: value for name, value in found.items() if name not in more} == beside["engine"]
    assert found["builder"] == "tensorrt-rtx"
    assert found["builder_version"] == plan_file(engine).version_text
    assert (found["compute_capabilities"], found["device"], found["cuda"]) == (["8.0+"], "", "")
    assert (found["profile"], found["options"]) == ([1, 1, 1], {"builder": "tensorrt-rtx"})
    assert (found["onnx"], found["onnx_sha256"]) == ("demo.onnx", _sha256(out / "demo.onnx"))
    assert (found["plan_bytes"], found["plan_sha256"]) == (engine.stat().st_size, _sha256(engine))
    assert found["log"] == f"{engine}.log"
    assert (found["warnings"], found["self_test"]) == ([], None)


def test_the_manifest_is_the_onnxs_and_the_engines(exported: tuple[Path, Outcome]) -> None:
    out = exported[0]
    of_engine, of_onnx = (
        json.loads((out / name).read_text()) for name in ("demo-rtx.engine.json", "demo.onnx.json")
    )
    assert of_onnx["engine"] is None
    differ = {name for name in of_engine if of_engine[name] != of_onnx[name]}
    assert differ <= {"engine", "created"}


def test_the_table(exported: tuple[Path, Outcome]) -> None:
    out, outcome = exported
    version = plan_file(out / "demo-rtx.engine").version_text
    for part in (
        f"tensorrt-rtx {version}, for compute capability 8.0+", "smallest 1, best 1, largest 1",
        "not run: nothing here runs this engine", f"{out / 'demo.onnx'} (", f"{out / 'demo-rtx.engine'} (",
    ):  # fmt: skip
        assert part in outcome.out, part


def test_without_json_there_is_only_the_table(demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    outcome = cli("export", str(demo_onnx), "--format", "engine", "--out", str(tmp_path))
    assert (outcome.code, outcome.err) == (0, "")
    assert "{" not in outcome.out


def test_an_exported_graph_gets_its_engine_beside_it(demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    graph = tmp_path / "my model.onnx"
    shutil.copy(demo_onnx, graph)
    report = _report(cli("export", str(graph), "--format", "engine", "--json"))
    assert [one["format"] for one in report["artifacts"]] == ["engine"]
    assert (report["parity"], report["accuracy"]) == (None, None)
    assert _sha256(graph) == _sha256(demo_onnx)
    assert left_in(tmp_path) == _files_of("my model") - {"my model.onnx.json"}
    assert engine_at(tmp_path / "my model-rtx.engine").manifest is not None


def test_elsewhere_the_onnx_goes_with_it(demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    """The engine is built anew from it."""
    source, out = tmp_path / "source", tmp_path / "deep" / "out"
    source.mkdir()
    for path in (demo_onnx, demo_onnx.with_name("demo.onnx.json")):
        shutil.copy(path, source)
    before = _contents(source)
    report = _report(
        cli("export", str(source / "demo.onnx"), "--format", "engine", "--out", str(out), "--json")
    )
    assert left_in(out) == _files_of("demo")
    assert _contents(source) == before
    assert {name: value for name, value in _contents(out).items() if name in before} == before
    assert report["engine"]["onnx_sha256"] == before["demo.onnx"]


def test_a_folder_named_in_another_way_is_the_same(
    demo_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    shutil.copy(demo_onnx, tmp_path)
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    assert cli("export", "demo.onnx", "--format", "engine", "--out", "sub/..").code == 0
    assert left_in(tmp_path) == _files_of("demo") - {"demo.onnx.json"} | {"sub"}


def test_a_head_graph(tmp_path: Path, cli: Command) -> None:
    report = _report(cli("export", "--head", "--format", "engine", "--out", str(tmp_path), "--json"))
    assert left_in(tmp_path) == _files_of("demo-head")
    assert report["parity"] is None
    manifest = engine_at(tmp_path / "demo-head-rtx.engine").manifest
    assert manifest is not None
    assert (manifest.graph, manifest.rows) == ("head", 0)


def test_an_exported_head_graph_with_head_is_built_as_it_is(
    demo_head_onnx: Path, tmp_path: Path, cli: Command
) -> None:
    graph = shutil.copy(demo_head_onnx, tmp_path)
    report = _report(cli("export", str(graph), "--head", "--format", "engine", "--json"))
    assert [one["path"] for one in report["artifacts"]] == [str(tmp_path / "demo-head-rtx.engine")]
    assert report["engine"]["onnx"] == "demo-head.onnx"


def test_an_exported_head_graph_without_head_becomes_a_deploy_graph_first(
    demo_head_onnx: Path, tmp_path: Path, cli: Command
) -> None:
    out = tmp_path / "out"
    report = _report(
        cli("export", str(demo_head_onnx), "--format", "engine", "--out", str(out), "--no-check", "--json")
    )
    assert left_in(out) == _files_of("demo")
    assert report["engine"]["onnx"] == "demo.onnx"
    assert json.loads((out / "demo-rtx.engine.json").read_text())["graph"] == "deploy"


def test_a_deploy_graph_has_no_head_to_give(demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    """--head asked for another graph than the one that would be built."""
    outcome = cli("export", str(demo_onnx), "--head", "--format", "engine", "--out", str(tmp_path / "out"))
    assert_one_error(outcome, str(demo_onnx), "--head")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "profile", "stem"),
    [
        pytest.param(["--profile", "1,2,4"], [1, 2, 4], "demo-b1-4", marks=pytest.mark.slow),
        pytest.param(["--batch", "1:4"], [1, 4, 4], "demo-b1-4", marks=pytest.mark.slow),
        (["--batch", "1:4", "--profile", "2,2,3"], [2, 2, 3], "demo-b1-4"),
    ],
    ids=["profile", "dynamic", "both"],
)
def test_batches(arguments: list[str], profile: list[int], stem: str, tmp_path: Path, cli: Command) -> None:
    arguments = [*arguments, "--imgsz", "64", "--no-check", "--out", str(tmp_path), "--json"]
    report = _report(cli("export", "--format", "engine", *arguments))
    assert report["engine"]["profile"] == profile
    (path,) = tmp_path.glob("*.engine")
    assert path.name == f"{stem.replace('demo', 'demo-64')}-rtx.engine"
    batch = json.loads(Path(f"{path}.json").read_text())["batch"]
    assert batch == {"minimum": profile[0], "maximum": profile[2]}, (
        "what this engine takes, not what its ONNX"
    )


@pytest.mark.parametrize(
    ("arguments", "stem", "options"),
    [
        (["--compute-capability", "8.6,8.9"], "demo-rtx-sm86-sm89", {"compute_capability": ["8.6", "8.9"]}),
        (["--builder", "tensorrt-rtx", "--opt-level", "0"], "demo-rtx", {"opt_level": 0}),
        (["--workspace", "512M", "--sparse"], "demo-rtx", {"workspace_bytes": 512 << 20, "sparse": True}),
    ],
    ids=["capability", "level", "workspace"],
)
def test_options_are_remembered(
    arguments: list[str], stem: str, options: dict[str, Any], demo_onnx: Path, tmp_path: Path, cli: Command
) -> None:
    shutil.copy(demo_onnx, tmp_path)
    report = _report(cli("export", str(tmp_path / "demo.onnx"), "--format", "engine", *arguments, "--json"))
    assert report["artifacts"][0]["path"] == str(tmp_path / f"{stem}.engine")
    assert report["engine"]["options"] == {"builder": "tensorrt-rtx", **options}
    assert report["engine"]["compute_capabilities"] == options.get("compute_capability", ["8.0+"])


# Precision


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data.yaml of 20 scenes to calibrate and 16 to judge."""
    return write_yolo_dataset(tmp_path_factory.mktemp("data"), train=20, val=16)


@pytest.mark.parametrize("precision", [pytest.param("fp16", marks=pytest.mark.slow), "int8"])
def test_the_accuracy_goes_into_the_engines_manifest(
    precision: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    graphs.quicken_int8(monkeypatch, "minmax")
    outcome = cli(
        "export", f"--{precision}", "--calib-method", "minmax", "--data", str(data), "--imgsz", "64",
        "--max-drop", "50", "--no-check", "--format", "engine", "--out", str(tmp_path), "--json",
    )  # fmt: skip
    report = _report(outcome)
    assert [one["precision"] for one in report["artifacts"]] == [precision, precision]
    engine = tmp_path / f"demo-64-{precision}-rtx.engine"
    manifest = engine_at(engine).manifest
    assert manifest is not None
    assert (manifest.precision, manifest.target) == (precision, "tensorrt" if precision == "int8" else "")
    accuracy = manifest.accuracy
    assert accuracy is not None
    assert (accuracy.reference, accuracy.images) == ("labels", 16)
    for name in ("map50_95_before", "map50_95_after"):
        assert getattr(accuracy, name) == pytest.approx(report["accuracy"][name], abs=1e-6)
    of_onnx = json.loads((tmp_path / f"demo-64-{precision}.onnx.json").read_text())
    assert of_onnx["accuracy"] == dataclasses.asdict(accuracy)
    shown = cli("inspect", str(engine))
    assert f"{accuracy.map50_95_after:.4f}, {accuracy.map50_95_before:.4f} of the float model" in shown.out


def test_int8_for_a_cpu_is_refused_before_it_is_made(data: Path, tmp_path: Path, cli: Command) -> None:
    """Not after minutes of calibration, and nothing is written."""
    arguments = ["--int8", "--target", "cpu", "--calib-method", "minmax", "--imgsz", "64", "--no-check"]
    outcome = cli(
        "export", *arguments, "--max-drop", "99", "--data", str(data), "--format", "engine",
        "--out", str(tmp_path / "out"),
    )  # fmt: skip
    assert_one_error(outcome, "cpu", "--target")
    assert not (tmp_path / "out").exists()


# A second build


def test_a_second_build_replaces_the_first(demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    graph, log = shutil.copy(demo_onnx, tmp_path), tmp_path / "demo-rtx.engine.log"
    first = engine_from_onnx(Path(graph)).manifest
    short = log.stat().st_size
    report = _report(
        cli("export", str(graph), "--format", "engine", "--opt-level", "0", "--verbose", "--json")
    )
    engine = tmp_path / "demo-rtx.engine"
    assert left_in(tmp_path) == _files_of("demo") - {"demo.onnx.json"}
    assert report["engine"]["options"]["opt_level"] == 0
    assert report["engine"]["plan_sha256"] == _sha256(engine)
    assert engine_at(engine).facts != first.engine
    assert log.stat().st_size > 10 * short, "verbose: the log has everything, the terminal nothing more"


def test_a_build_that_fails_keeps_the_engine(demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    graph = shutil.copy(demo_onnx, tmp_path)
    assert cli("export", str(graph), "--format", "engine").code == 0
    before = _contents(tmp_path)
    assert_one_error(cli("export", str(graph), "--format", "engine", "--strip-weights"), "--strip-weights")
    assert_one_error(cli("export", str(graph), "--format", "engine", "--dla", "0"), "--dla 0")
    assert _contents(tmp_path).items() >= before.items()
    assert not any(name.endswith((".part", ".new")) for name in left_in(tmp_path))


# Bad input


@pytest.fixture(scope="module")
def _files(
    tmp_path_factory: pytest.TempPathFactory,
    demo_onnx: Path,
    demo_dynamic_onnx: Path,
    demo_head_onnx: Path,
) -> Path:
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(demo_onnx, folder / "demo.onnx")
    shutil.copy(demo_dynamic_onnx, folder / "dynamic.onnx")
    shutil.copy(demo_head_onnx, folder / "head.onnx")
    content = demo_onnx.read_bytes()
    (folder / "cut.onnx").write_bytes(content[: len(content) // 2])
    (folder / "mixed.onnx").write_bytes(content[:5000] + b"\x07" * 999 + content[5000:])
    (folder / "empty.onnx").touch()
    (folder / "text.onnx").write_text("this is no model\n" * 40)
    (folder / "folder.onnx").mkdir()
    (folder / "model.engine").write_bytes(b"vtrt" + bytes(100))
    _with_manifest(demo_onnx, folder / "cpu.onnx", precision="int8", target="cpu")
    _with_metadata(demo_onnx, folder / "damaged.onnx", "{no json")
    _with_metadata(demo_onnx, folder / "later.onnx", '{"schema": 99}')
    _with_unknown_operator(demo_onnx, folder / "unknown.onnx")
    return folder


def _with_metadata(source: Path, target: Path, text: str) -> None:
    model = onnx.load(source)
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = text
    onnx.save(model, target)


def _with_manifest(source: Path, path: Path, **changed: Any) -> None:
    text = next(entry.value for entry in onnx.load(source).metadata_props if entry.key == METADATA_KEY)
    manifest = dataclasses.replace(manifest_from_json(text, origin=str(source)), **changed)
    _with_metadata(source, path, manifest.to_json())


def _with_unknown_operator(source: Path, target: Path) -> None:
    model = onnx.load(source)
    next(node for node in model.graph.node if node.op_type == "Conv").op_type = "Convolute"
    onnx.save(model, target)


@pytest.fixture
def files(_files: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder as working folder, so that names are short."""
    monkeypatch.chdir(_files)
    return _files


_BAD = [
    (["demo.onnx", "--format", "plan"], ["--format 'plan'", "onnx or engine"]),
    (["demo.onnx", "--format", "ENGINE"], ["--format 'ENGINE'", "onnx or engine"]),
    (["demo.onnx", "--format", ""], ["--format ''", "onnx or engine"]),
    (["--profile", "1,2,4"], ["--profile 1,2,4", "--format engine"]),
    (["--workspace", "2G"], ["--workspace", "--format engine"]),
    (["--opt-level", "0"], ["--opt-level 0", "--format engine"]),
    (["--builder", "tensorrt"], ["--builder tensorrt", "--format engine"]),
    (["--hardware-compat", "ampere+"], ["--hardware-compat ampere+", "--format engine"]),
    (["--version-compatible"], ["--version-compatible", "--format engine"]),
    (["--compute-capability", "8.9"], ["--compute-capability 8.9", "--format engine"]),
    (["--strip-weights"], ["--strip-weights", "--format engine"]),
    (["--sparse"], ["--sparse", "--format engine"]),
    (["--dla", "0"], ["--dla 0", "--format engine"]),
    (["--timing-cache", "cache"], ["--timing-cache cache", "--format engine"]),
    (["--timing-cache", "cache", "--format", "onnx"], ["--timing-cache cache", "--format engine"]),
]  # fmt: skip

_BAD_ENGINES = [
    (["demo.onnx", "--dla", "0"], ["--dla 0", "tensorrt-rtx", "knows no DLA", "--builder tensorrt"]),
    (["demo.onnx", "--dla", "-1"], ["--dla -1", "from 0"]),
    (["demo.onnx", "--dla", "x"], ["--dla", "integer", "--help"]),
    (["demo.onnx", "--hardware-compat", "ampere+"], ["--hardware-compat ampere+", "--compute-capability"]),
    (["demo.onnx", "--hardware-compat", "same-cc"], ["--hardware-compat same-cc", "--compute-capability"]),
    (["demo.onnx", "--hardware-compat", "turing"], ["--hardware-compat 'turing'", "none, ampere+, same-cc"]),
    (["demo.onnx", "--version-compatible"], ["--version-compatible", "version that built them"]),
    (["demo.onnx", "--timing-cache", "cache"], ["--timing-cache", "measures no kernels"]),
    (["demo.onnx", "--strip-weights"], ["--strip-weights", "needs a GPU"]),
    (["demo.onnx", "--builder", "nvcc"], ["--builder 'nvcc'", "auto, tensorrt, tensorrt-rtx"]),
    (["demo.onnx", "--compute-capability", "9.0"], ["--compute-capability 9.0", "8.9"]),
    (["demo.onnx", "--compute-capability", "7.0"], ["--compute-capability 7.0", "8.9"]),
    (["demo.onnx", "--compute-capability", "8.9,9.0"], ["--compute-capability 9.0", "8.9"]),
    (["demo.onnx", "--compute-capability", "abc"], ["--compute-capability 'abc'", "8.6,8.9"]),
    (["demo.onnx", "--compute-capability", ""], ["--compute-capability ''", "8.6,8.9"]),
    (["demo.onnx", "--compute-capability", "7.5"], ["--head"]),
    (["demo.onnx", "--profile", "4,2,1"], ["--profile '4,2,1'", "1,4,16"]),
    (["demo.onnx", "--profile", "1,2"], ["--profile '1,2'", "1,4,16"]),
    (["demo.onnx", "--profile", "a,b,c"], ["--profile 'a,b,c'", "1,4,16"]),
    (["demo.onnx", "--profile", "9,9,9"], ["--profile 9,9,9", "demo.onnx", "batch of 1", "--batch 9:9"]),
    (["demo.onnx", "--profile", "1,2,4"], ["--profile 1,2,4", "demo.onnx", "--batch 1:4"]),
    (["dynamic.onnx", "--profile", "1,4,5"], ["--profile 1,4,5", "dynamic.onnx", "1:4"]),
    (["--batch", "1:4", "--profile", "9,9,9"], ["--profile 9,9,9", "1:4"]),
    (["demo.onnx", "--workspace", "nonsense"], ["--workspace 'nonsense'", "2G"]),
    (["demo.onnx", "--workspace", "0"], ["--workspace", "0 bytes", "1M"]),
    (["demo.onnx", "--workspace", "1023K"], ["--workspace", "1M"]),
    (["demo.onnx", "--workspace", "9999999G"], ["--workspace", "1024G"]),
    (["demo.onnx", "--opt-level", "9"], ["--opt-level 9", "0 to 5"]),
    (["demo.onnx", "--opt-level", "-1"], ["--opt-level -1", "0 to 5"]),
    (["demo.onnx", "--fp16"], ["demo.onnx is exported already", "--fp16", "give the .pt"]),
    (["demo.onnx", "--int8", "--data", "x"], ["demo.onnx is exported already", "--data, --int8"]),
    (["demo.onnx", "--batch", "2"], ["demo.onnx is exported already", "--batch"]),
    (["demo.onnx", "--imgsz", "128"], ["demo.onnx is exported already", "--imgsz"]),
    (["demo.onnx", "--opset", "17", "--rows", "9"], ["demo.onnx is exported already", "--opset, --rows"]),
    (["head.onnx", "--head", "--imgsz", "128"], ["head.onnx is exported already", "--imgsz"]),
    (["cpu.onnx"], ["cpu.onnx is int8 for ONNX Runtime on a CPU", "without --target cpu"]),
    (["model.engine"], ["model.engine is an engine already", "--strip-header"]),
    (["cut.onnx"], ["cut.onnx is damaged", "again"]),
    (["mixed.onnx"], ["mixed.onnx", "again"]),
    (["empty.onnx"], ["empty.onnx is empty", "again"]),
    (["text.onnx"], ["text.onnx is damaged", "again"]),
    (["damaged.onnx"], ["damaged.onnx"]),
    (["later.onnx"], ["later.onnx", "schema 99", "newer trt-yolo"]),
    (["unknown.onnx"], ["unknown.onnx", "tensorrt-rtx", "Convolute"]),
    (["folder.onnx"], ["folder.onnx is a folder"]),
    (["missing.onnx"], ["missing.onnx", "no such file"]),
    (["missing.engine"], ["missing.engine"]),
]  # fmt: skip


def _assert_no_engine(folder: Path) -> None:
    left = [path.name for path in folder.rglob("*")]
    assert not [
        name for name in left if name.endswith((".engine", ".engine.json", ".part", ".new", ".cache"))
    ]


@pytest.mark.parametrize(("arguments", "parts"), _BAD, ids=[" ".join(row[0])[-50:] for row in _BAD])
def test_without_an_engine(
    arguments: list[str], parts: list[str], files: Path, tmp_path: Path, cli: Command
) -> None:
    before = _stamps(files)
    assert_one_error(cli("export", *arguments, "--out", str(tmp_path / "out")), *parts)
    assert not (tmp_path / "out").exists()
    assert _stamps(files) == before


@pytest.mark.parametrize(
    ("arguments", "parts"), _BAD_ENGINES, ids=[" ".join(row[0])[-50:] for row in _BAD_ENGINES]
)
def test_bad_input(arguments: list[str], parts: list[str], files: Path, tmp_path: Path, cli: Command) -> None:
    before, out = _stamps(files), tmp_path / "out"
    outcome = cli("export", *arguments, "--format", "engine", "--no-check", "--out", str(out))
    assert_one_error(outcome, *parts)
    _assert_no_engine(tmp_path)
    assert _stamps(files) == before


@pytest.mark.parametrize(
    "arguments",
    [["--dla", "0"], ["--profile", "9,9,9"], ["--strip-weights"]],
    ids=lambda value: " ".join(value),
)
def test_bad_input_in_the_graphs_own_folder(
    arguments: list[str], demo_onnx: Path, tmp_path: Path, cli: Command
) -> None:
    graph = shutil.copy(demo_onnx, tmp_path)
    before = _contents(tmp_path)
    assert_one_error(cli("export", str(graph), "--format", "engine", *arguments), arguments[0])
    _assert_no_engine(tmp_path)
    assert {
        name: value for name, value in _contents(tmp_path).items() if not name.endswith(".failed.log")
    } == before


@pytest.mark.parametrize("out", ["demo.onnx/deep", "demo.onnx", "/proc/nope", "/dev/null/x", "x" * 300])
def test_where_nothing_can_be_written(out: str, files: Path, cli: Command) -> None:
    before = _stamps(files)
    outcome = cli("export", "demo.onnx", "--format", "engine", "--out", out)
    assert_one_error(outcome, "cannot write", out, "--out")
    assert _stamps(files) == before


def test_tensorrt_that_is_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    monkeypatch.setattr("trt_yolo.engine.library.is_found", lambda family: family != "tensorrt")
    outcome = cli("export", "--format", "engine", "--builder", "tensorrt", "--out", str(tmp_path / "out"))
    assert_one_error(outcome, "--builder tensorrt is not installed", "pip install 'trt-yolo[gpu]'")
    assert not (tmp_path / "out").exists()


def test_no_tensorrt_at_all_is_said_before_anything_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    monkeypatch.setattr("trt_yolo.engine.library.is_found", lambda family: False)
    outcome = cli("export", "--format", "engine", "--out", str(tmp_path / "out"))
    assert_one_error(outcome, "no NVIDIA GPU answers here", "pip install 'trt-yolo[rtx]'")
    assert not (tmp_path / "out").exists()


def test_a_graph_that_tensorrt_refuses_leaves_its_log(files: Path, tmp_path: Path, cli: Command) -> None:
    outcome = cli("export", "unknown.onnx", "--format", "engine", "--out", str(tmp_path))
    log = tmp_path / "unknown-rtx.engine.failed.log"
    assert_one_error(outcome, "unknown.onnx", f"TensorRT's log: {log}")
    assert "Convolute" in log.read_text()


# Interrupted


def _started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "trt_yolo", "export", *arguments, "--format", "engine"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
    )  # fmt: skip


def _begun(folder: Path) -> bool:
    return any(folder.glob(".*.log.part"))


def _at_work(folder: Path) -> bool:
    """TensorRT has said something."""
    return any(part.stat().st_size for part in folder.glob(".*.log.part"))


@pytest.mark.parametrize(
    ("number", "moment", "everyone", "had_one"),
    [
        (signal.SIGINT, _begun, False, False),
        (signal.SIGINT, _begun, True, True),
        pytest.param(signal.SIGINT, _at_work, False, True, marks=pytest.mark.slow),
        (signal.SIGINT, _at_work, True, False),
        (signal.SIGTERM, _at_work, False, False),
    ],
    ids=["begun", "begun, group, second", "at work, second", "at work, group", "SIGTERM"],
)
def test_control_c_during_a_build(
    number: int,
    moment: Callable[[Path], bool],
    everyone: bool,
    had_one: bool,
    demo_onnx: Path,
    tmp_path: Path,
) -> None:
    """A terminal sends it to the whole group. The builder ends too, and the old engine is as it was."""
    graph = Path(shutil.copy(demo_onnx, tmp_path))
    if had_one:
        engine_from_onnx(graph)
    before = _contents(tmp_path)
    process = _started(str(graph))
    builders: set[int] = set()
    try:
        assert wait_until(lambda: moment(tmp_path), timeout_s=30)
        builders = children_of(process.pid)
        if everyone:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert wait_until(lambda: not any(map(is_running, builders)))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert (process.returncode, out, err) == (128 + number, "", "")
    assert _contents(tmp_path) == before
    if had_one:
        assert engine_at(tmp_path / "demo-rtx.engine").manifest is not None
