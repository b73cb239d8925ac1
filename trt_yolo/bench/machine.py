"""What a bench ran on: processor, GPUs, clocks, versions. Never raises; what nobody says is null.

Enters: `/proc` and `/sys`, the driver, NVML. Leaves: plain values. No host name, no user, no path.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import re
from pathlib import Path
from typing import Any

from trt_yolo.cores import available_cores
from trt_yolo.engine.device import cuda_version, devices, driver_version, is_mps_running
from trt_yolo.environment import probe
from trt_yolo.telemetry import Nvml

PACKAGES = (
    "numpy", "opencv-python", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13", "pycuda",
    "cuda-bindings",
)  # fmt: skip
_FLAGS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "asimddp",
    "i8mm", "sve",
)  # fmt: skip


def machine_record(root: Path = Path("/")) -> dict[str, Any]:
    """What this machine is, as plain values.

    Args:
        root: Where `/proc` and `/sys` lie.
    """
    with Nvml() as nvml:
        readings = {reading.index: dataclasses.asdict(reading) for reading in nvml.readings()}
        gpus = [{**dataclasses.asdict(gpu), **readings.get(gpu.index, {})} for gpu in devices()]
        notes = nvml.notes
    return {
        **processor(root),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: found.version for name in PACKAGES if (found := probe(name)).version},
        "gpus": gpus,
        "driver": driver_version() or None,
        "cuda": cuda_version() or None,
        "mps": is_mps_running() if gpus else None,
        "notes": notes,
    }


def processor(root: Path) -> dict[str, Any]:
    """Processor, cores, clocks and memory, as `/proc` and `/sys` say."""
    info = _read(root / "proc/cpuinfo")
    flags = set(_field(info, "flags").split() + _field(info, "Features").split())
    return {
        "cpu": _field(info, "model name") or _device_tree(root) or _field(info, "Hardware") or None,
        "cores": len(available_cores()),
        "cores_of_machine": len(re.findall(r"^processor\s*:", info, re.MULTILINE)) or os.cpu_count(),
        "cpu_limit": _cpu_limit(root),
        "cpu_flags": [flag for flag in _FLAGS if flag in flags],
        "virtual": "hypervisor" in flags,
        "governor": _one_of(root, "scaling_governor"),
        "mhz": {name: _megahertz(root, f"scaling_{name}_freq") for name in ("cur", "min", "max")},
        "throttled": _throttled(root),
        "memory_gb": _memory_gb(root),
        "load_1min": _load(root),
    }


class Meanwhile:
    """What happened to the machine from when this was made until `to_dict`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._before = _cpu_times(root)

    def to_dict(self) -> dict[str, Any]:
        """Share of the processors' time that a hypervisor gave to others, load, and GPUs as they are now."""
        with Nvml() as nvml:
            gpus = [dataclasses.asdict(reading) for reading in nvml.readings()]
        return {"steal": self._steal(), "load_1min": _load(self._root), "gpus": gpus}

    def _steal(self) -> float | None:
        after = _cpu_times(self._root)
        if self._before is None or after is None or after[0] <= self._before[0]:
            return None
        return (after[1] - self._before[1]) / (after[0] - self._before[0])


def _cpu_times(root: Path) -> tuple[int, int] | None:
    """All time of all processors since the start, and what of it was stolen; None where nobody counts."""
    fields = _read(root / "proc/stat").partition("\n")[0].split()[1:9]
    try:
        values = [int(field) for field in fields]
    except ValueError:
        return None
    return (sum(values), values[7]) if len(values) == 8 else None


def _cpu_limit(root: Path) -> float | None:
    """The cores that the control group grants; None for no limit."""
    quota, _, period = _read(root / "sys/fs/cgroup/cpu.max").partition(" ")
    if not period:
        quota = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_quota_us")
        period = _read(root / "sys/fs/cgroup/cpu/cpu.cfs_period_us")
    try:
        cores = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return cores if cores > 0 else None


def _one_of(root: Path, name: str) -> str | None:
    """What all clock policies have; `mixed: ...` where they differ."""
    found = sorted(
        {_read(path) for path in root.glob(f"sys/devices/system/cpu/cpu[0-9]*/cpufreq/{name}")} - {""}
    )
    return None if not found else found[0] if len(found) == 1 else f"mixed: {', '.join(found)}"


def _megahertz(root: Path, name: str) -> float | None:
    """The mean over the cores."""
    texts = [_read(path) for path in root.glob(f"sys/devices/system/cpu/cpu[0-9]*/cpufreq/{name}")]
    values = [int(text) / 1e3 for text in texts if text.isdecimal()]
    return sum(values) / len(values) if values else None


def _throttled(root: Path) -> int | None:
    """How often cores were slowed down since the start, because they were hot; None where nobody counts."""
    paths = root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [int(text) for text in map(_read, paths) if text.isdecimal()]
    return sum(counts) if counts else None


def _memory_gb(root: Path) -> float | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", _read(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 / 1e9 if found else None


def _load(root: Path) -> float | None:
    try:
        return float(_read(root / "proc/loadavg").split()[0])
    except (IndexError, ValueError):
        return None


def _device_tree(root: Path) -> str:
    """What a board is called, such as NVIDIA Jetson Orin Nano."""
    return _read(root / "proc/device-tree/model").rstrip("\0")


def _field(info: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", info, re.MULTILINE)
    return found[1].strip() if found else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except (OSError, ValueError):
        return ""
