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
from trt_yolo.engine.library import Library
from trt_yolo.engine.loadable import check_loads

if TYPE_CHECKING:
    import tensorrt

    from trt_yolo.backends.cuda import Gpu
    from trt_yolo.manifest import Manifest


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
    """An engine in one lane: a context for each batch size.

    A captured graph holds its context's memory, so that sizes do not share one.
    """

    def __init__(self, gpu: Gpu, engine: LoadedEngine, stream: Any) -> None:
        self._gpu, self._engine, self._stream = gpu, engine, stream
        self._contexts: dict[int, tensorrt.IExecutionContext] = {}
        self._bound: dict[int, Mapping[str, int]] = {}
        self._memory: dict[str, Any] = {}

    def prepared(self, batch: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        """See `Execution`."""
        frames_hw = self._engine.manifest.frame_hw
        context = self._context(batch, "frames", (batch, *frames_hw, 3))

        def enqueue() -> None:
            if self._bound.get(batch) is not addresses:
                for name in (*self._engine.inputs, *self._engine.outputs):
                    context.set_tensor_address(name, addresses[name])
                self._bound[batch] = addresses
            self._execute(context)

        return enqueue

    def run_head(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Execution`."""
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

    def close(self) -> None:
        """See `Execution`."""
        self._contexts.clear()
        self._bound.clear()
        self._memory.clear()

    def _execute(self, context: tensorrt.IExecutionContext) -> None:
        if not context.execute_async_v3(self._stream.handle):
            raise self._engine.failed()

    def _context(self, batch: int, name: str, shape: tuple[int, ...]) -> tensorrt.IExecutionContext:
        context = self._contexts.get(batch)
        if context is None:
            context = self._contexts[batch] = self._engine.context()
            context.set_input_shape(name, shape)
        return context

    def _address(self, name: str, array: npt.NDArray[Any]) -> int:
        """Device memory of a head graph's tensor, as much as the largest batch needs."""
        if name not in self._memory:
            largest = max(self._engine.manifest.batch.maximum, len(array))
            self._memory[name] = self._gpu.memory(array.nbytes // len(array) * largest)
        return int(self._memory[name])
