"""`trt-yolo export`: parse, call `export_model`, show the report."""
# ruff: noqa: UP045  typer reads these annotations at run time, on Python 3.10 too: Optional, not `| None`

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, cast

import typer

from trt_yolo.cli.options import with_groups
from trt_yolo.errors import InputError

if TYPE_CHECKING:
    from trt_yolo.engine.options import EngineOptions, HardwareCompat
    from trt_yolo.export.options import Exporter, ExportOptions, Precision
    from trt_yolo.precision.calibration import Target
    from trt_yolo.precision.maker import MethodChoice, PrecisionOptions

_CHECK_IMAGES = 16
_FORMATS = ("onnx", "engine")
_OfEngine = functools.partial(typer.Option, rich_help_panel="Engine (TensorRT)")


@dataclass(frozen=True, kw_only=True)
class _Graph:
    """Which graph is made, and how it is checked. See `ExportOptions`."""

    imgsz: Annotated[
        Optional[str],
        typer.Option(help="640, or height x width such as 384x640.", show_default="the model's own"),
    ] = None
    batch: Annotated[Optional[str], typer.Option(help="8 (static) or 1:16 (dynamic).", show_default="1")] = (
        None
    )
    head: Annotated[
        bool, typer.Option("--head", help="The head graph, for DeepStream, Triton or Ultralytics.")
    ] = False
    letterbox: Annotated[
        str, typer.Option(help="cpu, or gpu: frames of --source-size come in, and are resized in the graph.")
    ] = "cpu"
    source_size: Annotated[
        Optional[str],
        typer.Option(help="With --letterbox gpu: the camera's height x width, such as 1080x1920."),
    ] = None
    opset: Annotated[Optional[int], typer.Option(help="ONNX operator set, 13 to 21.", show_default="19")] = (
        None
    )
    rows: Annotated[
        Optional[int],
        typer.Option(help="Candidates that NMS sees, and rows of the result.", show_default="512, or fewer"),
    ] = None
    exporter: Annotated[
        str, typer.Option(help="auto, native (no torch) or ultralytics (every architecture).")
    ] = "auto"
    check: Annotated[bool, typer.Option(help="Check the deploy graph against the head graph.")] = True
    trust: Annotated[
        bool, typer.Option("--trust", help="Let Ultralytics run the code in this checkpoint's pickle.")
    ] = False

    def source_hw(self) -> tuple[int, int] | None:
        """Height and width of the frames that come; None: they come letterboxed."""
        from trt_yolo.artifacts.shapes import parse_source_size

        if self.letterbox not in ("cpu", "gpu"):
            raise InputError(f"--letterbox {self.letterbox!r} does not exist; give cpu or gpu")
        size = self.source_size
        if (self.letterbox == "gpu") != (size is not None):
            raise InputError(
                "--letterbox gpu takes frames of one size; give the camera's with --source-size, such as 1080x1920"
                if size is None
                else f"--source-size {size} is for --letterbox gpu; add it, or leave the size out"
            )
        return None if size is None else parse_source_size(size)


@dataclass(frozen=True, kw_only=True)
class _LowPrecision:
    """Which precision is made, and what it may cost. See `PrecisionOptions`."""

    fp16: Annotated[bool, typer.Option("--fp16", help="Mixed FP16; box decoding stays FP32.")] = False
    int8: Annotated[bool, typer.Option("--int8", help="INT8 by calibration; what is left is FP16.")] = False
    data: Annotated[
        Optional[str],
        typer.Option(
            help="Images to check, calibrate and judge with: a data.yaml (train calibrates, val judges), "
            "a folder or a glob.",
            show_default="demo scenes; for COCO's classes coco128",
        ),
    ] = None
    max_drop: Annotated[
        float, typer.Option(help="Points of mAP50-95 that --fp16 or --int8 may lose, or the export fails.")
    ] = 1.0
    target: Annotated[
        str, typer.Option(help="What --int8 is laid out for: tensorrt, or cpu for ONNX Runtime.")
    ] = "tensorrt"
    calib_method: Annotated[
        str,
        typer.Option(help="minmax, percentile, mse, l2.4, entropy; auto: what moves the outputs least."),
    ] = "auto"

    @property
    def precision(self) -> Precision:
        """The one that is asked for."""
        if self.fp16 and self.int8:
            raise InputError(
                "--fp16 and --int8 were both given; give one: --int8 leaves in FP16 what it does not take"
            )
        return "int8" if self.int8 else "fp16" if self.fp16 else "fp32"

    def options(self) -> PrecisionOptions:
        """How it is made."""
        from trt_yolo.precision.maker import PrecisionOptions

        target, method = cast("Target", self.target), cast("MethodChoice", self.calib_method)
        return PrecisionOptions(max_drop=self.max_drop, target=target, method=method)

    def check_images(self) -> list[Path]:
        """The first of the images that are given, which check the float graph."""
        from trt_yolo.evaluation.dataset import dataset_from_yaml
        from trt_yolo.media.sources import find_images

        if self.data is None or self.fp16 or self.int8:
            return []
        if Path(self.data).suffix.lower() in (".yaml", ".yml"):
            return dataset_from_yaml(Path(self.data), split="val").images[:_CHECK_IMAGES]
        return find_images([self.data])[:_CHECK_IMAGES]


@dataclass(frozen=True, kw_only=True)
class _Output:
    """Where artifacts go, and what is printed."""

    out: Annotated[
        Optional[Path],
        typer.Option(help="Folder for the artifacts.", show_default="engines; of an exported .onnx its own"),
    ] = None
    json_line: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show what Ultralytics prints; TensorRT's log has everything.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class _Engine:
    """Whether an engine is built, and how. See `EngineOptions`."""

    format_name: Annotated[str, _OfEngine("--format", help="onnx, or engine: both.")] = "onnx"
    builder: Annotated[str, _OfEngine(help="auto, tensorrt (needs the GPU) or tensorrt-rtx.")] = "auto"
    workspace: Annotated[
        Optional[str], _OfEngine(help="Device memory for kernels: 2G, 512M.", show_default="all")
    ] = None
    opt_level: Annotated[
        Optional[int], _OfEngine(help="0 (builds fast) to 5 (fastest engine).", show_default="3")
    ] = None
    hardware_compat: Annotated[str, _OfEngine(help="none, ampere+ or same-cc: GPUs beside this one.")] = (
        "none"
    )
    version_compatible: Annotated[bool, _OfEngine("--version-compatible", help="Later versions load it.")] = (
        False
    )
    compute_capability: Annotated[
        Optional[str], _OfEngine(help="tensorrt-rtx: GPUs to build for: 8.6,8.9.", show_default="8.0+")
    ] = None
    strip_weights: Annotated[
        bool, _OfEngine("--strip-weights", help="No weights inside: taken from the ONNX at load.")
    ] = False
    sparse: Annotated[bool, _OfEngine("--sparse", help="Use 2:4 sparsity of the weights.")] = False
    dla: Annotated[Optional[int], _OfEngine(help="Run on this DLA core (Orin).", show_default="the GPU")] = (
        None
    )
    timing_cache: Annotated[
        Optional[Path], _OfEngine(help="File that keeps what kernels took.", show_default="beside the engine")
    ] = None
    profile: Annotated[
        Optional[str], _OfEngine(help="Smallest, best, largest batch: 1,4,16.", show_default="the graph's")
    ] = None
    strip_header: Annotated[
        bool, _OfEngine("--strip-header", help="Make Ultralytics' .engine a plain plan.")
    ] = False

    def options(self, *, verbose: bool) -> EngineOptions | None:
        """What to ask of the builder; None where no engine is asked for.

        Raises:
            InputError: No such format, an option that makes no sense, or one of these without an engine.
        """
        from trt_yolo.engine.options import EngineOptions

        if self.format_name not in _FORMATS:
            raise InputError(f"--format {self.format_name!r} does not exist; give {' or '.join(_FORMATS)}")
        options = self._parsed()
        if self.format_name == "engine":
            return replace(options, verbose=verbose)
        if options != EngineOptions():
            asked = " ".join(options.arguments()) or f"--timing-cache {self.timing_cache}"
            raise InputError(f"{asked} is for TensorRT's builder; add --format engine, or leave it out")
        return None

    def _parsed(self) -> EngineOptions:
        from trt_yolo.engine.options import (
            EngineOptions,
            parse_bytes,
            parse_compute_capability,
            parse_profile,
        )

        capability = self.compute_capability
        return EngineOptions(
            builder=self.builder,
            workspace_bytes=None if self.workspace is None else parse_bytes(self.workspace),
            opt_level=self.opt_level,
            hardware_compat=cast("HardwareCompat", self.hardware_compat),
            version_compatible=self.version_compatible,
            compute_capability=() if capability is None else parse_compute_capability(capability),
            strip_weights=self.strip_weights,
            sparse=self.sparse,
            dla=self.dla,
            timing_cache=self.timing_cache,
            profile=None if self.profile is None else parse_profile(self.profile),
        )


@with_groups
def export(
    graph: _Graph,
    low: _LowPrecision,
    output: _Output,
    engine: _Engine,
    model: Annotated[
        Optional[str],
        typer.Argument(help="A .pt, a head-graph .onnx, or a name such as yolov8s; nothing: the demo model."),
    ] = None,
) -> None:
    """Export a YOLOv8 checkpoint to a deploy graph, uint8 frames in, detections out; and to an engine of it."""
    from trt_yolo.cli.export_report import show_report
    from trt_yolo.cli.render import print_json, progress_bar
    from trt_yolo.export.engine_from_model import engine_from_model
    from trt_yolo.export.onnx_from_model import export_model
    from trt_yolo.export.options import DEFAULT_OUT
    from trt_yolo.system.interruption import exit_on_sigterm

    exit_on_sigterm()
    if engine.strip_header or Path(model or "").suffix.lower() in (".engine", ".plan"):
        _strip(model, output.out, strip_header=engine.strip_header)
        return
    builder = engine.options(verbose=output.verbose)
    options = _options(graph, low, verbose=output.verbose)
    source, out = _checkpoint(model), output.out
    with progress_bar() as bar:
        progress = _Stages(bar)
        if builder is None:
            report = export_model(source, out=out or DEFAULT_OUT, options=options, progress=progress)
        else:
            report = engine_from_model(source, out=out, options=options, engine=builder, progress=progress)
    show_report(report)
    if output.json_line:
        print_json(report.to_dict())


def _options(graph: _Graph, low: _LowPrecision, *, verbose: bool) -> ExportOptions:
    from trt_yolo.artifacts.shapes import parse_batch, parse_imgsz
    from trt_yolo.export.options import ExportOptions

    return ExportOptions(
        imgsz_hw=None if graph.imgsz is None else parse_imgsz(graph.imgsz),
        batch=None if graph.batch is None else parse_batch(graph.batch),
        head=graph.head,
        source_hw=graph.source_hw(),
        opset=graph.opset,
        rows=graph.rows,
        exporter=cast("Exporter", graph.exporter),
        precision=low.precision,
        low_precision=low.options(),
        data=low.data,
        check_images=low.check_images(),
        check=graph.check,
        trust=graph.trust,
        verbose=verbose,
    )


def _strip(model: str | None, out: Path | None, *, strip_header: bool) -> None:
    from trt_yolo.engine.strip import plain_from_ultralytics

    if model is None or not strip_header:
        raise InputError(
            "--strip-header takes an .engine that Ultralytics exported; give its path"
            if model is None
            else f"{model} is an engine already; give a .pt or an .onnx, or --strip-header for a plain plan"
        )
    typer.echo(f"wrote {plain_from_ultralytics(Path(model), out=out)}")


class _Stages:
    """One bar at a time, for what is being done now."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._what = ""
        self._task: Any = None

    def __call__(self, what: str, done: int, total: int) -> None:
        if what != self._what:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._what, self._task = what, self._bar.add_task(what, total=total or None)
        self._bar.update(self._task, completed=done, total=total or None)


def _checkpoint(model: str | None) -> Path:
    """The model's file, with a progress bar where it must be downloaded."""
    from trt_yolo.artifacts.weights import find_weights
    from trt_yolo.cli.render import progress_bar

    with progress_bar() as bar:
        return find_weights(model, progress=_Stages(bar))
