"""What image files say of themselves: size, orientation, frames."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from tests.media.encoded import KINDS, PICTURE, SIZE_WH, TURNS, animated, bgr, saved
from trt_yolo.media.headers import Header, exif_orientation
from trt_yolo.media.images import decode_image, header_of


@pytest.mark.parametrize("which", KINDS)
def test_size(which: str) -> None:
    kind, data = KINDS[which]
    header = header_of(data)
    assert (header.kind, header.size_wh, header.orientation, header.frames) == (kind, SIZE_WH, 1, 1)
    for length in range(
        0, len(data), 1 + len(data) // 150
    ):  # cut short anywhere: whatever it is, no exception
        assert max(header_of(data[:length]).size_wh) < 1 << 24


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"text" * 99, id="text"),
        pytest.param(b"RIFF", id="riff"),
    ],
)
def test_what_is_no_image_has_no_header(data: bytes) -> None:
    assert header_of(data) == Header()


def _jp2(exif: bytes) -> bytes:
    """A JP2 file with EXIF in a box of its own, as exiftool writes it."""
    box = b"uuid" + b"JpgTiffExif->JP2" + exif.removeprefix(b"Exif\0\0")
    return saved("JPEG2000") + struct.pack(">I", 4 + len(box)) + box


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize(
    "kind", ["JPEG", "MPO", "PNG", "WEBP", "TIFF", "tiff_lzw", "AVIF", "JPEG2000"]
)  # fmt: skip
def test_every_orientation_of_every_kind_is_read_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "JPEG2000":
        data = _jp2(exif.tobytes())
    elif kind == "tiff_lzw":
        data = saved("TIFF", exif=exif, compression=kind)
    else:
        data = saved(kind, exif=exif)
    image, wanted = decode_image(data, name=kind), bgr(TURNS[orientation](PICTURE))
    assert image.shape == wanted.shape
    assert np.abs(image.astype(int) - wanted).mean() < 15
    assert image.flags.c_contiguous


def test_what_the_container_says_overrules_exif_in_an_avif() -> None:
    """ISO/IEC 23008-12: the transformations of the item are normative, EXIF's orientation is not."""
    exif = Image.Exif()
    exif[0x0113] = 6  # becomes an orientation below: written as one, Pillow would make it a transformation
    data = saved("AVIF", exif=exif)
    turned = data.replace(b"\x01\x13\0\x03", b"\x01\x12\0\x03").replace(b"\x13\x01\x03\0", b"\x12\x01\x03\0")
    assert turned != data
    assert decode_image(turned, name="a.avif").shape == bgr(PICTURE).shape


def _exif(order: str, *entries: tuple[int, int]) -> bytes:
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, len(entries))
    return start + b"".join(struct.pack(order + "HHIHH", tag, 3, 1, value, 0) for tag, value in entries)


@pytest.mark.parametrize(
    ("exif", "wanted"),
    [
        pytest.param(_exif("<", (0x0112, 6)), 6, id="little-endian"),
        pytest.param(_exif(">", (0x0112, 8)), 8, id="big-endian"),
        pytest.param(_exif("<", (0x010F, 3), (0x0112, 5)), 5, id="second-tag"),
        pytest.param(_exif("<", (0x010F, 3)), 1, id="no-orientation"),
        pytest.param(_exif("<", (0x0112, 0)), 1, id="of-0"),
        pytest.param(_exif("<", (0x0112, 9)), 1, id="of-9"),
        pytest.param(_exif("<", (0x010F, 3), (0x0112, 5))[:-8], 1, id="cut-short"),
        pytest.param(b"II*\0" + b"\xff" * 8, 1, id="directory-far-away"),
        pytest.param(b"what" + _exif("<", (0x0112, 6))[4:], 1, id="of-no-byte-order"),
        pytest.param(b"", 1, id="nothing"),
    ],
)
def test_exif_orientation(exif: bytes, wanted: int) -> None:
    assert exif_orientation(exif) == wanted


def _with_thumbnail_page() -> bytes:
    small = PICTURE.resize((20, 12))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    return saved("TIFF", save_all=True, append_images=[small])


@pytest.mark.parametrize(
    ("data", "frames"),
    [
        pytest.param(animated("GIF"), 3, id="gif"),
        pytest.param(animated("PNG"), 3, id="apng"),
        pytest.param(animated("WEBP"), 3, id="webp"),
        pytest.param(animated("AVIF"), 3, id="avif"),
        pytest.param(animated("TIFF"), 3, id="tiff"),
        pytest.param(_with_thumbnail_page(), 1, id="tiff-with-a-smaller-copy"),
        pytest.param(animated("MPO"), 1, id="jpeg-with-a-second"),
    ],
)
def test_frames(data: bytes, frames: int) -> None:
    assert header_of(data).frames == frames
