"""CPUs: how many this process may use, who gets which, and whether waiting threads spin on theirs.

The quota is what Linux grants the control groups of the process, of version 1 and 2; it never raises.

ONNX Runtime's threads spin: they look for work without sleeping. Alone on its CPUs a model is faster so. Where others
want the same CPUs, each look takes time from whoever has work, its own threads first. `auto` is decided once, when a
model is loaded.
"""

from __future__ import annotations

import functools
import itertools
import math
import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

Spin = bool | Literal["auto"]

_MOMENT_S = 0.1
_BACKGROUND = 0.25  # CPUs that a quiet system uses by itself


@dataclass(frozen=True, kw_only=True)
class Cpus:
    """What this process may use of the machine's CPUs.

    Attributes:
        cores: Numbers of the cores that it may run on, ascending: its affinity.
        quota: The CPUs whose time its control groups allow; None for no limit.
        machine: How many cores there are.
    """

    cores: tuple[int, ...]
    quota: float | None = None
    machine: int = 0

    @property
    def count(self) -> int:
        """How many threads have work: one for each core, and no more than the quota, rounded up.

        Up, since with 1.5 CPUs one thread leaves a third of the time unused, while of two each waits a
        quarter. At least one: with 0.3 of a CPU, more threads only wait for each other.
        """
        return len(self.cores) if self.quota is None else min(len(self.cores), max(1, math.ceil(self.quota)))

    @property
    def reason(self) -> str:
        """What makes them so many, in words."""
        if self.quota is not None and self.quota < len(self.cores):
            return f"cgroup quota {self.quota:g}"
        return "affinity" if len(self.cores) < self.machine else "no limit is set"


def usable_cpus(root: Path = Path("/")) -> Cpus:
    """The CPUs that this process may use, by affinity and by the quota of its control groups.

    Args:
        root: Where `/proc` and the control groups lie.
    """
    machine = os.cpu_count() or 1
    cores = tuple(sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(machine))
    return Cpus(cores=cores, quota=cpu_quota(root), machine=machine)


def share_cores(cpus: Cpus, workers: int, threads: int | None) -> list[tuple[list[int] | None, int]]:
    """Each worker's cores (None: all of them) and threads: equal shares, in one piece each.

    With a quota of fewer CPUs than cores nobody is tied to a core: which one is free, the kernel knows.

    Args:
        cpus: What there is to share.
        workers: Among how many.
        threads: CPU threads of one inference; None takes one for each CPU of the share.
    """
    bounds = [cpus.count * number // workers for number in range(workers + 1)]
    pieces = [list(cpus.cores[low:high]) for low, high in itertools.pairwise(bounds)]
    is_enough = workers > 1 and all(len(piece) >= (threads or 1) for piece in pieces)
    is_tied = is_enough and cpus.count == len(cpus.cores)
    return [(piece if is_tied else None, threads or max(1, len(piece))) for piece in pieces]


def default_decode_threads(cpus: int) -> int:
    """How many threads decode and letterbox where nobody says: half of the CPUs, from 2 to 8."""
    return min(8, max(2, cpus // 2))


def spins_on_cpu(
    spin: Spin, cpus: Cpus, *, threads: int, workers: int = 1, root: Path = Path("/")
) -> tuple[bool, str]:
    """Whether threads of inferences on the CPU spin, and why; the latter is empty if nothing was decided here.

    Args:
        spin: What was asked for; `auto` spins where all threads have a CPU that nobody else uses.
        cpus: What this process may use.
        threads: CPU threads of one inference.
        workers: Inferences at once.
        root: Where `/proc` lies.
    """
    if spin != "auto":
        return spin, ""
    if threads == 1:
        return False, ""  # nobody to wait for
    total = threads * workers
    limit = min(len(cpus.cores), cpus.quota or len(cpus.cores))
    if total > limit:
        return False, f"{total} threads share {limit:g} CPUs ({cpus.reason})"
    busy = _busy_cpus(cpus, root)
    if busy is None:
        return True, "how busy the CPUs are is unknown"
    state = f"{busy:.1f} of {len(cpus.cores)} CPUs are busy with something else"
    return len(cpus.cores) - busy >= total - _BACKGROUND, state


@functools.cache
def spins_here(threads: int) -> bool:
    """What `auto` decides for one session of so many threads, once in this process: for sessions that come and go."""
    return spins_on_cpu("auto", usable_cpus(), threads=threads)[0]


def _busy_cpus(cpus: Cpus, root: Path) -> float | None:
    """How many of these CPUs were at work during a moment; None where it is unknown."""
    before = _ticks(cpus, root)
    time.sleep(_MOMENT_S if any(before) else 0)
    after = _ticks(cpus, root)
    total, idle = after[0] - before[0], after[1] - before[1]
    return len(cpus.cores) * (total - idle) / total if total > 0 else None


def _ticks(cpus: Cpus, root: Path) -> tuple[int, int]:
    """Time of these CPUs since the start, and what of it they were idle; see proc_stat(5). (0, 0): not counted."""
    rows = re.findall(r"^cpu(\d+) (\d+(?: \d+){7})", text_at(root / "proc/stat"), re.MULTILINE)
    times = [[int(tick) for tick in row.split()] for core, row in rows if int(core) in cpus.cores]
    return sum(map(sum, times)), sum(row[3] + row[4] for row in times)  # idle, and idle while a disk works


class _Mount(NamedTuple):
    version: int
    top: PurePosixPath  # the group whose folder is mounted
    folder: str


# where they are if nobody says
_USUAL = [
    _Mount(2, PurePosixPath("/"), "/sys/fs/cgroup"),
    _Mount(1, PurePosixPath("/"), "/sys/fs/cgroup/cpu"),
]


def cpu_quota(root: Path = Path("/")) -> float | None:
    """The CPUs whose time this process may use, as its groups allow; None for no limit.

    A group cannot use more than those around it, so the smallest counts.

    Args:
        root: Where `/proc` and the mounted hierarchies lie.
    """
    granted = [cpus for folder in _folders(root) if (cpus := _granted(folder)) is not None]
    return min(granted, default=None)


def _folders(root: Path) -> Iterator[Path]:
    """The folders of the groups of this process, and of those around them as far as they are mounted."""
    groups = _groups(root)
    for mount in _mounts(root) or _USUAL:
        group = groups.get(mount.version, mount.top)
        is_below = group.is_relative_to(mount.top) and ".." not in group.parts
        inside = group.relative_to(mount.top) if is_below else PurePosixPath()
        for path in (inside, *inside.parents):
            yield root / mount.folder.lstrip("/") / path


def _groups(root: Path) -> dict[int, PurePosixPath]:
    """The group of this process in the hierarchies of version 1's `cpu` and of version 2."""
    groups = {}
    for line in text_at(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/") and (number == "0" or "cpu" in controllers.split(",")):
            groups[1 if controllers else 2] = PurePosixPath(path)
    return groups


def _mounts(root: Path) -> list[_Mount]:
    """Where these hierarchies are mounted; see proc_pid_mountinfo(5)."""
    mounts = []
    for line in text_at(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(" "), (right.split(" ") + [""] * 3)[:3]
        is_cpu = kind == "cgroup" and "cpu" in options.split(",")
        if len(fields) > 4 and (is_cpu or kind == "cgroup2"):
            top, folder = map(_unescaped, fields[3:5])
            mounts.append(_Mount(1 if is_cpu else 2, PurePosixPath(top), folder))
    return mounts


def _unescaped(text: str) -> str:
    r"""Blanks and the like stand there as `\040`."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)


def _granted(folder: Path) -> float | None:
    quota, _, period = text_at(folder / "cpu.max").partition(" ")
    if not period:
        quota, period = text_at(folder / "cpu.cfs_quota_us"), text_at(folder / "cpu.cfs_period_us")
    try:
        cpus = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # `max`, or no such file
        return None
    return cpus if cpus > 0 else None  # -1: no limit


def text_at(path: Path) -> str:
    """What Linux says in a file; empty where it cannot be read."""
    try:
        return path.read_text(errors="replace").strip()
    except (OSError, ValueError):
        return ""
