"""The runner and the command of `tools/gpu_check`: parts that go wrong, Ctrl-C, and a rehearsal as a whole."""

from __future__ import annotations

import html.parser
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gpu_checks import part as part_process
from gpu_checks import running
from gpu_checks.command import _parts
from gpu_checks.job import Job
from gpu_checks.page import page_from_record
from gpu_checks.parts import tests as tests_part
from gpu_checks.record import NoRecordError, Part, Record, Row, goal_row, record_from_file
from gpu_checks.running import SHARES, run_parts
from gpu_checks.table import heading, number_text, value_text

ROOT = Path(__file__).resolve().parent.parent.parent
GPU_CHECK = str(ROOT / "tools" / "gpu_check")


def _record(*names: str) -> Record:
    return Record(
        created="2026-11-25T00:00:00+00:00", version="0.1.0", revision="abc", command="", rehearsal=True,
        model="demo", device="a processor", machine={}, parts=[Part(name=name) for name in names],
    )  # fmt: skip


def _job(folder: Path, model: str) -> Job:
    return Job(
        model=model,
        data=None,
        work=str(folder),
        rehearse=True,
        quick=True,
        precisions=("fp32",),
        deadline_s=0.0,
    )


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every part is `fake_parts`."""
    (tmp_path / "gpu_checks_fake").mkdir()
    script = (
        "import sys, importlib, fake_parts\n"
        "real = importlib.import_module\n"
        "importlib.import_module = lambda name: fake_parts if name.startswith('gpu_checks.parts.') else real(name)\n"
        "from gpu_checks.part import main; main()\n"
    )
    path = tmp_path / "fake_part.py"
    path.write_text(script)
    real = subprocess.Popen

    def started(command: list[str], **options: Any) -> Any:
        if command[1:3] == ["-m", "gpu_checks.part"]:
            command = [command[0], str(path), *command[3:]]
        return real(command, **options)

    monkeypatch.setattr(running.subprocess, "Popen", started)


def _ran(folder: Path, model: str, *, budget_s: float = 60.0, names: tuple[str, ...] = ("build",)) -> Record:
    record, ended = _record(*names), []
    run_parts(
        names, _job(folder, model), record, budget_s=budget_s, done=lambda part: ended.append(part.name),
        say=lambda text: None,
    )  # fmt: skip
    assert ended == list(names)
    return record


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("model", "ending", "rows", "error"),
    [
        ("works", "done", ["before", "after"], ""),
        ("fails", "done", ["before", "after"], ""),
        ("raises", "failed", ["before"], "ValueError: two lines"),
        ("crashes", "crashed", ["before"], "SIGSEGV"),
        ("cut", "done", ["before"], ""),
    ],
)
def test_how_a_part_ends(model: str, ending: str, rows: list[str], error: str, tmp_path: Path) -> None:
    """What it had found stays, whatever happened; and the next part runs."""
    record = _ran(tmp_path, model, names=("build", "bench"))
    for part in record.parts:
        assert part.ending == ending
        assert [row.name for row in part.rows] == rows
        assert error in part.error
        assert part.is_good == (model in ("works", "cut"))
    assert record.parts[0].rows[0] == Row(name="before", state="ok", value=1.5, unit="x")


@pytest.mark.usefixtures("fake")
def test_a_part_that_hangs_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "_LEAST_S", 0.0)
    begun_s = time.monotonic()
    (part,) = _ran(tmp_path, "hangs", budget_s=2.0).parts
    assert time.monotonic() - begun_s < 30
    assert part.ending == "out of time"
    assert "give more with --budget" in part.error
    assert [row.name for row in part.rows] == ["before"]
    child = int((tmp_path / "child").read_text())
    deadline_s = time.monotonic() + 10
    while _is_running(child) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert not _is_running(child)


def _is_running(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


@pytest.mark.usefixtures("fake")
def test_parts_share_the_time_that_is_left(tmp_path: Path) -> None:
    """What one does not use is for those after it."""
    names = ("build", "tests", "bench")
    record = _ran(tmp_path, "deadline", budget_s=300.0, names=names)
    left = [float(row.value or 0.0) for part in record.parts for row in part.rows if row.name == "left"]
    rest = SHARES["build"] + SHARES["tests"] + SHARES["bench"]
    assert left[0] == pytest.approx(270 * SHARES["build"] / rest, abs=5)
    assert left[2] == pytest.approx(0.9 * 300, abs=30)


def test_rows_reach_the_file_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fake_parts

    monkeypatch.setattr(part_process.importlib, "import_module", lambda name: fake_parts)
    with (tmp_path / "rows").open("w") as rows, pytest.raises(ValueError, match="two"):
        part_process.run_part("build", _job(tmp_path, "raises"), rows)
    (line,) = (tmp_path / "rows").read_text().splitlines()
    assert json.loads(line)["name"] == "before"


def test_the_record_and_back(tmp_path: Path) -> None:
    record = _record("build")
    record.parts[0].rows = [
        Row(name="a", state="missed", value=0.93218, low=0.9, high=float("inf"), goal=">= 0.95")
    ]
    record.parts[0].ending = "done"
    record.write(tmp_path / "x.json")
    again = record_from_file(tmp_path / "x.json")
    assert again.parts[0].rows[0] == Row(
        name="a", state="missed", value=0.9322, low=0.9, high=None, goal=">= 0.95"
    )
    assert again.row("build", "a") is again.parts[0].rows[0]
    assert again.row("bench", "a") is None
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"tool": "x", "schema": 1}', "is no result of tools/gpu_check"),
        ('{"tool": "trt-yolo gpu_check", "schema": 9}', "has schema 9, this trt-yolo reads 1"),
        ('{"tool": "trt-yolo gpu_check", "schema": 1, "parts": [{"rows": [{"x": 1}]}]}', "is damaged"),
    ],
)
def test_what_is_no_record(text: str, part: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(NoRecordError, match=part):
        record_from_file(tmp_path / "x.json")
    with pytest.raises(NoRecordError, match="cannot read"):
        record_from_file(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("value", "goal", "counts", "state"),
    [
        (0.95, ">= 0.95", True, "ok"),
        (0.949, ">= 0.95", True, "missed"),
        (60.0, "<= 60", True, "ok"),
        (61.0, "<= 60", True, "missed"),
        (61.0, "<= 60", False, "info"),
        (None, "<= 60", True, "absent"),
        (float("nan"), "<= 60", True, "absent"),
    ],
)
def test_goals(value: float | None, goal: str, counts: bool, state: str) -> None:
    assert goal_row("x", value, goal, counts=counts).state == state


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Row(name="x"), ""),
        (Row(name="x", value="1.7.1"), "1.7.1"),
        (Row(name="x", value=0.0, unit="px at most"), "0 px at most"),
        (Row(name="x", value=0.98765, low=0.9, high=1.0, goal=">= 0.95"), "0.988 [0.9, 1] (>= 0.95)"),
        (Row(name="x", value=12345.6, unit="images/s"), "12346 images/s"),
        (Row(name="x", goal=">= 1"), "(>= 1)"),
    ],
)
def test_values_as_text(row: Row, text: str) -> None:
    assert value_text(row) == text
    assert number_text(None) == ""


class _Page(html.parser.HTMLParser):
    """Tags that are open, and whatever would be fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        self.fetched += [
            f"{key}={value}" for key, value in attrs if key in ("src", "href", "onload", "onclick")
        ]
        self.fetched += [tag] if tag in ("script", "iframe", "img", "link") else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing() -> None:
    record = _record("build", "bench")
    record.machine = {"cpu": "<b>x</b>", "packages": {"numpy": "2"}, "providers": ["a", "b"]}
    record.parts[0].error = "<script>alert(1)</script>"
    record.parts[1].rows = [Row(name="<i>", value=1.0, goal=">= 2", state="missed", note="a & b")]
    text = page_from_record(record)
    page = _Page()
    page.feed(text)
    page.close()
    assert (page.open, page.fetched) == ([], [])
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "default-src 'none'" in text
    assert "No GPU was used" in text
    assert "It was cut short" in text
    assert "NO GPU: a rehearsal on a processor" in heading(record)


def test_parts_are_chosen_in_their_own_order() -> None:
    assert _parts("bench,parity", None) == ["parity", "bench"]
    assert _parts("self-test", None) == ["self_test"]
    assert _parts(None, "bench,tests") == [name for name in SHARES if name not in ("bench", "tests")]


def _run_command(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": sys.executable, "COLUMNS": "200"}
    return subprocess.run(
        [GPU_CHECK, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=420,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--only", "speed"], "no part 'speed'; give of packages, build"),
        (["--skip", ",".join(SHARES)], "no part is left"),
        (["--precisions", "fp8"], "no precision 'fp8'; give of fp32, fp16, int8"),
        (["--budget", "0"], "--budget 0; give seconds"),
        (["--model", "/no/such.pt"], "--model /no/such.pt is not there"),
    ],
)
def test_what_is_refused(arguments: list[str], part: str, tmp_path: Path) -> None:
    done = _run_command(*arguments, "--rehearse", "--json", str(tmp_path / "x.json"))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert part in line
    assert not list(tmp_path.iterdir())


def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    from trt_yolo.engine.device import devices

    if devices():
        pytest.skip("there is a GPU")
    done = _run_command("--json", str(tmp_path / "x.json"))
    assert done.returncode == 1
    assert done.stderr == (
        "error: no NVIDIA GPU answers here; see trt-yolo doctor, or add --rehearse to run what needs none\n"
    )


@pytest.mark.timeout(450)
def test_a_rehearsal(tmp_path: Path) -> None:
    """All of it on the processor, in windows that say little about speed."""
    target = tmp_path / "out" / "x.json"
    done = _run_command(
        "--rehearse", "--quick", "--precisions", "fp32", "--budget", "400", "--skip", "packages,tests",
        "--json", str(target),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    record = record_from_file(target)
    assert record.rehearsal
    assert not record.partial
    assert [part.ending for part in record.parts] == ["done"] * (len(SHARES) - 2)
    held = {part.name: [row.state for row in part.rows] for part in record.parts}
    assert held["parity"] == ["ok"] * 4
    assert held["self_test"] == ["ok"] * 2
    assert held["leaks"] == ["ok"] * 5
    assert "failed" not in held["build"]
    assert set(held["unknowns"]) == {"absent"}
    names = [row.name for part, row in record.rows if part == "bench"]
    for wanted in (
        "runtime / bare engine, best batch", "batch 1: latency added to the bare engine call, p50",
        "host work an image, outside decode and letterbox", "JPEG files to detections, all cores",
        "cores that keep the bare engine busy", "the default beside the best layout", "1 worker", "2 workers",
    ):  # fmt: skip
        assert wanted in names
    rates = [row for part, row in record.rows if part == "bench" and row.unit == "images/s"]
    assert all(isinstance(row.value, float | int) and row.value > 1 for row in rates)
    assert not [row for _, row in record.rows if row.state == "missed"], "goals are for GPUs"
    assert "NO GPU" in done.stdout
    page = target.with_suffix(".html").read_text()
    assert "No GPU was used" in page
    assert str(tmp_path) not in target.read_text().replace(str(target), "")


def test_ctrl_c_keeps_what_was_found(tmp_path: Path) -> None:
    target = tmp_path / "x.json"
    environment = {**os.environ, "PYTHON": sys.executable}
    process = subprocess.Popen(
        [GPU_CHECK, "--rehearse", "--precisions", "fp32", "--only", "build,leaks", "--json", str(target)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    deadline_s = time.monotonic() + 120
    while not target.exists() and time.monotonic() < deadline_s:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    build, leaks = record_from_file(target).parts
    assert (build.ending, leaks.ending) == ("done", "interrupted")
    assert record_from_file(target).partial
    assert [row.state for row in build.rows][:2] == ["ok", "ok"]
    assert "interrupted" in out


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

    job = Job(
        model=None, data=None, work=str(tmp_path), rehearse=True, quick=True, precisions=("fp32",), deadline_s=0.0
    )  # fmt: skip
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
