"""RAPL, a Jetson's power monitor and NVML: small trees of `/sys`, in the kernel's own formats, with known numbers."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hardware.nvml import GPU, Binding
from tests.hardware.test_nvml import NO_GPU, READINGS
from trt_yolo.hardware import power
from trt_yolo.hardware.gpus import devices
from trt_yolo.hardware.nvml import Nvml
from trt_yolo.hardware.power import (
    CountedEnergy,
    Mark,
    PowerMeter,
    RaplPackage,
    SampledPower,
    board_watts,
    rapl_packages,
)

NO_RAPL = "power of the processor: this system has neither RAPL nor a Jetson's monitor"
INTEL_UJ, AMD_UJ = 262143328850, 65532610987


def rapl(root: Path, zone: str, name: str, energy_uj: int, range_uj: int = INTEL_UJ) -> Path:
    """A zone as powercap lays it out; its counter."""
    folder = root / "sys/class/powercap" / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
    (folder / "energy_uj").write_text(f"{energy_uj}\n")
    (folder / "enabled").write_text("1\n")
    return folder / "energy_uj"


def ina3221(root: Path, number: int, rails: dict[str, tuple[int, int]]) -> Path:
    """A monitor as its driver lays it out: volts and amperes by rail, in thousandths; its folder."""
    folder = root / f"sys/class/hwmon/hwmon{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina3221\n")
    for channel, (label, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
        (folder / f"in{channel}_label").write_text(f"{label}\n")
        (folder / f"in{channel}_input").write_text(f"{millivolts}\n")
        (folder / f"curr{channel}_input").write_text(f"{milliamperes}\n")
    (folder / "in4_label").write_text("Sum of shunt voltages\n")
    (folder / "in4_input").write_text("25\n")
    return folder


def test_packages_alone_are_counted(tmp_path: Path) -> None:
    rapl(tmp_path, "intel-rapl:0", "package-0", 1)
    rapl(tmp_path, "intel-rapl:0:0", "core", 1)
    rapl(tmp_path, "intel-rapl:0:1", "dram", 1)
    rapl(tmp_path, "intel-rapl:1", "package-1", 1)
    rapl(tmp_path, "intel-rapl:2", "psys", 1)
    rapl(tmp_path, "intel-rapl-mmio:0", "package-0", 1)
    (tmp_path / "sys/class/powercap/intel-rapl").mkdir()
    assert [one.name for one in rapl_packages(tmp_path)] == ["package-0, by RAPL", "package-1, by RAPL"]


def test_no_powercap(tmp_path: Path) -> None:
    assert rapl_packages(tmp_path) == []


@pytest.mark.parametrize("range_uj", [INTEL_UJ, AMD_UJ])
def test_a_counter_that_begins_anew(range_uj: int, tmp_path: Path) -> None:
    path = rapl(tmp_path, "intel-rapl:0", "package-0", range_uj - 1_000_000, range_uj)
    package = RaplPackage(path.parent)
    before_j, used_j = package.joules(), []
    for now_uj in (range_uj - 500_000, 2_000_000, 3_000_000, 1_000_000):  # twice
        path.write_text(f"{now_uj}\n")
        now_j = package.joules()
        assert before_j is not None
        assert now_j is not None
        used_j.append(now_j - before_j)
    assert used_j == pytest.approx([0.5, 3, 4, range_uj / 1e6 + 2])


def test_a_tick_sees_that_it_begins_anew(tmp_path: Path) -> None:
    """Between two marks that are far from each other."""
    path = rapl(tmp_path, "intel-rapl:0", "package-0", AMD_UJ - 1_000_000, AMD_UJ)
    package = RaplPackage(path.parent)
    before_j = package.joules()
    for now_uj in (0, AMD_UJ - 1, 1_000_000):
        path.write_text(f"{now_uj}\n")
        package.tick()
    after_j = package.joules()
    assert before_j is not None
    assert after_j is not None
    assert after_j - before_j == pytest.approx(1 + AMD_UJ / 1e6 + 1)


@pytest.mark.parametrize("name", ["energy_uj", "max_energy_range_uj"])
@pytest.mark.parametrize("content", [None, "", "many\n"], ids=["no-file", "empty", "text"])
def test_a_counter_that_cannot_be_read(name: str, content: str | None, tmp_path: Path) -> None:
    file = rapl(tmp_path, "intel-rapl:0", "package-0", 1).with_name(name)
    file.unlink()
    if content is None:
        file.mkdir()  # root can read everything else
    else:
        file.write_text(content)
    (package,) = rapl_packages(tmp_path)
    assert not package.is_readable
    assert package.joules() is None


def test_a_counter_that_is_lost_later(tmp_path: Path) -> None:
    path = rapl(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    package = RaplPackage(path.parent)
    assert package.joules() == 5
    path.unlink()
    assert package.joules() is None
    path.write_text("6000000\n")
    assert package.joules() == 6


ORIN_NX = {"VDD_IN": (5064, 1200), "VDD_CPU_GPU_CV": (5064, 300), "VDD_SOC": (5064, 400)}
AGX_ORIN = {"VDD_GPU_SOC": (20000, 500), "VDD_CPU_CV": (20000, 250), "VIN_SYS_5V0": (5000, 600)}


@pytest.mark.parametrize(
    ("monitors", "wanted_w"),
    [
        pytest.param([ORIN_NX], 5.064 * 1.2, id="orin-nx"),
        pytest.param([{"NC": (0, 0), "VDDQ_VDD2_1V8AO": (5000, 100)}, AGX_ORIN], 10 + 5 + 3, id="agx-orin"),
        pytest.param([{"POM_5V_IN": (5000, 500), "POM_5V_GPU": (5000, 100)}], 2.5, id="nano"),
    ],
)
def test_a_jetson(monitors: list[dict[str, tuple[int, int]]], wanted_w: float, tmp_path: Path) -> None:
    for number, rails in enumerate(monitors, start=2):
        ina3221(tmp_path, number, rails)
    watts = board_watts(tmp_path)
    assert watts is not None
    assert watts() == pytest.approx(wanted_w)


@pytest.mark.parametrize(
    "rails",
    [{}, {"VDD_GPU_SOC": (20000, 500), "VDD_CPU_CV": (20000, 250)}, {"Vcore": (1100, 9000)}],
    ids=["none", "two-of-three", "a-pc"],
)
def test_rails_that_are_not_all_of_a_board(rails: dict[str, tuple[int, int]], tmp_path: Path) -> None:
    ina3221(tmp_path, 0, rails)
    assert board_watts(tmp_path) is None


def test_a_rail_that_is_not_measured_any_more(tmp_path: Path) -> None:
    folder = ina3221(tmp_path, 0, AGX_ORIN)
    watts = board_watts(tmp_path)
    assert watts is not None
    (folder / "curr2_input").unlink()
    assert watts() is None
    assert board_watts(tmp_path) is None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """What time it is."""
    now_s = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now_s[0])
    yield now_s
    monkeypatch.undo()


def test_samples_make_energy(clock: list[float]) -> None:
    answers: Iterator[float | None] = iter([10.0, 30.0, None, 20.0])
    source = SampledPower("a thing", lambda: next(answers))
    assert source.joules() == 0
    clock[0] += 0.5
    assert source.joules() == pytest.approx(5)
    source.tick()  # from here on 30 W
    clock[0] += 0.1
    assert source.joules() == pytest.approx(5 + 3)
    source.tick()  # no answer
    clock[0] += 0.1
    assert source.joules() == pytest.approx(5 + 6)
    source.tick()
    assert source.joules() == pytest.approx(5 + 6)
    clock[0] += 0.1
    assert source.joules() == pytest.approx(5 + 6 + 2)


def test_nobody_knows_what_was_used_since_it_stopped_answering(clock: list[float]) -> None:
    answers: Iterator[float | None] = iter([10.0, None, 10.0])
    source = SampledPower("a thing", lambda: next(answers))
    clock[0] += power._STALE_S + 0.01
    source.tick()
    assert source.joules() is None
    source.tick()
    assert source.joules() is not None


def test_a_thing_that_has_never_answered() -> None:
    assert SampledPower("a thing", lambda: None).joules() is None


def test_a_thing_that_counts_itself() -> None:
    source = CountedEnergy("a thing", lambda: 3.0)
    source.tick()
    assert (source.name, source.joules()) == ("a thing", 3.0)


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
    monkeypatch.setattr(power, "_TICK_S", 0.01)
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
