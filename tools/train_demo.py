#!/usr/bin/env python
"""Trains the demo checkpoint from scratch on generated scenes and writes `trt_yolo/demo/demo.pt`.

Needs the `dev` extra (Ultralytics, scikit-learn). About 80 minutes on 2 CPU cores.

    python tools/train_demo.py                  # train, then write the checkpoint
    python tools/train_demo.py --glyphs-only    # only write trt_yolo/demo/digits.npz from scikit-learn
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np

DEMO = Path(__file__).resolve().parent.parent / "trt_yolo" / "demo"


def write_glyphs(path: Path) -> None:
    """Writes the digits of scikit-learn's `load_digits` as a small npz."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    np.savez_compressed(path, glyphs=digits.images.astype(np.uint8), labels=digits.target.astype(np.uint8))


def train(folder: Path, *, scenes: int, epochs: int, threads: int) -> Path:
    """The best checkpoint of the training run."""
    import torch
    from ultralytics import YOLO, settings

    from trt_yolo.demo.scenes import write_yolo_dataset

    settings.update({"sync": False})
    torch.set_num_threads(threads)
    data = write_yolo_dataset(folder / "scenes", train=scenes, val=200, size=256)
    model = YOLO("yolov8n.yaml")
    model.train(
        data=str(data), imgsz=256, epochs=epochs, batch=16, workers=0, device="cpu", seed=0,
        optimizer="AdamW", lr0=0.002, cos_lr=True, warmup_epochs=1, close_mosaic=8, nbs=16,
        fliplr=0.0, degrees=0.0, scale=0.4, cache="ram", pretrained=False, plots=False,
        project=str(folder), name="run", exist_ok=True,
    )  # fmt: skip
    return folder / "run" / "weights" / "best.pt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--glyphs-only", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"), help="where scenes and runs go")
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    write_glyphs(DEMO / "digits.npz")
    if not options.glyphs_only:
        best = train(
            options.folder.resolve(), scenes=options.scenes, epochs=options.epochs, threads=options.threads
        )
        shutil.copy(best, DEMO / "demo.pt")


if __name__ == "__main__":
    main()
