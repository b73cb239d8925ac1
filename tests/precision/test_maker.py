"""Precisions of the demo model, made as `trt-yolo export` makes them: what is written, and what is told of it."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.precision import graphs
from trt_yolo.artifacts.manifest import METADATA_KEY
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.demo.scenes import write_yolo_dataset
from trt_yolo.errors import ExportError, InputError
from trt_yolo.evaluation.accuracy import evaluate, samples
from trt_yolo.evaluation.coco import Accuracy
from trt_yolo.evaluation.dataset import dataset_from_yaml, labels_of_all
from trt_yolo.evaluation.head_runner import HeadRunner
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import ExportOptions
from trt_yolo.export.report import ExportReport
from trt_yolo.graph.writer import FLOAT, FLOAT16
from trt_yolo.precision import maker
from trt_yolo.precision.calibration import Target
from trt_yolo.precision.fp16_from_float import LIMIT, overflowing_nodes
from trt_yolo.precision.maker import MethodChoice, PrecisionOptions
from trt_yolo.precision.network import network_of
from trt_yolo.precision.report import PrecisionReport

SIDE = 256
LAST = 6  # convolutions that give boxes and scores: two for each scale

Stage = tuple[str, int, int]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data.yaml of 24 scenes to calibrate and 32 to judge."""
    return write_yolo_dataset(tmp_path_factory.mktemp("data"), train=24, val=32)


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    """Two methods and two images to compare layers with."""
    with pytest.MonkeyPatch.context() as context:
        graphs.quicken_int8(context, "minmax", "l2.4", search=True)
        yield


class _Made(NamedTuple):
    """One export: its report, its graph, and what it told while it worked."""

    report: ExportReport
    model: onnx.ModelProto
    stages: list[Stage]

    @property
    def accuracy(self) -> PrecisionReport:
        assert self.report.accuracy is not None
        return self.report.accuracy

    @property
    def path(self) -> Path:
        return self.report.artifacts[0].path


def _export(
    out: Path, data: Path | None, *, precision: str = "int8", target: Target = "tensorrt",
    method: MethodChoice = "auto", max_drop: float = 1.0, side: int = SIDE, head: bool = False,
    source: Path | None = None,
) -> _Made:  # fmt: skip
    stages: list[Stage] = []
    options = ExportOptions(
        imgsz_hw=(side, side), precision=precision, data=None if data is None else str(data), check=False,  # type: ignore[arg-type]
        head=head, low_precision=PrecisionOptions(max_drop=max_drop, target=target, method=method),
    )  # fmt: skip
    report = export_model(
        source or demo_checkpoint(), out=out, options=options, progress=lambda *stage: stages.append(stage)
    )
    return _Made(report, onnx.load(report.artifacts[0].path), stages)


@pytest.fixture(scope="module")
def int8(data: Path, tmp_path_factory: pytest.TempPathFactory) -> _Made:
    return _export(tmp_path_factory.mktemp("int8"), data)


@pytest.fixture(scope="module")
def cpu(data: Path, tmp_path_factory: pytest.TempPathFactory) -> _Made:
    with pytest.MonkeyPatch.context() as context:
        graphs.quicken_int8(context, "percentile")
        return _export(tmp_path_factory.mktemp("cpu"), data, target="cpu", method="percentile", max_drop=1.5)


@pytest.fixture(scope="module")
def fp16(data: Path, tmp_path_factory: pytest.TempPathFactory) -> _Made:
    return _export(tmp_path_factory.mktemp("fp16"), data, precision="fp16")


@pytest.fixture(scope="module")
def float32(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = ExportOptions(imgsz_hw=(SIDE, SIDE), check=False)
    report = export_model(demo_checkpoint(), out=tmp_path_factory.mktemp("fp32"), options=options)
    return report.artifacts[0].path


def _measured(path: Path, data: Path) -> Accuracy:
    """What `trt-yolo val` says of a file."""
    dataset = dataset_from_yaml(data, split="val")
    with HeadRunner(path, threads=2) as runner:
        return evaluate(runner, samples(dataset.images, labels_of_all(dataset), runner.manifest.imgsz_hw))


def _convolutions(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """The network's convolutions by name."""
    nodes = {node.name: node for node in model.graph.node if node.op_type == "Conv"}
    assert len(nodes) >= 60
    return nodes


def _quantized(model: onnx.ModelProto) -> set[str]:
    """Names of convolutions whose weights and whose input come from a DequantizeLinear, seen through Casts."""
    maker = {output: node for node in model.graph.node for output in node.output}

    def is_dequantized(tensor: str) -> bool:
        node = maker.get(tensor)
        while node is not None and node.op_type == "Cast":
            node = maker.get(node.input[0])
        return node is not None and node.op_type == "DequantizeLinear"

    found = set()
    for name, node in _convolutions(model).items():
        weights, image = is_dequantized(node.input[1]), is_dequantized(node.input[0])
        if weights:
            assert image, f"{name}: int8 weights, and an input that is not"
            found.add(name)
    return found


# INT8 for TensorRT


def test_int8_keeps_its_promises(int8: _Made, float32: Path) -> None:
    accuracy = int8.accuracy
    assert accuracy.drop <= 0.5
    assert accuracy.before.map50_95 > 0.85
    assert accuracy.int8_share >= 0.85
    assert int8.path.stat().st_size <= 0.30 * float32.stat().st_size
    assert accuracy.bytes_after == int8.path.stat().st_size
    assert abs(accuracy.bytes_before - float32.stat().st_size) < 300, "but for the time in the manifest"
    assert (accuracy.precision, accuracy.target, accuracy.reference) == ("int8", "tensorrt", "labels")
    assert (accuracy.held_out_images, accuracy.calibration_images) == (32, 24)
    assert not accuracy.calibration_reused
    assert [one.method for one in accuracy.methods] == ["minmax", "l2.4"]
    best = min(accuracy.methods, key=lambda one: one.error)
    assert accuracy.method == best.method
    assert all(one.error > 0 for one in accuracy.methods)


@pytest.mark.parametrize("name", ["int8", "cpu", "fp16"])
def test_the_numbers_are_those_of_the_written_file(
    name: str, data: Path, float32: Path, request: pytest.FixtureRequest
) -> None:
    made: _Made = request.getfixturevalue(name)
    assert _measured(made.path, data) == made.accuracy.after
    assert _measured(float32, data) == made.accuracy.before
    told = made.report.to_dict()["accuracy"]
    assert told["drop_points"] == pytest.approx(
        100 * (told["map50_95_before"] - told["map50_95_after"]), abs=2e-4
    )
    assert json.loads(json.dumps(told)) == told


@pytest.mark.parametrize("name", ["int8", "cpu"])
def test_kept_layers_are_not_quantized_and_all_others_are(name: str, request: pytest.FixtureRequest) -> None:
    made: _Made = request.getfixturevalue(name)
    kept = [one.name for one in made.accuracy.kept]
    assert len(set(kept)) == len(kept)
    assert _quantized(made.model) == set(_convolutions(made.model)) - set(kept)
    reasons = [one.reason for one in made.accuracy.kept]
    assert reasons.count("gives boxes and scores") == LAST
    assert len(reasons) > LAST or name == "cpu", "something was worth keeping"
    assert {one.precision for one in made.accuracy.kept} == {"fp16" if name == "int8" else "fp32"}
    share = sum(one.macs_share for one in made.accuracy.kept)
    assert made.accuracy.int8_share == pytest.approx(1 - share, abs=1e-4)


def test_what_is_not_int8_is_fp16(int8: _Made) -> None:
    types, quantized = graphs.types_of(int8.model), _quantized(int8.model)
    assert {types[node.output[0]] for node in _convolutions(int8.model).values()} == {FLOAT16}
    stored = graphs.initializers(int8.model)
    for name, node in _convolutions(int8.model).items():
        if name not in quantized:
            assert stored[node.input[1]].dtype == np.float16, name


def test_the_artifact_says_what_it_is(int8: _Made) -> None:
    assert int8.path.name == "demo-int8.onnx"
    names = sorted(path.name for path in int8.path.parent.iterdir())
    assert names == ["demo-int8.onnx", "demo-int8.onnx.json", "demo.calibration.json"]
    manifest = json.loads(int8.path.with_name("demo-int8.onnx.json").read_text())
    inside = {entry.key: entry.value for entry in int8.model.metadata_props}
    assert manifest == json.loads(inside[METADATA_KEY])
    assert (manifest["precision"], manifest["target"]) == ("int8", "tensorrt")
    assert int8.report.artifacts[0].precision == "int8"


def test_progress_tells_all_stages(int8: _Made) -> None:
    told = list(dict.fromkeys(what for what, _, _ in int8.stages))
    assert told[0] == "measuring the float model"
    for what in ("calibrating", "measuring each layer", "measuring int8"):
        assert what in told
    for what in ("calibrating", "measuring each layer"):
        done = [(step, total) for name, step, total in int8.stages if name == what]
        assert [step for step, _ in done] == list(range(1, len(done) + 1)), what
        assert {total for _, total in done} == {len(done)}, what


def _without_time(path: Path) -> bytes:
    model = onnx.load(path)
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            entry.value = json.dumps(json.loads(entry.value) | {"created": ""})
    return bytes(model.SerializeToString(deterministic=True))


def test_a_second_run_reuses_the_cache(
    int8: _Made, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    shutil.copytree(int8.path.parent, out)
    (out / "demo-int8.onnx").unlink()

    def forbidden(*_: object, **__: object) -> None:
        pytest.fail("it was in the cache")

    monkeypatch.setattr(maker, "observe", forbidden)
    monkeypatch.setattr(maker, "sensitivities", forbidden)
    again = _export(out, data)
    assert again.accuracy == dataclasses.replace(int8.accuracy, calibration_reused=True)
    assert _without_time(again.path) == _without_time(int8.path)


class _Asked(Exception):
    pass


def _changed_image(data: Path) -> None:
    image = sorted((data.parent / "images" / "train").iterdir())[5]
    image.write_bytes(image.read_bytes() + b"\0")


def _fewer_images(data: Path) -> None:
    sorted((data.parent / "images" / "train").iterdir())[5].unlink()


def _renamed_images(data: Path) -> None:
    for image in (data.parent / "images" / "train").iterdir():
        image.rename(image.with_name(f"x{image.name}"))


@pytest.mark.parametrize(
    ("change", "target", "reused"),
    [
        (_changed_image, "tensorrt", False),
        (_fewer_images, "tensorrt", False),
        (lambda data: None, "cpu", False),
        (_renamed_images, "tensorrt", True),
    ],
    ids=["changed image", "fewer images", "other target", "renamed images"],
)
def test_a_cache_of_something_else_is_not_reused(
    change: Callable[[Path], None],
    target: Target,
    reused: bool,
    int8: _Made,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(data.parent, tmp_path / "data")
    copied = tmp_path / "data" / "data.yaml"
    copied.write_text(data.read_text().replace(str(data.parent), str(copied.parent)))
    shutil.copytree(int8.path.parent, tmp_path / "out")
    change(copied)

    def asked(*_: object, **__: object) -> None:
        raise _Asked

    monkeypatch.setattr(maker, "observe", asked)
    monkeypatch.setattr(maker, "output_error", asked)
    monkeypatch.setattr(maker.PrecisionMaker, "_overflowing", asked)  # what follows where it is reused
    before = (tmp_path / "out" / "demo-int8.onnx").read_bytes()
    calls: list[str] = []
    monkeypatch.setattr(maker, "observe", lambda *_, **__: calls.append("observe") or asked())
    with pytest.raises(_Asked):
        _export(tmp_path / "out", copied, target=target)
    assert calls == ([] if reused else ["observe"])
    assert (tmp_path / "out" / "demo-int8.onnx").read_bytes() == before


# INT8 for a CPU


def test_int8_for_a_cpu_has_no_half_precision(cpu: _Made, float32: Path) -> None:
    assert FLOAT16 not in set(graphs.types_of(cpu.model).values())
    accuracy = cpu.accuracy
    assert (accuracy.target, accuracy.method) == ("cpu", "percentile")
    assert [one.method for one in accuracy.methods] == ["percentile"]
    assert accuracy.drop <= 1.0
    assert accuracy.int8_share >= 0.9
    assert cpu.path.stat().st_size <= 0.32 * float32.stat().st_size
    assert cpu.path.name == "demo-int8-cpu.onnx"
    assert (cpu.path.parent / "demo-cpu.calibration.json").is_file()
    manifest = json.loads(cpu.path.with_name("demo-int8-cpu.onnx.json").read_text())
    assert (manifest["precision"], manifest["target"]) == ("int8", "cpu")


def test_the_speed_is_measured_for_a_cpu_alone(cpu: _Made, int8: _Made) -> None:
    assert cpu.accuracy.speedup is not None
    assert cpu.accuracy.speedup > 0
    assert cpu.accuracy.to_dict()["speedup"] == round(cpu.accuracy.speedup, 3)
    assert ("measuring the speed", 0, 0) in cpu.stages
    assert int8.accuracy.speedup is None


# FP16


def test_fp16_keeps_its_promises(fp16: _Made, float32: Path) -> None:
    accuracy = fp16.accuracy
    assert abs(accuracy.drop) <= 0.1
    assert fp16.path.stat().st_size <= 0.55 * float32.stat().st_size
    assert (accuracy.precision, accuracy.kept, accuracy.methods, accuracy.int8_share) == ("fp16", [], [], 0)
    names = sorted(path.name for path in fp16.path.parent.iterdir())
    assert names == ["demo-fp16.onnx", "demo-fp16.onnx.json"], "no calibration, no cache"
    types = graphs.types_of(fp16.model)
    assert {types[node.output[0]] for node in _convolutions(fp16.model).values()} == {FLOAT16}


def _other_names(head: Path, folder: Path) -> Path:
    """The demo's head graph as that of a model that nobody has images for."""
    model = onnx.load(head)
    for entry in model.metadata_props:
        if entry.key == METADATA_KEY:
            manifest = json.loads(entry.value)
            manifest["names"] = {key: f"thing {key}" for key in manifest["names"]}
            entry.value = json.dumps(manifest)
        elif entry.key == "names":
            entry.value = str({index: f"thing {index}" for index in range(10)})
    path = folder / "things-head.onnx"
    onnx.save(model, path)
    return path


def test_fp16_without_images_is_written_with_a_warning(
    demo_head_onnx: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = _other_names(demo_head_onnx, tmp_path)
    made = _export(tmp_path / "out", None, precision="fp16", source=source)
    assert made.report.accuracy is None
    assert made.report.to_dict()["accuracy"] is None
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "the accuracy of FP16 was not measured" in warning
    assert "--data" in warning
    assert made.path.name == "things-fp16.onnx"
    types = graphs.types_of(made.model)
    assert {types[node.output[0]] for node in _convolutions(made.model).values()} == {FLOAT16}


def test_int8_without_images_is_an_error(demo_head_onnx: Path, tmp_path: Path) -> None:
    source = _other_names(demo_head_onnx, tmp_path)
    with pytest.raises(InputError, match="give --data"):
        _export(tmp_path / "out", None, source=source)
    assert not (tmp_path / "out").exists()


def test_fp16_with_images_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="missing"):
        _export(tmp_path / "out", tmp_path / "missing", precision="fp16")
    assert not (tmp_path / "out").exists()


def _scaled(head: Path, folder: Path, factor: float) -> tuple[Path, str, str]:
    """The demo's head graph with one convolution's output that much larger, and what reads it that much smaller.

    Only the last ReLU-free pair does not change what the model says: the second convolution of a box branch
    and, after SiLU, which is nearly linear for what is large, the last one.
    """
    model = onnx.load(head)
    network = network_of(model, origin="demo")
    (last,) = [one for one in network.convolutions if one.name == "model.22.cv2.0.2.conv"]
    (large,) = [one for one in network.convolutions if one.name == "model.22.cv2.0.1.conv"]
    for name, by in ((large.weight, factor), (large.bias, factor), (last.weight, 1 / factor)):
        tensor = next(one for one in model.graph.initializer if one.name == name)
        array = numpy_helper.to_array(tensor).astype(np.float32) * np.float32(by)
        tensor.CopyFrom(numpy_helper.from_array(array, name))
    path = folder / "large-head.onnx"
    onnx.save(model, path)
    return path, large.output, last.output


def test_what_overflows_stays_fp32(demo_head_onnx: Path, small: Path, tmp_path: Path) -> None:
    path, large, last = _scaled(demo_head_onnx, tmp_path, 20_000.0)
    network = network_of(onnx.load(path), origin="large")
    frames = graphs.demo_frames(4)
    overflowing = overflowing_nodes(network, lambda: frames, threads=2)
    assert {large, last} <= set(overflowing)
    assert len(overflowing) < 8
    made = _export(tmp_path / "out", small, precision="fp16", source=path, head=True)
    types = graphs.types_of(made.model)
    assert {types[large], types[last]} == {FLOAT}
    stored = graphs.initializers(made.model)
    for name, node in _convolutions(made.model).items():
        wanted = FLOAT if node.output[0] in overflowing else FLOAT16
        assert types[node.output[0]] == wanted or node.output[0] in (large, last), name
        assert stored[node.input[1]].dtype == (np.float32 if wanted == FLOAT else np.float16), name
    kept = {one.name: one for one in made.accuracy.kept}
    assert set(kept) == {"model.22.cv2.0.1.conv", "model.22.cv2.0.2.conv"}
    assert {(one.precision, one.reason) for one in kept.values()} == {("fp32", "overflows FP16")}
    before, after = (graphs.outputs_of(onnx.load(one), frames) for one in (path, made.path))
    seen = before[:, 4:].max(axis=1, keepdims=True) > 0.25
    np.testing.assert_allclose(*(np.where(seen, one, 0) for one in (after, before)), atol=0.5)


def test_the_demo_itself_does_not_overflow() -> None:
    assert overflowing_nodes(graphs.demo_network(), lambda: graphs.demo_frames(2), threads=2) == []
    assert pytest.approx(65504 / 4) == LIMIT


# The gate


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data.yaml of 16 scenes and 24."""
    return write_yolo_dataset(tmp_path_factory.mktemp("small"), train=16, val=24)


@pytest.fixture(scope="module")
def loose(small: Path, tmp_path_factory: pytest.TempPathFactory) -> _Made:
    """Everything in int8, by the method that suits it least, whatever it costs."""
    with pytest.MonkeyPatch.context() as context:
        graphs.quicken_int8(context, "entropy", search=True)
        context.setattr(maker, "FLOAT_SHARE", {"tensorrt": 0.0, "cpu": 0.0})
        return _export(tmp_path_factory.mktemp("loose"), small, method="entropy", max_drop=100, side=128)


@pytest.fixture
def cached(loose: _Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the calibration cache of `loose` alone."""
    graphs.quicken_int8(monkeypatch, "entropy", search=True)
    monkeypatch.setattr(maker, "FLOAT_SHARE", {"tensorrt": 0.0, "cpu": 0.0})
    shutil.copy(loose.path.parent / "demo-128.calibration.json", tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_gate_puts_layers_back_and_says_so(loose: _Made, cached: Path, small: Path) -> None:
    assert [one.reason for one in loose.accuracy.kept] == ["gives boxes and scores"] * LAST
    assert loose.accuracy.drop > 0.3, "or there is nothing to be put back"
    allowed = round(loose.accuracy.drop * 0.6, 3)
    strict = _export(cached, small, method="entropy", max_drop=allowed, side=128)
    assert strict.accuracy.calibration_reused
    assert strict.accuracy.drop <= allowed
    put_back = [one for one in strict.accuracy.kept if one.reason.startswith("put back")]
    assert put_back
    assert put_back[0].reason == f"put back: the drop was {loose.accuracy.drop:.2f} points"
    for one in put_back:
        assert one.precision == "fp16"
        assert one.error is not None
    assert strict.accuracy.int8_share == pytest.approx(
        loose.accuracy.int8_share - sum(one.macs_share for one in put_back), abs=1e-4
    )
    kept = {one.name for one in strict.accuracy.kept}
    assert _quantized(strict.model) == set(_convolutions(strict.model)) - kept
    assert {one.name for one in put_back} <= _quantized(loose.model)


@pytest.mark.slow
def test_a_gate_that_cannot_hold_writes_no_artifact(
    cached: Path, small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every scale is far too small, and little may be put back."""
    path = cached / "demo-128.calibration.json"
    content = json.loads(path.read_text())
    for activation in content["methods"]["entropy"]["activations"].values():
        activation[0] = float(np.float16(max(activation[0] / 256, 2**-14)))
    path.write_text(json.dumps(content))
    monkeypatch.setattr(maker, "LEAST_INT8_SHARE", 0.9)
    with pytest.raises(ExportError) as error:
        _export(cached, small, max_drop=0, method="entropy", side=128)
    for part in ("int8 (entropy calibration) loses", "at best (0 allowed)", "nothing was written"):
        assert part in str(error.value)
    assert [path.name for path in cached.iterdir()] == ["demo-128.calibration.json"]


# Options


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"max_drop": -0.1}, ["--max-drop -0.1", "such as 1.0"]),
        ({"max_drop": float("nan")}, ["--max-drop nan"]),
        ({"max_drop": float("inf")}, ["--max-drop inf"]),
        ({"target": "gpu"}, ["--target 'gpu'", "tensorrt, cpu"]),
        ({"method": "best"}, ["--calib-method 'best'", "auto", "entropy"]),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(InputError) as error:
        PrecisionOptions(**options)  # type: ignore[arg-type]
    assert all(part in str(error.value) for part in parts)


@pytest.mark.parametrize(
    ("precision", "opset", "works"), [("int8", 18, False), ("int8", 19, True), ("fp16", 13, True)]
)
def test_opsets(precision: str, opset: int, works: bool) -> None:
    if works:
        ExportOptions(precision=precision, opset=opset)  # type: ignore[arg-type]
    else:
        with pytest.raises(InputError, match="needs opset 19"):
            ExportOptions(precision=precision, opset=opset)  # type: ignore[arg-type]
