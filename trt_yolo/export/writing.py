"""Files of an artifact: all of them, whole, or none.

Enters: contents and paths. Leaves: files. Knows no formats.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from trt_yolo.errors import InputError


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_writable(folder: Path) -> None:
    """Says now, not after the work, that a folder cannot be written."""
    place = folder
    while not os.path.exists(place) and place != place.parent:  # unlike Path.exists, never raises
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(f"cannot write to {folder}; give a folder that you may write to with --out")


def write_together(files: dict[Path, bytes]) -> None:
    """Writes every file beside its place first, then moves all of them there."""
    written: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
            written[part] = path
            part.write_bytes(content)
        for part, path in written.items():
            part.replace(path)
    except OSError as error:
        folder = next(iter(files)).parent
        raise InputError(
            f"cannot write to {folder}: {error.strerror or error}; give another folder with --out"
        ) from error
    finally:
        for part in written:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
