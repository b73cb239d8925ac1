"""The runner and the command of `tools/gpu_check`: parts that go wrong, Ctrl-C, and a rehearsal as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from gpu_check_samples import empty_record, rehearsed_job
from gpu_checks import running
from gpu_checks.command import _parts
from gpu_checks.record import Record, Row, record_from_file
from gpu_checks.running import SHARES, run_parts

ROOT = Path(__file__).resolve().parent.parent.parent
GPU_CHECK = str(ROOT / "tools" / "gpu_check")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every part is `fake_parts`."""
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
    record, ended = empty_record(*names), []
    run_parts(
        names, rehearsed_job(folder, model), record, budget_s=budget_s, done=lambda part: ended.append(part.name),
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
