"""Packages that not every user has: imported where they are needed, or said in words to be missing."""

from __future__ import annotations

import importlib
from typing import Any

from trt_yolo.errors import MissingDependencyError


def import_or_refuse(module: str, *, purpose: str, package: str, extra: str) -> Any:
    """The module.

    Args:
        module: Its name.
        purpose: What it is needed for, such as `running on a GPU`.
        package: As the package index calls it.
        extra: Of trt-yolo, which brings it.

    Raises:
        MissingDependencyError: It is not installed, or does not import.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(
            f"{purpose} needs {package}, which does not import ({' '.join(str(error).split())[:200]}); "
            f"pip install 'trt-yolo[{extra}]'"
        ) from error
