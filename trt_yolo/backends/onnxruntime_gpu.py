"""ONNX Runtime on a GPU: an `.onnx` with no engine built, by its CUDA, TensorRT or TensorRT RTX provider.

Enters: an `.onnx` file. Knows no sources and no processes. Each lane has a session of its own, which runs in the lane's
stream on the lane's device memory (IOBinding) without waiting for it. ONNX Runtime captures CUDA graphs by itself,
between the copies; a session keeps one for each batch size and place.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.gpu import DEFAULT_STREAMS, GpuBackend
from trt_yolo.backends.gpu_lane import Execution
from trt_yolo.backends.lanes import MOST_GRAPHS
from trt_yolo.backends.onnxruntime import existing, open_session, session_manifest
from trt_yolo.backends.onnxruntime_providers import PROVIDERS, Asked, Provider, missing_libraries
from trt_yolo.errors import BackendError, InputError, first_line
from trt_yolo.hardware.capture_gate import capturing

if TYPE_CHECKING:
    from trt_yolo.artifacts.manifest import Manifest
    from trt_yolo.backends.cuda import Gpu

_ERRORS, _FATAL_ONLY = 3, 4
_ON_GPU_ALONE = "session.disable_cpu_ep_fallback"
_DO_NOT_WAIT = "disable_synchronize_execution_providers"
_GRAPH_NUMBER = "gpu_graph_id"
_NO_GRAPH = "-1"

_log = logging.getLogger(__name__)


class OnnxRuntimeGpuBackend(GpuBackend):
    """A model in ONNX Runtime on a GPU. Its weights are on the device once for each stream.

    Attributes:
        provider: `cuda`, `tensorrt` or `nv-tensorrt-rtx`.

    Args:
        model: Path of an `.onnx` file.
        provider: ONNX Runtime's execution provider.
        device: The GPU, as CUDA counts.
        streams: Batches that may be under way at once.
        graphs: Whether ONNX Runtime captures CUDA graphs.
        spin: Never sleep while waiting: lowest latency, one core busy.
        cache: Folder for what the providers of TensorRT build; None: they build it each time.

    Raises:
        InputError: No such file, or no such provider.
        BackendError: No ONNX model, one that ONNX Runtime cannot load on the GPU, or no such GPU.
        UnsupportedModelError: An ONNX model, but no YOLOv8 detection model.
        MissingDependencyError: onnxruntime or a CUDA binding is not installed.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        provider: str = "cuda",
        device: int = 0,
        streams: int = DEFAULT_STREAMS,
        graphs: bool = True,
        spin: bool = False,
        cache: str | Path | None = None,
    ) -> None:
        if provider not in PROVIDERS:
            raise InputError(f"no provider {provider!r} for a GPU; give {', '.join(PROVIDERS)}")
        self.provider = provider
        self._path, self._cache = existing(Path(model)), None if cache is None else Path(cache)
        self._is_quantized = b"QuantizeLinear" in self._path.read_bytes()
        self._known = session_manifest(open_session(self._path, threads=1, optimize=False), str(model))
        super().__init__(device=device, streams=streams, graphs=graphs, spin=spin)

    @property
    def about(self) -> dict[str, str]:
        """See `GpuBackend`; and the provider."""
        return {**super().about, "provider": self.provider}

    def _load(self) -> Manifest:
        return self._known

    def _execution(self, stream: Any) -> Execution:
        provider = PROVIDERS[self.provider]
        is_refused = any(lane.refused for lane in self._lanes)  # then the next one is not asked
        asked = Asked(
            device=self.gpu.index,
            stream=int(stream.handle),
            graphs=self._graphs and provider.may_capture(self.manifest) and not is_refused,
            manifest=self.manifest,
            cache=self._cache,
            channels_last=not self._is_quantized,
        )
        return _Bindings(self.gpu, self._path, provider, asked, is_first=not self._lanes)


class _Bindings(Execution):
    """A session in one lane; tensors are bound where they lie on the device, once for each batch size and place.

    Args:
        gpu: The GPU.
        path: The model.
        provider: What runs it.
        asked: What the session is to be.
        is_first: Whether what does not work is worth a line in the log.
    """

    may_capture = False  # ONNX Runtime's own bookkeeping would run once and never again

    def __init__(self, gpu: Gpu, path: Path, provider: Provider, asked: Asked, *, is_first: bool) -> None:
        self._gpu, self._path, self._provider, self._asked = gpu, path, provider, asked
        self._calls: dict[tuple[int, ...], Callable[[], None]] = {}
        self.graphs = "captured by ONNX Runtime" if asked.graphs else "off"
        self._session: Any = self._opened(is_first)

    def prepared(self, batch: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        """See `Execution`."""
        key = (batch, *addresses.values())
        call = self._calls.get(key)
        if call is None:
            call = self._calls[key] = self._call(batch, addresses)
        return call

    def run_head(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Execution`."""
        (node,) = self._session.get_inputs()
        images = images.astype(np.float16 if "16" in node.type else np.float32, copy=False)
        with self._errors_in_words():
            (found,) = self._session.run(None, {node.name: images})
        return np.asarray(found, np.float32)

    def close(self) -> None:
        """See `Execution`."""
        self._calls.clear()
        self._session = None

    def _call(self, batch: int, addresses: Mapping[str, int]) -> Callable[[], None]:
        import onnxruntime

        binding = self._session.io_binding()
        for nodes, bind in (
            (self._session.get_inputs(), binding.bind_input),
            (self._session.get_outputs(), binding.bind_output),
        ):
            for node in nodes:
                dtype = np.uint8 if "uint8" in node.type else np.float32
                memory, address = self._provider.memory, addresses[node.name]
                bind(node.name, memory, self._device, dtype, self._shape(node.name, batch), address)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry(_DO_NOT_WAIT, "1")
        if self._asked.graphs and self._provider.graphs_by_number:
            number = len(self._calls) + 1
            options.add_run_config_entry(_GRAPH_NUMBER, str(number) if number <= MOST_GRAPHS else _NO_GRAPH)

        has_run = False

        def enqueue() -> None:
            nonlocal has_run
            alone = contextlib.nullcontext() if has_run or not self._asked.graphs else capturing()
            with self._errors_in_words(), alone:  # the first time ONNX Runtime captures
                self._session.run_with_iobinding(binding, options)
            has_run = True

        return enqueue

    @property
    def _device(self) -> int:
        return self._asked.device if self._provider.memory == "cuda" else 0

    def _shape(self, name: str, batch: int) -> tuple[int, ...]:
        manifest = self._asked.manifest
        return {
            "frames": (batch, *manifest.frame_hw, 3),
            "detections": (batch, manifest.rows, 6),
            "unconverged": (batch, 1),
        }.get(name, (1,))

    def _opened(self, is_first: bool) -> Any:
        """A session all of whose operators run on the GPU, captured; or with less, which is said."""
        try:
            return self._session_of(self._asked, on_gpu_alone=True)
        except BackendError:
            self._asked = dataclasses.replace(self._asked, channels_last=False)  # which not every build knows
        try:
            return self._session_of(self._asked, on_gpu_alone=True)
        except BackendError as error:
            refused = str(error)
        self._asked = dataclasses.replace(self._asked, graphs=False)
        session = self._session_of(self._asked, on_gpu_alone=False)  # what is broken is raised here
        self.refused = refused
        if is_first:
            _log.warning(
                "ONNX Runtime captures no CUDA graph, and may run operators of %s on the CPU: %s",
                self._path,
                refused,
            )
        return session

    def _session_of(self, asked: Asked, *, on_gpu_alone: bool) -> Any:
        import onnxruntime

        onnxruntime.set_default_logger_severity(_ERRORS)  # it warns of plugins that nobody has asked for
        _load_cuda_libraries(onnxruntime)
        if asked.cache is not None:
            asked.cache.mkdir(parents=True, exist_ok=True)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = 1
        if on_gpu_alone:
            options.add_session_config_entry(_ON_GPU_ALONE, "1")
        who = f"ONNX Runtime {onnxruntime.__version__}"
        try:
            if (
                self._provider.registered in onnxruntime.get_available_providers()
                or not self._provider.plugin
            ):
                chain: Any = self._provider.chain(asked)
            else:
                _add_plugin(onnxruntime, options, self._provider, asked)
                chain = None
            session = onnxruntime.InferenceSession(
                str(self._path), options, providers=chain, enable_fallback=0
            )
        except BackendError:
            raise
        except Exception as error:  # the bindings raise a dozen unrelated classes
            why = missing_libraries(onnxruntime, self._provider) or first_line(error)
            raise BackendError(
                f"{who} cannot load {self._path} with {self._provider.registered}: {why}"
            ) from error
        if self._provider.registered not in session.get_providers():
            why = (
                missing_libraries(onnxruntime, self._provider)
                or "what it needs of CUDA does not load; its own lines say more"
            )
            raise BackendError(f"{who} does not start {self._provider.registered}: {why}")
        return session

    @contextlib.contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # as above
            raise self._gpu.refused(f"ONNX Runtime, running {self._path}: {first_line(error)}") from error


def _load_cuda_libraries(onnxruntime: Any) -> None:
    """Finds CUDA and cuDNN in NVIDIA's own packages, where pip has put them; it prints what it does not find."""
    if not hasattr(onnxruntime, "preload_dlls"):
        return
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        onnxruntime.preload_dlls()
    if printed.getvalue():
        _log.debug("%s", printed.getvalue().strip())


def _add_plugin(onnxruntime: Any, options: Any, provider: Provider, asked: Asked) -> None:
    """Gives a session's options a provider that a package of its own brings; see ONNX Runtime's "plugin EP"."""
    plugin = importlib.import_module(provider.plugin)
    if provider.registered not in {one.ep_name for one in onnxruntime.get_ep_devices()}:  # once a process
        onnxruntime.register_execution_provider_library(plugin.get_ep_name(), plugin.get_library_path())
    found = [one for one in onnxruntime.get_ep_devices() if one.ep_name == provider.registered]
    fitting = [one for one in found if int(one.ep_options.get("device_id", 0)) == asked.device]
    if not fitting:
        raise BackendError(
            f"{provider.registered} takes no GPU {asked.device}; it sees {len(found)}: give another device, "
            "or the provider cuda"
        )
    wanted = {key: value for key, value in provider.options(asked).items() if key != "device_id"}
    options.add_provider_for_devices(fitting[:1], wanted)
