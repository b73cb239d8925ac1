"""TIFF through Pillow: OpenCV's pixels, and its complaints are errors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.media.encoded import PICTURE, bgr, encoded, saved, with_zeros
from trt_yolo.errors import ImageError
from trt_yolo.media.images import decode_image
from trt_yolo.media.pillow_images import complaint, tiff_pixels

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8))
DEEP = np.random.default_rng(1).integers(0, 65536, (96, 160), np.uint16)
COMPRESSIONS = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")


def _opencv(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "CMYK", "I;16"])
def test_pixels_are_those_of_opencv(mode: str, compression: str) -> None:
    image = Image.fromarray(DEEP) if mode == "I;16" else NOISE.convert(mode)
    data = saved("TIFF", image, compression=compression)
    pixels = tiff_pixels(data, name="a.tif")
    assert pixels is not None
    np.testing.assert_array_equal(pixels, _opencv(data))


@pytest.mark.parametrize(
    ("data", "most"),
    [
        pytest.param(saved("TIFF", NOISE, compression="jpeg"), 0, id="jpeg"),
        pytest.param(saved("TIFF", NOISE.convert("1"), compression="group4"), 0, id="fax"),
        pytest.param(saved("TIFF", NOISE, big_tiff=True), 0, id="big-tiff"),
        pytest.param(encoded(".tif", NOISE, dtype=np.uint16), 1, id="rgb-16-bit"),
    ],
)
def test_other_tiffs_are_nearly_those_of_opencv(data: bytes, most: int) -> None:
    pixels = tiff_pixels(data, name="a.tif")
    assert pixels is not None
    assert np.abs(pixels.astype(int) - _opencv(data)).max() <= most


def test_alpha_is_dropped_and_not_multiplied() -> None:
    image = NOISE.copy()
    image.putalpha(100)
    np.testing.assert_array_equal(decode_image(saved("TIFF", image), name="a.tif"), bgr(NOISE))


@pytest.mark.parametrize("mode", ["LAB", "YCbCr"])
def test_what_pillow_does_not_read_opencv_does(mode: str) -> None:
    data = saved("TIFF", NOISE.convert(mode))
    assert tiff_pixels(data, name="a.tif") is None
    np.testing.assert_array_equal(decode_image(data, name="a.tif"), _opencv(data))


@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
@pytest.mark.parametrize("deep", [False, True])
def test_a_hole_in_a_compressed_tiff_is_an_error(compression: str, deep: bool) -> None:
    image = Image.fromarray(DEEP) if deep else NOISE
    data = with_zeros(saved("TIFF", image, compression=compression))
    with pytest.raises(ImageError, match=r"a\.tif cannot be fully decoded: .+; copy it again"):
        decode_image(data, name="a.tif")


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_complaint_says_what_is_wrong(kind: str) -> None:
    assert complaint(saved(kind, PICTURE)) == ""
    assert complaint(with_zeros(saved(kind, NOISE)))


def test_kinds_that_start_programs_are_not_opened() -> None:
    assert complaint(b"%!PS-Adobe-3.0 EPSF-3.0\n" * 9) == ""
