"""Why a path cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_yolo.system.paths import absence, why_not_writable


@pytest.mark.parametrize("name", ["gone", "file/x", "n" * 300, "a\0b", ""])
def test_what_is_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert absence(name) == f"no such file: {name}"
    assert absence(name, "file or folder") == f"no such file or folder: {name}"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file", None),
        ("new", None),
        ("folder", "is a folder"),
        ("gone/new", "cannot be made: there is no folder gone"),
        ("file/new", "cannot be made: there is no folder file"),
        ("n" * 256, "cannot be written: File name too long"),
    ],
)
def test_what_can_be_written(
    name: str, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("folder").mkdir()
    assert why_not_writable(Path(name)) == reason
