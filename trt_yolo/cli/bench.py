"""`trt-yolo bench`: measure models under loads; tables, or one line of JSON."""
# ruff: noqa: UP045  typer reads these annotations at run time, on Python 3.10 too: Optional, not `| None`

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from trt_yolo.cli.bench_options import ComparisonOptions, LoadOptions, OutputOptions, SweepOptions
from trt_yolo.cli.options import DeviceOptions, with_groups
from trt_yolo.errors import InputError

if TYPE_CHECKING:
    from trt_yolo.bench.bench import Bench
    from trt_yolo.bench.loads import ScenarioName
    from trt_yolo.bench.measure import Reading
    from trt_yolo.bench.options import BenchOptions
    from trt_yolo.bench.report import Report

_REGRESSED = 3
_INTERRUPTED = 130


@with_groups
def bench(
    load: LoadOptions,
    sweep: SweepOptions,
    device: DeviceOptions,
    comparison: ComparisonOptions,
    output: OutputOptions,
    words: Annotated[
        Optional[list[str]],
        typer.Argument(
            metavar="[MODEL...] [SCENARIO [N]]",
            help="Models: .onnx, .engine; a .pt or a name is exported first; none: the demo model. "
            "Loads: single-stream, multi-stream N, server, offline, cameras N; none: single-stream and offline.",
        ),
    ] = None,
) -> None:
    """Measure what the whole pipeline does, what the bare engine does, and what stands between them."""
    import tempfile

    from trt_yolo.bench.loads import scenario_words, split_words

    given = list(words or []) + ([] if load.scenario is None else scenario_words(load.scenario))
    models, loads = split_words(given)
    if load.runtime:
        from trt_yolo.cli.bench_runtime import bench_runtime

        bench_runtime(models, loads, load, sweep, device, only_json=output.json_line)
        return
    options = _options(models, loads, load, sweep, device, comparison)
    output.check()
    with tempfile.TemporaryDirectory(prefix="trt-yolo-") as folder:
        paths, source = _images(load.data, Path(folder), options)
        manifests = [f"{one}.json" for one in models]
        output.check_no_input([*models, *manifests, load.data, comparison.baseline, *paths])
        under_way, report = _measured(options, paths, source)
    _show(report, only_json=output.json_line)
    _write(report, under_way, output)
    _end(report, under_way.failure)


def _options(
    models: list[str],
    loads: list[tuple[ScenarioName, int]],
    load: LoadOptions,
    sweep: SweepOptions,
    device: DeviceOptions,
    comparison: ComparisonOptions,
) -> BenchOptions:
    from trt_yolo.bench.options import BenchOptions, scopes_of, share_of

    return BenchOptions(
        models=tuple(models) or (None,),
        scenarios=load.scenarios(loads),
        layouts=sweep.layouts(device),
        scopes=scopes_of(load.scope),
        schedule=load.schedule,
        seed=load.seed,
        find_rate=load.find_rate,
        p99_ms=load.p99_ms,
        peers=comparison.peer_names,
        baseline=comparison.baseline,
        tolerance=share_of(comparison.tolerance, "--tolerance"),
        kill_every_s=load.kill_worker_every,
    )


def _images(data: str | None, folder: Path, options: BenchOptions) -> tuple[list[Path], str]:
    """Images to measure with, and where they came from."""
    from trt_yolo.bench.images import (
        DEMO_SIDE,
        SCENE_SIDE,
        readable,
        source_size_of,
        write_frames,
        write_scenes,
    )
    from trt_yolo.cli.render import warn

    if data is not None:
        return readable(data, warn), data
    frame_hw = source_size_of(options.models[0])
    if frame_hw is not None:
        return write_frames(folder, frame_hw), f"demo scenes as frames of {frame_hw[0]}x{frame_hw[1]}"
    side = DEMO_SIDE if options.models == (None,) else SCENE_SIDE
    return write_scenes(folder, (side, side)), f"demo scenes, {side}x{side}"


def _measured(options: BenchOptions, paths: list[Path], source: str) -> tuple[Bench, Report]:
    from trt_yolo.bench.bench import Bench
    from trt_yolo.cli.render import warn

    command = shlex.join(["trt-yolo", *sys.argv[1:]])
    if options.kill_every_s is not None:  # what it does on purpose it need not warn of
        logging.getLogger("trt_yolo.runtime.supervisor").setLevel(logging.ERROR)
    with _progress() as (say, on_start):
        under_way = Bench(
            options,
            paths,
            data=source,
            command=command,
            weights=_weights(options),
            say=say,
            on_start=on_start,
            on_note=warn,
        )
        return under_way, under_way.run()


def _weights(options: BenchOptions) -> Path | None:
    """The checkpoint of the first model, for peers; None where there is none, or nobody asked for peers."""
    from trt_yolo.artifacts.weights import find_weights

    model = options.models[0]
    is_artifact = model is not None and Path(model).suffix.lower() in (".onnx", ".engine", ".plan")
    return None if is_artifact or not options.peers else find_weights(model)


@contextlib.contextmanager
def _progress() -> Iterator[tuple[Callable[[Reading], None], Callable[[str], None]]]:
    """A bar on stderr: what is measured, how far it is, and the last figure of each thing."""
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn

    from trt_yolo.cli.render import progress_bar

    columns = (
        TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[figures]}"), TimeElapsedColumn()
    )  # fmt: skip
    with progress_bar(*columns) as bar:
        task = bar.add_task("loading", total=1.0, figures="")
        last: dict[str, str] = {}

        def on_start(what: str) -> None:
            last.clear()
            bar.update(task, description=what, completed=0.0, figures="")

        def say(reading: Reading) -> None:
            mark = " (warm-up)" if reading.is_warm_up else ""
            last[reading.name] = f"{reading.name} {reading.images_per_s:.1f}{mark}"
            bar.update(task, completed=reading.share, figures=" · ".join(last.values()) + " images/s")

        yield say, on_start


def _show(report: Report, *, only_json: bool) -> None:
    from trt_yolo.bench.tables import notes_of, tables_of
    from trt_yolo.cli.render import print_json, print_table, printable

    if only_json:
        print_json(report.to_dict())
        return
    if report.partial:
        typer.echo("PARTIAL: interrupted; what follows was measured until then")
    for table in tables_of(report):
        print_table(table.title, table.columns, table.rows, numbers=table.numbers)
    for line in (*notes_of(report), *report.advice):
        typer.echo(printable(line))


def _write(report: Report, under_way: Bench, output: OutputOptions) -> None:
    """Writes the files that were asked for; the result has been printed by then."""
    from trt_yolo.artifacts.files import write_files
    from trt_yolo.bench.page import page_of
    from trt_yolo.bench.tables import write_csv, write_samples

    writers: list[tuple[Path | None, Callable[[Path], None]]] = [
        (output.samples, lambda path: write_samples(path, under_way.windows())),
        (output.csv, lambda path: write_csv(path, report)),
        (output.html, lambda path: write_files({path: page_of(report.to_dict()).encode()})),
    ]
    for path, write in writers:
        try:
            if path is not None:
                write(path)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; the result is printed above") from error


def _end(report: Report, failure: Exception | None) -> None:
    """Ends with the exit code of what was measured, or with what has stopped it."""
    if failure is not None:
        raise failure
    if report.partial:
        raise typer.Exit(_INTERRUPTED)
    if report.baseline is not None and report.baseline.regressed:
        raise typer.Exit(_REGRESSED)
