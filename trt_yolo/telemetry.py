"""What GPUs are doing now, and what the machine draws: NVML by nvidia-ml-py, RAPL, a Jetson's power monitor.

Never raises. What a machine does not say is None; why nothing is known stands in `notes`. GPUs are those of CUDA's
order, found in NVML by their PCI bus id: NVML counts otherwise, and knows no CUDA_VISIBLE_DEVICES.
"""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from trt_yolo.engine.device import Device, devices

if TYPE_CHECKING:
    from typing_extensions import Self

_SAMPLE_S = 0.1
_REASONS = {
    "GpuIdle": "idle",
    "ApplicationsClocksSetting": "application clocks",
    "SwPowerCap": "power limit",
    "HwSlowdown": "hardware slowdown",
    "SyncBoost": "sync boost",
    "SwThermalSlowdown": "temperature",
    "HwThermalSlowdown": "temperature, by hardware",
    "HwPowerBrakeSlowdown": "power brake",
    "DisplayClockSetting": "display clocks",
}
_UNWORRYING = ("idle", "application clocks")


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
        power_w: What it draws.
        power_limit_w: What it may draw.
        temperature_c: How hot it is.
        throttled_by: Why its clocks are lower than they could be, in words; none while it may run freely.
    """

    index: int
    utilisation: float | None = None
    memory_used_bytes: int | None = None
    sm_mhz: int | None = None
    max_sm_mhz: int | None = None
    memory_mhz: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: int | None = None
    throttled_by: tuple[str, ...] = ()


class Nvml:
    """NVIDIA's management library, if it is there. A context manager.

    Attributes:
        notes: Why nothing is known; none where it answers.

    Args:
        gpus: The GPUs that are asked about.
        library: Its binding; None: `pynvml`, of nvidia-ml-py.
    """

    def __init__(self, gpus: Sequence[Device] | None = None, library: Any = None) -> None:
        self.notes: list[str] = []
        self._gpus = devices() if gpus is None else gpus
        self._handles: dict[int, Any] = {}
        self._library = library if library is not None else self._imported()
        if self._library is not None:
            self._open()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handles:
            self._ask("nvmlShutdown")
        self._handles = {}

    def readings(self) -> list[GpuReading]:
        """Each GPU now."""
        return [self._reading(index, handle) for index, handle in self._handles.items()]

    def joules(self) -> dict[int, float] | None:
        """What each GPU has used since its driver was loaded; None where one of them does not say."""
        used = {
            index: self._ask("nvmlDeviceGetTotalEnergyConsumption", one)
            for index, one in self._handles.items()
        }
        if not used or any(value is None for value in used.values()):
            return None
        return {index: value / 1e3 for index, value in used.items()}

    def watts(self) -> float | None:
        """What all GPUs draw now; None where none says."""
        drawn = [self._ask("nvmlDeviceGetPowerUsage", one) for one in self._handles.values()]
        known = [value / 1e3 for value in drawn if value is not None]
        return sum(known) if known else None

    def _imported(self) -> Any:
        if not self._gpus:
            return None
        try:
            return importlib.import_module("pynvml")
        except ImportError:
            self.notes.append("clocks and power of the GPU: nvidia-ml-py is not installed (trt-yolo[gpu])")
            return None

    def _open(self) -> None:
        try:
            self._library.nvmlInit()
        except self._library.NVMLError as error:
            self.notes.append(f"clocks and power of the GPU: NVML does not answer ({error})")
            return
        for gpu in self._gpus:
            handle = self._ask("nvmlDeviceGetHandleByPciBusId", gpu.pci_bus_id) if gpu.pci_bus_id else None
            if handle is None:
                self.notes.append(f"clocks and power of GPU {gpu.index}: NVML does not know it")
            else:
                self._handles[gpu.index] = handle

    def _reading(self, index: int, handle: Any) -> GpuReading:
        nvml = self._library
        use = self._ask("nvmlDeviceGetUtilizationRates", handle)
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        power_mw = self._ask("nvmlDeviceGetPowerUsage", handle)
        limit_mw = self._ask("nvmlDeviceGetEnforcedPowerLimit", handle)
        return GpuReading(
            index=index,
            utilisation=None if use is None else float(use.gpu),
            memory_used_bytes=None if memory is None else int(memory.used),
            sm_mhz=self._ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_SM),
            max_sm_mhz=self._ask("nvmlDeviceGetMaxClockInfo", handle, nvml.NVML_CLOCK_SM),
            memory_mhz=self._ask("nvmlDeviceGetClockInfo", handle, nvml.NVML_CLOCK_MEM),
            power_w=None if power_mw is None else power_mw / 1e3,
            power_limit_w=None if limit_mw is None else limit_mw / 1e3,
            temperature_c=self._ask("nvmlDeviceGetTemperature", handle, nvml.NVML_TEMPERATURE_GPU),
            throttled_by=self._throttled_by(handle),
        )

    def _throttled_by(self, handle: Any) -> tuple[str, ...]:
        mask = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", handle) or 0
        return tuple(
            words
            for name, words in _REASONS.items()
            if mask & getattr(self._library, f"nvmlClocksThrottleReason{name}") and words not in _UNWORRYING
        )

    def _ask(self, function: str, *arguments: Any) -> Any:
        """What it answers; None where this GPU, or this library, does not know."""
        try:
            return getattr(self._library, function)(*arguments)
        except (self._library.NVMLError, AttributeError):
            return None


class Mark(NamedTuple):
    """A moment, and the energy used until then; see `PowerMeter`."""

    at_s: float
    joules: tuple[float, ...]


class PowerMeter:
    """Mean power of the machine over stretches of time. A context manager.

    What is summed up: GPUs by NVML (their energy counter, or else power sampled ten times a second), the processor
    by RAPL, or a Jetson's own monitor, which measures the whole board.

    Attributes:
        sources: What is summed up; none: nobody knows the power.
        notes: What could not be read, and why.

    Args:
        root: Where `/sys` lies.
        nvml: NVIDIA's management library; None: this machine's.
    """

    def __init__(self, root: Path = Path("/"), nvml: Nvml | None = None) -> None:
        self.sources: list[str] = []
        self._counters: list[Callable[[], float]] = []
        self._samplers: list[Callable[[], float | None]] = []
        self._sampled: list[float] = []
        self._root = root
        self._nvml = Nvml() if nvml is None else nvml
        self.notes = list(self._nvml.notes)
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._find_gpus()
        board = _ina3221(self._root)
        if board is not None:
            self._sample("the board, by its power monitor", board)
        else:
            self._find_rapl()
        if self._samplers:
            self._thread = threading.Thread(target=self._run, name="trt-yolo-power", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        self._nvml.__exit__(None, None, None)

    def mark(self) -> Mark:
        """This moment; a few file reads, or calls of NVML."""
        with self._lock:
            sampled = tuple(self._sampled)
        return Mark(time.perf_counter(), tuple(counter() for counter in self._counters) + sampled)

    def watts(self, stretches: Sequence[tuple[Mark, Mark]]) -> float | None:
        """Mean power over stretches of time between marks, watts; None where nobody knows."""
        seconds = sum(end.at_s - begin.at_s for begin, end in stretches)
        if not self.sources or seconds <= 0:
            return None
        joules = sum(
            after - before
            for begin, end in stretches
            for before, after in zip(begin.joules, end.joules, strict=True)
        )
        return joules / seconds

    def _find_gpus(self) -> None:
        if self._nvml.joules() is not None:
            self.sources.append("GPUs, by NVML's energy counter")
            self._counters.append(lambda: sum((self._nvml.joules() or {}).values()))
        elif self._nvml.watts() is not None:
            self._sample("GPUs, by NVML's power", self._nvml.watts)

    def _find_rapl(self) -> None:
        for zone in sorted(self._root.glob("sys/class/powercap/intel-rapl:*")):
            if zone.name.count(":") != 1:
                continue  # a part of a package, counted there already
            if _number(zone / "energy_uj") is None:
                self.notes.append(f"power of the processor: {zone.name} cannot be read (only by root)")
                continue
            self.sources.append(f"{_text(zone / 'name') or zone.name}, by RAPL")
            self._counters.append(_Rapl(zone).joules)

    def _sample(self, source: str, watts: Callable[[], float | None]) -> None:
        self.sources.append(source)
        self._samplers.append(watts)
        self._sampled.append(0.0)

    def _run(self) -> None:
        before_s = time.perf_counter()
        while not self._stopped.wait(_SAMPLE_S):
            drawn_w = [sampler() or 0.0 for sampler in self._samplers]
            now_s = time.perf_counter()
            with self._lock:
                self._sampled = [
                    joules + watts * (now_s - before_s)
                    for joules, watts in zip(self._sampled, drawn_w, strict=True)
                ]
            before_s = now_s


class _Rapl:
    """A package's energy counter, which begins anew at its range."""

    def __init__(self, zone: Path) -> None:
        self._path = zone / "energy_uj"
        self._range_uj = _number(zone / "max_energy_range_uj") or 0
        self._last_uj = _number(self._path) or 0
        self._turns_uj = 0

    def joules(self) -> float:
        """Energy used since some moment."""
        now_uj = _number(self._path)
        if now_uj is not None:
            if now_uj < self._last_uj:
                self._turns_uj += self._range_uj
            self._last_uj = now_uj
        return (self._turns_uj + self._last_uj) / 1e6


def _ina3221(root: Path) -> Callable[[], float | None] | None:
    """What a Jetson's board draws by its power monitor, watts; None where there is none."""
    for label in sorted(root.glob("sys/class/hwmon/hwmon*/in*_label")):
        if _text(label) not in ("VDD_IN", "POM_5V_IN", "VDD_GPU_SOC"):
            continue
        number = label.name.removeprefix("in").removesuffix("_label")
        volts, amperes = label.with_name(f"in{number}_input"), label.with_name(f"curr{number}_input")

        def watts(volts: Path = volts, amperes: Path = amperes) -> float | None:
            milli = (_number(volts), _number(amperes))
            return None if milli[0] is None or milli[1] is None else milli[0] * milli[1] / 1e6

        if watts() is not None:
            return watts
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
