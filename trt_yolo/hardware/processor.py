"""What the processor and its system are, as Linux says: names, cores, limits, clocks. Never raises.

Enters: `/proc` and `/sys`. Leaves: plain values, None where nobody says. Knows no GPUs and no packages.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from trt_yolo.hardware.cores import text_at, usable_cpus

_FLAGS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimd", "asimddp",
    "asimdhp", "i8mm", "bf16", "sve", "sve2",
)  # fmt: skip
_INT8 = {
    "amx_int8": "AMX INT8", "avx512_vnni": "AVX512 VNNI", "avx_vnni": "AVX-VNNI", "i8mm": "i8mm",
    "asimddp": "dot product",
}  # fmt: skip
# implementer and part of MIDR_EL1, as Linux's arch/arm64/include/asm/cputype.h has them
_ARM_CORES = {
    "0x41 0xd03": "Cortex-A53", "0x41 0xd05": "Cortex-A55", "0x41 0xd07": "Cortex-A57", "0x41 0xd08": "Cortex-A72",
    "0x41 0xd09": "Cortex-A73", "0x41 0xd0b": "Cortex-A76", "0x41 0xd0c": "Neoverse-N1", "0x41 0xd40": "Neoverse-V1",
    "0x41 0xd41": "Cortex-A78", "0x41 0xd42": "Cortex-A78AE", "0x41 0xd49": "Neoverse-N2", "0x41 0xd4b": "Cortex-A78C",
    "0x41 0xd4f": "Neoverse-V2", "0x41 0xd80": "Cortex-A520", "0x41 0xd81": "Cortex-A720",
    "0x41 0xd83": "Neoverse-V3AE", "0x41 0xd84": "Neoverse-V3", "0x4e 0x003": "Denver 2", "0x4e 0x004": "Carmel",
}  # fmt: skip
_CONTAINERS = {".dockerenv": "docker", "run/.containerenv": "podman"}
_CONTAINER_GROUPS = ("kubepods", "docker", "containerd", "libpod", "lxc")


def processor(root: Path) -> dict[str, Any]:
    """What they are.

    Args:
        root: Where `/proc` and `/sys` lie.
    """
    cpus, info = usable_cpus(root), text_at(root / "proc/cpuinfo")
    flags = set(_field(info, "flags").split() + _field(info, "Features").split())
    board = text_at(root / "proc/device-tree/model").rstrip("\0") or _field(info, "Model")
    return {
        "cpu": _field(info, "model name") or _arm_cores(info) or _field(info, "Hardware") or board or None,
        "board": board or None,
        "cores": len(cpus.cores),
        "cores_of_machine": len(re.findall(r"^processor\s*:", info, re.MULTILINE)) or os.cpu_count(),
        "smt": _switch(root / "sys/devices/system/cpu/smt/active"),
        "cpu_limit": cpus.quota,
        "cpu_flags": [flag for flag in _FLAGS if flag in flags],
        "virtual": _is_virtual(root, info, flags),
        "container": _container(root),
        "governor": _governor(root),
        "turbo": _turbo(root),
        "mhz": {name: _megahertz(root, name, info) for name in ("cur", "min", "max")},
        "throttled": throttle_count(root),
        "on_battery": _is_on_battery(root),
        "memory_gb": _memory_gb(root),
        "load_1min": load(root),
    }


def int8_instructions(flags: list[str]) -> str:
    """What multiplies and adds 8-bit integers in one instruction; empty where nothing does.

    Args:
        flags: `cpu_flags` of `processor`.
    """
    names = [name for flag, name in _INT8.items() if flag in flags]
    return ", ".join(dict.fromkeys(names))


def cpu_times(root: Path) -> tuple[int, int] | None:
    """Time of all processors since the start, and what of it a hypervisor gave to others, in ticks; None: not counted.

    The last two columns are left out: time of guests, which is in the first two already.
    """
    fields = text_at(root / "proc/stat").partition("\n")[0].split()[1:9]
    try:
        values = [int(field) for field in fields]
    except ValueError:
        return None
    return (sum(values), values[7]) if len(values) == 8 else None


def throttle_count(root: Path) -> int | None:
    """How often cores were slowed down since the start, because they were hot; None where nobody counts."""
    paths = root.glob("sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/core_throttle_count")
    counts = [int(text) for text in map(text_at, paths) if text.isdecimal()]
    return sum(counts) if counts else None


def load(root: Path) -> float | None:
    """How many processes ran or waited to, mean of the last minute."""
    try:
        return float(text_at(root / "proc/loadavg").split()[0])
    except (IndexError, ValueError):
        return None


def _arm_cores(info: str) -> str:
    """Their names, which `/proc/cpuinfo` has only as numbers; several where they differ."""
    implementers = re.findall(r"^CPU implementer\s*:\s*(\S+)", info, re.MULTILINE)
    parts = re.findall(r"^CPU part\s*:\s*(\S+)", info, re.MULTILINE)
    keys = [f"{implementer} {part}" for implementer, part in zip(implementers, parts, strict=False)]
    return " + ".join(_ARM_CORES.get(key, f"ARM {key}") for key in dict.fromkeys(keys))


def _is_virtual(root: Path, info: str, flags: set[str]) -> bool | None:
    """Whether a hypervisor shows itself; ARM has no flag that says there is none."""
    if "hypervisor" in flags or (root / "proc/device-tree/hypervisor").exists():
        return True
    return False if _field(info, "flags") else None


def _container(root: Path) -> str | None:
    """Which kind of container this is; None where nothing shows."""
    for name, kind in _CONTAINERS.items():
        if (root / name).exists():
            return kind
    groups = text_at(root / "proc/self/cgroup")
    return next((kind for kind in _CONTAINER_GROUPS if kind in groups), None)


def _governor(root: Path) -> str | None:
    """What all clock policies have; `mixed: ...` where they differ."""
    paths = root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor")
    found = sorted({text_at(path) for path in paths} - {""})
    return None if not found else found[0] if len(found) == 1 else f"mixed: {', '.join(found)}"


def _turbo(root: Path) -> bool | None:
    """Whether clocks may rise above the base clock."""
    is_off = _switch(root / "sys/devices/system/cpu/intel_pstate/no_turbo")
    return _switch(root / "sys/devices/system/cpu/cpufreq/boost") if is_off is None else not is_off


def _megahertz(root: Path, name: str, info: str) -> float | None:
    """The mean over the cores; the clock now also from `/proc/cpuinfo`."""
    texts = [
        text_at(one) for one in root.glob(f"sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_{name}_freq")
    ]
    values = [int(text) / 1e3 for text in texts if text.isdecimal()]
    if not values and name == "cur":
        values = [float(text) for text in re.findall(r"^cpu MHz\s*:\s*([\d.]+)$", info, re.MULTILINE)]
    return sum(values) / len(values) if values else None


def _is_on_battery(root: Path) -> bool | None:
    """Whether a battery feeds it, by which many a laptop is slower; None where there is neither battery nor mains."""
    states: list[bool] = []
    for supply in root.glob("sys/class/power_supply/*"):
        if text_at(supply / "scope") == "Device":
            continue  # a mouse's
        kind, status = text_at(supply / "type"), text_at(supply / "status")
        if kind == "Battery" and status:
            states.append(status == "Discharging")
        elif kind == "Mains" and text_at(supply / "online") == "1":
            states.append(False)
    return any(states) if states else None


def _memory_gb(root: Path) -> float | None:
    found = re.search(r"^MemTotal:\s*(\d+) kB", text_at(root / "proc/meminfo"), re.MULTILINE)
    return int(found[1]) * 1024 / 1e9 if found else None


def _switch(path: Path) -> bool | None:
    return {"0": False, "1": True}.get(text_at(path))


def _field(info: str, name: str) -> str:
    found = re.search(rf"^{re.escape(name)}[ \t]*:[ \t]*(.*)$", info, re.MULTILINE)
    return found[1].strip() if found else ""
