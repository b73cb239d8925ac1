"""The options of `trt-yolo bench`, in groups that say what each of them asks of a bench."""
# ruff: noqa: UP045  typer reads these annotations at run time, on Python 3.10 too: Optional, not `| None`

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from trt_yolo.cli.options import (
    CORES_DIVIDED,
    STREAMS,
    THREADS,
    TWO_STREAMS,
    WORKERS,
    DeviceOptions,
)
from trt_yolo.errors import InputError
from trt_yolo.runtime.options import RuntimeOptions

if TYPE_CHECKING:
    from trt_yolo.bench.loads import Scenario, ScenarioName
    from trt_yolo.bench.measure import Schedule
    from trt_yolo.bench.subject import Layout
    from trt_yolo.runtime.results import Policy

_SECONDS = 5.0


def _swept(text: str, default: str) -> Any:
    """An option that takes a list, such as 1,2; of several such lists each combination is a setting."""
    return typer.Option(help=f"{text.removesuffix('.')}; several make a sweep.", show_default=default)


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """Under which loads, with which images, for how long."""

    scenario: Annotated[
        Optional[str],
        typer.Option(help="The load as an option, such as 'cameras 4'.", show_default="as above"),
    ] = None
    data: Annotated[
        Optional[str], typer.Option(help="Images: a file, folder or glob.", show_default="demo scenes")
    ] = None
    duration: Annotated[
        Optional[float],
        typer.Option(
            "--duration",
            "--seconds",
            help="Seconds for each scope of each load, at least.",
            show_default="5; with --runtime 120",
        ),
    ] = None
    min_count: Annotated[int, typer.Option(help="Queries of each scope of each load, at least.")] = 30
    scope: Annotated[
        str, typer.Option(help="e2e: files to detections; infer: slot to slot; engine: the bare backend.")
    ] = "e2e,infer,engine"
    rate: Annotated[
        Optional[float], typer.Option(help="server: arrivals a second, at random moments (Poisson).")
    ] = None
    find_rate: Annotated[
        bool, typer.Option("--find-rate", help="server: search the highest rate that keeps --p99.")
    ] = False
    p99: Annotated[
        Optional[str],
        typer.Option(help="What p99 may be, such as 20ms: of --find-rate, and of a sweep."),
    ] = None
    fps: Annotated[float, typer.Option(help="cameras: frames a second of each.")] = 25.0
    policy: Annotated[str, typer.Option(help="cameras: drop-oldest or drop-newest.")] = "drop-oldest"
    seed: Annotated[int, typer.Option(help="Of arrivals, and of which worker is killed.")] = 0
    kill_worker_every: Annotated[
        Optional[float], typer.Option(help="Kill a worker every so many seconds, and say what that costs.")
    ] = None

    runtime: Annotated[
        bool,
        typer.Option("--runtime", help="Measure the runtime itself instead: its ring, latency, memory."),
    ] = False

    @property
    def schedule(self) -> Schedule:
        """For how long."""
        from trt_yolo.bench.measure import Schedule

        return Schedule(
            seconds=_SECONDS if self.duration is None else self.duration, min_count=self.min_count
        )

    @property
    def p99_ms(self) -> float | None:
        """What p99 may be, in milliseconds."""
        from trt_yolo.bench.options import milliseconds_of

        return None if self.p99 is None else milliseconds_of(self.p99, "--p99")

    def scenarios(self, loads: Sequence[tuple[ScenarioName, int]]) -> tuple[Scenario, ...]:
        """The loads that were named, each once."""
        from trt_yolo.bench.loads import Scenario

        names = [name for name, _ in loads]
        if (self.rate is not None or self.find_rate) and "server" not in names:
            option = "--rate" if self.rate is not None else "--find-rate"
            raise InputError(
                f"{option} is for the scenario server; add it: trt-yolo bench MODEL server {option} ..."
            )
        if self.rate is not None and self.find_rate:
            raise InputError("--rate and --find-rate do not go together; leave one of them out")
        return tuple(
            Scenario(name=name, count=count, rate=self.rate, fps=self.fps, policy=_policy(self.policy))
            for name, count in dict.fromkeys(loads)
        )


@dataclass(frozen=True, kw_only=True)
class SweepOptions:
    """How models are laid out: one setting, or every combination of lists. See `RuntimeOptions`."""

    batch: Annotated[
        Optional[str],
        typer.Option(
            help="Images a batch; several, such as 1,2,4, make a sweep.", show_default="the smallest"
        ),
    ] = None
    workers: Annotated[Optional[str], _swept(WORKERS, "0")] = None
    threads: Annotated[Optional[str], _swept(THREADS, CORES_DIVIDED)] = None
    streams: Annotated[Optional[str], _swept(STREAMS, TWO_STREAMS)] = None
    decode_threads: Annotated[
        Optional[int],
        typer.Option(help="Threads that decode and letterbox.", show_default="half of the cores, 2 to 8"),
    ] = None
    graphs: Annotated[bool, typer.Option(help="Whether a GPU's batches are captured as graphs.")] = (
        RuntimeOptions.graphs
    )

    def layouts(self, device: DeviceOptions) -> tuple[Layout, ...]:
        """Every combination."""
        from trt_yolo.bench.options import layouts_of, numbers_of

        common = RuntimeOptions(**device.keywords())
        return layouts_of(
            batches=[None] if self.batch is None else numbers_of(self.batch, "--batch"),
            workers=[RuntimeOptions.workers]
            if self.workers is None
            else numbers_of(self.workers, "--workers"),
            threads=[None] if self.threads is None else numbers_of(self.threads, "--threads"),
            streams=[None] if self.streams is None else numbers_of(self.streams, "--streams"),
            common=replace(common, decode_threads=self.decode_threads, graphs=self.graphs),
        )


@dataclass(frozen=True, kw_only=True)
class ComparisonOptions:
    """What models are compared with."""

    peers: Annotated[
        Optional[str], typer.Option(help="With offline: others on the same images, all or names.")
    ] = None
    baseline: Annotated[
        Optional[Path],
        typer.Option(
            help="An earlier --json result; exit code 3 if anything is slower by more than --tolerance."
        ),
    ] = None
    tolerance: Annotated[str, typer.Option(help="What nobody minds in a comparison.")] = "5%"

    @property
    def peer_names(self) -> tuple[str, ...]:
        """The names of peers, or `all`."""
        return tuple(part.strip() for part in (self.peers or "").split(",") if part.strip())


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """What is written."""

    samples: Annotated[Optional[Path], typer.Option(help="Write every raw sample to this CSV file.")] = None
    csv: Annotated[
        Optional[Path], typer.Option(help="Write the figures to this CSV file, a row for each scope.")
    ] = None
    html: Annotated[Optional[Path], typer.Option(help="Write a page with plots to this file.")] = None
    json_line: Annotated[bool, typer.Option("--json", help="Only the line of JSON.")] = False

    def check(self) -> None:
        """Refuses before anything is measured what could not be written afterwards."""
        from trt_yolo.bench.page import check_plots
        from trt_yolo.system.paths import why_not_writable

        for option, path in (("--samples", self.samples), ("--csv", self.csv), ("--html", self.html)):
            if path is not None and option == "--html":
                check_plots()
            reason = None if path is None else why_not_writable(path)
            if reason is not None:
                raise InputError(
                    f"{option} {path} {reason}; give the name of a file in a folder that you may write to"
                )

    def check_no_input(self, inputs: Sequence[str | Path | None]) -> None:
        """Refuses to write over what is read."""
        from trt_yolo.artifacts.files import check_no_input

        for path in filter(None, (self.samples, self.csv, self.html)):
            check_no_input(path, inputs)


def _policy(text: str) -> Policy:
    if text not in ("drop-oldest", "drop-newest"):
        raise InputError(f"no policy {text!r} for cameras; give drop-oldest or drop-newest")
    return text  # type: ignore[return-value]  # it is one of them
