"""Files that are not what their suffix says."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest

from trt_yolo.artifacts.file_kinds import kind_of


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\n <!DOCTYPE HTML><html>404", "web page"),
        (b"<html><body>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x1f\x8b\x08\x00", "gzip"),
        (b"\x1c\x00\x00\x00TFL3", "TensorFlow Lite"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"Rar!\x1a\x07", "RAR"),
        (b"ftrt" + bytes(28), "TensorRT engine"),
        (pickle.dumps({"model": 1}, protocol=2), "PyTorch checkpoint"),
        (b"\x08\x08\x12\x07pytorch", ""),
        (b"", ""),
    ],
)
def test_kinds(content: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert kind in kind_of(path)
    assert bool(kind) == bool(kind_of(path))


@pytest.mark.parametrize(("entry", "kind"), [("model/data.pkl", "name it .pt"), ("a.onnx", "unpack it")])
def test_archives(entry: str, kind: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.onnx", "w") as archive:
        archive.writestr(entry, b"")
    assert kind in kind_of(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("content", "suffix"), [(b"ftrt", ".engine"), (b"\x80\x02}q.", ".pt"), (b"\x80\x02}q.", ".PT")]
)
def test_a_file_of_the_right_name_is_what_it_says(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"model{suffix}"
    path.write_bytes(content)
    assert kind_of(path) == ""


def test_real_models_are_not_taken_for_something_else(demo_onnx: Path) -> None:
    assert kind_of(demo_onnx) == ""
    assert kind_of(demo_onnx.with_name("missing.onnx")) == ""
