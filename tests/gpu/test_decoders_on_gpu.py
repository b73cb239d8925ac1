"""A GPU decodes the pixels that the processor decodes."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from trt_yolo.demo.scenes import scene
from trt_yolo.errors import ImageError
from trt_yolo.hardware.gpus import Device
from trt_yolo.media import decoders, video
from trt_yolo.media.decoders import GpuImageDecoder, decoder_for
from trt_yolo.media.images import decode_image, read_image

pytestmark = pytest.mark.gpu


@pytest.fixture
def decode(gpu: Device) -> GpuImageDecoder:
    """The GPU's image decoder."""
    if reason := decoders.why_not():
        pytest.skip(reason)
    return GpuImageDecoder(gpu.index)


def test_photos(decode: GpuImageDecoder, val_images: list[Path]) -> None:
    for path in val_images[:16]:
        data = path.read_bytes()
        ours, wanted = decode.decode(data, name=path.name), decode_image(data, name=path.name)
        assert ours.shape == wanted.shape
        difference = np.abs(ours.astype(int) - wanted)
        assert difference.mean() < 1.5
        assert (difference > 16).mean() < 0.02


def test_grey_and_turned_files(decode: GpuImageDecoder) -> None:
    grey = cv2.imencode(".jpg", np.full((50, 70), 99, np.uint8))[1].tobytes()
    found = decode.decode(grey, name="grey")
    assert found.shape == (50, 70, 3)
    assert np.abs(found.astype(int) - 99).max() <= 2
    with pytest.raises(ImageError, match="cut short"):
        decode.decode(grey[:-20], name="cut")


def test_many_threads(decode: GpuImageDecoder) -> None:
    data = cv2.imencode(".jpg", scene(0, size=640).image_bgr)[1].tobytes()
    wanted, bad = decode.decode(data, name="a"), []

    def work() -> None:
        bad.extend(1 for _ in range(50) if not np.array_equal(decode.decode(data, name="a"), wanted))

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not bad


def test_auto_decides(decode: GpuImageDecoder, tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.jpg"), scene(0, size=1024).image_bgr)
    chosen = decoder_for("auto")
    for _ in range(40):
        read_image(tmp_path / "a.jpg", chosen)
    assert chosen.chosen in ("cpu", "gpu")  # type: ignore[attr-defined]


def test_a_video(gpu: Device, shared: Path) -> None:
    if reason := video.why_not():
        pytest.skip(reason)
    path = shared / "video" / "car-detection.mp4"
    pairs = zip(video.read_video(path, decoder="gpu"), video.read_video(path, decoder="cpu"), strict=True)
    worst = [float(np.abs(ours.astype(int) - wanted).mean()) for ours, wanted in pairs]
    assert len(worst) == 377
    assert max(worst) < 6  # colour conversion differs: limited and full range, by a shift of some levels
