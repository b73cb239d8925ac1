"""`load`: from whatever names a model to something that can be called with images.

The front door over export and runtime: a checkpoint is exported into the cache first, an artifact is run
as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from trt_yolo.errors import InputError
from trt_yolo.runtime.inline import Model

if TYPE_CHECKING:
    from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend

BackendName = Literal["onnxruntime", "null"]


def load(
    model: str | Path | None = None, *, threads: int | None = None, backend: BackendName = "onnxruntime"
) -> Model:
    """A model, ready to be called with images.

    Args:
        model: An `.onnx` that trt-yolo or Ultralytics exported; a `.pt`, or a name such as `yolov8n`, which
            is exported into the cache once; or None for the demo model.
        threads: CPU threads of one inference; None takes every core that this process may use.
        backend: `onnxruntime`, or `null` (computes nothing).

    Raises:
        InputError: No such file, or a file of another kind.
        MissingDependencyError: The backend's package is not installed.
        BackendError: The backend cannot load the model.
    """
    if backend not in get_args(BackendName):
        raise InputError(f"no backend {backend!r}; give {' or '.join(get_args(BackendName))}")
    loaded = load_backend(model, threads=threads)
    if backend == "onnxruntime":
        return Model(loaded)
    from trt_yolo.backends.null import NullBackend

    with loaded:
        return Model(NullBackend(loaded.manifest))


def load_backend(model: str | Path | None = None, *, threads: int | None = None) -> OnnxRuntimeBackend:
    """The backend under `load`: letterboxed frames in, rows out. Arguments and errors are those of `load`."""
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}; give a number of CPU threads, at least 1")
    path = _artifact(model)
    from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(path, threads=threads)


def _artifact(model: str | Path | None) -> Path:
    """The path of an `.onnx`, exported into the cache if the model is a checkpoint."""
    suffix = Path(model).suffix.lower() if model is not None else ".pt"
    if model is not None and suffix == ".onnx":
        return Path(model)
    if suffix in (".engine", ".plan"):
        raise InputError(
            f"{model} is a TensorRT engine, which this version cannot run yet; give the .onnx it was built from"
        )
    from trt_yolo.export.exporting import export_to_cache
    from trt_yolo.export.weights import find_weights

    return export_to_cache(find_weights(None if model is None else str(model)))
