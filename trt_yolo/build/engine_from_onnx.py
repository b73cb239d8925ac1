"""An engine of an ONNX file: built, named, described, and in its place whole or not at all.

Enters: a graph that trt-yolo or Ultralytics exported, and options. Leaves: `NAME.engine` and its manifest, with
TensorRT's log beside them. Knows no checkpoints and no precision: the ONNX has it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx

from trt_yolo.artifacts.files import check_writable, file_sha256, write_together
from trt_yolo.artifacts.manifest import (
    METADATA_KEY,
    EngineFacts,
    Manifest,
    manifest_from_json,
    manifest_from_ultralytics,
)
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.build.process import BuildRequest, Built, run_build
from trt_yolo.build.self_test import SelfTest, check_engine
from trt_yolo.engine.library import chosen_family, installed_version
from trt_yolo.engine.options import EngineOptions, check_dla, check_profile
from trt_yolo.engine.plan import Family, failed_log_path, log_path, manifest_path, plan_file
from trt_yolo.engine.store import locked, manifest_of, part_path, publish, write_durably
from trt_yolo.errors import ExportError, InputError, TrtYoloError
from trt_yolo.graph.onnx_file import parsed_model
from trt_yolo.graph.writer import dimensions
from trt_yolo.hardware.gpus import Device, cuda_version, devices, platform_name
from trt_yolo.system.interruption import uninterrupted
from trt_yolo.system.progress import Progress, no_progress
from trt_yolo.version import __version__

_MOST_NAME = 255  # bytes, of nearly every file system
_PORTABLE = ("8.0+",)  # what TensorRT for RTX builds for where nobody says: those of RTX_CAPABILITIES

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """An engine that was built.

    Attributes:
        path: Where it is.
        manifest: What it is.
        log: TensorRT's log.
        warnings: What TensorRT warned of.
        build_seconds: What TensorRT took, its start not counted; 0 where nothing was built.
        peak_bytes: The most memory that building took; 0 where the system does not tell.
        self_test: What the engine was put to on the GPU; None where nothing here runs it, or nobody asked.
    """

    path: Path
    manifest: Manifest
    log: Path
    warnings: list[str]
    build_seconds: float = 0.0
    peak_bytes: int = 0
    self_test: SelfTest | None = None


def engine_from_onnx(
    source: Path,
    *,
    out: Path | None = None,
    engine: Path | None = None,
    unless: Callable[[], bool] | None = None,
    options: EngineOptions | None = None,
    check: bool = True,
    progress: Progress = no_progress,
) -> EngineReport:
    """Builds the engine of an ONNX file.

    Args:
        source: A deploy graph or a head graph.
        out: The folder; None: the ONNX's own. In another, a copy of the ONNX goes with the engine, which is built
            anew from it.
        engine: The engine's own path, in the ONNX's folder; None names it after the ONNX.
        unless: Asked when nobody else builds this engine any more; if it says yes, nothing is built.
        options: What to ask of the builder.
        check: Whether to run the self-test, where a GPU can run the engine, before it takes its place.
        progress: Told how far it is.

    Raises:
        InputError: The graph, an option or the folder cannot be used.
        ExportError: TensorRT failed to build; an engine that was there before is there still.
        MissingDependencyError: No TensorRT is installed.
    """
    options = options or EngineOptions()
    out = source.parent if out is None else out
    manifest = manifest_of_onnx(source)
    if manifest.target == "cpu":
        raise InputError(
            f"{source} is int8 for ONNX Runtime on a CPU, which TensorRT does not take; export it without --target cpu"
        )
    gpus = devices()
    family = chosen_family(options.builder, gpus=gpus)
    profile = check_profile(options.profile, manifest.batch, origin=str(source))
    if family == "tensorrt" and options.dla is not None:
        check_dla(options, profile, quantized=_is_quantized(source), origin=str(source))
    check_writable(out)
    engine = engine or out / f"{engine_stem(source.stem, family, options)}.engine"
    _check_name(engine)
    if family == "tensorrt" and options.timing_cache is None:
        options = dataclasses.replace(options, timing_cache=_default_cache(out, gpus[0]))
    with locked(engine):
        if unless is not None and unless():
            return _as_it_is(engine)
        request = BuildRequest(
            family=family, onnx=source, plan=part_path(engine, of=engine),
            log=part_path(log_path(engine), of=engine), failed_log=failed_log_path(engine),
            options=options, profile=profile, imgsz_hw=manifest.imgsz_hw,
        )  # fmt: skip
        with _logged(request, log_path(engine)):
            built = run_build(request, progress)
            manifest = _described(manifest, request, built, gpus)
            _copy_beside(source, out)
            checked = _self_test(request, manifest) if check else None
            publish(request.plan, engine, manifest)
    for line in built.warnings:
        _log.warning("%s: %s", family, line)
    return EngineReport(
        path=engine, manifest=manifest, log=log_path(engine), warnings=built.warnings,
        build_seconds=built.seconds, peak_bytes=built.peak_bytes, self_test=checked,
    )  # fmt: skip


def manifest_of_onnx(path: Path) -> Manifest:
    """What an ONNX file says of itself.

    Raises:
        InputError: It cannot be read.
        UnsupportedModelError: It is no graph of YOLOv8.
    """
    model = parsed_model(path)
    metadata = {str(entry.key): str(entry.value) for entry in model.metadata_props}
    if METADATA_KEY in metadata:
        return manifest_from_json(metadata[METADATA_KEY], origin=str(path))
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) != 1:
        raise InputError(
            f"{path} is no YOLOv8 model: it has {len(inputs)} inputs; give one that trt-yolo exported"
        )
    return manifest_from_ultralytics(
        metadata,
        input_shape=dimensions(inputs[0]),
        output_shapes=[dimensions(output) for output in model.graph.output],
        origin=str(path),
    )


def _is_quantized(path: Path) -> bool:
    """Whether an ONNX file that can be read has INT8 in it."""
    model = onnx.load(str(path), load_external_data=False)
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in model.graph.node)


def _as_it_is(engine: Path) -> EngineReport:
    manifest = manifest_of(plan_file(engine))
    assert manifest is not None  # whoever said that nothing need be built has read it
    return EngineReport(path=engine, manifest=manifest, log=log_path(engine), warnings=[])


def engine_stem(stem: str, family: Family, options: EngineOptions) -> str:
    """The engine's name: the ONNX's, and what is not its default."""
    if family == "tensorrt-rtx":
        stem += "-rtx"
    stem += "".join(f"-sm{capability.replace('.', '')}" for capability in options.compute_capability)
    stem += {"none": "", "ampere+": "-ampere-plus", "same-cc": "-same-cc"}[options.hardware_compat]
    stem += "-compatible" if options.version_compatible else ""
    stem += "-stripped" if options.strip_weights else ""
    return stem + ("" if options.dla is None else f"-dla{options.dla}")


def _check_name(engine: Path) -> None:
    longest = manifest_path(part_path(engine, of=engine)).name
    too_many = len(os.fsencode(longest)) - _MOST_NAME
    if too_many > 0:
        raise InputError(
            f"{engine.name} is too long a name: the files that grow beside it have {too_many} characters too many; "
            "rename the model"
        )


def _copy_beside(source: Path, out: Path) -> None:
    """The ONNX goes where its engine goes: it is built anew from it."""
    if source.parent.resolve() != out.resolve():
        files = [one for one in (source, source.with_name(source.name + ".json")) if one.is_file()]
        write_together({out / one.name: one.read_bytes() for one in files})


def _default_cache(out: Path, gpu: Device) -> Path:
    """The timing cache of a version on a device, in the engine's folder."""
    name = re.sub(
        r"[^A-Za-z0-9.]+", "-", f"{installed_version('tensorrt')}-{gpu.name}-sm{gpu.compute_capability}"
    )
    return out / f"timing-{name}.cache"


def _self_test(request: BuildRequest, manifest: Manifest) -> SelfTest | None:
    """On the new plan where it grew: the engine that it is to replace is there until it has passed."""
    write_durably(manifest_path(request.plan), manifest.to_json().encode())
    return check_engine(request.plan, request.onnx)


@contextlib.contextmanager
def _logged(request: BuildRequest, log: Path) -> Iterator[None]:
    """A build that succeeds or fails leaves its log; one that is interrupted leaves nothing."""
    try:
        yield
        with contextlib.suppress(OSError):  # the engine is in its place: a log is not worth an error
            request.log.replace(log)
            request.failed_log.unlink(missing_ok=True)
    except TrtYoloError:
        with contextlib.suppress(OSError):
            if request.log.stat().st_size:
                request.log.replace(request.failed_log)
        raise
    finally:
        with uninterrupted():
            for path in (request.plan, manifest_path(request.plan), request.log):
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)


def _described(manifest: Manifest, request: BuildRequest, built: Built, gpus: list[Device]) -> Manifest:
    plan = plan_file(request.plan)
    if plan.family != request.family:
        raise ExportError(f"{request.family} made a plan of {plan.family}; please report this")
    facts = EngineFacts(
        builder=request.family,
        builder_version=plan.version_text,
        platform=platform_name(),
        cuda=cuda_version(),
        compute_capabilities=_capabilities(request, gpus),
        device=gpus[0].name if gpus else "",
        profile=request.profile,
        options=dataclasses.replace(request.options, builder=request.family).to_dict(),
        onnx=request.onnx.name,
        onnx_sha256=file_sha256(request.onnx),
        plan_sha256=plan.sha256(),
        plan_bytes=plan.size,
    )
    return dataclasses.replace(
        manifest,
        batch=BatchRange(request.profile[0], request.profile[2]),
        engine=facts,
        version=__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


def _capabilities(request: BuildRequest, gpus: list[Device]) -> tuple[str, ...]:
    if request.family == "tensorrt":
        return (gpus[0].compute_capability,)
    return request.options.compute_capability or _PORTABLE
