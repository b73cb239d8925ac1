"""Images to check with: those that were given, or demo scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gpu_checks.job import Job
from trt_yolo.bench.images import DEMO_SIDE, SCENE_SIDE, write_scenes
from trt_yolo.errors import ImageError
from trt_yolo.evaluation.dataset import dataset_from_yaml
from trt_yolo.media.images import find_images, read_image

_MOST = 64


def image_files(job: Job) -> list[Path]:
    """At most 64 files that can be read."""
    if job.data is None:
        folder = job.folder / "scenes"
        there = sorted(folder.glob("*.jpg"))
        if there:
            return there
        folder.mkdir(parents=True, exist_ok=True)
        side = DEMO_SIDE if job.model is None else SCENE_SIDE
        return write_scenes(folder, (side, side))
    is_yaml = Path(job.data).suffix in (".yaml", ".yml")
    found = dataset_from_yaml(Path(job.data), split="val").images if is_yaml else find_images([job.data])
    readable = []
    for path in found[: 2 * _MOST]:
        try:
            read_image(path)
        except ImageError:
            continue
        readable.append(path)
    return readable[:_MOST]


def pixels(job: Job, count: int) -> list[npt.NDArray[np.uint8]]:
    """The first of them, (H, W, 3) uint8 BGR each."""
    return [read_image(path) for path in image_files(job)[:count]]
