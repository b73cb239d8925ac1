"""A head graph that somebody exported, made fit to build on: fixed height and width, the batch asked for.

Enters: the path of an `.onnx`. Leaves: the head graph and its manifest. Knows no checkpoints.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
import onnx.version_converter
from google.protobuf.message import DecodeError

from trt_yolo.errors import InputError, UnsupportedModelError
from trt_yolo.export.graph import FLOAT, FLOAT16, dimensions, opset_of
from trt_yolo.manifest import (
    KNOWN_STRIDES,
    METADATA_KEY,
    Manifest,
    manifest_from_json,
    manifest_from_ultralytics,
)
from trt_yolo.shapes import BatchRange, anchor_count


def head_from_onnx(
    path: Path, *, imgsz_hw: tuple[int, int] | None, batch: BatchRange | None
) -> tuple[onnx.ModelProto, Manifest]:
    """The head graph in a file, and its manifest.

    Args:
        path: A head graph as Ultralytics or trt-yolo wrote it.
        imgsz_hw: Height and width in pixels; None keeps the graph's own, or what its metadata declares.
        batch: None keeps the graph's own.

    Raises:
        InputError: No such file, no ONNX model, or sizes that the graph is not fixed at.
        UnsupportedModelError: An ONNX model, but no YOLOv8 detection head.
    """
    model, metadata = _read(path)
    if (
        METADATA_KEY in metadata
        and manifest_from_json(metadata[METADATA_KEY], origin=str(path)).graph == "deploy"
    ):
        raise InputError(
            f"{path} is a deploy graph already; give the .pt it was made from, or a head graph (--head)"
        )
    inputs = _true_inputs(model.graph)
    if len(inputs) != 1 or inputs[0].type.tensor_type.elem_type not in (FLOAT, FLOAT16):
        raise UnsupportedModelError(
            f"{path} is no YOLOv8 model: it has {len(inputs)} inputs; needed: one, of floating point (N, 3, H, W)"
        )
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    manifest = manifest_from_ultralytics(
        metadata,
        input_shape=dimensions(inputs[0]),
        output_shapes=[dimensions(output) for output in model.graph.output],
        imgsz_hw=imgsz_hw,
        origin=str(path),
    )
    return _with_fixed_shape(model, manifest, batch, path)


def with_opset(model: onnx.ModelProto, opset: int, *, origin: str) -> onnx.ModelProto:
    """The model written for a newer ONNX operator set.

    Raises:
        InputError: ONNX does not know how; `origin` is named.
    """
    try:
        converted = onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise InputError(
            f"{origin} has opset {opset_of(model)} and cannot be brought to {opset} ({detail}); "
            f"export it again with opset {opset}, or give the .pt"
        ) from error
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


def _read(path: Path) -> tuple[onnx.ModelProto, dict[str, str]]:
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of an .onnx file")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty; export the model again")
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
        metadata = {entry.key: entry.value for entry in model.metadata_props}
    except (DecodeError, onnx.checker.ValidationError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is damaged or no ONNX model ({detail}); export or copy it again") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if any(isinstance(text, bytes) for pair in metadata.items() for text in pair):  # what is no UTF-8
        raise InputError(f"{path} has metadata that is no text; export the model again")
    return model, metadata


def _true_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """The inputs that are no initializers: old exporters list both."""
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def _with_fixed_shape(
    model: onnx.ModelProto, manifest: Manifest, batch: BatchRange | None, path: Path
) -> tuple[onnx.ModelProto, Manifest]:
    own_batch, _, *own_hw = dimensions(model.graph.input[0])
    for own, asked in zip(own_hw, manifest.imgsz_hw, strict=True):
        if isinstance(own, int) and own != asked:
            raise InputError(
                f"{path} is fixed at {own_hw[0]}x{own_hw[1]} pixels, asked for "
                f"{manifest.imgsz_hw[0]}x{manifest.imgsz_hw[1]}; leave --imgsz out, or export from the .pt"
            )
    if isinstance(own_batch, int) and batch not in (None, BatchRange(own_batch, own_batch)):
        raise InputError(
            f"{path} is fixed at a batch of {own_batch}, asked for {batch}; "
            "leave --batch out, or export from the .pt"
        )
    batch = batch or manifest.batch
    size: int | str = batch.minimum if batch.is_static else "batch"
    _set_dimensions(model.graph.input[0], [size, 3, *manifest.imgsz_hw])
    del model.graph.value_info[:]
    output = model.graph.output[0]
    _set_dimensions(output, [size, 4 + len(manifest.names), "anchors"])
    inferred = onnx.shape_inference.infer_shapes(model).graph.output[0]
    anchors = dimensions(inferred)[2]
    if isinstance(anchors, str):
        anchors = anchor_count(manifest.imgsz_hw, KNOWN_STRIDES[0])  # the graph computes its own
    _set_dimensions(output, [size, 4 + len(manifest.names), anchors])
    return model, dataclasses.replace(manifest, batch=batch, anchors=anchors)


def _set_dimensions(value: onnx.ValueInfoProto, shape: list[int | str]) -> None:
    shape_proto = value.type.tensor_type.shape
    del shape_proto.dim[:]
    for side in shape:
        dim = shape_proto.dim.add()
        if isinstance(side, int):
            dim.dim_value = side
        else:
            dim.dim_param = side
