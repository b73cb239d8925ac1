"""What the host does for an image beside decoding and letterboxing it: with a backend that computes nothing."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpu_checks.record import goal_row
from gpu_checks.speed import Speed
from trt_yolo.bench.runtime import null_model

_BATCH = 8
_SIDE = 640
_LEAST_S = 0.2

Frame = npt.NDArray[np.uint8]


def host_work(speed: Speed) -> None:
    """CPU time of program and worker for an image, less its copy into the slot."""
    frames = [np.full((_SIDE, _SIDE, 3), number, np.uint8) for number in range(16)]
    program_us: list[float] = []
    worker_us: list[float] = []
    with null_model(_BATCH, workers=1) as model:
        (worker,) = model.stats().workers
        for window in range(speed.plan.windows + 1):
            begun_s, worker_s = time.process_time(), _cpu_s(worker.pid)
            images, copied_s = 0, 0.0
            shown = _for_seconds(frames, max(_LEAST_S, speed.plan.window_s))
            for result in model.stream(shown, ordered=False):
                images += 1
                copied_s += result.times.letterbox / 1e3 if result.times is not None else 0.0
            if window:  # the first one warms up
                program_us.append((time.process_time() - begun_s - copied_s) / images * 1e6)
                worker_us.append((_cpu_s(worker.pid) - worker_s) / images * 1e6)
    both = [one + other for one, other in zip(program_us, worker_us, strict=True)]
    speed.report(
        goal_row(
            "host work an image, outside decode and letterbox",
            statistics.median(both),
            "<= 60",
            unit="us",
            low=min(both),
            high=max(both),
            counts=speed.counts,
            note=f"CPU time, a backend that computes nothing, batch {_BATCH}: program "
            f"{statistics.median(program_us):.0f} us, worker {statistics.median(worker_us):.0f} us, its waiting "
            "included; low and high of the windows",
        )
    )


def _for_seconds(frames: Sequence[Frame], seconds: float) -> Iterator[Frame]:
    """The frames, round and round, for so long."""
    until_s = time.perf_counter() + seconds
    for frame in itertools.cycle(frames):
        if time.perf_counter() > until_s:
            return
        yield frame


def _cpu_s(pid: int) -> float:
    """CPU time of another process, seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
