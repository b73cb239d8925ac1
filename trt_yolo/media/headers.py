"""What an image file of a common kind says of itself: size, orientation, and how many frames it holds.

Enters: an encoded image. Leaves: a `Header`, within microseconds. Decodes no pixels, as Pillow would do to find the
EXIF of a PNG; of the rarer kinds `pillow_images.py` knows more.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

MAX_PIXELS = 1 << 28  # of a file, 0.8 GB decoded: nobody's photograph

_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {
    0xC4,
    0xC8,
    0xCC,
}  # start of frame: the tables between are none
_END = b"\xff\xd9"  # of a JPEG; looked for, since cameras write more behind it
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_HDR_SIZE = re.compile(rb"\n[-+]Y (\d{1,9}) [-+]X (\d{1,9})\n")
_ORIENTATION = 0x0112  # EXIF's tag
_JP2_EXIF = b"JpgTiffExif->JP2"  # the id of the box


class Header(NamedTuple):
    """What is known of an image before it is decoded.

    Attributes:
        kind: `jpeg`, `png`, `bmp`, `webp`, `hdr`, `tiff`, `avif`, `gif`, `jpeg2000`, `ppm`, `sun`; empty: another.
        size_wh: Pixels, as stored; 0, 0 where unknown.
        orientation: What turns it upright, 1 to 8 as EXIF counts; 1 where the decoder turns it.
        frames: How many images it holds: frames of an animation, or pages.
        channels: Of a JPEG: 1, 3 or 4.
        is_progressive: A JPEG of many scans.
        pixels_at: Where a JPEG's first scan begins, behind its header.
        is_whole: False where its end is missing, which decoders fill with grey and call success.
    """

    kind: str = ""
    size_wh: tuple[int, int] = (0, 0)
    orientation: int = 1
    frames: int = 1
    channels: int = 3
    is_progressive: bool = False
    pixels_at: int = 0
    is_whole: bool = True


def common_header(data: bytes) -> Header | None:
    """What a JPEG, PNG, BMP, WebP or HDR file says of itself; None of another kind."""
    if data.startswith(b"\xff\xd8"):
        return jpeg_header(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _png(data)
    if data.startswith(b"BM"):
        return _bmp(data)
    if data[8:12] == b"WEBP":
        return _webp(data)
    if data.startswith(b"#?"):
        return _hdr(data)
    return None


def exif_orientation(exif: bytes) -> int:
    """1 to 8, as the EXIF block's first directory says; 1 where it says nothing that makes sense."""
    order = _BYTE_ORDERS.get(exif[:4], "")
    try:
        (directory,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, directory)
        for entry in range(directory + 2, directory + 2 + 12 * count, 12):
            tag, value = struct.unpack_from(order + "H6xH", exif, entry)
            if order and tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # cut short
        pass
    return 1


def jpeg2000_orientation(data: bytes) -> int:
    """1 to 8, as the EXIF box of a JP2 file says."""
    at = data.find(_JP2_EXIF)
    return 1 if at < 0 else exif_orientation(data[at + len(_JP2_EXIF) :])


def jpeg_header(data: bytes) -> Header:
    """What a JPEG says of itself."""
    frame_at, exif, pixels_at, is_progressive = 0, b"", 2, False
    for marker, position, length in _jpeg_segments(data):
        pixels_at = position + length
        if marker in _JPEG_FRAMES:
            frame_at, is_progressive = position, marker in _PROGRESSIVE
        elif marker == 0xE1 and not exif and data.startswith(b"Exif\0\0", position):
            exif = data[position + 6 : position + length]
    height, width, channels = _unpacked(">xHHB", data, frame_at) if frame_at else (0, 0, 3)
    return Header(
        "jpeg",
        (width, height),
        exif_orientation(exif),
        channels=channels,
        is_progressive=is_progressive,
        pixels_at=pixels_at,
        is_whole=len(data) > pixels_at and (data.endswith(_END) or data.find(_END, pixels_at) >= 0),
    )


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and length of what each segment holds, up to and with the start of the first scan.

    They are stepped over: a thumbnail inside of one has a size and an end of its own.
    """
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # filling
            position += 1
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position + 4, length - 2
        if marker == 0xDA:
            return
        position += 2 + length


def _png(data: bytes) -> Header:
    width, height = _unpacked(">II", data, 16)
    exif, frames, position = b"", 1, 8
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"acTL":
            (frames,) = _unpacked(">I", data, position + 8)
        elif kind == b"eXIf":
            exif = data[position + 8 : position + 8 + length]
        elif kind == b"IEND":
            return Header("png", (width, height), exif_orientation(exif), frames)
        position += 12 + length
    return Header("png", (width, height), is_whole=False)


def _bmp(data: bytes) -> Header:
    (header_size,) = _unpacked("<I", data, 14)
    width, height = _unpacked("<HH" if header_size == 12 else "<ii", data, 18)  # 12: of OS/2
    return Header("bmp", (abs(width), abs(height)))


def _webp(data: bytes) -> Header:
    kind = data[12:16]
    if kind == b"VP8 ":
        width, height = _unpacked("<HH", data, 26)
        return Header("webp", (width & 0x3FFF, height & 0x3FFF))
    if kind == b"VP8L":
        (bits,) = _unpacked("<I", data, 21)
        return Header("webp", ((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
    size_wh = (int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1)
    exif, frames, position = b"", 0, 12
    while position + 8 <= len(data):
        kind, length = struct.unpack_from("<4sI", data, position)
        if kind == b"ANMF":
            frames += 1
        elif kind == b"EXIF":
            exif = data[position + 8 : position + 8 + length].removeprefix(b"Exif\0\0")
        position += 8 + length + length % 2
    return Header("webp", size_wh, exif_orientation(exif), max(frames, 1))


def _hdr(data: bytes) -> Header:
    found = _HDR_SIZE.search(data, 0, 4096)
    return Header("hdr", (int(found[2]), int(found[1]))) if found else Header("hdr")


def _unpacked(layout: str, data: bytes, at: int) -> tuple[int, ...]:
    """As `struct.unpack_from`; zeros where the data ends before."""
    try:
        return struct.unpack_from(layout, data, at)
    except struct.error:
        return struct.unpack(layout, bytes(struct.calcsize(layout)))
