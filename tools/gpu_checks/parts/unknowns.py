"""What the design takes for granted of CUDA, tried alone: page-locking by two processes, graphs, TensorRT for RTX."""

from __future__ import annotations

import contextlib
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from gpu_checks.candidates import engines
from gpu_checks.job import Job, Report
from gpu_checks.record import Row
from trt_yolo.backends.cuda import Gpu
from trt_yolo.engine.device import devices
from trt_yolo.errors import BackendError, TrtYoloError
from trt_yolo.loading import load_backend

_BYTES = 4 << 20
_OTHER_S = 60.0

_NAMES = (
    "two processes page-lock the same memory",
    "a captured copy in, copy out replays",
    "TensorRT for RTX loads and runs here",
)


def run(job: Job, report: Report) -> None:
    """See the module."""
    if job.rehearse or not devices():
        for name in _NAMES:
            report(Row(name=name, state="absent", note="no GPU is used"))
        return
    tries: tuple[Callable[[], str], ...] = (_two_processes, _replay, lambda: _rtx(job))
    for name, attempt in zip(_NAMES, tries, strict=True):
        try:
            said = attempt()
        except (TrtYoloError, OSError, AssertionError) as error:
            report(Row(name=name, state="failed", note=f"{type(error).__name__}: {error}"))
            continue
        report(Row(name=name, state="absent" if said.startswith("not ") else "ok", note=said))


def _two_processes() -> str:
    """Both register, both copy from it, one sees what the other wrote."""
    fd = os.memfd_create("trt-yolo-check")
    os.truncate(fd, _BYTES)
    with contextlib.closing(Gpu(0)) as gpu:
        memory = _mapped(fd)
        memory[:] = 7
        _register(gpu, memory)
        script = f"from gpu_checks.parts.unknowns import other_process; other_process({fd})"
        done = subprocess.run(
            [sys.executable, "-c", script],
            pass_fds=(fd,),
            capture_output=True,
            text=True,
            timeout=_OTHER_S,
            check=False,
        )
        if done.returncode:
            lines = done.stderr.strip().splitlines()
            raise BackendError(lines[-1] if lines else f"the other process ended with {done.returncode}")
        assert (_through_device(gpu, memory) == 9).all(), "this one does not see what the other wrote"
    os.close(fd)
    return "cuMemHostRegister in both at the same time, copies from both"


def other_process(fd: int) -> None:
    """The second process of `_two_processes`: registers what the first one has registered, and writes to it."""
    with contextlib.closing(Gpu(0)) as gpu:
        memory = _mapped(fd)
        _register(gpu, memory)
        assert (_through_device(gpu, memory) == 7).all(), "the second process copies something else"
        memory[:] = 9


def _mapped(fd: int) -> npt.NDArray[np.uint8]:
    return np.frombuffer(mmap.mmap(fd, _BYTES), np.uint8)


def _register(gpu: Gpu, memory: npt.NDArray[np.uint8]) -> None:
    with gpu.current():
        reason = gpu.register(memory)
    if reason:
        raise BackendError(f"cuMemHostRegister: {reason}")


def _through_device(gpu: Gpu, memory: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """The memory's bytes after a way to the device and back."""
    with gpu.current():
        stream, device = gpu.stream(), gpu.memory(_BYTES)
        back = gpu.pinned((_BYTES,), np.uint8)
        gpu.copy_in(int(device), memory, stream)
        gpu.copy_out(back, int(device), stream)
        stream.synchronize()
        return back.copy()


def _replay() -> str:
    """A graph captured by cuda-bindings from a stream of pycuda's copies what lies there when it is replayed."""
    with contextlib.closing(Gpu(0)) as gpu, _replayed(gpu) as copied:
        for number in (3, 4, 5):
            assert (copied(number) == number).all(), f"replay {number} copies something else"
    return "three replays, each with other bytes"


@contextlib.contextmanager
def _replayed(gpu: Gpu) -> Iterator[Callable[[int], npt.NDArray[np.uint8]]]:
    with gpu.current():
        stream, device = gpu.stream(), gpu.memory(_BYTES)
        source, target = gpu.pinned((_BYTES,), np.uint8), gpu.pinned((_BYTES,), np.uint8)

        def copies() -> None:
            gpu.copy_in(int(device), source, stream)
            gpu.copy_out(target, int(device), stream)

        copies()
        stream.synchronize()
        graph = gpu.captured(stream, copies)

        def copied(number: int) -> npt.NDArray[np.uint8]:
            source[:] = number
            gpu.launch(graph, stream)
            stream.synchronize()
            return target

        yield copied
        gpu.destroy(graph)


def _rtx(job: Job) -> str:
    built = [path for path, _, family in engines(job) if family == "tensorrt-rtx"]
    if not built:
        return "not built: tensorrt-rtx is not installed, or no build worked"
    with load_backend(built[0]) as backend:
        frames = np.full((1, *backend.manifest.frame_hw, 3), 114, np.uint8)
        backend.infer(frames, conf=0.25, iou=0.7)
    return f"{built[0].name} on compute capability {devices()[0].compute_capability}"
