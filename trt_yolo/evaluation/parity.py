"""Does a graph find what the one that it was made from finds? Run on images, before anything is kept.

Enters: both graphs, and frames. Leaves: a `Parity`, or an error. The head's side is decoded and suppressed on the
host, by code that shares nothing with the deploy graph's; a letterbox in the graph is compared with the processor's.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from trt_yolo.artifacts.manifest import METADATA_KEY, Manifest
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend, open_session
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import BackendError, ExportError
from trt_yolo.evaluation.head_runner import HeadRunner
from trt_yolo.graph.letterbox_in_graph import write_letterbox
from trt_yolo.graph.writer import FLOAT, UINT8, GraphWriter, opset_of, serialized, value_info
from trt_yolo.media.images import read_image
from trt_yolo.vision.agreement import Agreement, Tolerance, agreement_with_head
from trt_yolo.vision.letterbox import Letterbox, fit_letterbox, letterboxed

BOX_TOLERANCE_PX = 0.1
SCORE_TOLERANCE = 1e-3
_UNMATCHED_TOLERANCE = 0.01
LETTERBOX_LEVELS = 1  # of 255: what the graph's pixels may differ by from the processor's
_SEED = 20
_CANDIDATES = 100
_SCORE_NOISE = 1e-5  # below it a float32 sigmoid's rounding decides which score is higher
_TIES = 1e-4  # scores that differ by less, as a share, are one
_SCENES = 3
_IOU = 0.7
_TOLERANCE = Tolerance(box_px=BOX_TOLERANCE_PX, score=SCORE_TOLERANCE, tie=_SCORE_NOISE)

_log = logging.getLogger(__name__)

Frames = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Parity:
    """How far the deploy graph is from the head graph.

    Attributes:
        images: Images that both were run on.
        detections: Detections of the head graph on them. The threshold is lowered, image by image, until
            a hundred candidates pass, so that images without known objects say something too.
        unmatched: Detections of either that the other does not have, and no tie of scores explains.
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
        allowed = max(2, int(_UNMATCHED_TOLERANCE * self.detections))
        return (
            self.worst_box_px <= BOX_TOLERANCE_PX
            and self.worst_score <= SCORE_TOLERANCE
            and self.unmatched <= allowed
        )


def check_frames(imgsz_hw: tuple[int, int], images: Sequence[Path]) -> Frames:
    """(N, H, W, 3) uint8 letterboxed frames: of the images given, else of three demo scenes."""
    pixels = [read_image(path) for path in images] or [scene(index).image_bgr for index in range(_SCENES)]
    return np.stack([letterboxed(image, imgsz_hw) for image in pixels])


def check_parity(head: bytes, deploy: bytes, frames: Frames) -> Parity:
    """How far the deploy graph is from the head graph on those frames.

    Raises:
        ExportError: Beyond tolerance.
    """
    found: list[Agreement] = []
    with HeadRunner(head) as reference, OnnxRuntimeBackend(deploy) as candidate:
        for frame in frames:
            output = reference.head(frame[None])[0]
            conf = _threshold(_scores(output)[: candidate.manifest.rows])
            got = candidate.infer(frame[None], conf=conf, iou=_IOU)[0]
            found.append(
                agreement_with_head(
                    output, got[got[:, 4] > 0],
                    conf=conf, iou=_IOU, rows=candidate.manifest.rows, tolerance=_TOLERANCE,
                )
            )  # fmt: skip
    parity = Parity(
        images=len(frames),
        detections=sum(one.detections for one in found),
        unmatched=sum(one.unmatched for one in found),
        worst_box_px=max(one.worst_box_px for one in found),
        worst_score=max(one.worst_score for one in found),
    )
    if not parity.holds:
        raise ExportError(
            "the deploy graph does not find what the head graph finds: boxes differ by up to "
            f"{parity.worst_box_px:.3g} pixels (allowed {BOX_TOLERANCE_PX}), scores by {parity.worst_score:.3g} "
            f"(allowed {SCORE_TOLERANCE}), {parity.unmatched} of {parity.detections} detections have no partner; "
            "nothing was written, please report this model"
        )
    return parity


def check_same_head(
    before: onnx.ModelProto, after: onnx.ModelProto, manifest: Manifest, *, origin: str
) -> None:
    """Checks that a head graph and its conversion to another opset give the same output for a demo scene.

    Args:
        before: The head graph.
        after: Its conversion.
        manifest: What both are.
        origin: The file's name, for errors.

    Raises:
        ExportError: They do not.
    """
    frames = check_frames(manifest.imgsz_hw, ())[:1]
    metadata = {METADATA_KEY: manifest.to_json()}
    try:
        with HeadRunner(serialized(before, metadata)) as reference:
            wanted = reference.head(frames)[0]
    except BackendError as error:  # such as an opset that this ONNX Runtime does not have
        _log.info(
            "the conversion of %s is not checked, since the graph as given does not run: %s", origin, error
        )
        return
    with HeadRunner(serialized(after, metadata)) as converted:
        difference = np.abs(converted.head(frames)[0] - wanted)
    if not (difference[:4].max() <= BOX_TOLERANCE_PX and difference[4:].max() <= SCORE_TOLERANCE):
        raise ExportError(
            f"{origin} gives other results after its conversion from opset {opset_of(before)} to {opset_of(after)}: "
            f"boxes differ by up to {difference[:4].max():.3g} pixels, scores by {difference[4:].max():.3g}; "
            "nothing was written, give the .pt or export the model again with a newer opset"
        )


def check_letterbox(source_hw: tuple[int, int], imgsz_hw: tuple[int, int], *, opset: int) -> int:
    """The largest difference of a pixel from the processor's letterbox, in levels of 255, on ONNX Runtime.

    Args:
        source_hw: Height and width of the source, in pixels.
        imgsz_hw: Height and width of the model's input, in pixels.
        opset: ONNX operator set.

    Raises:
        ExportError: More than one level.
        MissingDependencyError: onnxruntime is not installed.
    """
    letterbox = fit_letterbox(source_hw, imgsz_hw)
    frame = _check_frame(source_hw)
    wanted = letterboxed(frame, imgsz_hw)
    session = open_session(letterbox_alone(letterbox, opset=opset).SerializeToString(), threads=1)
    (found,) = session.run(None, {"frames": frame[None]})
    worst = int(np.abs(found[0].transpose(1, 2, 0) - wanted).max())
    if worst > LETTERBOX_LEVELS:
        raise ExportError(
            f"the letterbox in the graph differs from the processor's by {worst} levels of 255 "
            f"(allowed {LETTERBOX_LEVELS}) from {source_hw[0]}x{source_hw[1]}; nothing was written, "
            "please report these sizes"
        )
    return worst


def letterbox_alone(letterbox: Letterbox, *, opset: int) -> onnx.ModelProto:
    """A graph that only letterboxes: `frames` uint8 (N, H, W, 3) -> `letterboxed` float32 (N, 3, H, W), 0 to 255."""
    writer = GraphWriter(opset=opset)
    tensor = write_letterbox(writer, letterbox)
    writer.nodes.append(onnx.helper.make_node("Identity", [tensor], ["letterboxed"], name="letterboxed"))
    return writer.model(
        name="letterbox",
        inputs=[value_info("frames", UINT8, ["batch", *letterbox.source_hw, 3])],
        outputs=[value_info("letterboxed", FLOAT, ["batch", 3, *letterbox.target_hw])],
        metadata={},
    )


def _check_frame(source_hw: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8: noise, which no two ways of interpolating would agree on by chance."""
    return np.random.default_rng(_SEED).integers(0, 256, (*source_hw, 3), np.uint8)


def _scores(head: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Each anchor's best score above 0, best first."""
    best = np.sort(head[4:].max(axis=0))[::-1]
    scored: npt.NDArray[np.float32] = best[best > 0]
    if not len(scored):
        raise ExportError("the head graph returns no scores: the checkpoint is damaged; nothing was written")
    return scored


def _threshold(scores: npt.NDArray[np.float32]) -> float:
    """0.25, or lower, so that about a hundred candidates pass; never among scores that tie, which all pass then."""
    clear = int(np.count_nonzero(scores > _SCORE_NOISE)) or len(scores)
    last = min(_CANDIDATES, clear) - 1
    below = scores[scores < scores[last] * (1 - _TIES)].max(initial=0)
    return min(0.25, float(scores[last] + below) / 2)
