"""What processor and board have used or draw, as Linux says: RAPL of Intel and AMD, power monitors of Jetsons.

Enters: `/sys`. Leaves: counters in joules, power in watts, None where a file cannot be read. Knows no GPUs.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

_STALE_S = 2.0
# names of NVIDIA's device trees: one rail that holds all others, or the three that make up an AGX Orin
_BOARDS = (("VDD_IN",), ("POM_5V_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))


class EnergySource(Protocol):
    """Something whose energy is counted.

    Attributes:
        name: What it is, for a person.
    """

    name: str

    def joules(self) -> float | None:
        """Energy used since some moment; None while nobody knows."""
        ...

    def tick(self) -> None:
        """To be called now and then."""
        ...


class CountedEnergy:
    """Something that counts its energy itself, without end.

    Args:
        name: What it is.
        joules: Asks it; None where it does not say.
    """

    def __init__(self, name: str, joules: Callable[[], float | None]) -> None:
        self.name, self._ask = name, joules

    def joules(self) -> float | None:
        """Energy used since some moment; None where it does not say."""
        return self._ask()

    def tick(self) -> None:
        """Nothing to do."""


class RaplPackage:
    """The energy counter of one processor; it begins anew at its range, which takes minutes under load.

    Args:
        zone: Its folder, such as `/sys/class/powercap/intel-rapl:0`; AMD's are called the same.
    """

    def __init__(self, zone: Path) -> None:
        self.name = f"{_text(zone / 'name') or zone.name}, by RAPL"
        self._path = zone / "energy_uj"
        self._range_uj = _number(zone / "max_energy_range_uj")
        self._last_uj = _number(self._path)
        self._turns_uj = 0
        self._lock = threading.Lock()

    @property
    def is_readable(self) -> bool:
        """Whether it says anything; most kernels let only root read it."""
        return bool(self._range_uj) and self._last_uj is not None

    def joules(self) -> float | None:
        """Energy used since some moment; None while it cannot be read."""
        with self._lock:
            now_uj = _number(self._path)
            if now_uj is None or self._last_uj is None or self._range_uj is None:
                return None
            if now_uj < self._last_uj:
                self._turns_uj += self._range_uj
            self._last_uj = now_uj
            return (self._turns_uj + now_uj) / 1e6

    def tick(self) -> None:
        """Reads it, so that it does not begin anew twice unseen."""
        self.joules()


class SampledPower:
    """Energy of something that says only what it draws: each sample holds until the next one.

    Args:
        name: What it is.
        watts: Asks it; None where it does not say.
    """

    def __init__(self, name: str, watts: Callable[[], float | None]) -> None:
        self.name, self._ask = name, watts
        self._lock = threading.Lock()
        self._joules, self._watts, self._at_s = 0.0, 0.0, -_STALE_S
        self.tick()

    def joules(self) -> float | None:
        """Energy used since some moment; None where it has not said anything for 2 seconds."""
        with self._lock:
            passed_s = time.perf_counter() - self._at_s
            return self._joules + self._watts * passed_s if passed_s <= _STALE_S else None

    def tick(self) -> None:
        """Takes a sample."""
        drawn_w, now_s = self._ask(), time.perf_counter()
        if drawn_w is None:
            return
        with self._lock:
            self._joules += self._watts * (now_s - self._at_s)
            self._watts, self._at_s = drawn_w, now_s


def rapl_packages(root: Path) -> list[RaplPackage]:
    """One for each processor; parts of it, and the platform around it (`psys`), would be counted twice."""
    zones = sorted(root.glob("sys/class/powercap/intel-rapl:*"))
    packages = [zone for zone in zones if zone.name.count(":") == 1]
    return [RaplPackage(zone) for zone in packages if not _text(zone / "name").startswith("psys")]


def board_watts(root: Path) -> Callable[[], float | None] | None:
    """What a Jetson module draws, by its ina3221, in watts; None where there is no such monitor.

    An Orin NX or Nano has one rail that holds all others, an AGX Orin three beside each other (NVIDIA, Jetson Linux
    Developer Guide, platform power). The carrier board is on none of them.
    """
    rails = {_text(label): label for label in root.glob("sys/class/hwmon/hwmon*/in*_label")}
    for names in _BOARDS:
        if all(name in rails and _rail_watts(rails[name]) is not None for name in names):
            return functools.partial(_sum, [rails[name] for name in names])
    return None


def _sum(labels: list[Path]) -> float | None:
    total_w = 0.0
    for label in labels:
        rail_w = _rail_watts(label)
        if rail_w is None:
            return None
        total_w += rail_w
    return total_w


def _rail_watts(label: Path) -> float | None:
    """Volts times amperes: hwmon gives both in thousandths."""
    number = label.name.removeprefix("in").removesuffix("_label")
    millivolts = _number(label.with_name(f"in{number}_input"))
    milliamperes = _number(label.with_name(f"curr{number}_input"))
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1e6


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
