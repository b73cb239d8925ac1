"""The comparison of decoders measures each of them; the numbers are another matter."""

from __future__ import annotations

import json
from pathlib import Path

import decode_speed
import pytest

from tests.media.test_video_file import encoded
from trt_yolo.demo.scenes import write_yolo_dataset
from trt_yolo.media import decoders


@pytest.mark.parametrize("kind", ["images", "video"])
def test_every_decoder_is_measured(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(decode_speed, "SECONDS", 0.02)
    monkeypatch.setattr(decoders, "devices", list)
    monkeypatch.setattr(decode_speed.video, "devices", list)
    if kind == "images":
        write_yolo_dataset(tmp_path, train=0, val=2)
        source = tmp_path / "images" / "val"
    else:
        source = encoded(tmp_path / "a.mp4")
    assert decode_speed.main([str(source), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert all(found[f"{name}_{what}"] > 0 for name in ("cpu", "opencv") for what in ("per_s", "cpu_ms"))
    ratio, low, high = found["cpu_ms_cpu_over_opencv"]
    assert 0 < low <= ratio <= high
    assert found["gpu_not_measured"].startswith("no NVIDIA GPU answers")


def test_what_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert decode_speed.main([str(tmp_path / "gone")]) == 1
    assert capsys.readouterr().err.startswith("error: no such file or folder")
