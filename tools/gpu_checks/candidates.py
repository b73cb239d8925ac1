"""What is checked: ONNX files in each precision, static and dynamic; engines of them; and ways to run both here.

What is made stays in the job's folder: a part makes what an earlier one did not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from gpu_checks.job import Job, Report, silent
from gpu_checks.record import Row
from trt_yolo.backends.base import Backend
from trt_yolo.backends.onnxruntime_providers import PROVIDERS, ProviderName, unusable
from trt_yolo.engine.from_onnx import engine_from_onnx, manifest_of_onnx
from trt_yolo.engine.library import INSTALL, MODULES, Library, is_found
from trt_yolo.engine.loadable import engine_at
from trt_yolo.engine.options import EngineOptions
from trt_yolo.engine.plan import Family
from trt_yolo.errors import MissingDependencyError, TrtYoloError
from trt_yolo.export.exporting import export_model
from trt_yolo.export.options import ExportOptions, Precision
from trt_yolo.export.weights import demo_checkpoint
from trt_yolo.loading import GpuOptions, load_backend
from trt_yolo.shapes import BatchRange

DYNAMIC = BatchRange(1, 16)
BATCHES = (BatchRange(1, 1), DYNAMIC)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model, and what runs it.

    Attributes:
        label: In a few words.
        path: The `.engine` or `.onnx` that is run.
        onnx: The graph, for ONNX Runtime on the CPU.
        runs_on: `tensorrt`, `tensorrt-rtx`, or `onnxruntime` and its provider.
        provider: Of ONNX Runtime; `auto` for an engine.
        precision: `fp32`, `fp16` or `int8`.
        batch: What it takes.
    """

    label: str
    path: Path
    onnx: Path
    runs_on: str
    provider: ProviderName
    precision: str
    batch: BatchRange

    @property
    def is_dynamic(self) -> bool:
        """Whether it takes several batch sizes."""
        return not self.batch.is_static

    def gpu(self, **options: Any) -> GpuOptions:
        """How it is run on a GPU."""
        return GpuOptions(provider=self.provider, **options)

    def backend(self) -> Backend:
        """What is under `trt_yolo.load`, with its defaults."""
        return load_backend(self.path, provider=self.provider)


def onnx_files(job: Job, report: Report = silent) -> list[Path]:
    """The graphs: each precision, static and dynamic; of a graph that was given, that one."""
    if job.model is not None and job.model.endswith(".onnx"):
        return [Path(job.model)]
    source = Path(job.model) if job.model is not None else demo_checkpoint()
    found = []
    for precision in job.precisions:
        for batch in BATCHES:
            path = _exported(job, source, precision, batch, report)
            found += [] if path is None else [path]
    return found


def _exported(job: Job, source: Path, precision: str, batch: BatchRange, report: Report) -> Path | None:
    folder = job.folder / "onnx" / f"{precision}-{str(batch).replace(':', '-')}"
    there, begun = sorted(folder.glob("*.onnx")), folder / "begun"
    if there:
        return there[0]
    is_mine = not begun.exists() or begun.read_text() == str(os.getpid())
    if not is_mine:  # an earlier part had no time for it, or failed
        return None
    folder.mkdir(parents=True, exist_ok=True)
    begun.write_text(str(os.getpid()))
    options = ExportOptions(precision=cast("Precision", precision), batch=batch, data=job.data)
    name, begun_s = f"export {precision}, batch {batch}", time.monotonic()
    try:
        made = export_model(source, out=folder, options=options)
    except TrtYoloError as error:
        report(Row(name=name, state="failed", note=str(error)))
        return None
    drop = "" if made.accuracy is None else f"mAP50-95 {-made.accuracy.drop:+.2f} points"
    report(Row(name=name, state="ok", value=time.monotonic() - begun_s, unit="s", note=drop))
    return made.artifacts[0].path


def engines(job: Job, report: Report = silent) -> list[tuple[Path, Path, Family]]:
    """Engine, its ONNX and its builder, for each builder that is there."""
    found = []
    for family in MODULES:
        reason = _missing(family, job)
        if reason:
            report(Row(name=f"build with {family}", state="absent", note=reason))
            continue
        for onnx in onnx_files(job):
            path = _built(job, onnx, family, report)
            found += [] if path is None else [(path, onnx, family)]
    return found


def _missing(family: Family, job: Job) -> str:
    if not is_found(family):
        return f"{MODULES[family]} is not installed: {INSTALL[family]}"
    if family == "tensorrt" and job.rehearse:
        return "it builds on a GPU, and this is a rehearsal"
    try:
        Library(family)
    except MissingDependencyError as error:
        return str(error)
    return ""


def _built(job: Job, onnx: Path, family: Family, report: Report) -> Path | None:
    folder = job.folder / f"engines-{family}" / onnx.parent.name
    there = sorted(folder.glob("*.engine"))
    if there:
        return there[0]
    manifest = manifest_of_onnx(onnx)
    name = f"build with {family}: {manifest.precision}, batch {manifest.batch}"
    if manifest.target == "cpu":
        report(Row(name=name, state="absent", note="its INT8 is laid out for a CPU"))
        return None
    try:
        built = engine_from_onnx(onnx, out=folder, options=EngineOptions(builder=family), check=False)
    except TrtYoloError as error:
        report(Row(name=name, state="failed", note=str(error)))
        return None
    size = f"{built.path.stat().st_size / 1e6:.1f} MB, {built.peak_bytes / 1e6:.0f} MB of memory"
    report(Row(name=name, state="ok", value=built.build_seconds, unit="s", note=size))
    return built.path


def candidates(job: Job, report: Report = silent) -> list[Candidate]:
    """All that runs here, the best first: TensorRT, TensorRT for RTX, ONNX Runtime's providers."""
    found = list(_engine_candidates(job, report)) if not job.rehearse else []
    providers: tuple[str, ...] = ("cpu",) if job.rehearse else tuple(PROVIDERS)
    for provider in providers:
        reason = "" if provider == "cpu" else unusable(provider)
        if reason:
            report(Row(name=f"ONNX Runtime, {provider}", state="absent", note=reason))
            continue
        found += [_onnx_candidate(path, provider) for path in onnx_files(job)]
    return found


def _engine_candidates(job: Job, report: Report) -> Iterator[Candidate]:
    for path, onnx, family in engines(job):
        looked_at = engine_at(path)
        manifest = looked_at.manifest
        assert manifest is not None
        label = f"{family} {manifest.precision}, batch {manifest.batch}"
        if looked_at.problem:
            report(Row(name=label, state="failed", note=f"does not load here: {looked_at.problem}"))
            continue
        yield Candidate(
            label=label, path=path, onnx=onnx, runs_on=family, provider="auto",
            precision=manifest.precision, batch=manifest.batch,
        )  # fmt: skip


def _onnx_candidate(path: Path, provider: str) -> Candidate:
    manifest = manifest_of_onnx(path)
    return Candidate(
        label=f"ONNX Runtime {provider}, {manifest.precision}, batch {manifest.batch}",
        path=path, onnx=path, runs_on=f"onnxruntime {provider}", provider=cast("ProviderName", provider),
        precision=manifest.precision, batch=manifest.batch,
    )  # fmt: skip
