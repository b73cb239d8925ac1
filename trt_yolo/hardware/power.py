"""What the machine draws: processors and boards as Linux says (RAPL, power monitors of Jetsons), GPUs by NVML.

Enters: `/sys`, NVML. Leaves: counters in joules, power in watts, None where nobody says. Never raises.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Protocol

from trt_yolo.hardware.cores import text_at
from trt_yolo.hardware.nvml import Nvml

if TYPE_CHECKING:
    from typing_extensions import Self

_SAMPLE_S = 0.1
_TICK_S = 10.0  # a RAPL counter of AMD begins anew after some 200 s at 300 W
_STALE_S = 2.0
# names of NVIDIA's device trees: one rail that holds all others, or the three that make up an AGX Orin
_BOARDS = (("VDD_IN",), ("POM_5V_IN",), ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"))


class Mark(NamedTuple):
    """A moment, and the energy used until then, by source; see `PowerMeter`."""

    at_s: float
    joules: tuple[float | None, ...]


class PowerMeter:
    """Mean power of the machine over stretches of time. A context manager.

    What is summed up: GPUs by NVML (their energy counter, or else power sampled ten times a second), processors by
    RAPL. A Jetson's own monitor, sampled, measures all of its module, the GPU in it too.

    Attributes:
        sources: What is summed up; none: nobody knows the power.
        notes: What could not be read, and why.

    Args:
        root: Where `/sys` lies.
        nvml: NVIDIA's management library, asked about the GPUs that count; None: this machine's, and all of them.
    """

    def __init__(self, root: Path = Path("/"), nvml: Nvml | None = None) -> None:
        self.sources: list[str] = []
        self._measured: list[_EnergySource] = []
        self._root = root
        self._nvml = Nvml() if nvml is None else nvml
        self.notes = list(self._nvml.notes)
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        board = board_watts(self._root)
        if board is not None:
            self._measured.append(SampledPower("the Jetson module, by its power monitor", board))
        else:
            self._find_rapl()
        self._find_gpus(within_board=board is not None)
        self.sources = [source.name for source in self._measured]
        if self._measured:
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
        """This moment; a few file reads, and calls of NVML."""
        joules = tuple(source.joules() for source in self._measured)
        for source, used_j in zip(self._measured, joules, strict=True):
            note = f"power of {source.name}: it does not answer any more"
            if used_j is None and note not in self.notes:
                self.notes.append(note)
        return Mark(time.perf_counter(), joules)

    def watts(self, stretches: Sequence[tuple[Mark, Mark]]) -> float | None:
        """Mean power over stretches of time between marks, watts; None where nobody knows all of it."""
        seconds = sum(end.at_s - begin.at_s for begin, end in stretches)
        if not self.sources or seconds <= 0:
            return None
        total_j = 0.0
        for begin, end in stretches:
            for before_j, after_j in zip(begin.joules, end.joules, strict=True):
                if before_j is None or after_j is None:
                    return None
                total_j += after_j - before_j
        return total_j / seconds

    def _find_gpus(self, *, within_board: bool) -> None:
        nvml = self._nvml
        parts = {one.index for one in nvml.modes() if one.mig}
        for gpu in nvml.whole_gpus():
            if gpu.integrated and within_board:
                continue
            name = f"GPU {gpu.index}, by NVML's "
            if nvml.joules(gpu.index) is not None:
                ask = functools.partial(nvml.joules, gpu.index)
                self._measured.append(CountedEnergy(f"{name}energy counter", ask))
            elif nvml.watts(gpu.index) is not None:
                self._measured.append(SampledPower(f"{name}power", functools.partial(nvml.watts, gpu.index)))
            else:
                self.notes.append(f"power of GPU {gpu.index}: NVML does not say it")
            if gpu.index in parts:
                self.notes.append(f"power of GPU {gpu.index}: of all of it, whoever uses its other parts")

    def _find_rapl(self) -> None:
        packages = rapl_packages(self._root)
        self._measured += [package for package in packages if package.is_readable]
        for package in packages:
            if not package.is_readable:
                self.notes.append(f"power of {package.name}: cannot be read (only by root)")
        if not packages:
            self.notes.append("power of the processor: this system has neither RAPL nor a Jetson's monitor")

    def _run(self) -> None:
        samples = any(isinstance(source, SampledPower) for source in self._measured)
        while not self._stopped.wait(_SAMPLE_S if samples else _TICK_S):
            for source in self._measured:
                source.tick()


class _EnergySource(Protocol):
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
        self.name = f"{text_at(zone / 'name') or zone.name}, by RAPL"
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
    return [RaplPackage(zone) for zone in packages if not text_at(zone / "name").startswith("psys")]


def board_watts(root: Path) -> Callable[[], float | None] | None:
    """What a Jetson module draws, by its ina3221, in watts; None where there is no such monitor.

    An Orin NX or Nano has one rail that holds all others, an AGX Orin three beside each other (NVIDIA, Jetson Linux
    Developer Guide, platform power). The carrier board is on none of them.
    """
    rails = {text_at(label): label for label in root.glob("sys/class/hwmon/hwmon*/in*_label")}
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


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
