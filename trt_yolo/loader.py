"""`load`: from whatever names a model to something that can be called with images.

The front door over export and runtime: a checkpoint is exported into the cache first, an artifact is run
as it is.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from trt_yolo.backends.onnxruntime_providers import ProviderName, chosen_provider
from trt_yolo.errors import InputError
from trt_yolo.hardware.cores import Spin, spins_on_cpu, usable_cpus
from trt_yolo.hardware.gpus import devices as gpus_that_answer
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.options import RuntimeOptions
from trt_yolo.runtime.pool import Pool
from trt_yolo.runtime.worker import BackendSpec

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from trt_yolo.artifacts.manifest import Manifest
    from trt_yolo.backends.base import Backend
    from trt_yolo.runtime.options import RuntimeKeywords

_BackendName = Literal["auto", "onnxruntime", "null"]

_ONNXRUNTIME = "trt_yolo.backends.onnxruntime:OnnxRuntimeBackend"
_ONNXRUNTIME_GPU = "trt_yolo.backends.onnxruntime_gpu:OnnxRuntimeGpuBackend"
_TENSORRT = "trt_yolo.backends.tensorrt:TensorRTBackend"
_NULL = "trt_yolo.backends.null:null_from_manifest"

_log = logging.getLogger(__name__)


def load(
    model: str | Path | None = None,
    *,
    backend: _BackendName = "auto",
    rebuild: bool = False,
    **options: Unpack[RuntimeKeywords],
) -> Model:
    """A model, ready to be called with images.

    Args:
        model: An `.engine` or an `.onnx` that trt-yolo or Ultralytics exported; a `.pt`, or a name such as
            `yolov8n`, which is exported into the cache once; or None for the demo model.
        backend: `auto`: TensorRT for an engine, ONNX Runtime for the rest; `onnxruntime`, or `null` (computes
            nothing).
        rebuild: An engine that does not load here is built anew from the ONNX that its manifest names.
        options: Any of `workers`, `threads`, `devices` and the others that `trt_yolo.runtime.options.RuntimeOptions`
            explains.

    Raises:
        InputError: No such file, a file of another kind, or an option outside its range.
        EngineError: An engine that does not load here; the line says why, and how to build it again.
        MissingDependencyError: The backend's package is not installed.
        BackendError: The backend cannot load the model.
        WorkerError: A worker process cannot start: no memory, no file descriptors.
    """
    checked = RuntimeOptions(**options)
    return Model(Pool(backend_spec(model, checked, backend=backend, rebuild=rebuild), checked))


def backend_spec(
    model: str | Path | None,
    options: RuntimeOptions,
    *,
    backend: _BackendName = "auto",
    rebuild: bool = False,
) -> BackendSpec:
    """How a worker makes the backend; what can be refused is refused now, before one starts.

    Arguments and errors are those of `load`.
    """
    if backend not in get_args(_BackendName):
        raise InputError(f"no backend {backend!r}; give auto, onnxruntime or null")
    _check_fit(model, options)
    if backend == "null":
        return BackendSpec(factory=_NULL, options={"manifest": _manifest(model).to_json()})
    if model is not None and is_engine(model):
        if backend == "onnxruntime":
            raise InputError(f"{model} is a TensorRT engine, which ONNX Runtime does not run; give the .onnx")
        engine = str(loadable_engine(model, rebuild=rebuild))
        return _spec_on_gpus(_TENSORRT, options, engine=engine)
    return _spec_of_onnx(_artifact(model), options)


def _check_fit(model: str | Path | None, options: RuntimeOptions) -> None:
    """Refuses options that this model has no use for, and devices that nobody would use."""
    if model is not None and is_engine(model):
        if options.provider != "auto":
            raise InputError(
                f"provider {options.provider} is for an .onnx, and {model} is an engine; leave it out"
            )
    else:
        name, reason = chosen_provider(options.provider)
        if name == "cpu" and _asks_for_gpu(options):
            raise InputError(
                f"devices, streams and graphs are for a GPU, and {model or 'the demo'} would run on the "
                f"CPU: {reason or 'the provider cpu was asked for'}"
            )
    if len(options.devices) > 1 and options.workers == 0:
        raise InputError(
            f"{len(options.devices)} devices need worker processes: give workers, how many for each device"
        )


def _asks_for_gpu(options: RuntimeOptions) -> bool:
    default = RuntimeOptions
    return (options.devices, options.streams, options.graphs) != (
        default.devices, default.streams, default.graphs,
    )  # fmt: skip


def _spec_of_onnx(path: Path, options: RuntimeOptions) -> BackendSpec:
    name, reason = chosen_provider(options.provider)
    if name != "cpu" and options.provider == "auto" and _onnx_manifest(path).target == "cpu":
        name, reason = "cpu", "its INT8 is laid out for one"
    if name == "cpu":
        if reason:
            level = logging.WARNING if gpus_that_answer() else logging.INFO
            _log.log(level, "%s runs on the CPU: %s", path, reason)
        given = {"model": str(path), "spin": chosen_spin(options)}
        return BackendSpec(factory=_ONNXRUNTIME, options=given, takes_threads=True)
    from trt_yolo.artifacts.weights import cache_folder

    cache = str(cache_folder() / "onnxruntime")
    return _spec_on_gpus(_ONNXRUNTIME_GPU, options, model=str(path), provider=name, cache=cache)


def _spec_on_gpus(factory: str, options: RuntimeOptions, **given: Any) -> BackendSpec:
    if options.streams is not None:
        given["streams"] = options.streams
    given |= {"graphs": options.graphs, "spin": options.spin is True}
    return BackendSpec(factory=factory, options=given, devices=tuple(options.devices))


def chosen_spin(options: RuntimeOptions) -> bool:
    """Whether threads of inferences on the CPU spin; the log says what `auto` has decided."""
    shares = options.shares()
    threads = max(count for _, count in shares)
    spins, reason = spins_on_cpu(options.spin, usable_cpus(), threads=threads, workers=len(shares))
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
    options = RuntimeOptions(threads=threads, provider=provider, spin=spin)
    return backend_spec(model, options).of_worker(0).build(options.shares()[0][1])


def _artifact(model: str | Path | None) -> Path:
    """The path of an `.onnx`, exported into the cache if the model is a checkpoint."""
    suffix = Path(model).suffix.lower() if model is not None else ".pt"
    if model is not None and suffix == ".onnx":
        return Path(model)
    from trt_yolo.artifacts.weights import find_weights
    from trt_yolo.export.onnx_from_model import export_to_cache

    return export_to_cache(find_weights(None if model is None else str(model)))
