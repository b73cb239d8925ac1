"""`engine_from_model`: which of the two stages run for what is given, and what the report says of both."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.engine.plans import left_in
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.engine.compatibility import engine_at
from trt_yolo.engine.options import EngineOptions
from trt_yolo.errors import ExportError, InputError, MissingDependencyError, TrtYoloError
from trt_yolo.export import engine_from_model as stage
from trt_yolo.export.engine_from_model import engine_from_model
from trt_yolo.export.options import ExportOptions, Precision
from trt_yolo.precision.maker import PrecisionOptions

pytest.importorskip("onnxruntime")
pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")

SMALL = ExportOptions(imgsz_hw=(64, 64), check=False)


@pytest.fixture(autouse=True)
def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.hardware.gpus._driver", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")


class _NotReachedError(Exception):
    """What should have been refused before was not."""


@pytest.fixture
def no_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be exported: it would calibrate for minutes before."""

    def fail(*_: Any, **__: Any) -> None:
        raise _NotReachedError

    monkeypatch.setattr(stage, "export_model", fail)


def test_a_checkpoint_is_exported_and_built(tmp_path: Path) -> None:
    steps: list[tuple[str, int, int]] = []
    report = engine_from_model(
        demo_checkpoint(), out=tmp_path, options=SMALL, progress=lambda *step: steps.append(step)
    )
    graph, engine = report.artifacts
    assert (graph.format, graph.path) == ("onnx", tmp_path / "demo-64.onnx")
    assert (engine.format, engine.path) == ("engine", tmp_path / "demo-64-rtx.engine")
    assert engine.bytes == engine.path.stat().st_size
    assert report.engine is not None
    assert report.engine.path == engine.path
    assert report.manifest == report.engine.manifest == engine_at(engine.path).manifest
    done = [done for what, done, total in steps if what == "building the engine" and total == 1000]
    assert done == sorted(done)
    assert done[-1] == 1000
    assert json.loads(json.dumps(report.to_dict()))["engine"]["self_test"] is None


def test_without_a_folder_it_goes_to_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = engine_from_model(demo_checkpoint(), options=SMALL)
    assert [one.path.parent for one in report.artifacts] == [Path("engines")] * 2
    assert (tmp_path / "engines" / "demo-64-rtx.engine").is_file()


def test_parity_is_reported_with_the_engine(tmp_path: Path) -> None:
    report = engine_from_model(demo_checkpoint(), out=tmp_path, options=ExportOptions(imgsz_hw=(64, 64)))
    assert report.parity is not None
    assert report.parity.holds
    assert report.engine is not None


@pytest.mark.usefixtures("no_export")
def test_an_exported_graph_is_built_as_it_is(demo_onnx: Path, tmp_path: Path) -> None:
    graph = Path(shutil.copy(demo_onnx, tmp_path))
    report = engine_from_model(graph)
    assert [(one.format, one.path) for one in report.artifacts] == [("engine", tmp_path / "demo-rtx.engine")]
    assert (report.parity, report.accuracy) == (None, None)
    assert report.manifest.engine is not None
    assert report.manifest.source == "demo.pt"


@pytest.mark.usefixtures("no_export")
def test_a_suffix_may_be_written_large(demo_onnx: Path, tmp_path: Path) -> None:
    graph = Path(shutil.copy(demo_onnx, tmp_path / "DEMO.ONNX"))
    assert engine_from_model(graph).artifacts[0].path == tmp_path / "DEMO-rtx.engine"


def test_a_graph_of_ultralytics_own_is_exported_first(demo_head_onnx: Path, tmp_path: Path) -> None:
    """It has no manifest, so that the exporter reads it; as it does a head graph without --head."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load(demo_head_onnx)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "best.onnx")
    report = engine_from_model(
        tmp_path / "best.onnx", out=tmp_path / "out", options=ExportOptions(check=False)
    )
    assert [one.path.name for one in report.artifacts] == ["best.onnx", "best-rtx.engine"]
    assert report.manifest.graph == "deploy"
    assert "trt_yolo" not in [entry.key for entry in onnx.load(tmp_path / "best.onnx").metadata_props]


@pytest.mark.parametrize(
    ("profile", "batch", "wanted"),
    [
        ((1, 2, 4), None, BatchRange(1, 4)),
        ((3, 3, 3), None, BatchRange(3, 3)),
        (None, None, BatchRange(1, 1)),
        ((1, 2, 2), BatchRange(1, 8), BatchRange(1, 8)),
    ],
)
def test_a_profile_says_which_batches_the_graph_takes(
    profile: tuple[int, int, int] | None,
    batch: BatchRange | None,
    wanted: BatchRange,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[ExportOptions] = []

    def note(*_: Any, options: ExportOptions, **__: Any) -> None:
        asked.append(options)
        raise _NotReachedError

    monkeypatch.setattr(stage, "export_model", note)
    options = ExportOptions(batch=batch)
    with pytest.raises(_NotReachedError):
        engine_from_model(
            demo_checkpoint(), out=tmp_path, options=options, engine=EngineOptions(profile=profile)
        )
    assert (asked[0].batch or BatchRange(1, 1)) == wanted


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (ExportOptions(imgsz_hw=(64, 64)), "--imgsz"),
        (ExportOptions(batch=BatchRange(1, 4)), "--batch"),
        (ExportOptions(opset=17), "--opset"),
        (ExportOptions(rows=9), "--rows"),
        (ExportOptions(data="images"), "--data"),
        (ExportOptions(precision="fp16"), "--fp16"),
        (ExportOptions(precision="int8"), "--int8"),
        (ExportOptions(head=True), "--head"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.usefixtures("no_export")
def test_an_exported_graph_is_not_changed(
    options: ExportOptions, named: str, demo_onnx: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"demo\.onnx .*{named}"):
        engine_from_model(demo_onnx, out=tmp_path, options=options)
    assert left_in(tmp_path) == set()


@pytest.mark.usefixtures("no_export")
def test_int8_for_a_cpu_is_refused_before_it_is_made(tmp_path: Path) -> None:
    options = ExportOptions(precision="int8", low_precision=PrecisionOptions(target="cpu"))
    with pytest.raises(InputError, match="cpu"):
        engine_from_model(demo_checkpoint(), out=tmp_path, options=options)


@pytest.mark.parametrize("builder", ["auto", "tensorrt"])
@pytest.mark.usefixtures("no_export")
def test_no_builder_is_said_before_anything_is_exported(
    builder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trt_yolo.engine.library.is_found", lambda family: False)
    with pytest.raises(MissingDependencyError, match="pip install"):
        engine_from_model(demo_checkpoint(), out=tmp_path, engine=EngineOptions(builder=builder))


@pytest.mark.parametrize(
    "engine",
    [
        EngineOptions(dla=0),
        EngineOptions(hardware_compat="ampere+"),
        EngineOptions(version_compatible=True),
        EngineOptions(strip_weights=True),
        EngineOptions(timing_cache=Path("cache")),
        EngineOptions(profile=(9, 9, 9)),
    ],
    ids=lambda value: " ".join(value.arguments()) or "--timing-cache",
)
@pytest.mark.usefixtures("no_export")
def test_what_the_builder_lacks_is_said_before_anything_is_exported(
    engine: EngineOptions, tmp_path: Path
) -> None:
    """An int8 export takes minutes, which would be for nothing."""
    options = ExportOptions(precision="int8", batch=BatchRange(1, 4))
    with pytest.raises(InputError):
        engine_from_model(demo_checkpoint(), out=tmp_path, options=options, engine=engine)


@pytest.mark.parametrize(
    ("precision", "batch", "said"),
    [
        ("int8", BatchRange(1, 1), "--dla 0 does not take this export, which is int8"),
        ("fp16", BatchRange(1, 4), "--dla 0 does not take a batch of 1 to 4"),
    ],
)
@pytest.mark.usefixtures("no_export")
def test_what_dla_does_not_take_is_said_before_anything_is_exported(
    precision: Precision, batch: BatchRange, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trt_yolo.export.engine_from_model.chosen_family", lambda builder, gpus: "tensorrt")
    options = ExportOptions(precision=precision, batch=batch)
    with pytest.raises(InputError, match=said):
        engine_from_model(demo_checkpoint(), out=tmp_path, options=options, engine=EngineOptions(dla=0))


def test_a_failed_build_keeps_the_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ExportError("the engine fails its test")

    monkeypatch.setattr("trt_yolo.build.engine_from_onnx.check_engine", fail)
    options = ExportOptions(imgsz_hw=(64, 64))
    with pytest.raises(ExportError, match="fails its test"):
        engine_from_model(demo_checkpoint(), out=tmp_path, options=options)
    left = {name for name in left_in(tmp_path) if not name.endswith(".failed.log")}
    assert left == {"demo-64.onnx", "demo-64.onnx.json"}
    report = engine_from_model(demo_checkpoint(), out=tmp_path, options=SMALL)
    assert report.artifacts[1].path.is_file(), "unchecked, it is built"


def test_a_failed_build_elsewhere_does_not_change_the_old_engines_onnx(
    demo_onnx: Path, demo_dynamic_onnx: Path, tmp_path: Path
) -> None:
    """An engine is built anew from the ONNX beside it: both stay as they were, or both change."""
    out = tmp_path / "out"
    first = engine_from_model(demo_onnx, out=out)
    other = Path(shutil.copy(demo_dynamic_onnx, tmp_path / "demo.onnx"))
    with pytest.raises(InputError):
        engine_from_model(other, out=out, engine=EngineOptions(dla=0))
    assert first.manifest.engine is not None
    assert (out / "demo.onnx").read_bytes() == demo_onnx.read_bytes()


@pytest.mark.parametrize("name", ["missing.onnx", "missing.pt", "folder.onnx", "text.onnx", "text.txt"])
def test_what_is_no_model(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "text.onnx").write_text("no model")
    (tmp_path / "text.txt").write_text("no model")
    with pytest.raises(TrtYoloError, match=name):
        engine_from_model(tmp_path / name, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
