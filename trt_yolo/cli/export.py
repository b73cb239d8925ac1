"""`trt-yolo export`: parse, call `export_model`, show the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, cast

import typer

if TYPE_CHECKING:
    from trt_yolo.export.exporting import ExportReport

_CHECK_IMAGES = 16

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
    opset: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="ONNX operator set, 13 to 21.", show_default="19"),
    ] = None,
    rows: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Candidates that NMS sees, and rows of the result.", show_default="512, or fewer"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the artifacts.")] = Path("engines"),
    exporter: Annotated[
        str, typer.Option(help="auto, native (no torch) or ultralytics (every architecture).")
    ] = "auto",
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Images for the parity check, at most 16: a file, folder or glob.",
            show_default="demo scenes",
        ),
    ] = None,
    check: Annotated[bool, typer.Option(help="Check the deploy graph against the head graph.")] = True,
    trust: Annotated[
        bool, typer.Option("--trust", help="Let Ultralytics run the code in this checkpoint's pickle.")
    ] = False,
    json_line: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show what Ultralytics prints.")] = False,
) -> None:
    """Export a YOLOv8 checkpoint to a deploy graph: uint8 frames in, detections out."""
    from trt_yolo.cli.render import print_json
    from trt_yolo.export.exporting import Exporter, ExportOptions, export_model
    from trt_yolo.media.images import find_images
    from trt_yolo.shapes import parse_batch, parse_imgsz

    options = ExportOptions(
        imgsz_hw=None if imgsz is None else parse_imgsz(imgsz),
        batch=None if batch is None else parse_batch(batch),
        head=head,
        opset=opset,
        rows=rows,
        exporter=cast("Exporter", exporter),
        check_images=[] if data is None else find_images([data])[:_CHECK_IMAGES],
        check=check,
        trust=trust,
        verbose=verbose,
    )
    report = export_model(_checkpoint(model), out=out, options=options)
    _show(report)
    if json_line:
        print_json(report.to_dict())


def _checkpoint(model: str | None) -> Path:
    """The model's file, with a progress bar where it must be downloaded."""
    from trt_yolo.cli.render import progress_bar
    from trt_yolo.export.weights import find_weights

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
    if parity is not None:
        rows.append(
            [
                "check",
                f"{parity.detections} detections on {parity.images} images: boxes within "
                f"{parity.worst_box_px:.2g} px, scores within {parity.worst_score:.2g} of the head graph",
            ]
        )
    rows += [["wrote", f"{one.path} ({one.bytes / 1e6:.1f} MB)"] for one in report.artifacts]
    print_table("export", ["what", "is"], rows)
