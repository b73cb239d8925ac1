"""Control groups: how much CPU time Linux grants this process. Never raises.

Enters: `/proc/self` and the folders that it names, of version 1 and 2. Leaves: a number of CPUs.
Knows no cores and no threads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple


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
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if path.startswith("/") and (number == "0" or "cpu" in controllers.split(",")):
            groups[1 if controllers else 2] = PurePosixPath(path)
    return groups


def _mounts(root: Path) -> list[_Mount]:
    """Where these hierarchies are mounted; see proc_pid_mountinfo(5)."""
    mounts = []
    for line in _read(root / "proc/self/mountinfo").splitlines():
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
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not period:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    try:
        cpus = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # `max`, or no such file
        return None
    return cpus if cpus > 0 else None  # -1: no limit


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except (OSError, ValueError):
        return ""
