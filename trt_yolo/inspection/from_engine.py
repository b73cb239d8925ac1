"""What is inside an engine: its header, its manifest, whether it loads here; its layers where TensorRT can say.

Enters: a path. Leaves: an `Inspection`. Where no GPU is, the layers are those of the ONNX that it was built from, if
that lies beside it; TensorRT fuses them, and a note says so.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trt_yolo.artifacts.files import file_sha256
from trt_yolo.artifacts.manifest import EngineFacts, Manifest
from trt_yolo.engine.compatibility import Engine, engine_at
from trt_yolo.engine.plan import ultralytics_metadata
from trt_yolo.errors import BackendError, InputError, MissingDependencyError
from trt_yolo.inspection.from_inspector import (
    layer_information,
    layers_from_inspector,
    tensors_from_inspector,
)
from trt_yolo.inspection.from_onnx import inspection_from_onnx
from trt_yolo.inspection.inspection import Inspection, Tensor


def inspection_from_engine(path: Path) -> Inspection:
    """What is inside an engine.

    Raises:
        EngineError: It is no engine, or not the one that its manifest describes.
        UnsupportedModelError: Its manifest is damaged.
    """
    engine = engine_at(path)
    found = _layers(engine)
    return dataclasses.replace(
        found,
        path=str(path),
        format="engine",
        bytes=engine.plan.offset + engine.plan.size,
        facts=_facts(engine),
        manifest=engine.manifest,
        loads_here=not engine.problem,
        why_not=engine.problem,
    )


def _layers(engine: Engine) -> Inspection:
    """TensorRT's own layers, or the ONNX's, or none; all else is filled in later."""
    notes: tuple[str, ...] = ()
    if not engine.problem:
        try:
            text = layer_information(engine)
            layers = tuple(layers_from_inspector(text))
            return dataclasses.replace(
                _empty(engine),
                layers=layers,
                tensors=tuple(tensors_from_inspector(text)),
                parameters=sum(layer.parameters for layer in layers),
            )
        except (BackendError, MissingDependencyError, InputError) as error:
            notes = (f"TensorRT does not tell its layers: {error}",)
    onnx = _onnx_of(engine)
    if onnx is None:
        missing = "the layers are not known: TensorRT tells them where the engine loads"
        return dataclasses.replace(_empty(engine), notes=(*notes, missing))
    found = inspection_from_onnx(onnx)
    fused = f"the layers are those of {onnx.name}, from which it was built; TensorRT fuses them"
    return dataclasses.replace(found, notes=(*notes, *found.notes, fused))


def _onnx_of(engine: Engine) -> Path | None:
    """The ONNX beside it, if it is the one that it was built from."""
    facts = engine.facts
    if facts is None or not facts.onnx:
        return None
    onnx = engine.plan.path.with_name(facts.onnx)
    return onnx if onnx.is_file() and file_sha256(onnx) == facts.onnx_sha256 else None


def _empty(engine: Engine) -> Inspection:
    manifest = engine.manifest
    inputs, outputs = ((), ()) if manifest is None else _tensors(manifest)
    return Inspection(
        path=str(engine.plan.path),
        format="engine",
        bytes=0,
        inputs=inputs,
        outputs=outputs,
        parameters=0,
        layers=(),
    )


def _tensors(manifest: Manifest) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and outputs, as every graph of its kind has them."""
    batch = manifest.batch.minimum if manifest.batch.is_static else "batch"
    height, width = manifest.frame_hw
    if manifest.graph == "head":
        classes = 4 + len(manifest.names)
        images = Tensor(name="images", dtype="", shape=(batch, 3, height, width))
        return (images,), (Tensor(name="output0", dtype="", shape=(batch, classes, manifest.anchors)),)
    frames = Tensor(name="frames", dtype="uint8", shape=(batch, height, width, 3))
    thresholds = (Tensor(name=name, dtype="fp32", shape=(1,)) for name in ("conf", "iou"))
    detections = Tensor(name="detections", dtype="fp32", shape=(batch, manifest.rows, 6))
    return (frames, *thresholds), (detections, Tensor(name="unconverged", dtype="fp32", shape=(batch, 1)))


def _facts(engine: Engine) -> dict[str, str]:
    found = {"builder": f"{engine.plan.family} {engine.plan.version_text}"}
    if engine.facts is not None:
        found |= _of_manifest(engine.facts)
    if engine.manifest is not None:
        found["built"] = engine.manifest.created
        accuracy = engine.manifest.accuracy
        if accuracy is not None:
            found["mAP50-95"] = (
                f"{accuracy.map50_95_after:.4f}, {accuracy.map50_95_before:.4f} of the float model"
            )
    if engine.plan.metadata:
        metadata = ultralytics_metadata(engine.plan.metadata)
        found["header"] = (
            "Ultralytics'; trtexec, DeepStream and Triton want it gone: trt-yolo export --strip-header"
        )
        found |= {f"header: {name}": value[:200] for name, value in metadata.items() if name != "names"}
    return found


def _of_manifest(facts: EngineFacts) -> dict[str, str]:
    options = ", ".join(f"{name} {value}" for name, value in facts.options.items() if name != "builder")
    found = {
        "runs on": ", ".join(facts.compute_capabilities) or "?",
        "built on": facts.device or "a machine without a GPU",
        "platform": facts.platform,
        "CUDA": facts.cuda,
        "batch": "smallest {}, best {}, largest {}".format(*facts.profile),
        "options": options,
        "built from": f"{facts.onnx}, sha256 {facts.onnx_sha256[:12]}",
        "plan": f"sha256 {facts.plan_sha256[:12]}",
    }
    return {name: value for name, value in found.items() if value}
