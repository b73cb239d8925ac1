"""A model as far as its head: letterboxed frames in, raw boxes and scores out, whatever the file is.

Enters: a `.pt`, a head graph or a deploy graph, as a path or an ONNX file's bytes. A deploy graph ends where
its NMS would begin, since `yolo val` wants more rows than NMS in the graph sees.
Knows no images, no labels and no thresholds.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError

from trt_yolo.artifacts.manifest import METADATA_KEY, Manifest, manifest_from_json
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.errors import BackendError, InputError, UnsupportedModelError
from trt_yolo.graph.head_from_checkpoint import checkpoint_from_file, head_from_checkpoint
from trt_yolo.graph.writer import FLOAT, dimensions, value_info

if TYPE_CHECKING:
    from typing_extensions import Self

_NMS_PREFIX = "deploy.nms."  # names that deploy_from_head gives


class HeadRunner:
    """A model that is run as far as its head, by ONNX Runtime on the CPU.

    Attributes:
        manifest: What the model is.

    Args:
        model: Path of a `.pt` or an `.onnx`, or an ONNX file's bytes.
        imgsz_hw: Height and width of the input, in pixels; None takes the model's own. Only a `.pt` takes others.
        threads: CPU threads of one inference; None takes one for each CPU that this process may use.
        spin: Whether its threads wait without sleeping; None: see `cores.spins_here`.

    Raises:
        InputError: No such file, or a size that the model does not have.
        CheckpointError: A `.pt` that is damaged or no YOLO checkpoint.
        BackendError: No ONNX model, or one that ONNX Runtime cannot load.
        UnsupportedModelError: A sound model, but no YOLOv8 detection model.
        MissingDependencyError: onnxruntime is not installed.
    """

    def __init__(
        self,
        model: str | Path | bytes,
        *,
        imgsz_hw: tuple[int, int] | None = None,
        threads: int | None = None,
        spin: bool | None = None,
    ) -> None:
        model = Path(model) if isinstance(model, str) else model
        self._origin = "the model" if isinstance(model, bytes) else str(model)
        graph = _graph(model, imgsz_hw, self._origin)
        self._backend = OnnxRuntimeBackend(graph, threads=threads, spin=spin)
        self.manifest = _manifest(self._backend)
        if imgsz_hw not in (None, self.manifest.imgsz_hw):
            raise InputError(
                f"{self._origin} is fixed at {_size(self.manifest.imgsz_hw)} pixels, asked for "
                f"{_size(imgsz_hw)}; leave --imgsz out, or give the .pt"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives back what the session holds; calling twice is fine."""
        self._backend.close()

    def head(self, frames_bgr: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(N, 4 + classes, anchors) float32: cx cy w h in letterboxed pixels, then a score for each class.

        Args:
            frames_bgr: (N, H, W, 3) uint8, letterboxed; any N from 1, in as many batches as the model needs.

        Raises:
            InputError: Another shape or type.
            BackendError: ONNX Runtime failed.
        """
        expected = (*self.manifest.imgsz_hw, 3)
        if frames_bgr.dtype != np.uint8 or frames_bgr.shape[1:] != expected or not len(frames_bgr):
            raise InputError(
                f"frames are {frames_bgr.dtype} {frames_bgr.shape}; "
                f"needed: uint8 (N, {expected[0]}, {expected[1]}, 3), letterboxed, BGR, N from 1"
            )
        size = self.manifest.batch.maximum
        batches = [frames_bgr[start : start + size] for start in range(0, len(frames_bgr), size)]
        return np.concatenate([self._head_of_batch(batch) for batch in batches])

    def _head_of_batch(self, frames_bgr: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        count, smallest = len(frames_bgr), self.manifest.batch.minimum
        if count < smallest:
            filling = np.zeros((smallest - count, *frames_bgr.shape[1:]), np.uint8)
            frames_bgr = np.concatenate([frames_bgr, filling])
        is_head = self.manifest.graph == "head"
        feed = self._backend.feed(frames_bgr, 0.0, 0.0) if is_head else {"frames": frames_bgr}
        try:
            output = self._backend.session.run(None, feed)[0]
        except Exception as error:  # the bindings raise a dozen unrelated classes
            raise BackendError(
                f"ONNX Runtime failed while running {self._origin}: {str(error)[:200]}; export it again"
            ) from error
        return np.asarray(output[:count], np.float32)


def _size(imgsz_hw: tuple[int, int] | None) -> str:
    return "x".join(str(side) for side in imgsz_hw or ())


def _manifest(backend: OnnxRuntimeBackend) -> Manifest:
    """The backend's; a half-precision head graph of Ultralytics' does not say that it is one."""
    manifest = backend.manifest
    if manifest.precision == "fp32" and backend.session.get_inputs()[0].type == "tensor(float16)":
        return dataclasses.replace(manifest, precision="fp16")
    return manifest


def _graph(model: Path | bytes, imgsz_hw: tuple[int, int] | None, origin: str) -> Path | bytes:
    """An ONNX model whose output is the head; one that cannot be read is left for ONNX Runtime to refuse."""
    if isinstance(model, Path) and model.suffix.lower() == ".pt":
        checkpoint = checkpoint_from_file(model)
        own = (checkpoint.imgsz, checkpoint.imgsz)
        head = head_from_checkpoint(checkpoint, imgsz_hw=imgsz_hw or own, batch=BatchRange(1, 1))
        return bytes(head.SerializeToString())
    if isinstance(model, Path) and not os.path.isfile(model):  # unlike Path.is_file, never raises
        return model
    try:
        graph = onnx.load_model_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
        metadata = {entry.key: entry.value for entry in graph.metadata_props}
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError):
        return model
    if METADATA_KEY not in metadata or not isinstance(metadata[METADATA_KEY], str):
        return model
    manifest = manifest_from_json(metadata[METADATA_KEY], origin=origin)
    if manifest.graph == "head":
        return model
    if manifest.source_hw is not None:
        raise UnsupportedModelError(
            f"{origin} takes frames of {_size(manifest.source_hw)} alone, and images are of many sizes; "
            "give the model that was exported without --letterbox gpu: it finds the same"
        )
    return bytes(_cut_before_nms(graph, manifest, origin).SerializeToString())


def _cut_before_nms(model: onnx.ModelProto, manifest: Manifest, origin: str) -> onnx.ModelProto:
    """The deploy graph, changed: its only input `frames`, its only output the head, float32."""
    graph = model.graph
    splits = (node for node in graph.node if node.op_type == "Split" and node.name.startswith(_NMS_PREFIX))
    first = next(splits, None)
    if first is None or not any(value.name == "frames" for value in graph.input):
        raise UnsupportedModelError(
            f"{origin} is no deploy graph as this trt-yolo writes it: no node {_NMS_PREFIX}*; export the model again"
        )
    head = first.input[0]
    needed, nodes = {head}, []
    for node in reversed(graph.node):  # they stand in the order in which they are computed
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    frames = next(value for value in graph.input if value.name == "frames")
    stored = [tensor for tensor in graph.initializer if tensor.name in needed]
    shape = [dimensions(frames)[0], 4 + len(manifest.names), manifest.anchors]
    model.graph.CopyFrom(
        onnx.helper.make_graph(nodes[::-1], graph.name, [frames], [value_info(head, FLOAT, shape)], stored)
    )
    return model
