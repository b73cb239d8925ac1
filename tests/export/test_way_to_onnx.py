"""How many files of ours a reader visits between a checkpoint and its ONNX."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import trt_yolo
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import ExportOptions

PACKAGE = Path(trt_yolo.__file__).parent
MOST = 22


def test_a_checkpoint_visits_few_files_on_its_way_to_onnx(tmp_path: Path) -> None:
    visited = set()

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name != "<module>":  # importing a file is not visiting it
            visited.add(code.co_filename)

    source = demo_checkpoint()
    before = sys.getprofile()
    sys.setprofile(note)
    try:
        export_model(source, out=tmp_path, options=ExportOptions())
    finally:
        sys.setprofile(before)
    ours = sorted(str(Path(one).relative_to(PACKAGE)) for one in visited if Path(one).is_relative_to(PACKAGE))
    assert "graph/records.py" in ours
    assert len(ours) <= MOST, f"{len(ours)} files: {', '.join(ours)}"
