"""`tools/gpu_check`: parse, run the parts, show and write what they found."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Optional

import typer

from gpu_checks.job import Job
from gpu_checks.page import page_from_record
from gpu_checks.record import Part, Record
from gpu_checks.running import SHARES, run_parts
from gpu_checks.table import show
from gpu_checks.wheels import NotInstalledError, install
from trt_yolo.bench.machine import machine_record
from trt_yolo.version import __version__

ROOT = Path(__file__).resolve().parent.parent.parent
_PRECISIONS = ("fp32", "fp16", "int8")

# typer reads these annotations at run time, on Python 3.10 too: Optional, not `| None`


def gpu_check(
    only: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help=f"Parts, such as parity,bench; of {', '.join(SHARES)}.", show_default="all"),
    ] = None,
    skip: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Parts to leave out."),
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A .pt, or a deploy .onnx.", show_default="the demo model"),
    ] = None,
    data: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="A folder of images or a data.yaml, for INT8 and for the bench.", show_default="demo scenes"
        ),
    ] = None,
    precisions: Annotated[str, typer.Option(help="What is built.")] = "fp32,fp16,int8",
    budget: Annotated[float, typer.Option(help="For all parts together, in seconds.")] = 570.0,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="Without a GPU: run on the processor what can be; marked so.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Short windows, few repetitions: shows that it works, not how fast it is."
        ),
    ] = False,
    work: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder for what is built, kept; used again by the next run.", show_default="a temporary one"
        ),
    ] = None,
    wheels: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="Folder of packages to install first, offline; large ones may be in pieces (split -d)."
        ),
    ] = None,
    json_path: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--json", help="Where the result goes.", show_default="tools/results/DEVICE-DATE.json"),
    ] = None,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Where the page goes.", show_default="beside the JSON"),
    ] = None,
) -> None:
    """Prove trt-yolo on this machine's GPU: builds, tests, parity, leaks, speed. Exit code 1 if anything failed.

    A goal of speed that is missed is shown as MISSED and is no failure. Each part is useful by itself; Ctrl-C keeps
    what was found.
    """
    names, wanted = _parts(only, skip), _precisions(precisions)
    if not 1 <= budget <= 86_400:
        _refuse(f"--budget {budget:g}; give seconds from 1 to 86400, such as 570")
    _check_there("--model", model)
    _check_there("--data", data)
    if wheels is not None:
        _install(wheels)
    machine = machine_record()
    if not machine["gpus"] and not rehearse:
        _refuse("no NVIDIA GPU answers here; see trt-yolo doctor, or add --rehearse to run what needs none")
    record = _record(machine, names, rehearse=rehearse, model=model)
    target = json_path or ROOT / "tools" / "results" / f"{_slug(record)}.json"
    page = html or target.with_suffix(".html")
    for path in (target, page):
        path.parent.mkdir(parents=True, exist_ok=True)
    folder = work.absolute() if work is not None else Path(tempfile.mkdtemp(prefix="trt-yolo-check-"))
    folder.mkdir(parents=True, exist_ok=True)
    job = Job(
        model=_absolute(model),
        data=_absolute(data),
        work=str(folder),
        rehearse=rehearse,
        quick=quick,
        precisions=wanted,
        deadline_s=0.0,
    )
    try:
        is_whole = _ran_to_the_end(job, record, target, page, budget_s=budget)
    finally:
        if work is None:
            shutil.rmtree(folder, ignore_errors=True)
    if not sys.stdout.isatty():
        os.environ.setdefault("COLUMNS", "160")
    show(record)
    typer.echo(f"wrote {target} and {page}")
    raise typer.Exit(int(not all(part.is_good for part in record.parts)) if is_whole else 130)


def _ran_to_the_end(job: Job, record: Record, target: Path, page: Path, *, budget_s: float) -> bool:
    """Runs the parts; False where Ctrl-C has ended them. Both files are written after each."""

    def keep(part: Part) -> None:
        record.partial = any(one.ending != "done" for one in record.parts)
        record.write(target)
        page.write_text(page_from_record(record), encoding="utf-8")
        said = f"{part.name}: {part.ending}, {len(part.rows)} rows, {part.seconds:.0f} s {part.error}"
        typer.echo(said.rstrip(), err=True)

    names = [part.name for part in record.parts]
    try:
        run_parts(
            names, job, record, budget_s=budget_s, done=keep, say=lambda text: typer.echo(text, err=True)
        )
    except KeyboardInterrupt:
        return False
    return True


def run() -> None:
    """The command line."""
    typer.run(gpu_check)


def _record(machine: dict[str, object], names: list[str], *, rehearse: bool, model: str | None) -> Record:
    gpus = machine["gpus"]
    assert isinstance(gpus, list)
    on_gpu = bool(gpus) and not rehearse
    return Record(
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        version=__version__,
        revision=_revision(),
        command=" ".join(sys.argv[1:]),
        rehearsal=not on_gpu,
        model=Path(model).name if model else "the demo model",
        device=str(gpus[0]["name"] if on_gpu else machine["cpu"] or "a processor without a name"),
        machine=machine,
        parts=[Part(name=name) for name in names],
    )


def _parts(only: str | None, skip: str | None) -> list[str]:
    asked = list(SHARES) if only is None else [one.strip().replace("-", "_") for one in only.split(",")]
    left_out = [] if skip is None else [one.strip().replace("-", "_") for one in skip.split(",")]
    for name in (*asked, *left_out):
        if name not in SHARES:
            _refuse(f"no part {name!r}; give of {', '.join(SHARES)}")
    names = [name for name in SHARES if name in asked and name not in left_out]
    if not names:
        _refuse("no part is left; give fewer with --skip")
    return names


def _precisions(text: str) -> tuple[str, ...]:
    given = tuple(dict.fromkeys(one.strip() for one in text.split(",")))
    for one in given:
        if one not in _PRECISIONS:
            _refuse(f"no precision {one!r}; give of {', '.join(_PRECISIONS)}")
    return given


def _check_there(option: str, path: str | None) -> None:
    if path is not None and not Path(path).exists():
        _refuse(f"{option} {path} is not there; give a path")


def _install(wheels: Path) -> None:
    if not wheels.is_dir():
        _refuse(f"--wheels {wheels} is no folder; give one of .whl and .tar.gz files")
    try:
        typer.echo(f"installed {', '.join(install(wheels))}", err=True)
    except NotInstalledError as error:
        _refuse(str(error))


def _absolute(path: str | None) -> str | None:
    return None if path is None else str(Path(path).absolute())


def _slug(record: Record) -> str:
    device = re.sub(r"[^a-z0-9]+", "-", record.device.lower()).strip("-")[:40].strip("-")
    rehearsal = "rehearsal-" if record.rehearsal else ""
    return f"{rehearsal}{device}-{record.created[:10]}"


def _revision() -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],  # noqa: S607
            capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def _refuse(message: str) -> None:
    typer.echo(f"error: {message}", err=True)
    raise typer.Exit(1)
