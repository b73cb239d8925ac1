"""Images to measure with where nobody gave any: demo scenes, as JPEG files."""

from __future__ import annotations

from pathlib import Path

from trt_yolo.demo.scenes import scene
from trt_yolo.media.images import write_jpeg

SCENES = 16
SCENE_SIDE = 640
DEMO_SIDE = 256


def write_scenes(folder: Path, imgsz_hw: tuple[int, int]) -> list[Path]:
    """JPEG files of demo scenes, squares as large as the longer side, in pixels."""
    paths = [folder / f"{index:02d}.jpg" for index in range(SCENES)]
    for index, path in enumerate(paths):
        write_jpeg(path, scene(index, size=max(imgsz_hw)).image_bgr)
    return paths
