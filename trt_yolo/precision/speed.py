"""The speedup of a low precision over the float model, measured on this machine's processor.

Enters: both artifacts, a frame. Leaves: a ratio, and a sentence. Knows no quantization.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.hardware.processor import int8_instructions, processor

_WORTH_IT = 1.05  # less is not worth any accuracy
_SECONDS = 2.0
_LEAST_PAIRS = 5
_CONF, _IOU = 0.25, 0.7

_log = logging.getLogger(__name__)


def speed_here(
    before: bytes, after: bytes, frame: npt.NDArray[np.uint8], *, threads: int
) -> tuple[float, str]:
    """The result of `speedup` and the processor's int8 instructions; warns where INT8 is not worth it.

    The arguments are those of `speedup`.
    """
    ratio = speedup(before, after, frame, threads=threads)
    instructions = int8_instructions(processor(Path("/"))["cpu_flags"])
    if ratio < _WORTH_IT:
        _log.warning("%s", speed_in_words(ratio, instructions))
    return ratio, instructions


def speedup(before: bytes, after: bytes, frame: npt.NDArray[np.uint8], *, threads: int) -> float:
    """How many times as fast the second artifact is: the median ratio of alternating runs.

    Args:
        before: The float artifact, an ONNX file's bytes.
        after: The other one.
        frame: (H, W, 3) uint8, letterboxed.
        threads: CPU threads of one inference.
    """
    with (
        OnnxRuntimeBackend(before, threads=threads) as first,
        OnnxRuntimeBackend(after, threads=threads) as second,
    ):
        frames = np.repeat(frame[None], first.manifest.batch.minimum, axis=0)
        calls = [one.bare_call(frames, conf=_CONF, iou=_IOU) for one in (first, second)]
        for call in calls:
            call()
        return _median_ratio(*calls)


def _median_ratio(first: Callable[[], object], second: Callable[[], object]) -> float:
    ratios: list[float] = []
    until_s = time.perf_counter() + _SECONDS
    while len(ratios) < _LEAST_PAIRS or time.perf_counter() < until_s:
        start_s = time.perf_counter()
        first()
        between_s = time.perf_counter()
        second()
        ratios.append((between_s - start_s) / (time.perf_counter() - between_s))
    return statistics.median(ratios)


def speed_in_words(ratio: float, instructions: str) -> str:
    """The speedup in a sentence, with advice where INT8 is not worth it.

    Args:
        ratio: What `speedup` found.
        instructions: The processor's instructions for int8 products; empty where it has none.
    """
    has = f"this processor has {instructions}" if instructions else "this processor has no VNNI or similar"
    if ratio >= _WORTH_IT:
        return f"INT8 is {ratio:.2f} times as fast as FP32 here: {has}"
    compared = (
        f"no faster than FP32 here ({ratio:.2f})" if ratio >= 1 else f"slower than FP32 here ({ratio:.2f})"
    )
    return f"INT8 is {compared}: {has}; use FP32 on it"
