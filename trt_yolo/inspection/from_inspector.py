"""The layers of a TensorRT engine, from what its own inspector and profiler say.

Enters: an engine, which `layer_information` alone loads, on the GPU that it runs on; or the JSON of
`EngineInspector.get_engine_information` and of `trtexec --exportProfile`. Leaves: `Layer`s, `Tensor`s, times.

TensorRT 8 to 10 give a tensor's type and layout in one text, `Format/Datatype`: a type alone (`Half`), or a sentence
("Thirty-two wide channel vectorized row major Int8 format"). TensorRT 11 and TensorRT for RTX split it into `Format`
and `Datatype`, and replace `Bindings` by `I/O Tensors`. Of an engine built without ProfilingVerbosity.DETAILED all say
names only. Where an entry is of another form than these, what it would tell is left out.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from trt_yolo.engine.compatibility import Engine
from trt_yolo.engine.library import Library
from trt_yolo.engine.log import Log, in_one_line, started_runtime
from trt_yolo.errors import BackendError, InputError, on_one_line
from trt_yolo.inspection.inspection import Layer, Multiplying, Precision, Tensor

_TYPES: dict[str, Precision] = {
    "float": "fp32", "fp32": "fp32", "float32": "fp32", "half": "fp16", "fp16": "fp16", "float16": "fp16",
    "int8": "int8", "int4": "int4", "uint8": "uint8", "int16": "int16", "int32": "int32", "int64": "int64",
    "bool": "bool", "bf16": "bf16", "bfloat16": "bf16", "fp8": "fp8", "fp8e4m3": "fp8", "float8": "fp8",
    "fp4": "fp4", "fp4e2m1": "fp4", "double": "fp64", "fp64": "fp64",
}  # fmt: skip
_TACTICS: tuple[tuple[str, Precision], ...] = (
    ("e4m3", "fp8"), ("i8i8", "int8"), ("int8", "int8"), ("imma", "int8"), ("f16f16", "fp16"), ("h884", "fp16"),
    ("h1688", "fp16"), ("h16816", "fp16"), ("hmma", "fp16"), ("fp16", "fp16"), ("f32f32", "fp32"), ("sgemm", "fp32"),
)  # fmt: skip
_SHAPE_TYPES = frozenset({"int32", "int64", "bool"})
_SYNCHRONIZING = frozenset({"signal", "wait"})  # of streams; they compute nothing
_OTHER_PROFILE = re.compile(r"\[profile [1-9]\d*\]\s*$")
# Before TensorRT 10.8 a layer's metadata is written with its quotes as they are, so that the whole is no JSON.
_METADATA = re.compile(r'^(\s*"Metadata"\s*:\s*").*("\s*,?\s*)$', re.MULTILINE)


def layer_information(engine: Engine) -> str:
    """The engine inspector's JSON: `Layers` and `Bindings`.

    Args:
        engine: One that loads here.

    Raises:
        BackendError: TensorRT does not start, or does not load it all the same.
        MissingDependencyError: Its TensorRT does not import.
    """
    library = Library(engine.plan.family)
    log = Log(library)
    runtime = started_runtime(log)
    plan = runtime.deserialize_cuda_engine(engine.plan.read())
    if plan is None:
        raise BackendError(
            f"{library.name} {library.version} does not load {engine.plan.path}: {in_one_line(log.errors)}; "
            "build it again"
        )
    return str(plan.create_engine_inspector().get_engine_information(library.trt.LayerInformationFormat.JSON))


def layers_from_inspector(text: str) -> list[Layer]:
    """The layers of the engine's first profile, in the order in which they run.

    Raises:
        InputError: The text is no JSON, or none of the inspector's.
    """
    return [_layer(entry) for entry in _entries(text)]


def tensors_from_inspector(text: str) -> list[Tensor]:
    """The tensors between those layers, each once.

    Raises:
        InputError: As `layers_from_inspector`.
    """
    found: dict[str, Tensor] = {}
    for entry in _entries(text):
        for tensor in (*_tensors(entry, "Inputs"), *_tensors(entry, "Outputs")):
            found.setdefault(tensor.name, tensor)
    return list(found.values())


def times_from_profile(text: str) -> dict[str, float]:
    """Milliseconds by layer name, from `trtexec --exportProfile`: the median, where there is none the mean.

    Raises:
        InputError: The text is no JSON, or no list of layers.
    """
    entries = _parsed(text, "the profile")
    if not isinstance(entries, list):
        raise InputError("the profile is no list of layers; give what trtexec --exportProfile wrote")
    times: dict[str, float] = {}
    for entry in entries:
        name, time_ms = (entry.get("name"), _time(entry)) if isinstance(entry, dict) else (None, None)
        if isinstance(name, str) and time_ms is not None:
            times[name] = times.get(name, 0.0) + time_ms
    return times


def _time(entry: dict[str, Any]) -> float | None:
    for key in ("medianMs", "averageMs"):
        value = entry.get(key)
        if isinstance(value, int | float) and math.isfinite(value) and value >= 0:
            return float(value)
    return None


def _parsed(text: str, what: str) -> Any:
    try:
        return json.loads(text, strict=False)  # TensorRT separates names with control characters
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what} is damaged or no JSON ({on_one_line(error)}); write it again") from error


def _entries(text: str) -> list[dict[str, Any]]:
    """The layers as they stand there; those of names only as dicts of a name."""
    what = "the engine's layer information"
    try:
        content = _parsed(text, what)
    except InputError:
        content = _parsed(_METADATA.sub(r"\1\2", text), what)
    layers = content.get("Layers") if isinstance(content, dict) else content
    if not isinstance(layers, list):
        raise InputError(
            f"{what} has no list of layers; give what EngineInspector.get_engine_information wrote as JSON"
        )
    entries = [{"Name": layer} if isinstance(layer, str) else layer for layer in layers]
    return [
        entry
        for entry in entries
        if isinstance(entry, dict)
        and not _is_of_other_profile(entry)
        and _text(entry, "LayerType") not in _SYNCHRONIZING
    ]


def _is_of_other_profile(entry: dict[str, Any]) -> bool:
    """An engine of several profiles says all its layers for each of them; those of the first are enough."""
    return bool(_OTHER_PROFILE.search(_text(entry, "Name")))


def _layer(entry: dict[str, Any]) -> Layer:
    inputs, outputs = _tensors(entry, "Inputs"), _tensors(entry, "Outputs")
    kind = _text(entry, "LayerType")
    multiplies = _multiplies(entry, kind)
    weights_type, weights = _weights(entry, multiplies)
    return Layer(
        name=_text(entry, "Name"),
        kind=kind,
        precision=_precision(entry, inputs, outputs, multiplies, weights_type),
        inputs=tuple(tensor.name for tensor in inputs),
        outputs=tuple(tensor.name for tensor in outputs),
        parameters=weights + _count(entry, "Bias"),
        macs=_macs(weights, outputs) if multiplies == "convolution" else None,
        multiplies=multiplies,
    )


def _multiplies(entry: dict[str, Any], kind: str) -> Multiplying:
    """By the layer's type; newer compilers of TensorRT call a convolution `correlation`, and some `gemm`."""
    known = f"{kind} {_text(entry, 'ParameterType')}".lower()
    if "convolution" in known or "correlation" in known:
        return "convolution"
    origin = f"{_text(entry, 'Name')} {_text(entry, 'Metadata')}".lower()
    if "gemm" in known or "matrix" in known or "runtime_fusion" in known:
        return "convolution" if "conv" in origin else "matrix product"
    return ""


def _weights(entry: dict[str, Any], multiplies: Multiplying) -> tuple[Precision, int]:
    """Type and number of a layer's weights; newer compilers list them among `Constants`, as the largest."""
    stored = entry.get("Weights")
    if isinstance(stored, dict):
        return _type(_text(stored, "Type")), _count(entry, "Weights")
    constants = [(_elements(tensor), tensor) for tensor in _tensors(entry, "Constants")] if multiplies else []
    count, largest = max(constants, key=lambda one: one[0], default=(0, None))
    return (_TYPES.get(largest.dtype, ""), count) if largest is not None and count else ("", 0)


def _elements(tensor: Tensor) -> int:
    known = [side for side in tensor.shape if isinstance(side, int)]
    return math.prod(known) if len(known) == len(tensor.shape) else 0


def _precision(
    entry: dict[str, Any],
    inputs: list[Tensor],
    outputs: list[Tensor],
    multiplies: Multiplying,
    weights: Precision,
) -> Precision:
    """Of a product: what its weights are, else its kernel's name, else what it reads. Of others: their tensors."""
    if multiplies:
        read = _common({tensor.dtype for tensor in inputs})
        return weights or _of_tactic(_text(entry, "TacticName")) or read
    return _common({tensor.dtype for tensor in (*inputs, *outputs)})


def _of_tactic(name: str) -> Precision:
    return next((precision for part, precision in _TACTICS if part in name.lower()), "")


def _common(types: set[str]) -> Precision:
    known = {_TYPES[dtype] for dtype in types if dtype in _TYPES}
    known = {dtype for dtype in known if dtype not in _SHAPE_TYPES} or known
    return "mixed" if len(known) > 1 else next(iter(known), "")


def _tensors(entry: dict[str, Any], key: str) -> list[Tensor]:
    listed = entry.get(key)
    found = []
    for one in listed if isinstance(listed, list) else []:
        if isinstance(one, str):
            found.append(Tensor(name=one, dtype="", shape=("...",)))
        elif isinstance(one, dict):
            found.append(Tensor(name=_text(one, "Name"), dtype=_dtype(one), shape=_shape(one)))
    return found


def _dtype(tensor: dict[str, Any]) -> Precision:
    said = (_text(tensor, key) for key in ("Datatype", "DataType", "Type", "Format/Datatype", "Format"))
    return next((known for known in map(_type, said) if known), "")


def _type(text: str) -> Precision:
    """The type that a text names, alone or in a sentence."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    return next((_TYPES[word] for word in words if word in _TYPES), "")


def _shape(tensor: dict[str, Any]) -> tuple[int | str, ...]:
    sides = tensor.get("Dimensions")
    if not isinstance(sides, list):
        return ("...",)
    return tuple(side if isinstance(side, int) and side >= 0 else "" for side in sides)


def _text(entry: dict[str, Any], key: str) -> str:
    value = entry.get(key)
    return value if isinstance(value, str) else ""


def _count(entry: dict[str, Any], key: str) -> int:
    stored = entry.get(key)
    count = stored.get("Count") if isinstance(stored, dict) else None
    return count if isinstance(count, int) and count > 0 else 0


def _macs(weights: int, outputs: list[Tensor]) -> int | None:
    """Of a convolution, for one image: every weight is used once a place of the output, (N, C, H, W)."""
    shape = outputs[0].shape if outputs else ()
    known = [side for side in shape[1:] if isinstance(side, int)]
    if len(shape) < 4 or len(known) < len(shape) - 1:
        return None
    channels, *places = known
    return weights * math.prod(places) if weights and channels and weights % channels == 0 else None
