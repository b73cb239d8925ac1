"""ONNX Runtime on a GPU, where none is: the same lanes and bindings over the processor's memory find the same.

What is real: ONNX Runtime, its bindings, the model, every copy. What is not: the device (`HostGpu`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from tests.backends.host_gpu import HostGpu
from trt_yolo.backends import onnxruntime_gpu
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.backends.onnxruntime_gpu import OnnxRuntimeGpuBackend, _Bindings
from trt_yolo.backends.onnxruntime_providers import PROVIDERS, Asked, Provider
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import BackendError, InputError, MissingDependencyError, UnsupportedModelError

Frames = npt.NDArray[np.uint8]
CONF, IOU = 0.25, 0.7


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """CUDA's provider is the processor's; what each session was asked to be."""
    asked: list[Asked] = []

    def options(given: Asked) -> dict[str, str]:
        asked.append(given)
        return {}

    stand_in = Provider(
        registered="CPUExecutionProvider", options=options, memory="cpu", graphs_by_number=True
    )
    monkeypatch.setitem(PROVIDERS, "cuda", stand_in)
    monkeypatch.setattr("trt_yolo.backends.gpu.Gpu", HostGpu)
    # the processor's provider is what would be refused on a GPU
    monkeypatch.setattr(onnxruntime_gpu, "_ON_GPU_ALONE", "session.no_such_entry")
    return asked


@pytest.fixture(scope="module")
def frames() -> Frames:
    return np.stack([scene(index).image_bgr for index in range(4)])


@pytest.fixture
def dynamic(demo_dynamic_onnx: Path) -> Iterator[OnnxRuntimeGpuBackend]:
    with OnnxRuntimeGpuBackend(demo_dynamic_onnx) as backend:
        yield backend


@pytest.fixture(scope="module")
def wanted(demo_dynamic_onnx: Path, frames: Frames) -> npt.NDArray[np.float32]:
    """(4, rows, 6): what ONNX Runtime finds on the CPU, each image alone."""
    with OnnxRuntimeBackend(demo_dynamic_onnx) as backend:
        return np.concatenate([backend.infer(frame[None], conf=CONF, iou=IOU) for frame in frames])


def _log_of(backend: OnnxRuntimeGpuBackend) -> list[str]:
    gpu: Any = backend.gpu
    return list(gpu.log)


def _close(found: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32]) -> None:
    assert (wanted[..., 4] > 0).sum() > 2
    np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_every_batch_size(
    dynamic: OnnxRuntimeGpuBackend, frames: Frames, wanted: npt.NDArray[np.float32], count: int
) -> None:
    for _ in range(3):
        _close(dynamic.infer(frames[:count], conf=CONF, iou=IOU), wanted[:count])


def test_convolutions_work_on_channels_last_but_in_graphs_with_q_dq(
    demo_dynamic_onnx: Path, tmp_path: Path, host: list[Asked]
) -> None:
    """ONNX Runtime 1.31 makes an NHWC graph of one with Q/DQ that fails at its first run."""
    OnnxRuntimeGpuBackend(demo_dynamic_onnx).close()
    assert all(asked.channels_last for asked in host)
    model = onnx.load(demo_dynamic_onnx)
    scale = helper.make_tensor("scale", TensorProto.FLOAT, [], [1.0])
    model.graph.initializer.append(scale)
    model.graph.node.append(helper.make_node("QuantizeLinear", ["conf", "scale"], ["unused"]))
    onnx.save(model, tmp_path / "quantized.onnx")
    host.clear()
    OnnxRuntimeGpuBackend(tmp_path / "quantized.onnx").close()
    assert not any(asked.channels_last for asked in host)


def test_a_build_without_channels_last(demo_dynamic_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is asked for once more without it; graphs are kept."""
    opened = onnxruntime_gpu._Bindings._session_of

    def refuses(self: _Bindings, asked: Asked, **how: Any) -> Any:
        if asked.channels_last:
            raise BackendError("This build does not support NHWC layout")
        return opened(self, asked, **how)

    monkeypatch.setattr(onnxruntime_gpu._Bindings, "_session_of", refuses)
    with OnnxRuntimeGpuBackend(demo_dynamic_onnx) as backend:
        assert backend.about["graphs"] == "captured by ONNX Runtime"


def test_a_static_batch_is_filled_up(demo_static4_onnx: Path, frames: Frames) -> None:
    with OnnxRuntimeBackend(demo_static4_onnx) as reference, OnnxRuntimeGpuBackend(demo_static4_onnx) as one:
        _close(one.infer(frames[:3], conf=CONF, iou=IOU), reference.infer(frames[:3], conf=CONF, iou=IOU))


def test_head_graphs(demo_head_onnx: Path, frames: Frames) -> None:
    with OnnxRuntimeBackend(demo_head_onnx) as reference, OnnxRuntimeGpuBackend(demo_head_onnx) as one:
        _close(one.infer(frames[:1], conf=CONF, iou=IOU), reference.infer(frames[:1], conf=CONF, iou=IOU))
        assert one.about["graphs"] == "off"


@pytest.mark.parametrize(
    ("refuses", "integrated", "strategy", "copies_in", "copies_out"),
    [
        ("", False, "registered", 2, 2),  # frames and thresholds; rows and what has not converged
        ("no such call", False, "staged", 2, 2),
        ("", True, "mapped", 1, 1),
    ],
)
def test_how_slots_reach_it(
    demo_dynamic_onnx: Path,
    frames: Frames,
    wanted: npt.NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    refuses: str,
    integrated: bool,
    strategy: str,
    copies_in: int,
    copies_out: int,
) -> None:
    monkeypatch.setattr(HostGpu, "refuses", refuses)
    monkeypatch.setattr(HostGpu, "integrated", integrated)
    rows_bytes = wanted[0].nbytes
    memory = np.zeros(2 * (frames.nbytes + 4 * rows_bytes), np.uint8)
    with OnnxRuntimeGpuBackend(demo_dynamic_onnx) as backend:
        backend.adopt(memory)
        assert backend.memory_strategy == backend.about["memory"] == strategy
        for slot in (0, 1):
            start = slot * (frames.nbytes + 4 * rows_bytes)
            given = np.ndarray(frames.shape, np.uint8, memory, start)
            rows = np.ndarray((4, *wanted.shape[1:]), np.float32, memory, start + frames.nbytes)
            given[:] = frames if slot == 0 else frames[::-1]
            before = len(_log_of(backend))
            backend.infer_into(given, rows, count=4, conf=CONF, iou=IOU)
            _close(rows, wanted if slot == 0 else wanted[::-1])
            log = _log_of(backend)[before:]
            assert (log.count("in"), log.count("out")) == (copies_in, copies_out)


def test_batches_are_under_way_at_once(
    demo_dynamic_onnx: Path, frames: Frames, wanted: npt.NDArray[np.float32]
) -> None:
    with OnnxRuntimeGpuBackend(demo_dynamic_onnx, streams=3) as backend:
        assert backend.at_once == 3
        rows = [np.zeros_like(wanted[:1]) for _ in range(3)]
        flights = [
            backend.begin_into(frames[number : number + 1].copy(), rows[number], count=1, conf=CONF, iou=IOU)
            for number in range(3)
        ]
        for number in (2, 0, 1):
            flights[number].finish()
            _close(rows[number], wanted[number : number + 1])


def test_each_session_has_its_lanes_stream(host: list[Asked], demo_dynamic_onnx: Path) -> None:
    with OnnxRuntimeGpuBackend(demo_dynamic_onnx, streams=2, device=3) as backend:
        streams = [lane._stream.handle for lane in backend._lanes]
        assert [one.stream for one in host] == streams
        assert len(set(streams)) == 2
        assert [one.device for one in host] == [3, 3]
        assert all(one.graphs for one in host)
        assert backend.about["streams"] == "2"
        assert backend.about["graphs"] == "captured by ONNX Runtime"


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch of each binding, as it is made."""
    batches: list[int] = []
    real = _Bindings._call

    def counted(self: _Bindings, batch: int, addresses: Any) -> Any:
        batches.append(batch)
        return real(self, batch, addresses)

    monkeypatch.setattr(_Bindings, "_call", counted)
    return batches


def test_bindings_are_made_once(dynamic: OnnxRuntimeGpuBackend, frames: Frames, made: list[int]) -> None:
    for count in (1, 2, 3, 4, 1, 2, 3, 4, 1):
        dynamic.infer(frames[:count], conf=CONF, iou=IOU)
    assert made == [1, 2, 4]  # three frames run in a batch of four


def test_each_batch_size_has_a_graph_of_its_own(
    dynamic: OnnxRuntimeGpuBackend, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    entries: list[dict[str, str]] = []

    class Options(onnxruntime.RunOptions):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            entries.append({})

        def add_run_config_entry(self, key: str, value: str) -> None:
            super().add_run_config_entry(key, value)
            entries[-1][key] = value

    monkeypatch.setattr(onnxruntime, "RunOptions", Options)
    monkeypatch.setattr(onnxruntime_gpu, "MOST_GRAPHS", 2)
    for count in (1, 2, 4):
        dynamic.infer(frames[:count], conf=CONF, iou=IOU)
    assert [one["gpu_graph_id"] for one in entries] == ["1", "2", "-1"]
    assert {one["disable_synchronize_execution_providers"] for one in entries} == {"1"}


def test_warming_up_leaves_nothing_to_be_done_for_the_first_frame(
    dynamic: OnnxRuntimeGpuBackend, frames: Frames, made: list[int]
) -> None:
    """Each lane has run each batch size, and a slot full of three frames, which run in a batch of four."""
    slots = [
        (np.zeros_like(frames[:3]), np.zeros((3, dynamic.manifest.rows, 6), np.float32)) for _ in range(2)
    ]
    dynamic.warm_up(slots)
    assert sorted(made) == sorted(2 * [1, 2, 4])
    for count in (1, 2, 3):
        dynamic.infer(frames[:count], conf=CONF, iou=IOU)
    assert len(made) == 6


@pytest.mark.parametrize("count", [1, 4])
def test_the_first_run_of_a_size_captures_alone(
    dynamic: OnnxRuntimeGpuBackend, frames: Frames, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    entered: list[int] = []

    @contextlib.contextmanager
    def alone() -> Iterator[None]:
        entered.append(count)
        yield

    monkeypatch.setattr(onnxruntime_gpu, "capturing", alone)
    for _ in range(3):
        dynamic.infer(frames[:count], conf=CONF, iou=IOU)
    assert entered == [count]


def test_without_graphs(host: list[Asked], demo_dynamic_onnx: Path) -> None:
    with OnnxRuntimeGpuBackend(demo_dynamic_onnx, graphs=False) as backend:
        assert not any(one.graphs for one in host)
        assert backend.about["graphs"] == "off"


@pytest.mark.parametrize(("static", "expected"), [(True, True), (False, False)])
def test_a_provider_with_one_graph_captures_static_batches_alone(
    host: list[Asked],
    demo_dynamic_onnx: Path,
    demo_onnx: Path,
    monkeypatch: pytest.MonkeyPatch,
    static: bool,
    expected: bool,
) -> None:
    monkeypatch.setitem(PROVIDERS, "cuda", dataclasses.replace(PROVIDERS["cuda"], graphs_by_number=False))
    with OnnxRuntimeGpuBackend(demo_onnx if static else demo_dynamic_onnx, streams=1):
        assert [one.graphs for one in host] == [expected]


def test_a_model_that_cannot_be_captured(
    host: list[Asked],
    demo_dynamic_onnx: Path,
    frames: Frames,
    wanted: npt.NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Said once, whatever the number of streams; and it runs."""
    real = _Bindings._session_of

    def refusing(self: _Bindings, asked: Asked, *, on_gpu_alone: bool) -> Any:
        if on_gpu_alone:
            raise BackendError("ArgMax is not for GPUs")
        return real(self, asked, on_gpu_alone=False)

    monkeypatch.setattr(_Bindings, "_session_of", refusing)
    with (
        caplog.at_level(logging.WARNING),
        OnnxRuntimeGpuBackend(demo_dynamic_onnx, streams=3) as backend,
    ):
        assert [one.graphs for one in host] == [False] * 3
        assert backend.about["graphs"] == "not captured: ArgMax is not for GPUs"
        _close(backend.infer(frames, conf=CONF, iou=IOU), wanted)
    assert caplog.text.count("ArgMax is not for GPUs") == 1
    assert "may run operators" in caplog.text


def test_thresholds_change_between_batches(dynamic: OnnxRuntimeGpuBackend, frames: Frames) -> None:
    found = [
        int((dynamic.infer(frames[:1], conf=conf, iou=IOU)[0, :, 4] > 0).sum())
        for conf in (0.01, 0.25, 0.9, 0.01)
    ]
    assert found[0] == found[3] > found[1] >= found[2]


def test_the_bare_call_and_the_parts_leave_batches_alone(
    dynamic: OnnxRuntimeGpuBackend, frames: Frames, wanted: npt.NDArray[np.float32]
) -> None:
    call = dynamic.bare_call(frames, conf=CONF, iou=IOU)
    before = len(_log_of(dynamic))
    call()
    assert _log_of(dynamic)[before:] == []  # no copies
    assert min(dynamic.timed_parts(frames, conf=CONF, iou=IOU)) > 0
    _close(dynamic.infer(frames, conf=CONF, iou=IOU), wanted)


def test_what_goes_wrong_while_it_runs_is_said_in_words(
    dynamic: OnnxRuntimeGpuBackend, frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        _Bindings, "_shape", lambda self, name, batch: (batch, 8, 8, 3) if name == "frames" else (1,)
    )
    with pytest.raises(
        BackendError, match=r"GPU 0 refuses: ONNX Runtime, running .*demo.*: .*invalid dimensions"
    ):
        dynamic.infer(frames[:1], conf=CONF, iou=IOU)


def test_closing_twice_gives_everything_back(demo_dynamic_onnx: Path, frames: Frames) -> None:
    backend = OnnxRuntimeGpuBackend(demo_dynamic_onnx)
    backend.infer(frames, conf=CONF, iou=IOU)
    lane = backend._lanes[0]
    backend.close()
    backend.close()
    assert not backend.gpu.is_open
    execution: Any = lane.execution
    assert execution._session is None


def test_a_start_that_fails_gives_the_gpu_back(
    demo_dynamic_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[HostGpu] = []

    class Counted(HostGpu):
        def __init__(self, index: int = 0, *, spin: bool = False) -> None:
            super().__init__(index)
            opened.append(self)

    def refuse(self: _Bindings, asked: Asked, *, on_gpu_alone: bool) -> Any:
        raise BackendError("no memory")

    monkeypatch.setattr("trt_yolo.backends.gpu.Gpu", Counted)
    monkeypatch.setattr(_Bindings, "_session_of", refuse)
    with pytest.raises(BackendError, match="no memory"):
        OnnxRuntimeGpuBackend(demo_dynamic_onnx)
    assert [one.is_open for one in opened] == [False]


@pytest.mark.parametrize("captures", [True, False], ids=["captured", "refused"])
def test_lanes_capture_what_may_be_captured(
    demo_dynamic_onnx: Path,
    frames: Frames,
    wanted: npt.NDArray[np.float32],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    captures: bool,
) -> None:
    """As with TensorRT: the first batch of a place runs plainly, the second is replayed."""
    monkeypatch.setattr(_Bindings, "may_capture", True)
    monkeypatch.setattr(HostGpu, "captures", captures)
    with OnnxRuntimeGpuBackend(demo_dynamic_onnx, streams=1) as backend:
        for _ in range(3):
            _close(backend.infer(frames, conf=CONF, iou=IOU), wanted)
        log = _log_of(backend)
        assert (log.count("capture"), log.count("launch")) == ((1, 2) if captures else (0, 0))
    assert caplog.text.count("no CUDA graph can be captured") == (0 if captures else 1)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        OnnxRuntimeGpuBackend(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(BackendError, match="cannot load"):
        OnnxRuntimeGpuBackend(tmp_path / "text.onnx")
    with pytest.raises(InputError, match="no provider 'cpu' for a GPU; give cuda, tensorrt, nv-tensorrt-rtx"):
        OnnxRuntimeGpuBackend(tmp_path / "text.onnx", provider="cpu")


def test_another_model(tmp_path: Path) -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 64, 64])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 3, 64, 64])
    graph = helper.make_graph([helper.make_node("Relu", ["image"], ["scores"])], "x", [image], [scores])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "x.onnx")
    with pytest.raises(UnsupportedModelError, match="no YOLOv8 detection model"):
        OnnxRuntimeGpuBackend(tmp_path / "x.onnx")


def test_a_provider_that_does_not_start(demo_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime goes on without it, and warns: here that is an error."""
    absent = dataclasses.replace(PROVIDERS["cuda"], registered="CUDAExecutionProvider")
    monkeypatch.setitem(PROVIDERS, "cuda", absent)
    with (
        pytest.warns(UserWarning, match="CUDAExecutionProvider"),
        pytest.raises(BackendError, match=r"does not start CUDAExecutionProvider: "),
    ):
        OnnxRuntimeGpuBackend(demo_onnx)


def test_without_a_cuda_binding(demo_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_yolo.backends.cuda import Gpu

    monkeypatch.setattr("trt_yolo.backends.gpu.Gpu", Gpu)
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(
        MissingDependencyError, match=r"needs a CUDA binding: .*pip install 'trt-yolo\[gpu\]'"
    ):
        OnnxRuntimeGpuBackend(demo_onnx)


def test_importing_it_loads_neither_onnxruntime_nor_cuda() -> None:
    script = (
        "import sys, trt_yolo.backends.onnxruntime_gpu\n"
        "print(sorted({'tensorrt', 'pycuda', 'cuda', 'torch', 'onnxruntime', 'onnx'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "[]\n"
