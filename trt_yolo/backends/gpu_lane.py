"""Where one batch at a time runs on a GPU: its stream, its device memory, what it captured.

Enters: frames and thresholds. Leaves: rows. A batch copies in, runs and copies out in the lane's stream. Knows neither
TensorRT nor ONNX Runtime: what runs the model is an `Execution`.
"""

from __future__ import annotations

import abc
import contextlib
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.backends.base import Flight, Frames, Rows, settle
from trt_yolo.backends.cuda import Gpu
from trt_yolo.backends.lanes import Captures
from trt_yolo.errors import BackendError, DeviceError

_THRESHOLDS = "thresholds"  # one copy for both; TensorRT wants tensors at multiples of 256 bytes
_IOU_AT = 256

_log = logging.getLogger(__name__)


class Execution(abc.ABC):
    """The model in one lane: what it enqueues goes to that lane's stream.

    Attributes:
        may_capture: Whether what it enqueues may be captured in a graph with the copies around it.
        graphs: What it says of graphs that it captures by itself; empty where it leaves that to others.
        refused: Why it could capture none by itself, though it was to; empty where nothing was refused.
    """

    may_capture = True
    graphs = ""
    refused = ""

    def is_capturable(self, batch: int) -> bool:
        """Whether a batch of that size, which has run once, can be captured."""
        return True

    @abc.abstractmethod
    def prepared(self, batch: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        """A call that enqueues the model.

        Args:
            batch: Frames.
            addresses: On the device, of each input and output. The caller's mapping: kept, and not changed.
        """

    @abc.abstractmethod
    def run_head(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N, 4 + classes, anchors) float32 of a head graph's (N, 3, H, W) float32 images; waits for it."""

    def close(self) -> None:  # noqa: B027  it may hold nothing
        """Gives back what it has on the device."""


class Lane:
    """Where one batch at a time runs.

    Attributes:
        flight: What is under way; None where nothing is.
        event: Happens when it is done.
        execution: The model in this lane.
        unconverged: (largest batch, 1) float32, page-locked; of the last batch.

    Args:
        gpu: The GPU, whose context is current.
        open_execution: Makes the model's execution in a stream.
        number: Counts the lanes of a backend, from 0.
        manifest: What the model is.
        graphs: Whether to capture batches.
    """

    def __init__(
        self,
        gpu: Gpu,
        open_execution: Callable[[Any], Execution],
        number: int,
        *,
        manifest: Manifest,
        graphs: bool,
    ) -> None:
        self.flight: Flight | None = None
        self._number, self._gpu, self._manifest = number, gpu, manifest
        self._largest = manifest.batch.maximum
        self._captures = Captures[Any]()
        self._bare_graphs: list[Any] = []
        self._memory: dict[str, Any] = {}
        self._addresses: dict[tuple[int, ...], Mapping[str, int]] = {}
        self._staging: tuple[Frames, Rows] | None = None
        self._stream, self.event = gpu.stream(), gpu.event()
        self.execution = open_execution(self._stream)
        self._graphs = graphs and self.execution.may_capture
        self._thresholds = gpu.pinned((_IOU_AT // 4 + 1,), np.float32)
        self.unconverged: Rows = gpu.pinned((self._largest, 1), np.float32)

    @property
    def refused(self) -> str:
        """Why no graph could be captured; empty where none was refused."""
        return self._captures.refused or self.execution.refused

    @property
    def graphs(self) -> str:
        """How it does without graphs of its own, for people; empty where it captures them."""
        if self.refused:
            return f"not captured: {self.refused}"
        return self.execution.graphs or ("" if self._graphs else "off")

    @property
    def may_capture(self) -> bool:
        """Whether the next batch at a new place is captured."""
        return self._graphs and self._captures.has_room

    @property
    def captures(self) -> int:
        """How many graphs it has captured."""
        return len(self._captures)

    def staging(self) -> tuple[Frames, Rows]:
        """Page-locked frames and rows of this process, for what lies elsewhere."""
        if self._staging is None:
            manifest = self._manifest
            with self._gpu.current():
                frames = self._gpu.pinned((self._largest, *manifest.frame_hw, 3), np.uint8)
                rows = self._gpu.pinned((self._largest, manifest.rows, 6), np.float32)
            self._staging = frames, rows
        return self._staging

    def start(self, frames: Frames, rows: Rows, conf: float, iou: float, *, is_mapped: bool) -> None:
        """Gives the stream a batch: copy in, run, copy out; or the graph of that, captured the first time."""
        self._set(conf, iou)
        key = (frames.ctypes.data, len(frames))
        graph = self._captures.get(key)
        if graph is not None:
            self._gpu.launch(graph, self._stream)
        else:
            self._enqueue(frames, rows, is_mapped)
        self.event.record(self._stream)
        if graph is None and self.may_capture:
            self._gpu.wait(self._stream)  # that was the warm-up which a capture needs
            self._capture(key, frames, rows, is_mapped)

    def bare(self, frames: Frames, conf: float, iou: float) -> Callable[[], None]:
        """Runs the model on frames that are copied to the device now, and waits for it."""
        execute = self._at_rest(frames, conf, iou)[2]
        graph = None
        if self._graphs and not self._captures.refused:
            with contextlib.suppress(BackendError):  # plain enqueue then; what is broken shows when it runs
                graph = self._gpu.captured(self._stream, execute)
                self._bare_graphs.append(graph)

        def enqueue() -> None:
            if graph is None:
                execute()
            else:
                self._gpu.launch(graph, self._stream)
            self._gpu.wait(self._stream)

        return enqueue

    def timed_parts(self, frames: Frames, conf: float, iou: float) -> tuple[float, float, float]:
        """What copy in, engine and copy out take, in milliseconds, each waited for; from page-locked memory."""
        source, target, execute = self._at_rest(frames, conf, iou)
        parts: list[Callable[[], None]] = [
            lambda: self._gpu.copy_in(int(self._memory["frames"]), source, self._stream),
            execute,
            lambda: self._gpu.copy_out(target, int(self._memory["detections"]), self._stream),
        ]
        moments_s = [time.perf_counter()]
        for part in parts:
            part()
            self._gpu.wait(self._stream)
            moments_s.append(time.perf_counter())
        copy_in, engine, copy_out = (np.diff(moments_s) * 1e3).tolist()
        return copy_in, engine, copy_out

    def close(self) -> None:
        """Gives back what it has on the device."""
        self._gpu.wait(self._stream)
        while self._bare_graphs:
            self._gpu.destroy(self._bare_graphs.pop())
        for graph in self._captures.drain():
            self._gpu.destroy(graph)
        self.execution.close()

    def _at_rest(self, frames: Frames, conf: float, iou: float) -> tuple[Frames, Rows, Callable[[], None]]:
        """The lane's own frames and rows, the former filled and copied to the device; and the model's call on them."""
        source, target = self.staging()
        source, target = source[: len(frames)], target[: len(frames)]
        source[:] = frames
        self._set(conf, iou)
        self._enqueue(source, target, is_mapped=False)
        self._gpu.wait(self._stream)
        addresses = self._device_addresses(source, target, is_mapped=False)
        return source, target, self.execution.prepared(len(frames), addresses)

    def _set(self, conf: float, iou: float) -> None:
        self._thresholds[0], self._thresholds[_IOU_AT // 4] = conf, iou

    def _capture(self, key: tuple[int, int], frames: Frames, rows: Rows, is_mapped: bool) -> None:
        try:
            if not self.execution.is_capturable(len(frames)):
                raise BackendError("the engine cannot be captured")
            graph = self._gpu.captured(self._stream, lambda: self._enqueue(frames, rows, is_mapped))
        except DeviceError:
            raise
        except BackendError as error:
            if self._captures.refuse(str(error)) and self._number == 0:  # the first in use; once is enough
                _log.warning("batches are enqueued one by one, as no CUDA graph can be captured: %s", error)
            return
        self._captures.keep(key, graph)

    def _enqueue(self, frames: Frames, rows: Rows, is_mapped: bool) -> None:
        addresses = self._device_addresses(frames, rows, is_mapped=is_mapped)
        unconverged = self.unconverged[: len(rows)]
        if not is_mapped:
            self._gpu.copy_in(addresses["frames"], frames, self._stream)
        self._gpu.copy_in(addresses["conf"], self._thresholds, self._stream)
        self.execution.prepared(len(frames), addresses)()
        if not is_mapped:
            self._gpu.copy_out(rows, addresses["detections"], self._stream)
        self._gpu.copy_out(unconverged, addresses["unconverged"], self._stream)

    def _device_addresses(self, frames: Frames, rows: Rows, *, is_mapped: bool) -> Mapping[str, int]:
        """Where each tensor is on the device; the same mapping for the same place and batch."""
        key = (frames.ctypes.data, len(frames)) if is_mapped else (len(frames),)
        addresses = self._addresses.get(key)
        if addresses is None:
            thresholds = self._address(_THRESHOLDS, self._thresholds)
            addresses = self._addresses[key] = {
                "frames": self._gpu.mapped(frames) if is_mapped else self._address("frames", frames),
                "conf": thresholds,
                "iou": thresholds + _IOU_AT,
                "detections": self._gpu.mapped(rows) if is_mapped else self._address("detections", rows),
                "unconverged": self._address("unconverged", self.unconverged),
            }
        return addresses

    def _address(self, name: str, array: npt.NDArray[Any]) -> int:
        """Device memory of a tensor, as much as the largest batch needs, so that it never moves."""
        if name not in self._memory:
            self._memory[name] = self._gpu.memory(array.nbytes // len(array) * max(self._largest, len(array)))
        return int(self._memory[name])


class LaneFlight(Flight):
    """A batch in a lane.

    Args:
        gpu: The lane's.
        lane: Where it is under way.
        rows: Where its rows belong.
        written: Where the GPU writes them: the same, or what they are copied from.
        iou: NMS threshold.
    """

    def __init__(self, gpu: Gpu, lane: Lane, rows: Rows, written: Rows, iou: float) -> None:
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
