"""`load`: from whatever names a model to something that can be called with images.

The front door over export and runtime: a checkpoint is exported into the cache first, an artifact is run
as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from trt_yolo.backends.onnxruntime_providers import ProviderName, chosen_provider
from trt_yolo.errors import InputError
from trt_yolo.hardware.cores import share_cores, usable_cpus
from trt_yolo.hardware.gpus import devices as gpus_that_answer
from trt_yolo.hardware.spin import Spin, spins_on_cpu
from trt_yolo.media.decoders import DecoderName, check_decoder
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.options import PoolOptions
from trt_yolo.runtime.pool import Pool
from trt_yolo.runtime.worker import BackendSpec

if TYPE_CHECKING:
    from trt_yolo.artifacts.manifest import Manifest
    from trt_yolo.backends.base import Backend

BackendName = Literal["auto", "onnxruntime", "null"]

MOST_STREAMS = 16

_ONNXRUNTIME = "trt_yolo.backends.onnxruntime:OnnxRuntimeBackend"
_ONNXRUNTIME_GPU = "trt_yolo.backends.onnxruntime_gpu:OnnxRuntimeGpuBackend"
_TENSORRT = "trt_yolo.backends.tensorrt:TensorRTBackend"
_NULL = "trt_yolo.backends.null:null_from_manifest"

_log = logging.getLogger(__name__)


def load(
    model: str | Path | None = None,
    *,
    workers: int = 0,
    threads: int | None = None,
    decode_threads: int | None = None,
    decoder: DecoderName = "auto",
    slots: int = 4,
    max_batch: int | None = None,
    max_delay_ms: float = 0.0,
    timeout_s: float = 60.0,
    max_restarts: int = 60,
    backend: BackendName = "auto",
    provider: ProviderName = "auto",
    rebuild: bool = False,
    devices: Sequence[int] = (0,),
    streams: int | None = None,
    graphs: bool = True,
    spin: Spin = "auto",
) -> Model:
    """A model, ready to be called with images.

    Args:
        model: An `.engine` or an `.onnx` that trt-yolo or Ultralytics exported; a `.pt`, or a name such as
            `yolov8n`, which is exported into the cache once; or None for the demo model.
        workers: Worker processes; 0 runs the model in this process.
        threads: CPU threads of one inference; None divides the CPUs that this process may use, by affinity and
            quota, among the workers.
        decode_threads: Threads of this process that decode and letterbox; None chooses by the number of cores.
        decoder: What decodes image files: `cpu`, `gpu` (extra `nvcodec`), or `auto`: where both can be had, whichever
            is measured to be faster on the first files.
        slots: Batches that a worker can have: one runs, the others are filled or wait; at least 2.
        max_batch: The most frames a batch, for a model with a dynamic one; None: as many as it takes.
        max_delay_ms: How long a batch that is not full waits for more frames, in milliseconds. With 0 it leaves
            as soon as its worker has nothing else to do.
        timeout_s: A worker that answers nothing for so long while it has work is replaced, in seconds.
        max_restarts: More replacements than that within a minute close the model, with the last one's cause.
        backend: `auto`: TensorRT for an engine, ONNX Runtime for the rest; `onnxruntime`, or `null` (computes
            nothing).
        provider: What ONNX Runtime runs on: `cpu`, `cuda`, `tensorrt` or `nv-tensorrt-rtx`; `auto`: CUDA where a GPU
            answers and this ONNX Runtime has it, else the CPU, and the log says why.
        rebuild: An engine that does not load here is built anew from the ONNX that its manifest names.
        devices: The GPUs, as CUDA counts; each has so many `workers`.
        streams: Batches that are under way on a GPU at once, in each worker; None: 2.
        graphs: Whether a GPU's batches are captured as CUDA graphs.
        spin: Wait without sleeping. For a GPU: lowest latency, and a core busy for each worker; `auto` sleeps. For
            the threads of an inference on the CPU: faster on an idle machine, slower on a busy one; `auto` spins
            where each thread has an idle CPU when the model is loaded, and the log says what it found.

    Raises:
        InputError: No such file, a file of another kind, or a number outside its range.
        EngineError: An engine that does not load here; the line says why, and how to build it again.
        MissingDependencyError: The backend's package is not installed.
        BackendError: The backend cannot load the model.
        WorkerError: A worker process cannot start: no memory, no file descriptors.
    """
    if backend not in get_args(BackendName):
        raise InputError(f"no backend {backend!r}; give auto, onnxruntime or null")
    check_counts(workers=workers, threads=threads, decode_threads=decode_threads)
    check_counts(slots=slots, max_batch=max_batch)
    check_decoder(decoder)
    _check_times(max_delay_ms=max_delay_ms, timeout_s=timeout_s, max_restarts=max_restarts)
    gpu = GpuOptions(devices=tuple(devices), streams=streams, graphs=graphs, spin=spin, provider=provider)
    gpu.check(model, workers=workers, slots=slots)
    options = PoolOptions(
        workers=workers * len(gpu.devices),
        threads=threads,
        decode_threads=decode_threads,
        decoder=decoder,
        slots=slots,
        max_batch=max_batch,
        max_delay_ms=max_delay_ms,
        timeout_s=timeout_s,
        max_restarts=max_restarts,
    )
    spec = backend_spec(model, backend, gpu, rebuild=rebuild, workers=workers, threads=threads)
    return Model(Pool(spec, options))


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """How a model runs on GPUs, and how it waits; see `load`."""

    devices: tuple[int, ...] = (0,)
    streams: int | None = None
    graphs: bool = True
    spin: Spin = "auto"
    provider: ProviderName = "auto"

    def check(self, model: str | Path | None, *, workers: int, slots: int) -> None:
        """Whether that makes sense, and with this model.

        Raises:
            InputError: It does not.
            MissingDependencyError: The provider cannot be used here.
        """
        if not isinstance(self.spin, bool) and self.spin != "auto":
            raise InputError(f"spin is {self.spin!r}; give True, False or 'auto'")
        on_gpu = model is not None and is_engine(model)
        if on_gpu and self.provider != "auto":
            raise InputError(
                f"provider {self.provider} is for an .onnx, and {model} is an engine; leave it out"
            )
        if not on_gpu:
            name, reason = chosen_provider(self.provider)
            if name == "cpu" and replace(self, provider="auto", spin="auto") != GpuOptions():
                why = reason or "the provider cpu was asked for"
                raise InputError(
                    f"devices, streams and graphs are for a GPU, and {model or 'the demo'} would run on the "
                    f"CPU: {why}"
                )
        if not self.devices or not all(isinstance(one, int) and 0 <= one < 64 for one in self.devices):
            raise InputError(f"devices is {list(self.devices)}; give numbers of GPUs from 0, such as [0, 1]")
        if len(self.devices) > 1 and workers == 0:
            raise InputError(
                f"{len(self.devices)} devices need worker processes: give workers, how many for each device"
            )
        if self.streams is not None and not 1 <= self.streams <= MOST_STREAMS:
            raise InputError(
                f"streams is {self.streams}; give batches under way at once, 1 to {MOST_STREAMS}"
            )
        if self.streams is not None and self.streams >= slots:
            raise InputError(
                f"streams is {self.streams} and slots {slots}; give at least {self.streams + 1} slots"
            )

    def of_backend(self) -> dict[str, Any]:
        """Keyword arguments of the backend."""
        given = {} if self.streams is None else {"streams": self.streams}
        return given | {"graphs": self.graphs, "spin": self.spin is True}


def backend_spec(
    model: str | Path | None,
    backend: BackendName = "auto",
    gpu: GpuOptions | None = None,
    *,
    rebuild: bool = False,
    workers: int = 0,
    threads: int | None = None,
) -> BackendSpec:
    """How a worker makes the backend; what can be refused is refused now, before one starts.

    Arguments and errors are those of `load`.
    """
    gpu = gpu or GpuOptions()
    if backend == "null":
        return BackendSpec(factory=_NULL, options={"manifest": _manifest(model).to_json()})
    if model is not None and is_engine(model):
        if backend == "onnxruntime":
            raise InputError(f"{model} is a TensorRT engine, which ONNX Runtime does not run; give the .onnx")
        engine = str(loadable_engine(model, rebuild=rebuild))
        return BackendSpec(
            factory=_TENSORRT, options={"engine": engine, **gpu.of_backend()}, devices=gpu.devices
        )
    return _spec_of_onnx(_artifact(model), gpu, max(1, workers), threads)


def _spec_of_onnx(path: Path, gpu: GpuOptions, workers: int, threads: int | None) -> BackendSpec:
    name, reason = chosen_provider(gpu.provider)
    if name != "cpu" and gpu.provider == "auto" and _onnx_manifest(path).target == "cpu":
        name, reason = "cpu", "its INT8 is laid out for one"
    if name == "cpu":
        if reason:
            level = logging.WARNING if gpus_that_answer() else logging.INFO
            _log.log(level, "%s runs on the CPU: %s", path, reason)
        options = {"model": str(path), "spin": chosen_spin(gpu.spin, workers=workers, threads=threads)}
        return BackendSpec(factory=_ONNXRUNTIME, options=options, takes_threads=True)
    from trt_yolo.artifacts.weights import cache_folder

    options = {"model": str(path), "provider": name, "cache": str(cache_folder() / "onnxruntime")}
    return BackendSpec(factory=_ONNXRUNTIME_GPU, options=options | gpu.of_backend(), devices=gpu.devices)


def chosen_spin(spin: Spin, *, workers: int, threads: int | None) -> bool:
    """Whether threads of inferences on the CPU spin; the log says what `auto` has decided.

    Args:
        spin: What was asked for.
        workers: Inferences at once.
        threads: CPU threads of one; None divides the CPUs among them.
    """
    cpus = usable_cpus()
    most = max(count for _, count in share_cores(cpus, workers, threads))
    spins, reason = spins_on_cpu(spin, cpus, threads=most, workers=workers)
    if reason:
        _log.info("waiting threads %s: %s", "spin" if spins else "sleep", reason)
    return spins


def is_engine(model: str | Path) -> bool:
    """Whether that names a TensorRT engine."""
    return Path(model).suffix.lower() in (".engine", ".plan")


def loadable_engine(model: str | Path, *, rebuild: bool) -> Path:
    """The engine's path; built anew first, if it does not load here and that is allowed.

    Raises:
        EngineError: It does not load here.
    """
    from trt_yolo.build.rebuild import loading_engine

    return loading_engine(Path(model), rebuild=rebuild).plan.path


def _manifest(model: str | Path | None) -> Manifest:
    if model is not None and is_engine(model):
        from trt_yolo.engine.compatibility import engine_at

        manifest = engine_at(Path(model)).manifest
        if manifest is None:
            raise InputError(
                f"{model} has no manifest, so that only TensorRT knows its sizes; give the .onnx"
            )
        return manifest
    return _onnx_manifest(_artifact(model))


def _onnx_manifest(path: Path) -> Manifest:
    from trt_yolo.backends.onnxruntime import open_session, session_manifest

    return session_manifest(open_session(path, threads=1, optimize=False), str(path))


def load_backend(
    model: str | Path | None = None,
    *,
    threads: int | None = None,
    provider: ProviderName = "auto",
    spin: Spin = "auto",
) -> Backend:
    """What is under `load`: letterboxed frames in, rows out. Arguments and errors are those of `load`."""
    check_counts(threads=threads)
    gpu = GpuOptions(provider=provider, spin=spin)
    gpu.check(model, workers=0, slots=MOST_STREAMS)
    return backend_spec(model, gpu=gpu, threads=threads).of_worker(0).build(threads or usable_cpus().count)


def threads_of_worker(workers: int, threads: int | None) -> int:
    """CPU threads of one inference that a model loaded like that will have."""
    check_counts(workers=workers, threads=threads)
    return share_cores(usable_cpus(), max(1, workers), threads)[0][1]


_LEAST = {"workers": 0, "threads": 1, "decode_threads": 1, "slots": 2, "max_batch": 1}
_MOST = {"workers": 256, "threads": 1024, "decode_threads": 256, "slots": 64, "max_batch": 4096}
_MEANS = {
    "workers": "a number of worker processes",
    "threads": "a number of CPU threads",
    "decode_threads": "a number of threads that decode",
    "slots": "a number of slots",
    "max_batch": "a number of frames",
}


def check_counts(**given: int | None) -> None:
    """Raises InputError for a number of workers, threads, decode_threads, slots or max_batch that cannot be."""
    for name, value in given.items():
        least, most = _LEAST[name], _MOST[name]
        if value is not None and not (isinstance(value, int) and least <= value <= most):
            raise InputError(f"{name} is {value}; give {_MEANS[name]}, at least {least} and at most {most}")


def _check_times(*, max_delay_ms: float, timeout_s: float, max_restarts: int) -> None:
    if not 0 <= max_delay_ms <= 60_000:
        raise InputError(f"max_delay_ms is {max_delay_ms}; give milliseconds from 0 to 60000")
    if not 0 < timeout_s <= 86_400:
        raise InputError(f"timeout_s is {timeout_s}; give seconds, more than 0 and at most 86400")
    if max_restarts < 0:
        raise InputError(f"max_restarts is {max_restarts}; give how many a minute are allowed, at least 0")


def _artifact(model: str | Path | None) -> Path:
    """The path of an `.onnx`, exported into the cache if the model is a checkpoint."""
    suffix = Path(model).suffix.lower() if model is not None else ".pt"
    if model is not None and suffix == ".onnx":
        return Path(model)
    from trt_yolo.artifacts.weights import find_weights
    from trt_yolo.export.onnx_from_model import export_to_cache

    return export_to_cache(find_weights(None if model is None else str(model)))
