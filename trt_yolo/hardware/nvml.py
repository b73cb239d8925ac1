"""What GPUs are doing now, by NVML.

Never raises. What a machine does not say is None; why nothing is known stands in `notes`. GPUs are those of CUDA's
order, found in NVML by their PCI bus id: NVML counts otherwise, and knows no CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from trt_yolo.hardware.gpus import Device, devices

if TYPE_CHECKING:
    from typing_extensions import Self

_IDLE = 0x1
# the bits of nvmlClocksEventReasons in nvml.h, named nvmlClocksThrottleReasons before driver 535
_REASONS = {
    "ApplicationsClocksSetting": (0x2, "application clocks"),
    "SwPowerCap": (0x4, "power limit"),
    "HwSlowdown": (0x8, "hardware slowdown"),
    "SyncBoost": (0x10, "sync boost"),
    "SwThermalSlowdown": (0x20, "temperature"),
    "HwThermalSlowdown": (0x40, "temperature, by hardware"),
    "HwPowerBrakeSlowdown": (0x80, "power brake"),
    "DisplayClockSetting": (0x100, "display clocks"),
}
_KNOWN = sum(bit for bit, _ in _REASONS.values()) | _IDLE


@dataclass(frozen=True, kw_only=True)
class GpuReading:
    """A GPU at one moment; None where it does not say.

    Attributes:
        index: As CUDA counts.
        utilisation: Share of the last moments in which something ran, percent.
        memory_used_bytes: Its memory that is in use.
        sm_mhz: Clock of its processors.
        max_sm_mhz: The highest that it has.
        memory_mhz: Clock of its memory.
        max_memory_mhz: The highest that it has.
        power_w: What it draws.
        power_limit_w: What it may draw.
        temperature_c: How hot it is.
        throttled_by: Why its clocks are lower than they could be, in words; none while it may run freely or is idle.
    """

    index: int
    utilisation: float | None = None
    memory_used_bytes: int | None = None
    sm_mhz: int | None = None
    max_sm_mhz: int | None = None
    memory_mhz: int | None = None
    max_memory_mhz: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: int | None = None
    throttled_by: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class GpuModes:
    """How a GPU is set up; None where it does not say, or has no such thing.

    Attributes:
        index: As CUDA counts.
        persistence: Whether its driver stays loaded while nobody uses it.
        ecc: Whether its memory corrects errors, which costs bandwidth.
        mig: Whether it is divided into instances.
    """

    index: int
    persistence: bool | None = None
    ecc: bool | None = None
    mig: bool | None = None


class Nvml:
    """NVIDIA's management library, if it is there. A context manager.

    Attributes:
        notes: Why nothing is known; none where it answers.

    Args:
        gpus: The GPUs that are asked about; None: all that this process may use.
        library: Its binding; None: `pynvml`, of nvidia-ml-py.
    """

    def __init__(self, gpus: Sequence[Device] | None = None, library: Any = None) -> None:
        self.notes: list[str] = []
        self._gpus = devices() if gpus is None else gpus
        self._handles: dict[int, Any] = {}
        self._library = library if library is not None else self._imported()
        self._is_open = self._library is not None and self._opened()
        if self._is_open:
            self._find()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._is_open:
            self._ask("nvmlShutdown")
        self._is_open, self._handles = False, {}

    def readings(self) -> list[GpuReading]:
        """Each GPU now."""
        return [self._reading(index, handle) for index, handle in self._handles.items()]

    def modes(self) -> list[GpuModes]:
        """How each GPU is set up."""
        return [
            GpuModes(
                index=index,
                persistence=_is_on(self._ask("nvmlDeviceGetPersistenceMode", handle)),
                ecc=_is_on(self._ask("nvmlDeviceGetEccMode", handle)),
                mig=_is_on(self._ask("nvmlDeviceGetMigMode", handle)),
            )
            for index, handle in self._handles.items()
        ]

    def joules(self, index: int) -> float | None:
        """What a GPU has used since its driver was loaded; None where it does not say (before Volta)."""
        used_mj = self._ask("nvmlDeviceGetTotalEnergyConsumption", self._handles.get(index))
        return None if used_mj is None else used_mj / 1e3

    def watts(self, index: int) -> float | None:
        """What a GPU draws now; None where it does not say."""
        drawn_mw = self._ask("nvmlDeviceGetPowerUsage", self._handles.get(index))
        return None if drawn_mw is None else drawn_mw / 1e3

    def held_back_s(self, index: int) -> dict[str, float]:
        """For how long a GPU's power limit and its temperature have held it back since its driver was loaded."""
        nvml, handle = self._library, self._handles.get(index)
        if handle is None:
            return {}
        power = self._ask("nvmlDeviceGetViolationStatus", handle, nvml.NVML_PERF_POLICY_POWER)
        heat = self._ask("nvmlDeviceGetViolationStatus", handle, nvml.NVML_PERF_POLICY_THERMAL)
        known = {"power limit": power, "temperature": heat}
        return {name: one.violationTime / 1e9 for name, one in known.items() if one is not None}

    def whole_gpus(self) -> list[Device]:
        """The GPUs that it knows, those once that CUDA sees as several (MIG)."""
        known = {gpu.pci_bus_id: gpu for gpu in reversed(self._gpus) if gpu.index in self._handles}
        return sorted(known.values(), key=lambda gpu: gpu.index)

    def _imported(self) -> Any:
        if not self._gpus:
            self.notes.append("clocks and power of GPUs: no GPU answers here")
            return None
        try:
            return importlib.import_module("pynvml")
        except ImportError:
            self.notes.append("clocks and power of the GPU: nvidia-ml-py is not installed (trt-yolo[gpu])")
            return None

    def _opened(self) -> bool:
        try:
            self._library.nvmlInit()
        except self._library.NVMLError as error:
            self.notes.append(f"clocks and power of the GPU: NVML does not answer ({error})")
            return False
        return True

    def _find(self) -> None:
        for gpu in self._gpus:
            handle = self._ask("nvmlDeviceGetHandleByPciBusId", gpu.pci_bus_id or None)
            if handle is None:
                self.notes.append(f"clocks and power of GPU {gpu.index}: NVML does not know it")
            else:
                self._handles[gpu.index] = handle

    def _reading(self, index: int, handle: Any) -> GpuReading:
        nvml = self._library
        use = self._ask("nvmlDeviceGetUtilizationRates", handle)
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        limit_mw = self._ask("nvmlDeviceGetEnforcedPowerLimit", handle)
        return GpuReading(
            index=index,
            utilisation=None if use is None else float(use.gpu),
            memory_used_bytes=None if memory is None else int(memory.used),
            sm_mhz=self._ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
            max_sm_mhz=self._ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM),
            memory_mhz=self._ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
            max_memory_mhz=self._ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_MEM),
            power_w=self.watts(index),
            power_limit_w=None if limit_mw is None else limit_mw / 1e3,
            temperature_c=self._ask("nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
            throttled_by=self._throttled_by(handle),
        )

    def _throttled_by(self, handle: Any) -> tuple[str, ...] | None:
        mask = self._ask("nvmlDeviceGetCurrentClocksEventReasons", handle)
        if mask is None:  # an older driver, or an older binding
            mask = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle)
        if mask is None:
            return None
        unknown = (f"reason {mask & ~_KNOWN:#x}",) if mask & ~_KNOWN else ()
        return tuple(words for bit, words in _REASONS.values() if mask & bit) + unknown

    def _ask(self, function: str, *arguments: Any) -> Any:
        """What it answers; None where this GPU, or this library, does not know."""
        if None in arguments:
            return None
        try:
            return getattr(self._library, function)(*arguments)
        except (self._library.NVMLError, AttributeError):
            return None


def _is_on(answer: Any) -> bool | None:
    """Of a mode; some are told as now and after the next reboot."""
    now = answer[0] if isinstance(answer, list) else answer
    return None if now is None else bool(now)


def gpu_readings(indices: Sequence[int] | None = None) -> list[GpuReading]:
    """These GPUs now, in this order; one with nothing but its index where nothing is known.

    Args:
        indices: As CUDA counts; None: all.
    """
    with Nvml() as nvml:
        known = {reading.index: reading for reading in nvml.readings()}
    wanted = sorted(known) if indices is None else indices
    return [known.get(index, GpuReading(index=index)) for index in wanted]
