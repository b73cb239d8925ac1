"""RAPL and a Jetson's power monitor: small trees of `/sys`, in the kernel's own formats, with known numbers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from trt_yolo.hardware import power
from trt_yolo.hardware.power import CountedEnergy, RaplPackage, SampledPower, board_watts, rapl_packages

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
