"""JPEG inside of TIFF: OpenCV's pixels, and damage of a strip or tile is an error."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.media.encoded import saved
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import ImageError
from trt_yolo.media.images import decode_image
from trt_yolo.media.pillow_images import tiff_pixels

SCENE = Image.fromarray(scene(0).image_bgr)


def _tiled(side: int, **options: Any) -> bytes:
    """The scene as a TIFF of YCbCr, each tile a JPEG with tables of its own."""
    tiles = [
        saved("JPEG", SCENE.crop((x, y, x + side, y + side)), **options)
        for y in range(0, SCENE.height, side)
        for x in range(0, SCENE.width, side)
    ]
    body, starts = b"", []
    for tile in tiles:
        starts.append(8 + len(body))
        body += tile + bytes(len(tile) % 2)
    lists = {258: [8, 8, 8], 324: starts, 325: [len(tile) for tile in tiles]}
    plain = {256: SCENE.width, 257: SCENE.height, 259: 7, 262: 6, 277: 3, 322: side, 323: side}
    entries = b""
    for tag in sorted(lists | plain):
        if tag in plain:
            entries += struct.pack("<HHII", tag, 4, 1, plain[tag])
        else:
            entries += struct.pack("<HHII", tag, 4, len(lists[tag]), 8 + len(body))
            body += struct.pack(f"<{len(lists[tag])}I", *lists[tag])
    count = len(lists | plain)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", count) + entries + bytes(4)


KINDS = {
    "rgb-strips": saved("TIFF", SCENE, compression="jpeg"),
    "grey-strips": saved("TIFF", SCENE.convert("L"), compression="jpeg"),
    "cmyk-strips": saved("TIFF", SCENE.convert("CMYK"), compression="jpeg"),
    "tiles": _tiled(64, subsampling=0),
    "tiles-that-reach-over-the-edge": _tiled(96, subsampling=0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_opencv(kind: str) -> None:
    wanted = cv2.imdecode(np.frombuffer(KINDS[kind], np.uint8), cv2.IMREAD_COLOR)
    pixels = tiff_pixels(KINDS[kind], name=kind)
    assert pixels is not None
    assert wanted is not None
    np.testing.assert_array_equal(pixels, wanted)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "cmyk-strips"])  # libtiff's, in silence
def test_a_hole_is_an_error(kind: str) -> None:
    data, middle = KINDS[kind], len(KINDS[kind]) // 2
    noise = np.random.default_rng(0).integers(0, 256, 1000, np.uint8).tobytes()
    with pytest.raises(ImageError, match=r"a\.tif cannot be fully decoded: \w+.*; copy it again"):
        decode_image(data[:middle] + noise + data[middle + len(noise) :], name="a.tif")


def test_alpha_is_dropped_and_not_taken_for_ink() -> None:
    image = Image.merge("RGBA", [*SCENE.split(), Image.new("L", SCENE.size, 60)])
    pixels = decode_image(saved("TIFF", image, compression="jpeg"), name="a.tif")
    assert np.abs(pixels.astype(int) - np.asarray(SCENE)[..., ::-1]).mean() < 10


def test_tags_that_make_no_sense_are_an_error() -> None:
    wide = KINDS["tiles"].replace(struct.pack("<HHII", 322, 4, 1, 64), struct.pack("<HHII", 322, 4, 1, 1))
    with pytest.raises(ImageError, match="parts do not make up the image"):
        decode_image(wide, name="a.tif")
