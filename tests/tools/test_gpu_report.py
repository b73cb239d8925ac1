"""`tools/gpu_report` where no GPU is: refusals, its table, and its first steps over a stand-in for the driver.

The steps are real: facts of CUDA and the runtime's GPU tests, through cuda-bindings. The device alone is none.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import gpu_report
import gpu_rows
import pytest

from tests.gpu.kernel_backend import IMAGE, compiled

ROOT = Path(__file__).resolve().parent.parent.parent


def _run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "tools" / "gpu_report"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.fixture(scope="module")
def stand_in(fake_cuda: Path) -> dict[str, str]:
    """The environment of a process that finds a GPU which is none."""
    image = fake_cuda / "kernel.cubin"
    image.write_bytes(compiled(90))  # now: NVRTC crashes where the stand-in is found
    return {"LD_LIBRARY_PATH": str(fake_cuda), IMAGE: str(image), "TRT_YOLO_LOAD_S": "1"}


def test_without_a_gpu() -> None:
    done = _run()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no NVIDIA GPU answers here; see trt-yolo doctor\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--only", "runtime,speed"],
            "--only speed is no step; give some of cuda, runtime, onnxruntime, tensorrt, bench, decoders, telemetry",
        ),
        (["--budget", "0"], "--budget 0 is not possible; give seconds, such as 420"),
        (["--budget", "long"], "argument --budget: invalid float value: 'long'"),
        (["--artifacts", "nowhere"], "--artifacts nowhere is no folder; make one with --make-artifacts"),
        (["--speed"], "unrecognized arguments: --speed"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], said: str) -> None:
    done = _run(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {said}\n")


def _rehearsed(step: str, path: Path, environment: dict[str, str]) -> list[dict[str, Any]]:
    """The rows of a step."""
    done = _run("--only", step, "--budget", "300", "--json", str(path), **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{step}: done in" in done.stdout
    record = json.loads(path.read_text())
    assert record["device"] == "fake GPU"
    (found,) = record["steps"]
    assert (found["name"], found["ending"]) == (step, "done")
    rows: list[dict[str, Any]] = found["rows"]
    return rows


@pytest.mark.slow
def test_facts_of_cuda(stand_in: dict[str, str], tmp_path: Path) -> None:
    """What runs first on a GPU: traps, contexts that come and go."""
    facts = {row["name"]: row for row in _rehearsed("cuda", tmp_path / "report.json", stand_in)}
    for name in (
        "two processes page-lock one memfd", "replays that answer something else", "a kernel that traps",
        "primary context, retained and released",
    ):  # fmt: skip
        assert facts[name]["state"] == "ok", facts[name]
    assert facts["COMPUTE_CAPABILITY_MAJOR"]["value"] == 9
    assert facts["bare launch, waited for, p50"]["value"] > 0
    assert facts["after it, cuMemAlloc"]["value"] == "ERROR_LAUNCH_FAILED"
    assert facts["after it, cuCtxPopCurrent"]["value"] == "SUCCESS"  # as on an H200


@pytest.mark.slow
def test_the_runtime(stand_in: dict[str, str], tmp_path: Path) -> None:
    """What runs next: every byte of every answer, kills."""
    rows = _rehearsed("runtime", tmp_path / "report.json", stand_in)
    assert len(rows) > 20
    assert {row["state"] for row in rows} == {"ok"}


def test_slots_that_the_gpu_reads_itself(stand_in: dict[str, str]) -> None:
    """As on a Jetson: nothing is copied."""
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_runtime_on_gpu.py"]
    chosen = "no_graph_is_captured or several_slots or program or every_batch_size"
    done = subprocess.run(
        [gpu_report.sys.executable, *command, "-k", chosen],
        env={**os.environ, **stand_in, "FAKE_CUDA_INTEGRATED": "1", "TRT_YOLO_REQUIRE_GPU": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout


def test_a_bench_that_nothing_here_can_run(stand_in: dict[str, str], tmp_path: Path) -> None:
    """The stand-in has no CUDA libraries beside the driver's: the demo model is named, and why it is not measured."""
    path = tmp_path / "report.json"
    done = _run("--only", "bench", "--budget", "60", "--json", str(path), **stand_in)
    assert done.returncode == 0, done.stderr
    ((row,),) = [step["rows"] for step in json.loads(path.read_text())["steps"]]
    assert (row["name"], row["state"]) == ("demo-b1-8", "absent")
    assert "CUDAExecutionProvider" in row["note"] or "not found here" in row["note"]


@pytest.mark.slow
@pytest.mark.serial
def test_a_step_that_takes_too_long_keeps_what_it_found(stand_in: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    done = _run("--only", "runtime,bench", "--budget", "9", "--json", str(path), **stand_in)
    record = json.loads(path.read_text())
    runtime, bench = record["steps"]
    assert runtime["ending"].startswith("cut off after ")
    assert runtime["rows"]
    assert (bench["ending"], bench["rows"]) == ("no time was left", [])
    assert "cut off after" in done.stdout


def test_a_copy_without_git_has_no_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_report, "ROOT", tmp_path)
    assert gpu_report._revision() == ""
    monkeypatch.setenv("PATH", "")
    assert gpu_report._revision() == ""


def test_steps_that_were_run_before_stay(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    record: dict[str, Any] = {"device": "a GPU", "steps": []}
    assert gpu_report._earlier_steps(path, record, ["bench"]) == []
    steps = [{"name": "cuda", "rows": [1]}, {"name": "bench", "rows": [2]}]
    path.write_text(json.dumps({"tool": gpu_report.TOOL, "device": "a GPU", "steps": steps}))
    assert gpu_report._earlier_steps(path, record, ["bench"]) == steps[:1]
    assert gpu_report._earlier_steps(path, {**record, "device": "another"}, ["bench"]) == []


def test_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows"
    monkeypatch.setenv(gpu_rows.VARIABLE, str(path))
    gpu_rows.add("one", state="ok", value=1 / 3, unit="ms", note="two\n lines")
    gpu_rows.add("another", value=float("nan"))
    with path.open("a") as file:
        file.write('{"name": "cut sho')
    first, second = gpu_rows.read(path)
    assert first == {"name": "one", "state": "ok", "value": 0.3333, "unit": "ms", "note": "two lines"}
    assert second["value"] is None
    assert gpu_rows.read(tmp_path / "none") == []


def test_the_table() -> None:
    rows = [
        {"name": "test_a", "state": "ok", "value": 0.1, "unit": "s", "note": ""},
        {"name": "test_b", "state": "failed", "value": None, "unit": "", "note": "AssertionError: 1 == 2"},
        {"name": "test_c", "state": "absent", "value": None, "unit": "", "note": "no TensorRT"},
        {"name": "test_d", "state": "absent", "value": None, "unit": "", "note": "no TensorRT"},
        {"name": "latency", "state": "info", "value": 12.5, "unit": "us", "note": ""},
    ]
    text = gpu_report.table(
        {
            "device": "H100", "created": "2026-12-01T10:00:00", "version": "1", "revision": "abc",
            "steps": [{"name": "runtime", "ending": "done", "seconds": 3.0, "rows": rows}],
        }
    )  # fmt: skip
    assert "runtime: done in 3 s, 1 hold" in text
    assert "AssertionError: 1 == 2" in text
    assert "12.5 us" in text
    assert "2 could not be tried: no TensorRT" in text
    assert "test_a" not in text
