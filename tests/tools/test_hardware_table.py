"""The README's table of hardware: made of results, the same as what lies there, and never a rehearsal as a GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import hardware_table
import pytest
from gpu_checks.record import NoRecordError, Part, Record, Row
from hardware_table import BEGIN, END, main, records, table, with_table

ON_GPU = Record(
    created="2026-12-01T10:00:00+00:00",
    version="0.1.0",
    revision="abc1234",
    command="",
    rehearsal=False,
    model="yolov8n.pt",
    device="NVIDIA H100",
    machine={
        "gpus": [{"compute_capability": "9.0"}],
        "driver": "580.65",
        "cuda": "13.0",
        "packages": {"tensorrt": "10.13.0", "onnxruntime-gpu": "1.31.1", "numpy": "2"},
    },
    parts=[
        Part(name="parity", ending="done", rows=[Row(name="x", state="ok"), Row(name="y", state="failed")]),
        Part(
            name="bench",
            ending="done",
            rows=[
                Row(name="batch 1: frames in shared memory to rows", value=900.0),
                Row(name="batch 8: frames in shared memory to rows", value=2900.0),
                Row(
                    name="runtime / bare engine, best batch", state="ok", value=0.97, low=0.96, high=0.98,
                    goal=">= 0.95",
                ),
                Row(
                    name="batch 1: latency added to the bare engine call, p50", state="missed", value=0.2, unit="ms",
                    goal="<= 0.15",
                ),
                Row(name="JPEG files to detections, all cores", value=1500.0, unit="images/s"),
            ],
        ),
    ],
    partial=False,
)  # fmt: skip
REHEARSAL = dataclasses.replace(
    ON_GPU, rehearsal=True, device="AMD EPYC", created="2026-12-02T10:00:00+00:00", partial=True,
    parts=[Part(name="bench", ending="out of time")],
)  # fmt: skip


def test_a_result_of_a_gpu() -> None:
    header, _, line = table([ON_GPU]).splitlines()
    cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
    assert cells["| device"] == "| NVIDIA H100 (9.0), yolov8n.pt"
    assert cells["software"] == (
        "2026-12-01, trt-yolo 0.1.0 abc1234; driver 580.65, CUDA 13.0; tensorrt 10.13.0, onnxruntime-gpu 1.31.1"
    )
    assert cells["runtime / bare engine"] == "0.97 [0.96, 0.98]"
    assert cells["latency added, batch 1"] == "0.2 ms (goal <= 0.15: missed)"
    assert cells["host work an image"] == "-"
    assert cells["images/s: slots, JPEG files"] == "2900 / 1500"
    assert cells["checks |"] == "2 hold, 1 failed |"


def test_a_rehearsal_says_that_it_is_one() -> None:
    text = table([REHEARSAL])
    assert text.startswith("**No result of a GPU yet.**")
    assert "| **no GPU**: rehearsal on AMD EPYC, yolov8n.pt |" in text
    assert "cut short: bench" in text
    assert "No result of a GPU yet" not in table([ON_GPU, REHEARSAL])
    assert table([]) == "**No result of a GPU yet.**\n"


def test_gpus_come_first_the_newest_first(tmp_path: Path) -> None:
    older = dataclasses.replace(ON_GPU, created="2026-11-01T00:00:00+00:00")
    for name, record in (("a", REHEARSAL), ("b", older), ("c", ON_GPU)):
        record.write(tmp_path / f"{name}.json")
    found = [(one.rehearsal, one.created[:10]) for one in records(tmp_path)]
    assert found == [(False, "2026-12-01"), (False, "2026-11-01"), (True, "2026-12-02")]


def test_the_text_around_the_table_stays() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    changed = with_table(text, [ON_GPU])
    assert changed.startswith(f"before\n{BEGIN}\n| device |")
    assert changed.endswith(f"|\n{END}\nafter\n")
    assert with_table(changed, [ON_GPU]) == changed
    with pytest.raises(NoRecordError, match="has no marks"):
        with_table("nothing", [ON_GPU])


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, results = tmp_path / "README.md", tmp_path / "results"
    results.mkdir()
    ON_GPU.write(results / "a.json")
    readme.write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr(hardware_table, "README", readme)
    monkeypatch.setattr(hardware_table, "RESULTS", results)
    assert main(["--check"]) == 1
    assert "is old; run python tools/hardware_table.py" in capsys.readouterr().err
    assert main([]) == 0
    assert main(["--check"]) == 0
    assert "NVIDIA H100" in readme.read_text()
    (results / "b.json").write_text("{}")
    assert main([]) == 1
    assert "b.json is damaged" in capsys.readouterr().err
    assert main(["--chekc"]) == 1
    assert "--chekc is no option" in capsys.readouterr().err


def test_the_readme_has_the_table_of_the_results_that_are_kept() -> None:
    assert main(["--check"]) == 0
