"""A model on a GPU, whatever runs it there: several batches at once, slots page-locked and copied from where they lie.

Enters: frames in slots, or anywhere. Leaves: rows. A backend has one lane for each batch that may be under way; a
subclass loads the model and makes its execution in a lane's stream. Knows neither TensorRT nor ONNX Runtime.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.backends.base import (
    Backend,
    Flight,
    Frames,
    Output,
    Rows,
    images_for_head,
    output_from_head,
)
from trt_yolo.backends.cuda import Gpu
from trt_yolo.backends.gpu_lane import Execution, Lane, LaneFlight
from trt_yolo.backends.lanes import MemoryStrategy, batch_sizes, fitting, strategy_for
from trt_yolo.errors import BackendError

DEFAULT_STREAMS = 2

_log = logging.getLogger(__name__)


class GpuBackend(Backend):
    """A model on a GPU.

    Attributes:
        gpu: The GPU.
        sizes: The batch sizes that are run.
        memory_strategy: How slots reach the GPU.

    Args:
        device: The GPU, as CUDA counts.
        streams: Batches that may be under way at once.
        graphs: Whether to capture graphs.
        spin: Never sleep while waiting: lowest latency, one core busy.

    Raises:
        BackendError: No such GPU; or what the subclass raises.
        MissingDependencyError: No CUDA binding is installed.
    """

    def __init__(self, *, device: int, streams: int, graphs: bool, spin: bool) -> None:
        self._lanes: list[Lane] = []
        self._graphs = self.captures = graphs
        self._warm_up = "none"
        self.gpu = Gpu(device, spin=spin)
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            with self.gpu.current():
                super().__init__(self._load())
                self.sizes = batch_sizes(self.manifest.batch)
                for number in range(streams):
                    self._lanes.append(
                        Lane(self.gpu, self._execution, number, manifest=self.manifest, graphs=graphs)
                    )
            on_error.pop_all()
        self.at_once = streams
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
        telling = next((lane for lane in self._lanes if lane.refused), next(iter(self._lanes), None))
        return {
            "gpu": f"{self.gpu.index}: {self.gpu.name}",
            "binding": self.gpu.binding,
            "memory": self.memory_strategy,
            "streams": str(self.at_once),
            "graphs": "off" if telling is None else telling.graphs or f"{self._graph_count} captured",
            "warm_up": self._warm_up,
        }

    def begin_into(self, frames_bgr: Frames, rows: Rows, *, count: int, conf: float, iou: float) -> Flight:
        """See `Backend`: a lane that has nothing under way takes the batch."""
        if self.manifest.graph == "head":
            return super().begin_into(frames_bgr, rows, count=count, conf=conf, iou=iou)
        self._check(frames_bgr[:count])
        lane = next((one for one in self._lanes if one.flight is None), self._lanes[0])
        if lane.flight is not None:
            lane.flight.finish()
        return self._begin(lane, frames_bgr, rows, count, conf, iou)

    def warm_up(self, slots: Sequence[tuple[Frames, Rows]]) -> None:
        """See `Backend`: every lane runs every slot with every batch size, so that no graph is captured later."""
        if self.manifest.graph == "head":
            super().warm_up(slots)
            return
        begin_s, batches, largest = time.perf_counter(), 0, len(slots[0][0])
        counts = sorted({size for size in self.sizes if size <= largest} | {largest}, reverse=True)
        for lane in self._lanes:
            for number, (frames, rows) in enumerate(slots):
                if number and not (lane.may_capture or self._is_mapped):
                    break  # to it all slots are the same
                for count in counts:
                    self._begin(lane, frames, rows, count, conf=0.25, iou=0.7).finish()
                batches += len(counts)
        self._warm_up = f"{batches} batches in {time.perf_counter() - begin_s:.2f} s"
        _log.info("warm-up: %s, %d CUDA graphs captured", self._warm_up, self._graph_count)

    def _begin(
        self, lane: Lane, frames_bgr: Frames, rows: Rows, count: int, conf: float, iou: float
    ) -> Flight:
        size = fitting(self.sizes, count)
        is_direct = size <= len(frames_bgr) and self._is_adopted(frames_bgr)
        source, target = (frames_bgr, rows) if is_direct else lane.staging()
        if not is_direct:
            source[:count] = frames_bgr[:count]
        source[count:size] = 0  # not what an earlier batch left there
        with self.gpu.current():
            lane.start(source[:size], target[:size], conf, iou, is_mapped=is_direct and self._is_mapped)
        lane.flight = LaneFlight(self.gpu, lane, rows[:count], target[:count], iou)
        return lane.flight

    def infer_into(self, frames_bgr: Frames, rows: Rows, *, count: int, conf: float, iou: float) -> None:
        """See `Backend`."""
        if self.manifest.graph == "head":
            super().infer_into(frames_bgr, rows, count=count, conf=conf, iou=iou)
        else:
            self.begin_into(frames_bgr, rows, count=count, conf=conf, iou=iou).finish()

    def bare_call(self, frames_bgr: Frames, *, conf: float, iou: float) -> Callable[[], object]:
        """See `Backend`: the model alone, as one graph where that works; its inputs are on the GPU already."""
        if self.manifest.graph == "head":
            return super().bare_call(frames_bgr, conf=conf, iou=iou)
        with self.gpu.current():
            enqueue = self._lanes[0].bare(frames_bgr, conf, iou)

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
        if not self.__dict__.get("gpu") or not self.gpu.is_open:  # never loaded, or closed
            return
        with contextlib.suppress(BackendError), self.gpu.current():  # a lost device gives nothing back
            for lane in self._lanes:
                lane.close()
            self._unload()
        self._lanes = []
        self.gpu.close()  # after what was captured from its memory

    @abc.abstractmethod
    def _load(self) -> Manifest:
        """Loads the model, as far as that is for all lanes; what it is."""

    @abc.abstractmethod
    def _execution(self, stream: Any) -> Execution:
        """The model in a lane's stream."""

    def _unload(self) -> None:
        """Gives back what `_load` made; it may not have got to its end."""

    @property
    def _graph_count(self) -> int:
        return sum(lane.captures for lane in self._lanes)

    @property
    def _is_mapped(self) -> bool:
        return self.memory_strategy == "mapped"

    def _is_adopted(self, array: npt.NDArray[Any]) -> bool:
        start, end = self._adopted
        return start <= array.ctypes.data and array.ctypes.data + array.nbytes <= end

    def _run(self, frames_bgr: Frames, conf: float, iou: float) -> Output:
        if self.manifest.graph == "head":
            with self.gpu.current():
                found = self._lanes[0].execution.run_head(images_for_head(frames_bgr))
            return output_from_head(found, conf=conf, iou=iou)
        rows = np.empty((len(frames_bgr), self.manifest.rows, 6), np.float32)
        self.begin_into(frames_bgr, rows, count=len(frames_bgr), conf=conf, iou=iou).finish()
        return Output(rows, np.zeros((len(frames_bgr), 1), np.float32))
