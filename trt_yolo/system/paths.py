"""Paths that cannot be used, and why. Knows no formats."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def absence(path: str | Path, what: str = "file") -> str:
    """Why nothing is found at a path: `no such file: PATH`, or that this user may not enter a folder on the way."""
    try:
        os.stat(path)
    except PermissionError as error:
        return f"cannot read {path}: {error.strerror}"
    except (OSError, ValueError):  # ValueError: a null byte
        pass
    return f"no such {what}: {path}"


def why_not_writable(path: Path) -> str | None:
    """What keeps a file from being written, such as `is a folder`; None if nothing does."""
    if not os.path.isdir(path.parent):
        return f"cannot be made: there is no folder {path.parent}"
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            return "is a folder"
        may = os.access(path, os.W_OK)
    except FileNotFoundError:
        may = os.access(path.parent, os.W_OK)
    except OSError as error:
        return f"cannot be written: {error.strerror}"
    return None if may else "cannot be written: Permission denied"
