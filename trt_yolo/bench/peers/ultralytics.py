"""The peer `ultralytics`: `predict` on image files, one after another.

On the CPU with the ONNX graph that Ultralytics exports, and as many threads as ONNX Runtime takes by itself, which
is every core. On a GPU with the checkpoint in PyTorch: its ONNX graph would quietly run on the CPU where
onnxruntime-gpu is missing.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from trt_yolo.bench.peers import Found, PeerOptions, Ready
from trt_yolo.runtime.job import DEFAULT_CONF, DEFAULT_IOU


@contextlib.contextmanager
def open_peer(options: PeerOptions) -> Iterator[Ready]:
    """See `OpenPeer`."""
    from ultralytics import YOLO

    device = options.get("device", "cpu")
    with tempfile.TemporaryDirectory(prefix="trt-yolo-") as folder:
        weights = shutil.copy(options["weights"], Path(folder))  # it exports beside the checkpoint
        if device == "cpu":
            weights = YOLO(weights).export(format="onnx", imgsz=options["imgsz"], verbose=False)
        model = YOLO(weights, task="detect")

        def run(paths: Iterable[str]) -> Iterator[Found]:
            for number, path in enumerate(paths):
                results = model.predict(
                    path,
                    imgsz=options["imgsz"],
                    conf=DEFAULT_CONF,
                    iou=DEFAULT_IOU,
                    rect=False,
                    device=device,
                    verbose=False,
                )
                yield Found(number, np.asarray(results[0].boxes.data.cpu().numpy(), np.float32))

        yield Ready(run=run, under_way=1)
