"""Whether an engine loads here, before TensorRT is asked; and if not, why, and what to do.

Enters: a path, and what is here. Leaves: an `Engine`, or one line. Nothing is deserialized.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trt_yolo.artifacts.manifest import EngineFacts, Manifest
from trt_yolo.engine.library import (
    INSTALL,
    RTX_CAPABILITIES,
    installed_version,
    is_lean,
    not_for_rtx,
)
from trt_yolo.engine.options import EngineOptions, options_from_dict
from trt_yolo.engine.plan import Family, PlanFile, plan_file
from trt_yolo.engine.store import manifest_of
from trt_yolo.errors import EngineError, InputError
from trt_yolo.hardware.gpus import Device, devices, platform_name


@dataclass(frozen=True, kw_only=True)
class Here:
    """What this machine runs engines with.

    Attributes:
        versions: Of the TensorRT families that are installed.
        gpus: The GPUs that answer.
        platform: System and processor.
        lean: Whether its `tensorrt` is the lean runtime, which runs engines built with --version-compatible alone.
    """

    versions: dict[Family, str]
    gpus: Sequence[Device]
    platform: str
    lean: bool = False

    def named(self, family: Family) -> str:
        """A family that is here, as messages call it, with its version."""
        lean = "-lean" if self.lean and family == "tensorrt" else ""
        return f"{family}{lean} {self.versions[family]}"


def this_machine() -> Here:
    """What is here now."""
    families: tuple[Family, ...] = ("tensorrt", "tensorrt-rtx")
    versions = {family: version for family in families if (version := installed_version(family))}
    return Here(versions=versions, gpus=devices(), platform=platform_name(), lean=is_lean())


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine file that was looked at.

    Attributes:
        plan: The file.
        manifest: What trt-yolo wrote beside it; None for other tools' engines.
        problem: Why it does not load here; empty where it should load.
        needs_builder: Whether TensorRT itself is missing here, and the lean runtime builds nothing.
    """

    plan: PlanFile
    manifest: Manifest | None
    problem: str
    needs_builder: bool = False

    @property
    def why_not(self) -> str:
        """The problem in one line, with the file's name and what to do; empty where there is none."""
        if not self.problem:
            return ""
        where = ", where TensorRT itself is" if self.needs_builder else ""
        command = rebuild_command(self.plan.path, self.facts, compatible=self.needs_builder)
        return f"{self.plan.path} does not load here: {self.problem}; for this machine{where}: {command}"

    @property
    def facts(self) -> EngineFacts | None:
        """What the manifest says of the plan."""
        return None if self.manifest is None else self.manifest.engine


def engine_at(path: Path, here: Here | None = None) -> Engine:
    """An engine, and whether it loads.

    Raises:
        EngineError: It is no engine, is damaged, or is not the one that its manifest describes.
        UnsupportedModelError: Its manifest is damaged.
    """
    manifest = manifest_of(plan_file(path))
    plan = plan_file(path)  # as it is now: a writer may have come before the manifest was found
    here = here or this_machine()
    problem = _problem(plan, None if manifest is None else manifest.engine, here)
    return Engine(
        plan=plan, manifest=manifest, problem=problem, needs_builder=here.lean and plan.family == "tensorrt"
    )


def check_loads(path: Path, here: Here | None = None) -> Engine:
    """An engine that loads here.

    Raises:
        EngineError: It does not; the line says what it was built with, what is here, and how to build it again.
    """
    engine = engine_at(path, here)
    if engine.why_not:
        raise EngineError(engine.why_not)
    return engine


def rebuild_command(path: Path, facts: EngineFacts | None, *, compatible: bool = False) -> str:
    """What builds an engine for this machine; `compatible`: for its lean runtime."""
    onnx = str(path.with_name(facts.onnx)) if facts is not None and facts.onnx else "MODEL.onnx"
    try:
        options = EngineOptions() if facts is None else for_this_machine(options_from_dict(facts.options))
    except InputError:
        options = EngineOptions()
    if compatible:
        options = dataclasses.replace(options, version_compatible=True, strip_weights=False)
    arguments = options.arguments()
    return shlex.join(["trt-yolo", "export", onnx, "--format", "engine", *arguments])


def for_this_machine(options: EngineOptions) -> EngineOptions:
    """The same options, without those that name other machines."""
    return dataclasses.replace(options, builder="auto", compute_capability=())


def _problem(plan: PlanFile, facts: EngineFacts | None, here: Here) -> str:
    return _builder_problem(plan, facts, here) or _machine_problem(plan, facts, here)


def _builder_problem(plan: PlanFile, facts: EngineFacts | None, here: Here) -> str:
    if facts is not None and facts.builder != plan.family:
        return f"its manifest says {facts.builder}, and the plan is of {plan.family}"
    version = here.versions.get(plan.family)
    built = f"it was built with {plan.family} {plan.version_text}"
    if version is None:
        others = ", ".join(map(here.named, here.versions)) or "neither TensorRT"
        return f"{built}, and here is {others} ({INSTALL[plan.family]})"
    if here.lean and plan.family == "tensorrt":
        return _lean_problem(plan, facts, here)
    if not _same_version(plan.version, version) and not _compatible(plan, facts, version):
        return f"{built}, and here is {version}"
    return ""


def _lean_problem(plan: PlanFile, facts: EngineFacts | None, here: Here) -> str:
    """The lean runtime has no parser that could give a plan its weights, and no kernels of its own."""
    built, name = f"it was built with tensorrt {plan.version_text}", here.named("tensorrt")
    if facts is None or not facts.options.get("version_compatible"):
        needed = "runs only engines built with --version-compatible"
        return f"{built}, and here is {name}, which {needed} ({INSTALL['tensorrt']})"
    if facts.options.get("strip_weights"):
        return (
            f"{built} without weights, and here is {name}, which cannot give it any ({INSTALL['tensorrt']})"
        )
    version = here.versions["tensorrt"]
    if _same_version(plan.version, version) or _compatible(plan, facts, version):
        return ""
    return f"{built}, and here is {name}"


def _same_version(built: tuple[int, ...], here: str) -> bool:
    """Whether all numbers that both have are the same: JetPack's module says 10.3.0, its plans 10.3.0.30."""
    numbers = _numbers(here)
    return not built or all(one == other for one, other in zip(built, numbers, strict=False))


def _compatible(plan: PlanFile, facts: EngineFacts | None, here: str) -> bool:
    """Whether a plan with a lean runtime was built by an older TensorRT."""
    if facts is None or plan.family != "tensorrt":
        return False
    return bool(facts.options.get("version_compatible")) and plan.version <= _numbers(here)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:4] if part.isdigit())


def _machine_problem(plan: PlanFile, facts: EngineFacts | None, here: Here) -> str:
    if facts is not None and facts.platform not in ("", here.platform) and plan.family == "tensorrt":
        return f"it was built for {facts.platform}, and this is {here.platform}"
    if not here.gpus:
        on_cpu = f"; {facts.onnx} runs on the CPU" if facts is not None and facts.onnx else ""
        return f"no NVIDIA GPU answers here (trt-yolo doctor says what is missing{on_cpu})"
    gpu = here.gpus[0]
    if plan.family == "tensorrt-rtx" and gpu.compute_capability not in RTX_CAPABILITIES:
        onnx = facts.onnx if facts is not None and facts.onnx else "its ONNX"
        return f"{not_for_rtx(gpu)}: use TensorRT itself (--builder tensorrt), or {onnx} in ONNX Runtime"
    if facts is None or not facts.compute_capabilities:
        return ""
    if any(_runs_on(one, gpu.compute_capability, facts) for one in facts.compute_capabilities):
        return ""
    device = f" ({facts.device})" if facts.device else ""
    return (
        f"it was built for compute capability {', '.join(facts.compute_capabilities)}{device}, "
        f"and this is {gpu.compute_capability} ({gpu.name})"
    )


def _runs_on(built: str, here: str, facts: EngineFacts) -> bool:
    if built.endswith("+"):
        return _pair(here) >= _pair(built[:-1])
    if facts.options.get("hardware_compat") == "ampere+":
        return _pair(here) >= (8, 0)
    return built == here


def _pair(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
