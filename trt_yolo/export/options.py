"""What an export is asked for, checked before anything is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trt_yolo.artifacts.manifest import DEFAULT_ROWS
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.errors import InputError
from trt_yolo.graph.writer import MAX_OPSET, MIN_OPSET
from trt_yolo.precision.maker import PrecisionOptions

Exporter = Literal["auto", "native", "ultralytics"]
Precision = Literal["fp32", "fp16", "int8"]

DEFAULT_OUT = Path("engines")
INT8_OPSET = 19  # the first with Q/DQ around FP16 tensors
MAX_ROWS = 3840  # TensorRT's TopK, ITopKLayer, gives no more
_USUAL = PrecisionOptions()


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What to export.

    Attributes:
        imgsz_hw: Height and width in pixels; None takes the model's own.
        batch: None takes 1 for a checkpoint, and a given graph's own.
        head: The head graph instead of the deploy graph.
        source_hw: Height and width of the frames that come, for a letterbox in the graph; None: they come letterboxed.
        opset: ONNX operator set; None takes 19 for a checkpoint, and a given graph's own.
        rows: Candidates that NMS sees, and rows of the result, at most the number of anchors; None takes 512,
            or a quarter of the anchors where that is less.
        exporter: `native`, `ultralytics`, or `auto`: native where it knows the architecture.
        precision: `fp32`, `fp16` or `int8`.
        low_precision: How FP16 and int8 are made, and what they may cost.
        data: Images to calibrate and to judge precision with: a data.yaml, folder or file pattern; None takes what
            the model is known for, see `precision.images`.
        check_images: Images for the parity check; none takes demo scenes.
        check: Whether to run the parity check, which needs ONNX Runtime.
        trust: Let Ultralytics run a pickle that names code off the allow-list.
        verbose: Let Ultralytics print.
    """

    imgsz_hw: tuple[int, int] | None = None
    batch: BatchRange | None = None
    head: bool = False
    source_hw: tuple[int, int] | None = None
    opset: int | None = None
    rows: int | None = None
    exporter: Exporter = "auto"
    precision: Precision = "fp32"
    low_precision: PrecisionOptions = _USUAL
    data: str | None = None
    check_images: Sequence[Path] = ()
    check: bool = True
    trust: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.exporter not in get_args(Exporter):
            raise InputError(
                f"--exporter {self.exporter!r} does not exist; give {', '.join(get_args(Exporter))}"
            )
        if self.rows is not None and not 1 <= self.rows <= MAX_ROWS:
            raise InputError(
                f"--rows {self.rows} is not possible; give 1 to {MAX_ROWS}, such as {DEFAULT_ROWS}"
            )
        if self.source_hw is not None and self.head:
            raise InputError(
                "--head and --letterbox gpu were both given: a head graph has no letterbox; leave one out"
            )
        if self.opset is not None and not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise InputError(f"--opset {self.opset} is not supported; give {MIN_OPSET} to {MAX_OPSET}")
        if self.precision not in get_args(Precision):
            raise InputError(
                f"precision {self.precision!r} does not exist; give {', '.join(get_args(Precision))}"
            )
        if self.precision == "int8" and self.opset is not None and self.opset < INT8_OPSET:
            raise InputError(
                f"--int8 needs opset {INT8_OPSET} or newer, asked for {self.opset}; leave --opset out"
            )
