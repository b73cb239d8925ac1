"""`trt_yolo.load` and the model it gives: any image, any number of them, from any thread."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

import trt_yolo
from tests.assertions import assert_detections_match
from trt_yolo import Detections, Model
from trt_yolo.backends.null import NullBackend
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import BackendError, CheckpointError, ImageError, InputError, UnsupportedModelError
from trt_yolo.export.weights import demo_checkpoint
from trt_yolo.runtime.inline import Thresholds
from trt_yolo.vision.matching import iou_matrix, matched_pairs

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def model(demo_onnx: Path) -> Model:
    return trt_yolo.load(demo_onnx)


@pytest.fixture(scope="module", params=["static-1", "static-4", "dynamic-1:4"])
def any_batch(request: pytest.FixtureRequest) -> Model:
    names = {"static-1": "demo_onnx", "static-4": "demo_static4_onnx", "dynamic-1:4": "demo_dynamic_onnx"}
    return trt_yolo.load(request.getfixturevalue(names[request.param]))


def _images() -> list[Image]:
    """Scenes of many sizes, and what may go wrong: views, a single pixel, a strip."""
    whole = [scene(index).image_bgr for index in range(4)]
    return [
        whole[0],
        whole[1][:180, 20:250],
        cv2.resize(whole[2], (500, 333)),
        whole[3][:, ::-1],
        np.ascontiguousarray(whole[0].transpose(1, 0, 2)),
        cv2.resize(whole[1], (97, 411)),
        np.zeros((1, 1, 3), np.uint8),
        whole[2][::2, ::2],
        whole[3][100:103],
    ]


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return _images()


@pytest.fixture(scope="module")
def alone(model: Model, images: list[Image]) -> list[Detections]:
    """What each of the images holds, found one by one."""
    found = [model(image) for image in images]
    assert sum(map(len, found)) > 20
    return found


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_lists_of_any_length_give_what_each_image_gives(
    any_batch: Model, images: list[Image], alone: list[Detections], count: int
) -> None:
    found = any_batch(images[:count])
    assert len(found) == count
    for got, wanted, image in zip(found, alone, images, strict=False):
        assert got.image_hw == image.shape[:2]
        assert_detections_match(got, wanted)


def test_what_is_found_is_in_order_in_the_image_and_named(
    alone: list[Detections], images: list[Image]
) -> None:
    for found, image in zip(alone, images, strict=True):
        height, width = image.shape[:2]
        assert (found.xyxy >= 0).all()
        assert (found.xyxy <= [width, height, width, height]).all()
        assert (found.xyxy[:, :2] <= found.xyxy[:, 2:]).all()
        assert (np.diff(found.confidence) <= 0).all()
        assert (found.confidence > 0.25).all()
        assert (found.xyxy.dtype, found.confidence.dtype, found.class_id.dtype) == (
            np.float32,
            np.float32,
            np.int64,
        )
        assert found.names == {digit: str(digit) for digit in range(10)}


@pytest.mark.parametrize("shape", [(512, 640), (620, 512)])
def test_digits_are_found_where_they_were_painted(model: Model, shape: tuple[int, int]) -> None:
    """Each scene lies in the lower right corner of a grey image of that shape."""
    painted = matched = 0
    for index in range(6):
        one, image = scene(index, size=512), np.full((*shape, 3), 114, np.uint8)
        image[-512:, -512:] = one.image_bgr
        offset_xy = np.array([shape[1] - 512, shape[0] - 512] * 2, np.float32)
        found = model(image)
        pairs = matched_pairs(found.xyxy, found.class_id, one.boxes_xyxy + offset_xy, one.class_id, iou=0.5)
        painted, matched = painted + len(one.class_id), matched + len(pairs)
    assert matched >= 0.7 * painted, f"{matched} of {painted} digits"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_path_gives_what_its_pixels_give(
    model: Model, alone: list[Detections], images: list[Image], tmp_path: Path, kind: type
) -> None:
    path = tmp_path / "é 日本.png"
    path.write_bytes(cv2.imencode(".png", images[1])[1].tobytes())
    assert_detections_match(model(kind(path)), alone[1])
    listed = model([kind(path), images[0], path])
    for got, position in zip(listed, (1, 0, 1), strict=True):
        assert_detections_match(got, alone[position])


def test_a_tuple_is_a_list(model: Model, images: list[Image], alone: list[Detections]) -> None:
    first, second = model((images[0], images[1]))
    assert_detections_match(first, alone[0])
    assert_detections_match(second, alone[1])


@pytest.mark.parametrize(
    "classes",
    [[], [0], {1, 7}, range(10), (99,), np.array([3, 5])],
    ids=["none", "0", "1-7", "all", "99", "3-5"],
)
def test_classes_keeps_those_only(model: Model, images: list[Image], classes: Any) -> None:
    everything = model(images[0], conf=0.01)
    wanted = everything[np.isin(everything.class_id, list(classes))]
    assert_detections_match(model(images[0], conf=0.01, classes=classes), wanted)


@pytest.mark.parametrize("max_det", [1, 3, 10_000])
def test_max_det_keeps_the_best(model: Model, images: list[Image], max_det: int) -> None:
    everything = model(images[0], conf=0.01)
    assert len(everything) > 3
    assert_detections_match(model(images[0], conf=0.01, max_det=max_det), everything[:max_det])


def test_max_det_counts_the_classes_asked_for(model: Model, images: list[Image]) -> None:
    everything = model(images[0], conf=0.01)
    last = int(everything.class_id[-1])
    best = everything[everything.class_id == last][:1]
    assert_detections_match(model(images[0], conf=0.01, max_det=1, classes=[last]), best)


def test_conf_keeps_what_is_above_it(model: Model, images: list[Image]) -> None:
    everything = model(images[0], conf=0.01)
    for conf in (0.01, 0.3, 0.9, 1.0):
        wanted = everything[everything.confidence > conf]
        assert_detections_match(model(images[0], conf=conf), wanted)


def test_iou_0_leaves_no_overlap_within_a_class(model: Model, images: list[Image]) -> None:
    found = model(images[0], conf=0.01, iou=0)
    same = (found.class_id[:, None] == found.class_id) & ~np.eye(len(found), dtype=bool)
    assert same.any()
    assert not iou_matrix(found.xyxy, found.xyxy)[same].any()


@pytest.mark.parametrize(
    "options",
    [
        *({name: value} for name in ("conf", "iou") for value in (-0.1, 1.1, 25, float("nan"), float("inf"))),
        {"max_det": 0},
        {"max_det": -1},
    ],
    ids=str,
)
def test_thresholds_out_of_range_are_refused(model: Model, options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(InputError, match=f"{name} is {value}; give"):
        model(np.zeros((8, 8, 3), np.uint8), **options)
    with pytest.raises(InputError, match=f"{name} is {value}; give"):
        model([], **options)


BAD_IMAGES = [
    pytest.param(np.zeros((8, 8, 3), np.float32), r"float32 \(8, 8, 3\)", id="float"),
    pytest.param(np.zeros((8, 8, 3), np.uint16), r"uint16 \(8, 8, 3\)", id="16-bit"),
    pytest.param(np.zeros((8, 8), np.uint8), r"uint8 \(8, 8\).*GRAY2BGR", id="grey"),
    pytest.param(np.zeros((8, 8, 1), np.uint8), r"uint8 \(8, 8, 1\)", id="one-channel"),
    pytest.param(np.zeros((8, 8, 4), np.uint8), r"uint8 \(8, 8, 4\)", id="alpha"),
    pytest.param(np.zeros((3, 8, 8), np.uint8), r"uint8 \(3, 8, 8\)", id="channels-first"),
    pytest.param(np.zeros((2, 8, 8, 3), np.uint8), r"uint8 \(2, 8, 8, 3\)", id="batch"),
    pytest.param(np.zeros((0, 8, 3), np.uint8), r"uint8 \(0, 8, 3\)", id="no-rows"),
    pytest.param(np.zeros((8, 0, 3), np.uint8), r"uint8 \(8, 0, 3\)", id="no-columns"),
    pytest.param(np.array(None), "object", id="object"),
    pytest.param(None, "a NoneType is no image", id="none-as-cv2-imread-gives"),
    pytest.param(5, "a int is no image", id="number"),
    pytest.param(SimpleNamespace(), "a SimpleNamespace is no image", id="anything"),
]


@pytest.mark.parametrize(("image", "message"), BAD_IMAGES)
@pytest.mark.parametrize("wrap", [lambda image: image, lambda image: [image]], ids=["alone", "listed"])
def test_what_is_no_image_is_refused(
    model: Model, image: Any, message: str, wrap: Callable[[Any], Any]
) -> None:
    with pytest.raises(ImageError, match=message):
        model(wrap(image))


def test_a_bad_file_in_a_list_is_named_and_the_model_goes_on(
    any_batch: Model, images: list[Image], alone: list[Detections], tmp_path: Path
) -> None:
    path = tmp_path / "text.jpg"
    path.write_text("text")
    for bad, message in ((path, "text.jpg is no image"), (tmp_path / "gone.jpg", "cannot read .*gone.jpg")):
        with pytest.raises(ImageError, match=message):
            any_batch([images[0], images[1], bad])
    assert_detections_match(any_batch(images[0]), alone[0])


def test_four_threads_at_once_get_what_they_asked_for(
    any_batch: Model, images: list[Image], alone: list[Detections]
) -> None:
    order = [position for start in range(4) for position in np.roll(range(3), start).tolist()]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda position: any_batch(images[position]), order))
    for got, position in zip(found, order, strict=True):
        assert got.image_hw == images[position].shape[:2]
        assert_detections_match(got, alone[position])


def test_run_batch_says_what_each_stage_took(model: Model, images: list[Image]) -> None:
    found, times = model.run_batch(images[:1], Thresholds())
    assert len(found) == 1
    assert min(times.letterbox_ms, times.infer_ms, times.post_ms) > 0


def test_the_null_backend_answers_every_image_in_order(demo_dynamic_onnx: Path) -> None:
    marked = [np.full((256, 256, 3), mark, np.uint8) for mark in range(11)]
    with trt_yolo.load(demo_dynamic_onnx, backend="null") as model:
        found = model(marked)
    assert [one.class_id.tolist() for one in found] == [[mark % 10] for mark in range(11)]
    for one in found:
        np.testing.assert_array_equal(one.xyxy, [[0, 0, 256, 256]])
        assert one.confidence.tolist() == [1]


def test_leaving_the_context_closes_the_backend(model: Model) -> None:
    closed: list[bool] = []

    class Closing(NullBackend):
        def close(self) -> None:
            closed.append(True)

    with Model(Closing(model.manifest)) as one:
        assert closed == []
        one.close()
    assert closed == [True, True]


def test_a_checkpoint_is_exported_into_the_cache_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: list[Image], alone: list[Detections]
) -> None:
    cache, source = tmp_path / "cache", tmp_path / "mine.pt"
    monkeypatch.setenv("TRT_YOLO_CACHE", str(cache))
    shutil.copy(demo_checkpoint(), source)
    with trt_yolo.load(source) as model:
        assert_detections_match(model(images[0]), alone[0])
    (kept,) = cache.rglob("*.onnx")
    assert kept.name == "mine.onnx"
    before = kept.stat().st_mtime_ns
    with trt_yolo.load(str(source)) as model:
        assert_detections_match(model(images[0]), alone[0])
    assert [path.stat().st_mtime_ns for path in cache.rglob("*.onnx")] == [before]
    assert not list(cache.rglob("*.part"))


def test_nothing_named_is_the_demo_for_threads_that_load_it_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: list[Image], alone: list[Detections]
) -> None:
    monkeypatch.setenv("TRT_YOLO_CACHE", str(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        loaded = [future.result() for future in [pool.submit(trt_yolo.load) for _ in range(3)]]
    for model in loaded:
        assert model.manifest.source == "demo.pt"
        assert_detections_match(model(images[0]), alone[0])
    assert not list(tmp_path.rglob("*.part"))


def test_a_damaged_checkpoint_leaves_nothing_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, source = tmp_path / "cache", tmp_path / "cut.pt"
    monkeypatch.setenv("TRT_YOLO_CACHE", str(cache))
    data = demo_checkpoint().read_bytes()
    source.write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"cut\.pt"):
        trt_yolo.load(source)
    assert not list(cache.rglob("*.*"))


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        pytest.param("gone.onnx", InputError, "no such file: gone.onnx", id="missing-onnx"),
        pytest.param("gone.pt", InputError, "no such file: gone.pt", id="missing-pt"),
        pytest.param("yolov8q", InputError, "no such file: yolov8q", id="unknown-name"),
        pytest.param("", InputError, "", id="empty-name"),
        pytest.param("x" * 300, InputError, "no such file: xxx", id="name-too-long"),
        pytest.param("folder", InputError, "folder", id="folder"),
        pytest.param("folder.onnx", InputError, "is a folder", id="folder-named-onnx"),
        pytest.param("folder.pt", InputError, "folder.pt", id="folder-named-pt"),
        pytest.param("notes.txt", InputError, "is no .pt or .onnx file", id="text"),
        pytest.param("text.onnx", BackendError, "cannot load text.onnx", id="text-named-onnx"),
        pytest.param("text.pt", CheckpointError, "text.pt", id="text-named-pt"),
        pytest.param("empty.pt", CheckpointError, "empty.pt", id="empty-pt"),
        pytest.param("yolov8n-seg", UnsupportedModelError, "another task (seg)", id="another-task"),
        pytest.param("a.engine", InputError, "a.engine is a TensorRT engine", id="engine"),
        pytest.param("A.ENGINE", InputError, "A.ENGINE is a TensorRT engine", id="engine-in-capitals"),
        pytest.param("a.plan", InputError, "a.plan is a TensorRT engine", id="plan"),
    ],
)
def test_load_refuses_what_is_no_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, error: type[Exception], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "folder.onnx", "folder.pt"):
        (tmp_path / name).mkdir()
    for name in ("notes.txt", "text.onnx", "text.pt", "a.engine"):
        (tmp_path / name).write_text("text")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(error) as caught:
        trt_yolo.load(model)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads is 0; give"),
        ({"threads": -2}, "threads is -2; give"),
        ({"backend": "tensorrt"}, "no backend 'tensorrt'; give onnxruntime or null"),
        ({"backend": ""}, "no backend ''; give onnxruntime or null"),
    ],
)
def test_load_refuses_bad_options(demo_onnx: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trt_yolo.load(demo_onnx, **options)
