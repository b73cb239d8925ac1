"""A model from an ONNX file, in the form that the standard asks for: nodes in order, functions inlined.

Enters: the path of an `.onnx`. Leaves: the model, or an error that says what the file is instead. Knows no YOLO.
What ONNX Runtime runs is never called damaged: it accepts much that the standard does not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from trt_yolo.artifacts.file_kinds import kind_of
from trt_yolo.backends.onnxruntime import open_session
from trt_yolo.errors import (
    BackendError,
    InputError,
    MissingDependencyError,
    UnsupportedModelError,
    on_one_line,
)
from trt_yolo.graph.writer import NEWEST_IR, sort_nodes, subgraphs, text_of
from trt_yolo.system.paths import absence

_MAX_BYTES = (1 << 31) - 1  # of a protobuf message
MOST_NODES = 100_000  # with all functions unfolded
_LEAST_IR = 8  # before 4, stored tensors are inputs
_OWN_DOMAINS = ("", "ai.onnx")
_LISTED = 3
_EMPTY_ROI = "trt_yolo.empty_roi"


def model_from_file(path: Path) -> onnx.ModelProto:
    """The model, its weights read, its nodes in order, as the standard wants it.

    Raises:
        InputError: No such file, no ONNX model, or its weights are missing.
        UnsupportedModelError: It has operators that are not part of ONNX, or ONNX Runtime runs it and it is not valid.
    """
    model = parsed_model(path)
    _read_weights(model, path)
    if unfolds_too_far(model):
        raise InputError(
            f"{path} is damaged: its functions call each other recursively, or unfold to more than "
            f"{MOST_NODES:,} nodes; export the model again"
        )
    try:
        model = onnx.inliner.inline_local_functions(model) if model.functions else model
        _check_operators(model, path)
        if not sort_nodes(model.graph):
            raise InputError(f"{path} is damaged: its nodes form a cycle; export the model again")
        model.graph.name = model.graph.name or "graph"
        model.ir_version = min(max(model.ir_version, _LEAST_IR), NEWEST_IR)
        _take_stored_inputs_away(model.graph)
        _name_empty_roi(model.graph)
        del model.graph.value_info[:]  # of many exporters they are not right; they are inferred anew
        _infer_missing_types(model)
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError) as error:
        raise _invalid(path, error) from error
    return model


def parsed_model(path: Path) -> onnx.ModelProto:
    """The model as it stands in the file; weights that lie in other files are not read.

    Raises:
        InputError: No such file, or no ONNX model.
    """
    if not os.path.exists(path):  # unlike Path.exists, never raises
        raise InputError(f"{absence(path)}; give the path of an .onnx model")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of an .onnx model")
    model = onnx.ModelProto()
    try:
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"{path} is empty; export the model again")
        _check_kind(path)
        if size > _MAX_BYTES:
            raise InputError(
                f"{path} is no ONNX model: it has {size / 1e9:.1f} GB, and an ONNX file has at most 2.1 GB"
            )
        model.ParseFromString(path.read_bytes())
    except (DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is damaged or no ONNX model ({on_one_line(error)}); export or copy it again"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    if not (model.ir_version > 0 and model.HasField("graph") and model.opset_import):
        raise InputError(
            f"{path} is damaged or no ONNX model (no graph of a known version); export or copy it again"
        )
    return model


def files_outside(model: onnx.ModelProto, path: Path) -> tuple[list[Path], list[str]]:
    """The files that weights are kept in, and a line for each that cannot be had."""
    places = {
        text_of(entry.value)
        for tensor in stored_tensors(model.graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    files, problems = [], []
    for place in sorted(places):
        parts = PurePosixPath(place), PureWindowsPath(place)
        if any(part.is_absolute() or ".." in part.parts for part in parts):
            problems.append(
                f"its weights are in {place}, outside its folder, which is not read; "
                "save the model again with its weights beside it"
            )
        elif not os.path.isfile(path.parent / place):
            problems.append(f"its weights are in {place}, which is missing; copy it beside the model")
        else:
            files.append(path.parent / place)
    return files, problems


def stored_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Weights and constants of a graph and of all graphs inside it."""
    yield from graph.initializer
    for node in graph.node:
        yield from (attribute.t for attribute in node.attribute if attribute.HasField("t"))
        for inner in subgraphs(node):
            yield from stored_tensors(inner)


def _check_kind(path: Path) -> None:
    kind = kind_of(path)
    if kind:
        raise InputError(f"{path} is no ONNX model but {kind}")


def _read_weights(model: onnx.ModelProto, path: Path) -> None:
    files, problems = files_outside(model, path)
    if problems:
        raise InputError(f"{path} is incomplete: {problems[0]}")
    size = path.stat().st_size + sum(file.stat().st_size for file in files)
    if size > _MAX_BYTES:
        raise InputError(
            f"{path} has {size / 1e9:.1f} GB of weights, and no more than 2.1 GB can be exported"
        )
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (onnx.checker.ValidationError, ValueError, TypeError, OSError) as error:
        raise InputError(
            f"the weights of {path} cannot be read ({on_one_line(error)}); copy them again beside the model"
        ) from error


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    nodes = _all_nodes(model.graph.node)
    foreign = sorted({f"{node.domain}.{node.op_type}" for node in nodes if node.domain not in _OWN_DOMAINS})
    if foreign:
        more = f" and {len(foreign) - _LISTED} more" if len(foreign) > _LISTED else ""
        raise UnsupportedModelError(
            f"{path} has operators that are not part of ONNX: {', '.join(foreign[:_LISTED])}{more}; give the graph "
            "as it was before it was optimized or extended for one runtime, or the .pt"
        )


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes, and those of the graphs inside them."""
    for node in nodes:
        yield node
        for inner in subgraphs(node):
            yield from _all_nodes(inner.node)


def unfolds_too_far(model: onnx.ModelProto) -> bool:
    """Whether a few functions that call each other stand for endlessly many nodes."""
    calls = {
        (function.domain, function.name): [(node.domain, node.op_type) for node in _all_nodes(function.node)]
        for function in model.functions
    }
    sizes = dict.fromkeys(calls, 1)
    for _ in range(len(calls) + 1):  # without a circle no chain of calls is longer
        larger = {key: 1 + sum(sizes.get(call, 1) for call in called) for key, called in calls.items()}
        if larger == sizes:
            return False
        if max(larger.values()) > MOST_NODES:
            return True
        sizes = larger
    return bool(calls)


def _name_empty_roi(graph: onnx.GraphProto) -> None:
    """Gives Resize the empty `roi` that torch leaves out, which the standard lets it do from opset 13 only."""
    bare = [node for node in graph.node if node.op_type == "Resize" and list(node.input[1:2]) == [""]]
    if bare:
        graph.initializer.append(onnx.helper.make_tensor(_EMPTY_ROI, onnx.TensorProto.FLOAT, [0], []))
    for node in bare:
        node.input[1] = _EMPTY_ROI


def _infer_missing_types(model: onnx.ModelProto) -> None:
    """Gives outputs that say no type or shape what follows from the nodes."""
    if not all(value.type.tensor_type.HasField("shape") for value in model.graph.output):
        outputs = list(onnx.shape_inference.infer_shapes(model).graph.output)
        del model.graph.output[:]
        model.graph.output.extend(outputs)


def _take_stored_inputs_away(graph: onnx.GraphProto) -> None:
    """Leaves the inputs that are no initializers: old exporters list both."""
    stored = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in stored]
    del graph.input[:]
    graph.input.extend(inputs)


def _invalid(path: Path, error: Exception) -> InputError:
    """What the checker's complaint means: ONNX Runtime has the last word on what is damaged."""
    try:
        open_session(path, threads=1, optimize=False)
    except (BackendError, MissingDependencyError):
        return InputError(
            f"{path} is damaged or no ONNX model ({on_one_line(error)}); export or copy it again"
        )
    return UnsupportedModelError(
        f"{path} runs in ONNX Runtime, but is not valid ONNX, which the export needs ({on_one_line(error)}); "
        "give the .pt, or export it again with another version of the exporter"
    )
