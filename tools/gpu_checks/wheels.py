"""Packages that were carried to a machine without a network, installed before anything is checked.

Enters: a folder of wheels and source archives; large ones may come in pieces, `NAME.whl.00`, `NAME.whl.01`, as `split
-d` names them. Leaves: an environment that has them. Knows no package.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_PIECE = re.compile(r"(.+\.(?:whl|tar\.gz))\.(\d+)$")


class NotInstalledError(Exception):
    """pip did not install them; the text says why."""


def install(folder: Path) -> list[str]:
    """Installs all that lies there, offline; the files' names.

    Raises:
        NotInstalledError: Nothing is there, or pip refuses.
    """
    joined = join_pieces(folder)
    found = sorted({path for pattern in ("*.whl", "*.tar.gz") for path in folder.glob(pattern)})
    if not found:
        raise NotInstalledError(f"{folder} has no .whl and no .tar.gz; put the packages there")
    command = [
        sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps",
        "--no-build-isolation", *map(str, found),
    ]  # fmt: skip
    environment = os.environ | {"PIP_BREAK_SYSTEM_PACKAGES": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    for path in joined:
        path.unlink()
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise NotInstalledError(f"pip: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return [path.name for path in found]


def join_pieces(folder: Path) -> Sequence[Path]:
    """Writes the files whose pieces lie there; which ones.

    Raises:
        NotInstalledError: A piece is missing.
    """
    pieces: dict[str, dict[int, Path]] = {}
    for path in sorted(folder.iterdir()):
        if match := _PIECE.fullmatch(path.name):
            pieces.setdefault(match[1], {})[int(match[2])] = path
    made = []
    for name, parts in pieces.items():
        if sorted(parts) != list(range(len(parts))):
            raise NotInstalledError(
                f"{folder / name} lacks a piece: here are {', '.join(map(str, sorted(parts)))}"
            )
        with (folder / name).open("wb") as whole:
            for number in sorted(parts):
                with parts[number].open("rb") as part:
                    shutil.copyfileobj(part, whole)
        made.append(folder / name)
    return made
