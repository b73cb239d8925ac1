"""Image files through Pillow: headers of the rarer kinds, TIFF's pixels, and what is wrong with a damaged file.

Enters: an encoded image. Leaves: its `Header`, its pixels, or a complaint. Only the kinds listed here are opened:
Pillow knows others that start programs.
"""

from __future__ import annotations

import io

import cv2
import numpy as np
import numpy.typing as npt
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.SunImagePlugin import SunImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from trt_yolo.errors import ImageError, on_one_line
from trt_yolo.media.headers import Header, jpeg2000_orientation
from trt_yolo.media.jpeg_tiff import jpeg_tiff_pixels

_KINDS: tuple[tuple[str, tuple[bytes, ...], type[ImageFile]], ...] = (
    ("jpeg", (b"\xff\xd8",), JpegImageFile),
    ("png", (b"\x89PNG\r\n\x1a\n",), PngImageFile),
    ("bmp", (b"BM",), BmpImageFile),
    ("webp", (b"RIFF",), WebPImageFile),
    ("tiff", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),
    ("gif", (b"GIF8",), GifImageFile),
    ("jpeg2000", (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"), Jpeg2KImageFile),
    ("ppm", (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"), PpmImageFile),
    ("sun", (b"\x59\xa6\x6a\x95",), SunImageFile),
)
_TIFF_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK"})
_ORIENTATION, _SUBFILE, _BITS, _PLANAR = 0x0112, 254, 258, 284  # TIFF's tags
_NO_PAGE = 0b101  # of a subfile: a smaller copy of another, or its mask


def header_by_pillow(data: bytes) -> Header:
    """What the image says of itself; `Header()` where Pillow does not open it."""
    kind, plugin = _kind(data)
    if plugin is None:
        return Header()
    try:
        with plugin(io.BytesIO(data)) as image:
            return Header(kind, image.size, _orientation(kind, image, data), _frames(image))
    except Exception:  # noqa: BLE001  damage raises whatever it meets first; the decoder will say it
        return Header(kind)


def tiff_pixels(data: bytes, *, name: str) -> npt.NDArray[np.uint8] | None:
    """(H, W, 3) uint8 BGR, upright; None where only OpenCV may read it, such as separate planes.

    Raises:
        ImageError: It is damaged, and the decoder saw it.
    """
    try:
        image = TiffImageFile(io.BytesIO(data))
    except Exception:  # noqa: BLE001  of a kind that Pillow does not know, or damaged
        return None
    is_deep = image.mode.startswith("I;16") and image.tag_v2.get(_BITS) == (16,)
    if image.tag_v2.get(_PLANAR, 1) != 1 or not (is_deep or image.mode in _TIFF_MODES):
        return None
    try:
        if (pixels := jpeg_tiff_pixels(image, data, name=name)) is not None:
            return pixels
        image.load()  # turns it upright
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"{name} cannot be fully decoded: {on_one_line(error)}; copy it again") from error
    if is_deep:
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    rgb = image if image.mode == "RGB" else image.convert("RGB")  # which copies
    return np.asarray(cv2.cvtColor(np.asarray(rgb), cv2.COLOR_RGB2BGR), np.uint8)


def complaint(data: bytes) -> str:
    """What Pillow finds wrong with an image; empty where it finds nothing, or does not know the kind."""
    _, plugin = _kind(data)
    if plugin is None:
        return ""
    try:
        with plugin(io.BytesIO(data)) as image:
            image.load()
    except Exception as error:  # noqa: BLE001  damage raises whatever it meets first
        return on_one_line(error)
    return ""


def _kind(data: bytes) -> tuple[str, type[ImageFile] | None]:
    if data[4:8] == b"ftyp" and any(brand in data[8:64] for brand in (b"avif", b"avis")):
        return "avif", AvifImageFile
    if data.startswith(b"RIFF") and data[8:12] != b"WEBP":  # sound, or a video
        return "", None
    return next(((kind, plugin) for kind, starts, plugin in _KINDS if data.startswith(starts)), ("", None))


def _orientation(kind: str, image: ImageFile, data: bytes) -> int:
    """Of AVIF, Pillow gives what the container says, which overrules EXIF there; TIFF's pixels come upright."""
    if kind == "jpeg2000":
        return jpeg2000_orientation(data)
    return int(image.getexif().get(_ORIENTATION, 1)) if kind == "avif" else 1


def _frames(image: ImageFile) -> int:
    count = int(getattr(image, "n_frames", 1))
    if not isinstance(image, TiffImageFile):
        return count
    pages = 0
    for page in range(count):
        image.seek(page)
        pages += not image.tag_v2.get(_SUBFILE, 0) & _NO_PAGE
    return pages
