"""The frames of a video file, decoded by FFmpeg on the processor, or by a GPU's own decoder with PyNvVideoCodec.

Enters: a path. Leaves: (H, W, 3) uint8 BGR frames, one after another; memory does not grow with the file. Knows no
models. `auto` measures both on the file's first frames, and takes the faster.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import logging
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from trt_yolo.errors import ImageError, MissingDependencyError, on_one_line
from trt_yolo.hardware.capture_gate import allocating
from trt_yolo.hardware.gpus import NO_GPU, devices
from trt_yolo.hardware.packages import import_or_refuse
from trt_yolo.media.decoders import DecoderName
from trt_yolo.media.video_file import VideoFile

_Frame = npt.NDArray[np.uint8]
_Frames = Generator[_Frame, None, None]

_MODULE = "PyNvVideoCodec"
_TRIAL = 12  # frames of each
_AT_ONCE = 4  # frames that a GPU is asked for at a time

_log = logging.getLogger(__name__)


def why_not() -> str:
    """Why a GPU cannot decode video here; empty where it can."""
    if not devices():
        return NO_GPU
    if importlib.util.find_spec(_MODULE) is None:
        return "PyNvVideoCodec is not installed: pip install 'trt-yolo[nvcodec]'"
    return ""


def read_video(path: str | Path, *, decoder: DecoderName = "auto", device: int = 0) -> _Frames:
    """The frames of a video file, in order and upright. Each is an array of its own.

    Args:
        path: The file.
        decoder: `cpu`, `gpu`, or `auto`: where both can be had, the faster one.
        device: The GPU, as CUDA counts.

    Raises:
        ImageError: No such file, no video, or, after the frames that could be decoded, a damaged one.
        MissingDependencyError: `gpu`, and none can decode.
    """
    path = Path(path)
    _check(path)
    reason = why_not() if decoder != "cpu" else ""
    if decoder == "gpu" and reason:
        raise MissingDependencyError(f"videos cannot be decoded on a GPU here: {reason}")
    if decoder == "cpu" or reason:
        return _on_cpu(path)
    if decoder == "gpu":
        return _on_gpu(path, device)
    return _faster(lambda: _on_cpu(path), lambda: _on_gpu(path, device), path)


def _check(path: Path) -> None:
    try:
        if not path.exists():
            raise ImageError(f"no such file: {path}; give a video")
        if path.is_dir():
            raise ImageError(f"{path} is a folder; give a video")
        if not path.is_file():
            raise ImageError(f"{path} is a device or a pipe; give a video file")
        with path.open("rb") as file:
            if not file.read(1):
                raise ImageError(f"{path} is empty; copy it again")
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _on_cpu(path: Path) -> _Frames:
    with VideoFile(path) as file:
        yield from file.frames()
        file.check_end()


def _on_gpu(path: Path, device: int) -> _Frames:
    codec = import_or_refuse(
        _MODULE, purpose="decoding videos on a GPU", package="PyNvVideoCodec", extra="nvcodec"
    )
    with VideoFile(path) as file:
        file.check_plain()
        try:
            with allocating():
                decoder = codec.SimpleDecoder(
                    str(path),
                    gpu_id=device,
                    use_device_memory=False,
                    output_color_type=codec.OutputColorType.RGB,
                )
            while found := _batch_of(decoder):
                for frame in found:  # its memory is the decoder's: the conversion copies
                    rgb = np.asarray(np.from_dlpack(frame), np.uint8)
                    file.count += 1
                    yield np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)
        except RuntimeError as error:
            said = on_one_line(error)
            raise ImageError(
                f"{path} is no video that the GPU can decode ({said}); try the decoder cpu"
            ) from error
        file.check_end()


def _batch_of(decoder: Any) -> list[Any]:
    """The next frames, none at the end: how many there are, a container only promises."""
    with allocating():
        return list(decoder.get_batch_frames(_AT_ONCE))


def _faster(cpu: Callable[[], _Frames], gpu: Callable[[], _Frames], path: Path) -> _Frames:
    """The GPU's first frames, timed; then those of the processor, timed, which are not given out again."""
    begun = gpu()
    first: list[_Frame] = []
    try:
        gpu_s = _timed(begun, first)
    except (MissingDependencyError, ImageError) as error:
        _log.info("%s is decoded by the processor: %s", path, error)
        begun.close()
        yield from cpu()
        return
    with contextlib.closing(cpu()) as other:
        second: list[_Frame] = []
        try:
            cpu_s = _timed(other, second)
        except ImageError:  # damaged, of which a GPU says nothing
            begun.close()
            yield from second
            raise
        second.clear()
        is_gpu = gpu_s <= cpu_s
        which = "GPU" if is_gpu else "processor"
        _log.info("%s is decoded by the %s: the GPU is %.2f times as fast", path, which, cpu_s / gpu_s)
        yield from first
        first.clear()
        if not is_gpu:
            begun.close()
            yield from other
            return
    with contextlib.closing(begun):
        yield from begun


def _timed(frames: Iterator[_Frame], kept: list[_Frame]) -> float:
    """Seconds of a frame; the first one, which opens everything, does not count. Keeps what it has read."""
    kept += itertools.islice(frames, 1)
    start_s = time.perf_counter()
    kept += itertools.islice(frames, _TRIAL - 1)
    return (time.perf_counter() - start_s) / max(1, len(kept) - 1)
