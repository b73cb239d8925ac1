"""Models that the tests on a GPU run: made on the spot, or taken from a folder, so that no GPU waits for an export.

`TRT_YOLO_ARTIFACTS` names such a folder; `tools/gpu_report --make-artifacts FOLDER` fills it, without a GPU.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.artifacts.weights import demo_checkpoint, find_weights
from trt_yolo.build.engine_from_onnx import manifest_of_onnx
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import ExportOptions, Precision

FOLDER = "TRT_YOLO_ARTIFACTS"
KINDS: dict[str, tuple[Precision, BatchRange | None]] = {
    "fp32": ("fp32", None),
    "fp16": ("fp16", None),
    "int8": ("int8", None),
    "dynamic": ("fp32", BatchRange(1, 8)),
}
_NAMES = {
    "fp32": "demo.onnx",
    "fp16": "demo-fp16.onnx",
    "int8": "demo-int8.onnx",
    "dynamic": "demo-b1-8.onnx",
}
_BENCHED: tuple[Precision, ...] = ("fp16", "fp32", "int8")
_BENCH_BATCH = BatchRange(1, 16)


def demo_artifacts(folder: Path) -> dict[str, Path]:
    """The demo model's deploy graphs by kind, in a folder that may be written to."""
    return {kind: demo_artifact(kind, folder) for kind in KINDS}


def demo_artifact(kind: str, folder: Path) -> Path:
    """One of them."""
    path, given = folder / _NAMES[kind], os.environ.get(FOLDER)
    if given and (Path(given) / path.name).is_file():
        shutil.copy(Path(given) / path.name, path)
    elif not path.exists():
        precision, batch = KINDS[kind]
        options = ExportOptions(precision=precision, batch=batch)
        path = export_model(demo_checkpoint(), out=folder, options=options).artifacts[0].path
    return path


def deploy_artifacts() -> list[Path]:
    """What a folder that was given has for a bench: engines, then deploy graphs; the demo model's where it is alone."""
    given = os.environ.get(FOLDER)
    if not given:
        return []
    order = {precision: number for number, precision in enumerate(_BENCHED)}
    graphs = [path for path in Path(given).glob("*.onnx") if path.name not in _NAMES.values()]
    graphs.sort(key=lambda path: (order[manifest_of_onnx(path).precision], path.name))
    return sorted(Path(given).glob("*.engine")) + graphs or sorted(Path(given).glob(_NAMES["dynamic"]))


def make_artifacts(folder: Path, model: str, data: str | None) -> None:
    """Fills a folder: the demo model for the tests, another model in each precision for the bench."""
    folder.mkdir(parents=True, exist_ok=True)
    demo_artifacts(folder)
    for precision in _BENCHED:
        options = ExportOptions(precision=precision, batch=_BENCH_BATCH, data=data)
        export_model(find_weights(model), out=folder, options=options)
