"""An engine as Ultralytics writes it becomes a plain plan and a manifest; whatever else is given, nothing is harmed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Outcome, assert_one_error, run_here
from tests.engine.plans import left_in, tensorrt_plan, ultralytics
from trt_yolo.artifacts.manifest import Manifest, manifest_from_json
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.build.engine_from_onnx import EngineReport
from trt_yolo.demo.scenes import NAMES
from trt_yolo.engine.compatibility import engine_at
from trt_yolo.engine.plan import manifest_path, plan_file
from trt_yolo.engine.strip import plain_from_ultralytics
from trt_yolo.errors import EngineError, InputError

PLAN = tensorrt_plan(bytes(range(256)) * 20)


def _metadata(**changed: Any) -> dict[str, Any]:
    """What Ultralytics 8.4 writes (`Exporter.metadata`), which JSON has made of it."""
    fields: dict[str, Any] = {
        "description": "Ultralytics YOLOv8n model trained on demo.yaml",
        "author": "Ultralytics",
        "date": "2026-11-24T04:50:27.000000+00:00",
        "version": "8.4.190",
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        "stride": 32,
        "task": "detect",
        "head": "Detect",
        "batch": 1,
        "imgsz": [256, 256],
        "names": {str(index): name for index, name in enumerate(NAMES)},
        "args": {"batch": 1, "data": None, "dynamic": False, "simplify": True, "nms": False, "fraction": 1.0},
        "channels": 3,
        "end2end": False,
    }
    return {**fields, **changed}


def _exported(folder: Path, plan: bytes = PLAN, name: str = "best.engine", **changed: Any) -> Path:
    path = folder / name
    path.write_bytes(ultralytics(plan, _metadata(**changed)))
    return path


def _manifest_of(engine: Path) -> Manifest:
    return manifest_from_json(manifest_path(engine).read_text(), origin=str(engine))


# What comes out


@pytest.mark.parametrize("folder", [None, "plain", "deep/er"])
def test_a_plan_of_tensorrt_for_rtx(folder: str | None, built: EngineReport, tmp_path: Path) -> None:
    plan = built.path.read_bytes()
    source = _exported(tmp_path, plan)
    out = None if folder is None else tmp_path / folder
    engine = plain_from_ultralytics(source, out=out)
    assert engine == (out or tmp_path) / "best-plain.engine"
    assert engine.read_bytes() == plan
    assert left_in(engine.parent) - {"best.engine"} == {"best-plain.engine", "best-plain.engine.json"}
    found = engine_at(engine)
    assert (found.plan.family, found.plan.offset, found.plan.metadata) == ("tensorrt-rtx", 0, {})
    assert found.manifest == _manifest_of(engine)
    assert found.facts is not None
    assert found.facts.builder_version == built.manifest.engine.builder_version  # type: ignore[union-attr]


def test_the_manifest_says_what_the_header_said(tmp_path: Path) -> None:
    source = _exported(tmp_path, names={"0": "cat", "1": "dog"}, imgsz=[384, 640], batch=4)
    engine = plain_from_ultralytics(source)
    manifest = _manifest_of(engine)
    assert manifest.graph == "head"
    assert manifest.names == {0: "cat", 1: "dog"}
    assert (manifest.imgsz_hw, manifest.batch) == ((384, 640), BatchRange(4, 4))
    assert manifest.anchors == 48 * 80 + 24 * 40 + 12 * 20
    assert (manifest.rows, manifest.task) == (0, "detect")
    assert (manifest.source, manifest.exporter) == ("best.engine", "ultralytics")
    facts = manifest.engine
    assert facts is not None
    assert (facts.builder, facts.builder_version, facts.profile) == ("tensorrt", "10.13.0.35", (4, 4, 4))
    assert (facts.plan_bytes, facts.plan_sha256) == (len(PLAN), plan_file(source).sha256())
    assert (facts.onnx, facts.compute_capabilities, facts.platform) == ("", (), ""), "nobody said"


@pytest.mark.parametrize(("stride", "anchors"), [(16, 1280), (32, 1344), (64, 1360)])
def test_anchors_of_every_stride(stride: int, anchors: int, tmp_path: Path) -> None:
    assert _manifest_of(plain_from_ultralytics(_exported(tmp_path, stride=stride))).anchors == anchors


@pytest.mark.parametrize(
    ("arguments", "precision"),
    [
        ({"quantize": None}, "fp32"),
        ({"half": False, "int8": False}, "fp32"),
        ({"half": True, "int8": False}, "fp16"),
        ({"half": False, "int8": True}, "int8"),
        ({"quantize": 16}, "fp16"),
        ({"quantize": 8}, "int8"),
    ],
)
def test_the_precision_that_was_asked_for(arguments: dict[str, Any], precision: str, tmp_path: Path) -> None:
    """Ultralytics up to 8.3 says `half` and `int8`, later ones `quantize`; a manifest without it says fp32."""
    args = _metadata()["args"] | arguments
    assert _manifest_of(plain_from_ultralytics(_exported(tmp_path, args=args))).precision == precision


def test_names_of_any_script(tmp_path: Path) -> None:
    names = {"0": "Straßenbahn", "1": "自転車", "2": "a'b\"c"}
    engine = plain_from_ultralytics(_exported(tmp_path, names=names))
    assert list(_manifest_of(engine).names.values()) == list(names.values())
    assert engine.read_bytes() == PLAN


@pytest.mark.parametrize(
    "changed",
    [
        {"task": "segment", "head": "Segment"},
        {"task": "pose", "kpt_shape": [17, 3]},
        {"task": "obb"},
        {"task": "classify", "imgsz": [224, 224]},
        {"args": {"nms": True}},
        {"stride": 24},
        {"names": None},
        {"imgsz": None},
        {"batch": None},
    ],
    ids=lambda value: "-".join(map(str, next(iter(value.items())))),
)
def test_a_model_that_does_not_run_here_gets_no_manifest(changed: dict[str, Any], tmp_path: Path) -> None:
    engine = plain_from_ultralytics(_exported(tmp_path, **changed))
    assert engine.read_bytes() == PLAN
    assert left_in(tmp_path) == {"best.engine", "best-plain.engine"}
    assert engine_at(engine).manifest is None


@pytest.mark.parametrize(
    "changed",
    [
        {"stride": [32]},
        {"stride": {"a": 1}},
        {"stride": "32"},
        {"names": ["cat", "dog"]},
        {"names": {"zero": "cat"}},
        {"names": {}},
        {"names": {"0": ["cat"]}},
        {"imgsz": 640},
        {"imgsz": [640]},
        {"imgsz": ["640", "640"]},
        {"imgsz": [0, 0]},
        {"imgsz": [-64, -64]},
        {"imgsz": [1 << 70, 1 << 70]},
        {"imgsz": [True, True]},
        {"batch": 0},
        {"batch": -1},
        {"batch": True},
        {"batch": 1 << 70},
        {"batch": "4"},
        {"args": [1]},
        {"args": "nms"},
        {"task": ["detect"]},
    ],
    ids=str,
)
def test_a_header_that_makes_no_sense(changed: dict[str, Any], tmp_path: Path) -> None:
    """The plan is sound all the same. A manifest that is written can be read, and names a size and a batch."""
    engine = plain_from_ultralytics(_exported(tmp_path, **changed))
    assert engine.read_bytes() == PLAN
    manifest = engine_at(engine).manifest
    if manifest is not None:
        assert 1 <= manifest.batch.minimum <= manifest.batch.maximum <= 1024
        assert min(manifest.imgsz_hw) >= 32
    assert not any(name.endswith((".part", ".new")) for name in left_in(tmp_path))


# The files around it


def test_the_source_is_untouched(tmp_path: Path) -> None:
    source = _exported(tmp_path)
    before, stat = source.read_bytes(), source.stat()
    plain_from_ultralytics(source)
    assert source.read_bytes() == before
    assert source.stat().st_mtime_ns == stat.st_mtime_ns


def test_a_second_time_replaces_the_first(tmp_path: Path) -> None:
    first = plain_from_ultralytics(_exported(tmp_path))
    other = tensorrt_plan(b"another" * 30)
    assert plain_from_ultralytics(_exported(tmp_path, other, batch=2)) == first
    assert first.read_bytes() == other
    assert engine_at(first).manifest == _manifest_of(first)
    assert _manifest_of(first).batch == BatchRange(2, 2)
    assert left_in(tmp_path) == {"best.engine", "best-plain.engine", "best-plain.engine.json"}


def test_a_plan_without_manifest_takes_the_place_of_one_that_had_one(tmp_path: Path) -> None:
    """The manifest of the other one does not stay beside it, which would call the plan damaged."""
    plain_from_ultralytics(_exported(tmp_path))
    engine = plain_from_ultralytics(_exported(tmp_path, tensorrt_plan(b"mask" * 30), task="segment"))
    assert engine_at(engine).manifest is None
    assert left_in(tmp_path) == {"best.engine", "best-plain.engine"}


def test_a_plan_file_of_another_suffix(tmp_path: Path) -> None:
    assert plain_from_ultralytics(_exported(tmp_path, name="best.plan")).name == "best-plain.engine"


@pytest.mark.parametrize("out", ["/proc/nope", "/dev/null/x", "/dev/null"])
def test_a_folder_that_cannot_be_written(out: str, tmp_path: Path) -> None:
    source = _exported(tmp_path)
    with pytest.raises(InputError, match=r"cannot write .* --out"):
        plain_from_ultralytics(source, out=Path(out))
    assert left_in(tmp_path) == {"best.engine"}


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = plain_from_ultralytics(_exported(tmp_path))
    before = {name: (tmp_path / name).read_bytes() for name in left_in(tmp_path)}

    def full(path: Path, content: bytes) -> None:
        path.write_bytes(content[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("trt_yolo.engine.strip.write_durably", full)
    with pytest.raises(InputError, match=r"cannot write to .*No space left"):
        plain_from_ultralytics(first.with_name("best.engine"))
    assert {name: (tmp_path / name).read_bytes() for name in left_in(tmp_path)} == before


# What is refused


def test_an_engine_without_header_is_plain_already(built: EngineReport, tmp_path: Path) -> None:
    plan = tmp_path / "plain.engine"
    plan.write_bytes(PLAN)
    for path in (plan, built.path):
        with pytest.raises(EngineError, match="has no header: it is plain already"):
            plain_from_ultralytics(path, out=tmp_path)
    assert left_in(tmp_path) == {"plain.engine"}


_BAD = [
    ("missing.engine", None, ["missing.engine", "no such file"]),
    ("empty.engine", b"", ["empty.engine", "empty"]),
    ("text.engine", b"this is no engine at all, but a text\n" * 9, ["text.engine", "no TensorRT engine"]),
    ("zip.engine", b"PK\x03\x04" + bytes(99), ["zip.engine", ".pt checkpoint"]),
    ("short.engine", ultralytics(b"", _metadata()), ["short.engine"]),
    ("cut.engine", ultralytics(PLAN, _metadata())[:200], ["cut.engine", "damaged", "copy or build it again"]),
    ("brace.engine", b"\x0a\0\0\0{no json}}" + PLAN, ["brace.engine", "damaged", "no JSON"]),
    ("twice.engine", ultralytics(ultralytics(PLAN, _metadata()), _metadata()), ["twice.engine"]),
    ("graph.engine", ultralytics(b"\x08\x08" + bytes(99), _metadata()), ["graph.engine", "ONNX"]),
]


@pytest.mark.parametrize(("name", "content", "parts"), _BAD, ids=[row[0] for row in _BAD])
def test_what_is_no_engine(
    name: str,
    content: bytes | None,
    parts: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        Path(name).write_bytes(content)
    outcome = run_here(["export", name, "--strip-header"], monkeypatch, capfd)
    assert_one_error(outcome, *parts)
    assert left_in(tmp_path) == (set() if content is None else {name})


# The command


@pytest.fixture
def strip(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Any:
    def run(*arguments: str | Path) -> Outcome:
        return run_here(["export", *map(str, arguments)], monkeypatch, capfd)

    return run


def test_the_command_says_where_it_is(tmp_path: Path, strip: Any) -> None:
    source, out = _exported(tmp_path), tmp_path / "plain"
    outcome = strip(source, "--strip-header", "--out", out)
    assert outcome == Outcome(0, f"wrote {out / 'best-plain.engine'}\n", "")
    assert (out / "best-plain.engine").read_bytes() == PLAN
    assert json.loads((out / "best-plain.engine.json").read_text())["graph"] == "head"
    assert left_in(tmp_path) == {"best.engine", "plain"}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["best.engine"], ["best.engine is an engine already", "--strip-header"]),
        (["best.engine", "--format", "engine"], ["best.engine is an engine already"]),
        (["--strip-header"], ["--strip-header", "give its path"]),
        (["plain.engine", "--strip-header"], ["plain.engine", "plain already"]),
        (["folder.engine", "--strip-header"], ["folder.engine", "folder"]),
        (["best.engine", "--strip-header", "--out", "plain.engine"], ["cannot write", "--out"]),
    ],
    ids=lambda value: " ".join(value)[:40],
)
def test_what_the_command_refuses(
    arguments: list[str], parts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strip: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    _exported(tmp_path)
    (tmp_path / "plain.engine").write_bytes(PLAN)
    (tmp_path / "folder.engine").mkdir()
    assert_one_error(strip(*arguments), *parts)
    assert left_in(tmp_path) == {"best.engine", "plain.engine", "folder.engine"}
