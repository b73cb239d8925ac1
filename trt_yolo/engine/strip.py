"""A plain plan of an engine that Ultralytics exported, which puts a header before it.

Enters: its path. Leaves: `NAME-plain.engine` for trtexec, DeepStream and Triton, with a manifest, so that what the
header said is not lost. A model that trt-yolo does not run, a segmentation for one, gets no manifest.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_yolo.artifacts.files import check_writable
from trt_yolo.artifacts.manifest import EngineFacts, Manifest, manifest_from_ultralytics
from trt_yolo.artifacts.shapes import anchor_count
from trt_yolo.engine.plan import PlanFile, manifest_path, plan_file, ultralytics_metadata
from trt_yolo.engine.store import locked, part_path, publish, write_durably
from trt_yolo.errors import EngineError, InputError, UnsupportedModelError

if TYPE_CHECKING:
    from typing import TypeGuard

_MOST = 1 << 16  # pixels, or images a batch
_STRIDES = {16: (8, 16), 32: (8, 16, 32), 64: (8, 16, 32, 64)}


def plain_from_ultralytics(source: Path, *, out: Path | None = None) -> Path:
    """The path of the plain engine.

    Args:
        source: An engine with Ultralytics' header.
        out: The folder; None: the engine's own.

    Raises:
        EngineError: It is no engine, or has no header.
        InputError: The folder cannot be written.
    """
    plan = plan_file(source)
    if not plan.offset:
        raise EngineError(f"{source} has no header: it is plain already")
    folder = source.parent if out is None else out
    check_writable(folder)
    engine = folder / f"{source.stem}-plain.engine"
    with locked(engine):
        part = part_path(engine, of=engine)
        try:
            write_durably(part, plan.read())
            manifest = _manifest(plan)
            if manifest is None:
                manifest_path(engine).unlink(missing_ok=True)  # of an engine that had this name before
                part.replace(engine)
            else:
                publish(part, engine, manifest)
        except OSError as error:
            raise InputError(
                f"cannot write to {folder}: {error.strerror or error}; give another with --out"
            ) from error
        finally:
            part.unlink(missing_ok=True)
    return engine


def _manifest(plan: PlanFile) -> Manifest | None:
    """What the header says, in our words; None where it is no YOLOv8 detection head, or makes no sense."""
    entries = plan.metadata
    names, imgsz, batch, stride = (entries.get(name) for name in ("names", "imgsz", "batch", "stride"))
    given = entries.get("args")
    arguments = given if isinstance(given, dict) else {}
    strides = _STRIDES.get(stride) if isinstance(stride, int) else None
    if not isinstance(names, dict) or not _is_size(imgsz) or not _is_count(batch) or strides is None:
        return None
    anchors = anchor_count((imgsz[0], imgsz[1]), strides)
    try:
        manifest = manifest_from_ultralytics(
            ultralytics_metadata(entries),
            input_shape=[batch, 3, *imgsz],
            output_shapes=[[batch, 4 + len(names), anchors]],
            origin=str(plan.path),
        )
    except UnsupportedModelError:
        return None
    if arguments.get("nms"):
        return None
    facts = EngineFacts(
        builder=plan.family, builder_version=plan.version_text, platform="", cuda="", compute_capabilities=(),
        device="", profile=(batch, batch, batch), options={}, onnx="", onnx_sha256="",
        plan_sha256=plan.sha256(), plan_bytes=plan.size,
    )  # fmt: skip
    return dataclasses.replace(
        manifest, engine=facts, source=plan.path.name, exporter="ultralytics", precision=_precision(arguments)
    )


def _precision(arguments: dict[str, Any]) -> str:
    """What was asked for: `half` and `int8`, or since 8.4 `quantize` with bits."""
    if arguments.get("int8") or str(arguments.get("quantize")) in ("8", "int8"):
        return "int8"
    return "fp16" if arguments.get("half") or str(arguments.get("quantize")) in ("16", "fp16") else "fp32"


def _is_size(imgsz: Any) -> TypeGuard[list[int]]:
    return isinstance(imgsz, list) and len(imgsz) == 2 and all(_is_count(side) for side in imgsz)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST
