"""`trt-yolo doctor`: what is installed, what is missing for what, which GPUs answer, which engines load here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trt_yolo.engine.loadable import Here


def doctor(
    engines: Annotated[Path, typer.Option(help="Folder whose engines are looked at.")] = Path("engines"),
) -> None:
    """Say what is installed, what is missing for CPU, GPU, RTX and export, and which engines load here."""
    import platform

    from trt_yolo.cli.render import print_table
    from trt_yolo.engine.loadable import this_machine
    from trt_yolo.environment import FEATURES, missing, probe, warnings
    from trt_yolo.version import __version__

    probes = {name: probe(name) for feature in FEATURES for name in feature.packages}
    print_table(
        f"trt-yolo {__version__}, Python {platform.python_version()}, {platform.platform()}",
        ["package", "version", "state"],
        [[one.package, one.version or "-", one.state] for one in probes.values()],
    )
    here = this_machine()
    for line in _gpu_lines(here):
        typer.echo(line)
    for feature in FEATURES:
        lacking = missing(feature, probes)
        if not lacking:
            typer.echo(f"{feature.name}: ready ({feature.purpose})")
        else:
            typer.echo(f"{feature.name}: missing {', '.join(lacking)} ({feature.purpose}): {feature.install}")
    for line in warnings(probes):
        typer.echo(f"note: {line}")
    _show_engines(engines, here)


def _gpu_lines(here: Here) -> list[str]:
    from trt_yolo.backends.lanes import strategy_for
    from trt_yolo.backends.onnxruntime_providers import chosen_provider
    from trt_yolo.engine.device import cuda_version, driver_version, is_mps_running

    cuda = cuda_version()
    lines = [
        f"NVIDIA driver: {driver_version() or 'version unknown'}, for CUDA {cuda}"
        if cuda
        else "NVIDIA driver: none found; models run on the CPU"
    ]
    for gpu in here.gpus:
        kind = ", shares the processor's memory" if gpu.integrated else ""
        strategy = strategy_for(integrated=gpu.integrated, can_map=gpu.can_map, registered=gpu.can_register)
        lines.append(
            f"GPU {gpu.index}: {gpu.name}, compute capability {gpu.compute_capability}, "
            f"{gpu.memory_bytes / 2**30:.1f} GiB{kind}; frames reach it {strategy}"
        )
    if here.gpus:
        lines.append(f"MPS: {'running' if is_mps_running() else 'not running: workers take turns on a GPU'}")
    if cuda and not here.gpus:
        lines.append("GPU: none answers; see nvidia-smi, and CUDA_VISIBLE_DEVICES")
    provider, reason = chosen_provider("auto")
    lines.append(f"an .onnx runs on: {provider}" + (f" ({reason})" if reason else ""))
    return lines + [f"{family}: {version}" for family, version in here.versions.items()]


def _show_engines(folder: Path, here: Here) -> None:
    from trt_yolo.cli.render import print_table
    from trt_yolo.engine.loadable import engine_at
    from trt_yolo.errors import InputError

    rows = []
    for path in _engines(folder):
        try:
            engine = engine_at(path, here)
            built = f"{engine.plan.family} {engine.plan.version_text}"
            rows.append([path.name, built, f"no: {engine.problem}" if engine.problem else "yes"])
        except InputError as error:
            rows.append([path.name, "", f"no: {error}"])
    if rows:
        print_table(f"engines in {folder}", ["engine", "built with", "loads here"], rows)


def _engines(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix in (".engine", ".plan"))
    except OSError:  # not there, no folder, not readable: nothing to look at
        return []
