"""An engine of whatever names a model: exported to ONNX first, or built from the ONNX that is there.

Enters: a `.pt`, a head graph or an exported ONNX, and the options of both stages. Leaves: an `ExportReport` that
names the ONNX, where one was made, and the engine.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.build.engine_from_onnx import engine_from_onnx, manifest_of_onnx
from trt_yolo.engine.library import chosen_family, installed_version
from trt_yolo.engine.options import EngineOptions, check_dla, check_family, check_profile
from trt_yolo.errors import InputError, UnsupportedModelError
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import DEFAULT_OUT, ExportOptions
from trt_yolo.export.report import Artifact, ExportReport
from trt_yolo.hardware.gpus import devices
from trt_yolo.system.progress import Progress, no_progress


def engine_from_model(
    source: Path,
    *,
    out: Path | None = None,
    options: ExportOptions | None = None,
    engine: EngineOptions | None = None,
    progress: Progress = no_progress,
) -> ExportReport:
    """Exports and builds.

    Args:
        source: A checkpoint, a head graph, or a graph that trt-yolo exported, which is built as it is.
        out: The folder; None: the folder of an exported graph, else `engines`.
        options: What to export.
        engine: What to ask of the builder.
        progress: Told what is being done.

    Raises:
        InputError: A file, an option or the folder cannot be used.
        ExportError: A check or the build failed; the ONNX that was made before is kept.
        MissingDependencyError: No TensorRT is installed.
    """
    options, engine = options or ExportOptions(), engine or EngineOptions()
    _check_now(options, engine)
    exported = _exported_manifest(source)
    if exported is not None and (exported.graph == "deploy" or options.head):
        _check_nothing_to_export(source, exported, options)
        report = ExportReport(artifacts=[], manifest=exported, parity=None)
        onnx, folder = source, out
    else:
        folder = out or DEFAULT_OUT
        report = export_model(source, out=folder, options=_with_batch(options, engine), progress=progress)
        onnx = report.artifacts[0].path
    built = engine_from_onnx(onnx, out=folder, options=engine, check=options.check, progress=progress)
    artifact = Artifact(
        path=built.path, format="engine", precision=built.manifest.precision, bytes=built.path.stat().st_size
    )
    return dataclasses.replace(
        report,
        artifacts=[*report.artifacts, artifact],
        manifest=built.manifest,
        engine=built,
    )


def _check_now(options: ExportOptions, engine: EngineOptions) -> None:
    """Says what cannot be built now, not after minutes of calibration."""
    gpus = devices()
    family = chosen_family(engine.builder, gpus=gpus)
    check_family(engine, family, installed_version(family), has_gpu=bool(gpus))
    if engine.profile is not None and options.batch is not None:
        check_profile(engine.profile, options.batch, origin=f"--batch {options.batch}")
    if family == "tensorrt":
        batch = options.batch or BatchRange(1, 1)
        profile = engine.profile or (batch.minimum, batch.maximum, batch.maximum)
        check_dla(engine, profile, quantized=options.precision == "int8", origin="this export")
    if options.precision == "int8" and options.low_precision.target == "cpu":
        raise InputError(
            "--target cpu lays int8 out for ONNX Runtime, and TensorRT takes only its own; leave it out"
        )


def _exported_manifest(source: Path) -> Manifest | None:
    """Of a graph that trt-yolo exported; None for anything else, which the exporter reads for itself."""
    if source.suffix.lower() != ".onnx" or not source.is_file():
        return None
    try:
        manifest = manifest_of_onnx(source)
    except UnsupportedModelError:
        return None
    return manifest if manifest.version else None


def _check_nothing_to_export(source: Path, exported: Manifest, options: ExportOptions) -> None:
    asked = {
        "--imgsz": options.imgsz_hw,
        "--batch": options.batch,
        "--opset": options.opset,
        "--rows": options.rows,
        "--letterbox gpu": options.source_hw,
        "--data": options.data,
    }
    given = [option for option, value in asked.items() if value is not None]
    given += ["--head"] if options.head and exported.graph == "deploy" else []
    given += [] if options.exporter == "auto" else [f"--exporter {options.exporter}"]
    given += [] if options.precision == "fp32" else [f"--{options.precision}"]
    if given:
        raise InputError(
            f"{source} is exported already, and {', '.join(given)} would change the graph; "
            "leave that out, or give the .pt it was made from"
        )


def _with_batch(options: ExportOptions, engine: EngineOptions) -> ExportOptions:
    """A profile says which batches the graph must take, where nothing else does."""
    if engine.profile is None or options.batch is not None:
        return options
    return dataclasses.replace(options, batch=BatchRange(engine.profile[0], engine.profile[2]))
