"""JPEG files decoded by a GPU, with nvImageCodec (package nvidia-nvimgcodec, extra `nvcodec`).

Enters: an encoded image. Leaves: its pixels on the host, as `media.images.decode_image` gives them. What the GPU does
not decode, the processor does, and what may be damaged, since the GPU does not say. Nothing of CUDA is imported before
the first image.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from trt_yolo.capture_gate import allocating
from trt_yolo.engine.device import NO_GPU, devices
from trt_yolo.importing import import_or_refuse
from trt_yolo.media.images import check_header, decode_image
from trt_yolo.media.jpeg import is_doubtful, may_hide_damage

_MODULE = "nvidia.nvimgcodec"

_log = logging.getLogger(__name__)


def why_not() -> str:
    """Why a GPU cannot decode images here; empty where it can."""
    if not devices():
        return NO_GPU
    try:
        found = importlib.util.find_spec(_MODULE) is not None
    except ImportError:  # of a package `nvidia` that there is not
        found = False
    return "" if found else "nvidia-nvimgcodec is not installed: pip install 'trt-yolo[nvcodec]'"


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
            pixels_rgb, reason = None, " ".join(str(error).split())[:200]
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
