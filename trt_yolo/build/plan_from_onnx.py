"""From an ONNX file to a plan, with whichever TensorRT is there.

Enters: a path, options, a profile. Leaves: the plan's bytes. Precision is the ONNX's own: networks are strongly
typed, the builder gets no precision flags. Runs in a process of its own (`process.py`): builders write to stderr as
they like, keep memory, and may crash.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_yolo.engine.library import Library
from trt_yolo.engine.log import INFO, Log, in_one_line, started_builder
from trt_yolo.engine.options import EngineOptions
from trt_yolo.errors import ExportError, InputError
from trt_yolo.system.progress import Progress

if TYPE_CHECKING:
    import tensorrt

_Say = Callable[[str, str], None]
"""Called with the name of a severity, and a line of TensorRT's log."""

STEPS = 1000  # of a build, whatever phases it has
_SEVERITIES = ("fatal", "error", "warning", "info", "verbose")


def build_plan(
    library: Library,
    onnx: Path,
    options: EngineOptions,
    *,
    profile: tuple[int, int, int],
    imgsz_hw: tuple[int, int],
    say: _Say,
    progress: Progress,
    is_wanted: Callable[[], bool],
) -> bytes:
    """The plan of an ONNX file.

    Args:
        library: What builds.
        onnx: The file.
        options: What to ask of it; already checked against it.
        profile: Smallest, best and largest batch, where the graph's is dynamic.
        imgsz_hw: Height and width, where the graph's are dynamic.
        say: Told what TensorRT logs.
        progress: Told the phase, and how far the whole build is.
        is_wanted: Asked after each step; where nobody wants the plan any more, the build stops.

    Raises:
        InputError: The graph does not parse, or this machine lacks what was asked for.
        ExportError: TensorRT failed to build it.
        BackendError: TensorRT does not start here.
        MissingDependencyError: It is the lean runtime, which builds nothing.
    """
    trt = library.trt
    log = Log(library, _told(options, say))
    builder = started_builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(onnx)):
        problems = [_problem(parser.get_error(index)) for index in range(parser.num_errors)]
        raise InputError(f"{library.family} {library.version} does not take {onnx}: {in_one_line(problems)}")
    config = builder.create_builder_config()
    monitor = _monitor(library, progress, is_wanted)
    config.progress_monitor = monitor
    _configure(library, builder, config, options)
    _add_profile(library, builder, network, config, profile, imgsz_hw)
    cache = _timing_cache(config, options, say)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        hint = (
            "; for Turing it takes head graphs alone: add --head" if "Turing" in " ".join(log.errors) else ""
        )
        raise ExportError(
            f"{library.family} {library.version} does not build {onnx}: {in_one_line(log.errors)}{hint}"
        )
    if cache is not None:
        _keep_timing_cache(config, cache, say)
    return bytes(plan)


def _problem(error: tensorrt.ParserError) -> str:
    """What the parser says, with the node that it says it of."""
    node = " ".join(part for part in (error.node_operator(), error.node_name()) if part)
    return f"{error.desc()} ({node})" if node else str(error.desc())


def _told(options: EngineOptions, say: _Say) -> Callable[[int, str], None]:
    """Passes on what is not too fine, with the severity's name."""
    finest = len(_SEVERITIES) if options.verbose else INFO

    def told(severity: int, text: str) -> None:
        if severity <= finest:
            say(_SEVERITIES[min(severity, len(_SEVERITIES) - 1)], text)

    return told


def _monitor(
    library: Library, progress: Progress, is_wanted: Callable[[], bool]
) -> tensorrt.IProgressMonitor:
    """Tells one fraction of all phases, which TensorRT nests and runs on threads of its own."""
    trt = library.trt
    phases = Phases()

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            phases.step(phase_name, step)
            progress(phase_name, int(phases.fraction() * STEPS), STEPS)
            return is_wanted()

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


class Phases:
    """How far a build is, of phases that contain phases. Any thread may call."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._steps: dict[str, tuple[int, int]] = {}
        self._parents: dict[str, str] = {}
        self._told = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase begins."""
        with self._lock:
            self._steps[name] = (0, max(1, steps))
            self._parents[name] = parent or ""

    def step(self, name: str, step: int) -> None:
        """A step of a phase, counted from 0, is done."""
        with self._lock:
            if name in self._steps:
                self._steps[name] = (step + 1, self._steps[name][1])

    def finish(self, name: str) -> None:
        """A phase ends, with all its steps or before them."""
        with self._lock:
            self._steps.pop(name, None)
            self._parents.pop(name, None)

    def fraction(self) -> float:
        """0 to 1, never less than it was."""
        with self._lock:
            roots = [name for name, parent in self._parents.items() if parent not in self._steps]
            self._told = max(self._told, max(map(self._fraction_of, roots), default=0.0))
            return self._told

    def _fraction_of(self, name: str) -> float:
        done, steps = self._steps[name]
        inside = max(
            (
                self._fraction_of(child)
                for child, parent in self._parents.items()
                if parent == name and child != name
            ),
            default=0.0,
        )
        return min(1.0, (done + inside) / steps)


def _configure(
    library: Library, builder: tensorrt.Builder, config: tensorrt.IBuilderConfig, options: EngineOptions
) -> None:
    trt = library.trt
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for inspect; it costs names, no time
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    if options.hardware_compat == "ampere+":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    elif options.hardware_compat == "same-cc":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    flags = {
        trt.BuilderFlag.VERSION_COMPATIBLE: options.version_compatible,
        trt.BuilderFlag.SPARSE_WEIGHTS: options.sparse,
        trt.BuilderFlag.STRIP_PLAN: options.strip_weights,
        trt.BuilderFlag.REFIT_IDENTICAL: options.strip_weights,
    }
    for flag, wanted in flags.items():
        if wanted:
            config.set_flag(flag)
    if library.family == "tensorrt-rtx" and hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        # TensorRT for RTX promises stream capture for such engines alone
        config.set_flag(getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"))  # noqa: B009
    if options.dla is not None:
        _configure_dla(library, builder, config, options.dla)
    if options.compute_capability:
        _configure_capabilities(library, config, options.compute_capability)


def _configure_dla(
    library: Library, builder: tensorrt.Builder, config: tensorrt.IBuilderConfig, core: int
) -> None:
    cores = builder.num_DLA_cores
    if core >= cores:
        raise InputError(
            f"--dla {core} is not possible here: {library.family} {library.version} sees {cores} DLA cores; "
            "Orin has two, with TensorRT up to 10.7 or from 11.4.1; leave --dla out to use the GPU"
        )
    config.default_device_type = library.trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(library.trt.BuilderFlag.GPU_FALLBACK)


def _configure_capabilities(library: Library, config: Any, capabilities: Sequence[str]) -> None:
    """TensorRT for RTX alone has these, so that the stubs of 10.x do not know them."""
    known: Any = getattr(library.trt, "ComputeCapability")  # noqa: B009
    names = {f"{name[2:-1]}.{name[-1]}": name for name in dir(known) if name.startswith("SM")}
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        if capability not in names:
            raise InputError(
                f"--compute-capability {capability} is none that {library.family} {library.version} builds for; "
                f"give {', '.join(sorted(names, key=float))}, or leave it out for 8.0 and every later one"
            )
        config.set_compute_capability(getattr(known, names[capability]), index)


def _add_profile(
    library: Library,
    builder: tensorrt.Builder,
    network: tensorrt.INetworkDefinition,
    config: tensorrt.IBuilderConfig,
    profile: tuple[int, int, int],
    imgsz_hw: tuple[int, int],
) -> None:
    """One profile: the batch ranges, everything else is fixed."""
    trt = library.trt
    optimization = builder.create_optimization_profile()
    dynamic = 0
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = [tensor.shape[axis] for axis in range(len(tensor.shape))]
        if -1 in shape:
            dynamic += 1
            optimization.set_shape(
                tensor.name, *(trt.Dims(_sized(shape, count, imgsz_hw)) for count in profile)
            )
    if dynamic:
        config.add_optimization_profile(optimization)


def _sized(shape: Sequence[int], batch: int, imgsz_hw: tuple[int, int]) -> list[int]:
    """The shape with numbers: (N, H, W, 3) or (N, 3, H, W)."""
    sides = list(imgsz_hw)
    return [size if size != -1 else batch if axis == 0 else sides.pop(0) for axis, size in enumerate(shape)]


def _timing_cache(config: tensorrt.IBuilderConfig, options: EngineOptions, say: _Say) -> Path | None:
    """The file of the timing cache, its content given to the builder."""
    path = options.timing_cache
    if path is None:
        return None
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        say("warning", f"{path} is of another TensorRT or GPU; it is written anew")
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return path


def timing_cache_part(path: Path, process: int) -> Path:
    """Where a builder's process writes the timing cache before it takes its place."""
    return path.with_name(f".{path.name}.{process}.part")


def _keep_timing_cache(config: tensorrt.IBuilderConfig, path: Path, say: _Say) -> None:
    part = timing_cache_part(path, os.getpid())
    try:
        part.write_bytes(bytes(config.get_timing_cache().serialize()))
        part.replace(path)
    except OSError as error:
        say("warning", f"the timing cache {path} cannot be written: {error.strerror or error}")
