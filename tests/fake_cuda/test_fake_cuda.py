"""The stand-in for the driver, proved with the real cuda-bindings, each case in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.gpu.kernel_backend import compiled
from tests.gpu.rows_rule import expected_rows

ROOT = Path(__file__).resolve().parents[2]
KERNEL = ROOT / "tests" / "gpu" / "rows_from_frames.cu"
HEADER = """
import ctypes, mmap, os, threading
import numpy as np
from cuda.bindings import driver
from tests.fake_cuda.calls import RowsKernel, code, count, cu, entered, on_device, pinned
from tests.gpu.rows_rule import expected_rows
frames = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
"""
Run = Callable[..., str]


@pytest.fixture
def run(fake_cuda: Path) -> Run:
    """Runs code in a process that finds the stand-in; returns what it prints."""

    def run(source: str, **settings: str) -> str:
        env = os.environ | {"LD_LIBRARY_PATH": str(fake_cuda), "PYTHONPATH": str(ROOT)} | settings
        command = [sys.executable, "-X", "faulthandler", "-c", HEADER + textwrap.dedent(source)]
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    return run


def test_ctypes_and_cuda_bindings_find_the_device(run: Run) -> None:
    source = """
        from trt_yolo.hardware.gpus import cuda_version, devices
        for one in devices():
            print(one.index, one.name, one.compute_capability, one.memory_bytes >> 20, one.integrated, one.pci_bus_id)
        cu("cuInit", 0)
        attribute = driver.CUdevice_attribute.CU_DEVICE_ATTRIBUTE_INTEGRATED
        print(cuda_version(), cu("cuDeviceGetCount"), cu("cuDeviceGetAttribute", attribute, 0))
    """
    settings = {"FAKE_CUDA_DEVICES": "2", "FAKE_CUDA_INTEGRATED": "1", "FAKE_CUDA_VERSION": "12060"}
    assert run(source).splitlines() == ["0 fake GPU 9.0 1024 False 0000:01:00.0", "13.0 1 0"]
    assert run(source, **settings).splitlines()[1:] == ["1 fake GPU 9.0 1024 True 0000:02:00.0", "12.6 2 1"]
    assert run("print(code('cuInit', 0))", FAKE_CUDA_DEVICES="0") == "100"


def test_a_function_it_lacks_raises(run: Run) -> None:
    run("""
        cu("cuInit", 0)
        for name, arguments in (("cuCtxGetLimit", (0,)), ("cuStreamWaitEvent", (0, 0, 0))):
            try:
                getattr(driver, name)(*arguments)
            except RuntimeError as error:
                assert name in str(error), error
            else:
                raise AssertionError(name)
    """)


@pytest.mark.parametrize(
    ("shape", "rows"), [((1, 4, 4, 3), 100), ((3, 17, 23, 3), 300), ((16, 64, 64, 3), 128)]
)
def test_the_kernel_equals_the_rule_bit_for_bit(run: Run, shape: tuple[int, ...], rows: int) -> None:
    run(f"""
        entered()
        frames = np.random.default_rng(1).integers(0, 256, {shape}, dtype=np.uint8)
        for conf, iou in ((0.25, 0.5), (0.001, 0.7)):
            kernel = RowsKernel(frames, conf, iou, {rows})
            kernel.start(0)
            assert kernel.answer().tobytes() == expected_rows(frames, conf, iou, {rows}).tobytes()
    """)


def test_nvrtc_compiles_the_kernel(tmp_path: Path) -> None:
    """Machine code for a GPU of compute capability 9.0, made without one; what does not compile is said."""
    pytest.importorskip("cuda.bindings.nvrtc")
    assert compiled(90).startswith(b"\x7fELF")
    wrong = tmp_path / "wrong.cu"
    wrong.write_text('extern "C" __global__ void wrong(float* out) { out[0] = nothing; }')
    with pytest.raises(RuntimeError, match=r'wrong.cu does not compile: .*"nothing" is undefined'):
        compiled(90, wrong)


def test_the_rule_depends_on_every_byte_and_threshold() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (1, 10, 10, 3), dtype=np.uint8)
    before = expected_rows(frames, 0.25, 0.5, 37)
    for index in range(frames.size):
        other = frames.copy()
        other.flat[index] += 1
        assert (expected_rows(other, 0.25, 0.5, 37) != before).any(axis=2).nonzero()[1].tolist() == [
            index % 37
        ]
    for conf, iou in ((0.26, 0.5), (0.25, 0.51)):
        assert (expected_rows(frames, conf, iou, 37) != before).any(axis=2).all()


def test_calls_without_a_current_context_are_refused(run: Run) -> None:
    run("""
        assert code("cuDeviceGet", 0) == 3
        context = entered()
        codes = []
        thread = threading.Thread(target=lambda: codes.append([code("cuMemAlloc", 8), code("cuCtxPopCurrent")]))
        thread.start(), thread.join()
        assert codes == [[201, 201]], codes
        assert code("cuMemAlloc", 8) == 0
        cu("cuDevicePrimaryCtxRetain", 0)
        cu("cuDevicePrimaryCtxRelease", 0)
        assert cu("cuDevicePrimaryCtxGetState", 0) == (0, 1)
        cu("cuDevicePrimaryCtxRelease", 0)
        assert code("cuMemAlloc", 8) == 709  # released, and still current
        assert int(cu("cuCtxPopCurrent")) == int(context)
        assert code("cuDevicePrimaryCtxRelease", 0) == 201
        assert (count("retained"), count("released"), count("bytes")) == (2, 2, 0)
    """)


def test_a_fork_cannot_use_it(run: Run) -> None:
    run("""
        entered()
        child = os.fork()
        if child == 0:
            os._exit(code("cuMemAlloc", 8))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3
    """)


def test_streams_are_asynchronous(run: Run) -> None:
    source = """
        entered()
        stream, event = cu("cuStreamCreate", 1), cu("cuEventCreate", 2)
        kernel, answer = RowsKernel(frames, 0.25, 0.5, 9), pinned(2 * 9 * 6 * 4)
        answer[:] = 0
        kernel.start(stream)
        cu("cuMemcpyDtoHAsync", answer.ctypes.data, kernel.rows_out, answer.nbytes, stream)
        cu("cuEventRecord", event, stream)
        assert code("cuEventQuery", event) == code("cuStreamQuery", stream) == 600
        assert not answer.any()
        cu("cuEventSynchronize", event)
        assert answer.tobytes() == expected_rows(frames, 0.25, 0.5, 9).tobytes()
        assert code("cuEventQuery", event) == code("cuStreamSynchronize", stream) == code("cuStreamQuery", stream) == 0
    """
    run(source, FAKE_CUDA_DELAY_US="1000000")
    run(source.replace("start(stream)", "start(stream, wait_cycles=2_000_000_000)"))  # of 2 GHz


def test_memory_belongs_to_somebody(run: Run) -> None:
    run(
        """
        entered()
        address = cu("cuMemAlloc", 1 << 20)
        assert cu("cuMemGetInfo") == (3 << 20, 4 << 20)
        assert code("cuMemAlloc", 4 << 20) == 2
        assert code("cuMemFree", int(address) + 1) == 1
        assert (code("cuMemFree", address), code("cuMemFree", address)) == (0, 1)
        host = np.zeros(8, np.uint8)
        assert code("cuMemcpyHtoD", address, host.ctypes.data, 8) == 1  # freed
        address = cu("cuMemAlloc", 8)
        assert code("cuMemcpyHtoD", host.ctypes.data, address, 8) == 1  # the wrong way round
        assert code("cuMemcpyHtoD", address, host.ctypes.data, 9) == 1
        assert code("cuMemFreeHost", host.ctypes.data) == 1
        """,
        FAKE_CUDA_MEMORY_MB="4",
    )


def test_page_locked_memory_is_told_from_pageable(run: Run) -> None:
    run("""
        entered()
        stream, device = cu("cuStreamCreate", 1), cu("cuMemAlloc", 8192)
        shared = np.frombuffer(mmap.mmap(-1, 8192), np.uint8)
        copy = ("cuMemcpyHtoDAsync", device, shared.ctypes.data, 8192, stream)
        cu(*copy)
        assert count("pageable") == 1
        assert code("cuMemHostGetDevicePointer", shared.ctypes.data, 0) == 1
        cu("cuMemHostRegister", shared.ctypes.data, 8192, 3)
        cu(*copy)
        assert count("pageable") == 1
        assert code("cuMemHostRegister", shared.ctypes.data, 8192, 3) == 712
        assert code("cuMemHostRegister", shared.ctypes.data + 4096, 4096, 3) == 712
        assert int(cu("cuMemHostGetDevicePointer", shared.ctypes.data, 0)) == shared.ctypes.data
        cu("cuMemHostUnregister", shared.ctypes.data)
        assert code("cuMemHostUnregister", shared.ctypes.data) == 713
        assert code("cuMemHostRegister", 4096, 4096, 3) == 1  # not mapped
        assert count("pinned") == 0
    """)


def test_graphs_replay_with_the_pointers_of_the_capture(run: Run) -> None:
    run("""
        entered()
        stream = cu("cuStreamCreate", 1)
        kernel, answer = RowsKernel(frames, 0.25, 0.5, 9), pinned(2 * 9 * 6 * 4)
        thresholds = pinned(8)
        cu("cuStreamBeginCapture", stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        cu("cuMemcpyHtoDAsync", kernel.thresholds, thresholds.ctypes.data, 8, stream)
        kernel.start(stream)
        cu("cuMemcpyDtoHAsync", answer.ctypes.data, kernel.rows_out, answer.nbytes, stream)
        graph = cu("cuStreamEndCapture", stream)
        assert cu("cuGraphGetNodes", graph, 0)[1] == 3
        executable = cu("cuGraphInstantiate", graph, 0)
        cu("cuGraphDestroy", graph)
        for conf in (0.1, 0.2, 0.3):
            thresholds.view(np.float32)[:] = conf, 0.5
            cu("cuGraphLaunch", executable, stream)
            cu("cuStreamSynchronize", stream)
            assert answer.tobytes() == expected_rows(frames, conf, 0.5, 9).tobytes()
        cu("cuGraphExecDestroy", executable)
        cu("cuStreamDestroy", stream)
        assert [count(what) for what in ("graphs", "executables", "streams", "launches")] == [0, 0, 0, 3]
    """)


@pytest.mark.parametrize(
    ("what", "where", "spoilt_in"),
    [
        ("cuMemAlloc", "here", {"GLOBAL", "THREAD_LOCAL"}),
        ("cuMemAlloc", "elsewhere", {"GLOBAL"}),
        ("cuEventQuery", "elsewhere", {"GLOBAL"}),
        ("cuMemAlloc", "elsewhere, thread-local", set()),
        ("cuStreamSynchronize", "here", {"GLOBAL", "THREAD_LOCAL", "RELAXED"}),
        ("cuStreamQuery", "elsewhere", {"GLOBAL", "THREAD_LOCAL", "RELAXED"}),
        ("cuCtxSynchronize", "elsewhere", {"GLOBAL", "THREAD_LOCAL", "RELAXED"}),
    ],
)
def test_what_a_capture_forbids(run: Run, what: str, where: str, spoilt_in: set[str]) -> None:
    run(f"""
        context, modes = entered(), driver.CUstreamCaptureMode
        stream, event, device = cu("cuStreamCreate", 1), cu("cuEventCreate", 2), cu("cuMemAlloc", 8)
        arguments = {{"cuMemAlloc": (8,), "cuEventQuery": (event,), "cuCtxSynchronize": ()}}.get("{what}", (stream,))
        def other():
            cu("cuCtxPushCurrent", context)
            if "{where}".endswith("thread-local"):
                cu("cuThreadExchangeStreamCaptureMode", modes.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
            codes.append(code("{what}", *arguments))
        for mode in ("GLOBAL", "THREAD_LOCAL", "RELAXED"):
            spoilt, codes = mode in {spoilt_in}, []
            cu("cuStreamBeginCapture", stream, getattr(modes, "CU_STREAM_CAPTURE_MODE_" + mode))
            if "{where}" == "here":
                codes.append(code("{what}", *arguments))
            else:
                thread = threading.Thread(target=other)
                thread.start(), thread.join()
            assert codes == [900 if spoilt else 0], (mode, codes)
            assert code("cuMemsetD8Async", device, 1, 8, stream) == (901 if spoilt else 0), mode
            assert code("cuStreamEndCapture", stream) == (901 if spoilt else 0), mode
            cu("cuMemsetD8Async", device, 1, 8, stream)
            cu("cuStreamSynchronize", stream)
    """)


def test_a_capture_ends_on_its_own_thread(run: Run) -> None:
    run("""
        context, stream, event = entered(), cu("cuStreamCreate", 1), cu("cuEventCreate", 2)
        cu("cuStreamBeginCapture", stream, driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
        def other():
            cu("cuCtxPushCurrent", context)
            codes.append(code("cuStreamEndCapture", stream))
        codes = []
        thread = threading.Thread(target=other)
        thread.start(), thread.join()
        assert codes == [908], codes
        cu("cuEventRecord", event, stream)
        assert code("cuEventQuery", event) == 907
        assert code("cuStreamEndCapture", stream) == 901
        assert code("cuStreamEndCapture", stream) == 401
    """)


def test_a_trap_is_for_ever(run: Run) -> None:
    run("""
        context, stream = entered(), cu("cuStreamCreate", 1)
        frames.reshape(2, -1)[1, :4] = list(b"TRAP")
        kernel = RowsKernel(frames, 0.25, 0.5, 9)
        kernel.start(stream)
        assert code("cuStreamSynchronize", stream) == 719
        assert {code("cuMemAlloc", 8), code("cuCtxSynchronize")} == {719}
        assert {code("cuCtxPushCurrent", context), code("cuCtxPopCurrent")} == {0}  # as an H200 answers
        assert code("cuDevicePrimaryCtxRelease", 0) == 0
        assert code("cuInit", 0) == code("cuDeviceGet", 0) == 0
        assert cu("cuGetErrorString", driver.CUresult(719)) == b"unspecified launch failure"
    """)


def test_pycuda_runs_over_it(run: Run) -> None:
    pytest.importorskip("pycuda")
    run("""
        import pycuda.driver as cuda
        cuda.init()
        context = cuda.Device(0).retain_primary_context()
        context.push()
        stream, event = cuda.Stream(1), cuda.Event(cuda.event_flags.DISABLE_TIMING | cuda.event_flags.BLOCKING_SYNC)
        kernel = cuda.module_from_buffer(b"any image").get_function("rows_from_frames")
        frames_in, answer = cuda.pagelocked_empty(frames.shape, np.uint8), cuda.pagelocked_empty((2, 9, 6), np.float32)
        frames_in[:] = frames
        on_gpu, thresholds, rows = (cuda.mem_alloc(size) for size in (frames.nbytes, 8, answer.nbytes))
        unconverged = cuda.mem_alloc(8)
        cuda.memcpy_htod(thresholds, np.array([0.25, 0.5], np.float32))
        cuda.memcpy_htod_async(on_gpu, frames_in, stream)
        numbers = np.int32(frames[0].nbytes), np.int32(9), np.int64(0)
        pointers = on_gpu, thresholds, np.uintp(int(thresholds) + 4), rows, unconverged
        kernel(*pointers, *numbers, grid=(1, 2), block=(128, 1, 1), stream=stream)
        cuda.memcpy_dtoh_async(answer, rows, stream)
        event.record(stream)
        event.synchronize()
        assert answer.tobytes() == expected_rows(frames, 0.25, 0.5, 9).tobytes()
        context.pop()
    """)
