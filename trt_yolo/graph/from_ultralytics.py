"""The head graph of any detection checkpoint that Ultralytics knows, written by Ultralytics itself.

Enters: the path of a `.pt`. Leaves: the bytes of an ONNX head graph. Of an end-to-end model, such as YOLO26 or
YOLOv10, that is its one-to-many head: `nms=None` asks for it, and in older versions the head's own `end2end`.
The only module that touches ultralytics and torch, and only in a process of its own: silent, offline,
writing nothing but a temporary folder and its settings in our cache.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.artifacts.weights import cache_folder
from trt_yolo.errors import ExportError, MissingDependencyError
from trt_yolo.system.interpreter import fresh_python
from trt_yolo.system.interruption import temporary_folder

_TIMEOUT_S = 1800


def is_installed() -> bool:
    """Whether ultralytics can be found; it is not imported."""
    return importlib.util.find_spec("ultralytics") is not None


def onnx_from_ultralytics(
    checkpoint: Path, target: Path, *, imgsz_hw: tuple[int, int], batch: BatchRange, opset: int, verbose: bool
) -> None:
    """Writes the head graph of a checkpoint to `target`.

    Args:
        checkpoint: A `.pt`. Ultralytics runs its pickle: check it first.
        target: Path of the `.onnx` to write.
        imgsz_hw: Height and width in pixels.
        batch: A dynamic one makes height and width dynamic too.
        opset: ONNX operator set.
        verbose: Let Ultralytics print.

    Raises:
        MissingDependencyError: ultralytics is not installed.
        ExportError: Ultralytics failed; its last line is in the message.
        WorkerError: This program has no Python interpreter to start.
    """
    if not is_installed():
        raise MissingDependencyError(
            "this export needs Ultralytics: pip install 'trt-yolo[export]' (AGPL-3.0)"
        )
    arguments = {
        "imgsz": list(imgsz_hw),
        "batch": batch.maximum,
        "dynamic": not batch.is_static,
        "opset": opset,
        "simplify": importlib.util.find_spec("onnxslim") is not None,
    }
    with temporary_folder() as folder:
        copy = shutil.copy(checkpoint, folder / "model.pt")  # Ultralytics writes beside the checkpoint
        function = "trt_yolo.graph.from_ultralytics:_export"
        try:
            with fresh_python(function, str(copy), json.dumps(arguments)) as (command, file):
                done = subprocess.run(
                    command, pass_fds=[file], env=_environment(verbose), timeout=_TIMEOUT_S, text=True, check=False,
                    stdout=sys.stderr if verbose else subprocess.PIPE,
                    stderr=None if verbose else subprocess.STDOUT,
                )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise ExportError(f"Ultralytics did not export {checkpoint} within {_TIMEOUT_S} s") from error
        written = folder / "model.onnx"
        if done.returncode or not written.exists():
            last = [line for line in (done.stdout or "").splitlines() if line.strip()][-1:]
            raise ExportError(
                f"Ultralytics could not export {checkpoint}: {' '.join(last) or 'see above'}; "
                "--verbose shows what it prints"
            )
        shutil.move(written, target)


def _export(checkpoint: str, arguments: str) -> None:
    """Writes `model.onnx` beside `model.pt`; in a process of its own."""
    from ultralytics import YOLO, settings

    os.chdir(Path(checkpoint).parent)  # whatever else it writes goes there too
    settings.update({"sync": False})
    model = YOLO(checkpoint)
    head = model.model.model[-1]
    if getattr(head, "end2end", False):
        try:
            head.end2end = False
        except AttributeError:  # Ultralytics 8.4.0: end-to-end is what has the parts
            del head.one2one_cv2, head.one2one_cv3
    model.export(format="onnx", device="cpu", nms=None, **json.loads(arguments))


def _environment(verbose: bool) -> dict[str, str]:
    """Ultralytics without a network, analytics and installs of its own."""
    settings = cache_folder() / "ultralytics"
    settings.mkdir(parents=True, exist_ok=True)
    return {
        **os.environ,
        "YOLO_CONFIG_DIR": str(settings),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
        "YOLO_VERBOSE": str(verbose).lower(),
    }
