"""TensorRT, or TensorRT for RTX: an engine on a GPU, several batches at once.

Enters: an `.engine` of trt-yolo's, Ultralytics', or another's with a manifest. Knows no sources and no processes.
A backend has one lane for each batch that may be under way: an execution context for each batch size, a stream, its
own device memory. A batch copies in, runs and copies out in its lane's stream, as one captured graph where that works;
other lanes do so meanwhile. Slots that were adopted are page-locked and copied from where they lie.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.base import (
    Backend,
    Flight,
    Frames,
    Output,
    Rows,
    images_for_head,
    output_from_head,
    settle,
)
from trt_yolo.backends.cuda import Gpu
from trt_yolo.backends.lanes import Captures, MemoryStrategy, batch_sizes, fitting, strategy_for
from trt_yolo.backends.tensorrt_engine import LoadedEngine
from trt_yolo.engine.library import Library
from trt_yolo.engine.loadable import check_loads
from trt_yolo.errors import BackendError

if TYPE_CHECKING:
    import tensorrt

DEFAULT_STREAMS = 2
_THRESHOLDS = "thresholds"  # one copy for both; TensorRT wants tensors at multiples of 256 bytes
_IOU_AT = 256

_log = logging.getLogger(__name__)


class TensorRTBackend(Backend):
    """An engine on a GPU.

    Attributes:
        gpu: The GPU.
        engine: The engine.
        memory_strategy: How slots reach the GPU.

    Args:
        engine: Path of the file.
        device: The GPU, as CUDA counts.
        streams: Batches that may be under way at once.
        graphs: Whether to capture graphs.
        spin: Never sleep while waiting: lowest latency, one core busy.

    Raises:
        EngineError: It does not load here; the line says why and what to do.
        BackendError: TensorRT refuses it all the same, or no such GPU.
        MissingDependencyError: TensorRT, pycuda or cuda-bindings is not installed.
    """

    def __init__(
        self,
        engine: str | Path,
        *,
        device: int = 0,
        streams: int = DEFAULT_STREAMS,
        graphs: bool = True,
        spin: bool = False,
    ) -> None:
        self._lanes: list[_Lane] = []
        file = check_loads(Path(engine))
        library = Library(file.plan.family)
        self.gpu = Gpu(device)
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.gpu.close)
            with self.gpu.current():
                self.engine = LoadedEngine(file, library)
                super().__init__(self.engine.manifest)
                self.sizes = batch_sizes(self.manifest.batch)
                largest = self.sizes[-1]
                self._lanes = [
                    _Lane(self.gpu, self.engine, number, largest=largest, graphs=graphs)
                    for number in range(streams)
                ]
            on_error.pop_all()
        self.at_once = streams
        self._graphs = graphs
        if spin:
            self.spin_s = float("inf")
        self.memory_strategy: MemoryStrategy = "staged"
        self._adopted: tuple[int, int] = (0, 0)

    def adopt(self, memory: npt.NDArray[np.uint8]) -> None:
        """Page-locks the memory that slots lie in."""
        with self.gpu.current():
            reason = self.gpu.register(memory)
        if reason:
            _log.warning("frames are copied once more, as their memory cannot be page-locked: %s", reason)
        else:
            start = memory.ctypes.data
            self._adopted = (start, start + memory.nbytes)
        self.memory_strategy = strategy_for(
            integrated=self.gpu.integrated, can_map=self.gpu.can_map, registered=not reason
        )

    @property
    def about(self) -> dict[str, str]:
        """The GPU, how slots reach it, whether graphs are captured."""
        refused = next((lane.refused for lane in self._lanes if lane.refused), "")
        return {
            "gpu": f"{self.gpu.index}: {self.gpu.name}",
            "memory": self.memory_strategy,
            "streams": str(self.at_once),
            "graphs": f"not captured: {refused}" if refused else "captured" if self._graphs else "off",
        }

    def begin_into(self, frames_bgr: Frames, rows: Rows, *, count: int, conf: float, iou: float) -> Flight:
        """See `Backend`: a lane that has nothing under way takes the batch."""
        if self.manifest.graph == "head":
            return super().begin_into(frames_bgr, rows, count=count, conf=conf, iou=iou)
        self._check(frames_bgr[:count])
        size = fitting(self.sizes, count)
        lane = next((one for one in self._lanes if one.flight is None), self._lanes[0])
        if lane.flight is not None:
            lane.flight.finish()
        is_direct = size <= len(frames_bgr) and self._is_adopted(frames_bgr)
        source, target = (frames_bgr, rows) if is_direct else lane.staging()
        if not is_direct:
            source[:count] = frames_bgr[:count]
        source[count:size] = 0  # not what an earlier batch left there
        with self.gpu.current():
            lane.start(source[:size], target[:size], conf, iou, is_mapped=is_direct and self._is_mapped)
        lane.flight = _InFlight(self.gpu, lane, rows[:count], target[:count], iou)
        return lane.flight

    def infer_into(self, frames_bgr: Frames, rows: Rows, *, count: int, conf: float, iou: float) -> None:
        """See `Backend`."""
        if self.manifest.graph == "head":
            super().infer_into(frames_bgr, rows, count=count, conf=conf, iou=iou)
        else:
            self.begin_into(frames_bgr, rows, count=count, conf=conf, iou=iou).finish()

    def bare_call(self, frames_bgr: Frames, *, conf: float, iou: float) -> Callable[[], object]:
        """See `Backend`: the engine alone, as one graph where that works; its inputs are on the GPU already."""
        if self.manifest.graph == "head":
            return super().bare_call(frames_bgr, conf=conf, iou=iou)
        with self.gpu.current():
            enqueue = self._lanes[0].bare(frames_bgr, conf, iou, graphs=self._graphs)

        def call() -> None:
            with self.gpu.current():
                enqueue()

        return call

    def timed_parts(self, frames_bgr: Frames, *, conf: float, iou: float) -> tuple[float, float, float]:
        """See `Backend`: copy in, engine and copy out, each waited for."""
        if self.manifest.graph == "head":
            return super().timed_parts(frames_bgr, conf=conf, iou=iou)
        with self.gpu.current():
            return self._lanes[0].timed_parts(frames_bgr, conf, iou)

    def close(self) -> None:
        """Gives back the GPU's memory and the context; calling twice is fine."""
        if not self.__dict__.get("_lanes"):  # never loaded, or closed
            return
        with contextlib.suppress(BackendError), self.gpu.current():  # a lost device gives nothing back
            for lane in self._lanes:
                lane.close()
            self.engine.close()
        self._lanes = []
        self.gpu.close()

    @property
    def _is_mapped(self) -> bool:
        return self.memory_strategy == "mapped"

    def _is_adopted(self, array: npt.NDArray[Any]) -> bool:
        start, end = self._adopted
        return start <= array.ctypes.data and array.ctypes.data + array.nbytes <= end

    def _run(self, frames_bgr: Frames, conf: float, iou: float) -> Output:
        if self.manifest.graph == "head":
            with self.gpu.current():
                found = self._lanes[0].run_head(images_for_head(frames_bgr))
            return output_from_head(found, conf=conf, iou=iou)
        rows = np.empty((len(frames_bgr), self.manifest.rows, 6), np.float32)
        self.begin_into(frames_bgr, rows, count=len(frames_bgr), conf=conf, iou=iou).finish()
        return Output(rows, np.zeros((len(frames_bgr), 1), np.float32))


class _Lane:
    """Where one batch at a time runs.

    Attributes:
        flight: What is under way; None where nothing is.
        event: Happens when it is done.
        unconverged: (largest batch, 1) float32, page-locked; of the last batch.
    """

    def __init__(self, gpu: Gpu, engine: LoadedEngine, number: int, *, largest: int, graphs: bool) -> None:
        self.flight: Flight | None = None
        self._number = number
        self._gpu, self._engine, self._largest = gpu, engine, largest
        self._graphs = graphs
        self._captures = Captures[Any]()
        self._bare_graphs: list[Any] = []
        self._contexts: dict[int, tensorrt.IExecutionContext] = {}
        self._memory: dict[str, Any] = {}
        self._staging: tuple[Frames, Rows] | None = None
        self._stream, self.event = gpu.stream(), gpu.event()
        self._thresholds = gpu.pinned((_IOU_AT // 4 + 1,), np.float32)
        self.unconverged: Rows = gpu.pinned((largest, 1), np.float32)

    @property
    def refused(self) -> str:
        """Why no graph could be captured; empty where none was refused."""
        return self._captures.refused

    def staging(self) -> tuple[Frames, Rows]:
        """Page-locked frames and rows of this process, for what lies elsewhere."""
        if self._staging is None:
            manifest = self._engine.manifest
            with self._gpu.current():
                frames = self._gpu.pinned((self._largest, *manifest.imgsz_hw, 3), np.uint8)
                rows = self._gpu.pinned((self._largest, manifest.rows, 6), np.float32)
            self._staging = frames, rows
        return self._staging

    def start(self, frames: Frames, rows: Rows, conf: float, iou: float, *, is_mapped: bool) -> None:
        """Gives the stream a batch: copy in, run, copy out; or the graph of that, captured the first time."""
        self._thresholds[0], self._thresholds[_IOU_AT // 4] = conf, iou
        key = (frames.ctypes.data, len(frames))
        graph = self._captures.get(key)
        if graph is not None:
            self._gpu.launch(graph, self._stream)
        else:
            self._enqueue(frames, rows, is_mapped)
        self.event.record(self._stream)
        if graph is None and self._graphs and not self._captures.refused:
            self._stream.synchronize()  # that was the warm-up which a capture needs
            self._capture(key, frames, rows, is_mapped)

    def run_head(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N, 4 + classes, anchors) float32 of (N, 3, H, W) float32 images; waits for it."""
        (name,), (output,) = self._engine.inputs, self._engine.outputs
        images = np.ascontiguousarray(images, self._engine.dtype(name))
        context = self._context(len(images), name, images.shape)
        shape = context.get_tensor_shape(output)
        found = np.empty([shape[axis] for axis in range(len(shape))], self._engine.dtype(output))
        source, target = self._address(name, images), self._address(output, found)
        context.set_tensor_address(name, source)
        context.set_tensor_address(output, target)
        self._gpu.copy_in(source, images, self._stream)
        self._execute(context)
        self._gpu.copy_out(found, target, self._stream)
        self._stream.synchronize()
        return found.astype(np.float32, copy=False)

    def bare(self, frames: Frames, conf: float, iou: float, *, graphs: bool) -> Callable[[], None]:
        """Runs the engine on frames that are copied to the device now, and waits for it."""
        source, target = self.staging()
        source[: len(frames)] = frames
        self._thresholds[0], self._thresholds[_IOU_AT // 4] = conf, iou
        self._enqueue(source[: len(frames)], target[: len(frames)], is_mapped=False)
        self._stream.synchronize()
        context = self._contexts[len(frames)]
        graph = None
        if graphs and not self._captures.refused:
            with contextlib.suppress(BackendError):  # plain enqueue then; what is broken shows when it runs
                graph = self._gpu.captured(self._stream, lambda: self._execute(context))
                self._bare_graphs.append(graph)

        def enqueue() -> None:
            if graph is None:
                self._execute(context)
            else:
                self._gpu.launch(graph, self._stream)
            self._stream.synchronize()

        return enqueue

    def timed_parts(self, frames: Frames, conf: float, iou: float) -> tuple[float, float, float]:
        """What copy in, engine and copy out take, in milliseconds, each waited for; from page-locked memory."""
        source, target = self.staging()
        source, target = source[: len(frames)], target[: len(frames)]
        source[:] = frames
        self._thresholds[0], self._thresholds[_IOU_AT // 4] = conf, iou
        self._enqueue(source, target, is_mapped=False)  # tensors have their addresses from here on
        self._stream.synchronize()
        context = self._contexts[len(frames)]
        parts: list[Callable[[], None]] = [
            lambda: self._gpu.copy_in(int(self._memory["frames"]), source, self._stream),
            lambda: self._execute(context),
            lambda: self._gpu.copy_out(target, int(self._memory["detections"]), self._stream),
        ]
        moments_s = [time.perf_counter()]
        for part in parts:
            part()
            self._stream.synchronize()
            moments_s.append(time.perf_counter())
        copy_in, engine, copy_out = (np.diff(moments_s) * 1e3).tolist()
        return copy_in, engine, copy_out

    def close(self) -> None:
        """Gives back what it has on the device."""
        self._stream.synchronize()
        while self._bare_graphs:
            self._gpu.destroy(self._bare_graphs.pop())
        for graph in self._captures.drain():
            self._gpu.destroy(graph)
        self._contexts.clear()
        self._memory.clear()
        self._staging = None

    def _capture(self, key: tuple[int, int], frames: Frames, rows: Rows, is_mapped: bool) -> None:
        try:
            graph = self._gpu.captured(self._stream, lambda: self._enqueue(frames, rows, is_mapped))
        except BackendError as error:
            if self._captures.refuse(str(error)) and self._number == 0:  # the first in use; once is enough
                _log.warning("batches are enqueued one by one, as no CUDA graph can be captured: %s", error)
            return
        dropped = self._captures.keep(key, graph)
        if dropped is not None:
            self._gpu.destroy(dropped)

    def _enqueue(self, frames: Frames, rows: Rows, is_mapped: bool) -> None:
        context = self._context(len(frames), "frames", frames.shape)
        unconverged = self.unconverged[: len(rows)]
        thresholds = self._address(_THRESHOLDS, self._thresholds)
        addresses = {"conf": thresholds, "iou": thresholds + _IOU_AT}
        addresses["unconverged"] = self._address("unconverged", unconverged)
        if is_mapped:
            addresses |= {"frames": self._gpu.mapped(frames), "detections": self._gpu.mapped(rows)}
        else:
            addresses["frames"] = self._address("frames", frames)
            addresses["detections"] = self._address("detections", rows)
            self._gpu.copy_in(addresses["frames"], frames, self._stream)
        self._gpu.copy_in(thresholds, self._thresholds, self._stream)
        for name in (*self._engine.inputs, *self._engine.outputs):
            context.set_tensor_address(name, addresses[name])
        self._execute(context)
        if not is_mapped:
            self._gpu.copy_out(rows, addresses["detections"], self._stream)
        self._gpu.copy_out(unconverged, addresses["unconverged"], self._stream)

    def _execute(self, context: tensorrt.IExecutionContext) -> None:
        if not context.execute_async_v3(self._stream.handle):
            raise self._engine.failed()

    def _context(self, batch: int, name: str, shape: tuple[int, ...]) -> tensorrt.IExecutionContext:
        """The context of a batch size: a captured graph holds its memory, so that sizes do not share one."""
        context = self._contexts.get(batch)
        if context is None:
            context = self._contexts[batch] = self._engine.context()
            context.set_input_shape(name, shape)
        return context

    def _address(self, name: str, array: npt.NDArray[Any]) -> int:
        """Device memory of a tensor, as much as the largest batch needs, so that it never moves."""
        if name not in self._memory:
            self._memory[name] = self._gpu.memory(array.nbytes // len(array) * max(self._largest, len(array)))
        return int(self._memory[name])


class _InFlight(Flight):
    """A batch in a lane."""

    def __init__(self, gpu: Gpu, lane: _Lane, rows: Rows, written: Rows, iou: float) -> None:
        self._gpu, self._lane, self._iou = gpu, lane, iou
        self._rows, self._written = rows, written
        self._is_over = False

    def is_done(self) -> bool:
        """See `Flight`."""
        if self._is_over:
            return True
        with self._gpu.current():
            return bool(self._lane.event.query())

    def finish(self) -> None:
        """See `Flight`."""
        if self._is_over:
            return
        self._is_over, self._lane.flight = True, None
        with self._gpu.current():
            self._lane.event.synchronize()
        if self._written is not self._rows and self._written.ctypes.data != self._rows.ctypes.data:
            self._rows[:] = self._written
        settle(self._rows, self._lane.unconverged[: len(self._rows)], self._iou)
