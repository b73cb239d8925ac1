"""Power and clocks: small trees of `/sys` with known numbers, the real binding's names, and this machine."""

from __future__ import annotations

import inspect
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trt_yolo import telemetry
from trt_yolo.engine.device import Device, devices
from trt_yolo.telemetry import Nvml, PowerMeter

GPU = Device(
    index=1, name="a GPU", compute_capability="9.0", memory_bytes=1, integrated=False, pci_bus_id="0000:65:00.0"
)  # fmt: skip


class Binding:
    """Stands in for pynvml: what it answers is known. Its names are held to the real one below."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    nvmlClocksThrottleReasonGpuIdle = 1
    nvmlClocksThrottleReasonApplicationsClocksSetting = 2
    nvmlClocksThrottleReasonSwPowerCap = 4
    nvmlClocksThrottleReasonHwSlowdown = 8
    nvmlClocksThrottleReasonSyncBoost = 16
    nvmlClocksThrottleReasonSwThermalSlowdown = 32
    nvmlClocksThrottleReasonHwThermalSlowdown = 64
    nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 128
    nvmlClocksThrottleReasonDisplayClockSetting = 256

    class NVMLError(Exception):
        pass

    def __init__(self, *, reasons: int = 0, has_energy: bool = True, is_there: bool = True) -> None:
        self.reasons, self.has_energy, self.is_there = reasons, has_energy, is_there
        self.energy_mj = 1000.0
        self.asked: list[str] = []

    def nvmlInit(self) -> None:
        if not self.is_there:
            raise self.NVMLError("Driver Not Loaded")

    def nvmlShutdown(self) -> None:
        pass

    def nvmlDeviceGetHandleByPciBusId(self, bus: str) -> str:
        self.asked.append(bus)
        return bus

    def nvmlDeviceGetUtilizationRates(self, _: Any) -> Any:
        return SimpleNamespace(gpu=87)

    def nvmlDeviceGetMemoryInfo(self, _: Any) -> Any:
        return SimpleNamespace(used=5)

    def nvmlDeviceGetClockInfo(self, _: Any, kind: int) -> int:
        return {1: 1700, 2: 2600}[kind]

    def nvmlDeviceGetMaxClockInfo(self, _: Any, kind: int) -> int:
        return {1: 1980}[kind]

    def nvmlDeviceGetPowerUsage(self, _: Any) -> int:
        return 350_000

    def nvmlDeviceGetEnforcedPowerLimit(self, _: Any) -> int:
        raise self.NVMLError("Not Supported")

    def nvmlDeviceGetTemperature(self, _: Any, __: int) -> int:
        return 61

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, _: Any) -> int:
        return self.reasons

    def nvmlDeviceGetTotalEnergyConsumption(self, _: Any) -> float:
        if not self.has_energy:
            raise self.NVMLError("Not Supported")
        return self.energy_mj


def test_a_reading() -> None:
    binding = Binding(reasons=1 | 4 | 64)
    with Nvml([GPU], binding) as nvml:
        (reading,) = nvml.readings()
    assert binding.asked == ["0000:65:00.0"]
    assert (reading.index, reading.utilisation, reading.memory_used_bytes) == (1, 87, 5)
    assert (reading.sm_mhz, reading.max_sm_mhz, reading.memory_mhz) == (1700, 1980, 2600)
    assert (reading.power_w, reading.power_limit_w, reading.temperature_c) == (350, None, 61)
    assert reading.throttled_by == ("power limit", "temperature, by hardware")


def test_a_driver_that_does_not_answer_is_said() -> None:
    with Nvml([GPU], Binding(is_there=False)) as nvml:
        assert nvml.readings() == []
        assert nvml.notes == ["clocks and power of the GPU: NVML does not answer (Driver Not Loaded)"]


def test_a_gpu_without_a_bus_id_is_said() -> None:
    import dataclasses

    with Nvml([dataclasses.replace(GPU, pci_bus_id="")], Binding()) as nvml:
        assert nvml.readings() == []
        assert nvml.notes == ["clocks and power of GPU 1: NVML does not know it"]


def test_every_name_is_the_real_bindings() -> None:
    """And takes as many arguments."""
    pynvml = pytest.importorskip("pynvml")
    source = Path(telemetry.__file__).read_text()
    calls = set(re.findall(r"_ask\(\s*\"(nvml\w+)\"((?:, [^,)]+)*)", source))
    assert len(calls) >= 9
    for name, arguments in calls:
        wanted = len([one for one in arguments.split(",") if one.strip()])
        inspect.signature(getattr(pynvml, name)).bind(*range(wanted))
        assert hasattr(Binding, name)
    for name in telemetry._REASONS:
        full = f"nvmlClocksThrottleReason{name}"
        assert getattr(Binding, full) == getattr(pynvml, full)
    for name in re.findall(r"NVML_\w+", source):
        assert getattr(Binding, name) == getattr(pynvml, name)
    assert issubclass(pynvml.NVMLError, Exception)


def test_watts_of_a_gpu_by_its_energy_counter(tmp_path: Path) -> None:
    binding = Binding()
    with PowerMeter(tmp_path, Nvml([GPU], binding)) as meter:
        assert meter.sources == ["GPUs, by NVML's energy counter"]
        stretches = []
        for used_mj in (3_000, 1_000):
            begin = meter.mark()
            binding.energy_mj += used_mj
            end = meter.mark()
            stretches.append((begin._replace(at_s=0.0), end._replace(at_s=0.02)))
            binding.energy_mj += 1e9  # between the stretches: not theirs
        assert meter.watts(stretches) == pytest.approx(4.0 / 0.04)


def test_watts_of_a_gpu_by_samples(tmp_path: Path) -> None:
    with PowerMeter(tmp_path, Nvml([GPU], Binding(has_energy=False))) as meter:
        assert meter.sources == ["GPUs, by NVML's power"]
        begin = meter.mark()
        time.sleep(0.65)
        watts = meter.watts([(begin, meter.mark())])
    assert watts == pytest.approx(350, rel=0.3)  # samples come ten times a second


def _rapl(root: Path, zone: str, name: str, energy_uj: int) -> Path:
    folder = root / "sys/class/powercap" / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text("262143328850\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    return folder / "energy_uj"


def test_watts_of_the_processor_by_rapl_also_when_its_counter_begins_anew(tmp_path: Path) -> None:
    one = _rapl(tmp_path, "intel-rapl:0", "package-0", 262143328850 - 1_000_000)
    other = _rapl(tmp_path, "intel-rapl:1", "package-1", 0)
    _rapl(tmp_path, "intel-rapl:0:0", "core", 0)  # a part of the first one
    with PowerMeter(tmp_path, Nvml([])) as meter:
        assert meter.sources == ["package-0, by RAPL", "package-1, by RAPL"]
        begin = meter.mark()
        one.write_text("2000000\n")
        other.write_text("5000000\n")
        end = meter.mark()
    assert meter.watts([(begin._replace(at_s=0), end._replace(at_s=2))]) == pytest.approx((1 + 2 + 5) / 2)


def test_a_counter_that_only_root_reads_is_said(tmp_path: Path) -> None:
    path = _rapl(tmp_path, "intel-rapl:0", "package-0", 1)
    path.unlink()
    path.mkdir()  # cannot be read, by root either
    with PowerMeter(tmp_path, Nvml([])) as meter:
        assert (meter.sources, meter.watts([(meter.mark(), meter.mark())])) == ([], None)
    assert meter.notes == ["power of the processor: intel-rapl:0 cannot be read (only by root)"]


def test_watts_of_a_jetson(tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/hwmon/hwmon3"
    folder.mkdir(parents=True)
    for name, text in (
        ("in1_label", "VDD_IN"), ("in1_input", "5000"), ("curr1_input", "2400"), ("in2_label", "VDD_CPU_GPU_CV"),
    ):  # fmt: skip
        (folder / name).write_text(text + "\n")
    with PowerMeter(tmp_path, Nvml([])) as meter:
        assert meter.sources == ["the board, by its power monitor"]
        begin = meter.mark()
        time.sleep(0.65)
        assert meter.watts([(begin, meter.mark())]) == pytest.approx(12, rel=0.3)


def test_this_machine_answers_or_says_nothing() -> None:
    with Nvml() as nvml, PowerMeter() as meter:
        assert len(nvml.readings()) <= len(devices())
        marks = [meter.mark() for _ in range(20)]
        watts = meter.watts([(marks[0], marks[-1])])
        assert (watts is None) == (not meter.sources)
