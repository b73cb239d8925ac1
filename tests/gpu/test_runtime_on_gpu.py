"""The runtime on a GPU without TensorRT: a kernel that the host can check is the model, all else is the product.

Real contexts, lanes, graphs, page-locked slots and worker processes. `tests/tools/test_gpu_report.py` runs this file
over a driver that is none (`tests/fake_cuda`), so that no minute on a GPU goes into mistakes of the tests.
"""

from __future__ import annotations

import itertools
import mmap
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.gpu.conftest import BINDINGS, LOAD_S, MOST_GROWTH_BYTES, growth_bytes
from tests.gpu.kernel_backend import ROWS, SIDE, KernelBackend, kernel_manifest
from tests.gpu.rows_rule import expected_rows
from trt_yolo.backends.cuda import Gpu
from trt_yolo.errors import FrameError
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.options import RuntimeOptions
from trt_yolo.runtime.pool import Pool
from trt_yolo.runtime.worker import BackendSpec

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("gpu")]

ROOT = Path(__file__).resolve().parents[2]
Frames = npt.NDArray[np.uint8]
Setting = dict[str, Any]

CONF, IOU = 0.25, 0.7
OPTIONS: dict[str, Sequence[Any]] = {
    "workers": (1, 2, 3),
    "streams": (1, 2, 3),
    "batch": (16, 4, 1),
    "graphs": (True, False),
    "binding": BINDINGS,
    "spin": (False, True),
}
_BATCHES = 100_000


def pairwise(options: dict[str, Sequence[Any]]) -> list[Setting]:
    """Few settings in which every two values of two options come together at least once."""
    every = [dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())]
    left = {pair for setting in every for pair in itertools.combinations(setting.items(), 2)}
    chosen = []
    while left:
        best = max(every, key=lambda one: len(left & set(itertools.combinations(one.items(), 2))))
        chosen.append(best)
        left -= set(itertools.combinations(best.items(), 2))
    return chosen


SETTINGS = pairwise(OPTIONS)


def label(setting: Setting) -> str:
    return "-".join(f"{name}={value}" for name, value in setting.items())


def kernel_model(setting: Setting, *, wait_us: int = 0, slots: int = 4, **options: Any) -> Model:
    """The kernel under the whole runtime."""
    spec = BackendSpec(
        factory="tests.gpu.kernel_backend:KernelBackend",
        options={
            "manifest": kernel_manifest(largest=setting["batch"]).to_json(),
            "wait_us": wait_us,
            **{name: setting[name] for name in ("streams", "graphs", "spin")},
        },
        devices=(0,),
    )
    pool = RuntimeOptions(
        **{"workers": setting["workers"], "slots": slots, "decode_threads": 2, "decoder": "cpu", **options}
    )
    return Model(Pool(spec, pool))


def setting(**changed: Any) -> Setting:
    """A setting as a user would have it, but for what is named."""
    return {
        "workers": 2, "streams": 2, "batch": 4, "graphs": True, "spin": False, **changed,
    }  # fmt: skip


def random_frames(count: int, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)


@pytest.fixture(scope="module")
def frames() -> Frames:
    return random_frames(48)


def check(found: Any, wanted: npt.NDArray[np.float32]) -> None:
    """Detections against the (rows, 6) of one frame."""
    np.testing.assert_array_equal(found.xyxy, wanted[:, :4])
    np.testing.assert_array_equal(found.confidence, wanted[:, 4])
    np.testing.assert_array_equal(found.class_id, wanted[:, 5])


def test_settings_are_few_and_cover_all_pairs() -> None:
    assert len(SETTINGS) <= 20
    for (first, values), (second, others) in itertools.combinations(OPTIONS.items(), 2):
        assert {(one[first], one[second]) for one in SETTINGS} == set(itertools.product(values, others))


@pytest.mark.parametrize("chosen", SETTINGS, ids=label)
def test_every_byte_of_every_answer(chosen: Setting, frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRT_YOLO_CUDA", chosen["binding"])
    with kernel_model(chosen) as model:
        for conf in (CONF, 0.5):  # the same graphs with other thresholds
            wanted = expected_rows(frames, conf, IOU, ROWS)
            results = list(model.stream(list(frames), conf=conf, iou=IOU))
            assert [result.error for result in results] == [None] * len(frames)
            for result, rows in zip(results, wanted, strict=True):
                check(result.detections, rows)
        about = model.stats().workers[0].about
    assert about["binding"] == chosen["binding"]
    assert about["memory"] in ("registered", "mapped")
    if chosen["graphs"] and chosen["binding"] == "cuda-bindings":
        sizes = {1: 1, 4: 3, 16: 5}[chosen["batch"]]
        assert about["graphs"] == f"{4 * sizes * chosen['streams']} captured"
        assert about["warm_up"].startswith(f"{4 * sizes * chosen['streams']} batches in ")
    else:
        assert not about["graphs"].endswith(" captured")


@pytest.mark.parametrize("streams", [1, 3])
def test_in_the_programs_own_process(binding: str, streams: int, frames: Frames) -> None:
    with kernel_model(setting(workers=0, streams=streams)) as model:
        for found, rows in zip(
            model(list(frames), conf=CONF, iou=IOU), expected_rows(frames, CONF, IOU, ROWS), strict=True
        ):
            check(found, rows)


@pytest.fixture
def backend(binding: str) -> Iterator[KernelBackend]:
    with KernelBackend(kernel_manifest().to_json(), streams=3) as made:
        yield made


def test_every_batch_size(backend: KernelBackend, frames: Frames) -> None:
    for count in range(1, 17):
        wanted = expected_rows(frames[:count], CONF, IOU, ROWS)
        for _ in range(3):  # plain, captured, replayed
            np.testing.assert_array_equal(backend.infer(frames[:count], conf=CONF, iou=IOU), wanted)


def slots_of(memory: Frames, count: int, batch: int) -> list[tuple[Frames, npt.NDArray[np.float32]]]:
    """Slots as in a ring, but without headers: frames and rows, each from a page's start."""
    found, at = [], 0
    frame_bytes, row_bytes = SIDE * SIDE * 3, ROWS * 6 * 4
    for _ in range(count):
        rows_at = at + batch * frame_bytes
        found.append(
            (
                np.ndarray((batch, SIDE, SIDE, 3), np.uint8, memory.data, at),
                np.ndarray((batch, ROWS, 6), np.float32, memory.data, rows_at),
            )
        )
        at = rows_at + -(-batch * row_bytes // 4096) * 4096
    return found


def paged(size: int) -> Frames:
    """Memory from a page's start, as a ring's is."""
    return np.frombuffer(mmap.mmap(-1, size), np.uint8)


@pytest.mark.parametrize("binding", ["cuda-bindings"], indirect=True)
def test_no_graph_is_captured_after_the_warm_up(backend: KernelBackend, frames: Frames) -> None:
    memory = paged(32 << 20)
    slots = slots_of(memory, 4, 4)
    backend.adopt(memory)
    backend.warm_up(slots)
    captured = [lane.captures for lane in backend._lanes]
    assert captured == [4 * 3] * 3  # slots, batch sizes 1, 2, 4; each lane
    for number, (given, rows) in enumerate(slots * 6):
        count = 1 + number % 4
        given[:count] = frames[:count]
        backend.infer_into(given, rows, count=count, conf=CONF, iou=IOU)
        np.testing.assert_array_equal(rows[:count], expected_rows(frames[:count], CONF, IOU, ROWS))
    assert [lane.captures for lane in backend._lanes] == captured


def test_several_slots_are_under_way(binding: str, frames: Frames) -> None:
    memory = paged(32 << 20)
    slots = slots_of(memory, 3, 4)
    with KernelBackend(kernel_manifest(largest=4).to_json(), streams=3, wait_us=30_000) as backend:
        backend.adopt(memory)
        backend.warm_up(slots)
        flights = []
        for number, (given, rows) in enumerate(slots):
            given[:] = frames[4 * number : 4 * number + 4]
            rows[:] = -1
            flights.append(backend.begin_into(given, rows, count=4, conf=CONF, iou=IOU))
        assert [flight.is_done() for flight in flights] == [False] * 3
        for number in (2, 0, 1):
            flights[number].finish()
            wanted = expected_rows(frames[4 * number : 4 * number + 4], CONF, IOU, ROWS)
            np.testing.assert_array_equal(slots[number][1], wanted)


def test_waiting_sleeps(binding: str, frames: Frames) -> None:
    """With one stream a worker waits for its batch, and leaves the core to others."""
    with KernelBackend(kernel_manifest().to_json(), streams=1, wait_us=100_000) as backend:
        backend.infer(frames[:1], conf=CONF, iou=IOU)
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw  # how often it went to sleep
        for _ in range(5):
            backend.infer(frames[:1], conf=CONF, iou=IOU)
        assert resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw >= before + 5


@pytest.mark.parametrize("streams", [1, 2])
def test_workers_that_are_killed_lose_nothing(binding: str, streams: int) -> None:
    frames = random_frames(16, seed=1)
    wanted = expected_rows(frames, CONF, IOU, ROWS)
    sent = itertools.count()

    def source() -> Iterator[Frames]:
        end_s = time.monotonic() + min(max(LOAD_S, 1.0), 4.0)
        while (number := next(sent)) < 64 or time.monotonic() < end_s:
            yield frames[number % 16]

    with kernel_model(setting(streams=streams), wait_us=500) as model:
        kills, due_s, answered = 0, time.monotonic() + 0.3, 0
        for result in model.stream(source(), conf=CONF, iou=IOU):
            assert result.error is None
            check(result.detections, wanted[answered % 16])
            answered += 1
            if time.monotonic() > due_s and kills < 3:
                ready = [one.pid for one in model.stats().workers if one.is_ready and one.pid]
                if ready:
                    os.kill(ready[kills % len(ready)], signal.SIGKILL)
                    kills, due_s = kills + 1, time.monotonic() + 1.0
        restarts = sum(worker.restarts for worker in model.stats().workers)
    assert kills > 0
    assert restarts >= 1
    assert answered == next(sent) - 1


@pytest.mark.parametrize("streams", [1, 2])
def test_a_kernel_that_traps_ends_its_worker_and_no_other_frame(binding: str, streams: int) -> None:
    frames = random_frames(24, seed=2)
    frames[9].reshape(-1)[:4] = np.frombuffer(b"TRAP", np.uint8)
    wanted = expected_rows(frames, CONF, IOU, ROWS)
    with kernel_model(setting(streams=streams, workers=1)) as model:
        for index, result in enumerate(model.stream(list(frames), conf=CONF, iou=IOU)):
            if index == 9:
                assert isinstance(result.error, FrameError)
            else:
                assert result.error is None
                check(result.detections, wanted[index])
        assert model.stats().workers[0].restarts >= 2
        check(model(frames[0], conf=CONF, iou=IOU), wanted[0])


def test_memory_stays_over_many_batches(
    backend: KernelBackend, frames: Frames, record_property: Callable[[str, object], None]
) -> None:
    memory = paged(32 << 20)
    slots = slots_of(memory, 4, 4)
    backend.adopt(memory)
    backend.warm_up(slots)
    done = 0

    def step(number: int) -> None:
        nonlocal done
        given, rows = slots[number % 4]
        backend.infer_into(given, rows, count=1 + number % 4, conf=CONF, iou=IOU)
        done += 1

    assert growth_bytes(step, settled=32, most=_BATCHES, limit_s=2 * LOAD_S) < MOST_GROWTH_BYTES
    record_property("batches", done)


def test_memory_stays_when_backends_come_and_go(binding: str, frames: Frames) -> None:
    def step(number: int) -> None:
        with KernelBackend(kernel_manifest().to_json()) as backend:
            backend.infer(frames[:16], conf=CONF, iou=IOU)

    assert growth_bytes(step, settled=5, most=25) < MOST_GROWTH_BYTES


def run_apart(script: str, *arguments: str) -> list[str]:
    """The lines that a script prints in a process of its own, which no library has used CUDA in before."""
    command = [sys.executable, "-c", textwrap.dedent(script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


CONTEXTS = """
    import sys, threading
    from cuda.bindings import driver
    from trt_yolo.backends.cuda import Gpu

    driver.cuInit(0)
    device = driver.cuDeviceGet(0)[1]
    for _ in range(8):
        gpu = Gpu(0)
        with gpu.current():
            gpu.memory(1 << 20)
        during = driver.cuDevicePrimaryCtxGetState(device)[2]
        if sys.argv[1] == "elsewhere":
            thread = threading.Thread(target=gpu.close)
            thread.start()
            thread.join()
        else:
            gpu.close()
        print(during, driver.cuDevicePrimaryCtxGetState(device)[2], int(driver.cuCtxGetCurrent()[1]))
"""


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_the_primary_context_is_given_back(binding: str, where: str) -> None:
    """Active while it is used, not after; and current on no thread."""
    assert run_apart(CONTEXTS, where) == ["1 0 0"] * 8


@pytest.mark.parametrize("binding", ["cuda-bindings"], indirect=True)
def test_whatever_fails_in_a_capture_the_stream_works(binding: str) -> None:
    gpu = Gpu(0)
    try:
        with gpu.current():
            stream, source = gpu.stream(), gpu.pinned((4096,), np.uint8)
            memory, target = gpu.memory(4096), gpu.pinned((4096,), np.uint8)
            source[:] = 7

            def fails() -> None:
                gpu.copy_in(int(memory), source, stream)
                raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                gpu.captured(stream, fails)
            gpu.copy_in(int(memory), source, stream)
            gpu.copy_out(target, int(memory), stream)
            gpu.wait(stream)
            assert (target == 7).all()
    finally:
        gpu.close()


TRAP = """
    import os
    import numpy as np
    from tests.gpu.kernel_backend import KernelBackend, kernel_manifest
    from trt_yolo.errors import DeviceError

    frames = np.zeros((1, 256, 256, 3), np.uint8)
    backend = KernelBackend(kernel_manifest().to_json(), streams=1)
    backend.infer(frames, conf=0.25, iou=0.7)
    frames.reshape(-1)[:4] = np.frombuffer(b"TRAP", np.uint8)
    for _ in range(3):
        try:
            backend.infer(frames, conf=0.25, iou=0.7)
        except DeviceError as error:
            print(error)
        frames[:] = 0
    backend.close()
    print("closed", flush=True)
    os._exit(0)  # as a worker leaves
"""


def test_a_trap_is_a_lost_device(binding: str) -> None:
    *lost, closed = run_apart(TRAP)
    assert len(lost) == 3
    assert all(line.startswith("GPU 0 is lost to this process: ") for line in lost)
    assert closed == "closed"
