"""`trt-yolo bench`: the table, and a last line of JSON with what the README names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Command, assert_one_error
from trt_yolo.cores import available_cores


def _bench(*arguments: str) -> tuple[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "trt_yolo", "bench", *arguments, "--seconds", "0.5"],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


def test_prints_table_and_json(demo_onnx: Path) -> None:
    output, result = _bench(str(demo_onnx))
    assert "files to detections" in output
    assert result["efficiency"] == pytest.approx(
        result["images_per_s"] / result["bare_images_per_s"], abs=0.002
    )
    assert (result["workers"], result["batch"]) == (1, 1)
    assert set(result["latency_ms"]) == {"p50", "p90", "p99"}
    assert set(result["stages_ms"]) == {"decode", "letterbox", "queue", "infer", "post"}
    assert all(value > 0 for value in (*result["latency_ms"].values(), *result["stages_ms"].values()))
    assert result["precision"] == "fp32"


def test_own_images_and_batch(demo_dynamic_onnx: Path, val_images: list[Path], tmp_path: Path) -> None:
    for path in val_images[:3]:
        shutil.copy(path, tmp_path)
    output, result = _bench(str(demo_dynamic_onnx), "--data", str(tmp_path), "--batch", "4", "--json")
    assert len(output.splitlines()) == 1
    assert result["batch"] == 4


def test_nothing_given_measures_the_demo() -> None:
    _, result = _bench("--threads", "1")
    assert (result["model"], result["imgsz"], result["threads"]) == ("demo", [256, 256], 1)


def test_workers_share_the_cores(demo_onnx: Path) -> None:
    _, result = _bench(str(demo_onnx), "--workers", "2", "--json")
    assert result["workers"] == 2
    assert result["threads"] == max(1, len(available_cores()) // 2)


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_yolo.bench import runtime

    for name, value in (
        ("_WINDOWS", 1), ("_RING_WINDOWS", 1), ("_RING_FRAMES", 100), ("_QUEUE_FRAMES", 10), ("_CALLS", 10),
        ("MEMORY_FRAMES", 500), ("_MEMORY_STEP", 50),
    ):  # fmt: skip
        monkeypatch.setattr(runtime, name, value)


@pytest.mark.usefixtures("small_runs")
def test_the_runtime_is_measured_in_two_tables_and_one_line(demo_onnx: Path, cli: Command) -> None:
    outcome = cli("bench", str(demo_onnx), "--runtime", "--seconds", "1")
    assert outcome.code == 0
    assert outcome.err == (
        "warning: peers need the checkpoint: give the .pt instead of the .onnx to compare with Ultralytics\n"
    )
    assert "through the ring" in outcome.out
    assert "not measured" in outcome.out
    result = json.loads(outcome.out.splitlines()[-1])
    assert result["e2e_vs_ultralytics"] is result["e2e_vs_seed"] is None
    assert {
        "ring_vs_copy",
        "ring_vs_queue",
        "added_latency_ms",
        "e2e_vs_limit",
        "rss_slope_bytes_per_frame",
    } <= {name for name, value in result.items() if isinstance(value, float)}
    assert (result["workers"], result["threads"]) == (max(2, len(available_cores())), 1)


def test_the_runtime_has_no_batch(demo_onnx: Path, cli: Command) -> None:
    outcome = cli("bench", str(demo_onnx), "--runtime", "--batch", "2")
    assert_one_error(outcome, "--batch does not go with --runtime", "leave it out")


@pytest.mark.timeout(20)
def test_a_number_of_workers_that_cannot_be_is_refused_before_anything_is_measured(
    demo_onnx: Path, cli: Command
) -> None:
    outcome = cli("bench", str(demo_onnx), "--runtime", "--workers", "-2")
    assert_one_error(outcome, "workers is -2", "at least 0")
