"""The table of hardware in docs/measured.md: made of results, and the same as what lies there."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import hardware_table
import pytest
from hardware_table import BEGIN, END, NoRecordError, main, records, table, with_table


def _row(name: str, state: str = "info", value: Any = None, unit: str = "") -> dict[str, Any]:
    return {"name": name, "state": state, "value": value, "unit": unit, "note": ""}


RECORD: dict[str, Any] = {
    "tool": "trt-yolo gpu_report",
    "schema": 1,
    "created": "2026-12-01T10:00:00+00:00",
    "version": "0.1.0",
    "revision": "abc1234",
    "device": "NVIDIA H100",
    "machine": {
        "gpus": [{"compute_capability": "9.0"}],
        "driver": "580.65",
        "cuda": "13.0",
        "packages": [
            {"package": "onnxruntime-gpu", "version": "1.31.1"},
            {"package": "cuda-bindings", "version": "13.0.1"},
            {"package": "tensorrt", "version": ""},
        ],
    },
    "steps": [
        {"name": "runtime", "ending": "done", "rows": [_row("x", "ok"), _row("y", "failed")]},
        {
            "name": "bench",
            "ending": "cut off after 90 s",
            "rows": [
                _row("n-fp16, 1 x 2, batch 1: infer", value=900.0),
                _row("n-fp16, 1 x 2, batch 16: infer", value=2900.0),
                _row("n-fp16, 1 x 2, batch 1: infer/engine", value=0.9),
                _row("n-fp16, 1 x 2, batch 16: infer/engine", value=0.97),
                _row("n-fp16, latency, batch 1: added to the bare engine, p50", value=0.2, unit="ms"),
                _row("n-int8, 1 x 2, batch 16: infer"),
            ],
        },
    ],
}


def test_a_result() -> None:
    header, _, line = table([RECORD]).splitlines()
    cells = dict(zip(header.split(" | "), line.split(" | "), strict=True))
    assert cells["| device"] == "| NVIDIA H100 (9.0)"
    assert cells["software"] == (
        "2026-12-01, trt-yolo 0.1.0 abc1234; driver 580.65, CUDA 13.0; onnxruntime-gpu 1.31.1, cuda-bindings 13.0.1"
    )
    assert cells["runtime / bare engine"] == "0.97 (n-fp16, 1 x 2, batch 16)"
    assert cells["latency added, batch 1"] == "0.2 ms (n-fp16, latency, batch 1)"
    assert cells["images/s: slots, JPEG files"] == "2900 (n-fp16, 1 x 2, batch 16) / -"
    assert cells["checks |"] == "runtime: 1 hold, 1 failed; bench: 0 hold, 0 failed, cut off after 90 s |"


def test_no_result_is_said() -> None:
    assert table([]) == "**No result of a GPU yet.**"


def test_the_newest_comes_first(tmp_path: Path) -> None:
    older = copy.deepcopy(RECORD) | {"created": "2026-11-01T00:00:00+00:00"}
    for name, record in (("a", older), ("b", RECORD)):
        (tmp_path / f"{name}.json").write_text(json.dumps(record))
    assert [one["created"][:10] for one in records(tmp_path)] == ["2026-12-01", "2026-11-01"]


def test_the_text_around_the_table_stays() -> None:
    text = f"before\n{BEGIN}\nold\n{END}\nafter\n"
    changed = with_table(text, [RECORD])
    assert changed.startswith(f"before\n{BEGIN}\n| device |")
    assert changed.endswith(f"|\n{END}\nafter\n")
    assert with_table(changed, [RECORD]) == changed
    with pytest.raises(NoRecordError, match="has no marks"):
        with_table("nothing", [RECORD])


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page, results = tmp_path / "measured.md", tmp_path / "results"
    results.mkdir()
    (results / "a.json").write_text(json.dumps(RECORD))
    page.write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr(hardware_table, "PAGE", page)
    monkeypatch.setattr(hardware_table, "RESULTS", results)
    assert main(["--check"]) == 1
    assert "is old; run python tools/hardware_table.py" in capsys.readouterr().err
    assert main([]) == 0
    assert main(["--check"]) == 0
    assert "NVIDIA H100" in page.read_text()
    assert main(["--chekc"]) == 1
    assert "--chekc is no option" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [("{}", "b.json is damaged"), ("[", "b.json is damaged"), ('{"tool": "x", "schema": 1}', "no result of")],
)
def test_what_is_no_result(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: str,
    said: str,
) -> None:
    (tmp_path / "b.json").write_text(content)
    monkeypatch.setattr(hardware_table, "RESULTS", tmp_path)
    assert main(["--check"]) == 1
    assert said in capsys.readouterr().err


def test_the_page_has_the_table_of_the_results_that_are_kept() -> None:
    assert main(["--check"]) == 0
