"""`trt-yolo doctor`: what is installed, what is missing for what, which CPUs and GPUs there are, which engines
load."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from trt_yolo.engine.compatibility import Here

_Found = dict[str, Any]


def doctor(
    engines: Annotated[Path, typer.Option(help="Folder whose engines are looked at.")] = Path("engines"),
    json_line: Annotated[bool, typer.Option("--json", help="Only one line of JSON.")] = False,
) -> None:
    """Say what is installed, what is missing for CPU, GPU, RTX and export, and which engines load here."""
    from trt_yolo.cli.render import print_json
    from trt_yolo.engine.compatibility import this_machine

    here = this_machine()
    found = _software() | _processor() | _hardware(here) | {"engines": _engines(engines, here)}
    if json_line:
        print_json(found)
    else:
        _show(found, engines)


def _software() -> _Found:
    import dataclasses
    import platform

    from trt_yolo.hardware.machine import PACKAGES
    from trt_yolo.hardware.packages import features, missing, probe, warnings
    from trt_yolo.version import __version__

    known = features()
    names = [*(name for feature in known for name in feature.packages), *PACKAGES]
    probes = {name: probe(name) for name in names}
    return {
        "version": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "packages": [dataclasses.asdict(one) for one in probes.values()],
        "features": [{**dataclasses.asdict(one), "missing": missing(one, probes)} for one in known],
        "notes": warnings(probes) + ([] if known else ["trt-yolo is not installed: pip install -e ."]),
    }


def _processor() -> _Found:
    from trt_yolo.hardware.cores import usable_cpus
    from trt_yolo.hardware.processor import int8_instructions, processor

    cpus, facts = usable_cpus(), processor(Path("/"))
    return {
        "cpu": {
            "name": facts["cpu"],
            "cpus": cpus.count,
            "of": cpus.machine,
            "why": cpus.reason,
            "quota": cpus.quota,
            "flags": facts["cpu_flags"],
            "int8": int8_instructions(facts["cpu_flags"]),
        }
    }


def _hardware(here: Here) -> _Found:
    import dataclasses

    from trt_yolo.backends.binding import chosen_binding
    from trt_yolo.backends.lanes import strategy_for
    from trt_yolo.backends.onnxruntime_providers import chosen_provider
    from trt_yolo.errors import TrtYoloError
    from trt_yolo.hardware.gpus import cuda_version, driver_version, is_mps_running

    try:
        binding, why_binding = chosen_binding()
    except TrtYoloError as error:
        binding, why_binding = "", str(error)
    provider, why_provider = chosen_provider("auto")
    gpus = []
    for gpu in here.gpus:
        strategy = strategy_for(integrated=gpu.integrated, can_map=gpu.can_map, registered=gpu.can_register)
        gpus.append({**dataclasses.asdict(gpu), "memory_strategy": strategy})
    return {
        "driver": driver_version(),
        "cuda": cuda_version(),
        "gpus": gpus,
        "mps": is_mps_running(),
        "binding": {"name": binding, "why": why_binding},
        "provider": {"name": provider, "why": why_provider},
        "tensorrt": [here.named(family) for family in here.versions],
    }


def _engines(folder: Path, here: Here) -> list[_Found]:
    from trt_yolo.engine.compatibility import engine_at
    from trt_yolo.errors import InputError

    rows = []
    for path in _engine_files(folder):
        try:
            engine = engine_at(path, here)
            built = f"{engine.plan.family} {engine.plan.version_text}"
            rows.append({"engine": path.name, "built_with": built, "problem": engine.problem})
        except InputError as error:
            rows.append({"engine": path.name, "built_with": "", "problem": str(error)})
    return rows


def _engine_files(folder: Path) -> list[Path]:
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]  # as macOS's ._a.engine
        return sorted(folder / name for name in names if name.endswith((".engine", ".plan")))
    except OSError:  # not there, no folder, not readable: nothing to look at
        return []


def _show(found: _Found, folder: Path) -> None:
    from trt_yolo.cli.render import print_table

    print_table(
        f"trt-yolo {found['version']}, Python {found['python']}, {found['system']}",
        ["package", "version", "state"],
        [[one["package"], one["version"] or "-", one["state"]] for one in found["packages"]],
    )
    for line in (*_processor_lines(found["cpu"]), *_hardware_lines(found), *_feature_lines(found)):
        typer.echo(line)
    if found["engines"]:
        rows = [
            [one["engine"], one["built_with"], f"no: {one['problem']}" if one["problem"] else "yes"]
            for one in found["engines"]
        ]
        print_table(f"engines in {folder}", ["engine", "built with", "loads here"], rows)


def _processor_lines(cpu: _Found) -> list[str]:
    lines = [f"CPU: {cpu['name'] or 'name unknown'}; {cpu['cpus']} of {cpu['of']} CPUs ({cpu['why']})"]
    if cpu["int8"]:
        lines.append(f"INT8 on the CPU: {cpu['int8']}")
    elif cpu["flags"]:
        lines.append("INT8 on the CPU: no faster than FP32 (no VNNI or similar instructions); use FP32")
    return lines


def _hardware_lines(found: _Found) -> list[str]:
    lines = ["NVIDIA driver: none found; models run on the CPU"]
    if found["cuda"]:
        lines = [f"NVIDIA driver: {found['driver'] or 'version unknown'}, for CUDA {found['cuda']}"]
    for gpu in found["gpus"]:
        kind = ", shares the processor's memory" if gpu["integrated"] else ""
        lines.append(
            f"GPU {gpu['index']}: {gpu['name']}, compute capability {gpu['compute_capability']}, "
            f"{gpu['memory_bytes'] / 2**30:.1f} GiB{kind}; frames reach it {gpu['memory_strategy']}"
        )
    if found["gpus"]:
        lines.append(f"MPS: {'running' if found['mps'] else 'not running: workers take turns on a GPU'}")
    if found["cuda"] and not found["gpus"]:
        lines.append("GPU: none answers; see nvidia-smi, and CUDA_VISIBLE_DEVICES")
    binding, provider = found["binding"], found["provider"]
    lines.append(f"CUDA binding: {binding['name'] or 'none'} ({binding['why']})")
    lines.append(
        f"an .onnx runs on: {provider['name']}" + (f" ({provider['why']})" if provider["why"] else "")
    )
    return lines + [f"builds or runs engines: {name}" for name in found["tensorrt"]]


def _feature_lines(found: _Found) -> list[str]:
    lines = []
    for one in found["features"]:
        state = f"missing {', '.join(one['missing'])}" if one["missing"] else "ready"
        end = f": {one['install']}" if one["missing"] else ""
        purpose = f" ({one['purpose']})" if one["purpose"] else ""
        lines.append(f"{one['name']}: {state}{purpose}{end}")
    return lines + [f"note: {line}" for line in found["notes"]]
