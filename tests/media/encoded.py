"""Encoded images for tests, whole and damaged."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

PICTURE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (6, 10, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
)
SIZE_WH = PICTURE.size  # 160, 96


def saved(kind: str, image: Image.Image = PICTURE, **options: Any) -> bytes:
    """As Pillow writes it."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def encoded(suffix: str, image: Image.Image = PICTURE, *options: int, dtype: type = np.uint8) -> bytes:
    """As OpenCV writes it."""
    done, data = cv2.imencode(suffix, np.asarray(image).astype(dtype)[..., ::-1], list(options))
    assert done
    return data.tobytes()


def animated(kind: str, *, frames: int = 3) -> bytes:
    """As many frames or pages."""
    others = [PICTURE.rotate(180 * (turn % 2)).point(lambda v, t=turn: v ^ t) for turn in range(1, frames)]
    return saved(kind, save_all=True, append_images=others)


KINDS: dict[str, tuple[str, bytes]] = {  # what header_of calls it
    "jpeg": ("jpeg", saved("JPEG")),
    "png": ("png", saved("PNG")),
    "bmp": ("bmp", saved("BMP")),
    "webp": ("webp", saved("WEBP")),
    "webp-lossless": ("webp", saved("WEBP", lossless=True)),
    "webp-extended": ("webp", saved("WEBP", exif=Image.Exif())),
    "tiff": ("tiff", saved("TIFF")),
    "avif": ("avif", saved("AVIF")),
    "gif": ("gif", saved("GIF")),
    "jp2": ("jpeg2000", saved("JPEG2000")),
    "j2k": ("jpeg2000", saved("JPEG2000", no_jp2=True)),
    "ppm": ("ppm", saved("PPM")),
    "ras": ("sun", encoded(".ras")),
    "hdr": ("hdr", encoded(".hdr", dtype=np.float32)),
}


def with_zeros(data: bytes, *, at: float = 1 / 3, share: float = 1 / 3) -> bytes:
    """With a hole of zeros that begins at that share of it."""
    first, length = int(at * len(data)), int(share * len(data))
    return data[:first] + bytes(length) + data[first + length :]


TURNS: dict[int, Callable[[Image.Image], Image.Image]] = {  # what turns an image upright, by its orientation
    1: lambda image: image,
    2: lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    3: lambda image: image.transpose(Image.Transpose.ROTATE_180),
    4: lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    5: lambda image: image.transpose(Image.Transpose.TRANSPOSE),
    6: lambda image: image.transpose(Image.Transpose.ROTATE_270),
    7: lambda image: image.transpose(Image.Transpose.TRANSVERSE),
    8: lambda image: image.transpose(Image.Transpose.ROTATE_90),
}


def bgr(image: Image.Image) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8."""
    return np.ascontiguousarray(np.asarray(image.convert("RGB"))[..., ::-1])
