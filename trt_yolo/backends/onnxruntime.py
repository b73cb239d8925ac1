"""ONNX Runtime on the CPU: deploy graphs, and head graphs with the host's decode and NMS.

Enters: an `.onnx` file or its bytes. Knows no sources and no processes.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trt_yolo.artifacts.file_kinds import kind_of
from trt_yolo.artifacts.files import check_utf8
from trt_yolo.artifacts.manifest import METADATA_KEY, Manifest, manifest_from_json, manifest_from_ultralytics
from trt_yolo.backends.base import Backend, Frames, Output, Rows, images_for_head, output_from_head
from trt_yolo.errors import (
    BackendError,
    InputError,
    MissingDependencyError,
    UnsupportedModelError,
    first_line,
)
from trt_yolo.hardware.cores import spins_here, usable_cpus
from trt_yolo.system.interruption import uninterrupted
from trt_yolo.system.paths import absence

_FATAL_ONLY = 4  # errors are raised, and said once by us


class OnnxRuntimeBackend(Backend):
    """A model in ONNX Runtime on the CPU.

    Attributes:
        session: The `onnxruntime.InferenceSession`.
        threads: CPU threads of one inference.

    Args:
        model: Path of an `.onnx` file, or the file's bytes.
        threads: CPU threads of one inference; None takes one for each CPU that this process may use.
        spin: Whether threads that wait for their part of an inference look for it without sleeping; None: see
            `cores.spins_here`.

    Raises:
        InputError: No such file.
        BackendError: No ONNX model, or one that ONNX Runtime cannot load.
        UnsupportedModelError: An ONNX model, but no YOLOv8 detection model.
        MissingDependencyError: onnxruntime is not installed.
    """

    def __init__(
        self, model: str | Path | bytes, *, threads: int | None = None, spin: bool | None = None
    ) -> None:
        self.threads = threads or usable_cpus().count
        spin = spins_here(self.threads) if spin is None else spin
        model = Path(model) if isinstance(model, str) else model
        session = open_session(model, threads=self.threads, spin=spin)
        origin = str(model) if isinstance(model, Path) else "the model"
        super().__init__(session_manifest(session, origin))
        self.session = session
        self._origin, self._spin = origin, spin
        self._inputs = [node.name for node in session.get_inputs()]
        self._thresholds = np.zeros((2, 1), np.float32)  # conf, iou: read where they lie by every binding
        self._unconverged = np.zeros((self.manifest.batch.maximum, 1), np.float32)
        self._bindings: dict[tuple[int, int, int], Any] = {}
        self._image_dtype = np.float16 if "16" in session.get_inputs()[0].type else np.float32

    @property
    def about(self) -> dict[str, str]:
        """See `Backend`."""
        return {"threads": str(self.threads), "spin": "on" if self._spin else "off"}

    def feed(self, frames_bgr: Frames, conf: float, iou: float) -> dict[str, npt.NDArray[Any]]:
        """The session's inputs for a batch: for a head graph, the pre-processing is done here."""
        if self.manifest.graph == "head":
            return {self._inputs[0]: images_for_head(frames_bgr).astype(self._image_dtype, copy=False)}
        values = (frames_bgr, np.array([conf], np.float32), np.array([iou], np.float32))
        return dict(zip(self._inputs, values, strict=True))

    def bare_call(self, frames_bgr: Frames, *, conf: float, iou: float) -> Callable[[], object]:
        """See `Backend`: the session's `run`."""
        return functools.partial(self.session.run, None, self.feed(frames_bgr, conf, iou))

    def timed_parts(self, frames_bgr: Frames, *, conf: float, iou: float) -> tuple[float, float, float]:
        """See `Backend`; around a head graph the host makes float images, decodes, and runs NMS."""
        if self.manifest.graph != "head":
            return super().timed_parts(frames_bgr, conf=conf, iou=iou)
        moments_s = [time.perf_counter()]
        feed = self.feed(frames_bgr, conf, iou)
        moments_s.append(time.perf_counter())
        outputs = self.session.run(None, feed)
        moments_s.append(time.perf_counter())
        output_from_head(outputs[0].astype(np.float32, copy=False), conf=conf, iou=iou)
        moments_s.append(time.perf_counter())
        copy_in, engine, copy_out = (np.diff(moments_s) * 1e3).tolist()
        return copy_in, engine, copy_out

    def _run(self, frames_bgr: Frames, conf: float, iou: float) -> Output:
        feed = self.feed(frames_bgr, conf, iou)
        with self._errors_in_words():
            outputs = self.session.run(None, feed)
        if self.manifest.graph == "head":
            return output_from_head(outputs[0].astype(np.float32, copy=False), conf=conf, iou=iou)
        return Output(*outputs)

    def _run_into(self, frames_bgr: Frames, rows: Rows, conf: float, iou: float) -> npt.NDArray[np.float32]:
        """ONNX Runtime reads the frames where they lie and writes the rows where they belong."""
        if self.manifest.graph == "head":
            return super()._run_into(frames_bgr, rows, conf, iou)
        key = (frames_bgr.ctypes.data, rows.ctypes.data, len(frames_bgr))
        binding = self._bindings.get(key)
        if binding is None:
            binding = self._bindings[key] = self._bound(frames_bgr, rows)
        self._thresholds[:, 0] = conf, iou
        with self._errors_in_words():
            self.session.run_with_iobinding(binding)
        return self._unconverged[: len(frames_bgr)]

    def _bound(self, frames_bgr: Frames, rows: Rows) -> Any:
        binding = self.session.io_binding()
        for name, array in zip(self._inputs, (frames_bgr, *self._thresholds), strict=True):
            binding.bind_input(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        outputs = (rows, self._unconverged[: len(frames_bgr)])
        for node, array in zip(self.session.get_outputs(), outputs, strict=True):
            binding.bind_output(node.name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        return binding

    @contextlib.contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # the bindings raise a dozen unrelated classes
            raise BackendError(
                f"ONNX Runtime failed while running {self._origin}: {first_line(error)}; export it again"
            ) from error


def open_session(
    model: Path | bytes, *, threads: int, spin: bool | None = None, optimize: bool = True
) -> Any:
    """An `onnxruntime.InferenceSession` of any ONNX model, on the CPU.

    Args:
        model: Path of an `.onnx` file, or the file's bytes.
        threads: CPU threads of one inference.
        spin: Whether its threads wait without sleeping; None: see `cores.spins_here`.
        optimize: Whether it is made ready to run, not only to be asked what it is.

    Raises:
        InputError: No such file.
        BackendError: No ONNX model, or one that ONNX Runtime cannot load.
        MissingDependencyError: onnxruntime is not installed.
    """
    try:
        with uninterrupted():  # Ctrl-C in the middle of it would look like a broken installation
            import onnxruntime
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "running a model needs ONNX Runtime: pip install 'trt-yolo[cpu]' "
            "(or 'trt-yolo[gpu]' on a machine with an NVIDIA GPU)"
        ) from error
    except Exception as error:  # a broken installation may raise anything
        raise MissingDependencyError(
            f"ONNX Runtime is installed but cannot be imported ({type(error).__name__}: {error}); "
            "pip uninstall onnxruntime onnxruntime-gpu, then pip install 'trt-yolo[cpu]' again"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    options.intra_op_num_threads = threads
    spin = spins_here(threads) if spin is None else spin
    for pool in ("intra_op", "inter_op"):
        options.add_session_config_entry(f"session.{pool}.allow_spinning", str(int(spin)))
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = str(existing(model)) if isinstance(model, Path) else model
    try:
        return onnxruntime.InferenceSession(
            content, options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
    except Exception as error:
        name = str(model) if isinstance(model, Path) else "the model"
        if isinstance(model, Path) and (kind := kind_of(model)):
            raise BackendError(f"ONNX Runtime cannot load {name}, which is {kind}") from error
        raise BackendError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {name}: {first_line(error)}; "
            "export it again, or give the .onnx that trt-yolo or Ultralytics wrote"
        ) from error


def existing(path: Path) -> Path:
    """The path of an `.onnx` that is there.

    Raises:
        InputError: It is not, or is a folder, or empty, or cannot be read, or its name is not UTF-8.
    """
    if not os.path.exists(path):  # unlike Path.exists, never raises
        raise InputError(f"{absence(path)}; give the path of an .onnx model")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of an .onnx model")
    if not os.access(path, os.R_OK):
        raise InputError(f"cannot read {path}: Permission denied")
    check_utf8(path)
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; export the model again")
    return path


def session_manifest(session: Any, origin: str) -> Manifest:
    """What a session's model is; `origin` is named in errors.

    Raises:
        UnsupportedModelError: No YOLOv8 detection model.
    """
    try:
        metadata = session.get_modelmeta().custom_metadata_map
    except UnicodeDecodeError as error:
        raise UnsupportedModelError(
            f"{origin} has metadata that is not text; export the model again"
        ) from error
    if METADATA_KEY in metadata:
        return manifest_from_json(metadata[METADATA_KEY], origin=origin)
    inputs = session.get_inputs()
    if len(inputs) != 1 or inputs[0].type not in ("tensor(float)", "tensor(float16)"):
        given = ", ".join(f"{node.name} {node.type}" for node in inputs) or "none"
        raise UnsupportedModelError(
            f"{origin} is no YOLOv8 model: its inputs are {given}; "
            "needed: one floating-point input (N, 3, H, W), or a graph that trt-yolo exported"
        )
    if 0 in inputs[0].shape:
        raise UnsupportedModelError(
            f"{origin} has an input of {tuple(inputs[0].shape)}, which ONNX Runtime cannot run; "
            "trt-yolo export makes a graph that runs"
        )
    return manifest_from_ultralytics(
        metadata,
        input_shape=inputs[0].shape,
        output_shapes=[output.shape for output in session.get_outputs()],
        origin=origin,
    )
