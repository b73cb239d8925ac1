"""What a YOLOv8 checkpoint holds, without torch.

Enters: the path of a `.pt`. Leaves: an `Inspection` whose layers are the modules of its top level, as the
model's YAML lists them. Knows no ONNX: what a module becomes there is the exporter's business.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from trt_yolo.errors import CheckpointError
from trt_yolo.graph.checkpoint import read_checkpoint
from trt_yolo.graph.head_from_checkpoint import Checkpoint, checkpoint_from_file, model_of
from trt_yolo.graph.records import Record
from trt_yolo.inspection.inspection import Inspection, Layer, Precision, Tensor

_MAX_MODULES = 100_000  # a module that holds itself many times over has no end
_PRECISIONS: dict[str, Precision] = {
    "float16": "fp16", "float32": "fp32", "float64": "fp64", "int8": "int8", "uint8": "uint8",
}  # fmt: skip
_GENERATIONS = (("C3k2", "YOLO11"), ("SCDown", "YOLOv10"), ("C2f", "YOLOv8"), ("C3", "YOLOv5"))


def inspection_from_checkpoint(path: Path) -> Inspection:
    """The inspection of a `.pt` file.

    Raises:
        InputError: No such file, or a folder.
        CheckpointError: Damaged, or no YOLO model inside.
        UnsupportedModelError: A model of another task, or whose head is not YOLOv8's.
    """
    checkpoint = checkpoint_from_file(path)
    layers = _layers(checkpoint)
    side = checkpoint.imgsz
    classes = len(checkpoint.names)
    return Inspection(
        path=str(path),
        format="pt",
        bytes=path.stat().st_size,
        inputs=(Tensor(name="images", dtype="fp32", shape=("batch", 3, side, side)),),
        outputs=(
            Tensor(
                name="output0",
                dtype="fp32",
                shape=("batch", 4 + classes, checkpoint.anchors((side, side))),
            ),
        ),
        parameters=sum(layer.parameters for layer in layers),
        layers=tuple(layers),
        facts=_facts(checkpoint, read_checkpoint(path)),
    )


def _layers(checkpoint: Checkpoint) -> list[Layer]:
    last = len(checkpoint.layers) - 1
    return [
        Layer(
            name=f"model.{index}",
            kind=record.class_name,
            precision=_precision(record),
            inputs=tuple(_sources(record, index)),
            outputs=("output0" if index == last else f"model.{index}",),
            parameters=sum(value.size for value in _parameters(record)),
        )
        for index, record in enumerate(checkpoint.layers)
    ]


def _sources(record: Record, index: int) -> Iterator[str]:
    """The tensors that a module reads: -1 is the module before it, other numbers are modules."""
    wanted = record.get("f", -1)
    for source in wanted if isinstance(wanted, list | tuple) else [wanted]:
        if not isinstance(source, int) or not -index <= source < index:
            if source == -1:  # the first module's
                yield "images"
                continue
            raise CheckpointError(
                f"the checkpoint's layer {index} reads from what is no layer; save it again with Ultralytics"
            )
        yield f"model.{source % index if source < 0 else source}"


def _modules(record: Record) -> Iterator[Record]:
    """A module and all below it, each once."""
    waiting, seen = [record], {id(record)}
    while waiting:
        one = waiting.pop()
        yield one
        for child in one.children():
            if isinstance(child, Record) and id(child) not in seen:
                seen.add(id(child))
                waiting.append(child)
        if len(seen) > _MAX_MODULES:
            raise CheckpointError(f"the checkpoint has more than {_MAX_MODULES} modules: it is damaged")


def _parameters(record: Record) -> Iterator[np.ndarray[Any, Any]]:
    """What training learns: weights and biases, no running means. One array counts once a module."""
    for module in _modules(record):
        parameters = module.get("_parameters")
        for value in parameters.values() if isinstance(parameters, dict) else ():
            if isinstance(value, np.ndarray):
                yield value


def _precision(record: Record) -> Precision:
    types = {_PRECISIONS.get(value.dtype.name, "") for value in _parameters(record)}
    return "mixed" if len(types) > 1 else next(iter(types), "")


def _facts(checkpoint: Checkpoint, content: Any) -> dict[str, str]:
    """What the file says of itself; entries of other types than expected are left out."""
    names = list(checkpoint.names.values())
    modules = [module for layer in checkpoint.layers for module in _modules(layer)]
    entries = content if isinstance(content, dict) else {}
    said = {
        "architecture": _architecture(content, {module.class_name for module in modules}),
        "strides": ", ".join(map(str, checkpoint.strides)),
        "image size": str(checkpoint.imgsz),
        "classes": f"{len(names)}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}",
        "convolutions": str(sum(module.class_name == "Conv2d" for module in modules)),
        "Ultralytics": entries.get("version"),
        "saved": entries.get("date"),
    }
    return {key: value[:200] for key, value in said.items() if isinstance(value, str)}


def _architecture(content: Any, classes: set[str]) -> str:
    """The generation that its blocks are of, and the YAML it was built from where it says so."""
    generation = next((name for block, name in _GENERATIONS if block in classes), "unknown")
    model = model_of(content)
    yaml = model.get("yaml") if isinstance(model, Record) else None
    file = yaml.get("yaml_file") if isinstance(yaml, dict) else None
    return f"{generation} ({file})" if isinstance(file, str) else generation
