"""Files as sources of a stream: images and videos in any order, bad ones as results, what is no source at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from tests.runtime.models import wait_until
from tests.runtime.test_stream import _model
from trt_yolo.errors import ImageError, InputError
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.results import Result


@pytest.fixture(scope="module", params=[0, 2], ids=["thread", "two-processes"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    with _model(workers=request.param) as one:
        yield one


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.jpg; b.mp4 of 5 frames; cut.mkv, whose end is missing; text.mp4, which is none; z.jpg"""
    place = tmp_path_factory.mktemp("files")
    for name in ("a.jpg", "z.jpg"):
        cv2.imwrite(str(place / name), np.zeros((32, 64, 3), np.uint8))
    for name, count in (("b.mp4", 5), ("cut.mkv", 30)):
        with av.open(str(place / name), "w") as container:
            stream: Any = container.add_stream("mpeg4", rate=25)
            stream.height, stream.width = 32, 64
            for number in range(count):
                image = np.random.default_rng(number).integers(0, 256, (32, 64, 3), np.uint8)
                container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "bgr24")))
            container.mux(stream.encode())
    cut = place / "cut.mkv"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (place / "text.mp4").write_text("this is no video")
    return place


def _listed(folder: Path) -> list[Path]:
    return [folder / name for name in ("text.mp4", "a.jpg", "b.mp4", "cut.mkv", "z.jpg")]


async def _asynchronous(items: list[Path]) -> AsyncIterator[Path]:
    for item in items:
        yield item


async def _collected(results: AsyncIterator[Result]) -> list[Result]:
    return [result async for result in results]


WAYS: dict[str, Callable[[Model, list[Path]], Any]] = {
    "list": lambda model, items: list(model.stream(items)),
    "iterator": lambda model, items: list(model.stream(iter(items))),
    "names": lambda model, items: list(model.stream([str(item) for item in items])),
    "async-list": lambda model, items: asyncio.run(_collected(model.astream(items))),
    "async": lambda model, items: asyncio.run(_collected(model.astream(_asynchronous(items)))),
}


@pytest.mark.parametrize("way", WAYS)
def test_images_and_videos_in_any_order_and_bad_ones_in_their_place(
    way: str, folder: Path, model: Model
) -> None:
    results = WAYS[way](model, _listed(folder))
    assert [result.index for result in results] == list(range(len(results)))
    of: dict[str, list[Result]] = {}
    for result in results:
        of.setdefault(result.path.name, []).append(result)
    assert list(of) == ["text.mp4", "a.jpg", "b.mp4", "cut.mkv", "z.jpg"]
    assert [(one.frame, one.error) for one in of["a.jpg"] + of["z.jpg"]] == [(None, None)] * 2
    assert [(one.frame, one.error) for one in of["b.mp4"]] == [(number, None) for number in range(5)]
    *sound, last = of["cut.mkv"]
    assert [(one.frame, one.error) for one in sound] == [(number, None) for number in range(len(sound))]
    assert 5 < len(sound) < 30
    for one, message in ((last, "is cut short"), (of["text.mp4"][0], "cannot be decoded as a video")):
        assert one.frame is None
        assert isinstance(one.error, ImageError)
        assert str(one.error).startswith(f"{one.path} {message}")


def test_a_bad_video_alone_is_a_result(folder: Path, model: Model) -> None:
    (result,) = model.stream(folder / "text.mp4")
    assert isinstance(result.error, ImageError)
    assert result.path == folder / "text.mp4"


@pytest.mark.parametrize("pattern", ["", "*", "*.m*"])
def test_folders_and_patterns_hold_videos_too(pattern: str, folder: Path, model: Model) -> None:
    names = [path.name for path in dict.fromkeys(r.path for r in model.stream(str(folder / pattern))) if path]
    videos = ["b.mp4", "cut.mkv", "text.mp4"]
    assert names == (videos if pattern == "*.m*" else ["a.jpg", *videos, "z.jpg"])


def _is_open(path: Path) -> bool:
    return any(os.path.realpath(one) == str(path) for one in Path("/proc/self/fd").iterdir())


def test_a_consumer_that_leaves_closes_the_video(folder: Path, model: Model) -> None:
    path = folder / "b.mp4"
    stream = model.stream([path], in_flight=1)
    next(stream)
    assert _is_open(path)
    stream.close()
    assert wait_until(lambda: not _is_open(path))


@pytest.mark.parametrize("shape", [(32, 64, 3), (32, 64)])
def test_a_single_image_is_no_source(shape: tuple[int, ...], model: Model) -> None:
    image = np.zeros(shape, np.uint8)
    with pytest.raises(
        InputError, match=r"is one image; give stream a list of images, or call model\(image\)"
    ):
        model.stream(image)
    with pytest.raises(InputError, match="is one image"):
        asyncio.run(_collected(model.astream(image)))
    assert len(list(model.stream(np.zeros((2, 32, 64, 3), np.uint8)))) == 2


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("rtsp://u:secret@cam/1", "the rtsp:// address is not supported yet; give files"),
        ("0", "the camera 0 is not supported yet"),
        ("%05d.jpg", "the printf pattern %05d.jpg is not supported yet"),
        (0, "the camera 0 is not supported yet"),
    ],
)
def test_what_is_no_source_is_said_everywhere(source: Any, message: str, model: Model) -> None:
    calls: list[Callable[[], object]] = [lambda: model.stream(source)]
    if isinstance(source, str):
        calls += [lambda: model(source), lambda: model.submit(source), lambda: model([source])]
    for call in calls:
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value).startswith(message)
    if isinstance(source, str):
        (result,) = model.stream([source])
        assert str(result.error).startswith(message)
        assert "secret" not in f"{result!r} {result.path}"
