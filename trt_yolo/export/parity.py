"""Does the deploy graph find what the head graph finds? Run on images, before anything is kept.

Enters: both graphs as bytes, and frames. Leaves: a `Parity`. The head's side is decoded and suppressed on
the host, by code that shares nothing with the deploy graph's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import ExportError
from trt_yolo.media.images import read_image
from trt_yolo.vision.letterbox import fit_letterbox, letterbox_into
from trt_yolo.vision.matching import matched_pairs
from trt_yolo.vision.nms import greedy_nms

BOX_TOLERANCE_PX = 0.1
SCORE_TOLERANCE = 1e-3
UNMATCHED_TOLERANCE = 0.01
_SAME_OBJECT_IOU = 0.9
_CANDIDATES = 100
_SCORE_NOISE = 1e-5  # below it a float32 sigmoid's rounding decides which score is higher
_SCENES = 3
_IOU = 0.7

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the deploy graph is from the head graph.

    Attributes:
        images: Images that both were run on.
        detections: Detections of the head graph on them. The threshold is lowered, image by image, until
            a hundred candidates pass, so that images without known objects say something too.
        unmatched: Detections of either that the other does not have.
        worst_box_px: Largest difference of a matched box's side, letterboxed pixels.
        worst_score: Largest difference of a matched score.
    """

    images: int
    detections: int
    unmatched: int
    worst_box_px: float
    worst_score: float

    @property
    def holds(self) -> bool:
        """Whether the differences are within tolerance. One near-tie in NMS may put one box in another's place."""
        allowed = max(2, int(UNMATCHED_TOLERANCE * self.detections))
        return (
            self.worst_box_px <= BOX_TOLERANCE_PX
            and self.worst_score <= SCORE_TOLERANCE
            and self.unmatched <= allowed
        )


def check_frames(imgsz_hw: tuple[int, int], images: Sequence[Path]) -> Frames:
    """(N, H, W, 3) uint8 letterboxed frames: of the images given, else of three demo scenes."""
    pixels = [read_image(path) for path in images] or [scene(index).image_bgr for index in range(_SCENES)]
    frames = np.empty((len(pixels), *imgsz_hw, 3), np.uint8)
    for image, frame in zip(pixels, frames, strict=True):
        letterbox_into(image, frame, fit_letterbox(image.shape[:2], imgsz_hw))
    return frames


def check_parity(head: bytes, deploy: bytes, frames: Frames) -> Parity:
    """How far the deploy graph is from the head graph on those frames.

    Raises:
        ExportError: Beyond tolerance.
    """
    found = unmatched = 0
    worst_box = worst_score = 0.0
    with OnnxRuntimeBackend(head) as reference, OnnxRuntimeBackend(deploy) as candidate:
        for frame in frames:
            candidates = _candidates(reference, frame)[: candidate.manifest.rows]
            conf = _threshold(candidates[:, 4])
            wanted = greedy_nms(candidates[candidates[:, 4] > conf], iou=_IOU)
            got = candidate.infer(frame[None], conf=conf, iou=_IOU)[0]
            got = got[got[:, 4] > 0]
            pairs = matched_pairs(
                wanted[:, :4], wanted[:, 5].astype(np.int64), got[:, :4], got[:, 5].astype(np.int64),
                iou=_SAME_OBJECT_IOU,
            )  # fmt: skip
            found += len(wanted)
            unmatched += len(wanted) + len(got) - 2 * len(pairs)
            for first, second in pairs:
                difference = np.abs(wanted[first, :5] - got[second, :5])
                worst_box = max(worst_box, float(difference[:4].max()))
                worst_score = max(worst_score, float(difference[4]))
    parity = Parity(
        images=len(frames), detections=found, unmatched=unmatched,
        worst_box_px=worst_box, worst_score=worst_score,
    )  # fmt: skip
    if not parity.holds:
        raise ExportError(
            f"the deploy graph does not find what the head graph finds: boxes differ by up to {worst_box:.3g} "
            f"pixels (allowed {BOX_TOLERANCE_PX}), scores by {worst_score:.3g} (allowed {SCORE_TOLERANCE}), "
            f"{unmatched} of {found} detections have no partner; nothing was written, please report this model"
        )
    return parity


def _candidates(backend: OnnxRuntimeBackend, frame: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The head's rows before NMS, best first."""
    rows = backend.infer(frame[None], conf=0.0, iou=1.0)[0]
    scored: npt.NDArray[np.float32] = rows[rows[:, 4] > 0]
    if not len(scored):
        raise ExportError("the head graph returns no scores: the checkpoint is damaged; nothing was written")
    return scored


def _threshold(scores: npt.NDArray[np.float32]) -> float:
    """0.25, or lower, so that about a hundred candidates pass; never on a score itself."""
    clear = int(np.count_nonzero(scores > _SCORE_NOISE)) or len(scores)
    last = min(_CANDIDATES, clear) - 1
    below = scores[last + 1] if len(scores) > last + 1 else 0.0
    return min(0.25, float(scores[last] + below) / 2)
