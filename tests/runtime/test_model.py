"""`trt_yolo.load` and the model it gives: any image, any number of them, from any thread."""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

import trt_yolo
from tests.assertions import assert_detections_match
from trt_yolo import Detections
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import (
    BackendError,
    CheckpointError,
    ClosedError,
    EngineError,
    ImageError,
    InputError,
    UnsupportedModelError,
    WorkerError,
)
from trt_yolo.runtime.model import Model
from trt_yolo.vision.agreement import iou_matrix, matched_pairs

Image = npt.NDArray[np.uint8]


BATCHES = {"static-1": "demo_onnx", "static-4": "demo_static4_onnx", "dynamic-1:4": "demo_dynamic_onnx"}


@pytest.fixture(scope="module")
def model(demo_onnx: Path) -> Iterator[Model]:
    with trt_yolo.load(demo_onnx) as one:
        yield one


@pytest.fixture(scope="module", params=BATCHES)
def any_batch(request: pytest.FixtureRequest) -> Iterator[Model]:
    with trt_yolo.load(request.getfixturevalue(BATCHES[request.param])) as one:
        yield one


@pytest.fixture(
    scope="module",
    params=[(0, "dynamic-1:4"), *((workers, batch) for workers in (1, 2) for batch in BATCHES)],
    ids=lambda param: f"{param[0]}-workers-{param[1]}",
)
def any_way(request: pytest.FixtureRequest) -> Iterator[Model]:
    """Any number of workers, any batch."""
    workers, batch = request.param
    with trt_yolo.load(request.getfixturevalue(BATCHES[batch]), workers=workers) as one:
        yield one


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


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "options",
    [{"classes": 5}, {"max_det": 2.5}, {"conf": "0.5"}, {"conf": np.array([0.5])}, {"iou": None}],
    ids=str,
)
def test_thresholds_of_another_type_are_the_error_of_who_gave_them_alone(
    demo_onnx: Path, options: dict[str, Any]
) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with trt_yolo.load(demo_onnx, backend="null") as one:
        uses: list[Callable[[], object]] = [
            lambda: one(image, **options),
            lambda: one([image, image], **options),
            lambda: one.submit(image, **options).result(20),
            lambda: list(one.stream([image], **options)),
        ]
        for use in uses:
            with pytest.raises((InputError, TypeError)):
                use()
        assert len(one(image)) == 1
        assert len(one.submit(image).result(20)) == 1
        assert one.stats().waiting == 0


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


@pytest.fixture(scope="module")
def few(images: list[Image]) -> list[Image]:
    """Five of them, for what is tried in many ways: no whole number of batches."""
    return images[2:7]


@pytest.fixture(scope="module")
def few_alone(alone: list[Detections]) -> list[Detections]:
    return alone[2:7]


def _assert_all_match(found: list[Detections], alone: list[Detections]) -> None:
    assert len(found) == len(alone)
    for got, wanted in zip(found, alone, strict=True):
        assert got.image_hw == wanted.image_hw
        assert_detections_match(got, wanted)


def _files(images: list[Image], folder: Path) -> list[Path]:
    """The images as files, whose order by name is theirs."""
    paths = [folder / f"{number}.png" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    return paths


def test_any_number_of_workers_finds_the_same_by_calls(
    any_way: Model, images: list[Image], alone: list[Detections]
) -> None:
    _assert_all_match([any_way(image) for image in images], alone)
    _assert_all_match(any_way(images), alone)


def test_any_number_of_workers_finds_the_same_in_files(
    any_way: Model, few: list[Image], few_alone: list[Detections], tmp_path: Path
) -> None:
    paths = _files(few, tmp_path)
    _assert_all_match([any_way(paths[1])], [few_alone[1]])
    _assert_all_match(any_way(paths), few_alone)
    _assert_all_match(any_way([paths[0], few[1], *paths[2:]]), few_alone)
    results = list(any_way.stream(tmp_path))
    _assert_all_match([result.detections for result in results], few_alone)
    assert [result.path for result in results] == paths
    _assert_all_match([any_way.submit(str(path)).result(30) for path in paths], few_alone)


def test_any_number_of_workers_finds_the_same_later(
    any_way: Model, few: list[Image], few_alone: list[Detections]
) -> None:
    futures = [any_way.submit(image) for image in few]
    _assert_all_match([future.result(30) for future in futures], few_alone)


@pytest.mark.parametrize("ordered", [True, False], ids=["ordered", "unordered"])
@pytest.mark.parametrize("kind", [list, iter], ids=["list", "generator"])
def test_any_number_of_workers_finds_the_same_in_a_stream(
    any_way: Model, few: list[Image], few_alone: list[Detections], kind: Callable[[Any], Any], ordered: bool
) -> None:
    results = list(any_way.stream(kind(few), ordered=ordered))
    indices = [result.index for result in results]
    assert sorted(indices) == list(range(len(few)))
    assert not ordered or indices == sorted(indices)
    in_order = sorted(results, key=lambda result: result.index)
    _assert_all_match([result.detections for result in in_order], few_alone)
    for result in results:
        assert result.times is not None
        assert result.times.infer > 0


@pytest.mark.parametrize("is_async", [False, True], ids=["plain-source", "asynchronous-source"])
def test_any_number_of_workers_finds_the_same_in_an_event_loop(
    any_way: Model, few: list[Image], few_alone: list[Detections], is_async: bool
) -> None:
    async def source() -> AsyncIterator[Image]:
        for image in few:
            await asyncio.sleep(0)
            yield image

    async def collected() -> list[Detections]:
        given = source() if is_async else few
        return [result.detections async for result in any_way.astream(given)]

    _assert_all_match(asyncio.run(collected()), few_alone)


def test_any_number_of_workers_serves_many_threads_that_use_it_in_every_way(
    any_way: Model, few: list[Image], few_alone: list[Detections]
) -> None:
    async def collected() -> list[Detections]:
        return [result.detections async for result in any_way.astream(few)]

    ways: list[Callable[[], list[Detections]]] = [
        lambda: [any_way(image) for image in few],
        lambda: any_way(few),
        lambda: [future.result(30) for future in [any_way.submit(image) for image in few]],
        lambda: [result.detections for result in any_way.stream(few)],
        lambda: [result.detections for result in any_way.stream(iter(few))],
        lambda: asyncio.run(collected()),
    ]
    with ThreadPoolExecutor(len(ways)) as threads:
        for running in [threads.submit(way) for way in ways]:
            _assert_all_match(running.result(60), few_alone)


def test_any_number_of_workers_takes_the_same_thresholds(
    any_way: Model, model: Model, few: list[Image]
) -> None:
    options: dict[str, Any] = {"conf": 0.01, "iou": 0.4, "classes": [1, 3, 5, 7], "max_det": 5}
    wanted = [model(image, **options) for image in few]
    assert sum(map(len, wanted)) > 3
    _assert_all_match(any_way(few, **options), wanted)
    _assert_all_match([any_way.submit(image, **options).result(30) for image in few], wanted)
    _assert_all_match([result.detections for result in any_way.stream(few, **options)], wanted)


def test_streams_of_different_thresholds_do_not_mix(any_way: Model, few: list[Image]) -> None:
    few, many = any_way.stream(few, conf=0.9), any_way.stream(iter(few), conf=0.01)
    for low, high in zip(many, few, strict=True):
        assert low.index == high.index
        kept = low.detections[low.detections.confidence > 0.9]
        assert_detections_match(high.detections, kept)


def test_what_was_submitted_is_the_callers_again(
    any_way: Model, few: list[Image], few_alone: list[Detections]
) -> None:
    image = few[0].copy()
    future = any_way.submit(image)
    image[:] = 0
    assert_detections_match(future.result(30), few_alone[0])


def test_the_numbers_of_a_model_add_up(any_way: Model, few: list[Image]) -> None:
    before = any_way.stats()
    any_way(few)
    list(any_way.stream(iter(few), name="camera"))
    after = any_way.stats()
    assert after.frames - before.frames == 2 * len(few)
    assert sum(worker.frames for worker in after.workers) == after.frames
    assert after.errors == before.errors
    assert (after.waiting, after.dropped) == (0, 0)
    assert after.sources["camera"].frames == len(few)
    assert len(after.workers) == max(1, any_way.workers)
    assert all(worker.is_ready and worker.restarts == 0 for worker in after.workers)
    pids = {worker.pid for worker in after.workers}
    assert len(pids) == len(after.workers)
    assert (os.getpid() in pids) == (any_way.workers == 0)


def test_a_frame_that_fails_does_not_stop_a_stream(
    any_way: Model, few: list[Image], few_alone: list[Detections], tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_text("text")
    source = [few[0], tmp_path / "bad.jpg", few[1], few[0][..., 0], few[2]]
    for given in (source, iter(source)):
        results = list(any_way.stream(given))
        assert [result.error is None for result in results] == [True, False, True, False, True]
        _assert_all_match([results[index].detections for index in (0, 2, 4)], few_alone[:3])
        for result in (results[1], results[3]):
            with pytest.raises(ImageError):
                _ = result.detections
        assert [result.path for result in results] == [None, tmp_path / "bad.jpg", None, None, None]


def test_a_call_in_a_futures_callback_is_refused_and_submit_is_not(
    model: Model, images: list[Image], alone: list[Detections]
) -> None:
    heard: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def callback(_: Future[Detections]) -> None:
        for use in (lambda: model(images[0]), lambda: model.stream(images), lambda: model.submit(images[1])):
            try:
                heard.put(use())
            except WorkerError as error:
                heard.put(error)

    model.submit(images[0]).add_done_callback(callback)
    first, second, future = (heard.get(timeout=30) for _ in range(3))
    if not isinstance(first, Detections):  # the future had ended before: the callback ran in this thread
        assert "called from a future's callback" in str(first)
        assert "called from a future's callback" in str(second)
    assert_detections_match(future.result(30), alone[1])


def test_the_null_backend_answers_every_image_in_order(demo_dynamic_onnx: Path) -> None:
    marked = [np.full((256, 256, 3), mark, np.uint8) for mark in range(11)]
    with trt_yolo.load(demo_dynamic_onnx, backend="null") as model:
        found = model(marked)
    assert [one.class_id.tolist() for one in found] == [[mark % 10] for mark in range(11)]
    for one in found:
        np.testing.assert_array_equal(one.xyxy, [[0, 0, 256, 256]])
        assert one.confidence.tolist() == [1]


def test_leaving_the_context_closes_the_model(demo_onnx: Path, images: list[Image]) -> None:
    with trt_yolo.load(demo_onnx) as one:
        assert isinstance(one, Model)
        one(images[0])
        one.close()
    uses: list[Callable[[], object]] = [
        lambda: one(images[0]),
        lambda: one(images[:2]),
        lambda: one.submit(images[0]),
        lambda: list(one.stream(images[:2])),
        lambda: list(one.stream(iter(images[:2]))),
    ]
    for use in uses:
        with pytest.raises(ClosedError, match="the model is closed; load it again"):
            use()


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
    for one in loaded:
        with one:
            assert one.manifest.source == "demo.pt"
            assert_detections_match(one(images[0]), alone[0])
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
        pytest.param("a.engine", EngineError, "a.engine is no TensorRT engine", id="engine"),
        pytest.param("A.ENGINE", EngineError, "no such file: A.ENGINE", id="engine-in-capitals"),
        pytest.param("a.plan", EngineError, "no such file: a.plan", id="plan"),
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
        ({"backend": "tensorrt"}, "no backend 'tensorrt'; give auto, onnxruntime or null"),
        ({"backend": ""}, "no backend ''; give auto, onnxruntime or null"),
    ],
)
def test_load_refuses_bad_options(demo_onnx: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trt_yolo.load(demo_onnx, **options)
