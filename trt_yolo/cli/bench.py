"""`trt-yolo bench`: measure models under loads; tables, or one line of JSON."""

from __future__ import annotations

import contextlib
import logging
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, cast

import typer

from trt_yolo.cli.bench_runtime import bench_runtime
from trt_yolo.cli.options import (
    DecoderOption,
    DevicesOption,
    ProviderOption,
    SpinOption,
    devices_of,
    spin_of,
)

if TYPE_CHECKING:
    from trt_yolo.backends.onnxruntime_providers import ProviderName
    from trt_yolo.bench.bench import Bench
    from trt_yolo.bench.loads import Scenario, ScenarioName
    from trt_yolo.bench.measure import Progress
    from trt_yolo.bench.options import BenchOptions
    from trt_yolo.bench.report import Report
    from trt_yolo.media.decoders import DecoderName
    from trt_yolo.runtime.results import Policy

_SECONDS = 5.0
_REGRESSED = 3
_INTERRUPTED = 130


def bench(
    words: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Argument(
            metavar="[MODEL...] [SCENARIO [N]]",
            help="Models: .onnx, .engine; a .pt or a name is exported first; none: the demo model. "
            "Loads: single-stream, multi-stream N, server, offline, cameras N; none: single-stream and offline.",
        ),
    ] = None,
    scenario: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The load as an option, such as 'cameras 4'.", show_default="as above"),
    ] = None,
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Images: a file, folder or glob.", show_default="demo scenes"),
    ] = None,
    duration: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--duration",
            "--seconds",
            help="Seconds for each scope of each load, at least.",
            show_default="5; with --runtime 120",
        ),
    ] = None,
    min_count: Annotated[int, typer.Option(help="Queries of each scope of each load, at least.")] = 30,
    scope: Annotated[
        str, typer.Option(help="e2e: files to detections; infer: slot to slot; engine: the bare backend.")
    ] = "e2e,infer,engine",
    rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="server: arrivals a second, at random moments (Poisson)."),
    ] = None,
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="server: search the highest rate that keeps --p99.")
    ] = False,
    p99: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What p99 may be, such as 20ms: of --find-rate, and of a sweep."),
    ] = None,
    fps: Annotated[float, typer.Option(help="cameras: frames a second of each.")] = 25.0,
    policy: Annotated[str, typer.Option(help="cameras: drop-oldest or drop-newest.")] = "drop-oldest",
    batch: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Images a batch; several, such as 1,2,4, make a sweep.", show_default="the smallest"
        ),
    ] = None,
    workers: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Worker processes, 0: this process; several make a sweep.", show_default="0"),
    ] = None,
    threads: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="CPU threads of one inference; several make a sweep.", show_default="the cores, divided"
        ),
    ] = None,
    streams: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Batches under way on a GPU at once; several make a sweep.", show_default="2"),
    ] = None,
    decode_threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Threads that decode and letterbox.", show_default="half of the cores, 2 to 8"),
    ] = None,
    devices: DevicesOption = "0",
    graphs: Annotated[bool, typer.Option(help="Whether a GPU's batches are captured as graphs.")] = True,
    provider: ProviderOption = "auto",
    spin: SpinOption = None,
    decoder: DecoderOption = "auto",
    peers: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="With offline: others on the same images, all or names."),
    ] = None,
    baseline: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="An earlier --json result; exit code 3 if anything is slower by more than --tolerance."
        ),
    ] = None,
    tolerance: Annotated[str, typer.Option(help="What nobody minds in a comparison.")] = "5%",
    kill_worker_every: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Kill a worker every so many seconds, and say what that costs."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of arrivals, and of which worker is killed.")] = 0,
    samples: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write every raw sample to this CSV file."),
    ] = None,
    csv: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write the figures to this CSV file, a row for each scope."),
    ] = None,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write a page with plots to this file."),
    ] = None,
    json_line: Annotated[bool, typer.Option("--json", help="Only the line of JSON.")] = False,
    runtime: Annotated[
        bool,
        typer.Option("--runtime", help="Measure the runtime itself instead: its ring, latency, memory."),
    ] = False,
) -> None:
    """Measure what the whole pipeline does, what the bare engine does, and what stands between them."""
    from trt_yolo.artifacts.files import check_no_input
    from trt_yolo.bench.loads import scenario_words, split_words
    from trt_yolo.bench.measure import Plan
    from trt_yolo.bench.options import (
        BenchOptions,
        layouts_of,
        milliseconds_of,
        numbers_of,
        scopes_of,
        share_of,
    )

    given = list(words or []) + (scenario_words(scenario) if scenario is not None else [])
    models, loads = split_words(given)
    if runtime:
        _refuse_with_runtime(models, loads=loads, batch=batch)
        model = models[0] if models else None
        only = {"workers": _single(workers, "--workers"), "threads": _single(threads, "--threads")}
        bench_runtime(model, data, seconds=duration, spin=spin_of(spin), only_json=json_line, **only)
        return
    options = BenchOptions(
        models=tuple(models) or (None,),
        scenarios=_scenarios(loads, rate=rate, fps=fps, policy=policy, find_rate=find_rate),
        layouts=layouts_of(
            batches=[None] if batch is None else list(numbers_of(batch, "--batch")),
            workers=[0] if workers is None else numbers_of(workers, "--workers"),
            threads=[None] if threads is None else list(numbers_of(threads, "--threads")),
            streams=[None] if streams is None else list(numbers_of(streams, "--streams")),
            decode_threads=decode_threads,
            devices=tuple(devices_of(devices)),
            graphs=graphs,
            provider=cast("ProviderName", provider),
            spin=spin_of(spin),
            decoder=cast("DecoderName", decoder),
        ),
        scopes=scopes_of(scope),
        plan=Plan(seconds=_SECONDS if duration is None else duration, min_count=min_count),
        seed=seed,
        find_rate=find_rate,
        p99_ms=None if p99 is None else milliseconds_of(p99, "--p99"),
        peers=_peers(peers),
        baseline=baseline,
        tolerance=share_of(tolerance, "--tolerance"),
        kill_every_s=kill_worker_every,
    )
    for path, option in ((samples, "--samples"), (csv, "--csv"), (html, "--html")):
        _check_writable(path, option)
    with tempfile.TemporaryDirectory(prefix="trt-yolo-") as folder:
        paths, source = _images(data, Path(folder), options)
        for path in filter(None, (samples, csv, html)):
            check_no_input(path, [*models, *(f"{one}.json" for one in models), data, baseline, *paths])
        under_way, report = _measured(options, paths, source)
    _show(report, only_json=json_line)
    _write(report, under_way, samples=samples, csv=csv, html=html)
    if under_way.failure is not None:
        raise under_way.failure
    if report.partial:
        raise typer.Exit(_INTERRUPTED)
    if report.baseline is not None and report.baseline.regressed:
        raise typer.Exit(_REGRESSED)


def _scenarios(
    loads: Sequence[tuple[ScenarioName, int]], *, rate: float | None, fps: float, policy: str, find_rate: bool
) -> tuple[Scenario, ...]:
    from trt_yolo.bench.loads import Scenario
    from trt_yolo.errors import InputError

    names = [name for name, _ in loads]
    if (rate is not None or find_rate) and "server" not in names:
        option = "--rate" if rate is not None else "--find-rate"
        raise InputError(
            f"{option} is for the scenario server; add it: trt-yolo bench MODEL server {option} ..."
        )
    if rate is not None and find_rate:
        raise InputError("--rate and --find-rate do not go together; leave one of them out")
    return tuple(
        Scenario(name=name, count=count, rate=rate, fps=fps, policy=_policy(policy))
        for name, count in dict.fromkeys(loads)
    )


def _policy(text: str) -> Policy:
    from trt_yolo.errors import InputError

    if text not in ("drop-oldest", "drop-newest"):
        raise InputError(f"no policy {text!r} for cameras; give drop-oldest or drop-newest")
    return text  # type: ignore[return-value]  # it is one of them


def _single(text: str | None, option: str) -> int | None:
    from trt_yolo.bench.options import numbers_of
    from trt_yolo.errors import InputError

    if text is None:
        return None
    if text.strip().lstrip("-").isdecimal():
        return int(text)
    found = numbers_of(text, option)
    if len(found) > 1:
        raise InputError(f"{option} {text} makes a sweep, which --runtime does not; give one number")
    return found[0]


def _refuse_with_runtime(models: list[str], *, loads: object, batch: str | None) -> None:
    from trt_yolo.errors import InputError
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


def _peers(text: str | None) -> tuple[str, ...]:
    return () if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _check_writable(path: Path | None, option: str) -> None:
    """Refuses before anything is measured what could not be written afterwards."""
    from trt_yolo.bench.page import check_plots
    from trt_yolo.errors import InputError
    from trt_yolo.system.paths import why_not_writable

    if path is None:
        return
    if option == "--html":
        check_plots()
    reason = why_not_writable(path)
    if reason is not None:
        raise InputError(
            f"{option} {path} {reason}; give the name of a file in a folder that you may write to"
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
def _progress() -> Iterator[tuple[Callable[[Progress], None], Callable[[str], None]]]:
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

        def say(progress: Progress) -> None:
            mark = " (warm-up)" if progress.is_warm_up else ""
            last[progress.name] = f"{progress.name} {progress.images_per_s:.1f}{mark}"
            bar.update(task, completed=progress.share, figures=" · ".join(last.values()) + " images/s")

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


def _write(
    report: Report, under_way: Bench, *, samples: Path | None, csv: Path | None, html: Path | None
) -> None:
    """Writes the files that were asked for; the result has been printed by then."""
    from trt_yolo.artifacts.files import write_files
    from trt_yolo.bench.page import page_of
    from trt_yolo.bench.tables import write_csv, write_samples
    from trt_yolo.errors import InputError

    writers: list[tuple[Path | None, Callable[[Path], None]]] = [
        (samples, lambda path: write_samples(path, under_way.windows())),
        (csv, lambda path: write_csv(path, report)),
        (html, lambda path: write_files({path: page_of(report.to_dict()).encode()})),
    ]
    for path, write in writers:
        try:
            if path is not None:
                write(path)
        except OSError as error:
            raise InputError(f"cannot write {path}: {error.strerror}; the result is printed above") from error
