"""`trt-yolo bench`: measure a model on real images; a table, then one line of JSON."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from trt_yolo.cli.bench_runtime import bench_runtime

if TYPE_CHECKING:
    from trt_yolo.bench.comparison import Comparison
    from trt_yolo.bench.measure import BenchResult

_SECONDS = 10.0


def bench(
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            help="An .onnx or an .engine; a .pt or a name is exported first; nothing: the demo model."
        ),
    ] = None,
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Images: a file, folder or glob.", show_default="demo scenes"),
    ] = None,
    seconds: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="How long to measure, warm-up not counted.", show_default="10; with --runtime 240"),
    ] = None,
    batch: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Images a call.", show_default="the smallest the model takes"),
    ] = None,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="Worker processes; 0: this process.", show_default="0; with --runtime one a core, at least 2"
        ),
    ] = None,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="CPU threads of one inference.", show_default="the cores, divided"),
    ] = None,
    runtime: Annotated[
        bool,
        typer.Option(
            "--runtime",
            help="Measure the runtime itself: its ring, latency, memory, and peers on the same images.",
        ),
    ] = False,
    against: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Another model, whose bare inference is measured in turn with this one's."),
    ] = None,
    json_line: Annotated[bool, typer.Option("--json", help="Only the line of JSON.")] = False,
) -> None:
    """Measure images/s and latency from files to detections, and the bare model in the same run."""
    import tempfile
    from dataclasses import asdict

    from trt_yolo.bench.comparison import compare_models
    from trt_yolo.bench.measure import bench_model, check_bench, write_scenes
    from trt_yolo.cli.render import print_json, progress_bar
    from trt_yolo.loading import load, load_backend, threads_of_worker

    if runtime:
        _refuse(model, batch, against)
        bench_runtime(model, data, seconds=seconds, workers=workers, threads=threads, only_json=json_line)
        return
    with contextlib.ExitStack() as stack:
        own_threads = threads_of_worker(workers or 0, threads)
        backend = stack.enter_context(load_backend(model, threads=own_threads))
        other = None if against is None else stack.enter_context(load_backend(against, threads=own_threads))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trt-yolo-"))
        manifest = backend.manifest
        paths = write_scenes(Path(folder), manifest.imgsz_hw) if data is None else readable(data)
        size = manifest.batch.minimum if batch is None else batch
        time_s = _SECONDS if seconds is None else seconds
        check_bench(backend, paths, size, time_s)
        if other is not None:
            check_bench(other, paths, size, time_s)
        loaded = stack.enter_context(load(model, workers=workers or 0, threads=threads, max_batch=size))
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("measuring", total=1.0)
        result = bench_model(
            loaded,
            backend,
            paths,
            batch=size,
            seconds=time_s,
            progress=lambda share: bar.update(task, completed=share),
        )
        comparison = (
            None if other is None else compare_models(backend, other, paths, batch=size, seconds=time_s)
        )
    about = {
        "model": model or "demo",
        "imgsz": list(manifest.imgsz_hw),
        "precision": manifest.precision,
        "threads": loaded.threads,
    }
    beside = {} if comparison is None else {"against": {"model": against, **asdict(comparison)}}
    if not json_line:
        _show(result, about)
        if comparison is not None:
            _show_comparison(comparison, str(about["model"]), str(against))
    print_json({**result.to_dict(), **about, **beside})


def _show_comparison(comparison: Comparison, model: str, against: str) -> None:
    from trt_yolo.cli.render import print_table

    rows = [
        [model, f"{comparison.images_per_s:.1f} images/s"],
        [against, f"{comparison.other_images_per_s:.1f} images/s"],
        ["the first is", f"{comparison.ratio:.2f} times as fast"],
    ]
    print_table("bare inference, in turn", ["model", "measured"], rows, numbers=1)


def _refuse(model: str | None, batch: int | None, against: str | None) -> None:
    from trt_yolo.errors import InputError
    from trt_yolo.loading import is_engine

    if model is not None and is_engine(model):
        raise InputError(
            f"--runtime divides the cores of a CPU, and {model} is an engine; leave --runtime out"
        )

    if against is not None:
        raise InputError("--against does not go with --runtime, which has peers of its own; leave it out")
    if batch is not None:
        raise InputError("--batch does not go with --runtime, which uses the model's smallest; leave it out")


def readable(data: str) -> list[Path]:
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
        ["bare model, alone", f"{result.bare_images_per_s:.1f} images/s"],
        ["efficiency", f"{result.efficiency:.3f}"],
        ["latency p50 / p90 / p99", f"{latency.p50:.2f} / {latency.p90:.2f} / {latency.p99:.2f} ms"],
        ["decode", f"{stages.decode:.2f} ms/image"],
        ["letterbox", f"{stages.letterbox:.2f} ms/image"],
        ["waiting for a worker", f"{stages.queue:.2f} ms/image"],
        ["infer", f"{stages.infer:.2f} ms/batch"],
        ["post", f"{stages.post:.2f} ms/image"],
    ]
    title = (
        f"bench of {about['model']}: batch {result.batch}, {about['threads']} threads, {result.calls} calls"
    )
    print_table(title, ["what", "measured"], rows, numbers=1)
