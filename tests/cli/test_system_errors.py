"""What the system refuses is one line, and a bug keeps its traceback."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.cli.commands import Command, assert_one_error, run_process
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.cli.system_errors import line_of


def _error(number: int, path: str | bytes | None = None) -> OSError:
    return OSError(number, os.strerror(number), path)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (_error(errno.EACCES, "a.pt"), "cannot use a.pt: Permission denied"),
        (_error(errno.ENAMETOOLONG, "a.pt"), "cannot use a.pt: File name too long"),
        (_error(errno.EROFS, b"a.pt"), "cannot use a.pt: Read-only file system"),
        (_error(errno.ENOSPC, "a.pt"), "cannot use a.pt: No space left on device"),
        (_error(errno.ENOSPC), "cannot write the output: No space left on device"),
        (_error(errno.EIO), "cannot write the output: Input/output error"),
        (_error(errno.ENOENT), "No such file or directory; check that the current folder still exists"),
        (_error(errno.EMFILE), "a system limit was reached: Too many open files"),
        (_error(errno.EBADF), None),
        (_error(errno.EINVAL, "a.pt"), None),
        (_error(errno.ECONNRESET), None),
        (_error(errno.EACCES), None),
        (TimeoutError("a worker"), None),
    ],
)
def test_what_the_system_refused(error: OSError, line: str | None) -> None:
    found = line_of(error)
    assert found is None if line is None else found is not None and found.startswith(line)


@pytest.mark.parametrize("error", [_error(errno.EBADF), TypeError("a bug"), ValueError("a bug")])
def test_a_bug_keeps_its_traceback(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_yolo.cli import main

    def fails(**_: bool) -> None:
        raise error

    monkeypatch.setattr(main, "app", fails)
    with pytest.raises(type(error)):
        main.run()


def _give_up_rights() -> None:
    """Root without the right to pass over permissions; nothing changes for anybody else."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("predict closed.pt a.jpg", "cannot use closed.pt: Permission denied"),
        ("val closed.onnx --data a.yaml", "cannot read closed.onnx: Permission denied"),
        ("inspect locked/a.onnx", "cannot read locked/a.onnx: Permission denied"),
        ("export --no-check --out locked/out", "cannot write to locked/out"),
        ("bench --csv read-only/a.csv", "--csv read-only/a.csv cannot be written: Permission denied"),
    ],
)
def test_no_permission(line: str, part: str, demo_onnx: Path, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("path: .\ntrain: .\nval: .\nnames: [a]\n")
    (tmp_path / "a.jpg").touch()
    for source, name in ((demo_checkpoint(), "closed.pt"), (demo_onnx, "closed.onnx")):
        shutil.copy(source, tmp_path / name)
        (tmp_path / name).chmod(0)
    (tmp_path / "locked").mkdir(mode=0)
    (tmp_path / "read-only").mkdir(mode=0o500)
    assert_one_error(run_process(*line.split(), cwd=tmp_path, before=_give_up_rights), part)


_LONG = "n" * 252


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (f"export --no-check {_LONG}.pt", "File name too long; rename the model"),
        (f"export --no-check --out {_LONG}/a/{_LONG}{_LONG}", "give another folder with --out"),
        (f"bench --csv {_LONG}{_LONG}", "cannot be written: File name too long"),
        (f"inspect model.onnx --html {_LONG}{_LONG}", "File name too long; give another place with --html"),
        ("inspect model.onnx --html model.onnx/a.html", "Not a directory; give another place with --html"),
        ("predict model.onnx a\0b", "no such file or folder: a?b"),
        ("predict model.onnx/x a.jpg", "model.onnx/x"),
        (os.fsdecode(b"export caf\xe9.pt"), "caf?.pt is not UTF-8"),
        (os.fsdecode(b"predict caf\xe9.pt a.jpg"), "is not UTF-8"),
        (os.fsdecode(b"predict caf\xe9.onnx a.jpg"), "is not UTF-8"),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_names(
    line: str, part: str, demo_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (f"{_LONG}.pt", os.fsdecode(b"caf\xe9.pt")):
        os.symlink(demo_checkpoint(), name)
    for name in ("model.onnx", os.fsdecode(b"caf\xe9.onnx")):
        os.symlink(demo_onnx, name)
    shutil.copy(Path(__file__), "a.jpg")
    assert_one_error(cli(*line.split(" ")), part)


def test_the_longest_names_that_fit(
    demo_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink(demo_checkpoint(), "n" * 245 + ".pt")  # .onnx.json comes to 255
    os.symlink(demo_onnx, "n" * 250 + ".onnx")
    assert cli("export", "--no-check", "n" * 245 + ".pt", "--out", "out").code == 0
    assert sorted(len(path.name) for path in (tmp_path / "out").iterdir()) == [250, 255]
    assert cli("inspect", "n" * 250 + ".onnx", "--html", "n" * 255).code == 0


def test_a_folder_that_is_gone(
    demo_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert cli("inspect", str(demo_onnx)).code == 0
    assert_one_error(cli("export", "--no-check"), "cannot write to engines: No such file or directory")


def test_a_cache_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("TRT_YOLO_CACHE", str(tmp_path / "file"))
    outcome = cli("predict", str(demo_checkpoint()), __file__)
    assert_one_error(outcome, "cannot write to", "a folder that you may write to with TRT_YOLO_CACHE")
