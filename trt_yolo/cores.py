"""CPU cores: which there are, and who gets which."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence


def available_cores() -> list[int]:
    """The CPU cores that this process may use, by number."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def share_cores(
    cores: Sequence[int], workers: int, threads: int | None
) -> list[tuple[list[int] | None, int]]:
    """Each worker's cores (None: all of them) and threads: equal shares, in one piece each.

    Args:
        cores: What there is to share.
        workers: Among how many.
        threads: CPU threads of one inference; None takes one for each core of the share.
    """
    bounds = [len(cores) * number // workers for number in range(workers + 1)]
    pieces = [list(cores[low:high]) for low, high in itertools.pairwise(bounds)]
    is_enough = workers > 1 and all(len(piece) >= (threads or 1) for piece in pieces)
    return [(piece if is_enough else None, threads or max(1, len(piece))) for piece in pieces]


def default_decode_threads(cores: int) -> int:
    """How many threads decode and letterbox where nobody says: half of the cores, from 2 to 8."""
    return min(8, max(2, cores // 2))
