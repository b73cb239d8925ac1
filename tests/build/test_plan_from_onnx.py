"""Real engines of TensorRT for RTX: every precision and batch, what it refuses, and how far it says it is."""

from __future__ import annotations

import dataclasses
import json
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from tests.engine.conftest import copied
from tests.engine.plans import left_in
from tests.precision import graphs
from trt_yolo.artifacts.manifest import METADATA_KEY
from trt_yolo.artifacts.shapes import BatchRange, parse_batch
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.build.engine_from_onnx import EngineReport, engine_from_onnx
from trt_yolo.build.plan_from_onnx import Phases, _configure, build_plan
from trt_yolo.demo.scenes import write_yolo_dataset
from trt_yolo.engine.library import Library
from trt_yolo.engine.log import Log, started_builder
from trt_yolo.engine.options import EngineOptions
from trt_yolo.engine.plan import failed_log_path, manifest_path, plan_file
from trt_yolo.engine.store import manifest_of
from trt_yolo.errors import ExportError, InputError
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import ExportOptions, Precision
from trt_yolo.precision.maker import PrecisionOptions

trt: Any = pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")


@pytest.fixture(scope="module")
def rtx() -> Library:
    return Library("tensorrt-rtx")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data.yaml of 16 scenes to calibrate and 16 to judge."""
    return write_yolo_dataset(tmp_path_factory.mktemp("scenes"), train=16, val=16)


def _exported(
    folder: Path, batch: str, *, precision: Precision = "fp32", scenes: Path | None = None, head: bool = False
) -> Path:
    """The demo model at 128x128, its INT8 in a quick way."""
    options = ExportOptions(
        imgsz_hw=(128, 128), precision=precision, batch=parse_batch(batch), head=head, check=False,
        data=None if scenes is None else str(scenes),
        low_precision=PrecisionOptions(method="minmax", max_drop=100),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as context:
        graphs.quicken_int8(context, "minmax")
        return export_model(demo_checkpoint(), out=folder, options=options).artifacts[0].path


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def precise(
    request: pytest.FixtureRequest, scenes: Path, tmp_path_factory: pytest.TempPathFactory
) -> EngineReport:
    """An engine of each precision, its batch 1 to 4."""
    folder = tmp_path_factory.mktemp(request.param)
    return engine_from_onnx(_exported(folder, "1:4", precision=request.param, scenes=scenes))


def _types_in(report: EngineReport, rtx: Library, folder: Path) -> str:
    """What TensorRT's verbose log says of the layers of an engine that is built again."""
    assert report.manifest.engine is not None
    again = shutil.copy(report.path.with_name(report.manifest.engine.onnx), folder)
    verbose = engine_from_onnx(Path(again), options=EngineOptions(verbose=True))
    return verbose.log.read_text(errors="replace")


def test_every_precision_builds_and_is_described(precise: EngineReport) -> None:
    facts, plan = precise.manifest.engine, plan_file(precise.path)
    assert facts is not None
    assert facts.builder == plan.family == "tensorrt-rtx"
    assert facts.builder_version == plan.version_text == trt.__version__
    assert (facts.plan_bytes, facts.plan_sha256) == (plan.size, plan.sha256())
    assert facts.profile == (1, 4, 4)
    assert precise.manifest.batch == BatchRange(1, 4)
    assert manifest_of(plan) == precise.manifest
    assert precise.log.stat().st_size > 500
    assert (plan.size > 14 << 20) == (precise.manifest.precision == "fp32")
    stem = precise.path.name.removesuffix("-rtx.engine")
    assert facts.onnx == f"{stem}.onnx"


def test_the_engine_has_the_precision_of_its_graph(
    precise: EngineReport, rtx: Library, tmp_path: Path
) -> None:
    """Strongly typed: the graph says what is computed in which type."""
    log = _types_in(precise, rtx, tmp_path)
    has = {kind: f"Datatype: {kind}" in log for kind in ("Float", "Half", "Int8")}
    wanted = {"fp32": (False, False), "fp16": (True, False), "int8": (True, True)}[precise.manifest.precision]
    assert has["Float"]
    assert (has["Half"], has["Int8"]) == wanted


@pytest.mark.parametrize("batch", ["1", "4"])
def test_a_static_batch(batch: str, tmp_path: Path) -> None:
    report = engine_from_onnx(_exported(tmp_path, batch))
    assert report.manifest.engine is not None
    assert report.manifest.engine.profile == (int(batch),) * 3
    assert report.manifest.batch == parse_batch(batch)


@pytest.mark.parametrize("profile", [(1, 2, 4), (2, 2, 2)])
def test_a_profile_within_a_dynamic_batch(
    profile: tuple[int, int, int], demo_dynamic_onnx: Path, tmp_path: Path
) -> None:
    report = engine_from_onnx(copied(demo_dynamic_onnx, tmp_path), options=EngineOptions(profile=profile))
    assert report.manifest.engine is not None
    assert report.manifest.engine.profile == profile
    assert report.manifest.batch == BatchRange(profile[0], profile[2])
    assert report.manifest.engine.options == {"builder": "tensorrt-rtx", "profile": profile}


def test_a_profile_outside_is_refused_before_anything_is_built(graph: Path) -> None:
    with pytest.raises(
        InputError, match=r"--profile 1,4,16 does not fit .*model\.onnx, which takes a batch of 1"
    ):
        engine_from_onnx(graph, options=EngineOptions(profile=(1, 4, 16)))
    assert left_in(graph.parent) == {"model.onnx"}


@pytest.mark.parametrize("batch", ["1", "1:4"])
def test_a_head_graph(batch: str, tmp_path: Path) -> None:
    report = engine_from_onnx(_exported(tmp_path, batch, head=True))
    assert report.manifest.graph == "head"
    assert manifest_of(plan_file(report.path)) == report.manifest


def test_a_graph_of_ultralytics_with_free_sides(demo_head_onnx: Path, tmp_path: Path) -> None:
    """Its batch and sides are names; the sides are fixed to what its metadata says."""
    model = onnx.load(str(demo_head_onnx))
    names = [entry.key for entry in model.metadata_props]
    while METADATA_KEY in names:
        del model.metadata_props[names.index(METADATA_KEY)]
        names.remove(METADATA_KEY)
    for key, value in (("task", "detect"), ("imgsz", "[256, 256]"), ("batch", "2")):
        model.metadata_props.add(key=key, value=value)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    del model.graph.value_info[:]
    path = tmp_path / "head.onnx"
    onnx.save(model, str(path))
    report = engine_from_onnx(path)
    assert report.manifest.batch == BatchRange(1, 2)
    assert report.manifest.engine is not None
    assert report.manifest.engine.profile == (1, 2, 2)


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(workspace_bytes=64 << 20),
        EngineOptions(opt_level=5),
        EngineOptions(sparse=True),
        EngineOptions(compute_capability=("8.6", "8.9")),
    ],
    ids=lambda options: "-".join(options.to_dict()),
)
def test_every_option_that_it_has_builds(options: EngineOptions, graph: Path) -> None:
    report = engine_from_onnx(graph, options=options)
    facts = report.manifest.engine
    assert facts is not None
    assert facts.options == json.loads(json.dumps({"builder": "tensorrt-rtx"} | options.to_dict())) or (
        facts.options == {"builder": "tensorrt-rtx"} | options.to_dict()
    )
    assert facts.compute_capabilities == (options.compute_capability or ("8.0+",))


def _broken_graph(path: Path, graph: Path) -> Path:
    """A graph with the demo's manifest that TensorRT cannot parse: a node of no known kind."""
    model = onnx.load(str(graph))
    model.graph.node.append(
        helper.make_node("NoSuchOperator", [model.graph.input[0].name], ["nowhere"], domain="no.such.domain")
    )
    model.graph.output.append(helper.make_tensor_value_info("nowhere", TensorProto.FLOAT, None))
    model.opset_import.append(helper.make_opsetid("no.such.domain", 1))
    onnx.save(model, str(path))
    return path


def test_a_graph_that_does_not_parse(demo_onnx: Path, tmp_path: Path) -> None:
    path = _broken_graph(tmp_path / "model.onnx", demo_onnx)
    with pytest.raises(InputError, match=r"does not take .*model\.onnx: .*Plugin not found") as caught:
        engine_from_onnx(path)
    log = failed_log_path(tmp_path / "model-rtx.engine")
    assert type(caught.value) is InputError
    assert str(log) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "NoSuchOperator" in log.read_text()
    assert left_in(tmp_path) == {"model.onnx", log.name}


@pytest.fixture
def old(engine: Path) -> dict[str, bytes]:
    """An engine that is there already: what must not change."""
    return {path.name: path.read_bytes() for path in (engine, manifest_path(engine))}


def _assert_untouched(engine: Path, old: dict[str, bytes]) -> None:
    assert {path.name: path.read_bytes() for path in (engine, manifest_path(engine))} == old
    assert manifest_of(plan_file(engine)) is not None


def test_a_gpu_that_cannot_run_the_graph(engine: Path, old: dict[str, bytes], tmp_path: Path) -> None:
    """Turing has no FP32 GEMM in TensorRT for RTX."""
    onnx_path, options = tmp_path / "model.onnx", EngineOptions(compute_capability=("7.5",))
    with pytest.raises(ExportError, match=r"does not build .*model\.onnx: .*SM75") as caught:
        engine_from_onnx(onnx_path, engine=engine, options=options)
    log = failed_log_path(engine)
    assert str(log) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "SM75" in log.read_text()
    _assert_untouched(engine, old)
    assert not [name for name in left_in(tmp_path) if name.endswith(".part")]
    engine_from_onnx(onnx_path, engine=engine)
    assert not log.exists()


def test_a_gpu_that_nobody_knows(engine: Path, old: dict[str, bytes], tmp_path: Path) -> None:
    names = [name[2:] for name in dir(trt.ComputeCapability) if name.startswith("SM")]
    known = sorted((f"{name[:-1]}.{name[-1]}" for name in names), key=float)
    assert "8.9" in known
    wanted = rf"--compute-capability 9\.9 is none .* give {', '.join(known)}, or leave it out"
    with pytest.raises(InputError, match=wanted) as caught:
        engine_from_onnx(
            tmp_path / "model.onnx", engine=engine, options=EngineOptions(compute_capability=("8.9", "9.9"))
        )
    assert "\n" not in str(caught.value)
    _assert_untouched(engine, old)


@pytest.mark.parametrize(
    "options",
    [
        EngineOptions(version_compatible=True),
        EngineOptions(hardware_compat="ampere+"),
        EngineOptions(dla=0),
        EngineOptions(timing_cache=Path("a.cache")),
        EngineOptions(strip_weights=True),
    ],
    ids=str,
)
def test_what_it_does_not_have_is_refused_by_the_builder_too(options: EngineOptions, graph: Path) -> None:
    with pytest.raises(InputError, match="is not possible with tensorrt-rtx"):
        engine_from_onnx(graph, options=options)
    assert not [name for name in left_in(graph.parent) if name.endswith(("engine", "part", "cache"))]


def _build(rtx: Library, graph: Path, **told: Any) -> bytes:
    return build_plan(rtx, graph, EngineOptions(), profile=(1, 1, 1), imgsz_hw=(256, 256), **told)


def test_a_build_tells_how_far_it_is_and_what_tensorrt_says(rtx: Library, graph: Path) -> None:
    severities: set[str] = set()
    fractions: list[float] = []
    plan = _build(
        rtx, graph, say=lambda severity, _: severities.add(severity),
        progress=lambda _, done, total: fractions.append(done / total), is_wanted=lambda: True,
    )  # fmt: skip
    assert plan[:4] == b"vtrt"
    assert len(fractions) > 50
    assert fractions == sorted(fractions)
    assert fractions[0] < 0.05
    assert 0.8 <= fractions[-1] <= 1
    assert "info" in severities
    assert severities <= {"info", "warning"}


def test_a_build_stops_when_it_is_told_to(rtx: Library, graph: Path) -> None:
    steps: list[int] = []
    with pytest.raises(ExportError, match="BuildCanceled"):
        _build(
            rtx, graph, say=lambda *_: None,
            progress=lambda _, done, _total: steps.append(done), is_wanted=lambda: False,
        )  # fmt: skip
    assert len(steps) < 20


def test_phases_within_phases() -> None:
    progress = Phases()
    told = [progress.fraction()]
    progress.start("build", None, 2)
    progress.start("inner", "build", 4)
    for step in range(4):
        progress.step("inner", step)
        told.append(progress.fraction())
    assert told == [0, 0.125, 0.25, 0.375, 0.5]
    progress.finish("inner")
    progress.step("build", 0)
    assert progress.fraction() == 0.5
    progress.start("second", "build", 1)
    assert progress.fraction() == 0.5
    progress.start("third", "second", 2)
    progress.step("third", 0)
    assert progress.fraction() == 0.75
    progress.step("second", 0)
    progress.finish("third")
    progress.finish("second")
    progress.step("build", 1)
    assert progress.fraction() == 1.0
    progress.finish("build")
    assert progress.fraction() == 1.0


def test_progress_never_goes_back() -> None:
    progress = Phases()
    progress.start("first", None, 2)
    progress.step("first", 0)
    assert progress.fraction() == 0.5
    progress.finish("first")
    assert progress.fraction() == 0.5
    progress.start("next", "first", 10)  # its parent has ended: it stands alone
    progress.step("next", 0)
    assert progress.fraction() == 0.5
    progress.step("next", 7)
    assert progress.fraction() == 0.8


@pytest.mark.parametrize("steps", [0, -1, 1, 3])
def test_phases_with_odd_numbers_of_steps(steps: int) -> None:
    progress = Phases()
    progress.start("phase", None, steps)
    assert progress.fraction() == 0
    for step in (0, 5, 100):
        progress.step("phase", step)
        assert 0 <= progress.fraction() <= 1
    progress.step("nobody", 3)
    progress.finish("nobody")
    assert progress.fraction() == 1.0


def test_two_phases_that_contain_each_other_do_no_harm() -> None:
    progress = Phases()
    progress.start("a", "b", 2)
    progress.start("b", "a", 2)
    progress.step("a", 0)
    assert 0 <= progress.fraction() <= 1


def test_phases_on_many_threads() -> None:
    progress, told = Phases(), []
    progress.start("build", None, 8)

    def work(name: str) -> None:
        progress.start(name, "build", 200)
        for step in range(200):
            progress.step(name, step)
            told.append(progress.fraction())
        progress.finish(name)
        told.append(progress.fraction())

    threads = [threading.Thread(target=work, args=(str(index),)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(told) == 8 * 201
    assert all(0 <= one <= 1 for one in told)
    assert progress.fraction() == max(told) == 1 / 8


def _configured(library: Library) -> Any:
    """The configuration that the real builder gets."""
    builder = started_builder(Log(library))
    config = builder.create_builder_config()
    _configure(library, builder, config, EngineOptions())
    return config


def test_an_engine_is_built_for_stream_capture(rtx: Library) -> None:
    assert _configured(rtx).get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)


def test_a_tensorrt_for_rtx_without_that_flag_builds_too(
    rtx: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = {name: flag for name, flag in vars(trt.BuilderFlag).items() if not name.startswith("_")}
    del flags["REQUIRE_USER_ALLOCATION"]
    monkeypatch.setattr(trt, "BuilderFlag", SimpleNamespace(**flags))
    assert _configured(rtx) is not None


def test_options_are_plain_values() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        EngineOptions().dla = 1  # type: ignore[misc]
