"""Writing whole files or none, beside what is there."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trt_yolo.artifacts.files import check_utf8, write_files, write_together
from trt_yolo.errors import InputError

_ON_A_FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from trt_yolo.artifacts.files import write_files
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
folder = Path(sys.argv[1])
try:
    write_files({folder / "small": b"new", folder / "large": bytes(5000)})
except OSError as error:
    sys.exit(error.strerror)
"""


def test_every_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "small").write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", _ON_A_FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.stderr == "File too large\n"
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"small": "old"}


def test_an_interrupt_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path, _: Path) -> None:
        assert path.exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_files({tmp_path / "a": b"a"})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 255, "new/folder/a", "東" * 85])
def test_names(name: str, tmp_path: Path) -> None:
    write_files({tmp_path / name: b"content"})
    assert (tmp_path / name).read_bytes() == b"content"
    assert len(list((tmp_path / name).parent.iterdir())) == 1


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        write_files({tmp_path / "pipe": b"content"})
        assert os.read(reader, 100) == b"content"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_name_of_what_is_open(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        code = "from trt_yolo.artifacts.files import *; write_files({Path('/dev/fd/1'): b'content'})"
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_bytes() == b"content"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot write to .*file.*; give another folder with --out"):
        write_together({tmp_path / "file" / "a": b"a"})


def test_names_that_are_not_utf8() -> None:
    check_utf8(Path("東/café.pt"))
    with pytest.raises(InputError, match="not UTF-8"):
        check_utf8(Path(os.fsdecode(b"caf\xe9.pt")))
