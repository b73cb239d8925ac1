"""A head graph that somebody exported, made fit to build on: fixed height and width, the batch asked for.

Enters: the path of an `.onnx`. Leaves: the head graph and its manifest. Knows no checkpoints.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter

from trt_yolo.artifacts.manifest import (
    METADATA_KEY,
    Manifest,
    declared_size,
    manifest_from_json,
    manifest_from_ultralytics,
)
from trt_yolo.artifacts.shapes import MAX_SIDE, BatchRange, anchor_count
from trt_yolo.backends.onnxruntime import open_session
from trt_yolo.errors import InputError, MissingDependencyError, UnsupportedModelError, first_line
from trt_yolo.graph.onnx_file import model_from_file
from trt_yolo.graph.writer import FLOAT, FLOAT16, dimensions, opset_of

_STRIDES = (8, 16, 32)  # where neither the graph nor a run tells: the graph computes its own
_UNSOUND = (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError)


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
    model = model_from_file(path)
    metadata = _metadata(model, path)
    _check_input(model, path)
    own = dimensions(model.graph.input[0])
    if len(own) == 4:
        imgsz_hw = imgsz_hw or declared_size(own, metadata, origin=str(path))
        _check_asked(own, imgsz_hw, batch, path)
        own = [own[0], own[1] if isinstance(own[1], int) else _channels(model.graph), *imgsz_hw]
        _set_dimensions(model.graph.input[0], [own[0] or "batch", *own[1:]])
        _infer_outputs(model, imgsz_hw, path)
    manifest = manifest_from_ultralytics(
        metadata,
        input_shape=own,
        output_shapes=[dimensions(output) for output in model.graph.output],
        imgsz_hw=imgsz_hw,
        origin=str(path),
    )
    return _with_batch(model, manifest, batch)


def with_opset(model: onnx.ModelProto, opset: int, *, origin: str) -> onnx.ModelProto:
    """The model written for another ONNX operator set.

    Raises:
        InputError: ONNX does not know how; `origin` is named.
    """
    try:
        converted = onnx.version_converter.convert_version(model, opset)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"{origin} has opset {opset_of(model)} and cannot be converted to {opset} ({first_line(error)}); "
            f"export it again with opset {opset}, or give the .pt"
        ) from error
    del converted.metadata_props[:]
    converted.metadata_props.extend(model.metadata_props)
    return converted


def _metadata(model: onnx.ModelProto, path: Path) -> dict[str, str]:
    try:
        metadata = {entry.key: entry.value for entry in model.metadata_props}
    except UnicodeDecodeError as error:
        raise _no_text(path) from error
    if any(isinstance(text, bytes) for pair in metadata.items() for text in pair):  # what is no UTF-8
        raise _no_text(path)
    text = metadata.get(METADATA_KEY)
    if text is not None and manifest_from_json(text, origin=str(path)).graph == "deploy":
        raise InputError(
            f"{path} is a deploy graph already; give the .pt it was made from, or a head graph (--head)"
        )
    return metadata


def _no_text(path: Path) -> InputError:
    return InputError(f"{path} has metadata that is not text; export the model again")


def _check_input(model: onnx.ModelProto, path: Path) -> None:
    kinds = [value.type.tensor_type.elem_type for value in model.graph.input]
    if len(kinds) != 1 or kinds[0] not in (FLOAT, FLOAT16):
        known = {number: name.lower() for name, number in onnx.TensorProto.DataType.items()}
        given = [known.get(kind, f"of type {kind}") for kind in kinds]
        raise UnsupportedModelError(
            f"{path} is no YOLOv8 model: its inputs are {', '.join(given) or 'none'}; "
            "needed: one floating-point input (N, 3, H, W)"
        )


def _check_asked(
    own: list[int | str], imgsz_hw: tuple[int, int], batch: BatchRange | None, path: Path
) -> None:
    own_batch, _, *own_hw = own
    for side, asked in zip(own_hw, imgsz_hw, strict=True):
        if isinstance(side, int) and side != asked:
            raise InputError(
                f"{path} is fixed at {own_hw[0]}x{own_hw[1]} pixels, asked for "
                f"{imgsz_hw[0]}x{imgsz_hw[1]}; leave --imgsz out, or export from the .pt"
            )
    if isinstance(own_batch, int) and batch not in (None, BatchRange(own_batch, own_batch)):
        raise InputError(
            f"{path} is fixed at a batch of {own_batch}, asked for {batch}; "
            "leave --batch out, or export from the .pt"
        )


def _channels(graph: onnx.GraphProto) -> int:
    """Channels of an input that does not say: what the convolution that reads it takes, else 3."""
    weights = {tensor.name: tensor.dims for tensor in graph.initializer if len(tensor.dims) == 4}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[0] == graph.input[0].name and node.input[1] in weights:
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            return int(weights[node.input[1]][1] * groups)
    return 3


def _infer_outputs(model: onnx.ModelProto, imgsz_hw: tuple[int, int], path: Path) -> None:
    """Gives the outputs the shapes that follow from the input's: by inference, else by one run."""
    for output in model.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if dim.dim_value <= 0:
                dim.Clear()
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph.output
    except _UNSOUND as error:
        raise InputError(
            f"the shapes of {path} are inconsistent ({first_line(error)}); export it again"
        ) from error
    shapes = [dimensions(output) for output in inferred]
    if len(shapes) == 1 and not all(isinstance(side, int) for side in shapes[0][1:]):
        shapes = [_shape_when_run(model, imgsz_hw, path) or shapes[0]]
    for output, shape in zip(model.graph.output, shapes, strict=True):
        _set_dimensions(output, shape)


def _shape_when_run(model: onnx.ModelProto, imgsz_hw: tuple[int, int], path: Path) -> list[int | str] | None:
    """The shape of the only output for one image; None where ONNX Runtime is not installed."""
    if max(imgsz_hw) > MAX_SIDE:
        return None  # refused later, with what is possible
    try:
        session = open_session(model.SerializeToString(), threads=1)
        (node,) = session.get_inputs()
        dtype = np.float16 if "16" in node.type else np.float32
        ones = [side if isinstance(side, int) else 1 for side in node.shape]
        found: list[int | str] = list(session.run(None, {node.name: np.zeros(ones, dtype)})[0].shape)
    except MissingDependencyError:
        return None
    except Exception as error:  # the bindings raise a dozen unrelated classes
        raise InputError(f"{path} does not run ({first_line(error)}); export it again") from error
    return found


def _with_batch(
    model: onnx.ModelProto, manifest: Manifest, batch: BatchRange | None
) -> tuple[onnx.ModelProto, Manifest]:
    batch = batch or manifest.batch
    size: int | str = batch.minimum if batch.is_static else "batch"
    anchors = manifest.anchors or anchor_count(manifest.imgsz_hw, _STRIDES)
    _set_dimensions(model.graph.input[0], [size, 3, *manifest.imgsz_hw])
    _set_dimensions(model.graph.output[0], [size, 4 + len(manifest.names), anchors])
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
