"""The videos among the sources of `trt-yolo predict`: a row each in the table; with --json a line for each frame."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trt_yolo.detections import Detections
    from trt_yolo.media.writers import WriterPool
    from trt_yolo.runtime.model import Model

Save = Callable[[Path, Any, "Detections"], None]


def split_sources(sources: list[str]) -> tuple[list[str], list[Path]]:
    """What may be images, and the videos, which are told by their suffix."""
    import os

    from trt_yolo.media.video import is_video

    videos = [one for one in sources if is_video(one) and os.path.isfile(one)]
    return [one for one in sources if one not in videos], [Path(one) for one in videos]


def predict_video(
    model: Model,
    video: Path,
    thresholds: dict[str, Any],
    *,
    folder: Path | None,
    save: Save,
    writers: WriterPool[Path],
    json_line: bool,
    rows: list[list[str]],
    advance: Callable[[], None],
) -> int:
    """Detects in every frame of a video; how many frames failed.

    Args:
        model: What detects.
        video: The file.
        thresholds: As `Model.stream` takes them.
        folder: For drawn frames, which go into a folder of the video's name; None: none are drawn.
        save: Draws one and writes it.
        writers: Threads that write.
        json_line: Whether each frame is printed as a line of JSON.
        rows: Where the table's row goes.
        advance: Called after each frame.

    Raises:
        InputError: It is no video, or is cut short; what was found until then is told.
    """
    from trt_yolo.cli.predict import expected, json_object, made_folder
    from trt_yolo.cli.render import print_json, warn

    counts: Counter[str] = Counter()
    frames = objects = failed = 0
    target = None if folder is None else made_folder(folder / video.stem)
    try:
        for result in model.stream(video, keep_images=target is not None, **thresholds):
            advance()
            frames += 1
            if result.error is not None:
                failed += 1
                warn(f"{video}: {expected(result.error)} (skipped)")
                continue
            detections = result.detections
            objects += len(detections)
            counts.update(detections.name(index) for index in detections.class_id.tolist())
            if target is not None and result.image is not None:
                writers.write(
                    video,
                    functools.partial(save, target / f"{result.index:06d}.jpg", result.image, detections),
                )
            if json_line:
                print_json(json_object(video, detections) | {"frame": result.index})
    finally:
        if frames and not json_line:
            most = ", ".join(f"{name} ×{count}" for name, count in counts.most_common(8))
            rows.append([f"{video}, {frames} frames", str(objects), most])
    return failed
