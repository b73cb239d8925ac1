"""Class names by class id, from whatever a checkpoint, a graph's metadata or a data set holds.

Enters: a list, or a mapping from ids to names. Leaves: one name for each class. Classes without a name get a
numbered one, names without a class are ignored, and one warning says so. Knows no files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

_SHOWN = 3  # names that a warning lists

_log = logging.getLogger(__name__)


def class_names(given: Any, *, classes: int, origin: str) -> dict[int, str]:
    """One name for each class id from 0 to `classes - 1`, in order.

    Args:
        given: A list or tuple of names, or a mapping whose keys are ids, as numbers or as texts such as `"0"`.
            Anything else counts as no names.
        classes: How many classes the model has.
        origin: Where the names are from, for the warning.
    """
    found = {}
    for key, name in _entries(given):
        class_id = _class_id(key)
        if class_id is not None and isinstance(name, str | int | float):
            found[class_id] = str(name)
    missing = [index for index in range(classes) if index not in found]
    surplus = [name for class_id, name in found.items() if not 0 <= class_id < classes]
    if missing or surplus:
        _warn(origin, classes, missing, surplus)
    return {index: found.get(index, f"class_{index}") for index in range(classes)}


def _entries(given: Any) -> list[tuple[Any, Any]]:
    if isinstance(given, Mapping):
        return list(given.items())
    if isinstance(given, Sequence) and not isinstance(given, str | bytes):
        return list(enumerate(given))
    return []


def _class_id(key: Any) -> int | None:
    """The number that a key is, or writes in digits."""
    if isinstance(key, str) and key.strip().isdecimal() and len(key) < 10:
        return int(key)
    return int(key) if isinstance(key, int | float) and key == key // 1 else None


def _warn(origin: str, classes: int, missing: list[int], surplus: list[str]) -> None:
    said = []
    if missing:
        said.append(f"without a name: {_listed([f'class_{index}' for index in missing])}")
    if surplus:
        said.append(f"ignored: {_listed([repr(name) for name in surplus])}")
    _log.warning("%s: its class names do not match its %d classes; %s", origin, classes, "; ".join(said))


def _listed(items: list[str]) -> str:
    more = f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return ", ".join(item[:40] for item in items[:_SHOWN]) + more
