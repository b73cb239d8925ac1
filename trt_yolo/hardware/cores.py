"""CPUs: how many this process may use, and who gets which."""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass
from pathlib import Path

from trt_yolo.hardware.cgroups import cpu_quota


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
