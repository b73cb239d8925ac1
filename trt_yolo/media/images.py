"""Image files: which ones a person meant, and their pixels.

Enters: paths, folders, globs. Leaves: paths in order, and (H, W, 3) uint8 BGR arrays.
Knows no models. A file that decodes only in part is an error, not half a picture.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from trt_yolo.errors import ImageError, InputError

if TYPE_CHECKING:
    from trt_yolo.media.decoding import Decode

_JPEG_MAX_SIDE = 65_500
SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif",
     ".tiff", ".webp"}
)  # fmt: skip


def find_images(sources: Sequence[str]) -> list[Path]:
    """The image files that the sources name, in their order, each source's own sorted by name.

    Args:
        sources: Files (taken whatever their suffix), folders (their images, not those of folders below),
            and glob patterns (`**` reaches below).

    Raises:
        InputError: A source that does not exist, or holds or matches no image.
    """
    found: list[Path] = []
    for source in sources:
        path = Path(source)
        if os.path.isdir(source):  # unlike Path's, never raises
            matches = sorted(entry for entry in path.iterdir() if _is_image(entry))
            if not matches:
                raise InputError(f"the folder {source} holds no images; images end in {_suffix_list()}")
        elif os.path.exists(source):
            matches = [path]
        elif glob.has_magic(source):
            matches = sorted(
                Path(name) for name in glob.glob(source, recursive=True) if _is_image(Path(name))
            )
            if not matches:
                raise InputError(f"no image matches {source}; images end in {_suffix_list()}")
        else:
            raise InputError(f"no such file or folder: {source}; give images, folders or glob patterns")
        found.extend(matches)
    return found


def read_image(path: Path, decode: Decode | None = None) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 BGR, upright; grey becomes colour, alpha is dropped, 16 bits become 8.

    Args:
        path: The file.
        decode: What decodes it; None: `decode_image`.

    Raises:
        ImageError: The file cannot be read, is no image, or is cut short.
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
        ImageError: Empty, no image, or cut short.
    """
    check_whole(data, name=name)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        if "MAX_IMAGE" in error.err:
            raise ImageError(f"{name} has more pixels than any camera; give a smaller image") from error
        raise ImageError(f"{name} cannot be decoded ({error.err}); convert it to JPEG or PNG") from error
    except MemoryError as error:
        raise ImageError(f"{name} needs more memory than there is; give a smaller image") from error
    if image is None or image.dtype != np.uint8:
        raise ImageError(
            f"{name} is no image that OpenCV can decode; give a JPEG, PNG, BMP, TIFF or WebP file"
        )
    return np.asarray(image, np.uint8)


def check_whole(data: bytes, *, name: str) -> None:
    """Raises ImageError for no data, and for a JPEG or PNG whose end is missing."""
    if not data:
        raise ImageError(f"{name} is empty; copy it again")
    if _is_cut_short(data):
        raise ImageError(f"{name} is cut short: its end is missing; copy it again")


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file()


def _suffix_list() -> str:
    return ".jpg, .png, .bmp, .tif or .webp"


def _is_cut_short(data: bytes) -> bool:
    """Whether the end of a JPEG or PNG is missing: decoders fill the rest with grey and call it success."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return b"IEND" not in data
    return data.startswith(b"\xff\xd8") and data.find(b"\xff\xd9", _jpeg_scan_start(data)) < 0


def _jpeg_scan_start(data: bytes) -> int:
    """Where a JPEG's pixel data begins. Segments before it are stepped over: a thumbnail has an end too."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xDA:  # start of scan
            return position
        is_filling = marker == 0xFF
        position += 1 if is_filling else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return min(position, len(data))


def write_jpeg(path: Path, image_bgr: npt.NDArray[np.uint8]) -> None:
    """Writes a JPEG of quality 92.

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
    path.write_bytes(data.tobytes())
