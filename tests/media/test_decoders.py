"""Which decoder images go through: choice by measured speed, fallbacks, threads; nvImageCodec by a stand-in."""

from __future__ import annotations

import importlib.util
import logging
import re
import sys
import threading
import types
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from tests.engine.plans import gpu
from tests.media.encoded import with_zeros
from trt_yolo.errors import ImageError, InputError, MissingDependencyError
from trt_yolo.hardware.capture_gate import capturing
from trt_yolo.loader import load
from trt_yolo.media import decoders, images
from trt_yolo.media.decoders import FasterDecode, GpuImageDecoder, check_decoder, decoder_for
from trt_yolo.media.images import decode_image, read_image

Image = npt.NDArray[np.uint8]
PIXELS = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
JPEG = cv2.imencode(".jpg", PIXELS)[1].tobytes()
PNG = cv2.imencode(".png", PIXELS)[1].tobytes()


class Codec(types.ModuleType):
    """What is used of nvidia.nvimgcodec 0.9, decoding with OpenCV; see `test_the_stand_in_is_like_the_real_one`.

    Attributes:
        threads: Which threads have made a decoder.
        fails: What `decode` raises, or `None` for a file that it cannot decode.
    """

    class ColorSpec:
        SRGB = "SRGB"

    class SampleFormat:
        I_RGB = "I_RGB"

    def __init__(self) -> None:
        super().__init__("nvidia.nvimgcodec")
        self.threads: list[int] = []
        self.devices: list[int] = []
        self.fails: Any = False
        codec = self

        class DecodeParams:
            def __init__(
                self,
                *,
                apply_exif_orientation: bool,
                color_spec: str,
                allow_any_depth: bool,
                sample_format: str,
            ) -> None:
                assert (apply_exif_orientation, color_spec, allow_any_depth, sample_format) == (
                    True, "SRGB", False, "I_RGB",
                )  # fmt: skip

        class CodeStream:
            def __init__(self, data: bytes) -> None:
                self.data = data

        class Decoded:
            def __init__(self, pixels: Image) -> None:
                self._pixels = pixels

            def cpu(self) -> Image:
                return self._pixels

        class Decoder:
            def __init__(self, *, device_id: int) -> None:
                codec.threads.append(threading.get_ident())
                codec.devices.append(device_id)

            def decode(self, stream: CodeStream, *, params: DecodeParams) -> Decoded | None:
                if codec.fails is None:
                    return None
                if codec.fails:
                    raise RuntimeError(codec.fails)
                pixels = cv2.imdecode(np.frombuffer(stream.data, np.uint8), cv2.IMREAD_COLOR)
                assert pixels is not None
                return Decoded(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8))

        self.DecodeParams, self.CodeStream, self.Decoder = DecodeParams, CodeStream, Decoder


@pytest.fixture
def codec(monkeypatch: pytest.MonkeyPatch) -> Codec:
    """A machine with a GPU and nvImageCodec."""
    made = Codec()
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", made)
    monkeypatch.setattr(decoders, "devices", lambda: [gpu()])
    monkeypatch.setattr(decoders.importlib.util, "find_spec", lambda name: object())
    return made


def test_the_gpus_pixels_are_bgr(codec: Codec) -> None:
    decode = GpuImageDecoder(2).decode
    np.testing.assert_array_equal(decode(JPEG, name="a.jpg"), decode_image(JPEG, name="a.jpg"))
    assert codec.devices == [2]


@pytest.mark.parametrize(
    "data", [PNG, cv2.imencode(".jpg", PIXELS, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()]
)
def test_what_is_no_baseline_jpeg_is_decoded_by_the_processor_alone(data: bytes, codec: Codec) -> None:
    np.testing.assert_array_equal(GpuImageDecoder().decode(data, name="a"), decode_image(data, name="a"))
    assert codec.threads == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (JPEG[:200], "is cut short"),
        (b"text" * 99, "is no image"),
        (PNG[:99], "is cut short"),
    ],
)
def test_errors_are_those_of_the_processor(data: bytes, message: str, codec: Codec) -> None:
    with pytest.raises(ImageError, match=f"x.jpg {message}"):
        GpuImageDecoder().decode(data, name="x.jpg")


@pytest.mark.parametrize("decoder", ["gpu", "both"])
def test_damage_that_the_gpu_takes_in_silence_is_the_same_error(decoder: str, codec: Codec) -> None:
    """The stand-in takes it, as OpenCV does."""
    hole = with_zeros(JPEG)
    with pytest.raises(ImageError) as wanted:
        decode_image(hole, name="a.jpg")
    gpu_decode = GpuImageDecoder().decode
    decode = gpu_decode if decoder == "gpu" else FasterDecode(decode_image, gpu_decode)
    for _ in range(4):
        with pytest.raises(ImageError, match=f"^{re.escape(str(wanted.value))}$"):
            decode(hole, name="a.jpg")
    assert codec.threads


def test_the_limit_of_pixels_holds_on_the_gpu(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", PIXELS.shape[0] * PIXELS.shape[1] - 1)
    with pytest.raises(ImageError, match=r"^a\.jpg has 60x40 pixels"):
        GpuImageDecoder().decode(JPEG, name="a.jpg")
    assert codec.threads == []


@pytest.mark.parametrize("fails", [None, "out of\nmemory"])
def test_what_the_gpu_cannot_decode_the_processor_does(
    fails: Any, codec: Codec, caplog: pytest.LogCaptureFixture
) -> None:
    codec.fails = fails
    decode = GpuImageDecoder().decode
    for _ in range(3):
        np.testing.assert_array_equal(decode(JPEG, name="a.jpg"), decode_image(JPEG, name="a.jpg"))
    assert caplog.text.count("the GPU does not decode a.jpg") == 1
    assert ("out of memory" in caplog.text) == (fails is not None)


def test_each_thread_has_a_decoder_of_its_own(codec: Codec) -> None:
    decode = GpuImageDecoder().decode
    found: list[Image] = []
    begin = threading.Barrier(4)

    def work() -> None:
        begin.wait()
        found.extend(decode(JPEG, name="a.jpg") for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert len(codec.threads) == len(set(codec.threads)) == 4


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoders, "devices", lambda: [gpu()])
    monkeypatch.setattr(decoders.importlib.util, "find_spec", lambda name: None)
    assert decoders.why_not() == "nvidia-nvimgcodec is not installed: pip install 'trt-yolo[nvcodec]'"
    with pytest.raises(
        MissingDependencyError, match=r"cannot be decoded on a GPU here: nvidia-nvimgcodec is not"
    ):
        check_decoder("gpu")
    assert decoder_for("auto") is decode_image
    monkeypatch.setitem(sys.modules, "nvidia.nvimgcodec", None)
    with pytest.raises(
        MissingDependencyError, match=r"needs nvidia-nvimgcodec.*pip install 'trt-yolo\[nvcodec\]'"
    ):
        GpuImageDecoder()


def test_without_a_gpu(monkeypatch: pytest.MonkeyPatch, demo_onnx: Path) -> None:
    monkeypatch.setattr(decoders, "devices", list)
    with pytest.raises(MissingDependencyError, match="no NVIDIA GPU answers"):
        load(demo_onnx, decoder="gpu")
    unknown: Any = "nvjpeg"
    with pytest.raises(InputError, match="no decoder 'nvjpeg'; give auto, cpu, gpu"):
        load(demo_onnx, decoder=unknown)
    check_decoder("auto")
    assert decoder_for("auto") is decoder_for("cpu") is decode_image


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time it is: a clock that only the decoders below move."""
    now = [100.0]
    monkeypatch.setattr(decoders.time, "perf_counter", lambda: now[0])
    return now


def _taking(now_s: list[float], seconds: float, mark: int, counts: dict[int, int]) -> Any:
    def decode(data: bytes, *, name: str) -> Image:
        counts[mark] = counts.get(mark, 0) + 1
        now_s[0] += seconds
        return np.full((10, 10, 3), mark, np.uint8)

    return decode


@pytest.mark.parametrize(("gpu_s", "chosen", "mark"), [(0.002, "gpu", 2), (0.05, "cpu", 1)])
def test_the_faster_one_is_taken_for_good(
    gpu_s: float, chosen: str, mark: int, now_s: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    counts: dict[int, int] = {}
    both = FasterDecode(_taking(now_s, 0.01, 1, counts), _taking(now_s, gpu_s, 2, counts))
    trials = 2 * (decoders._WARM_UP + decoders._TRIALS)
    with caplog.at_level(logging.INFO):
        for _ in range(trials):
            assert both.chosen == ""
            both(b"x", name="a")
    assert both.chosen == chosen
    assert counts == {1: trials // 2, 2: trials // 2}
    assert both.ratio is not None
    assert (both.ratio > 1) == (chosen == "gpu")
    assert {int(both(b"x", name="a")[0, 0, 0]) for _ in range(5)} == {mark}
    word = "GPU" if chosen == "gpu" else "processor"
    assert caplog.text.count(f"images are decoded by the {word}: the GPU's is") == 1


def test_large_images_weigh_no_more_than_small_ones(now_s: list[float]) -> None:
    """The time of a pixel counts: whoever happens to get the larger files is not the slower one."""

    def decode(seconds_a_pixel: float) -> Any:
        def one(data: bytes, *, name: str) -> Image:
            size = len(data)
            now_s[0] += seconds_a_pixel * size
            return np.zeros((size, 1, 1), np.uint8)

        return one

    both = FasterDecode(decode(2e-5), decode(1e-5))
    turn = 0
    while not both.chosen:
        turn += 1
        both(b"x" * (2000 if turn % 2 else 200), name="a")  # the GPU's are ten times as large
    assert both.chosen == "gpu"


def test_many_threads_decide_once(now_s: list[float], caplog: pytest.LogCaptureFixture) -> None:
    counts: dict[int, int] = {}
    both = FasterDecode(_taking(now_s, 0.001, 1, counts), _taking(now_s, 0.001, 2, counts))
    with caplog.at_level(logging.INFO):
        threads = [
            threading.Thread(target=lambda: [both(b"x", name="a") for _ in range(20)]) for _ in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert both.chosen
    assert caplog.text.count("images are decoded by") == 1


def test_an_image_that_is_none_is_an_error_in_both_turns() -> None:
    both = FasterDecode(decode_image, decode_image)
    for _ in range(4):
        with pytest.raises(ImageError, match="is no image"):
            both(b"text" * 99, name="x")
    assert both.chosen == ""


def test_a_gpu_that_cannot_be_had_after_all_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    def broken(data: bytes, *, name: str) -> Image:
        raise MissingDependencyError("libnvjpeg.so.12 is missing")

    both = FasterDecode(decode_image, broken)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            np.testing.assert_array_equal(both(PNG, name="a"), PIXELS)
    assert both.chosen == "cpu"
    assert "the GPU's fails: libnvjpeg.so.12 is missing" in caplog.text


def test_nothing_is_decoded_while_a_graph_is_captured(codec: Codec) -> None:
    """nvImageCodec allocates, which would spoil what ONNX Runtime captures."""
    decode = GpuImageDecoder()
    done = threading.Event()
    thread = threading.Thread(target=lambda: (decode.decode(JPEG, name="a"), done.set()))
    with capturing():
        thread.start()
        assert not done.wait(0.3)
    assert done.wait(10)
    thread.join()


def test_files_go_through_the_decoder_that_was_asked_for(
    codec: Codec, demo_onnx: Path, tmp_path: Path
) -> None:
    from trt_yolo.demo.scenes import scene

    cv2.imwrite(str(tmp_path / "a.jpg"), scene(0).image_bgr)
    np.testing.assert_array_equal(
        read_image(tmp_path / "a.jpg", decoder_for("gpu")), read_image(tmp_path / "a.jpg")
    )
    codec.threads.clear()
    with load(demo_onnx, provider="cpu", decoder="gpu", decode_threads=2) as model:
        with_gpu = model(tmp_path / "a.jpg")
        streamed = [result.detections for result in model.stream([tmp_path / "a.jpg"] * 6)]
    with load(demo_onnx, provider="cpu", decoder="cpu") as model:
        wanted = model(tmp_path / "a.jpg")
    assert codec.threads
    for found in (with_gpu, *streamed):
        np.testing.assert_array_equal(found.xyxy, wanted.xyxy)


def test_the_stand_in_is_like_the_real_one() -> None:
    """Where nvImageCodec is installed: it needs no GPU to say what it has."""
    if importlib.util.find_spec("nvidia") is None or importlib.util.find_spec("nvidia.nvimgcodec") is None:
        pytest.skip("nvidia-nvimgcodec is not installed")
    from nvidia import nvimgcodec as real

    for name in ("Decoder", "DecodeParams", "CodeStream", "ColorSpec", "SampleFormat", "Image"):
        assert hasattr(real, name)
    assert real.ColorSpec.SRGB is not None
    assert real.SampleFormat.I_RGB is not None
    assert hasattr(real.Image, "cpu")
    assert "device_id" in real.Decoder.__init__.__doc__
    assert "params" in real.Decoder.decode.__doc__
    real.DecodeParams(
        apply_exif_orientation=True, color_spec=real.ColorSpec.SRGB, allow_any_depth=False,
        sample_format=real.SampleFormat.I_RGB,
    )  # fmt: skip
    real.CodeStream(JPEG)
