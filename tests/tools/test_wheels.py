"""Packages carried in a folder: pieces joined, pip asked to install them offline."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
from gpu_checks import wheels
from gpu_checks.wheels import NotInstalledError, install, join_pieces


def _wheel(folder: Path) -> bytes:
    """A package with nothing in it but a module."""
    path = folder / "carried_thing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("carried_thing.py", "VALUE = 7\n")
        archive.writestr(
            "carried_thing-1.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: carried-thing\nVersion: 1.0\n",
        )
        archive.writestr(
            "carried_thing-1.0.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr("carried_thing-1.0.dist-info/RECORD", "")
    return path.read_bytes()


def test_pieces_are_joined_in_their_order(tmp_path: Path) -> None:
    content = bytes(range(256)) * 50
    for number in range(12):  # more than nine: as numbers, not as text
        (tmp_path / f"a-1.0-py3-none-any.whl.{number:02d}").write_bytes(
            content[number * 1000 : number * 1000 + 1000]
        )
    (tmp_path / "b.whl").write_bytes(b"whole")
    assert [path.name for path in join_pieces(tmp_path)] == ["a-1.0-py3-none-any.whl"]
    assert (tmp_path / "a-1.0-py3-none-any.whl").read_bytes() == content[:12000]


def test_a_missing_piece_is_said(tmp_path: Path) -> None:
    for number in (0, 2):
        (tmp_path / f"a.whl.{number:02d}").write_bytes(b"x")
    with pytest.raises(NotInstalledError, match=r"a\.whl lacks a piece: here are 0, 2"):
        install(tmp_path)


def test_pip_installs_what_was_carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Really, but into a folder of its own."""
    content = _wheel(tmp_path)
    whole = tmp_path / "carried_thing-1.0-py3-none-any.whl"
    whole.unlink()
    for number, start in enumerate(range(0, len(content), 300)):
        (tmp_path / f"{whole.name}.{number:02d}").write_bytes(content[start : start + 300])
    target = tmp_path / "site"
    real = subprocess.run

    def into_target(command: list[str], **options: Any) -> Any:
        return real([*command, "--target", str(target)], **options)

    monkeypatch.setattr(wheels.subprocess, "run", into_target)
    assert install(tmp_path) == [whole.name]
    assert (target / "carried_thing.py").read_text() == "VALUE = 7\n"
    assert not whole.exists(), "what was joined takes no room afterwards"


def test_what_pip_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(NotInstalledError, match=r"has no \.whl and no \.tar\.gz"):
        install(tmp_path)
    (tmp_path / "broken-1.0-py3-none-any.whl").write_bytes(b"no zip")
    with pytest.raises(NotInstalledError, match="pip: ") as raised:
        install(tmp_path)
    assert "\n" not in str(raised.value)
