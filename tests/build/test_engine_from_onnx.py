"""The engine of an ONNX file: its name, its manifest, its folder, and what is not built at all."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from pathlib import Path

import onnx
import pytest

from tests.engine.conftest import copied
from tests.engine.plans import gpu, left_in
from trt_yolo.artifacts.manifest import METADATA_KEY, manifest_from_json
from trt_yolo.build.engine_from_onnx import EngineReport, engine_from_onnx, engine_stem, manifest_of_onnx
from trt_yolo.engine.options import EngineOptions
from trt_yolo.engine.plan import manifest_path, plan_file
from trt_yolo.engine.store import manifest_of
from trt_yolo.errors import InputError, TrtYoloError, UnsupportedModelError
from trt_yolo.hardware.gpus import cuda_version, platform_name
from trt_yolo.version import __version__

pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_is_beside_an_engine(built: EngineReport) -> None:
    assert left_in(built.path.parent) == {
        "model.onnx", "model-rtx.engine", "model-rtx.engine.json", "model-rtx.engine.log",
    }  # fmt: skip
    assert (built.path.name, built.log.name) == ("model-rtx.engine", "model-rtx.engine.log")
    assert built.warnings == []


def test_the_manifest_is_the_graphs_and_says_what_the_plan_is(built: EngineReport) -> None:
    graph = built.path.with_name("model.onnx")
    of_graph, manifest = manifest_of_onnx(graph), built.manifest
    facts = manifest.engine
    assert facts is not None
    assert dataclasses.replace(manifest, engine=None, created=of_graph.created) == of_graph
    assert manifest.version == __version__
    assert (facts.onnx, facts.onnx_sha256) == ("model.onnx", _sha256(graph))
    assert facts.plan_sha256 == _sha256(built.path)
    assert (facts.platform, facts.cuda) == (platform_name(), cuda_version())
    assert facts.compute_capabilities == ("8.0+",)
    assert facts.options == {"builder": "tensorrt-rtx"}
    text = manifest_path(built.path).read_text()
    assert manifest_from_json(text, origin="it") == manifest
    assert text.count("\n") == 1


def test_twice_the_same_graph_is_twice_the_same_manifest(built: EngineReport, engine: Path) -> None:
    again = engine_from_onnx(engine.with_name("model.onnx"))
    assert again.manifest.engine is not None
    assert built.manifest.engine is not None
    assert again.manifest.engine.plan_sha256 == _sha256(engine)
    same = dataclasses.replace(
        again.manifest.engine,
        plan_sha256=built.manifest.engine.plan_sha256, plan_bytes=built.manifest.engine.plan_bytes,
    )  # fmt: skip
    assert dataclasses.replace(again.manifest, created=built.manifest.created, engine=same) == built.manifest


def test_options_are_kept_for_building_it_again(graph: Path) -> None:
    options = EngineOptions(
        opt_level=2, workspace_bytes=1 << 28, compute_capability=("8.6", "12.0"), verbose=True
    )
    report = engine_from_onnx(graph, options=options)
    facts = report.manifest.engine
    assert facts is not None
    assert report.path.name == "model-rtx-sm86-sm120.engine"
    assert facts.compute_capabilities == ("8.6", "12.0")
    on_disk = manifest_of(plan_file(report.path))
    assert on_disk is not None
    assert on_disk.engine is not None
    assert on_disk.engine.options == {
        "builder": "tensorrt-rtx", "opt_level": 2, "workspace_bytes": 1 << 28, "compute_capability": ["8.6", "12.0"],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "rtx", "name"),
    [
        (EngineOptions(), False, "m"),
        (EngineOptions(), True, "m-rtx"),
        (EngineOptions(opt_level=5, sparse=True, workspace_bytes=1 << 30, verbose=True), True, "m-rtx"),
        (EngineOptions(compute_capability=("8.6", "12.0")), True, "m-rtx-sm86-sm120"),
        (EngineOptions(hardware_compat="ampere+"), False, "m-ampere-plus"),
        (EngineOptions(hardware_compat="same-cc", version_compatible=True), False, "m-same-cc-compatible"),
        (EngineOptions(strip_weights=True, dla=1), False, "m-stripped-dla1"),
    ],
)
def test_the_name_says_what_is_not_the_default(options: EngineOptions, rtx: bool, name: str) -> None:
    assert engine_stem("m", "tensorrt-rtx" if rtx else "tensorrt", options) == name


def test_another_folder_gets_the_graph_too(graph: Path, tmp_path: Path) -> None:
    graph.with_name("model.onnx.json").write_text("{}")
    out = tmp_path / "new" / "folder"
    report = engine_from_onnx(graph, out=out)
    assert report.path.parent == out
    assert left_in(out) == {
        "model.onnx", "model.onnx.json", "model-rtx.engine", "model-rtx.engine.json", "model-rtx.engine.log",
    }  # fmt: skip
    assert left_in(tmp_path) == {"model.onnx", "model.onnx.json", "new"}
    assert report.manifest.engine is not None
    assert report.manifest.engine.onnx_sha256 == _sha256(out / "model.onnx") == _sha256(graph)


def test_the_same_folder_by_another_name(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    report = engine_from_onnx(graph, out=tmp_path / "link")
    assert report.path.exists()
    assert graph.exists()


def test_a_path_relative_to_the_working_folder(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(graph.parent)
    report = engine_from_onnx(Path("model.onnx"))
    assert report.path == Path("model-rtx.engine")
    assert manifest_of(plan_file(report.path)) == report.manifest


@pytest.mark.parametrize("name", ["a b'c.onnx", "modèle 🐕.onnx", "demo[1].onnx", "no-suffix"])
def test_odd_names(name: str, demo_onnx: Path, tmp_path: Path) -> None:
    graph = copied(demo_onnx, tmp_path, name)
    report = engine_from_onnx(graph)
    assert report.path.name == f"{graph.stem}-rtx.engine"
    assert manifest_of(plan_file(report.path)) == report.manifest
    assert len(left_in(tmp_path)) == 4


@pytest.mark.parametrize("length", [200, 222, 228, 234, 240, 246])
def test_long_names_build_or_are_refused_in_words(length: int, demo_onnx: Path, tmp_path: Path) -> None:
    graph = copied(demo_onnx, tmp_path, "x" * length + ".onnx")
    report, line = _built_or_refused(graph)
    assert "\n" not in line
    if report is None:
        assert "too long" in line
        assert left_in(tmp_path) <= {graph.name, f"{graph.stem}-rtx.engine.failed.log"}
    else:
        assert length < 240
        assert manifest_of(plan_file(report.path)) == report.manifest


def _built_or_refused(graph: Path) -> tuple[EngineReport | None, str]:
    """An engine, or the line with which it is refused."""
    try:
        return engine_from_onnx(graph), ""
    except TrtYoloError as error:
        return None, str(error)


def test_nothing_is_built_that_nobody_needs(engine: Path) -> None:
    before = engine.stat().st_ino
    report = engine_from_onnx(engine.with_name("model.onnx"), engine=engine, unless=lambda: True)
    assert engine.stat().st_ino == before
    assert report.path == engine
    assert manifest_of(plan_file(engine)) == report.manifest
    engine_from_onnx(engine.with_name("model.onnx"), engine=engine, unless=lambda: False)
    assert engine.stat().st_ino != before


def test_a_log_that_cannot_come_to_its_place_is_said_in_words(graph: Path) -> None:
    graph.with_name("model-rtx.engine.log").mkdir()
    graph.with_name("model-rtx.engine.log").joinpath("something").touch()
    report, line = _built_or_refused(graph)
    assert "\n" not in line
    if report is not None:
        assert manifest_of(plan_file(report.path)) == report.manifest
    assert not [name for name in left_in(graph.parent) if name.endswith(".part")]


def test_an_engine_that_is_a_folder_is_not_replaced(graph: Path) -> None:
    graph.with_name("model-rtx.engine").mkdir()
    with pytest.raises(InputError, match="cannot write") as caught:
        engine_from_onnx(graph)
    assert "\n" not in str(caught.value)
    assert not [name for name in left_in(graph.parent) if name.endswith(".part")]


def test_what_tensorrt_warned_of_is_logged(graph: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="trt_yolo"):
        report = engine_from_onnx(graph)
    assert [one.getMessage() for one in caplog.records] == [
        f"tensorrt-rtx: {line}" for line in report.warnings
    ]


def _changed(graph: Path, **fields: object) -> Path:
    """The graph with other entries in its manifest."""
    model = onnx.load(str(graph))
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = json.dumps(json.loads(entry.value) | fields)
    onnx.save(model, str(graph))
    return graph


def test_a_graph_for_the_cpu_is_refused(graph: Path) -> None:
    with pytest.raises(
        InputError, match=r"model\.onnx is int8 for ONNX Runtime on a CPU.* without --target cpu"
    ):
        engine_from_onnx(_changed(graph, precision="int8", target="cpu"))
    assert left_in(graph.parent) == {"model.onnx"}


def test_a_manifest_of_a_later_version_is_refused(graph: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"model\.onnx has a manifest of schema 99"):
        engine_from_onnx(_changed(graph, schema=99))


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x09", b"ftrt" + bytes(60), b"\xff" * 100])
def test_a_file_that_is_no_graph(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx") as caught:
        engine_from_onnx(path)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == {"model.onnx"}


def test_a_graph_that_was_cut(graph: Path) -> None:
    graph.write_bytes(graph.read_bytes()[: graph.stat().st_size // 2])
    with pytest.raises(InputError, match=r"model\.onnx"):
        engine_from_onnx(graph)
    assert not [name for name in left_in(graph.parent) if name.endswith((".part", ".engine"))]


def test_paths_that_are_no_graphs(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.onnx", tmp_path):
        with pytest.raises(InputError, match=r"no such file|is a folder"):
            engine_from_onnx(path)


def test_a_folder_that_cannot_be(graph: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write to .*file.* --out"):
        engine_from_onnx(graph, out=tmp_path / "file")


@pytest.fixture
def on_an_orin(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Jetson with TensorRT, which must not be asked to build."""
    monkeypatch.setattr("trt_yolo.build.engine_from_onnx.devices", lambda: [gpu("8.7", "Orin")])
    monkeypatch.setattr("trt_yolo.build.engine_from_onnx.chosen_family", lambda builder, gpus: "tensorrt")
    monkeypatch.setattr("trt_yolo.build.engine_from_onnx.run_build", None)


@pytest.mark.usefixtures("on_an_orin")
def test_dla_takes_no_dynamic_batch(demo_dynamic_onnx: Path, tmp_path: Path) -> None:
    source = copied(demo_dynamic_onnx, tmp_path)
    with pytest.raises(
        InputError, match=r"--dla 0 does not take a batch of 1 to (\d+): .*--profile \1,\1,\1"
    ):
        engine_from_onnx(source, options=EngineOptions(dla=0))
    assert left_in(tmp_path) == {source.name}


@pytest.mark.usefixtures("on_an_orin")
def test_dla_takes_no_int8(graph: Path) -> None:
    """Whoever made it: what counts is in the graph."""
    model = onnx.load(str(graph))
    scale = onnx.helper.make_tensor("scale", onnx.TensorProto.FLOAT, [], [0.1])
    model.graph.initializer.append(scale)
    model.graph.node.append(onnx.helper.make_node("QuantizeLinear", ["detections", "scale"], ["quantized"]))
    onnx.save(model, str(graph))
    with pytest.raises(InputError, match=r"--dla 1 does not take .*model\.onnx, which is int8 .*--fp16"):
        engine_from_onnx(graph, options=EngineOptions(dla=1))
    assert left_in(graph.parent) == {graph.name}
