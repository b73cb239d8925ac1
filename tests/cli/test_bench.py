"""`trt-yolo bench`: the table, and a last line of JSON with what the README names."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
