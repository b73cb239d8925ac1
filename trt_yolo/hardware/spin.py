"""Whether threads that wait for their next piece of work spin or sleep: decided once, when a model is loaded.

ONNX Runtime's threads spin: they look for work without sleeping. Alone on its CPUs a model is faster so. Where
others want the same CPUs, each look takes time from whoever has work, its own threads first.

Enters: what was asked for, how many threads there will be. Leaves: yes or no, and why.
"""

from __future__ import annotations

import functools
import re
import time
from pathlib import Path
from typing import Literal

from trt_yolo.hardware.cores import Cpus, usable_cpus

Spin = bool | Literal["auto"]

_MOMENT_S = 0.1
_BACKGROUND = 0.25  # CPUs that a quiet system uses by itself


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
    try:
        lines = (root / "proc/stat").read_text(errors="replace")
    except OSError:
        return 0, 0
    rows = re.findall(r"^cpu(\d+) (\d+(?: \d+){7})", lines, re.MULTILINE)
    times = [[int(tick) for tick in row.split()] for core, row in rows if int(core) in cpus.cores]
    return sum(map(sum, times)), sum(row[3] + row[4] for row in times)  # idle, and idle while a disk works
