"""What is read of an engine file: real plans, plans by hand, and files that are something else."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.engine.plans import VERSION, python, tensorrt_plan, ultralytics
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.build.engine_from_onnx import EngineReport
from trt_yolo.engine.plan import (
    failed_log_path,
    log_path,
    manifest_path,
    plan_file,
    ultralytics_metadata,
)
from trt_yolo.errors import EngineError


def _refused(path: Path) -> str:
    """The line with which a file is refused."""
    with pytest.raises(EngineError) as caught:
        plan_file(path)
    line = str(caught.value)
    assert str(path) in line
    assert "\n" not in line
    return line


def test_a_plan_of_tensorrt_for_rtx(built: EngineReport) -> None:
    trt = pytest.importorskip("tensorrt_rtx")
    plan = plan_file(built.path)
    assert (plan.family, plan.offset, plan.metadata) == ("tensorrt-rtx", 0, {})
    assert plan.version_text == trt.__version__
    content = built.path.read_bytes()
    assert plan.size == len(content) == built.path.stat().st_size
    assert plan.read() == b"".join(plan.chunks()) == content
    assert plan.sha256() == hashlib.sha256(content).hexdigest()


def test_a_plan_of_tensorrt(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(tensorrt_plan())
    plan = plan_file(path)
    assert (plan.family, plan.version, plan.version_text) == ("tensorrt", VERSION, "10.13.0.35")
    assert (plan.offset, plan.size, plan.metadata) == (0, 128, {})


def test_the_shortest_plan_is_its_header(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(tensorrt_plan(b""))
    assert plan_file(path).size == 28


def test_a_serialization_that_nobody_knows_has_no_version(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(b"ftrt\1\0\0\0" + bytes(range(92)))
    plan = plan_file(path)
    assert (plan.family, plan.version, plan.version_text) == ("tensorrt", (), "?")


@pytest.mark.parametrize("metadata", [{"task": "detect", "names": {"0": "chien 🐕"}}, {}, {"a": [1, None]}])
def test_ultralytics_header_before_a_plan(metadata: dict[str, Any], tmp_path: Path) -> None:
    path, plan = tmp_path / "model.engine", tensorrt_plan(b"body")
    path.write_bytes(ultralytics(plan, metadata))
    found = plan_file(path)
    assert (found.family, found.version, found.size) == ("tensorrt", VERSION, len(plan))
    assert found.offset == len(path.read_bytes()) - len(plan)
    assert found.metadata == metadata
    assert found.read() == b"".join(found.chunks()) == plan
    assert found.sha256() == hashlib.sha256(plan).hexdigest()


def test_ultralytics_header_before_a_plan_of_tensorrt_for_rtx(built: EngineReport, tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(ultralytics(built.path.read_bytes()))
    found = plan_file(path)
    assert found.family == "tensorrt-rtx"
    assert found.metadata == {"task": "detect", "stride": 32}
    assert found.sha256() == plan_file(built.path).sha256()


def test_a_plan_is_hashed_whole_when_it_has_more_than_a_megabyte(tmp_path: Path) -> None:
    path, plan = tmp_path / "model.engine", tensorrt_plan(os.urandom((3 << 20) + 7))
    path.write_bytes(ultralytics(plan))
    assert plan_file(path).sha256() == hashlib.sha256(plan).hexdigest()


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.touch()
    assert "it is empty" in _refused(path)


@pytest.mark.parametrize("length", range(1, 28))
def test_a_plan_cut_within_its_header(length: int, tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(tensorrt_plan()[:length])
    assert ("cut short" if length >= 4 else "no TensorRT engine") in _refused(path)


def test_ultralytics_file_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    whole = ultralytics(tensorrt_plan(b""))
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        _refused(path)
    path.write_bytes(whole)
    assert plan_file(path).size == 28


@pytest.mark.parametrize("length", [(1 << 32) - 1, 1 << 31, (1 << 24) + 1, 10_000, 129])
def test_a_header_that_claims_more_than_there_is(length: int, tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(struct.pack("<I", length) + b'{"task": "detect"}' + bytes(110))
    line = _refused(path)
    assert "damaged" in line
    assert str(length) in line


def test_a_header_that_claims_the_whole_file_leaves_no_plan(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    text = b'{"task": "detect"}' + b" " * 40
    path.write_bytes(struct.pack("<I", len(text)) + text)
    assert "no TensorRT engine" in _refused(path)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b'{"task": ', "no JSON"),
        (b"{" * 40, "no JSON"),
        (b'{"a":' * 100_000, "no JSON"),
        (b'{"a":' + b"[" * 500_000, "no JSON"),
        (b'{"a": ' + b"9" * 100_000 + b"}", "no JSON"),
        (b'{"\xff\xfe": 1}', "no JSON"),
        (b"{}{}", "no JSON"),
        (b"{" + b"\0" * 64, "no JSON"),
    ],
    ids=["cut", "braces", "deep", "deep-list", "long-number", "no-utf8", "two", "zeros"],
)
def test_a_header_that_is_no_json(text: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(struct.pack("<I", len(text)) + text + tensorrt_plan())
    line = _refused(path)
    assert problem in line
    assert len(line) < 200 + len(str(path))


def test_a_header_of_another_json_than_entries_is_no_header(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    for metadata in ([1, 2], "text", 5, None):
        text = json.dumps(metadata).encode()
        path.write_bytes(struct.pack("<I", len(text)) + text + tensorrt_plan())
        assert "no TensorRT engine" in _refused(path)


def test_no_flip_of_a_bit_does_worse_than_a_refusal(tmp_path: Path) -> None:
    """Of all bits of the first 64 bytes, in each of the layouts: a plan, or a line that names the file."""
    path = tmp_path / "model.engine"
    read = refused = 0
    for whole in (tensorrt_plan(), tensorrt_plan(tag=b"vtrt"), ultralytics(tensorrt_plan())):
        for bit in range(64 * 8):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            try:
                plan = plan_file(path)
            except EngineError:
                refused += 1
                _refused(path)
            else:
                read += 1
                assert plan.offset + plan.size == len(whole)
                assert plan.family in ("tensorrt", "tensorrt-rtx")
    assert refused > 96  # at the least, those of the tags and of the length
    assert (
        read > 2 * 8 * 56
    )  # what follows the first eight bytes of a plan is not looked at, but for the version


def test_an_onnx_graph_named_engine(demo_onnx: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(demo_onnx.read_bytes())
    assert "ONNX graph; build an engine from it" in _refused(path)


def test_a_checkpoint_named_engine(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(demo_checkpoint().read_bytes())
    assert "a .pt checkpoint; give that to trt-yolo export" in _refused(path)


@pytest.mark.parametrize(
    "content", [b"\x7fELF" + bytes(60), b"version https://git-lfs.github.com/spec/v1\n" * 3]
)
def test_something_else_named_engine(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(content)
    assert "no TensorRT engine" in _refused(path)


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    assert "is a folder" in _refused(tmp_path)
    assert "no such file" in _refused(tmp_path / "gone.engine")
    (tmp_path / "file").touch()
    assert "cannot be read" in _refused(tmp_path / "file" / "model.engine")
    assert "cannot be read" in _refused(tmp_path / ("x" * 300))
    assert "cannot be read" in _refused(tmp_path / "a\0b.engine")
    loop = tmp_path / "loop.engine"
    loop.symlink_to(loop)
    _refused(loop)
    gone = tmp_path / "link.engine"
    gone.symlink_to(tmp_path / "nowhere.engine")
    assert "no such file" in _refused(gone)


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(tensorrt_plan())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read everything")
    assert os.strerror(errno.EACCES) in _refused(path)


def test_a_link_to_a_plan_is_a_plan(tmp_path: Path) -> None:
    (tmp_path / "real.engine").write_bytes(tensorrt_plan())
    (tmp_path / "link.engine").symlink_to("real.engine")
    assert plan_file(tmp_path / "link.engine").size == 128


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    os.mkfifo(path)
    script = "import sys, pathlib, trt_yolo.engine.plan as plan; plan.plan_file(pathlib.Path(sys.argv[1]))"
    process = python(script, path)
    try:
        _, said = process.communicate(timeout=5)
    except subprocess.TimeoutExpired:
        pytest.fail("it waits for somebody to write into the pipe")
    finally:
        process.kill()
        process.communicate()
    assert "EngineError" in said
    assert str(path) in said


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_a_device_is_refused() -> None:
    _refused(Path("/dev/zero"))


def test_a_plan_that_is_gone_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "model.engine"
    path.write_bytes(tensorrt_plan())
    plan = plan_file(path)
    path.unlink()
    with pytest.raises(EngineError, match=r"model\.engine cannot be read"):
        plan.read()
    with pytest.raises(EngineError, match=r"model\.engine cannot be read"):
        plan.sha256()


def test_what_lies_beside_an_engine_is_named_after_it() -> None:
    engine = Path("a/b.c-rtx.engine")
    assert manifest_path(engine) == Path("a/b.c-rtx.engine.json")
    assert log_path(engine) == Path("a/b.c-rtx.engine.log")
    assert failed_log_path(engine) == Path("a/b.c-rtx.engine.failed.log")


@pytest.mark.parametrize(
    ("entries", "wanted"),
    [
        ({}, {}),
        ({"task": "detect", "imgsz": [640, 480], "batch": 4}, {"task": "detect", "imgsz": "[640, 480]", "batch": "4"}),
        ({"names": {"0": "cat", "10": "dog"}}, {"names": "{0: 'cat', 10: 'dog'}"}),
        ({"names": {"a": "cat"}}, {"names": "{'a': 'cat'}"}),
        ({"names": {"²": "cat"}}, {"names": "{'²': 'cat'}"}),
        ({"names": ["cat"]}, {"names": "['cat']"}),
    ],
)  # fmt: skip
def test_entries_of_ultralytics_header_as_its_onnx_has_them(
    entries: dict[str, Any], wanted: dict[str, str]
) -> None:
    assert ultralytics_metadata(entries) == wanted
