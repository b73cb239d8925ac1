"""What an ONNX file holds: any valid graph, a YOLOv8 model or not.

Enters: the path of an ONNX file, whatever its suffix. Leaves: an `Inspection`. Weights kept in other files are not
read, only counted. A damaged manifest, a missing weights file or shapes that cannot be inferred are notes of the
inspection: whoever inspects a file wants to see why it does not work.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError
from onnx import helper

from trt_yolo.artifacts.manifest import METADATA_KEY, Manifest, manifest_from_json, manifest_from_ultralytics
from trt_yolo.backends.onnxruntime import open_session
from trt_yolo.errors import BackendError, InputError, MissingDependencyError
from trt_yolo.graph.onnx_file import MOST_NODES, files_outside, parsed_model, stored_tensors, unfolds_too_far
from trt_yolo.graph.writer import sort_nodes, text_of
from trt_yolo.inspection.inspection import DEQUANTIZE, QUANTIZE, Inspection, Tensor
from trt_yolo.inspection.onnx_layers import Graph, graph_of, tensor_of

_LARGEST_SESSION = 100 << 20  # bytes; more takes seconds to load
_SHAPES_AT_MOST = 1024  # elements: larger tensors are weights, which say nothing about shapes
_LONGEST_FACT = 200
_MOST_METADATA = 20
_UNSOUND = (
    onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError, EncodeError,
)  # fmt: skip


def inspection_from_onnx(path: Path) -> Inspection:
    """The inspection of an ONNX file.

    Raises:
        InputError: No such file, or no ONNX model.
    """
    model = parsed_model(path)
    outside, notes = files_outside(model, path)
    size = path.stat().st_size + sum(file.stat().st_size for file in outside)
    manifest = _manifest(model, path, notes)
    facts = _facts(model, outside)
    if unfolds_too_far(model):
        why_not = f"its functions call each other recursively, or unfold to more than {MOST_NODES:,} nodes"
        notes.append(f"{why_not}: shapes are not inferred")
    else:
        why_not = _why_not(path, model, size)
        model = _with_shapes(model, notes)
    found = graph_of(model)
    kinds = [layer.kind for layer in found.layers]
    if manifest is not None and METADATA_KEY not in _metadata(model):  # Ultralytics does not say it
        manifest = dataclasses.replace(manifest, precision=_precision(found), opset=_opset(model))
    return Inspection(
        path=str(path),
        format="onnx",
        bytes=size,
        inputs=_true_inputs(model.graph),
        outputs=tuple(tensor_of(value) for value in model.graph.output),
        parameters=sum(found.learned.values()),
        layers=tuple(found.layers),
        tensors=tuple(found.tensors),
        quantize_nodes=kinds.count(QUANTIZE),
        dequantize_nodes=kinds.count(DEQUANTIZE),
        facts=facts,
        notes=tuple(notes),
        manifest=manifest,
        loads_here=not why_not,
        why_not=why_not,
    )


def _with_shapes(model: onnx.ModelProto, notes: list[str]) -> onnx.ModelProto:
    """The model with the shapes that ONNX infers; as it was, with a note, where that fails. Takes its weights away."""
    sort_nodes(model.graph)
    for tensor in stored_tensors(model.graph):
        if len(tensor.raw_data) > 8 * _SHAPES_AT_MOST or len(tensor.float_data) > _SHAPES_AT_MOST:
            tensor.ClearField("raw_data")
            tensor.ClearField("float_data")
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except _UNSOUND as error:
        notes.append(f"its shapes cannot be inferred: {_short(str(error))}")
        return model
    return inferred if len(inferred.graph.node) == len(model.graph.node) else model


def _true_inputs(graph: onnx.GraphProto) -> tuple[Tensor, ...]:
    """The inputs that are no initializers: old exporters list both."""
    stored = {tensor.name for tensor in graph.initializer}
    return tuple(tensor_of(value) for value in graph.input if value.name not in stored)


def _metadata(model: onnx.ModelProto) -> dict[str, str]:
    return {text_of(entry.key): text_of(entry.value) for entry in model.metadata_props}


def _manifest(model: onnx.ModelProto, path: Path, notes: list[str]) -> Manifest | None:
    metadata = _metadata(model)
    inputs = _true_inputs(model.graph)
    try:
        if METADATA_KEY in metadata:
            return manifest_from_json(metadata[METADATA_KEY], origin=str(path))
        if len(inputs) != 1 or inputs[0].dtype not in ("fp32", "fp16"):
            return None
        return manifest_from_ultralytics(
            metadata,
            input_shape=inputs[0].shape,
            output_shapes=[tensor_of(value).shape for value in model.graph.output],
            origin=str(path),
        )
    except InputError as error:
        notes.append(str(error))
        return None


def _precision(graph: Graph) -> str:
    """The least of what its convolutions compute in, as a manifest calls it."""
    there = {layer.precision for layer in graph.layers if layer.multiplies}
    return next((known for known in ("int8", "fp16") if known in there), "fp32")


def _opset(model: onnx.ModelProto) -> int:
    return next((int(one.version) for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)


def _facts(model: onnx.ModelProto, outside: list[Path]) -> dict[str, str]:
    opsets = {text_of(entry.domain): entry.version for entry in model.opset_import}
    own = [str(version) for domain, version in opsets.items() if domain in ("", "ai.onnx")]
    others = [f"{domain} {version}" for domain, version in opsets.items() if domain not in ("", "ai.onnx")]
    facts = {
        "opset": ", ".join(own + others),
        "IR version": str(model.ir_version),
        "producer": f"{text_of(model.producer_name)} {text_of(model.producer_version)}".strip(),
        "graph": text_of(model.graph.name),
        "functions": str(len(model.functions) or ""),
        "weights in": ", ".join(file.name for file in outside),
    }
    entries = [(key, value) for key, value in _metadata(model).items() if key not in (METADATA_KEY, "names")]
    facts |= {f"metadata {key}": value for key, value in entries[:_MOST_METADATA]}
    return {_short(key): _short(value) for key, value in facts.items() if value}


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_FACT else f"{line[: _LONGEST_FACT - 3]}..."


def _why_not(path: Path, model: onnx.ModelProto, size: int) -> str:
    """Why ONNX Runtime does not take the model; empty where it does. Of a large one only its versions are asked."""
    asked = path if size <= _LARGEST_SESSION else _empty_like(model)
    try:
        open_session(asked, threads=1, optimize=False)  # folds nothing: a graph may ask for any memory
    except (BackendError, InputError, MissingDependencyError) as error:
        return str(error)
    return ""


def _empty_like(model: onnx.ModelProto) -> bytes:
    """A model of the same versions that does nothing."""
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", ends[:1], ends[1:])
    opsets = list(model.opset_import)
    return bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version).SerializeToString()
    )
