"""What the design takes for granted of CUDA, tried alone. Needs cuda-bindings and NVRTC.

python tools/gpu_facts.py         # each fact in a process of its own: after some nothing of CUDA works in a process
python tools/gpu_facts.py trap    # one of them, here
"""

from __future__ import annotations

import mmap
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from gpu_rows import add  # noqa: E402

from tests.gpu.kernel_backend import ROWS, KernelBackend, kernel_manifest  # noqa: E402
from tests.gpu.rows_rule import expected_rows  # noqa: E402
from trt_yolo.backends.cuda import Gpu  # noqa: E402

Bytes = npt.NDArray[np.uint8]

_BYTES = 64 << 20
_FACT_S = 40.0
_MEDIAN_S = 2.0
_REPLAYS = 1000
_ATTRIBUTES = (
    "COMPUTE_CAPABILITY_MAJOR", "COMPUTE_CAPABILITY_MINOR", "MULTIPROCESSOR_COUNT", "INTEGRATED",
    "CAN_MAP_HOST_MEMORY", "HOST_REGISTER_SUPPORTED", "CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM",
    "PAGEABLE_MEMORY_ACCESS", "ASYNC_ENGINE_COUNT", "CONCURRENT_KERNELS", "COMPUTE_PREEMPTION_SUPPORTED",
)  # fmt: skip


def attributes() -> None:
    """What the device and the driver say of themselves."""
    driver = _driver()
    _, version = driver.cuDriverGetVersion()
    _, device = driver.cuDeviceGet(0)
    add("CUDA of the driver", value=version)
    for name in _ATTRIBUTES:
        which = getattr(driver.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
        error, value = driver.cuDeviceGetAttribute(which, device)
        add(name, value=int(value) if not int(error) else None, note=_name(error))


def shared_memory() -> None:
    """Two processes page-lock the same memfd at the same time, and each sees what the other wrote."""
    fd = os.memfd_create("trt-yolo-facts")
    os.truncate(fd, _BYTES)
    gpu, memory = Gpu(0), _mapped(fd)
    memory[:] = 7
    _register(gpu, memory)
    command = [sys.executable, __file__, "other_process", str(fd)]
    done = subprocess.run(
        command, pass_fds=(fd,), capture_output=True, text=True, timeout=_FACT_S, check=False
    )
    seen = done.returncode == 0 and bool((_through_device(gpu, memory) == 9).all())
    note = done.stderr.strip().splitlines()[-1:] or ["cuMemHostRegister in both, copies from both"]
    add("two processes page-lock one memfd", state="ok" if seen else "failed", note=note[0])
    gpu.close()


def other_process() -> None:
    """The second process of `shared_memory`."""
    gpu, memory = Gpu(0), _mapped(int(sys.argv[2]))
    _register(gpu, memory)
    assert (_through_device(gpu, memory) == 7).all(), "the second process copies something else"
    memory[:] = 9


def bandwidth() -> None:
    """Copies of registered, pinned and pageable memory, in and out."""
    gpu = Gpu(0)
    fd = os.memfd_create("trt-yolo-facts")
    os.truncate(fd, _BYTES)
    registered = _mapped(fd)
    _register(gpu, registered)
    with gpu.current():
        stream, device = gpu.stream(), int(gpu.memory(_BYTES))
        kinds = {
            "registered": registered, "pinned": gpu.pinned((_BYTES,), np.uint8), "pageable": np.ones(_BYTES, np.uint8),
        }  # fmt: skip
        for name, host in kinds.items():
            copies: dict[str, Callable[[Bytes], None]] = {
                "to the device": lambda memory: gpu.copy_in(device, memory, stream),
                "to the host": lambda memory: gpu.copy_out(memory, device, stream),
            }
            for where, copy in copies.items():
                seconds = _median_s(lambda copy=copy, host=host: (copy(host), gpu.wait(stream)), 10)
                add(f"copies of {name} memory {where}", value=_BYTES / seconds / 1e9, unit="GB/s")
    gpu.close()


def replays() -> None:
    """A captured copy, kernel, copy is replayed with other frames and thresholds each time."""
    frames = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    with KernelBackend(kernel_manifest(largest=1).to_json(), streams=1) as backend:
        backend.infer(frames, conf=0.1, iou=0.7)
        wrong = 0
        for number in range(_REPLAYS):
            frames[0, 0, 0] = number % 251
            conf = 0.01 + number / (2 * _REPLAYS)
            found = backend.infer(frames, conf=conf, iou=0.7)
            wrong += not np.array_equal(found, expected_rows(frames, conf, 0.7, ROWS))
        add("replays that answer something else", state="failed" if wrong else "ok", value=wrong,
            note=f"of {_REPLAYS}; graphs: {backend.about['graphs']}")  # fmt: skip


def latency() -> None:
    """A launch of the bare kernel, waited for; the same through a backend, and through a worker process."""
    from tests.gpu.test_runtime_on_gpu import kernel_model, setting

    frame = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3), np.uint8)
    with KernelBackend(kernel_manifest(largest=1).to_json(), streams=1) as backend:
        bare = backend.bare_call(frame, conf=0.25, iou=0.7)
        bare_s = _median_s(bare, 500)
        add("bare launch, waited for, p50", value=bare_s * 1e6, unit="us")
        whole_s = _median_s(lambda: backend.infer(frame, conf=0.25, iou=0.7), 500)
        add("backend beyond the bare launch, p50", value=(whole_s - bare_s) * 1e6, unit="us")
    for streams in (1, 2):
        with kernel_model(setting(workers=1, streams=streams, batch=1)) as model:
            whole_s = _median_s(lambda model=model: model(frame[0]), 500)
        add(
            f"worker, {streams} streams, beyond the bare launch, p50",
            value=(whole_s - bare_s) * 1e6,
            unit="us",
        )


def trap() -> None:
    """What the driver answers after a kernel has trapped: to push, pop, synchronize, and to giving things back."""
    driver = _driver()
    gpu = Gpu(0)
    frames = np.zeros((1, 256, 256, 3), np.uint8)
    frames.reshape(-1)[:4] = np.frombuffer(b"TRAP", np.uint8)
    backend = KernelBackend(kernel_manifest(largest=1).to_json(), streams=1)
    try:
        backend.infer(frames, conf=0.25, iou=0.7)
        add("a kernel that traps", state="failed", note="no error at all")
    except Exception as error:  # noqa: BLE001  its class is what is asked
        add("a kernel that traps", state="ok" if type(error).__name__ == "DeviceError" else "failed",
            value=type(error).__name__, note=str(error))  # fmt: skip
    _, device = driver.cuDeviceGet(0)
    error, context = driver.cuDevicePrimaryCtxRetain(device)
    add("after it, cuDevicePrimaryCtxRetain", value=_name(error))
    calls = {
        "cuCtxPushCurrent": lambda: driver.cuCtxPushCurrent(context),
        "cuCtxSynchronize": driver.cuCtxSynchronize,
        "cuMemAlloc": lambda: driver.cuMemAlloc(4096),
        "cuCtxPopCurrent": driver.cuCtxPopCurrent,
        "cuCtxGetCurrent": driver.cuCtxGetCurrent,
        "cuDevicePrimaryCtxRelease": lambda: driver.cuDevicePrimaryCtxRelease(device),
    }
    for name, call in calls.items():
        add(f"after it, {name}", value=_name(call()[0]))
    backend.close()
    gpu.close()


def primary_context() -> None:
    """Retained and released 20 times: does it go, and how long does it take?"""
    driver = _driver()
    _, device = driver.cuDeviceGet(0)
    states, seconds = [], []
    for _ in range(20):
        begin_s = time.perf_counter()
        Gpu(0).close()
        seconds.append(time.perf_counter() - begin_s)
        states.append(int(driver.cuDevicePrimaryCtxGetState(device)[2]))
    add("primary context, retained and released", state="failed" if any(states) else "ok",
        value=statistics.median(seconds) * 1e3, unit="ms", note=f"active after {sum(states)} of 20")  # fmt: skip


FACTS = (attributes, shared_memory, bandwidth, replays, latency, trap, primary_context)


def main(names: list[str]) -> int:
    """One fact here, or all, each in a process of its own; 1 if one failed."""
    if names:
        {one.__name__: one for one in (*FACTS, other_process)}[names[0]]()
        return 0
    codes = [_apart(one.__name__) for one in FACTS]
    return int(any(codes))


def _apart(name: str) -> int:
    try:
        done = subprocess.run(
            [sys.executable, __file__, name], capture_output=True, text=True, timeout=_FACT_S, check=False
        )
    except subprocess.TimeoutExpired:
        add(name, state="failed", note=f"it took more than {_FACT_S:g} s")
        return 1
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:] or [f"exit code {done.returncode}"]
        add(name, state="failed", note=last[0])
    return done.returncode


def _driver() -> Any:
    from cuda.bindings import driver

    driver.cuInit(0)
    return driver


def _name(error: Any) -> str:
    return str(error.name).removeprefix("CUDA_")


def _mapped(fd: int) -> Bytes:
    return np.frombuffer(mmap.mmap(fd, _BYTES), np.uint8)


def _register(gpu: Gpu, memory: Bytes) -> None:
    with gpu.current():
        reason = gpu.register(memory)
    if reason:
        raise SystemExit(f"cuMemHostRegister: {reason}")


def _through_device(gpu: Gpu, memory: Bytes) -> Bytes:
    """The memory's bytes after a way to the device and back."""
    with gpu.current():
        stream, device = gpu.stream(), int(gpu.memory(_BYTES))
        back = gpu.pinned((_BYTES,), np.uint8)
        gpu.copy_in(device, memory, stream)
        gpu.copy_out(back, device, stream)
        gpu.wait(stream)
        return back.copy()


def _median_s(call: Callable[[], object], times: int) -> float:
    taken: list[float] = []
    while len(taken) < times + 3 and (len(taken) < 6 or sum(taken) < _MEDIAN_S):
        begin_s = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin_s)
    return statistics.median(taken[3:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
