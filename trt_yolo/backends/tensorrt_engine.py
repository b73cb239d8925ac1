"""An engine, deserialized: its tensors, its contexts, its weights where the plan has none.

Enters: a file that loads here. Leaves: a `LoadedEngine`, which is valid while its GPU's context is. Owns no streams
and no memory: a context's scratch memory is its caller's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_yolo.artifacts.files import file_sha256
from trt_yolo.artifacts.manifest import EngineFacts, Manifest, manifest_from_ultralytics
from trt_yolo.engine.compatibility import Engine
from trt_yolo.engine.library import Library
from trt_yolo.engine.log import Log, in_one_line, started_runtime
from trt_yolo.engine.options import EngineOptions, options_from_dict
from trt_yolo.engine.plan import ultralytics_metadata
from trt_yolo.errors import BackendError, EngineError, UnsupportedModelError

if TYPE_CHECKING:
    import tensorrt


class LoadedEngine:
    """An engine in TensorRT.

    Attributes:
        file: What the file is.
        library: The TensorRT that runs it.
        manifest: What the model is.
        inputs: Names of its inputs.
        outputs: Names of its outputs.

    Args:
        file: An engine that loads here.
        library: The TensorRT that it wants.

    Raises:
        EngineError: It has no weights, and its ONNX is not there.
        InputError: Its manifest's options make no sense.
        BackendError: TensorRT does not start, or refuses it all the same.
    """

    def __init__(self, file: Engine, library: Library) -> None:
        self.file, self.library = file, library
        facts, path = file.facts, file.plan.path
        options = EngineOptions() if facts is None else options_from_dict(facts.options)
        self._log = Log(library)
        self._runtime = started_runtime(self._log)
        if options.version_compatible:
            self._runtime.engine_host_code_allowed = True  # the plan carries code: trusted with the plan
        if options.dla is not None:
            self._runtime.DLA_core = options.dla
        plan = self._runtime.deserialize_cuda_engine(self.file.plan.read())
        if plan is None:
            raise BackendError(f"{self._who} does not load {path}: {self._said}; build it again")
        self._plan = plan
        if facts is not None and options.strip_weights:
            self._refit(facts)
        names = [plan.get_tensor_name(index) for index in range(plan.num_io_tensors)]
        is_input = self.library.trt.TensorIOMode.INPUT
        self.inputs = [name for name in names if plan.get_tensor_mode(name) == is_input]
        self.outputs = [name for name in names if name not in self.inputs]
        self.manifest = self._manifest()
        self._runtime_config = self._rtx_config() if self.library.family == "tensorrt-rtx" else None
        self._log.errors.clear()  # a cache of another GPU, refused, is not why a later call fails

    def context(self, shapes: Mapping[str, Sequence[int]]) -> tensorrt.IExecutionContext:
        """A new execution context for these shapes. Its scratch memory is for the caller to give it.

        Args:
            shapes: The shape of every input.

        Raises:
            BackendError: There is no memory for it, or it does not take a shape.
        """
        strategy = self.library.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        plan: Any = self._plan
        config: Any = self._runtime_config  # has the strategy
        made = plan.create_execution_context(strategy if config is None else config)
        if made is None:
            raise BackendError(
                f"{self._who} cannot make a context for {self.file.plan.path}: {self._said}; "
                "use fewer streams or workers, or a smaller batch"
            )
        context: tensorrt.IExecutionContext = made
        for name, shape in shapes.items():
            if not context.set_input_shape(name, tuple(shape)):
                raise BackendError(
                    f"{self._who} does not take {name} of shape {tuple(shape)} for {self.file.plan.path}: "
                    f"{self._said}; give a batch that its profile has, or build it with another --profile"
                )
        return context

    def scratch_bytes(self, context: tensorrt.IExecutionContext) -> int:
        """Bytes of device memory that a context works in, for the shapes that it has."""
        return int(context.update_device_memory_size_for_shapes() or self._plan.device_memory_size_v2)

    def bind(self, context: tensorrt.IExecutionContext, name: str, address: int) -> None:
        """Gives a context the device address of a tensor.

        Raises:
            BackendError: It does not take it.
        """
        if not context.set_tensor_address(name, address):
            raise BackendError(
                f"{self._who} does not take address {address:#x} for {name} of {self.file.plan.path}: "
                f"{self._said}; please report this"
            )

    def is_capturable(self, context: tensorrt.IExecutionContext, stream_handle: int) -> bool:
        """Whether a CUDA graph can hold what a context runs. TensorRT for RTX alone may say no."""
        asked = getattr(context, "is_stream_capturable", None)
        return asked is None or bool(asked(stream_handle))

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type of a tensor."""
        dtype: np.dtype[Any] = np.dtype(self.library.trt.nptype(self._plan.get_tensor_dtype(name)))
        return dtype

    def failure(self) -> str:
        """What is known where TensorRT says that something did not work: which it is, which file, and its log."""
        return f"{self._who} did not run {self.file.plan.path}: {self._said}"

    def close(self) -> None:
        """Keeps what TensorRT for RTX has compiled; gives back the engine."""
        if self._runtime_config is not None:
            with contextlib.suppress(OSError):
                cache = self._runtime_config.get_runtime_cache()
                part = self._cache_path.with_name(f".{self._cache_path.name}.part")
                part.write_bytes(bytes(cache.serialize()))
                part.replace(self._cache_path)
        for name in ("_runtime_config", "_plan", "_runtime"):
            self.__dict__.pop(name, None)
        self._runtime_config = None

    @property
    def _who(self) -> str:
        return f"{self.library.name} {self.library.version}"

    @property
    def _said(self) -> str:
        return in_one_line(self._log.errors)

    @property
    def _cache_path(self) -> Path:
        """Where TensorRT for RTX keeps what it compiled for this GPU."""
        path = self.file.plan.path
        return path.with_name(path.name + ".jit")

    def _rtx_config(self) -> Any:
        """Kernels compiled once are kept; shapes compile when they first come, not behind a capture's back."""
        trt: Any = self.library.trt
        plan: Any = self._plan
        config = plan.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = (
            trt.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        cache = config.create_runtime_cache()
        with contextlib.suppress(OSError):
            cache.deserialize(self._cache_path.read_bytes())  # refused by itself where it does not fit
        config.set_runtime_cache(cache)
        return config

    def _refit(self, facts: EngineFacts) -> None:
        """Gives a plan that was stripped its weights again."""
        trt, path = self.library.trt, self.file.plan.path
        onnx = path.with_name(facts.onnx)
        if not onnx.is_file() or file_sha256(onnx) != facts.onnx_sha256:
            raise EngineError(
                f"{path} has no weights of its own, and {onnx}, from which it was built, "
                "is not there or has changed; copy it too"
            )
        refitter = trt.Refitter(self._plan, self._log.logger)
        parser = trt.OnnxParserRefitter(refitter, self._log.logger)
        if not (parser.refit_from_file(str(onnx)) and refitter.refit_cuda_engine()):
            raise BackendError(f"{path} does not take the weights of {onnx}: {self._said}")

    def _manifest(self) -> Manifest:
        """What lies beside the engine; or what Ultralytics' header and the tensors say."""
        file = self.file
        if file.manifest is not None:
            return file.manifest
        if len(self.inputs) != 1:
            raise UnsupportedModelError(
                f"{file.plan.path} has no manifest and {len(self.inputs)} inputs; "
                "give an engine of trt-yolo's or Ultralytics'"
            )
        return manifest_from_ultralytics(
            ultralytics_metadata(file.plan.metadata),
            input_shape=self._dimensions(self.inputs[0]),
            output_shapes=[self._dimensions(name) for name in self.outputs],
            origin=str(file.plan.path),
        )

    def _dimensions(self, name: str) -> list[int | str]:
        shape = self._plan.get_tensor_shape(name)
        sizes = [shape[axis] for axis in range(len(shape))]
        return [size if size >= 0 else f"dim{axis}" for axis, size in enumerate(sizes)]
