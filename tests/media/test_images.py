"""Reading every kind of image file whole or not at all."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.media.encoded import KINDS, PICTURE, SIZE_WH, animated, bgr, encoded, saved, with_zeros
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import ImageError
from trt_yolo.media import images, pillow_images
from trt_yolo.media.images import decode_image, read_image, write_jpeg

SCENE = scene(0).image_bgr
NOISE = np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)


def _encoded(extension: str, image: npt.NDArray[Any] = SCENE, *options: int) -> bytes:
    done, data = cv2.imencode(extension, image, list(options))
    assert done
    return data.tobytes()


def _grey_to_bgr(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.repeat(grey[..., None], 3, axis=2)


GREY = NOISE[..., 0]
RGBA = Image.fromarray(np.dstack([NOISE[..., ::-1], GREY // 2]), "RGBA")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        pytest.param(_encoded(".png", NOISE), NOISE, id="png"),
        pytest.param(_encoded(".bmp", NOISE), NOISE, id="bmp"),
        pytest.param(_encoded(".tif", NOISE), NOISE, id="tiff"),
        pytest.param(_encoded(".ppm", NOISE), NOISE, id="ppm"),
        pytest.param(_encoded(".webp", NOISE, cv2.IMWRITE_WEBP_QUALITY, 101), NOISE, id="webp-lossless"),
        pytest.param(_encoded(".png", GREY), _grey_to_bgr(GREY), id="grey"),
        pytest.param(_encoded(".png", NOISE.astype(np.uint16) * 257), NOISE, id="png-16-bit"),
        pytest.param(_encoded(".tif", NOISE.astype(np.uint16) * 257), NOISE, id="tiff-16-bit"),
        pytest.param(_encoded(".png", GREY.astype(np.uint16) * 257), _grey_to_bgr(GREY), id="grey-16-bit"),
        pytest.param(saved("PNG", RGBA), NOISE, id="alpha-dropped"),
        pytest.param(saved("PNG", Image.fromarray(GREY).convert("LA")), _grey_to_bgr(GREY), id="grey-alpha"),
        pytest.param(
            saved("PNG", Image.fromarray(GREY).convert("P")), _grey_to_bgr(GREY), id="palette"
        ),
        pytest.param(
            saved("PNG", Image.fromarray(GREY > 127)), _grey_to_bgr((GREY > 127) * np.uint8(255)), id="1-bit"
        ),
        pytest.param(_encoded(".png", NOISE[:1, :1]), NOISE[:1, :1], id="1x1"),
        pytest.param(_encoded(".png", NOISE[:1]), NOISE[:1], id="one-row"),
        pytest.param(_encoded(".png", NOISE) + b"tail", NOISE, id="png-with-a-tail"),
    ],
)  # fmt: skip
def test_read_image_gives_8_bit_bgr(data: bytes, wanted: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    path = tmp_path / "image.bin"
    path.write_bytes(data)
    got = read_image(path)
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, wanted)


JPEGS = {
    "baseline": _encoded(".jpg"),
    "progressive": _encoded(".jpg", SCENE, cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "restart-markers": _encoded(".jpg", SCENE, cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
    "grey": _encoded(".jpg", SCENE[..., 0]),
}
each_jpeg = pytest.mark.parametrize("kind", JPEGS)


def _jpeg_with_thumbnail() -> bytes:
    """A JPEG whose EXIF segment holds a whole small JPEG, with an end-of-image marker of its own."""
    thumbnail = _encoded(".jpg", SCENE[::8, ::8])
    ifd0_at, ifd1_at, thumbnail_at = 8, 14, 44
    tiff = b"II*\0" + struct.pack("<I", ifd0_at) + struct.pack("<HI", 0, ifd1_at)
    tiff += struct.pack("<H", 2) + struct.pack("<HHII", 0x201, 4, 1, thumbnail_at)
    tiff += struct.pack("<HHII", 0x202, 4, 1, len(thumbnail)) + struct.pack("<I", 0)
    assert len(tiff) == thumbnail_at
    body = b"Exif\0\0" + tiff + thumbnail
    whole = _encoded(".jpg")
    return whole[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + whole[2:]


@each_jpeg
@pytest.mark.parametrize("tail", [b"", b"\0" * 100, b"\xff\xd8 more"])
def test_a_whole_jpeg_is_read(kind: str, tail: bytes) -> None:
    image = decode_image(JPEGS[kind] + tail, name="a.jpg")
    wanted = _grey_to_bgr(SCENE[..., 0]) if kind == "grey" else SCENE
    assert image.shape == wanted.shape
    assert np.abs(image.astype(int) - wanted).mean() < 10


def _cuts(length: int) -> list[int]:
    """Lengths of what is left: few bytes, few missing, and between."""
    return sorted({*range(1, 30), *range(30, length - 30, 997), *range(length - 30, length)})


@each_jpeg
def test_a_jpeg_cut_short_is_an_error_wherever_it_is_cut(kind: str) -> None:
    data = JPEGS[kind]
    for length in _cuts(len(data)):
        with pytest.raises(ImageError, match=r"a\.jpg is cut short" if length > 1 else "is no image"):
            decode_image(data[:length], name="a.jpg")


def test_a_jpeg_with_a_thumbnail_is_read_and_the_end_of_the_thumbnail_is_not_its_end() -> None:
    data = _jpeg_with_thumbnail()
    assert data.count(b"\xff\xd9") == 2
    np.testing.assert_array_equal(
        decode_image(data, name="a.jpg"), decode_image(_encoded(".jpg"), name="plain.jpg")
    )
    for length in _cuts(len(data)):
        with pytest.raises(ImageError, match=r"a\.jpg is cut short" if length > 1 else "is no image"):
            decode_image(data[:length], name="a.jpg")


def _with_text_chunk(png: bytes, text: bytes) -> bytes:
    body = b"tEXt" + text
    chunk = struct.pack(">I", len(text)) + body + struct.pack(">I", zlib.crc32(body))
    after_header = 8 + 25
    return png[:after_header] + chunk + png[after_header:]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(_encoded(".png"), id="plain"),
        pytest.param(_with_text_chunk(_encoded(".png"), b"Comment\0the IEND"), id="with-IEND-in-a-comment"),
        pytest.param(saved("PNG", Image.fromarray(SCENE).convert("P")), id="palette"),
    ],
)
def test_a_png_cut_short_is_an_error_wherever_it_is_cut(data: bytes) -> None:
    assert decode_image(data, name="a.png").shape == SCENE.shape
    end = data.rindex(b"IEND")
    for length in (length for length in _cuts(len(data)) if length <= end):
        with pytest.raises(ImageError, match=r"a\.png is (cut short|no image)"):
            decode_image(data[:length], name="a.png")


@pytest.mark.parametrize("extension", [".bmp", ".tif", ".webp", ".ppm"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_other_files_cut_short_are_errors(extension: str, share: float) -> None:
    data = _encoded(extension)
    with pytest.raises(ImageError, match=r"^a cannot be fully decoded: .+; copy it again"):
        decode_image(data[: int(share * len(data))], name="a")


@pytest.mark.parametrize("kind", ["png", "gif", "avif"])
def test_other_files_with_a_hole_are_errors(kind: str) -> None:
    """What holds no sums, such as WebP, JPEG 2000 and uncompressed files, decodes to other pixels in silence."""
    with pytest.raises(
        ImageError, match=r"^a (cannot be fully decoded: .+; copy it again|is no image|is cut short)"
    ):
        decode_image(with_zeros(KINDS[kind][1], at=0.5, share=0.2), name="a")


def _bomb(side: int) -> bytes:
    """A PNG that declares a square of that side and holds nothing."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)), (b"IDAT", b""), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(b"", "is empty; copy it again", id="empty"),
        pytest.param(b"hello, this is text\n" * 20, "is no image that OpenCV can decode", id="text"),
        pytest.param(b"\0" * 1000, "is no image that OpenCV can decode", id="zeros"),
        pytest.param(b"\xff\xd8\xff\xd9", "", id="jpeg-of-nothing"),
        pytest.param(b"\x89PNG\r\n\x1a\nIEND", "", id="png-of-nothing"),
        pytest.param(_bomb(0), "", id="png-of-no-pixels"),
        pytest.param(_bomb(65_000), "", id="png-of-4-gigapixels"),
    ],
)
def test_what_is_no_image_is_an_error_that_names_the_file(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    with pytest.raises(ImageError) as caught:
        read_image(path)
    assert str(caught.value).startswith(f"{path} {message}")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("gone.jpg", id="missing"),
        pytest.param("", id="folder"),
        pytest.param("x" * 300, id="name-too-long"),
        pytest.param("a\0b.jpg", id="null-character"),
    ],
)
def test_a_path_that_cannot_be_read_is_an_error(name: str, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="cannot read "):
        read_image(tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_of_pixels_holds_before_any_is_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, data = KINDS[kind]
    count = SIZE_WH[0] * SIZE_WH[1]
    monkeypatch.setattr(images, "MAX_PIXELS", count)
    decode_image(data, name="a")
    monkeypatch.setattr(images, "MAX_PIXELS", count - 1)
    monkeypatch.setattr(cv2, "imdecode", None)
    monkeypatch.setattr(pillow_images.TiffImageFile, "load", None)
    with pytest.raises(ImageError, match=r"^a has 160x96 pixels, more than the limit of 15,359; give"):
        decode_image(data, name="a")


def test_the_limit_holds_for_kinds_whose_header_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", SIZE_WH[0] * SIZE_WH[1] - 1)
    with pytest.raises(ImageError, match=r"^a has 160x96 pixels"):
        decode_image(encoded(".pam"), name="a")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("GIF", "holds 3 frames; only the first is used; convert it to MP4 to use all"),
        ("PNG", "holds 3 frames; only the first"),
        ("WEBP", "holds 3 frames; only the first"),
        ("AVIF", "holds 3 frames; only the first"),
        ("TIFF", "holds 3 pages; only the first is used; save each as a file to use all"),
    ],
)
def test_more_frames_than_one_are_said_once_a_file(
    kind: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    for name in (f"a.{kind}", f"a.{kind}", f"b.{kind}"):
        image = decode_image(animated(kind), name=name)
        assert np.abs(image.astype(int) - bgr(PICTURE)).mean() < 15
    assert [f"a.{kind} {says}" in text for text in caplog.messages] == [True, False]
    assert len(caplog.messages) == 2


def test_paths_may_hold_any_character(tmp_path: Path) -> None:
    path = tmp_path / "日本 é" / "straße 🚗.jpg"
    path.parent.mkdir()
    write_jpeg(path, SCENE)
    assert np.abs(read_image(path).astype(int) - SCENE).mean() < 10


def test_write_jpeg_says_where_it_cannot_write(tmp_path: Path) -> None:
    (tmp_path / "no-folder").touch()
    with pytest.raises(OSError, match="no-folder"):
        write_jpeg(tmp_path / "no-folder" / "a.jpg", SCENE)


def test_a_device_is_no_image() -> None:
    with pytest.raises(ImageError, match="is a device or a pipe"):
        read_image(Path("/dev/zero"))
