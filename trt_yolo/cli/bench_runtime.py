"""`trt-yolo bench --runtime`: what the runtime costs, beside its peers; a table, then one line of JSON."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trt_yolo.cli.options import spin_of
from trt_yolo.errors import InputError
from trt_yolo.hardware.cores import usable_cpus
from trt_yolo.runtime.options import RuntimeOptions

if TYPE_CHECKING:
    from trt_yolo.artifacts.manifest import Manifest
    from trt_yolo.bench.runtime import EndToEnd, RingCost
    from trt_yolo.cli.bench_options import LoadOptions, SweepOptions
    from trt_yolo.cli.options import DeviceOptions

_SECONDS = 120.0


def bench_runtime(
    models: list[str],
    loads: Sequence[object],
    load: LoadOptions,
    sweep: SweepOptions,
    device: DeviceOptions,
    *,
    only_json: bool,
) -> None:
    """Measures the ring, then the model from files to detections, and prints both."""
    from trt_yolo.bench.runtime import summary
    from trt_yolo.cli.render import print_json

    _refuse(models, loads=loads, batch=sweep.batch)
    model = models[0] if models else None
    workers, threads = _single(sweep.workers, "--workers"), _single(sweep.threads, "--threads")
    count = max(2, usable_cpus().count) if workers is None else workers
    options = RuntimeOptions(
        workers=count, threads=1 if threads is None else threads, spin=spin_of(device.spin)
    )
    time_s = _SECONDS if load.duration is None else load.schedule.seconds
    ring, end_to_end, manifest = _measured(model, load.data, options, time_s)
    if not only_json:
        _show(ring, end_to_end)
    print_json({**summary(ring, end_to_end), "model": model or "demo", "imgsz": list(manifest.imgsz_hw)})


def _measured(
    model: str | None, data: str | None, options: RuntimeOptions, time_s: float
) -> tuple[RingCost, EndToEnd, Manifest]:
    from trt_yolo.bench.runtime import bench_end_to_end, bench_ring
    from trt_yolo.cli.render import progress_bar
    from trt_yolo.loader import load, load_backend

    threads, spin = options.shares()[0][1], options.spin
    with contextlib.ExitStack() as stack:
        bare = stack.enter_context(load_backend(model, threads=threads, spin=spin))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="trt-yolo-"))
        paths = _images(model, data, bare.manifest, Path(folder))
        bar = stack.enter_context(progress_bar())
        task = bar.add_task("measuring", total=None)

        def say(what: str) -> None:
            bar.update(task, description=what)

        ring = bench_ring(say)
        batch = bare.manifest.batch.minimum
        loaded = stack.enter_context(
            load(model, workers=options.workers, threads=threads, max_batch=batch, spin=spin)
        )
        end_to_end = bench_end_to_end(
            loaded, bare, paths, weights=_weights(model), seconds=time_s, on_start=say
        )
        return ring, end_to_end, bare.manifest


def _images(model: str | None, data: str | None, manifest: Manifest, folder: Path) -> list[Path]:
    from trt_yolo.bench.images import readable, write_scenes
    from trt_yolo.cli.render import warn

    if manifest.source_hw is not None:
        raise InputError(
            f"--runtime measures letterboxing too, and {model} has its letterbox in the graph; "
            "give a model that was exported without --letterbox gpu"
        )
    paths = write_scenes(folder, manifest.imgsz_hw) if data is None else readable(data, warn)
    if not paths:
        raise InputError("no image to measure with; give a folder of images with --data")
    return paths


def _single(text: str | None, option: str) -> int | None:
    from trt_yolo.bench.options import numbers_of

    if text is None:
        return None
    if text.strip().lstrip("-").isdecimal():
        return int(text)
    found = numbers_of(text, option)
    if len(found) > 1:
        raise InputError(f"{option} {text} makes a sweep, which --runtime does not; give one number")
    return found[0]


def _refuse(models: list[str], *, loads: object, batch: str | None) -> None:
    from trt_yolo.loader import is_engine

    if any(is_engine(model) for model in models):
        raise InputError(
            f"--runtime divides the cores of a CPU, and {models[0]} is an engine; leave --runtime out"
        )
    if len(models) > 1:
        raise InputError("--runtime takes one model; leave --runtime out to compare several")
    if loads:
        raise InputError("--runtime has a load of its own; leave the scenario out")
    if batch is not None:
        raise InputError("--batch does not go with --runtime, which uses the model's smallest; leave it out")


def _weights(model: str | None) -> Path | None:
    """The checkpoint that peers can load too; None for a graph, which they cannot."""
    from trt_yolo.artifacts.weights import find_weights
    from trt_yolo.cli.render import warn

    if model is not None and Path(model).suffix.lower() == ".onnx":
        warn("peers need the checkpoint: give the .pt instead of the .onnx to compare with Ultralytics")
        return None
    return find_weights(model)


def _show(ring: RingCost, end_to_end: EndToEnd) -> None:
    from trt_yolo.bench.runtime import IMGSZ, RING_BATCH, SLOTS
    from trt_yolo.cli.render import print_table

    print_table(
        f"the ring: 1 worker that computes nothing, {IMGSZ}x{IMGSZ}, {SLOTS} slots of {RING_BATCH} frames",
        ["what", "measured", "ring is, times"],
        _ring_rows(ring),
        numbers=2,
    )
    print_table(
        f"files to detections: {end_to_end.workers} workers, {end_to_end.threads} threads each",
        ["what", "images/s", "trt-yolo is, times"],
        [
            [name, "not measured" if rate is None else f"{rate:.1f}", "" if ratio is None else f"{ratio:.2f}"]
            for name, rate, ratio in _rates(end_to_end)
        ],
        numbers=2,
    )


def _ring_rows(ring: RingCost) -> list[list[str]]:
    from trt_yolo.bench.runtime import MEMORY_FRAMES

    growth = f"{ring.rss_slope_bytes_per_frame:.1f} bytes/frame, {ring.rss_growth_bytes / 1e3:.0f} KB in all"
    return [
        ["through the ring", f"{ring.frames_per_s:.0f} frames/s", "1"],
        [
            "bare copy into the same slots",
            f"{ring.copy_frames_per_s:.0f} frames/s",
            f"{ring.ring_vs_copy:.2f}",
        ],
        ["pickled through a Queue", f"{ring.queue_frames_per_s:.0f} frames/s", f"{ring.ring_vs_queue:.1f}"],
        ["plain call, one frame, p50", f"{ring.plain_latency_ms:.3f} ms", ""],
        ["a worker adds, p50", f"{ring.added_latency_ms:.3f} ms", ""],
        [f"memory grows, {MEMORY_FRAMES} frames", growth, ""],
        ["shared memory: slots x (frames + rows)", f"{ring.shared_memory_bytes / 1e6:.1f} MB", ""],
    ]


def _rates(end_to_end: EndToEnd) -> list[tuple[str, float | None, float | None]]:
    """What was measured, images/s, and how many times that trt-yolo is."""
    return [
        ("trt-yolo", end_to_end.images_per_s, 1.0),
        (
            "limit: workers / (infer + decode + letterbox)",
            end_to_end.limit_images_per_s,
            end_to_end.e2e_vs_limit,
        ),
        (
            "Ultralytics predict, its ONNX export",
            end_to_end.ultralytics_images_per_s,
            end_to_end.e2e_vs_ultralytics,
        ),
        ("as many Ultralytics processes and a Queue", end_to_end.seed_images_per_s, end_to_end.e2e_vs_seed),
    ]
