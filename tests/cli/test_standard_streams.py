"""Standard streams that are full, closed, or that nobody reads: one line at most, for every command."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.commands import Command, assert_one_error, run_process
from trt_yolo.demo.scenes import scene
from trt_yolo.media.images import write_jpeg

_COMMANDS = {
    "help": "--help",
    "version": "--version",
    "doctor": "doctor",
    "inspect": "inspect MODEL",
    "predict": "predict MODEL IMAGE",
    "predict --json": "predict MODEL IMAGE --json",
    "val": "val MODEL --data DATA",
    "export": "export --no-check --out OUT",
    "bench": "bench MODEL offline --scope engine --duration 0.05 --min-count 1",
}
_FULL = Path("/dev/full")


@pytest.fixture(scope="module")
def files(demo_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What stands for the words in capitals."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "images").mkdir()
    write_jpeg(folder / "images" / "a.jpg", scene(0).image_bgr)
    (folder / "labels").mkdir()
    (folder / "labels" / "a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    data = {"path": str(folder), "train": "images", "val": "images", "names": list("abcdefghij")}
    (folder / "data.yaml").write_text(yaml.safe_dump(data))
    return {
        "MODEL": str(demo_onnx),
        "IMAGE": str(folder / "images" / "a.jpg"),
        "DATA": str(folder / "data.yaml"),
        "OUT": str(folder / "out"),
    }


def _words(command: str, files: dict[str, str]) -> list[str]:
    return [files.get(word, word) for word in _COMMANDS[command].split()]


@pytest.mark.skipif(not _FULL.exists(), reason="no full device")
@pytest.mark.parametrize("command", _COMMANDS)
def test_a_full_disk_is_one_error(
    command: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    with _FULL.open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert_one_error(cli(*_words(command, files)), "cannot write the output: No space left on device")


@pytest.mark.parametrize("command", [one for one in _COMMANDS if one != "bench"])
def test_a_reader_who_left_is_no_error(
    command: str, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    pipe = open(writer, "w")  # noqa: SIM115  closing it fails too
    monkeypatch.setattr(sys, "stdout", pipe)
    outcome = cli(*_words(command, files))
    with contextlib.suppress(BrokenPipeError):
        pipe.close()
    assert (outcome.code, outcome.err) == (1, "")


@pytest.mark.skipif(not _FULL.exists(), reason="no full device")
def test_a_full_stderr_changes_no_exit_code(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff")
    with _FULL.open("w", buffering=1) as full:
        monkeypatch.setattr(sys, "stderr", full)
        assert cli("export", "--nonsense").code == 1
        outcome = cli("predict", files["MODEL"], str(tmp_path / "bad.jpg"), files["IMAGE"])
    assert outcome.code == 1
    assert "a.jpg" in outcome.out, "the other image was answered"


def _close_all() -> None:
    os.closerange(0, 3)


def test_closed_streams_lead_nowhere(files: dict[str, str], tmp_path: Path) -> None:
    """Also those of workers, and no file that is opened later stands for one."""
    words = [*_words("predict --json", files), "--workers", "1", "--save", str(tmp_path)]
    assert run_process(*words, before=_close_all) == (0, "", "")
    assert (tmp_path / "a.jpg").read_bytes().startswith(b"\xff\xd8\xff")


def test_a_terminal_of_another_encoding(
    files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    """A name that is neither UTF-8 nor ASCII."""
    path = os.path.join(tmp_path, os.fsdecode(b"caf\xe9-\xc3\xa9.onnx"))
    os.symlink(files["MODEL"], path)
    for words in (["inspect", path], ["inspect", path, "--json"], ["doctor"], ["export", "--help"]):
        content = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
        outcome = cli(*words)
        assert (outcome.code, outcome.err) == (0, "")
        assert content.getvalue().isascii()
