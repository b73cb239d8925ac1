"""What a bench ran on: processor, GPUs, clocks, versions. Never raises; what nobody says is null.

Enters: `/proc` and `/sys`, the driver, NVML. Leaves: plain values. No host name, no user, no path.
"""

from __future__ import annotations

import dataclasses
import importlib
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trt_yolo.hardware.gpus import Device, cuda_version, devices, driver_version, is_mps_running
from trt_yolo.hardware.nvml import GpuReading, Nvml
from trt_yolo.hardware.packages import probe
from trt_yolo.hardware.processor import cpu_times, load, processor, throttle_count

PACKAGES = (
    "numpy", "opencv-python", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13", "pycuda",
    "cuda-bindings", "nvidia-ml-py",
)  # fmt: skip


def machine_record(root: Path = Path("/")) -> dict[str, Any]:
    """What this machine is, as plain values.

    Args:
        root: Where `/proc` and `/sys` lie.
    """
    found = devices()
    with Nvml(found) as nvml:
        gpus = gpu_records(found, nvml)
    record = processor(root)
    return {
        **record,
        "cpu": record["cpu"] or platform.processor() or None,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: one.version for name in PACKAGES if (one := probe(name)).version},
        "providers": _providers(),
        "gpus": gpus,
        "driver": driver_version() or None,
        "cuda": cuda_version() or None,
        "mps": is_mps_running() if gpus else None,
        "notes": nvml.notes,
    }


def gpu_records(gpus: Sequence[Device], nvml: Nvml) -> list[dict[str, Any]]:
    """Each GPU as plain values: what it is, how it is set up, and what it does now."""
    readings = {one.index: one for one in nvml.readings()}
    modes = {one.index: dataclasses.asdict(one) for one in nvml.modes()}
    return [
        {
            **dataclasses.asdict(gpu),
            **modes.get(gpu.index, {}),
            **_plain(readings.get(gpu.index, GpuReading(index=gpu.index))),
        }
        for gpu in gpus
    ]


class Meanwhile:
    """What happened to the machine from when this was made until `to_dict`.

    Args:
        root: Where `/proc` and `/sys` lie.
        gpus: The GPUs that are asked about; None: all that this process may use.
        library: NVML's binding; None: `pynvml`.
    """

    def __init__(
        self, root: Path = Path("/"), *, gpus: Sequence[Device] | None = None, library: Any = None
    ) -> None:
        self._root, self._gpus, self._library = root, devices() if gpus is None else gpus, library
        self._times, self._throttled = cpu_times(root), throttle_count(root)
        with Nvml(self._gpus, library) as nvml:
            self._held_back_s = {gpu.index: nvml.held_back_s(gpu.index) for gpu in self._gpus}

    def to_dict(self) -> dict[str, Any]:
        """Share of time that a hypervisor gave to others; how often cores were too hot; load, and GPUs as they are now.

        A GPU's `held_back_s` says for how long, meanwhile, its power limit or its temperature kept its clocks low.
        """
        with Nvml(self._gpus, self._library) as nvml:
            gpus = [{**_plain(one), "held_back_s": self._held_back(one, nvml)} for one in nvml.readings()]
        before, after = self._throttled, throttle_count(self._root)
        return {
            "steal": self._steal(),
            "throttled": None if before is None or after is None else after - before,
            "load_1min": load(self._root),
            "gpus": gpus,
        }

    def _held_back(self, reading: GpuReading, nvml: Nvml) -> dict[str, float]:
        before = self._held_back_s[reading.index]
        after = nvml.held_back_s(reading.index)
        return {reason: after[reason] - before[reason] for reason in before if reason in after}

    def _steal(self) -> float | None:
        after = cpu_times(self._root)
        if self._times is None or after is None or after[0] <= self._times[0]:
            return None
        return (after[1] - self._times[1]) / (after[0] - self._times[0])


def _plain(reading: GpuReading) -> dict[str, Any]:
    """For JSON, which has lists alone."""
    reasons = reading.throttled_by
    return {**dataclasses.asdict(reading), "throttled_by": None if reasons is None else list(reasons)}


def _providers() -> list[str] | None:
    """What ONNX Runtime offers; None where it is not there, or broken."""
    try:
        return list(importlib.import_module("onnxruntime").get_available_providers())
    except Exception:  # noqa: BLE001  whatever a broken installation raises: trt-yolo doctor says it
        return None
