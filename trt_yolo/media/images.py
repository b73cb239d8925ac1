"""The pixels of image files.

Enters: paths, or encoded images. Leaves: (H, W, 3) uint8 BGR arrays.
Knows no models. A file that its decoder complains of is an error, not half a picture. Decoders see most damage in
JPEG, PNG, GIF, AVIF and compressed TIFF, and in any file that is cut short. None sees it where the format holds nothing
to check by: inside of WebP, JPEG 2000, fax codes in TIFF and uncompressed files, or where the rest stays valid code, as
after one wrong bit of a JPEG.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from trt_yolo.artifacts.files import write_files
from trt_yolo.errors import ImageError
from trt_yolo.media.headers import MAX_PIXELS, Header, common_header
from trt_yolo.media.jpeg import jpeg_pixels

_JPEG_MAX_SIDE = 65_500
SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif",
     ".tiff", ".webp"}
)  # fmt: skip

_log = logging.getLogger(__name__)


class Decode(Protocol):
    """Turns an encoded image into pixels."""

    def __call__(self, data: bytes, *, name: str) -> npt.NDArray[np.uint8]:
        """(H, W, 3) uint8 BGR, upright; `name` is named in errors.

        Raises:
            ImageError: Empty, no image, too large, or damaged.
        """


def read_image(path: Path, decode: Decode | None = None) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 BGR, upright; grey becomes colour, alpha is dropped, 16 bits become 8.

    Args:
        path: The file.
        decode: What decodes it; None: `decode_image`.

    Raises:
        ImageError: The file cannot be read, is no image, has more than 268 million pixels, or is damaged.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ImageError(f"{path} is a device or a pipe; give an image file")
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise ImageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    return (decode or decode_image)(data, name=str(path))


def decode_image(data: bytes, *, name: str) -> npt.NDArray[np.uint8]:
    """The pixels of an encoded image, as `read_image` returns them; `name` is named in errors.

    Raises:
        ImageError: Empty, no image, too large, or damaged.
    """
    header = check_header(data, name=name)
    pixels: npt.NDArray[np.uint8] | None = None
    if header.kind == "jpeg":
        pixels = jpeg_pixels(data, header, name=name)
    elif header.kind == "tiff":
        from trt_yolo.media.pillow_images import tiff_pixels  # OpenCV goes on where libtiff complains

        pixels = tiff_pixels(data, name=name)
    if pixels is None:
        pixels = _opencv_pixels(data, header, name=name)
    if header.frames > 1:
        _say_frames(name, header)
    return _turned(pixels, header.orientation)


def check_header(data: bytes, *, name: str) -> Header:
    """What the image says of itself.

    Raises:
        ImageError: No data, more pixels than are read, or a JPEG or PNG whose end is missing.
    """
    if not data:
        raise ImageError(f"{name} is empty; copy it again")
    header = header_of(data)
    _check_size(header.size_wh, name=name)
    if not header.is_whole:
        raise ImageError(f"{name} is cut short: its end is missing; copy it again")
    return header


def header_of(data: bytes) -> Header:
    """What the image says of itself; `Header()` where it is of no kind that is known here, or too short."""
    if (header := common_header(data)) is not None:
        return header
    from trt_yolo.media.pillow_images import header_by_pillow  # rarer: imported by the first that comes

    return header_by_pillow(data)


def _opencv_pixels(data: bytes, header: Header, *, name: str) -> npt.NDArray[np.uint8]:
    flags = cv2.IMREAD_COLOR  # alone, it turns the image; not every version does so for every kind
    if header.kind != "tiff":
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        if "MAX_IMAGE" in error.err:
            raise ImageError(f"{name} has more pixels than OpenCV reads; give a smaller image") from error
        raise ImageError(f"{name} cannot be decoded ({error.err}); convert it to JPEG or PNG") from error
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than there is; give a smaller image") from error
    if image is None or image.dtype != np.uint8:
        raise ImageError(_why_no_image(data, name=name))
    _check_size((image.shape[1], image.shape[0]), name=name)  # of a kind whose header is not known here
    return np.asarray(image, np.uint8)


def _why_no_image(data: bytes, *, name: str) -> str:
    from trt_yolo.media.pillow_images import complaint

    if reason := complaint(data):
        return f"{name} cannot be fully decoded: {reason}; copy it again"
    return f"{name} is no image that OpenCV can decode; give a JPEG, PNG, BMP, TIFF or WebP file"


def _check_size(size_wh: tuple[int, int], *, name: str) -> None:
    width, height = size_wh
    if width * height > MAX_PIXELS:
        raise ImageError(
            f"{name} has {width}x{height} pixels, more than the limit of {MAX_PIXELS:,}; "
            "give a smaller image, or its pixels as an array"
        )


@functools.lru_cache(1024)
def _say_frames(name: str, header: Header) -> None:
    """Warns, once for each file, that only the first frame or page is used."""
    what, advice = (
        ("pages", "save each as a file") if header.kind == "tiff" else ("frames", "convert it to MP4")
    )
    _log.warning("%s holds %d %s; only the first is used; %s to use all", name, header.frames, what, advice)


def _turned(pixels: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Upright; `orientation` as EXIF counts, 1 to 8: what is stored is mirrored where it is 2, 4, 5 or 7."""
    if orientation >= 5:
        pixels = np.asarray(cv2.transpose(pixels), np.uint8)
    flips = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}  # OpenCV's codes: 1 swaps left and right, 0 top and bottom
    return np.asarray(cv2.flip(pixels, flips[orientation]), np.uint8) if orientation in flips else pixels


def write_jpeg(path: Path, image_bgr: npt.NDArray[np.uint8]) -> None:
    """Writes a JPEG of quality 92, whole or not at all; its folder is made.

    Raises:
        ImageError: Larger than a JPEG can be, 65,500 pixels a side.
        OSError: The file cannot be written.
    """
    height, width = image_bgr.shape[:2]
    if max(height, width) > _JPEG_MAX_SIDE:
        raise ImageError(
            f"{path} cannot be a JPEG: {height}x{width} pixels, and {_JPEG_MAX_SIDE} a side are possible"
        )
    _, data = cv2.imencode(".jpg", image_bgr, [cv2.IMWRITE_JPEG_QUALITY, 92])
    write_files({path: data.tobytes()})
