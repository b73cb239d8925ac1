"""TensorRT, or TensorRT for RTX: an engine on a GPU.

Enters: an `.engine` of trt-yolo's, Ultralytics', or another's with a manifest. Knows no sources and no processes.
Each lane has an execution context for each batch size; copies and engine are captured together as one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.gpu import DEFAULT_STREAMS, GpuBackend
from trt_yolo.backends.gpu_lane import Execution
from trt_yolo.backends.tensorrt_engine import LoadedEngine
from trt_yolo.engine.compatibility import check_loads
from trt_yolo.engine.library import Library

if TYPE_CHECKING:
    import tensorrt

    from trt_yolo.artifacts.manifest import Manifest
    from trt_yolo.backends.binding import Stream
    from trt_yolo.backends.cuda import Gpu


class TensorRTBackend(GpuBackend):
    """An engine on a GPU.

    Attributes:
        engine: The engine.

    Args:
        engine: Path of the file.
        device: The GPU, as CUDA counts.
        streams: Batches that may be under way at once.
        graphs: Whether to capture graphs.
        spin: Never sleep while waiting: lowest latency, one core busy.

    Raises:
        EngineError: It does not load here; the line says why and what to do.
        BackendError: TensorRT refuses it all the same, or no such GPU.
        MissingDependencyError: TensorRT or a CUDA binding is not installed.
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
        self._file = check_loads(Path(engine))
        self._library = Library(self._file.plan.family)
        super().__init__(device=device, streams=streams, graphs=graphs, spin=spin)

    def _load(self) -> Manifest:
        self.engine = LoadedEngine(self._file, self._library)
        return self.engine.manifest

    def _execution(self, stream: Any) -> Execution:
        return _Contexts(self.gpu, self.engine, stream)

    def _unload(self) -> None:
        if "engine" in self.__dict__:
            self.engine.close()


class _Contexts(Execution):
    """An engine in one lane: a context for each batch size, which share the lane's scratch memory.

    A captured graph holds its context's state, so that sizes do not share one; one batch at a time runs in a lane, so
    that its scratch memory is in use by one of them alone. That of the largest batch is enough for all.
    """

    def __init__(self, gpu: Gpu, engine: LoadedEngine, stream: Stream) -> None:
        self._gpu, self._engine, self._stream = gpu, engine, stream
        self._contexts: dict[int, tensorrt.IExecutionContext] = {}
        self._bound: dict[int, Mapping[str, int]] = {}
        self._memory: dict[str, Any] = {}
        self._scratch: tuple[int, int] = (0, 0)  # address, bytes
        self._context(engine.manifest.batch.maximum)

    def prepared(self, batch: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        """See `Execution`."""
        context = self._context(batch)

        def enqueue() -> None:
            if self._bound.get(batch) is not addresses:
                for name in (*self._engine.inputs, *self._engine.outputs):
                    self._engine.bind(context, name, addresses[name])
                self._bound[batch] = addresses
            self._execute(context)

        return enqueue

    def is_capturable(self, batch: int) -> bool:
        """See `Execution`."""
        return self._engine.is_capturable(self._context(batch), self._stream.handle)

    def run_head(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Execution`."""
        (name,), (output,) = self._engine.inputs, self._engine.outputs
        images = np.ascontiguousarray(images, self._engine.dtype(name))
        context = self._context(len(images))
        shape = context.get_tensor_shape(output)
        found = np.empty([shape[axis] for axis in range(len(shape))], self._engine.dtype(output))
        source, target = self._address(name, images), self._address(output, found)
        self._engine.bind(context, name, source)
        self._engine.bind(context, output, target)
        self._gpu.copy_in(source, images, self._stream)
        self._execute(context)
        self._gpu.copy_out(found, target, self._stream)
        self._gpu.wait(self._stream)
        return found.astype(np.float32, copy=False)

    def close(self) -> None:
        """See `Execution`."""
        self._contexts.clear()
        self._bound.clear()

    def _execute(self, context: tensorrt.IExecutionContext) -> None:
        if not context.execute_async_v3(self._stream.handle):
            raise self._gpu.refused(self._engine.failure())

    def _context(self, batch: int) -> tensorrt.IExecutionContext:
        context = self._contexts.get(batch)
        if context is None:
            context = self._engine.context(self._input_shapes(batch))
            needed = self._engine.scratch_bytes(context)
            if needed > self._scratch[1]:  # graphs that hold what was there keep it: it is freed with the GPU
                self._scratch = int(self._gpu.memory(needed)), needed
            context.set_device_memory(*self._scratch)
            self._contexts[batch] = context
        return context

    def _input_shapes(self, batch: int) -> dict[str, tuple[int, ...]]:
        manifest = self._engine.manifest
        if manifest.graph == "head":
            return {self._engine.inputs[0]: (batch, 3, *manifest.imgsz_hw)}
        return {"frames": (batch, *manifest.frame_hw, 3)}

    def _address(self, name: str, array: npt.NDArray[Any]) -> int:
        """Device memory of a head graph's tensor, as much as the largest batch needs."""
        if name not in self._memory:
            largest = max(self._engine.manifest.batch.maximum, len(array))
            self._memory[name] = self._gpu.memory(array.nbytes // len(array) * largest)
        return int(self._memory[name])
