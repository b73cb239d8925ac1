"""`trt-yolo bench`: measure a model on real images; a table, then one line of JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from trt_yolo.bench.measure import BenchResult


def bench(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(help="An exported .onnx; a .pt or a name is exported first; nothing: the demo model."),
    ] = None,
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Images: a file, folder or glob.", show_default="demo scenes"),
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long to measure, warm-up not counted.")] = 10.0,
    batch: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Images a call.", show_default="the smallest the model takes"),
    ] = None,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="CPU threads of one inference.", show_default="all"),
    ] = None,
    json_line: Annotated[bool, typer.Option("--json", help="Only the line of JSON.")] = False,
) -> None:
    """Measure images/s and latency from files to detections, and bare ONNX Runtime in the same run."""
    import tempfile

    from trt_yolo.bench.measure import bench_backend, write_scenes
    from trt_yolo.cli.render import print_json, progress_bar
    from trt_yolo.loading import load_backend

    with (
        load_backend(model, threads=threads) as backend,
        tempfile.TemporaryDirectory(prefix="trt-yolo-") as folder,
        progress_bar() as bar,
    ):
        paths = write_scenes(Path(folder), backend.manifest.imgsz_hw) if data is None else _readable(data)
        task = bar.add_task("measuring", total=1.0)
        result = bench_backend(
            backend,
            paths,
            batch=backend.manifest.batch.minimum if batch is None else batch,
            seconds=seconds,
            progress=lambda share: bar.update(task, completed=share),
        )
        manifest = backend.manifest
    about = {
        "model": model or "demo",
        "imgsz": list(manifest.imgsz_hw),
        "precision": manifest.precision,
        "threads": backend.threads,
    }
    if not json_line:
        _show(result, about)
    print_json({**result.to_dict(), **about})


def _readable(data: str) -> list[Path]:
    """The images that can be read; the others are reported and left out."""
    from trt_yolo.cli.render import warn
    from trt_yolo.errors import ImageError
    from trt_yolo.media.images import find_images, read_image

    paths = []
    for path in find_images([data]):
        try:
            read_image(path)
        except ImageError as error:
            warn(f"{error} (left out)")
        else:
            paths.append(path)
    return paths


def _show(result: BenchResult, about: dict[str, object]) -> None:
    from trt_yolo.cli.render import print_table

    stages, latency = result.stages_ms, result.latency_ms
    rows = [
        ["files to detections", f"{result.images_per_s:.1f} images/s"],
        ["bare ONNX Runtime", f"{result.bare_images_per_s:.1f} images/s"],
        ["efficiency", f"{result.efficiency:.3f}"],
        ["latency p50 / p90 / p99", f"{latency.p50:.2f} / {latency.p90:.2f} / {latency.p99:.2f} ms"],
        ["decode", f"{stages.decode:.2f} ms/image"],
        ["letterbox", f"{stages.letterbox:.2f} ms/image"],
        ["infer", f"{stages.infer:.2f} ms/image"],
        ["post", f"{stages.post:.2f} ms/image"],
    ]
    title = (
        f"bench of {about['model']}: batch {result.batch}, {about['threads']} threads, {result.calls} calls"
    )
    print_table(title, ["what", "measured"], rows, numbers=1)
