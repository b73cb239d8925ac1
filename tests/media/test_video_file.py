"""Whole videos of every container give all their frames; of damaged ones those that are sound, then an error."""

from __future__ import annotations

import fractions
import itertools
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import numpy.typing as npt
import pytest

from trt_yolo.errors import ImageError
from trt_yolo.media.video import read_video

Frame = npt.NDArray[np.uint8]
HW = (64, 96)
COUNT = 24
GOP = 8
FASTSTART = {"movflags": "faststart"}  # the index before the frames: what is cut off lacks frames only


def _picture(number: int, hw: tuple[int, int] = HW, *, seed: int | None = None) -> Frame:
    """A grey that counts, and noise above it, which makes frames of some size; its own, without a seed."""
    image = np.full((*hw, 3), 10 * number, np.uint8)
    image[: hw[0] // 2] = np.random.default_rng(number if seed is None else seed).integers(
        0, 256, (hw[0] // 2, hw[1], 3), np.uint8
    )
    return image


def encoded(
    path: Path, codec: str = "mpeg4", *, kind: str | None = None, hw: tuple[int, int] = HW, times_ms: Any = None,
    seed: int | None = None,
    **options: str
) -> Path:  # fmt: skip
    """A video of `COUNT` frames, a key frame every `GOP`."""
    with av.open(str(path), "w", format=kind, options=options) as container:
        stream: Any = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.gop_size = *hw, GOP
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if seed is not None:
            stream.codec_context.max_b_frames = 0
        if times_ms is not None:
            stream.codec_context.time_base = fractions.Fraction(1, 1000)
        for number in range(COUNT):
            frame = av.VideoFrame.from_ndarray(_picture(number, hw, seed=seed), "bgr24")
            if times_ms is not None:
                frame.pts, frame.time_base = times_ms[number], fractions.Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _numbers(frames: Any) -> list[int]:
    return [round(float(frame[-HW[0] // 4 :].mean()) / 10) for frame in frames]


def _read(path: Path) -> tuple[list[int], str]:
    """The numbers of a file's frames, and the error after them."""
    frames: list[Frame] = []
    try:
        frames.extend(read_video(path, decoder="cpu"))
    except ImageError as error:
        return _numbers(frames), str(error)
    return _numbers(frames), ""


@pytest.mark.parametrize(
    ("name", "codec", "options"),
    [
        ("a.mp4", "libx264", {}),
        ("a.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}),
        ("a.mov", "mjpeg", {}),
        ("a.mkv", "libx264", {}),
        ("a.webm", "libvpx", {}),
        ("a.avi", "mpeg4", {}),
        ("a.ts", "libx264", {}),
        ("a.m2ts", "libx264", {}),
        ("a.mpg", "mpeg2video", {}),
        ("a.vob", "mpeg2video", {}),
        ("a.flv", "flv", {}),
        ("a.3gp", "mpeg4", {}),
        ("a.wmv", "wmv2", {}),
        ("a.h264", "libx264", {"kind": "h264"}),
        ("12:30 %d é.mp4", "mpeg4", {}),
    ],
)
def test_containers(name: str, codec: str, options: dict[str, Any], tmp_path: Path) -> None:
    assert _read(encoded(tmp_path / name, codec, **options)) == (list(range(COUNT)), "")


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_frames_that_come_when_something_changes(name: str, tmp_path: Path) -> None:
    codec = "libvpx" if name.endswith("webm") else "mpeg4"
    times_ms = [33 * number if number < 12 else 400 + 700 * (number - 12) for number in range(COUNT)]
    assert _read(encoded(tmp_path / name, codec, times_ms=times_ms)) == (list(range(COUNT)), "")


def trimmed(folder: Path) -> Path:
    """The frames from 11 on, as `ffmpeg -ss -c copy` cuts: from a key frame before, which an edit list hides."""
    whole, path = encoded(folder / "whole.mp4", seed=0), folder / "trimmed.mp4"
    with av.open(str(whole)) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        start = int(fractions.Fraction(11, 25) / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None and packet.pts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, copy
                target.mux(packet)
    return path


def test_a_trimmed_video_hides_what_comes_before_its_first_frame(tmp_path: Path) -> None:
    path = trimmed(tmp_path)
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames > COUNT - 11, "promises hidden ones"
    assert _read(path) == (list(range(11, COUNT)), "")


def test_sound_that_is_longer_than_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "long.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = HW
        sound: Any = container.add_stream("pcm_s16le", rate=8000)
        for number in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(_picture(number), "bgr24")))
        container.mux(stream.encode())
        for number in range(20):
            samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
            samples.sample_rate, samples.pts = 8000, 8000 * number
            container.mux(sound.encode(samples))
    assert _read(path) == ([0, 1, 2, 3, 4], "")


def test_a_recording_may_begin_anywhere(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.ts", "libx264")
    data = path.read_bytes()
    path.write_bytes(data[188 * 40 :])
    numbers, error = _read(path)
    assert error == ""
    assert numbers == list(range(numbers[0], COUNT))
    assert 0 < numbers[0] <= GOP


def test_recordings_one_after_another(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.ts", "libx264")
    path.write_bytes(path.read_bytes() * 2)
    assert _read(path) == ([*range(COUNT), *range(COUNT)], "")


@pytest.mark.parametrize(
    ("name", "codec", "options", "message"),
    [
        ("a.mp4", "mpeg4", FASTSTART, "is cut short"),
        ("a.mp4", "libx264", FASTSTART, "is cut short"),
        ("a.mp4", "libx264", {"movflags": "frag_keyframe+empty_moov"}, "is cut short"),
        ("a.mkv", "libx264", {}, "is cut short"),
        ("a.webm", "libvpx", {}, "is cut short"),
        ("a.avi", "mpeg4", {}, "is damaged"),
        ("a.avi", "mjpeg", {}, "is damaged"),
        ("a.mpg", "mpeg2video", {}, "is damaged"),
        ("a.flv", "flv", {}, "is damaged"),
    ],
)
def test_what_is_cut_short_gives_what_there_is(
    name: str, codec: str, options: dict[str, str], message: str, tmp_path: Path
) -> None:
    path = encoded(tmp_path / name, codec, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    numbers, error = _read(path)
    assert numbers == list(range(len(numbers)))
    assert 5 < len(numbers) < COUNT
    assert error.startswith(f"{path} {message}: {len(numbers)} frames could be decoded, ")
    assert error.endswith("copy it again")


def test_a_video_cut_off_between_two_frames(tmp_path: Path) -> None:
    """Nobody complains: no packet is cut, and the demuxer takes it for the end."""
    path = encoded(tmp_path / "a.mp4", **FASTSTART)
    with av.open(str(path)) as container:
        entry = container.streams.video[0].index_entries[10]
    path.write_bytes(path.read_bytes()[: entry.pos])
    numbers, error = _read(path)
    assert numbers == list(range(10))
    assert error.startswith(f"{path} is cut short: 10 frames could be decoded")


def test_an_mp4_without_its_index(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes()[:2000])
    assert _read(path)[1].startswith(
        f"{path} cannot be decoded as a video, or its end is missing (Invalid data"
    )


def test_damage_in_the_middle_hides_frames_up_to_the_next_key_frame(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.mp4", "libx264", seed=0)  # a frame needs the one before it
    with av.open(str(path)) as container:
        entries = list(container.streams.video[0].index_entries)
    keys = [number for number, entry in enumerate(entries) if entry.is_keyframe]
    before, after = max(itertools.pairwise(keys), key=lambda pair: pair[1] - pair[0])
    data, hurt = bytearray(path.read_bytes()), entries[before + 1]
    end, half = hurt.pos + hurt.size, hurt.size // 2
    data[end - half : end] = np.random.default_rng(0).bytes(half)
    path.write_bytes(data)
    numbers, error = _read(path)
    assert after - before > 3
    assert numbers == [*range(before + 1), *range(after, COUNT)]
    assert error.startswith(
        f"{path} is damaged: {len(numbers)} frames could be decoded, and FFmpeg reported "
    )


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.swapaxes(0, 1)),
        ((0, -1, -1, 0), lambda image: np.rot90(image, 2).swapaxes(0, 1)),
    ],
)
def test_frames_are_upright(
    matrix: tuple[int, ...], turned: Callable[[Frame], Frame], tmp_path: Path
) -> None:
    path = encoded(tmp_path / "a.mp4", "libx264")
    lying = next(read_video(path))
    set_matrix(path, matrix)
    upright = next(read_video(path))
    np.testing.assert_array_equal(upright, turned(lying))
    assert upright.flags.c_contiguous
    if np.linalg.det(np.reshape(matrix, (2, 2))) > 0:  # OpenCV leaves mirrored ones mirrored
        assert np.abs(cv2.VideoCapture(str(path)).read()[1].astype(int) - upright).max() <= 2


def set_matrix(path: Path, matrix: tuple[int, ...]) -> None:
    """Into the header of an MP4's track (ISO 14496-12, tkhd): a b u, c d v, x y w."""
    data = path.read_bytes()
    at = data.index(struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30), data.index(b"tkhd"))
    a, b, c, d = (one << 16 for one in matrix)
    path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :])


def test_colours_are_swscales(tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.mp4", "libx264")
    with av.open(str(path)) as container:
        wanted = [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]
    np.testing.assert_array_equal(list(read_video(path)), wanted)


def test_frames_of_changing_size(tmp_path: Path) -> None:
    first, second = (encoded(tmp_path / f"{hw[0]}.ts", "libx264", hw=hw) for hw in ((64, 96), (96, 128)))
    (tmp_path / "both.ts").write_bytes(first.read_bytes() + second.read_bytes())
    shapes = [frame.shape for frame in read_video(tmp_path / "both.ts")]
    assert shapes == [(64, 96, 3)] * COUNT + [(96, 128, 3)] * COUNT


@pytest.mark.parametrize(
    ("tag", "message"),
    [
        (b"evc1", "holds EVC video, which this build of FFmpeg does not decode; convert it to H.264"),
        (b"xyz1", "holds XYZ1 video, which this build of FFmpeg does not decode"),
    ],
)
def test_a_codec_that_is_not_decoded_is_named(tag: bytes, message: str, tmp_path: Path) -> None:
    path = encoded(tmp_path / "a.mp4", "libx264")
    path.write_bytes(path.read_bytes().replace(b"avc1", tag))
    numbers, error = _read(path)
    assert (numbers, error.startswith(f"{path} {message}")) == ([], True), error


def test_sound_alone_is_named(tmp_path: Path) -> None:
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream("aac", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), "s16", "mono")
        samples.sample_rate = 8000
        container.mux(sound.encode(samples))
        container.mux(sound.encode())
    assert _read(path)[1].startswith(f"{path} holds sound and no video; give an MP4")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(ImageError, match="is a device or a pipe; give a video file"):
        read_video(tmp_path / "pipe.mp4")
