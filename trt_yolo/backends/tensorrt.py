"""TensorRT, or TensorRT for RTX: an engine on a GPU.

Enters: an `.engine` of trt-yolo's, Ultralytics', or another's with a manifest. Knows no sources and no processes. CUDA
is reached through pycuda, in the device's primary context, which is pushed for every call and popped after it.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.base import Backend, Frames, Output, images_for_head, output_from_head
from trt_yolo.engine.library import Library
from trt_yolo.engine.loadable import Engine, check_loads
from trt_yolo.engine.options import EngineOptions, options_from_dict
from trt_yolo.engine.plan import ultralytics_metadata
from trt_yolo.errors import (
    BackendError,
    DeviceError,
    EngineError,
    MissingDependencyError,
    UnsupportedModelError,
)
from trt_yolo.export.writing import file_sha256
from trt_yolo.manifest import EngineFacts, Manifest, manifest_from_ultralytics

if TYPE_CHECKING:
    import tensorrt

_WARNING = 2


class TensorRTBackend(Backend):
    """An engine on a GPU.

    Attributes:
        engine: What the file is.
        library: The TensorRT that runs it.

    Args:
        engine: Path of the file.
        device: The GPU, as CUDA counts.

    Raises:
        EngineError: It does not load here; the line says why and what to do.
        BackendError: TensorRT refuses it all the same.
        MissingDependencyError: TensorRT or pycuda is not installed.
    """

    def __init__(self, engine: str | Path, *, device: int = 0) -> None:
        self.engine = check_loads(Path(engine))
        self.library = Library(self.engine.plan.family)
        self._cuda = _pycuda()
        count = self._cuda.Device.count()
        if not 0 <= device < count:
            raise BackendError(f"there is no GPU {device}; {count} answer here, counted from 0")
        self._device: Any = self._cuda.Device(device).retain_primary_context()
        with self._in_context(), self._device_errors():
            self._load()
            super().__init__(_manifest_of(self.engine, self._plan, self.library))
            self._inputs, self._outputs = _tensor_names(self._plan, self.library)
            self._buffers: dict[str, tuple[int, Any]] = {}
            self._stream = self._cuda.Stream(1)  # non-blocking: does not wait for the default stream

    def _load(self) -> None:
        trt, plan = self.library.trt, self.engine.plan
        facts = self.engine.facts
        options = EngineOptions() if facts is None else options_from_dict(facts.options)
        errors: list[str] = []
        self._logger = _logger(self.library, errors)
        runtime = trt.Runtime(self._logger)
        if options.version_compatible:
            runtime.engine_host_code_allowed = (
                True  # the plan carries a runtime: code that is trusted with the plan
            )
        if options.dla is not None:
            runtime.DLA_core = options.dla
        self._runtime = runtime
        self._plan = runtime.deserialize_cuda_engine(plan.read())
        if self._plan is None:
            raise BackendError(
                f"{self.library.family} {self.library.version} does not load {plan.path}: {_first(errors)}; "
                "build it again"
            )
        if facts is not None and options.strip_weights:
            self._refit(facts, errors)
        self._context = self._plan.create_execution_context()
        if self._context is None:
            raise BackendError(
                f"{self.library.family} cannot make a context for {plan.path}: {_first(errors)}; "
                "free GPU memory, or use a smaller batch"
            )

    def _refit(self, facts: EngineFacts, errors: list[str]) -> None:
        """Gives a plan that was stripped its weights again."""
        trt = self.library.trt
        onnx = self.engine.plan.path.with_name(facts.onnx)
        if not onnx.is_file() or file_sha256(onnx) != facts.onnx_sha256:
            raise EngineError(
                f"{self.engine.plan.path} has no weights of its own, and {onnx}, from which it was built, "
                "is not there or has changed; copy it too"
            )
        refitter = trt.Refitter(self._plan, self._logger)
        parser = trt.OnnxParserRefitter(refitter, self._logger)
        if not (parser.refit_from_file(str(onnx)) and refitter.refit_cuda_engine()):
            raise BackendError(
                f"{self.engine.plan.path} does not take the weights of {onnx}: {_first(errors)}"
            )

    def _run(self, frames_bgr: Frames, conf: float, iou: float) -> Output:
        outputs = self._outputs_of(self._feed(frames_bgr, conf, iou))
        if self.manifest.graph == "head":
            return output_from_head(outputs[0].astype(np.float32, copy=False), conf=conf, iou=iou)
        found = dict(zip(self._outputs, outputs, strict=True))
        return Output(found["detections"], found["unconverged"])

    def _feed(self, frames_bgr: Frames, conf: float, iou: float) -> dict[str, npt.NDArray[Any]]:
        if self.manifest.graph == "head":
            name = self._inputs[0]
            dtype = self.library.trt.nptype(self._plan.get_tensor_dtype(name))
            return {name: images_for_head(frames_bgr).astype(dtype, copy=False)}
        return {
            "frames": frames_bgr,
            "conf": np.array([conf], np.float32),
            "iou": np.array([iou], np.float32),
        }

    def _outputs_of(self, feed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Copies in, runs, copies out; the arrays are new."""
        with self._in_context(), self._device_errors():
            for name, array in feed.items():
                array = np.ascontiguousarray(array)
                self._context.set_input_shape(name, array.shape)
                address = self._address(name, array.nbytes)
                self._cuda.memcpy_htod_async(address, array, self._stream)
            outputs = [self._output(name) for name in self._outputs]
            if not self._context.execute_async_v3(self._stream.handle):
                raise BackendError(
                    f"{self.library.family} did not run {self.engine.plan.path}; build it again"
                )
            for name, array in zip(self._outputs, outputs, strict=True):
                self._cuda.memcpy_dtoh_async(array, self._buffers[name][1], self._stream)
            self._stream.synchronize()
        return outputs

    def _output(self, name: str) -> npt.NDArray[Any]:
        shape = self._context.get_tensor_shape(name)
        dtype = self.library.trt.nptype(self._plan.get_tensor_dtype(name))
        array = np.empty([shape[axis] for axis in range(len(shape))], dtype)
        self._address(name, array.nbytes)
        return array

    def _address(self, name: str, size: int) -> Any:
        """Device memory of a tensor; it grows with the largest batch."""
        have, memory = self._buffers.get(name, (0, None))
        if have < size:
            memory = self._cuda.mem_alloc(size)
            self._buffers[name] = (size, memory)
            self._context.set_tensor_address(name, int(memory))
        return memory

    @contextlib.contextmanager
    def _in_context(self) -> Iterator[None]:
        self._device.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    @contextlib.contextmanager
    def _device_errors(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            free, total = self._cuda.mem_get_info()
            raise BackendError(
                f"the GPU's memory is full ({free >> 20} of {total >> 20} MiB free); "
                "use fewer workers or a smaller batch"
            ) from error
        except self._cuda.Error as error:
            raise DeviceError(f"the GPU is lost to this process: {error}; a new process can go on") from error

    def close(self) -> None:
        """Gives back the GPU's memory and the context."""
        if self.__dict__.get("_device") is None:
            return
        with self._in_context():
            for name in ("_buffers", "_stream", "_context", "_plan", "_runtime"):
                self.__dict__.pop(name, None)
        self._device.detach()
        self._device = None


def _pycuda() -> Any:
    try:
        driver = importlib.import_module("pycuda.driver")
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(
            f"running engines needs pycuda, which does not import ({' '.join(str(error).split())[:200]}); "
            "pip install 'trt-yolo[gpu]'"
        ) from error
    try:
        driver.init()
    except driver.Error as error:
        raise BackendError(f"the NVIDIA driver does not start ({error}); see trt-yolo doctor") from error
    return driver


def _logger(library: Library, errors: list[str]) -> tensorrt.ILogger:
    trt = library.trt

    class Log(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: tensorrt.ILogger.Severity, msg: str) -> None:
            if int(severity) < _WARNING:
                errors.append(msg)

    return Log()


def _first(errors: list[str]) -> str:
    return " ".join(errors[0].split())[:400] if errors else "it does not say why"


def _tensor_names(plan: tensorrt.ICudaEngine, library: Library) -> tuple[list[str], list[str]]:
    """Names of the inputs and of the outputs."""
    names = [plan.get_tensor_name(index) for index in range(plan.num_io_tensors)]
    inputs = [name for name in names if plan.get_tensor_mode(name) == library.trt.TensorIOMode.INPUT]
    return inputs, [name for name in names if name not in inputs]


def _manifest_of(engine: Engine, plan: tensorrt.ICudaEngine, library: Library) -> Manifest:
    """What lies beside the engine; or what Ultralytics' header and the tensors say."""
    if engine.manifest is not None:
        return engine.manifest
    inputs, outputs = _tensor_names(plan, library)
    if len(inputs) != 1:
        raise UnsupportedModelError(
            f"{engine.plan.path} has no manifest and {len(inputs)} inputs; give an engine of trt-yolo's or Ultralytics'"
        )
    return manifest_from_ultralytics(
        ultralytics_metadata(engine.plan.metadata),
        input_shape=_dimensions(plan, inputs[0]),
        output_shapes=[_dimensions(plan, name) for name in outputs],
        origin=str(engine.plan.path),
    )


def _dimensions(plan: tensorrt.ICudaEngine, name: str) -> list[int | str]:
    shape = plan.get_tensor_shape(name)
    sizes = [shape[axis] for axis in range(len(shape))]
    return [size if size >= 0 else f"dim{axis}" for axis, size in enumerate(sizes)]
