"""What an artifact is: shapes, names, precision, versions, hashes.

The manifest lies beside the artifact as `NAME.onnx.json` and inside it as the metadata entry `trt_yolo`.
Graphs of Ultralytics' own have no manifest; `manifest_from_ultralytics` makes one from their metadata.
Knows neither ONNX nor TensorRT, only their names and numbers.
"""

from __future__ import annotations

import ast
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trt_yolo.artifacts.class_names import class_names
from trt_yolo.artifacts.head_shapes import head_of_shapes, known
from trt_yolo.artifacts.shapes import MAX_SIDE, BatchRange
from trt_yolo.errors import UnsupportedModelError

METADATA_KEY = "trt_yolo"
_SCHEMA = 1
DEFAULT_ROWS = 512  # candidates that NMS sees; what it costs and loses stands in tools/LOG.md
MAX_CLASSES = 100_000
DYNAMIC_BATCH = 16  # the largest batch of a dynamic graph that does not say

GraphKind = Literal["deploy", "head"]


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """What the export measured; points of difference are a hundred times `after - before`.

    Attributes:
        reference: What was held true: `labels`, or the float model's detections.
        images: Images held out for it.
        map50_95_before: mAP50-95 of the float model.
        map50_95_after: Of this artifact.
    """

    reference: str
    images: int
    map50_95_before: float
    map50_95_after: float


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What a TensorRT plan is, and where it runs.

    Attributes:
        builder: `tensorrt` or `tensorrt-rtx`.
        builder_version: Its version, such as 10.13.0.35.
        platform: System and processor, such as linux-x86_64; empty where nobody knows.
        cuda: The CUDA version of the driver that it was built with; empty where there was none.
        compute_capabilities: Of the GPUs that it was built for, such as 8.9; `8.0+` means that and every later one;
            none where nobody knows.
        device: The GPU that it was built on; empty where there was none.
        profile: Smallest, best and largest batch.
        options: What was asked of the builder, for building it again.
        onnx: Name of the ONNX file, in the same folder, that it was built from; empty where nobody knows.
        onnx_sha256: Hash of that file.
        plan_sha256: Hash of the plan.
        plan_bytes: Size of the plan.
    """

    builder: str
    builder_version: str
    platform: str
    cuda: str
    compute_capabilities: tuple[str, ...]
    device: str
    profile: tuple[int, int, int]
    options: dict[str, Any]
    onnx: str
    onnx_sha256: str
    plan_sha256: str
    plan_bytes: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What an artifact is.

    Attributes:
        graph: `deploy` (uint8 frames in, detections out) or `head` (float images in, raw head out).
        task: `detect`.
        names: Class names by class id.
        imgsz_hw: Height and width of what the network sees, in pixels; detections are in these.
        batch: Batch sizes that it takes.
        rows: Rows of `detections` an image; the most candidates that NMS sees. 0 in a head graph.
        anchors: Anchors of the head's output, all levels together.
        precision: `fp32`, `fp16` or `int8`.
        target: What int8 is laid out for, `tensorrt` or `cpu`; empty in other precisions.
        opset: ONNX operator set.
        source: Name of the file that it was made from.
        source_sha256: Hash of that file.
        exporter: `native`, `ultralytics` or `given` (the head graph was given).
        version: trt-yolo's version that made it.
        created: Date and time, ISO 8601, UTC.
        accuracy: What the precision costs, where it was measured.
        engine: Of a TensorRT engine, what it is.
        source_hw: Height and width of the frames that it takes, where the letterbox is in the graph; None: they come
            letterboxed.
    """

    graph: GraphKind
    names: dict[int, str]
    imgsz_hw: tuple[int, int]
    batch: BatchRange
    rows: int
    anchors: int
    task: str = "detect"
    precision: str = "fp32"
    target: str = ""
    opset: int = 0
    source: str = ""
    source_sha256: str = ""
    exporter: str = ""
    version: str = ""
    created: str = ""
    accuracy: Accuracy | None = None
    engine: EngineFacts | None = None
    source_hw: tuple[int, int] | None = None

    @property
    def frame_hw(self) -> tuple[int, int]:
        """Height and width of the frames that it takes, in pixels."""
        return self.source_hw or self.imgsz_hw

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps({"schema": _SCHEMA, **dataclasses.asdict(self)}, ensure_ascii=False)


def manifest_from_json(text: str, *, origin: str) -> Manifest:
    """The manifest of what `Manifest.to_json` wrote; `origin` is named in errors.

    Raises:
        UnsupportedModelError: No manifest, or one of a later schema.
    """
    try:
        fields = json.loads(text)
        schema = fields.pop("schema")
        if schema != _SCHEMA:
            raise UnsupportedModelError(
                f"{origin} has a manifest of schema {schema}, this trt-yolo reads {_SCHEMA}; "
                "export the model again, or install a newer trt-yolo"
            )
        fields["names"] = {int(key): str(name) for key, name in fields["names"].items()}
        height, width = fields["imgsz_hw"]
        fields["imgsz_hw"] = (int(height), int(width))
        if fields.get("source_hw") is not None:
            fields["source_hw"] = _source_size(fields["source_hw"])
        fields["batch"] = BatchRange(**fields["batch"])
        if fields.get("accuracy") is not None:
            fields["accuracy"] = Accuracy(**fields["accuracy"])
        if fields.get("engine") is not None:
            fields["engine"] = _engine_facts(fields["engine"])
        return Manifest(**fields)
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError) as error:
        raise UnsupportedModelError(
            f"{origin} has a damaged manifest ({error}); export the model again"
        ) from error


def _source_size(sides: Sequence[Any]) -> tuple[int, int]:
    height, width = (int(side) for side in sides)
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE):
        raise ValueError(f"frames of {height}x{width}")
    return height, width


def _engine_facts(fields: dict[str, Any]) -> EngineFacts:
    smallest, best, largest = (int(size) for size in fields["profile"])
    capabilities = tuple(str(one) for one in fields["compute_capabilities"])
    facts = EngineFacts(
        **{**fields, "profile": (smallest, best, largest), "compute_capabilities": capabilities}
    )
    texts = (facts.builder, facts.builder_version, facts.platform, facts.cuda, facts.device, facts.onnx)
    hashes = (facts.onnx_sha256, facts.plan_sha256)
    if not all(isinstance(one, str) for one in (*texts, *hashes)) or not isinstance(facts.options, dict):
        raise ValueError("an entry of another type than it should have")
    if not all(one.isprintable() for one in (*texts, *capabilities)):
        raise ValueError("an entry that cannot be printed")
    if not isinstance(facts.plan_bytes, int):
        raise ValueError("plan_bytes is no number")
    if facts.onnx in (".", "..") or any(mark in facts.onnx for mark in ("/", "\\", ":", "\0")):
        raise ValueError(f"its ONNX {facts.onnx!r} is no file of its own folder")
    return facts


def manifest_from_ultralytics(
    metadata: Mapping[str, str],
    *,
    input_shape: Sequence[int | str],
    output_shapes: Sequence[Sequence[int | str]],
    imgsz_hw: tuple[int, int] | None = None,
    origin: str,
) -> Manifest:
    """The manifest of a YOLOv8 head graph, from Ultralytics' metadata and the graph's shapes.

    Args:
        metadata: Ultralytics' entries `task`, `names`, `imgsz`, `batch`; all may be missing.
        input_shape: (N, 3, H, W), numbers, or names where dynamic.
        output_shapes: Of every output; a detection model has one, (N, 4 + classes, anchors).
        imgsz_hw: Height and width in pixels, where the input's are dynamic.
        origin: The file's name, for errors.

    Raises:
        UnsupportedModelError: It is no YOLOv8 detection head.
    """
    input_shape = [known(side) for side in input_shape]
    output_shapes = [[known(side) for side in shape] for shape in output_shapes]
    task = metadata.get("task", "detect")
    if task != "detect":
        raise UnsupportedModelError(
            f"{origin} is a model for the task '{task}'; this version of trt-yolo takes detection models"
        )
    given_names = _literal(metadata.get("names", ""))
    classes, anchors = head_of_shapes(
        input_shape,
        output_shapes,
        names=len(given_names) if isinstance(given_names, dict | list | tuple) else 0,
        origin=origin,
    )
    height, width = imgsz_hw or declared_size(input_shape, metadata, origin=origin)
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and classes <= MAX_CLASSES):
        raise UnsupportedModelError(
            f"{origin} is no YOLOv8 model: {height}x{width} pixels and {classes} classes; "
            f"at most {MAX_SIDE}x{MAX_SIDE} and {MAX_CLASSES} are possible"
        )
    batch = input_shape[0]
    return Manifest(
        graph="head",
        names=class_names(given_names, classes=classes, origin=origin),
        imgsz_hw=(height, width),
        batch=BatchRange(batch, batch)
        if isinstance(batch, int)
        else BatchRange(1, _declared_batch(metadata)),
        rows=0,
        anchors=anchors if isinstance(anchors, int) else 0,
    )


def declared_size(
    input_shape: Sequence[int | str], metadata: Mapping[str, str], *, origin: str
) -> tuple[int, int]:
    """Height and width in pixels that a graph's input or Ultralytics' metadata says.

    Raises:
        UnsupportedModelError: Neither does.
    """
    height, width = input_shape[2:]
    if isinstance(height, int) and isinstance(width, int):
        return height, width
    declared = _literal(metadata.get("imgsz", ""))
    sides = declared if isinstance(declared, list) and len(declared) == 2 else []
    if sides and all(type(side) is int and 0 < side <= MAX_SIDE for side in sides):
        return sides[0], sides[1]
    raise UnsupportedModelError(f"{origin} has no fixed image size; give one, such as --imgsz 640")


def _declared_batch(metadata: Mapping[str, str]) -> int:
    """The largest batch of a dynamic graph; Ultralytics writes 1 where nobody chose one."""
    declared = _literal(metadata.get("batch", ""))
    return declared if isinstance(declared, int) and declared > 1 else DYNAMIC_BATCH


def _literal(text: str) -> Any:
    """The value of a Python literal, as Ultralytics writes its metadata; None if it is none."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
