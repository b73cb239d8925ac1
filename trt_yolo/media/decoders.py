"""Which decoder images go through: the processor's, a GPU's, or whichever of them is measured to be faster.

Enters: a name. Leaves: something that turns an encoded image into pixels. The GPU's takes JPEG alone, by nvImageCodec
(package nvidia-nvimgcodec, extra `nvcodec`). Knows no files.
"""

from __future__ import annotations

import importlib.util
import logging
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt

from trt_yolo.errors import InputError, MissingDependencyError, on_one_line
from trt_yolo.hardware.capture_gate import allocating
from trt_yolo.hardware.gpus import NO_GPU, devices
from trt_yolo.hardware.packages import import_or_refuse
from trt_yolo.media.images import Decode, check_header, decode_image
from trt_yolo.media.jpeg import is_doubtful, may_hide_damage

DecoderName = Literal["auto", "cpu", "gpu"]

_MODULE = "nvidia.nvimgcodec"
_WARM_UP = 3  # images of each: a GPU's first one loads libraries
_TRIALS = 12  # of each that count

_log = logging.getLogger(__name__)


def check_decoder(decoder: str) -> None:
    """Whether there is such a decoder, and it can be used here.

    Raises:
        InputError: There is no decoder of that name.
        MissingDependencyError: `gpu`, and none can decode.
    """
    if decoder not in get_args(DecoderName):
        raise InputError(f"no decoder {decoder!r}; give {', '.join(get_args(DecoderName))}")
    if decoder == "gpu" and (reason := why_not()):
        raise MissingDependencyError(f"images cannot be decoded on a GPU here: {reason}")


def why_not() -> str:
    """Why a GPU cannot decode images here; empty where it can."""
    if not devices():
        return NO_GPU
    try:
        found = importlib.util.find_spec(_MODULE) is not None
    except ImportError:  # of a package `nvidia` that there is not
        found = False
    return "" if found else "nvidia-nvimgcodec is not installed: pip install 'trt-yolo[nvcodec]'"


def decoder_for(decoder: DecoderName, *, device: int = 0) -> Decode:
    """The decoder of that name, checked before.

    Args:
        decoder: `cpu`, `gpu`, or `auto`: where both can be had, the faster one.
        device: The GPU, as CUDA counts.
    """
    if decoder == "cpu" or (decoder == "auto" and why_not()):
        return decode_image
    if decoder == "gpu":
        return _Late(lambda: GpuImageDecoder(device).decode)
    return FasterDecode(decode_image, _Late(lambda: GpuImageDecoder(device).decode))


class _Late:
    """A decoder that is made when the first image comes."""

    def __init__(self, make: Callable[[], Decode]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: Decode | None = None

    def __call__(self, data: bytes, *, name: str) -> npt.NDArray[np.uint8]:
        if self._made is None:
            with self._lock:
                self._made = self._made or self._make()
        return self._made(data, name=name)


class FasterDecode:
    """Tries both in turn on the first images that come, then takes the faster one for good. Safe from many threads.

    Args:
        cpu: The processor's.
        gpu: A GPU's.

    Attributes:
        chosen: `cpu` or `gpu`; empty while it is not decided.
        ratio: How many times as fast the GPU is; None before.
    """

    def __init__(self, cpu: Decode, gpu: Decode) -> None:
        self.chosen: Literal["", "cpu", "gpu"] = ""
        self.ratio: float | None = None
        self._decoders: dict[str, Decode] = {"cpu": cpu, "gpu": gpu}
        self._spent_s: dict[str, list[float]] = {"cpu": [], "gpu": []}
        self._lock = threading.Lock()
        self._turn = 0

    def __call__(self, data: bytes, *, name: str) -> npt.NDArray[np.uint8]:
        """See `Decode`. A GPU that does not decode at all is given up, and the log says why."""
        if self.chosen:
            return self._decoders[self.chosen](data, name=name)
        with self._lock:
            self._turn += 1
            which = "gpu" if self._turn % 2 else "cpu"
        start_s = time.perf_counter()
        try:
            pixels = self._decoders[which](data, name=name)
        except MissingDependencyError as error:  # the GPU's does not import
            self._decide("cpu", None, f"the GPU's fails: {error}")
            return self._decoders["cpu"](data, name=name)
        self._note(which, (time.perf_counter() - start_s) / pixels.size)
        return pixels

    def _note(self, which: str, seconds: float) -> None:
        """What a pixel took: images of several sizes count alike."""
        with self._lock:
            self._spent_s[which].append(seconds)
            if min(map(len, self._spent_s.values())) < _WARM_UP + _TRIALS:
                return
            cpu_s, gpu_s = (statistics.median(self._spent_s[one][_WARM_UP:]) for one in ("cpu", "gpu"))
        ratio = cpu_s / gpu_s
        self._decide("gpu" if ratio > 1 else "cpu", ratio, f"the GPU's is {ratio:.2f} times as fast")

    def _decide(self, which: Literal["cpu", "gpu"], ratio: float | None, reason: str) -> None:
        with self._lock:
            if self.chosen:
                return
            self.chosen, self.ratio = which, ratio
        _log.info("images are decoded by the %s: %s", "GPU" if which == "gpu" else "processor", reason)


class GpuImageDecoder:
    """Decodes JPEG on a GPU. Safe to use from many threads: each has a decoder of its own.

    Args:
        device: The GPU, as CUDA counts.

    Raises:
        MissingDependencyError: nvImageCodec is not installed, or does not import.
    """

    def __init__(self, device: int = 0) -> None:
        self._codec = import_or_refuse(
            _MODULE, purpose="decoding on a GPU", package="nvidia-nvimgcodec", extra="nvcodec"
        )
        self._device = device
        self._mine = threading.local()
        self._said = threading.Lock()  # held from the first time that the processor had to help
        self._wanted = self._codec.DecodeParams(
            apply_exif_orientation=True,
            color_spec=self._codec.ColorSpec.SRGB,
            allow_any_depth=False,
            sample_format=self._codec.SampleFormat.I_RGB,
        )

    def decode(self, data: bytes, *, name: str) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR, upright; `name` is named in errors.

        Raises:
            ImageError: Empty, no image, too large, or damaged.
        """
        header = check_header(data, name=name)
        if header.kind != "jpeg" or may_hide_damage(header):
            return decode_image(data, name=name)
        reason = "it is of another kind, or damaged"
        try:
            pixels_rgb = self._pixels_rgb(data)
        except RuntimeError as error:
            pixels_rgb, reason = None, on_one_line(error)
        if pixels_rgb is None:
            if self._said.acquire(blocking=False):
                _log.warning(
                    "the GPU does not decode %s, nor what is like it: %s; the processor does", name, reason
                )
            return decode_image(data, name=name)
        pixels_bgr = np.asarray(cv2.cvtColor(pixels_rgb, cv2.COLOR_RGB2BGR), np.uint8)
        return decode_image(data, name=name) if is_doubtful(data, header, pixels_bgr) else pixels_bgr

    def _pixels_rgb(self, data: bytes) -> npt.NDArray[np.uint8] | None:
        with allocating():
            image = self._decoder.decode(self._codec.CodeStream(data), params=self._wanted)
            return None if image is None else np.asarray(image.cpu())

    @property
    def _decoder(self) -> Any:
        if not hasattr(self._mine, "decoder"):
            self._mine.decoder = self._codec.Decoder(device_id=self._device)
        return self._mine.decoder
