"""Nothing is left behind: memory of the device and of the host, shared memory, processes, frames of a killed worker."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpu_checks.candidates import Candidate, candidates
from gpu_checks.images import pixels
from gpu_checks.job import Job, Report
from gpu_checks.record import Row, State
from trt_yolo import load
from trt_yolo.backends.base import Backend
from trt_yolo.telemetry import gpu_readings

Frame = npt.NDArray[np.uint8]

_MOST_MB = {"device": 16.0, "host": 64.0}  # growth that nobody minds; libraries of the host keep arenas
_LOADS = 40
_INFERENCES = 4000
_WARM = 5
_STREAMED = 600
_KILLS = (30, 150)  # after so many answers
_QUICK = 4  # so many times fewer


def run(job: Job, report: Report) -> None:
    """See the module."""
    known = candidates(job, report)
    if not known:
        report(Row(name="leaks", state="absent", note="nothing here runs a model"))
        return
    chosen = next((one for one in known if one.is_dynamic), known[0])
    used = _host_mb if job.rehearse else _device_mb
    what = "host" if job.rehearse else "device"
    before = _children()
    report(_loads(chosen, used, what, job))
    report(_inferences(chosen, used, what, job))
    report(_killed(chosen, job))
    left = _children() - before
    report(Row(name="processes left behind", state="failed" if left else "ok", value=len(left)))
    shared = [one for one in os.listdir("/dev/shm") if "trt" in one] if os.path.isdir("/dev/shm") else []  # noqa: S108
    report(Row(name="files left in /dev/shm", state="failed" if shared else "ok", value=len(shared)))


def _loads(candidate: Candidate, used: Callable[[], float], what: str, job: Job) -> Row:
    """Memory that many loads leave behind, a third of the part's time at most."""
    end_s, begun_mb, count = time.time() + job.left_s / 3, 0.0, 0
    most = _LOADS // _QUICK if job.quick else _LOADS
    while count < most and (count <= 2 * _WARM or time.time() < end_s):
        with candidate.backend() as backend:
            _infer(backend, 1)
        count += 1
        if count == _WARM:
            begun_mb = used()
    return _grown(what, "loaded and closed", used() - begun_mb, f"{count} times")


def _inferences(candidate: Candidate, used: Callable[[], float], what: str, job: Job) -> Row:
    """Memory that many batches of all sizes leave behind, half of what is left of the time at most."""
    end_s, begun_mb, count = time.time() + job.left_s / 2, 0.0, 0
    largest = candidate.batch.maximum
    most = 5 * largest if job.quick else _INFERENCES
    with candidate.backend() as backend:
        while count < most and (count <= 4 * largest or time.time() < end_s):
            _infer(backend, 1 + count % largest if candidate.is_dynamic else largest)
            count += 1
            if count == 2 * largest:
                begun_mb = used()
        return _grown(what, "batches of all sizes", used() - begun_mb, f"{count} batches")


def _killed(candidate: Candidate, job: Job) -> Row:
    images = pixels(job, 8)
    most, end_s = _STREAMED // (_QUICK if job.quick else 1), time.time() + job.left_s / 2
    sent: list[int] = []
    failed = answered = 0
    with load(candidate.path, provider=candidate.provider, workers=2) as model:
        for result in model.stream(_endless(images, sent, most, end_s)):
            answered += 1
            failed += result.error is not None
            if answered in _KILLS:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(model.stats().workers[0].pid, signal.SIGKILL)
        restarts = sum(worker.restarts for worker in model.stats().workers)
    lost = len(sent) - answered + failed
    note = f"{len(sent)} frames, {restarts} workers replaced"
    return Row(
        name="frames lost with killed workers",
        state="failed" if lost or not restarts else "ok",
        value=lost,
        note=note,
    )


def _endless(images: Sequence[Frame], sent: list[int], most: int, end_s: float) -> Iterator[Frame]:
    """The images, round and round, until there were enough or it is late; but enough for both kills."""
    for number, image in zip(range(most), itertools.cycle(images), strict=False):
        if number > 2 * _KILLS[0] and time.time() > end_s:
            return
        sent.append(number)
        yield image


def _infer(backend: Backend, count: int) -> None:
    frames = np.full((count, *backend.manifest.frame_hw, 3), 114, np.uint8)
    backend.infer(frames, conf=0.25, iou=0.7)


def _grown(what: str, after: str, grown_mb: float, note: str) -> Row:
    state: State = "ok" if grown_mb <= _MOST_MB[what] else "failed"
    return Row(
        name=f"memory of the {what}, {after}",
        state=state,
        value=grown_mb,
        unit="MB more",
        goal=f"<= {_MOST_MB[what]:g}",
        note=note,
    )


def _device_mb() -> float:
    used = gpu_readings([0])[0].memory_used_bytes
    if used is not None:
        return used / 1e6
    from trt_yolo.backends.cuda import Gpu

    gpu = Gpu(0)
    with contextlib.closing(gpu), gpu.current():
        free, total = gpu.free_and_total_bytes()
    return (total - free) / 1e6


def _host_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _children() -> set[int]:
    """Processes that this one has, whichever of its threads started them."""
    found: list[str] = []
    for children in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has just ended
            found += children.read_text().split()
    return {int(one) for one in found}
