"""Batch ranges and image sizes as a person writes them."""

from __future__ import annotations

import re

import pytest

from trt_yolo.artifacts.shapes import (
    BatchRange,
    anchor_count,
    check_channels,
    parse_batch,
    parse_imgsz,
    parse_source_size,
    strides_of_anchors,
)
from trt_yolo.errors import InputError, UnsupportedModelError

BAD_BATCHES = [
    "0", "4:2", "abc", "", " ", "-1", "1:", ":4", "0:4", "1:0", "1:2:3", "1.5", "1 2", "1e3", "0x8", "1-4",
    "1025", "1:1025", "9999999", "1:9999999", "9" * 5000,
]  # fmt: skip
BAD_SIZES = [
    "0", "100", "640x", "31", "10000", "", " ", "x640", "640x640x640", "-640", "640.0", "640*640", "0x640",
    "640x0", "640x100", "100x640", "8200", "8224", "640px", "640 x 640", "9999999", "9" * 5000,
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1", BatchRange(1, 1)),
        ("8", BatchRange(8, 8)),
        (" 8 ", BatchRange(8, 8)),
        ("1:16", BatchRange(1, 16)),
        ("4:4", BatchRange(4, 4)),
        ("1024", BatchRange(1024, 1024)),
        ("0008", BatchRange(8, 8)),
    ],
)
def test_batch_is_read(text: str, wanted: BatchRange) -> None:
    assert parse_batch(text) == wanted


@pytest.mark.parametrize("text", BAD_BATCHES)
def test_bad_batch_is_refused_with_what_was_given(text: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"--batch {text!r}")):
        parse_batch(text)


@pytest.mark.parametrize(
    ("batch", "static", "text"),
    [(BatchRange(1, 1), True, "1"), (BatchRange(4, 4), True, "4"), (BatchRange(1, 4), False, "1:4")],
)
def test_batch_is_written_as_it_is_read(batch: BatchRange, static: bool, text: str) -> None:
    assert (batch.is_static, str(batch)) == (static, text)
    assert parse_batch(str(batch)) == batch


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("640", (640, 640)),
        ("384x640", (384, 640)),
        ("384X640", (384, 640)),
        ("384,640", (384, 640)),
        (" 32 ", (32, 32)),
        ("48x80", (48, 80)),
        ("8192", (8192, 8192)),
    ],
)
def test_imgsz_is_read_as_height_and_width(text: str, wanted: tuple[int, int]) -> None:
    assert parse_imgsz(text) == wanted


@pytest.mark.parametrize("text", BAD_SIZES)
def test_bad_imgsz_is_refused_with_what_was_given(text: str) -> None:
    with pytest.raises(InputError, match=re.escape(f"--imgsz {text!r}")):
        parse_imgsz(text)


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("100", "96 and 128"),
        ("31", "32"),
        ("1", "32"),
        ("650x640", "640x640 and 672x640"),
        ("640x100", "640x96 and 640x128"),
        ("8191", "8160 and 8192"),
    ],
)
def test_bad_imgsz_names_the_nearest_that_are_good(text: str, near: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_imgsz(text)
    assert str(caught.value).endswith(f"; the nearest are {near}")
    for suggestion in near.split(" and "):
        parse_imgsz(suggestion)


@pytest.mark.parametrize("text", ["10000", "abc", "0"])
def test_imgsz_out_of_range_names_no_nearest(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_imgsz(text)
    assert "nearest" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1080x1920", (1080, 1920)),
        (" 721X1283 ", (721, 1283)),
        ("480,640", (480, 640)),
        ("1x8192", (1, 8192)),
    ],
)
def test_source_sizes(text: str, wanted: tuple[int, int]) -> None:
    assert parse_source_size(text) == wanted


@pytest.mark.parametrize("text", ["", "1080", "0x5", "5x0", "8193x5", "axb", "1080x1920x3", "-1x5", "1e3x5"])
def test_no_source_sizes(text: str) -> None:
    with pytest.raises(InputError, match=r"--source-size .* is no frame size; .* such as 1080x1920"):
        parse_source_size(text)


@pytest.mark.parametrize("imgsz_hw", [(640, 640), (384, 640), (1280, 736), (256, 256), (128, 192)])
@pytest.mark.parametrize(
    "strides", [(8, 16, 32), (4, 8, 16, 32), (8, 16, 32, 64), (8, 16), (16,), (2, 4, 8), (8, 32), (64, 128)]
)
def test_anchors_tell_the_strides(imgsz_hw: tuple[int, int], strides: tuple[int, ...]) -> None:
    assert strides_of_anchors(imgsz_hw, anchor_count(imgsz_hw, strides)) == strides
    assert strides_of_anchors(imgsz_hw, 3 * anchor_count(imgsz_hw, strides)) is None, (
        "YOLOv5 has three a cell"
    )


@pytest.mark.parametrize("anchors", [-1, 0, 6, 300, 8401])
def test_anchors_of_no_levels_tell_nothing(anchors: int) -> None:
    assert strides_of_anchors((640, 640), anchors) is None


@pytest.mark.parametrize("channels", [0, 1, 2, 4])
def test_other_channels_than_three_are_refused(channels: int) -> None:
    plural = "" if channels == 1 else "s"
    with pytest.raises(
        UnsupportedModelError, match=rf"^a\.pt takes images of {channels} channel{plural}; only 3"
    ):
        check_channels(channels, origin="a.pt")
    check_channels(3, origin="a.pt")
    check_channels("channels", origin="a.pt")
