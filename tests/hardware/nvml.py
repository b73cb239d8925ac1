"""Stands in for pynvml, with known answers; tests/hardware/test_nvml.py holds it to the real one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from trt_yolo.hardware.gpus import Device

GPU = Device(
    index=1, name="a GPU", compute_capability="9.0", memory_bytes=1, integrated=False, pci_bus_id="0000:65:00.0"
)  # fmt: skip


class Binding:
    """A GPU that says what real ones say.

    Attributes:
        energy_mj: Its energy counter.
        violation_ns: For how long it was held back, by policy.
        open: How often the library was opened and not closed again.
        asked: Bus ids that were looked up.

    Args:
        reasons: Why its clocks are low.
        lacking: Functions that this GPU does not support.
        is_old: Whether the library has no function that came with driver 535.
        is_there: Whether a driver answers.
    """

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_PERF_POLICY_POWER, NVML_PERF_POLICY_THERMAL = 0, 1

    class NVMLError(Exception):
        pass

    def __init__(
        self, *, reasons: int = 0, lacking: tuple[str, ...] = (), is_old: bool = False, is_there: bool = True
    ) -> None:
        self._reasons, self._lacking, self._is_old, self._is_there = reasons, lacking, is_old, is_there
        self.energy_mj = 1000.0
        self.violation_ns = {0: 0, 1: 0}
        self.open = 0
        self.asked: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in self._lacking:
            return self._refuse
        return super().__getattribute__(name)

    def _refuse(self, *_: Any) -> Any:
        raise self.NVMLError("Not Supported")

    def nvmlInit(self) -> None:
        if not self._is_there:
            raise self.NVMLError("Driver Not Loaded")
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlDeviceGetHandleByPciBusId(self, pciBusId: str) -> str:
        self.asked.append(pciBusId)
        return pciBusId

    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any:
        return SimpleNamespace(gpu=87, memory=3)

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:
        return SimpleNamespace(total=9, free=4, used=5)

    def nvmlDeviceGetClockInfo(self, handle: Any, type: int) -> int:
        return {1: 1700, 2: 2600}[type]

    def nvmlDeviceGetMaxClockInfo(self, handle: Any, type: int) -> int:
        return {1: 1980, 2: 2619}[type]

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:
        return 350_000

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: Any) -> int:
        raise self.NVMLError("Not Supported")

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:
        return 61

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: Any) -> int:
        if self._is_old:
            raise AttributeError("nvmlDeviceGetCurrentClocksEventReasons")
        return self._reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: Any) -> int:
        return self._reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> float:
        return self.energy_mj

    def nvmlDeviceGetViolationStatus(self, device: Any, perfPolicyType: int) -> Any:
        return SimpleNamespace(referenceTime=1, violationTime=self.violation_ns[perfPolicyType])

    def nvmlDeviceGetPersistenceMode(self, handle: Any) -> int:
        return 1

    def nvmlDeviceGetEccMode(self, handle: Any) -> list[int]:
        return [1, 0]

    def nvmlDeviceGetMigMode(self, device: Any) -> list[int]:
        return [0, 1]
