"""Power and clocks: small trees of `/sys` with known numbers, the real binding's names, and this machine."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.hardware.nvml import GPU, Binding
from tests.hardware.test_power import ina3221, rapl
from trt_yolo.hardware import nvml
from trt_yolo.hardware.gpus import devices
from trt_yolo.hardware.nvml import GpuModes, GpuReading, Mark, Nvml, PowerMeter, gpu_readings

SOURCE = Path(nvml.__file__).read_text()
NO_GPU = "clocks and power of GPUs: no GPU answers here"
NO_RAPL = "power of the processor: this system has neither RAPL nor a Jetson's monitor"
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


def _watts(meter: PowerMeter, *stretches: tuple[Mark, Mark], seconds: float) -> float | None:
    """As if each stretch had taken so long."""
    timed = [(begin._replace(at_s=0.0), end._replace(at_s=seconds)) for begin, end in stretches]
    return meter.watts(timed)


def test_watts_of_a_gpu_by_its_energy_counter(tmp_path: Path) -> None:
    binding = Binding()
    with PowerMeter(tmp_path, Nvml([GPU], binding)) as meter:
        assert meter.sources == ["GPU 1, by NVML's energy counter"]
        stretches = []
        for used_mj in (3_000, 1_000):
            begin = meter.mark()
            binding.energy_mj += used_mj
            stretches.append((begin, meter.mark()))
            binding.energy_mj += 1e9  # between the stretches: not theirs
        assert _watts(meter, *stretches, seconds=0.02) == pytest.approx(4.0 / 0.04)
    assert binding.open == 0


def test_watts_of_a_gpu_by_samples(tmp_path: Path) -> None:
    binding = Binding(lacking=("nvmlDeviceGetTotalEnergyConsumption",))
    with PowerMeter(tmp_path, Nvml([GPU], binding)) as meter:
        assert meter.sources == ["GPU 1, by NVML's power"]
        begin = meter.mark()
        time.sleep(0.25)
        assert meter.watts([(begin, meter.mark())]) == pytest.approx(350, rel=0.02)


def test_two_parts_of_one_gpu_are_counted_once(tmp_path: Path) -> None:
    binding = Binding()
    gpus = [dataclasses.replace(GPU, index=index) for index in (0, 1)]
    with PowerMeter(tmp_path, Nvml(gpus, binding)) as meter:
        begin = meter.mark()
        binding.energy_mj += 1000
        assert _watts(meter, (begin, meter.mark()), seconds=1.0) == pytest.approx(1)
    assert meter.sources == ["GPU 0, by NVML's energy counter"]


def test_a_gpu_whose_power_nobody_knows_is_said(tmp_path: Path) -> None:
    with PowerMeter(tmp_path, Nvml([GPU], Binding(lacking=READINGS))) as meter:
        assert (meter.sources, meter.watts([(meter.mark(), meter.mark())])) == ([], None)
    assert meter.notes == [NO_RAPL, "power of GPU 1: NVML does not say it"]


def test_a_gpu_that_stops_answering_makes_no_number(tmp_path: Path) -> None:
    binding = Binding()
    with PowerMeter(tmp_path, Nvml([GPU], binding)) as meter:
        begin = meter.mark()
        binding._lacking = ("nvmlDeviceGetTotalEnergyConsumption",)
        lost = meter.mark()
        meter.mark()
        binding._lacking = ()
        assert meter.watts([(begin, lost)]) is None
        assert meter.watts([(begin, meter.mark())]) is not None
    assert meter.notes == [NO_RAPL, "power of GPU 1, by NVML's energy counter: it does not answer any more"]


def test_processors_and_gpus_are_summed_up(tmp_path: Path) -> None:
    range_uj = 262143328850
    one = rapl(tmp_path, "intel-rapl:0", "package-0", range_uj - 1_000_000)
    other = rapl(tmp_path, "intel-rapl:1", "package-1", 0)
    binding = Binding()
    with PowerMeter(tmp_path, Nvml([GPU], binding)) as meter:
        names = ["package-0, by RAPL", "package-1, by RAPL", "GPU 1, by NVML's energy counter"]
        assert (meter.sources, meter.notes) == (names, [])
        begin = meter.mark()
        one.write_text("2000000\n")  # it began anew
        other.write_text("5000000\n")
        binding.energy_mj += 4000
        end = meter.mark()
    assert _watts(meter, (begin, end), seconds=2.0) == pytest.approx((1 + 2 + 5 + 4) / 2)


def test_a_counter_that_begins_anew_between_marks_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twice while nobody asks: the meter's own thread looks."""
    monkeypatch.setattr(nvml, "_TICK_S", 0.01)
    path, range_uj = rapl(tmp_path, "intel-rapl:0", "package-0", 0, 65532610987), 65532610987
    with PowerMeter(tmp_path, Nvml([])) as meter:
        begin = meter.mark()
        for now_uj in (range_uj - 1, 0, range_uj - 1, 3_000_000):
            path.with_suffix(".new").write_text(f"{now_uj}\n")
            path.with_suffix(".new").replace(path)
            time.sleep(0.2)
        end = meter.mark()
    assert _watts(meter, (begin, end), seconds=1.0) == pytest.approx(2 * range_uj / 1e6 + 3)


def test_a_counter_that_only_root_reads_is_said(tmp_path: Path) -> None:
    path = rapl(tmp_path, "intel-rapl:0", "package-0", 1)
    path.unlink()
    path.mkdir()  # cannot be read, by root either
    with PowerMeter(tmp_path, Nvml([])) as meter:
        assert (meter.sources, meter.watts([(meter.mark(), meter.mark())])) == ([], None)
    assert meter.notes == [NO_GPU, "power of package-0, by RAPL: cannot be read (only by root)"]


def test_watts_of_a_jetson(tmp_path: Path) -> None:
    """Its GPU is measured with all else, and is not counted again."""
    ina3221(tmp_path, 3, {"VDD_IN": (5000, 2400), "VDD_CPU_GPU_CV": (5000, 800)})
    gpu = dataclasses.replace(GPU, integrated=True)
    with PowerMeter(tmp_path, Nvml([gpu], Binding())) as meter:
        assert meter.sources == ["the Jetson module, by its power monitor"]
        begin = meter.mark()
        time.sleep(0.25)
        assert meter.watts([(begin, meter.mark())]) == pytest.approx(12, rel=0.02)


def test_a_system_that_says_nothing_says_so(tmp_path: Path) -> None:
    with PowerMeter(tmp_path, Nvml([])) as meter:
        mark = meter.mark()
        assert (meter.sources, meter.watts([(mark, meter.mark())])) == ([], None)
    assert meter.notes == [NO_GPU, NO_RAPL]


def test_no_time_has_no_power(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 1)
    with PowerMeter(tmp_path, Nvml([])) as meter:
        mark = meter.mark()
        assert meter.watts([]) is None
        assert meter.watts([(mark, mark)]) is None


def test_its_thread_ends_with_it(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 1)

    def running() -> list[Any]:
        return [thread for thread in threading.enumerate() if thread.name == "trt-yolo-power"]

    before = running()
    with PowerMeter(tmp_path, Nvml([])):
        assert len(running()) == len(before) + 1
    assert running() == before


def test_this_machine_answers_or_says_why_not() -> None:
    with Nvml() as nvml, PowerMeter() as meter:
        assert len(nvml.readings()) <= len(devices())
        marks = [meter.mark() for _ in range(20)]
        watts = meter.watts([(marks[0], marks[-1])])
        assert watts is None or watts >= 0
        assert meter.sources or meter.notes
