"""JPEG through libjpeg-turbo: OpenCV's pixels, and its complaints are errors."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.media.encoded import encoded, saved, with_zeros
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import ImageError
from trt_yolo.media.headers import jpeg_header
from trt_yolo.media.images import decode_image
from trt_yolo.media.jpeg import is_doubtful, jpeg_pixels, may_hide_damage

SCENE = Image.fromarray(scene(0).image_bgr)
KINDS = {
    "baseline": saved("JPEG", SCENE),
    "progressive": saved("JPEG", SCENE, progressive=True),
    "optimized": saved("JPEG", SCENE, optimize=True),
    "restart-markers": encoded(".jpg", SCENE, cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
    "grey": saved("JPEG", SCENE.convert("L")),
    "rgb": saved("JPEG", SCENE, keep_rgb=True),
    "4:4:4": saved("JPEG", SCENE, subsampling=0),
    "4:1:1": encoded(".jpg", SCENE, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, 0x411111),
    "cmyk": saved("JPEG", SCENE.convert("CMYK")),
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def _opencv(data: bytes) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    return image


@each_kind
def test_pixels_are_those_of_opencv(kind: str) -> None:
    pixels = jpeg_pixels(KINDS[kind], jpeg_header(KINDS[kind]), name=kind)
    assert pixels is not None
    np.testing.assert_array_equal(pixels, _opencv(KINDS[kind]))


def _damaged(data: bytes, how: str) -> bytes:
    third, half = len(data) // 3, len(data) // 2
    noise = np.random.default_rng(0).integers(0, 256, 4096, np.uint8).tobytes()
    return {
        "zeros": with_zeros(data),
        "noise": data[:half] + noise + data[half + len(noise) :],
        "missing": data[:third] + data[third + 1000 :],
        "cut-and-ended": data[:half] + b"\xff\xd9",
        "cut": data[:half],
    }[how]


@each_kind
@pytest.mark.parametrize("how", ["zeros", "noise", "missing", "cut-and-ended", "cut"])
def test_damage_is_an_error_that_says_what_the_decoder_complained_of(kind: str, how: str) -> None:
    with pytest.raises(
        ImageError, match=r"a\.jpg (cannot be fully decoded: \w+.*|is cut short.*); copy it again"
    ):
        decode_image(_damaged(KINDS[kind], how), name="a.jpg")


def test_a_complaint_that_concerns_no_pixel_is_none() -> None:
    """A scan header that ends at coefficient 62: decoders say so, and read all the same."""
    data = bytearray(KINDS["baseline"])
    scan = data.index(b"\xff\xda")
    assert data[scan + 12] == 63
    data[scan + 12] = 62
    np.testing.assert_array_equal(decode_image(bytes(data), name="a.jpg"), _opencv(KINDS["baseline"]))


@each_kind
def test_a_sound_file_raises_no_doubt(kind: str) -> None:
    data = KINDS[kind]
    for whole in (data, data + bytes(100) + data):  # as a camera's second image
        header = jpeg_header(whole)
        assert may_hide_damage(header) == (kind in ("progressive", "cmyk"))
        assert may_hide_damage(header) or not is_doubtful(whole, header, _opencv(data))


@each_kind
@pytest.mark.parametrize("how", ["zeros", "noise", "missing", "cut-and-ended"])
def test_a_damaged_file_raises_doubt(kind: str, how: str) -> None:
    data = _damaged(KINDS[kind], how)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    header = jpeg_header(data)
    assert pixels is None or may_hide_damage(header) or is_doubtful(data, header, pixels)


def test_what_webcams_add_before_the_end_is_no_damage() -> None:
    data = KINDS["baseline"]
    assert data.endswith(b"\xff\xd9")
    filled_up = data[:-2] + bytes(8) + data[-2:]
    assert jpeg_pixels(filled_up, jpeg_header(filled_up), name="a") is None  # OpenCV decodes it
    np.testing.assert_array_equal(decode_image(filled_up, name="a"), decode_image(data, name="a"))
