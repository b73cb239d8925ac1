"""`trt-yolo export`: parse, call `export_model`, show the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, cast

import typer

if TYPE_CHECKING:
    from trt_yolo.export.onnx_from_model import ExportReport
    from trt_yolo.export.options import Precision
    from trt_yolo.precision.report import PrecisionReport

_CHECK_IMAGES = 16
_ENGINE = "Engine (TensorRT)"

# typer reads these annotations at run time, on Python 3.10 too: Optional, not `| None`


def export(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="A .pt, a head-graph .onnx, or a name such as yolov8s; nothing: the demo model."),
    ] = None,
    imgsz: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="640, or height x width such as 384x640.", show_default="the model's own"),
    ] = None,
    batch: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="8 (static) or 1:16 (dynamic).", show_default="1"),
    ] = None,
    head: Annotated[
        bool, typer.Option("--head", help="The head graph, for DeepStream, Triton or Ultralytics.")
    ] = False,
    letterbox: Annotated[
        str, typer.Option(help="cpu, or gpu: frames of --source-size come in, and are resized in the graph.")
    ] = "cpu",
    source_size: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="With --letterbox gpu: the camera's height x width, such as 1080x1920."),
    ] = None,
    opset: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="ONNX operator set, 13 to 21.", show_default="19"),
    ] = None,
    rows: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Candidates that NMS sees, and rows of the result.", show_default="512, or fewer"),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for the artifacts.", show_default="engines; of an exported .onnx its own"),
    ] = None,
    exporter: Annotated[
        str, typer.Option(help="auto, native (no torch) or ultralytics (every architecture).")
    ] = "auto",
    fp16: Annotated[bool, typer.Option("--fp16", help="Mixed FP16; box decoding stays FP32.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="INT8 by calibration; what is left is FP16.")] = False,
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Images to check, calibrate and judge with: a data.yaml (train calibrates, val judges), "
            "a folder or a glob.",
            show_default="demo scenes; for COCO's classes coco128",
        ),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="Points of mAP50-95 that --fp16 or --int8 may lose, or the export fails.")
    ] = 1.0,
    target: Annotated[
        str, typer.Option(help="What --int8 is laid out for: tensorrt, or cpu for ONNX Runtime.")
    ] = "tensorrt",
    calib_method: Annotated[
        str,
        typer.Option(help="minmax, percentile, mse, l2.4, entropy; auto: what moves the outputs least."),
    ] = "auto",
    check: Annotated[bool, typer.Option(help="Check the deploy graph against the head graph.")] = True,
    trust: Annotated[
        bool, typer.Option("--trust", help="Let Ultralytics run the code in this checkpoint's pickle.")
    ] = False,
    json_line: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show what Ultralytics prints; TensorRT's log has everything.")
    ] = False,
    format_name: Annotated[
        str, typer.Option("--format", help="onnx, or engine: both.", rich_help_panel=_ENGINE)
    ] = "onnx",
    builder: Annotated[
        str, typer.Option(help="auto, tensorrt (needs the GPU) or tensorrt-rtx.", rich_help_panel=_ENGINE)
    ] = "auto",
    workspace: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Device memory for kernels: 2G, 512M.", show_default="all", rich_help_panel=_ENGINE
        ),
    ] = None,
    opt_level: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="0 (builds fast) to 5 (fastest engine).", show_default="3", rich_help_panel=_ENGINE
        ),
    ] = None,
    hardware_compat: Annotated[
        str, typer.Option(help="none, ampere+ or same-cc: GPUs beside this one.", rich_help_panel=_ENGINE)
    ] = "none",
    version_compatible: Annotated[
        bool,
        typer.Option("--version-compatible", help="Later versions load it.", rich_help_panel=_ENGINE),
    ] = False,
    compute_capability: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="tensorrt-rtx: GPUs to build for: 8.6,8.9.", show_default="8.0+", rich_help_panel=_ENGINE
        ),
    ] = None,
    strip_weights: Annotated[
        bool,
        typer.Option(
            "--strip-weights", help="No weights inside: taken from the ONNX at load.", rich_help_panel=_ENGINE
        ),
    ] = False,
    sparse: Annotated[
        bool, typer.Option("--sparse", help="Use 2:4 sparsity of the weights.", rich_help_panel=_ENGINE)
    ] = False,
    dla: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Run on this DLA core (Orin).", show_default="the GPU", rich_help_panel=_ENGINE),
    ] = None,
    timing_cache: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="File that keeps what kernels took.",
            show_default="beside the engine",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    profile: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Smallest, best, largest batch: 1,4,16.", show_default="the graph's", rich_help_panel=_ENGINE
        ),
    ] = None,
    strip_header: Annotated[
        bool,
        typer.Option(
            "--strip-header", help="Make Ultralytics' .engine a plain plan.", rich_help_panel=_ENGINE
        ),
    ] = False,
) -> None:
    """Export a YOLOv8 checkpoint to a deploy graph, uint8 frames in, detections out; and to an engine of it."""
    from trt_yolo.artifacts.shapes import parse_batch, parse_imgsz
    from trt_yolo.cli.options import engine_options
    from trt_yolo.cli.render import print_json, progress_bar
    from trt_yolo.export.engine_from_model import DEFAULT_OUT, engine_from_model
    from trt_yolo.export.onnx_from_model import export_model
    from trt_yolo.export.options import Exporter, ExportOptions
    from trt_yolo.precision.calibration import Target
    from trt_yolo.precision.maker import MethodChoice, PrecisionOptions
    from trt_yolo.system.interruption import exit_on_sigterm

    exit_on_sigterm()
    if strip_header or Path(model or "").suffix.lower() in (".engine", ".plan"):
        _strip(model, out, strip_header=strip_header)
        return
    engine = engine_options(
        format_name, builder=builder, workspace=workspace, opt_level=opt_level, hardware_compat=hardware_compat,
        version_compatible=version_compatible, compute_capability=compute_capability, strip_weights=strip_weights,
        sparse=sparse, dla=dla, timing_cache=timing_cache, profile=profile, verbose=verbose,
    )  # fmt: skip
    options = ExportOptions(
        imgsz_hw=None if imgsz is None else parse_imgsz(imgsz),
        batch=None if batch is None else parse_batch(batch),
        head=head,
        source_hw=_source_size(letterbox, source_size),
        opset=opset,
        rows=rows,
        exporter=cast("Exporter", exporter),
        precision=_precision(fp16, int8),
        low_precision=PrecisionOptions(
            max_drop=max_drop, target=cast("Target", target), method=cast("MethodChoice", calib_method)
        ),
        data=data,
        check_images=[] if data is None or fp16 or int8 else _check_images(data),
        check=check,
        trust=trust,
        verbose=verbose,
    )
    source = _checkpoint(model)
    with progress_bar() as bar:
        if engine is None:
            report = export_model(source, out=out or DEFAULT_OUT, options=options, progress=_Stages(bar))
        else:
            report = engine_from_model(source, out=out, options=options, engine=engine, progress=_Stages(bar))
    _show(report)
    if json_line:
        print_json(report.to_dict())


def _strip(model: str | None, out: Path | None, *, strip_header: bool) -> None:
    from trt_yolo.engine.strip import plain_from_ultralytics
    from trt_yolo.errors import InputError

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


def _source_size(letterbox: str, text: str | None) -> tuple[int, int] | None:
    from trt_yolo.artifacts.shapes import parse_source_size
    from trt_yolo.errors import InputError

    if letterbox not in ("cpu", "gpu"):
        raise InputError(f"--letterbox {letterbox!r} does not exist; give cpu or gpu")
    if (letterbox == "gpu") != (text is not None):
        raise InputError(
            "--letterbox gpu takes frames of one size; give the camera's with --source-size, such as 1080x1920"
            if text is None
            else f"--source-size {text} is for --letterbox gpu; add it, or leave the size out"
        )
    return None if text is None else parse_source_size(text)


def _precision(fp16: bool, int8: bool) -> Precision:
    from trt_yolo.errors import InputError

    if fp16 and int8:
        raise InputError(
            "--fp16 and --int8 were both given; give one: --int8 leaves in FP16 what it does not take"
        )
    return "int8" if int8 else "fp16" if fp16 else "fp32"


def _check_images(data: str) -> list[Path]:
    """The first of the images that are given, which check the float graph."""
    from trt_yolo.evaluation.dataset import dataset_from_yaml
    from trt_yolo.media.sources import find_images

    if Path(data).suffix.lower() in (".yaml", ".yml"):
        return dataset_from_yaml(Path(data), split="val").images[:_CHECK_IMAGES]
    return find_images([data])[:_CHECK_IMAGES]


def _checkpoint(model: str | None) -> Path:
    """The model's file, with a progress bar where it must be downloaded."""
    from trt_yolo.artifacts.weights import find_weights
    from trt_yolo.cli.render import progress_bar

    with progress_bar() as bar:
        task = None

        def advance(done: int, total: int) -> None:
            nonlocal task
            if task is None:
                task = bar.add_task(f"downloading {model}", total=total or None)
            bar.update(task, completed=done)

        return find_weights(model, progress=advance)


def _show(report: ExportReport) -> None:
    from trt_yolo.cli.render import print_table

    manifest, parity = report.manifest, report.parity
    height, width = manifest.imgsz_hw
    rows = [
        ["model", f"{manifest.source}, {len(manifest.names)} classes, by the {manifest.exporter} exporter"],
        ["input", f"{height}x{width}, batch {manifest.batch}, {manifest.precision}, opset {manifest.opset}"],
    ]
    if manifest.source_hw is not None:
        source_height, source_width = manifest.source_hw
        rows.append(["frames", f"{source_height}x{source_width} as they come: the letterbox is in the graph"])
    if parity is not None:
        rows.append(
            [
                "check",
                f"{parity.detections} detections on {parity.images} images: boxes within "
                f"{parity.worst_box_px:.2g} px, scores within {parity.worst_score:.2g} of the head graph",
            ]
        )
    if report.accuracy is not None:
        rows += _accuracy_rows(report.accuracy)
    if manifest.engine is not None:
        rows += _engine_rows(report)
    rows += [["wrote", f"{one.path} ({one.bytes / 1e6:.1f} MB)"] for one in report.artifacts]
    print_table("export", ["what", "is"], rows)
    if report.accuracy is not None and report.accuracy.kept:
        _show_kept(report.accuracy)


def _engine_rows(report: ExportReport) -> list[list[str]]:
    facts = report.manifest.engine
    assert facts is not None
    assert report.engine is not None
    checked = report.engine.self_test
    rows = [
        [
            "engine",
            f"{facts.builder} {facts.builder_version}, for compute capability "
            f"{', '.join(facts.compute_capabilities)}" + (f" ({facts.device})" if facts.device else ""),
        ],
        ["batch", "smallest {}, best {}, largest {}".format(*facts.profile)],
        ["build", f"{report.engine.build_seconds:.1f} s, {report.engine.peak_bytes / 1e6:.0f} MB of memory"],
    ]
    if checked is None:
        rows.append(["self-test", "not run: nothing here runs this engine"])
    else:
        rows.append(
            [
                "self-test",
                f"{checked.detections} detections, {checked.unmatched} without a partner, boxes within "
                f"{checked.worst_box_px:.2g} px, scores within {checked.worst_score:.2g} of ONNX Runtime; "
                f"batches {', '.join(map(str, checked.batches))}",
            ]
        )
    return rows


def _accuracy_rows(accuracy: PrecisionReport) -> list[list[str]]:
    from trt_yolo.precision.speed import speed_in_words

    before, after = accuracy.before, accuracy.after
    rows = [
        [
            "accuracy",
            f"mAP50-95 {before.map50_95:.4f} before, {after.map50_95:.4f} after: {-accuracy.drop:+.2f} points "
            f"({-accuracy.max_drop:+.2f} allowed); mAP50 {before.map50:.4f}, {after.map50:.4f}",
        ],
        [
            "judged by",
            f"{accuracy.held_out_images} images held out, against {accuracy.reference}"
            + ("" if accuracy.reference == "labels" else ", both models on mirrored images"),
        ],
    ]
    if accuracy.precision == "int8":
        kept = "reused" if accuracy.calibration_reused else "made"
        errors = ", ".join(f"{one.method} {one.error:.3f}" for one in accuracy.methods)
        rows += [
            [
                "calibration",
                f"{accuracy.method}, {accuracy.calibration_images} images, {kept}; errors: {errors}",
            ],
            ["int8", f"{accuracy.int8_share:.1%} of the multiply-accumulates, for {accuracy.target}"],
        ]
    if accuracy.speedup is not None:
        rows.append(["speed", speed_in_words(accuracy.speedup, accuracy.instructions)])
    ratio = accuracy.bytes_after / accuracy.bytes_before
    return [
        *rows,
        [
            "size",
            f"{accuracy.bytes_after / 1e6:.1f} MB, {ratio:.2f} of FP32's {accuracy.bytes_before / 1e6:.1f}",
        ],
    ]


def _show_kept(accuracy: PrecisionReport) -> None:
    from trt_yolo.cli.render import print_table

    rows = [
        [
            one.name,
            one.precision,
            one.reason,
            f"{one.macs_share:.1%}",
            "" if one.error is None else f"{one.error:.4f}",
        ]
        for one in accuracy.kept
    ]
    title = f"layers not in {accuracy.precision}"
    print_table(title, ["layer", "is", "why", "work", "error alone"], rows, numbers=2)
