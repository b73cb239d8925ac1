"""TIFF files that hold JPEG: each strip or tile is a JPEG of its own, decoded here, where damage is an error.

Enters: a TIFF that Pillow has opened. Leaves: its pixels. libtiff would decode them too, but takes damage in silence.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL.TiffImagePlugin import TiffImageFile

from trt_yolo.media.headers import jpeg_header
from trt_yolo.media.jpeg import jpeg_pixels

_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _TABLES = 258, 259, 262, 274, 347  # TIFF's tags
_STRIPS, _ROWS, _STRIP_SIZES = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_SIZES = 322, 323, 324, 325
_JPEG = 7
_GREY, _RGB, _YCBCR = 1, 2, 6
_NO_TRANSFORM = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"  # says of three channels that they are not YCbCr


def jpeg_tiff_pixels(image: TiffImageFile, data: bytes, *, name: str) -> npt.NDArray[np.uint8] | None:
    """(H, W, 3) uint8 BGR; None where the TIFF holds no JPEG, or one that only libtiff reads.

    Args:
        image: The file, opened and not loaded.
        data: The file.
        name: Named in errors.

    Raises:
        ImageError: A strip or tile is damaged.
        LookupError, ValueError: The tags make no sense.
    """
    tags = image.tag_v2
    is_opaque = tags.get(_BITS) in ((8,), (8, 8, 8)) and tags.get(_PHOTOMETRIC) in (_GREY, _RGB, _YCBCR)
    if tags.get(_COMPRESSION) != _JPEG or not is_opaque or tags.get(_ORIENTATION, 1) != 1:
        return None
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for place, jpeg in _parts(image, data, pixels):
        part = jpeg_pixels(jpeg, jpeg_header(jpeg), name=name) if jpeg else None
        if part is None or part.shape[0] < place.shape[0] or part.shape[1] < place.shape[1]:
            return None
        place[:] = part[: place.shape[0], : place.shape[1]]
    return pixels


def _parts(
    image: TiffImageFile, data: bytes, pixels: npt.NDArray[np.uint8]
) -> Iterator[tuple[npt.NDArray[np.uint8], bytes]]:
    """Where each strip or tile belongs, and its JPEG with the tables that all share; empty where it was left out."""
    tags, (width, height) = image.tag_v2, image.size
    if _TILES in tags:
        part_wh, starts, sizes = (tags[_TILE_WIDTH], tags[_TILE_HEIGHT]), tags[_TILES], tags[_TILE_SIZES]
    else:
        part_wh, starts, sizes = (width, tags.get(_ROWS, height)), tags[_STRIPS], tags[_STRIP_SIZES]
    if -(-width // part_wh[0]) * -(-height // part_wh[1]) != len(starts):
        raise ValueError(f"{len(starts)} parts do not make up the image")
    corners = [(x, y) for y in range(0, height, part_wh[1]) for x in range(0, width, part_wh[0])]
    start_of_image = b"\xff\xd8" + (_NO_TRANSFORM if tags[_PHOTOMETRIC] == _RGB else b"")
    before = start_of_image + tags.get(_TABLES, b"")[2:-2]
    for (x, y), start, size in zip(corners, starts, sizes, strict=True):
        jpeg = data[start : start + size]
        place = pixels[y : y + part_wh[1], x : x + part_wh[0]]
        yield place, before + jpeg[2:] if jpeg else b""
