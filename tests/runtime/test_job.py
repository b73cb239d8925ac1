"""What may be asked for, how often a frame may be unlucky, and how rows become detections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from trt_yolo.detections import Detections
from trt_yolo.errors import ImageError, InputError
from trt_yolo.runtime.job import Death, Job, Thresholds, detections_of_batch, source_of
from trt_yolo.vision.letterbox import fit_letterbox

DEFAULT = Thresholds()
NAMES = {0: "a", 1: "b", 2: "c"}
CRASH = Death("left with exit code 1")
KILL = Death("was ended by SIGKILL", from_outside=True)
HW = (64, 64)


def _image() -> npt.NDArray[np.uint8]:
    return np.zeros((8, 8, 3), np.uint8)


def _job(source: Any = None, **options: Any) -> Job:
    return Job(**{"source": _image() if source is None else source, "thresholds": DEFAULT, **options})


@pytest.mark.parametrize(
    "options",
    [{}, {"conf": 0, "iou": 0}, {"conf": 1.0, "iou": 1.0}, {"max_det": 1}, {"classes": []}, {"classes": {1}}],
    ids=str,
)
def test_thresholds_in_range_are_kept(options: dict[str, Any]) -> None:
    thresholds = Thresholds(**options)
    wanted = {
        name: tuple(value) if name == "classes" and value is not None else value
        for name, value in options.items()
    }
    assert {name: getattr(thresholds, name) for name in options} == wanted


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"conf": -0.01}, "conf is -0.01; give a number from 0 to 1"),
        ({"conf": 25}, "conf is 25; give"),
        ({"iou": 1.01}, "iou is 1.01; give a number from 0 to 1"),
        ({"iou": float("nan")}, "iou is nan; give"),
        ({"max_det": 0}, "max_det is 0; give .* at least 1"),
        ({"max_det": -3}, "max_det is -3; give"),
    ],
    ids=str,
)
def test_thresholds_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Thresholds(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"conf": "0.5"},
        {"conf": None},
        {"iou": np.array([0.5])},
        {"iou": 0.5j},
        {"max_det": 2.5},
        {"max_det": None},
        {"max_det": "3"},
        {"classes": 5},
        {"classes": 2.5},
    ],
    ids=str,
)
def test_thresholds_of_another_type_are_refused_where_they_are_given(options: dict[str, Any]) -> None:
    """Later it would be the thread that serves everybody that stumbles over them."""
    with pytest.raises((InputError, TypeError)):
        Thresholds(**options)


def test_classes_that_can_be_read_once_only_are_read_once() -> None:
    thresholds = Thresholds(classes=(index for index in (0, 2)))  # type: ignore[arg-type]
    for _ in range(2):
        (found,) = detections_of_batch(_rows([A, B, C]), [_placed(thresholds=thresholds)], NAMES)
        assert _scores(found) == [0.9, 0.7]


@pytest.mark.parametrize(
    ("deaths", "refused_at"),
    [
        pytest.param([CRASH], None, id="one-crash"),
        pytest.param([CRASH, CRASH], 2, id="two-crashes"),
        pytest.param([KILL, KILL], None, id="two-kills"),
        pytest.param([KILL, KILL, KILL], 3, id="three-kills"),
        pytest.param([KILL, CRASH], None, id="kill-and-crash"),
        pytest.param([KILL, CRASH, CRASH], 3, id="kill-and-two-crashes"),
        pytest.param([CRASH, KILL, KILL], 3, id="three-losses"),
    ],
)
def test_a_frame_is_refused_after_two_crashes_or_three_losses(
    deaths: list[Death], refused_at: int | None
) -> None:
    job = _job(name="frame 7")
    errors = [job.blame(death) for death in deaths]
    assert job.alone
    if refused_at is None:
        assert errors == [None] * len(deaths)
    else:
        assert errors[:-1] == [None] * (refused_at - 1)
        assert f"frame 7 brought down {refused_at} workers, the last one {deaths[-1].cause}" in str(
            errors[-1]
        )


def test_blaming_a_frame_does_not_end_it() -> None:
    job = _job()
    job.blame(CRASH)
    job.blame(CRASH)
    assert not job.ended


@pytest.mark.parametrize("first", ["succeed", "fail"])
@pytest.mark.parametrize("second", ["succeed", "fail"])
def test_a_job_ends_once_and_as_it_ended_first(first: str, second: str) -> None:
    ended: list[Job] = []
    job = _job(on_end=ended.append)
    ways = {
        "succeed": lambda: job.succeed(_nothing_found(), (0, 1, 2, 3, 4)),
        "fail": lambda: job.fail(ImageError("broken")),
    }
    ways[first]()
    outcome = (job.detections, job.error, job.stages_ms)
    ways[second]()
    assert ended == [job]
    assert (job.detections, job.error, job.stages_ms) == outcome
    assert (job.detections is None) == (first == "fail")
    assert (job.error is None) == (first == "succeed")


def _nothing_found() -> Detections:
    return Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))


def test_an_end_lets_the_pixels_go() -> None:
    image = _image()
    job = _job(image)
    job.load()
    job.frame = _image()
    job.fail(ImageError("broken"))
    assert job.frame is None
    assert job.image is None
    assert job.source is not image


def test_pixels_that_are_wanted_stay_until_after_the_end() -> None:
    image = _image()
    job = _job(image, keep_image=True)
    assert job.load() is image
    job.release_pixels()
    job.fail(ImageError("broken"))
    assert job.image is image


def test_a_file_is_decoded_once_and_its_path_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(cv2.imencode(".png", np.full((5, 7, 3), 9, np.uint8))[1].tobytes())
    job = _job(path)
    image = job.load()
    assert image.shape == (5, 7, 3)
    assert job.decode_ms > 0
    path.unlink()
    assert job.load() is image
    job.release_pixels()
    assert job.image is None
    assert job.source == path
    with pytest.raises(ImageError, match=r"one\.png"):
        job.load()


@pytest.mark.parametrize(
    ("job", "label"),
    [
        (_job(name="camera 3", index=5), "camera 3"),
        (_job(index=5), "frame 5"),
        (_job(Path("folder/one.jpg"), index=5), str(Path("folder/one.jpg"))),
        (_job(Path("one.jpg"), name="left"), "left"),
    ],
)
def test_errors_call_a_job_by_its_name_its_path_or_its_place(job: Job, label: str) -> None:
    assert job.label == label


@pytest.mark.parametrize("given", ["a.jpg", Path("a.jpg")])
def test_a_name_is_a_path(given: str | Path) -> None:
    assert source_of(given) == Path("a.jpg")


@pytest.mark.parametrize("image", [_image(), _image()[::2, ::-1], np.zeros((1, 1, 3), np.uint8)])
def test_an_image_is_itself(image: npt.NDArray[np.uint8]) -> None:
    assert source_of(image) is image


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "a NoneType is no image"),
        (b"a.jpg", "a bytes is no image"),
        ([_image()], "a list is no image"),
        (_image().astype(np.uint16), r"uint16 \(8, 8, 3\)"),
        (_image()[..., 0], r"uint8 \(8, 8\)"),
        (_image()[:0], r"uint8 \(0, 8, 3\)"),
    ],
    ids=["none", "bytes", "list", "16-bit", "grey", "no-rows"],
)
def test_anything_else_is_no_source(given: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        source_of(given)


def _placed(source_hw: tuple[int, int] = HW, *, thresholds: Thresholds | None = None, **options: Any) -> Job:
    """A job whose image lies in the frame."""
    job = _job(thresholds=thresholds or Thresholds(**options))
    job.letterbox = fit_letterbox(source_hw, HW)
    return job


def _rows(*images: list[tuple[float, ...]], rows: int = 4) -> npt.NDArray[np.float32]:
    """(images, rows, 6) float32; what is not given is 0."""
    filled = np.zeros((len(images), rows, 6), np.float32)
    for index, image_rows in enumerate(images):
        for at, row in enumerate(image_rows):
            filled[index, at] = row
    return filled


A = (8.0, 16.0, 24.0, 32.0, 0.9, 0.0)
B = (0.0, 0.0, 64.0, 64.0, 0.8, 1.0)
C = (32.0, 32.0, 40.0, 48.0, 0.7, 2.0)


def _scores(found: Detections | None) -> list[float]:
    assert found is not None
    return [round(float(score), 3) for score in found.confidence]


def test_each_job_gets_its_rows_as_detections_of_its_image() -> None:
    jobs = [_placed(), _placed()]
    first, second = detections_of_batch(_rows([A, B], [C]), jobs, NAMES)
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(first.xyxy, [A[:4], B[:4]])
    np.testing.assert_allclose(second.xyxy, [C[:4]])
    assert (_scores(first), _scores(second)) == ([0.9, 0.8], [0.7])
    assert (first.class_id.tolist(), second.class_id.tolist()) == ([0, 1], [2])
    assert (first.xyxy.dtype, first.confidence.dtype, first.class_id.dtype) == (
        np.float32,
        np.float32,
        np.int64,
    )
    assert first.names == NAMES
    assert first.image_hw == HW


@pytest.mark.parametrize("shared", [True, False], ids=["one-letterbox", "equal-letterboxes"])
def test_equal_images_may_share_a_letterbox(shared: bool) -> None:
    jobs = [_placed((128, 128)) for _ in range(3)]
    if shared:
        for job in jobs:
            job.letterbox = jobs[0].letterbox
    found = detections_of_batch(_rows([A], [], [A, C]), jobs, NAMES)
    assert [one is not None and len(one) for one in found] == [1, 0, 2]
    assert found[0] is not None
    np.testing.assert_allclose(found[0].xyxy, [[16, 32, 48, 64]])


def test_each_image_has_its_own_size_and_place() -> None:
    sizes = [(64, 64), (128, 128), (64, 128), (32, 16)]
    found = detections_of_batch(_rows([A], [A], [A], [A]), [_placed(hw) for hw in sizes], NAMES)
    alone = [detections_of_batch(_rows([A]), [_placed(hw)], NAMES)[0] for hw in sizes]
    for one, wanted, size in zip(found, alone, sizes, strict=True):
        assert one is not None
        assert wanted is not None
        assert one.image_hw == size
        np.testing.assert_array_equal(one.xyxy, wanted.xyxy)
    assert len({tuple(one.xyxy[0]) for one in found if one is not None}) == 4


@pytest.mark.parametrize("missing", [{0}, {1}, {2}, {0, 2}, {0, 1, 2}], ids=str)
def test_a_place_without_a_job_has_no_detections_and_moves_nobody(missing: set[int]) -> None:
    jobs = [None if index in missing else _placed((64, 64 + 64 * index)) for index in range(3)]
    found = detections_of_batch(_rows([A], [B, C], [C]), jobs, NAMES)
    assert [one is None for one in found] == [index in missing for index in range(3)]
    for one, scores in zip(found, ([0.9], [0.8, 0.7], [0.7]), strict=True):
        assert one is None or _scores(one) == scores


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        ({}, [0.9, 0.8, 0.7]),
        ({"classes": []}, []),
        ({"classes": [1]}, [0.8]),
        ({"classes": {2, 0}}, [0.9, 0.7]),
        ({"classes": [77]}, []),
        ({"max_det": 1}, [0.9]),
        ({"max_det": 3}, [0.9, 0.8, 0.7]),
        ({"classes": [1, 2], "max_det": 1}, [0.8]),
    ],
    ids=str,
)
def test_each_job_gets_what_it_asked_for_whatever_its_neighbours_want(
    options: dict[str, Any], scores: list[float]
) -> None:
    jobs = [_placed(), _placed(**options), _placed(max_det=2)]
    found = detections_of_batch(_rows([A, B, C], [A, B, C], [A, B, C]), jobs, NAMES)
    assert [_scores(one) for one in found] == [[0.9, 0.8, 0.7], scores, [0.9, 0.8]]


def test_no_rows_are_no_detections_of_the_right_shape() -> None:
    (found,) = detections_of_batch(_rows([]), [_placed((48, 96))], NAMES)
    assert found is not None
    assert (found.xyxy.shape, found.confidence.shape, found.class_id.shape) == ((0, 4), (0,), (0,))
    assert found.image_hw == (48, 96)


def test_a_full_frame_of_rows_is_kept_whole() -> None:
    (found,) = detections_of_batch(_rows([A, B, C, C]), [_placed()], NAMES)
    assert _scores(found) == [0.9, 0.8, 0.7, 0.7]


def test_detections_do_not_change_when_the_slot_is_used_again() -> None:
    rows = _rows([A, B], [C])
    first, second = detections_of_batch(rows, [_placed(), _placed()], NAMES)
    rows[:] = -1
    assert first is not None
    assert second is not None
    np.testing.assert_allclose(first.xyxy, [A[:4], B[:4]])
    assert (_scores(first), _scores(second)) == ([0.9, 0.8], [0.7])
    assert second.class_id.tolist() == [2]


def test_detections_of_one_image_may_be_changed_without_the_others() -> None:
    first, second = detections_of_batch(_rows([A], [A]), [_placed(), _placed()], NAMES)
    assert first is not None
    assert second is not None
    first.xyxy[:] = 0
    np.testing.assert_allclose(second.xyxy, [A[:4]])
