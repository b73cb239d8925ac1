"""The letterbox in the graph gives the processor's pixels, and the model behind it the same detections."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from tests.precision import graphs
from trt_yolo.artifacts.manifest import METADATA_KEY
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.backends.base import Backend
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend, open_session
from trt_yolo.demo.scenes import scene, write_yolo_dataset
from trt_yolo.errors import ExportError, InputError
from trt_yolo.evaluation.parity import LETTERBOX_LEVELS, letterbox_alone
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import ExportOptions, Precision
from trt_yolo.graph.letterbox_in_graph import letterboxing_from_deploy
from trt_yolo.media.images import read_image
from trt_yolo.precision.calibration import Target
from trt_yolo.precision.maker import PrecisionOptions
from trt_yolo.vision.agreement import matched_pairs
from trt_yolo.vision.letterbox import fit_letterbox, letterbox_into

Image = npt.NDArray[np.uint8]

SOURCES = [
    (1080, 1920), (720, 1280), (480, 640), (721, 1283), (1920, 1080), (100, 57), (641, 640), (2160, 3840),
    (640, 640), (320, 320), (3, 5000), (1, 1),
]  # fmt: skip
OPSETS = [(source_hw, opset) for source_hw in ((721, 1283), (100, 57)) for opset in (13, 17, 18, 21)]
CAMERA = (270, 480)


def _both(image: Image, imgsz_hw: tuple[int, int], opset: int) -> tuple[Image, npt.NDArray[np.float32]]:
    """(H, W, 3) each: letterboxed by the processor, and by the graph."""
    letterbox = fit_letterbox(image.shape[:2], imgsz_hw)
    wanted = np.empty((*imgsz_hw, 3), np.uint8)
    letterbox_into(image, wanted, letterbox)
    session = open_session(letterbox_alone(letterbox, opset=opset).SerializeToString(), threads=2)
    (found,) = session.run(None, {"frames": image[None]})
    return wanted, found[0].transpose(1, 2, 0)


@pytest.mark.parametrize(("source_hw", "opset"), [*((one, 19) for one in SOURCES), *OPSETS], ids=str)
def test_pixels_of_noise(source_hw: tuple[int, int], opset: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*source_hw, 3), np.uint8)
    for imgsz_hw in ((640, 640), (384, 640)):
        wanted, found = _both(image, imgsz_hw, opset)
        difference = np.abs(found - wanted)
        assert difference.max() <= LETTERBOX_LEVELS
        assert (difference > 0).mean() < 0.2
        assert (found == np.round(found)).all()


@pytest.mark.parametrize("imgsz_hw", [(640, 640), (384, 640), (320, 320)], ids=str)
def test_pixels_of_photos(val_images: list[Path], imgsz_hw: tuple[int, int]) -> None:
    for path in val_images[:8]:
        wanted, found = _both(read_image(path), imgsz_hw, 19)
        assert np.abs(found - wanted).max() <= LETTERBOX_LEVELS


def test_batches_are_letterboxed_alike() -> None:
    frames = np.stack([scene(index, size=300).image_bgr[:200] for index in range(3)])
    letterbox = fit_letterbox((200, 300), (256, 256))
    session = open_session(letterbox_alone(letterbox, opset=19).SerializeToString(), threads=1)
    (together,) = session.run(None, {"frames": frames})
    for frame, found in zip(frames, together, strict=True):
        np.testing.assert_array_equal(session.run(None, {"frames": frame[None]})[0][0], found)


def test_what_is_the_same_size_is_only_cast() -> None:
    kinds = [node.op_type for node in letterbox_alone(fit_letterbox((64, 64), (64, 64)), opset=19).graph.node]
    assert kinds == ["Cast", "Transpose", "Identity"]


def test_a_graph_that_begins_otherwise() -> None:
    frames = onnx.helper.make_tensor_value_info("frames", onnx.TensorProto.UINT8, [1, 64, 64, 3])
    out = onnx.helper.make_tensor_value_info("out", onnx.TensorProto.UINT8, [1, 64, 64, 3])
    node = onnx.helper.make_node("Identity", ["frames"], ["out"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [frames], [out]))
    with pytest.raises(ExportError, match="frames is read by Identity"):
        letterboxing_from_deploy(model, (100, 100), (64, 64))


def _camera_frame(index: int) -> Image:
    """(270, 480, 3): a demo scene in the middle of a wide frame, each at another place."""
    frame = np.full((*CAMERA, 3), 90, np.uint8)
    image = scene(index).image_bgr
    left = 20 * index % (CAMERA[1] - 256)
    frame[7 : 7 + 256, left : left + 256] = image
    return frame


def _same(ordinary: Backend, letterboxing: Backend, frames: list[Image], *, score: float) -> int:
    """How many detections both found; fails where they differ."""
    imgsz_hw, count = ordinary.manifest.imgsz_hw, 0
    for frame in frames:
        wanted_frame = np.empty((*imgsz_hw, 3), np.uint8)
        letterbox_into(frame, wanted_frame, fit_letterbox(frame.shape[:2], imgsz_hw))
        wanted = ordinary.infer(wanted_frame[None], conf=0.25, iou=0.7)[0]
        found = letterboxing.infer(frame[None], conf=0.25, iou=0.7)[0]
        wanted, found = wanted[wanted[:, 4] > 0], found[found[:, 4] > 0]
        pairs = matched_pairs(
            wanted[:, :4], wanted[:, 5].astype(np.int64), found[:, :4], found[:, 5].astype(np.int64), iou=0.9
        )
        unclear = sum(abs(row[4] - 0.25) < score for row in (*wanted, *found))
        assert len(wanted) + len(found) - 2 * len(pairs) <= unclear
        for one, other in pairs:
            assert abs(wanted[one, 4] - found[other, 4]) <= score
        count += len(pairs)
    return count


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A data.yaml of few scenes."""
    return str(write_yolo_dataset(tmp_path_factory.mktemp("data"), train=16, val=16))


@pytest.mark.parametrize("batch", [None, BatchRange(4, 4), BatchRange(1, 4)], ids=str)
def test_it_finds_the_same(batch: BatchRange | None, tmp_path: Path) -> None:
    made = [
        export_model(
            demo_checkpoint(),
            out=tmp_path,
            options=ExportOptions(batch=batch, source_hw=source_hw, check=batch is None),
        )
        for source_hw in (None, CAMERA)
    ]
    assert [one.manifest.frame_hw for one in made] == [(256, 256), CAMERA]
    assert made[1].artifacts[0].path.stem == made[0].artifacts[0].path.stem + "-from270x480"
    with (
        OnnxRuntimeBackend(made[0].artifacts[0].path) as ordinary,
        OnnxRuntimeBackend(made[1].artifacts[0].path) as letterboxing,
    ):
        assert letterboxing.manifest == made[1].manifest
        assert _same(ordinary, letterboxing, [_camera_frame(index) for index in range(6)], score=0.02) > 10


@pytest.mark.parametrize(
    ("precision", "target", "score"),
    [
        pytest.param("fp16", "tensorrt", 0.03, marks=pytest.mark.slow),
        ("int8", "tensorrt", 0.1),
        pytest.param("int8", "cpu", 0.1, marks=pytest.mark.slow),
    ],
)
def test_every_precision_finds_the_same(
    precision: Precision,
    target: Target,
    score: float,
    data: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs.quicken_int8(monkeypatch, "minmax")
    low_precision = PrecisionOptions(target=target, method="minmax", max_drop=20)
    options = ExportOptions(
        imgsz_hw=(160, 160), precision=precision, data=data, check=False, low_precision=low_precision
    )
    made = export_model(demo_checkpoint(), out=tmp_path, options=options)
    deploy = onnx.load(made.artifacts[0].path)
    changed = letterboxing_from_deploy(deploy, CAMERA, made.manifest.imgsz_hw)
    manifest = dataclasses.replace(made.manifest, source_hw=CAMERA)
    onnx.helper.set_model_props(changed, {METADATA_KEY: manifest.to_json()})
    with (
        OnnxRuntimeBackend(made.artifacts[0].path) as ordinary,
        OnnxRuntimeBackend(changed.SerializeToString()) as letterboxing,
    ):
        assert _same(ordinary, letterboxing, [_camera_frame(index) for index in range(6)], score=score) > 10
    if target == "tensorrt":
        pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
        from trt_yolo.build.engine_from_onnx import engine_from_onnx

        onnx.save(changed, tmp_path / "camera.onnx")
        assert engine_from_onnx(tmp_path / "camera.onnx", check=False).manifest.source_hw == CAMERA


def test_yolov8n_finds_the_same_in_photos(
    yolov8n: Path, yolov8n_onnx: Path, val_images: list[Path], tmp_path: Path
) -> None:
    found = 0
    with OnnxRuntimeBackend(yolov8n_onnx) as reference:
        for path in val_images[:2]:
            image = read_image(path)
            options = ExportOptions(check=False, source_hw=(image.shape[0], image.shape[1]))
            made = export_model(yolov8n, out=tmp_path, options=options).artifacts[0].path
            with OnnxRuntimeBackend(made) as letterboxing:
                found += _same(reference, letterboxing, [image], score=0.02)
    assert found > 4


def test_a_head_graph_has_none() -> None:
    with pytest.raises(InputError, match="--head and --letterbox gpu were both given"):
        ExportOptions(head=True, source_hw=CAMERA)


def test_tensorrt_builds_it(tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    from trt_yolo.build.engine_from_onnx import engine_from_onnx

    options = ExportOptions(batch=BatchRange(1, 8), source_hw=(1080, 1920), check=False)
    made = export_model(demo_checkpoint(), out=tmp_path, options=options).artifacts[0].path
    built = engine_from_onnx(made, check=False)
    assert built.manifest.source_hw == (1080, 1920)
    assert built.path.stat().st_size > 5_000_000
