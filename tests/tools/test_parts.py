"""Parts of `tools/gpu_check`: how their rows leave them, what they make of pytest's words, what they build twice."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from gpu_check_samples import rehearsed_job
from gpu_checks import part as part_process
from gpu_checks.parts import tests as tests_part
from gpu_checks.record import Row

ROOT = Path(__file__).resolve().parent.parent.parent


def test_rows_reach_the_file_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fake_parts

    monkeypatch.setattr(part_process.importlib, "import_module", lambda name: fake_parts)
    with (tmp_path / "rows").open("w") as rows, pytest.raises(ValueError, match="two"):
        part_process.run_part("build", rehearsed_job(tmp_path, "raises"), rows)
    (line,) = (tmp_path / "rows").read_text().splitlines()
    assert json.loads(line)["name"] == "before"


def test_what_pytest_found_is_told(tmp_path: Path) -> None:
    results = tmp_path / "tests.xml"
    results.write_text(
        '<testsuites><testsuite><testcase name="a"/><testcase name="b"><skipped message="no"/></testcase>'
        '<testcase name="c"><failure message="assert 1 == 2&#10;more">long</failure></testcase>'
        '<testcase name="d"><error message="boom"/></testcase></testsuite></testsuites>'
    )
    rows: list[Row] = []
    tests_part._tell(results, rows.append)
    assert [(row.name, row.state, row.note) for row in rows] == [
        ("c", "failed", "assert 1 == 2"),
        ("d", "failed", "boom"),
        ("pytest -m gpu", "failed", "2 failed, 1 skipped"),
    ]
    assert rows[-1].value == 1


def test_the_soak_tests_that_are_left_out_are_there() -> None:
    text = (ROOT / "tests" / "gpu" / "test_engines_on_gpu.py").read_text()
    for name in tests_part._LONG:
        assert re.search(rf"def {name}\(", text)


def test_what_an_earlier_part_had_no_time_for_is_not_begun_again(tmp_path: Path) -> None:
    from gpu_checks.candidates import onnx_files

    job = rehearsed_job(tmp_path)
    folder = tmp_path / "onnx" / "fp32-1"
    folder.mkdir(parents=True)
    (folder / "begun").write_text("1")
    rows: list[Row] = []
    assert [path.name for path in onnx_files(job, rows.append)] == ["demo-b1-16.onnx"]
    assert [row.name for row in rows] == ["export fp32, batch 1:16"]
    assert len(onnx_files(job)) == 1


def test_tests_that_were_ready_are_counted_when_time_runs_out() -> None:
    output = (
        "collected 9 items\n\n"
        "tests/gpu/test_a.py::test_one[a b] PASSED   [ 11%]\n"
        "tests/gpu/test_a.py::test_two FAILED        [ 22%]\n"
        "tests/gpu/test_a.py::test_three SKIPPED (no) [ 33%]\n"
        "tests/gpu/test_a.py::test_four "
    )
    rows: list[Row] = []
    tests_part._tell_so_far(output, rows.append)
    assert [(row.name, row.state, row.value) for row in rows] == [
        ("test_two", "failed", None), ("pytest -m gpu", "failed", 1),
    ]  # fmt: skip
    assert "out of time after 3 tests, 1 skipped" in rows[-1].note
    tests_part._tell_so_far("ImportError: x\n", rows.append)
    assert rows[-1].note == "no test ended: ImportError: x"
