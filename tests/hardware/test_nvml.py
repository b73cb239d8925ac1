"""Clocks and power of GPUs: a binding with known answers, and the real one's names."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
from pathlib import Path

import pytest

from tests.hardware.nvml import GPU, Binding
from trt_yolo.hardware import nvml
from trt_yolo.hardware.gpus import devices
from trt_yolo.hardware.nvml import GpuModes, GpuReading, Nvml, gpu_readings

SOURCE = Path(nvml.__file__).read_text()
NO_GPU = "clocks and power of GPUs: no GPU answers here"
READINGS = (
    "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetClockInfo", "nvmlDeviceGetMaxClockInfo",
    "nvmlDeviceGetPowerUsage", "nvmlDeviceGetTemperature", "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons", "nvmlDeviceGetPersistenceMode", "nvmlDeviceGetEccMode",
    "nvmlDeviceGetMigMode", "nvmlDeviceGetViolationStatus", "nvmlDeviceGetTotalEnergyConsumption",
)  # fmt: skip


def test_a_reading() -> None:
    binding = Binding(reasons=0x1 | 0x4 | 0x40)
    with Nvml([GPU], binding) as nvml:
        (reading,) = nvml.readings()
        assert nvml.modes() == [GpuModes(index=1, persistence=True, ecc=True, mig=False)]
        assert binding.open == 1
    assert binding.asked == ["0000:65:00.0"]
    assert binding.open == 0
    assert reading == GpuReading(
        index=1,
        utilisation=87.0,
        memory_used_bytes=5,
        sm_mhz=1700,
        max_sm_mhz=1980,
        memory_mhz=2600,
        max_memory_mhz=2619,
        power_w=350.0,
        power_limit_w=None,
        temperature_c=61,
        throttled_by=("power limit", "temperature, by hardware"),
    )


def test_a_gpu_that_says_nothing() -> None:
    """As a Jetson's NVML."""
    with Nvml([GPU], Binding(lacking=READINGS)) as nvml:
        assert nvml.readings() == [GpuReading(index=1)]
        assert nvml.modes() == [GpuModes(index=1)]
        assert (nvml.joules(1), nvml.watts(1), nvml.held_back_s(1), nvml.notes) == (None, None, {}, [])


@pytest.mark.parametrize(
    ("mask", "words"), [(0, ()), (0x1, ()), (0x2, ("application clocks",)), (0x8000, ("reason 0x8000",))]
)
@pytest.mark.parametrize("is_old", [False, True])
def test_reasons(mask: int, words: tuple[str, ...], is_old: bool) -> None:
    with Nvml([GPU], Binding(reasons=mask, is_old=is_old)) as nvml:
        assert nvml.readings()[0].throttled_by == words


def test_a_driver_that_does_not_answer_is_said() -> None:
    binding = Binding(is_there=False)
    with Nvml([GPU], binding) as nvml:
        assert (nvml.readings(), nvml.watts(1), nvml.held_back_s(1)) == ([], None, {})
        assert nvml.notes == ["clocks and power of the GPU: NVML does not answer (Driver Not Loaded)"]
    assert binding.open == 0


@pytest.mark.parametrize("lacking", [(), ("nvmlDeviceGetHandleByPciBusId",)])
def test_a_gpu_that_is_not_found_is_said(lacking: tuple[str, ...]) -> None:
    binding = Binding(lacking=lacking)
    gpu = GPU if lacking else dataclasses.replace(GPU, pci_bus_id="")
    with Nvml([gpu], binding) as nvml:
        assert nvml.readings() == []
        assert nvml.notes == ["clocks and power of GPU 1: NVML does not know it"]
    assert binding.open == 0


def test_a_binding_that_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with Nvml([GPU]) as nvml:
        assert nvml.readings() == []
        assert nvml.notes == ["clocks and power of the GPU: nvidia-ml-py is not installed (trt-yolo[gpu])"]


def test_the_real_binding_without_a_driver() -> None:
    pytest.importorskip("pynvml")
    if devices():
        pytest.skip("a GPU is here")
    with Nvml([GPU]) as nvml:
        assert nvml.readings() == []
        (note,) = nvml.notes
    assert re.fullmatch(r"clocks and power of the GPU: NVML does not answer \(.+\)", note)


def test_no_gpu_is_said_once() -> None:
    with Nvml([]) as nvml:
        assert (nvml.readings(), nvml.modes(), nvml.whole_gpus(), nvml.notes) == ([], [], [], [NO_GPU])


def test_readings_of_gpus_that_nobody_knows() -> None:
    assert gpu_readings([91, 90]) == [GpuReading(index=91), GpuReading(index=90)]
    assert len(gpu_readings()) <= len(devices())


def _calls() -> dict[str, set[int]]:
    """How many arguments each function of NVML is called with."""
    found: dict[str, set[int]] = {}
    for node in ast.walk(ast.parse(SOURCE)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr == "_ask" and isinstance(node.args[0], ast.Constant):
            found.setdefault(str(node.args[0].value), set()).add(len(node.args) - 1)
        elif node.func.attr.startswith("nvml"):
            found.setdefault(node.func.attr, set()).add(len(node.args))
    return found


@pytest.mark.parametrize("name", sorted(_calls()))
def test_the_real_binding_has_every_function(name: str) -> None:
    """And takes as many arguments, as ours does."""
    pynvml = pytest.importorskip("pynvml")
    for count in _calls()[name]:
        inspect.signature(getattr(pynvml, name)).bind(*range(count))
        inspect.signature(getattr(Binding(), name)).bind(*range(count))


def test_no_function_is_overlooked() -> None:
    written = set(re.findall(r"\bnvml[A-Z]\w+", SOURCE)) - {
        "nvmlClocksEventReasons",
        "nvmlClocksThrottleReasons",
    }
    assert set(_calls()) == written
    assert len(written) >= 15


def test_our_numbers_are_the_real_bindings() -> None:
    pynvml = pytest.importorskip("pynvml")
    names = set(re.findall(r"NVML_[A-Z_]+", SOURCE))
    assert len(names) == 5
    for name in names:
        assert getattr(Binding, name) == getattr(pynvml, name)
    assert issubclass(pynvml.NVMLError, Exception)
    for kind in ("Event", "Throttle"):
        assert getattr(pynvml, f"nvmlClocks{kind}ReasonGpuIdle") == nvml._IDLE
        for name, (bit, _) in nvml._REASONS.items():
            assert getattr(pynvml, f"nvmlClocks{kind}Reason{name}") == bit


def test_what_the_real_binding_answers_has_the_parts_that_are_read() -> None:
    pynvml = pytest.importorskip("pynvml")
    for struct, part in (
        (pynvml.c_nvmlUtilization_t, "gpu"),
        (pynvml.c_nvmlMemory_t, "used"),
        (pynvml.c_nvmlViolationTime_t, "violationTime"),
    ):
        assert part in dict(struct._fields_)
