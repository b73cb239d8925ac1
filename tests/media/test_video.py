"""Frames of video files: real ones through PyAV; PyNvVideoCodec by a stand-in."""

from __future__ import annotations

import logging
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from tests.engine.plans import gpu
from tests.media.test_video_file import encoded, set_matrix, trimmed
from trt_yolo.errors import ImageError, InputError, MissingDependencyError
from trt_yolo.loader import load
from trt_yolo.media import video
from trt_yolo.media.video import read_video

Frame = npt.NDArray[np.uint8]
COUNT = 40


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty frames of 64x96, each of one grey that counts; lossless, but for its colours."""
    path = tmp_path_factory.mktemp("clip") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for number in range(COUNT):
        writer.write(np.full((64, 96, 3), 6 * number, np.uint8))
    writer.release()
    return path


def _numbers(frames: Any) -> list[int]:
    return [round(float(frame.mean()) / 6) for frame in frames]


@pytest.mark.parametrize("decoder", ["cpu", "auto"])
def test_frames_come_in_order_each_an_array_of_its_own(decoder: Any, clip: Path) -> None:
    frames = list(read_video(clip, decoder=decoder))
    assert _numbers(frames) == list(range(COUNT))
    assert frames[0].shape == (64, 96, 3)
    assert frames[0].dtype == np.uint8
    assert len({frame.ctypes.data for frame in frames}) == COUNT


def test_a_real_video(shared: Path) -> None:
    frames = read_video(shared / "video" / "car-detection.mp4")
    first = next(frames)
    assert first.shape == (432, 768, 3)
    assert 1 + sum(1 for _ in frames) == 377


def test_it_is_read_as_it_is_needed(clip: Path) -> None:
    frames = read_video(clip)
    assert _numbers([next(frames), next(frames)]) == [0, 1]
    frames.close()
    with pytest.raises(StopIteration):
        next(frames)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.mp4", None, "no such file"),
        ("empty.mp4", b"", "is empty"),
        ("text.mp4", b"this is no video\n" * 50, "cannot be decoded as a video"),
        (
            "list.mp4",
            b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
            "cannot be decoded as a video",
        ),
    ],
)
def test_what_is_no_video(
    name: str, content: bytes | None, message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_video(tmp_path / name))
    assert capfd.readouterr().err == ""
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        read_video(tmp_path / "folder.mp4")


def test_a_video_that_is_cut_short(shared: Path, tmp_path: Path) -> None:
    """What is there comes, then an error."""
    whole = (shared / "video" / "car-detection.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    seen: list[Frame] = []
    with pytest.raises(InputError, match=r"is cut short: \d+ frames could be decoded"):
        seen.extend(frame for frame in read_video(tmp_path / "cut.mp4"))
    assert 10 < len(seen) < 377


class _Decoded:
    """A frame on the host, as PyNvVideoCodec hands it out: DLPack, in memory of the decoder's."""

    def __init__(self, pixels: Frame) -> None:
        self._pixels = pixels

    def __dlpack__(self, **options: Any) -> Any:
        return self._pixels.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._pixels.__dlpack_device__()


def _codec(*, frames: int = COUNT, decoded: Callable[[], object] = lambda: None, error: str = "") -> Any:
    """PyNvVideoCodec 2.2, as far as it is used; every frame is written into the same memory."""
    module: Any = types.ModuleType("PyNvVideoCodec")
    memory = np.zeros((4, 64, 96, 3), np.uint8)

    class SimpleDecoder:
        def __init__(
            self, enc_file_path: str, *, gpu_id: int, use_device_memory: bool, output_color_type: str
        ) -> None:
            assert (use_device_memory, output_color_type) == (False, "rgb")
            if error:
                raise RuntimeError(error)
            self._next = 0

        def __len__(self) -> int:
            return frames

        def get_batch_frames(self, count: int) -> list[_Decoded]:
            found = []
            for place in range(min(count, 4, frames - self._next)):
                decoded()
                memory[place] = (6 * self._next, 0, 1)
                found.append(_Decoded(memory[place]))
                self._next += 1
            return found

    module.SimpleDecoder = SimpleDecoder
    module.OutputColorType = types.SimpleNamespace(RGB="rgb")
    return module


def _on_a_gpu(monkeypatch: pytest.MonkeyPatch, codec: Any) -> None:
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", codec)
    monkeypatch.setattr(video, "devices", lambda: [gpu()])
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: object())


def test_the_gpus_frames_are_bgr_and_their_own(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _on_a_gpu(monkeypatch, _codec())
    frames = list(read_video(clip, decoder="gpu"))
    assert [int(frame[0, 0, 2]) for frame in frames] == [6 * number for number in range(COUNT)]
    assert {(int(frame[0, 0, 0]), int(frame[0, 0, 1])) for frame in frames} == {(1, 0)}


@pytest.mark.parametrize(("gpu_s", "word"), [(0.001, "GPU"), (0.02, "processor")])
def test_the_faster_one_decodes_the_rest_and_no_frame_is_lost(
    gpu_s: float, word: str, clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [100.0]

    def take(seconds: float) -> None:
        now_s[0] += seconds

    monkeypatch.setattr(video.time, "perf_counter", lambda: now_s[0])
    _on_a_gpu(monkeypatch, _codec(decoded=lambda: take(gpu_s)))
    real = video._on_cpu

    def slow_cpu(path: Path) -> Any:
        for frame in real(path):
            take(0.002)
            yield frame

    monkeypatch.setattr(video, "_on_cpu", slow_cpu)
    with caplog.at_level(logging.INFO):
        frames = list(read_video(clip))
    assert f"is decoded by the {word}: the GPU is" in caplog.text
    assert len(frames) == COUNT
    from_gpu = [int(frame[0, 0, 0]) == 1 and int(frame[0, 0, 1]) == 0 for frame in frames]
    assert (
        from_gpu == [True] * COUNT
        if word == "GPU"
        else [True] * video._TRIAL + [False] * (COUNT - video._TRIAL)
    )
    reds = [round(int(frame[0, 0, 2]) / 6) for frame in frames]
    assert reds == list(range(COUNT))


def test_a_video_shorter_than_the_trial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "short.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (96, 64))
    for number in range(3):
        writer.write(np.full((64, 96, 3), 6 * number, np.uint8))
    writer.release()
    _on_a_gpu(monkeypatch, _codec(frames=3))
    assert len(list(read_video(path))) == 3


def test_a_gpu_that_does_not_decode_it(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _on_a_gpu(monkeypatch, _codec(error="no NVDEC\nhere"))
    with pytest.raises(
        InputError, match=r"is no video that the GPU can decode \(no NVDEC here\); try the decoder cpu"
    ):
        list(read_video(clip, decoder="gpu"))
    with caplog.at_level(logging.INFO):
        assert _numbers(read_video(clip)) == list(range(COUNT))
    assert "is decoded by the processor" in caplog.text


def test_without_the_package(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video, "devices", list)
    with pytest.raises(MissingDependencyError, match="no NVIDIA GPU answers"):
        read_video(clip, decoder="gpu")
    monkeypatch.setattr(video, "devices", lambda: [gpu()])
    monkeypatch.setattr(video.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        MissingDependencyError, match=r"PyNvVideoCodec is not installed: pip install 'trt-yolo\[nv"
    ):
        read_video(clip, decoder="gpu")
    assert len(list(read_video(clip))) == COUNT


def test_a_gpu_may_give_another_number_of_frames_than_it_promises(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = _codec()
    monkeypatch.setattr(codec.SimpleDecoder, "__len__", lambda self: 200)
    _on_a_gpu(monkeypatch, codec)
    assert len(list(read_video(clip, decoder="gpu"))) == COUNT


def test_turned_frames_are_left_to_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encoded(tmp_path / "a.mp4", "libx264")
    set_matrix(path, (0, 1, -1, 0))
    wanted = list(read_video(path, decoder="cpu"))
    _on_a_gpu(monkeypatch, _codec())
    with pytest.raises(ImageError, match=r"has rotated or hidden frames, .* try the decoder cpu"):
        list(read_video(path, decoder="gpu"))
    np.testing.assert_array_equal(list(read_video(path)), wanted)


def test_hidden_frames_are_left_to_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trimmed(tmp_path)
    wanted = list(read_video(path, decoder="cpu"))
    _on_a_gpu(monkeypatch, _codec())
    np.testing.assert_array_equal(list(read_video(path)), wanted)


def test_a_gpu_says_nothing_of_what_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = encoded(tmp_path / "a.mp4", movflags="faststart")
    path.write_bytes(path.read_bytes()[:-2000])
    _on_a_gpu(monkeypatch, _codec())
    with pytest.raises(ImageError, match=f"is cut short: {COUNT} frames could be decoded"):
        list(read_video(path, decoder="gpu"))


def test_damage_that_a_gpu_takes_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer sound frames than are timed: they come, then the error."""
    path = encoded(tmp_path / "a.ts", "mpeg2video")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 3 // 188 * 188 + 100])
    wanted: list[Frame] = []
    with pytest.raises(ImageError, match="is damaged") as on_cpu:
        wanted.extend(frame for frame in read_video(path, decoder="cpu"))
    assert 1 < len(wanted) < video._TRIAL
    _on_a_gpu(monkeypatch, _codec())
    seen: list[Frame] = []
    with pytest.raises(ImageError) as found:
        seen.extend(frame for frame in read_video(path))
    np.testing.assert_array_equal(seen, wanted)
    assert str(found.value) == str(on_cpu.value)


def test_a_model_streams_a_video_by_its_name(clip: Path, demo_onnx: Path) -> None:
    with load(demo_onnx, workers=0) as model:
        results = list(model.stream(clip, keep_images=True))
        assert [result.index for result in results] == list(range(COUNT))
        assert _numbers(result.image for result in results) == list(range(COUNT))
        assert {result.detections.image_hw for result in results} == {(64, 96)}
