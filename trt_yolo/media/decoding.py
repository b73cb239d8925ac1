"""Which decoder images go through: the processor's, a GPU's, or whichever of them is measured to be faster.

Enters: a name. Leaves: something that turns an encoded image into pixels. Knows no files.
"""

from __future__ import annotations

import logging
import statistics
import threading
import time
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import InputError, MissingDependencyError
from trt_yolo.media.gpu_images import GpuImageDecoder, why_not
from trt_yolo.media.images import Decode, decode_image

DecoderName = Literal["auto", "cpu", "gpu"]

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
