"""JPEG through libjpeg-turbo (package simplejpeg), whose warnings are errors; signs of damage that others ignore.

Enters: an encoded JPEG and its header. Leaves: its pixels as stored, or whether there is reason to doubt another
decoder's. OpenCV has the same library and gives the same pixels, but keeps the library's warnings to itself.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
from simplejpeg import decode_jpeg

from trt_yolo.errors import ImageError
from trt_yolo.media.headers import Header

_NO_DAMAGE = re.compile(  # concerns no pixel, or only what the wrapper knows of sampling factors
    r"Invalid SOS parameters|Unknown Adobe|Warning:|Corrupt JPEG data: bad ICC|tjDecompressHeader3\(\):"
    r"|Corrupt JPEG data: \d extraneous bytes before marker 0xd9"  # webcams fill up the end
)
_HOLE = bytes(24)  # in a scan: a sector that was lost; a photograph's code has no such run
_FILLED = 128  # the grey of blocks for which there was no data


def jpeg_pixels(data: bytes, header: Header, *, name: str) -> npt.NDArray[np.uint8] | None:
    """(H, W, 3) uint8 BGR, not turned; None where OpenCV is to decode it.

    Raises:
        ImageError: It is damaged, and the decoder saw it.
    """
    try:
        if header.channels == 4:
            return _bgr_from_cmyk(decode_jpeg(data, "CMYK"))
        return np.asarray(decode_jpeg(data, "BGR"), np.uint8)
    except ValueError as error:
        if _NO_DAMAGE.match(str(error)):
            return None
        raise ImageError(f"{name} cannot be fully decoded: {error}; copy it again") from error


def may_hide_damage(header: Header) -> bool:
    """Whether the signs that `is_doubtful` looks for do not show: in a progressive file, and in one in CMYK."""
    return header.is_progressive or header.channels == 4


def is_doubtful(data: bytes, header: Header, pixels_bgr: npt.NDArray[np.uint8]) -> bool:
    """Whether a JPEG may be damaged that another decoder took without a word.

    Signs are a run of zeros in the scan, a marker that does not belong there, restart markers out of order, and a
    corner without data.

    Args:
        data: The file, of which none of these signs is hidden.
        header: Of it.
        pixels_bgr: (H, W, 3) uint8, as the decoder gave them; turned or not.
    """
    corners = pixels_bgr[:: max(len(pixels_bgr) - 1, 1), :: max(pixels_bgr.shape[1] - 1, 1)]
    has_filling = bool((np.abs(corners.astype(np.int16) - _FILLED) <= 1).all(axis=2).any())
    return has_filling or _has_odd_code(data, header.pixels_at)


def _has_odd_code(data: bytes, pixels_at: int) -> bool:
    code = np.frombuffer(data, np.uint8, offset=pixels_at)
    at = np.flatnonzero(code[:-1] == 0xFF)
    at = at[(code[at + 1] != 0) & (code[at + 1] != 0xFF)]  # neither a byte of 255 nor filling: a marker
    markers = code[at + 1]
    count = int(np.append(np.flatnonzero(markers == 0xD9), len(markers))[0])  # as far as the first end
    end = pixels_at + int(at[count]) if count < len(at) else len(data)
    is_in_order = np.array_equal(markers[:count], 0xD0 + np.arange(count) % 8)
    return not is_in_order or data.find(_HOLE, pixels_at, end) >= 0


def _bgr_from_cmyk(inverted_cmyk: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """As OpenCV does it, for CMYK as Adobe stores it: 255 is no ink."""
    cmyk = inverted_cmyk.astype(np.int32)
    key = cmyk[..., 3:]
    return np.ascontiguousarray((key - ((255 - cmyk[..., :3]) * key >> 8))[..., ::-1], np.uint8)
