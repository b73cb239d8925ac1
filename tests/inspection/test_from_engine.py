"""What is inside an engine: its facts, and where no GPU is, the layers of the ONNX beside it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import onnx
import pytest

from tests.engine.plans import gpu, manifest_for, tensorrt_plan, ultralytics, write_pair
from tests.precision import graphs
from trt_yolo.artifacts.manifest import METADATA_KEY, Accuracy, Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.build.engine_from_onnx import engine_from_onnx
from trt_yolo.engine import compatibility
from trt_yolo.engine.options import EngineOptions
from trt_yolo.engine.plan import manifest_path, plan_file
from trt_yolo.errors import BackendError, EngineError, UnsupportedModelError
from trt_yolo.graph.deploy_from_head import deploy_from_head
from trt_yolo.inspection import from_engine
from trt_yolo.inspection.from_engine import inspection_from_engine
from trt_yolo.inspection.from_onnx import inspection_from_onnx
from trt_yolo.inspection.page import page_from_inspection
from trt_yolo.precision.fp16_from_float import fp16_from_float
from trt_yolo.precision.int8_from_float import int8_from_float

pytest.importorskip("onnxruntime")

UNKNOWN = "the layers are not known: TensorRT tells them where the engine loads"
FUSED = "the layers are those of {}, from which it was built; TensorRT fuses them"


@pytest.fixture(autouse=True)
def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.hardware.gpus._driver", lambda: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")


def _built(graph: Path, options: EngineOptions | None = None) -> Path:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    return engine_from_onnx(graph, options=options, check=False).path


@pytest.fixture(scope="module")
def _engine(demo_dynamic_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engine")
    options = EngineOptions(compute_capability=("8.6", "8.9"), opt_level=1, profile=(1, 2, 4))
    return _built(Path(shutil.copy(demo_dynamic_onnx, folder / "demo.onnx")), options)


@pytest.fixture
def engine(_engine: Path, tmp_path: Path) -> Path:
    """An engine with its manifest and its ONNX, that a test may harm."""
    for one in (_engine, manifest_path(_engine), _engine.with_name("demo.onnx")):
        shutil.copy(one, tmp_path)
    return tmp_path / _engine.name


def test_the_facts(engine: Path) -> None:
    found = inspection_from_engine(engine)
    assert (found.path, found.format, found.bytes) == (str(engine), "engine", engine.stat().st_size)
    manifest = found.manifest
    assert manifest is not None
    facts = found.facts
    assert facts["builder"] == f"tensorrt-rtx {plan_file(engine).version_text}"
    assert (facts["runs on"], facts["built on"]) == ("8.6, 8.9", "a machine without a GPU")
    assert facts["batch"] == "smallest 1, best 2, largest 4"
    assert "opt_level 1" in facts["options"]
    assert "builder" not in facts["options"]
    assert facts["built"] == manifest.created
    assert facts["plan"] == f"sha256 {hashlib.sha256(engine.read_bytes()).hexdigest()[:12]}"
    onnx_sha256 = hashlib.sha256(engine.with_name("demo.onnx").read_bytes()).hexdigest()
    assert facts["built from"] == f"demo.onnx, sha256 {onnx_sha256[:12]}"
    assert not {"CUDA", "header", "mAP50-95"} & set(facts), "there was none"
    assert found.loads_here is False
    assert found.why_not.startswith("no NVIDIA GPU answers here")


def test_the_layers_are_those_of_the_onnx(engine: Path) -> None:
    found, of_onnx = inspection_from_engine(engine), inspection_from_onnx(engine.with_name("demo.onnx"))
    assert found.layers == of_onnx.layers
    assert (found.inputs, found.outputs, found.parameters) == (
        of_onnx.inputs, of_onnx.outputs, of_onnx.parameters,
    )  # fmt: skip
    assert found.headline == of_onnx.headline
    assert FUSED.format("demo.onnx") in found.notes
    assert not any("CUDA" in name for name in found.facts)
    assert not set(of_onnx.facts) & set(found.facts), "the opset is not the engine's"


def test_all_of_it_is_json(engine: Path) -> None:
    found = inspection_from_engine(engine)
    again = json.loads(json.dumps(found.to_dict()))
    assert again["format"] == "engine"
    assert again["manifest"]["engine"]["compute_capabilities"] == ["8.6", "8.9"]
    assert len(again["layers"]) == len(found.layers)
    assert "demo.onnx" in page_from_inspection(found)


@pytest.mark.parametrize("change", ["gone", "changed", "folder", "empty"])
def test_an_onnx_that_is_not_the_one_it_was_built_from(change: str, engine: Path) -> None:
    graph, whole = engine.with_name("demo.onnx"), inspection_from_engine(engine)
    content = graph.read_bytes()
    graph.unlink()
    if change == "changed":
        graph.write_bytes(content + b"\0")
    elif change == "folder":
        graph.mkdir()
    elif change == "empty":
        graph.touch()
    found = inspection_from_engine(engine)
    assert (found.layers, found.parameters) == ((), 0)
    assert (found.inputs, found.outputs) == (whole.inputs, whole.outputs), "the manifest says that much"
    assert found.notes == (UNKNOWN,)
    assert (found.quantize_nodes, found.headline) == (None, "")
    assert found.facts["runs on"] == "8.6, 8.9", "the rest is known"
    json.dumps(found.to_dict())
    page_from_inspection(found)


def test_an_engine_without_manifest(engine: Path) -> None:
    manifest_path(engine).unlink()
    found = inspection_from_engine(engine)
    assert found.manifest is None
    assert found.facts == {"builder": f"tensorrt-rtx {plan_file(engine).version_text}"}
    assert found.notes == (UNKNOWN,)


def test_what_a_precision_cost(engine: Path, tmp_path: Path) -> None:
    plan = tensorrt_plan()
    manifest = dataclasses.replace(
        manifest_for(plan),
        accuracy=Accuracy(reference="labels", images=128, map50_95_before=0.37312, map50_95_after=0.37004),
    )
    write_pair(tmp_path / "other.engine", plan, manifest)
    facts = inspection_from_engine(tmp_path / "other.engine").facts
    assert facts["mAP50-95"] == "0.3700, 0.3731 of the float model"
    assert (facts["built on"], facts["CUDA"], facts["runs on"]) == ("NVIDIA GeForce RTX 4090", "13.0", "8.9")


def test_int8(tmp_path: Path) -> None:
    network = graphs.demo_network()
    head = fp16_from_float(int8_from_float(network, graphs.demo_calibration("tensorrt", "minmax")), network)
    manifest = Manifest(
        graph="deploy", names={index: str(index) for index in range(10)}, imgsz_hw=(256, 256),
        batch=BatchRange(1, 1), rows=128, anchors=1344, precision="int8", target="tensorrt",
    )  # fmt: skip
    model = deploy_from_head(head, manifest)
    onnx.helper.set_model_props(model, {METADATA_KEY: manifest.to_json()})
    onnx.save(model, tmp_path / "demo-int8.onnx")
    found = inspection_from_engine(_built(tmp_path / "demo-int8.onnx"))
    kinds = graphs.kinds(model)
    assert found.quantize_nodes == kinds["QuantizeLinear"] > 50
    assert found.dequantize_nodes == kinds["DequantizeLinear"]
    shares = found.multiplying
    assert next(iter(shares)) == "int8", "most of the work"
    assert shares["int8"].convolutions == len(network.quantizable)
    assert shares["int8"].macs > 0.9 * sum(share.macs for share in shares.values())
    assert found.headline.startswith(f"int8: {len(network.quantizable)} convolutions, 9")
    assert found.manifest is not None
    assert found.manifest.precision == "int8"


# Ultralytics' header


def test_the_header_is_shown(tmp_path: Path) -> None:
    metadata = {
        "description": "x" * 999,
        "task": "detect",
        "imgsz": [640, 640],
        "names": {"0": "cat"},
        "args": {"half": True},
    }
    path, content = tmp_path / "best.engine", ultralytics(tensorrt_plan(), metadata)
    path.write_bytes(content)
    found = inspection_from_engine(path)
    assert found.bytes == len(content)
    assert found.facts["builder"] == "tensorrt 10.13.0.35"
    assert "trt-yolo export --strip-header" in found.facts["header"]
    assert found.facts["header: task"] == "detect"
    assert found.facts["header: imgsz"] == "[640, 640]"
    assert found.facts["header: description"] == "x" * 200
    assert "header: names" not in found.facts
    assert found.notes == (UNKNOWN,)
    json.dumps(found.to_dict())


@pytest.mark.parametrize("value", [None, [], {}, "a\x1b[31mb\n", 1 << 99, float("inf"), [[1]], True])
def test_a_header_of_any_kind(value: object, tmp_path: Path) -> None:
    metadata = dict.fromkeys(
        ["task", "imgsz", "names", "stride", "batch", "args", "", "plan", "header"], value
    )
    path = tmp_path / "best.engine"
    path.write_bytes(ultralytics(tensorrt_plan(), metadata))
    found = inspection_from_engine(path)
    json.dumps(found.to_dict())
    page_from_inspection(found)


# Refused


def test_no_engine_and_not_the_one_of_its_manifest(engine: Path) -> None:
    content = engine.read_bytes()
    engine.write_bytes(content[:-1])
    with pytest.raises(EngineError, match="damaged or was replaced"):
        inspection_from_engine(engine)
    engine.write_bytes(b"no engine")
    with pytest.raises(EngineError, match="no TensorRT engine"):
        inspection_from_engine(engine)
    engine.write_bytes(content)
    manifest_path(engine).write_text('{"schema": 1}')
    with pytest.raises(UnsupportedModelError, match="damaged manifest"):
        inspection_from_engine(engine)


# Where it would load


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is made up."""
    monkeypatch.setattr(compatibility, "devices", lambda: [gpu("8.9")])


@pytest.mark.usefixtures("loads")
def test_tensorrt_that_does_not_tell_is_a_note(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: object) -> str:
        raise BackendError("tensorrt-rtx does not load it")

    monkeypatch.setattr(from_engine, "layer_information", refuse)
    found = inspection_from_engine(engine)
    assert (found.loads_here, found.why_not) == (True, "")
    assert found.notes == (
        "TensorRT does not tell its layers: tensorrt-rtx does not load it",
        FUSED.format("demo.onnx"),
    )
    assert found.layers


@pytest.mark.usefixtures("loads")
@pytest.mark.parametrize("text", ["{no json", '{"Layers": 3}', '"text"', ""])
def test_an_answer_that_makes_no_sense_is_a_note(
    text: str, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(from_engine, "layer_information", lambda _: text)
    found = inspection_from_engine(engine)
    assert found.loads_here is True
    assert any("TensorRT does not tell its layers" in note for note in found.notes), found.notes
    assert found.layers, "those of the ONNX"


@pytest.mark.usefixtures("loads")
def test_layers_of_tensorrts_own(engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its inspector's words are recorded from its documentation; nothing runs here."""
    tensor = {"Name": "x", "Location": "Device", "Dimensions": [1, 3, 8, 8], "Format/Datatype": "Half"}
    layer = {
        "Name": "model.0.conv", "LayerType": "CaskConvolution", "Inputs": [tensor],
        "Outputs": [{**tensor, "Name": "y"}], "ParameterType": "Convolution",
    }  # fmt: skip
    text = json.dumps({"Layers": [layer], "Bindings": ["x", "y"]})
    monkeypatch.setattr(from_engine, "layer_information", lambda _: text)
    found = inspection_from_engine(engine)
    (only,) = found.layers
    assert (only.name, only.kind, only.precision) == ("model.0.conv", "CaskConvolution", "fp16")
    assert found.notes == ()
    assert found.facts["runs on"] == "8.6, 8.9"


def test_frames_have_the_size_that_goes_in(tmp_path: Path) -> None:
    """Of an engine with the letterbox in it, the camera's."""
    plan = tensorrt_plan()
    for source_hw, wanted in ((None, (64, 96)), ((270, 480), (270, 480))):
        manifest = dataclasses.replace(manifest_for(plan), source_hw=source_hw)
        write_pair(tmp_path / "model.engine", plan, manifest)
        frames = inspection_from_engine(tmp_path / "model.engine").inputs[0]
        assert (frames.name, frames.shape) == ("frames", ("batch", *wanted, 3))
