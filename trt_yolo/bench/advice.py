"""What follows from a bench, in words: which setting, how many cores, what to look at next.

Enters: a report. Leaves: lines. Every number in them is one of the report's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from trt_yolo.bench.figures import Figures
from trt_yolo.bench.report import Report, Run
from trt_yolo.bench.statistics import Ratio

_NEAR = 0.9


def advice_for(report: Report) -> Iterator[str]:
    """Lines for a person, the most important first."""
    if report.best is not None:
        yield from _best_setting(report)
    runs = [report.runs[report.best.throughput]] if report.best is not None else report.runs
    for run in runs:
        yield from _about_run(run, report, with_model=len({one.model.name for one in runs}) > 1)
    yield from _about_trust(report)


def _best_setting(report: Report) -> Iterator[str]:
    best = report.best
    assert best is not None
    fastest = report.runs[best.throughput]
    yield f"Most images/s: {_options(fastest)} ({_rate(fastest):.1f} images/s)."
    if best.limit_ms is None:
        return
    if best.latency is None:
        yield f"No setting keeps p99 within {best.limit_ms:g} ms; give a smaller batch, or fewer threads a worker."
    else:
        held = report.runs[best.latency]
        yield f"Within p99 of {best.limit_ms:g} ms: {_options(held)} ({_rate(held):.1f} images/s)."


def _options(run: Run) -> str:
    setting = run.setting
    parts = [f"--batch {setting.batch}", f"--workers {setting.workers}"]
    parts.append(
        f"--threads {setting.threads}" if setting.streams is None else f"--streams {setting.streams}"
    )
    return " ".join(parts)


def _rate(run: Run) -> float:
    return next(iter(run.scopes.values())).images_per_s


def _about_run(run: Run, report: Report, *, with_model: bool) -> Iterator[str]:
    prefix = f"{run.model.name}: " if with_model else ""
    if run.find_rate is not None:
        yield prefix + _about_rate(run)
    if run.recovery is not None:
        yield prefix + _about_recovery(run)
    name = run.scenario["name"]
    if name == "offline" and {"e2e", "engine"} <= set(run.scopes):
        yield from (prefix + line for line in _about_throughput(run, report))
    if name == "cameras":
        yield prefix + _about_cameras(run)


def _about_rate(run: Run) -> str:
    found = run.find_rate
    assert found is not None
    if found.rate is None:
        lowest = min(found.trials, key=lambda trial: trial.rate)
        p99 = f"{lowest.p99_ms:.4g} ms" if lowest.p99_ms is not None else "unknown"
        return f"No rate keeps p99 within {found.limit_ms:g} ms: at {lowest.rate:.3g} images/s it is {p99}."
    return f"Up to {found.rate:.4g} images/s arrive at random and p99 stays within {found.limit_ms:g} ms."


def _about_recovery(run: Run) -> str:
    recovery = run.recovery
    assert recovery is not None
    cost = (
        f"{100 * recovery.cost:.0f}% of the throughput" if recovery.cost is not None else "an unknown share"
    )
    ready = f"; another is ready after {recovery.ready_ms:.0f} ms" if recovery.ready_ms is not None else ""
    nothing = f"{recovery.lost} WERE LOST" if recovery.lost else "none was lost"
    failed = f", {recovery.errors} failed" if recovery.errors else ""
    return (
        f"Losing a worker every {recovery.every_s:g} s costs {cost}{ready}. {recovery.kills} were killed; "
        f"of {recovery.offered} images {nothing}{failed}."
    )


def _about_throughput(run: Run, report: Report) -> Iterator[str]:
    e2e, engine = run.scopes["e2e"], run.scopes["engine"]
    stages = e2e.stages_ms
    if stages is None or not e2e.images_per_s or any(ratio.is_error for ratio in run.ratios.values()):
        return
    host_ms = stages.decode + stages.letterbox
    if host_ms > 0:
        needed = host_ms * engine.images_per_s / 1e3
        yield (
            f"Decoding and letterboxing take {host_ms:.2f} ms an image: {_cores(needed)} to keep the bare engine's "
            f"{engine.images_per_s:.1f} images/s supplied."
        )
    yield _bottleneck(run, report)


def _cores(needed: float) -> str:
    whole = math.ceil(needed)
    return f"{needed:.2f} cores, so {whole} {'core' if whole == 1 else 'cores'}"


def _bottleneck(run: Run, report: Report) -> str:
    """Whichever of engine, decoding and the processor as a whole would be used up first."""
    e2e, engine, setting = run.scopes["e2e"], run.scopes["engine"], run.setting
    stages = e2e.stages_ms
    assert stages is not None
    share = e2e.images_per_s / engine.images_per_s
    host_ms = stages.decode + stages.letterbox
    decoding = setting.decode_threads * 1e3 / host_ms if host_ms > 0 else math.inf
    cores = float(report.machine.get("cores") or setting.decode_threads)
    if share >= _NEAR:
        return f"The bottleneck is the engine: the pipeline does {share:.2f} of what it does alone."
    if setting.streams is None:  # the engine runs on the same cores
        sessions = max(1, setting.workers)
        busy_ms = 1e3 * min(cores, sessions * setting.threads) / engine.images_per_s + host_ms + stages.post
        limit = cores * 1e3 / busy_ms
        return (
            f"The bottleneck is the processor: engine, decoding and post-processing together need "
            f"{busy_ms:.1f} ms of a core for each image, so {cores:g} cores do at most {limit:.1f} images/s; "
            f"{e2e.images_per_s:.1f} were reached."
        )
    if decoding < engine.images_per_s:
        return (
            f"The bottleneck is decoding: {setting.decode_threads} threads do {decoding:.0f} images/s, the engine "
            f"{engine.images_per_s:.0f}; give more with --decode-threads."
        )
    return (
        f"The pipeline does {share:.2f} of the bare engine, and decoding is not why: "
        "try more --streams, or --workers 2."
    )


def _about_cameras(run: Run) -> str:
    e2e = run.scopes.get("e2e")
    if e2e is None or e2e.latency_ms is None:
        return "No frame came through."
    dropped = f"{100 * e2e.drop_rate:.1f}% of the frames were dropped"
    age = f"those that came were {e2e.latency_ms.p50:.1f} ms old at p50, {e2e.latency_ms.p99:.1f} at p99"
    return f"{run.scenario['label']}: {dropped}; {age}."


def _about_trust(report: Report) -> Iterator[str]:
    for run in report.runs:
        for names, ratio in run.ratios.items():
            if ratio.is_error:
                yield _about_error(run, names, ratio)
    unsteady = [
        f"{run.scenario['label']} {name}"
        for run in report.runs
        for name, figures in run.scopes.items()
        if figures.throughput is not None
        and not figures.throughput.is_steady
        and not figures.latency_windows_ms
    ]
    if unsteady:
        worst = max(_spreads(report))
        yield (
            f"Windows disagree by up to {100 * worst:.0f}% ({', '.join(unsteady[:3])}"
            f"{', ...' if len(unsteady) > 3 else ''}): the machine is not quiet. Trust ratios, not single figures; "
            "a longer --duration narrows the intervals."
        )
    if any(figures.cut for run in report.runs for figures in run.scopes.values()):
        yield "Arrivals came faster than they could be answered, without end: the run was cut. Give a lower --rate."
    if any(_is_lost(figures) for run in report.runs for figures in run.scopes.values()):
        yield "Images were lost. That is a bug in trt-yolo: please report it with this result."


def _about_error(run: Run, names: str, ratio: Ratio) -> str:
    one, other = names.split("/")
    return (
        f"MEASUREMENT ERROR in {run.model.name}, {run.scenario['label']}: {one} came out {ratio.ratio:.2f} "
        f"[{ratio.low:.2f}, {ratio.high:.2f}] times as fast as {other}, which it contains. Other programs may have "
        "run meanwhile: measure again, with a longer --duration."
    )


def _spreads(report: Report) -> Iterator[float]:
    for run in report.runs:
        for figures in run.scopes.values():
            if figures.throughput is not None and not figures.latency_windows_ms:
                yield figures.throughput.spread


def _is_lost(figures: Figures) -> bool:
    return figures.lost > 0
