"""Reports of benches that never ran, made of the real dataclasses from simulated queries; the same every time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trt_yolo.bench.figures import Figures, Stages, WarmUp, figures_of
from trt_yolo.bench.loads import Scenario
from trt_yolo.bench.report import (
    AgainstBaseline,
    Best,
    Compared,
    FoundRate,
    ModelFacts,
    Recovery,
    Report,
    Run,
    Setting,
    Trial,
)
from trt_yolo.bench.statistics import Ratio, ratio_of
from trt_yolo.bench.window import Query, Window
from trt_yolo.runtime.job import StageTimes

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&%{x}<b>$\\frac{a}{b}$\n\x1b[31m\udcff.onnx"
"""The name of a model, as a file may be called."""

_WARM_UP = WarmUp(seconds=1.4, windows=6, is_steady=True)
_PARTS = Stages(copy_in=0.4, engine=11.2, copy_out=0.3)
_MACHINE = {
    "cpu": "AMD EPYC 7B13",
    "cores": 2,
    "governor": "performance",
    "python": "3.11.7",
    "gpus": [{"name": "NVIDIA L4", "memory_mb": 23034, "driver": "570.86.15"}],
    "packages": {"onnxruntime": "1.23.0", "numpy": "2.3.1", "opencv-python": "4.12.0"},
    "steal": 0.0,
    "notes": ["the governor cannot be read"],
}


def model(name: str = "yolov8n.onnx", **more: Any) -> ModelFacts:
    """A model."""
    values: dict[str, Any] = {
        "name": name,
        "path": f"engines/{name}",
        "sha256": "5f2c" * 16,
        "graph": "deploy",
        "precision": "fp32",
        "imgsz": (640, 640),
        "map50_95": 0.3727,
    }
    return ModelFacts(**values | more)


def setting(**more: Any) -> Setting:
    """A setting."""
    values: dict[str, Any] = {"batch": 1, "workers": 0, "threads": 2, "decode_threads": 2}
    return Setting(**values | more)


def figures(
    ms: float,
    *,
    scenario: str = "offline",
    windows: int = 10,
    seconds: float = 1.0,
    noise: float = 0.012,
    tail: float = 0.1,
    drift: float = 0.0,
    seed: int = 0,
    images_per_query: int = 1,
    has_stages: bool = False,
    dropped: int = 0,
    watts: float | None = None,
) -> Figures:
    """What something did that takes so many milliseconds an image, by `figures_of` from simulated queries."""
    chance = np.random.default_rng(seed)
    seen = []
    for number in range(windows):
        level_ms = ms * (1 + drift * number / windows) * chance.normal(1.0, noise)
        latencies_ms = (
            level_ms * images_per_query * chance.lognormal(0.0, tail, max(2, int(seconds * 1e3 / ms)))
        )
        seen.append(_window(latencies_ms, 3.2 * number * seconds, images_per_query, scenario, has_stages))
    found = figures_of(seen, warm_up=_WARM_UP, began_s=0.0, parts=_PARTS, watts=watts)
    if dropped:
        values = {name: getattr(found, name) for name in found.__dataclass_fields__}
        found = Figures(**values | {"offered": found.images + dropped, "dropped": dropped})
    return found


def _window(
    latencies_ms: Sequence[float], start_s: float, images: int, scenario: str, has_stages: bool
) -> Window:
    ends_s = start_s + np.cumsum(latencies_ms) / 1e3
    queries = [
        Query(end_s - ms / 1e3, end_s - ms / 1e3, end_s, images)
        for ms, end_s in zip(latencies_ms, ends_s.tolist(), strict=True)
    ]
    wait_ms = 0.3 if scenario == "single-stream" else 2.6 * float(np.mean(latencies_ms))
    stages = StageTimes(
        decode=2.1, letterbox=0.6, queue=wait_ms, infer=0.92 * float(np.mean(latencies_ms)), post=0.25
    )
    return Window(
        started_s=start_s,
        seconds=float(ends_s[-1] - start_s),
        images=images * len(queries),
        queries=() if scenario == "offline" else queries,
        stages=stages if has_stages else None,
        ends_s=ends_s.tolist(),
    )


def run(
    scenario: Scenario,
    ms: float = 13.0,
    *,
    of: ModelFacts | None = None,
    at: Setting | None = None,
    peers: Mapping[str, float] | None = None,
    seed: int = 0,
    **more: Any,
) -> Run:
    """A run in which `engine` takes so many milliseconds, `infer` 2% more and `e2e` 7% more."""
    shared: dict[str, Any] = {"scenario": scenario.name, **more}
    e2e = figures(1.07 * ms, seed=seed, has_stages=True, **shared)
    if scenario.is_open:  # what could be served is measured apart
        shared = {}
    scopes = {
        "e2e": e2e,
        "infer": figures(1.02 * ms, seed=seed + 1, **shared),
        "engine": figures(ms, seed=seed + 2, **shared),
    }
    beside = {name: figures(its_ms, seed=seed + 3) for name, its_ms in (peers or {}).items()}
    return Run(
        model=of or model(),
        setting=at or setting(),
        scenario=scenario.to_dict(),
        scopes=scopes,
        peers=beside,
        ratios={
            **{f"e2e/{name}": _ratio(e2e, scopes[name]) for name in ("engine", "infer")},
            "infer/engine": _ratio(scopes["infer"], scopes["engine"]),
            **{f"e2e/{name}": _ratio(e2e, one) for name, one in beside.items()},
        },
    )


def _ratio(one: Figures, other: Figures) -> Ratio:
    assert one.throughput is not None
    assert other.throughput is not None
    ratio = ratio_of(one.throughput.windows, other.throughput.windows)
    assert ratio is not None
    return ratio


def report(*runs: Run, **more: Any) -> Report:
    """A report of runs."""
    values: dict[str, Any] = {
        "created": "2026-07-14T09:30:00+00:00",
        "version": "0.1.0",
        "command": "trt-yolo bench engines/yolov8n.onnx --html report.html",
        "seed": 0,
        "images": 32,
        "data": "demo scenes, 640x640",
        "machine": _MACHINE,
        "yardstick": (1812.0, 1790.4, 1821.9, 1808.2),
        "runs": runs,
    }
    return Report(**values | more)


SINGLE_STREAM, OFFLINE = Scenario(name="single-stream"), Scenario(name="offline")


def single() -> Report:
    """One run, throughput only."""
    return report(run(OFFLINE))


def two_scenarios() -> Report:
    """Latency and throughput, as a bench measures by default."""
    advice = (
        "Decoding and letterboxing take 2.70 ms an image: 0.21 cores, so 1 core to keep the bare engine's "
        "76.9 images/s supplied.",
        "The bottleneck is the engine: the pipeline does 0.93 of what it does alone.",
    )
    return report(
        run(SINGLE_STREAM, tail=0.18, images_per_query=1), run(OFFLINE, seed=7, watts=61.5), advice=advice
    )


def sweep() -> Report:
    """Six settings: batches of 1, 2 and 4, in one worker or two."""
    runs = []
    for workers, gain in ((1, 1.0), (2, 0.62)):
        for batch, ms in ((1, 6.2), (2, 4.4), (4, 3.7)):
            at = setting(batch=batch, workers=workers, threads=2 // workers)
            load = Scenario(name="multi-stream", count=batch) if batch > 1 else SINGLE_STREAM
            seed = 10 * batch + workers
            runs += [
                run(load, ms * gain**0.5, at=at, seed=seed, images_per_query=batch),
                run(OFFLINE, ms * gain, at=at, seed=seed + 5),
            ]
    advice = ("Most images/s: --batch 4 --workers 2 --threads 1.",)
    refused = ("batch 8: the model takes batches of 1 to 4",)
    return report(*runs, best=Best(throughput=11, latency=9, limit_ms=16.0), refused=refused, advice=advice)


def comparison() -> Report:
    """Two models in turn, peers beside the first one, and an earlier result."""
    int8 = model(
        "yolov8n-int8.onnx", precision="int8", map50_95=0.3689, map50_95_before=0.3727, judged_by="labels"
    )
    peers = {"onnxruntime": 16.2, "openvino": 12.4, "ultralytics": 31.0, "queue-pool": 24.0, "seed": 44.0}
    runs = [
        run(SINGLE_STREAM, tail=0.2),
        run(SINGLE_STREAM, 8.4, of=int8, tail=0.15, seed=20),
        run(OFFLINE, seed=40, peers=peers, drift=0.12),
        run(OFFLINE, 8.1, of=int8, seed=60),
    ]
    compared = tuple(_compared(one, other, "e2e") for one, other in (runs[:2], runs[2:]))
    then = Compared(
        model="yolov8n.onnx", other="yolov8n.onnx", scenario="offline", scope="e2e", setting="batch 1",
        ratio=Ratio(ratio=0.86, low=0.83, high=0.9, windows=10), verdict="SLOWER",
    )  # fmt: skip
    baseline = AgainstBaseline(
        path="bench-0.1.json", created="2026-06-30T11:00:00+00:00", tolerance=0.05, comparisons=(then,),
        notes=("python was 3.10.9, is 3.11.7",),
    )  # fmt: skip
    return report(*runs, comparisons=compared, baseline=baseline)


def _compared(one: Run, other: Run, scope: str) -> Compared:
    ratio = _ratio(one.scopes[scope], other.scopes[scope])
    return Compared(
        model=one.model.name, other=other.model.name, scenario=one.scenario["label"], scope=scope,
        setting=one.setting.label, ratio=ratio, verdict=ratio.verdict(0.05),
    )  # fmt: skip


def cameras() -> Report:
    """Live streams of which frames are dropped, in one long window."""
    load = Scenario(name="cameras", count=4)
    one = run(load, at=setting(workers=2), windows=1, seconds=20.0, dropped=523, tail=0.3)
    return report(one, advice=("25.1% of the frames were dropped.",))


def found_rate() -> Report:
    """The highest rate that holds, and what was tried for it; workers were killed too."""
    tried = ((37.5, 16.9), (56.2, 18.4), (65.6, 24.1), (60.9, 20.6), (58.6, 19.7), (70.3, None))
    trials = tuple(Trial(rate=rate, p99_ms=p99, held=p99 is not None and p99 <= 20) for rate, p99 in tried)
    server = run(Scenario(name="server", rate=58.6), windows=1, seconds=15.0, tail=0.25)
    values = {name: getattr(server, name) for name in server.__dataclass_fields__}
    found = FoundRate(limit_ms=20.0, rate=58.6, trials=trials)
    recovery = Recovery(
        every_s=2.0, kills=9, restarts=9, ready_ms=412.0, cost=0.11, cost_low=0.08, cost_high=0.15,
        offered=1460, errors=0, lost=0,
    )  # fmt: skip
    return report(Run(**values | {"find_rate": found, "recovery": recovery}))


def partial() -> Report:
    """Interrupted in its first windows: nearly everything is unknown."""
    nothing = Figures(images=0, seconds=0.0, warm_up=_WARM_UP, throughput=None, latency_ms=None)
    few = figures(13.0, windows=1, seconds=0.06)
    ratio = Ratio(ratio=0.9, low=0.0, high=float("inf"), windows=1)
    one = Run(
        model=model(sha256="", path="", map50_95=None),
        setting=setting(),
        scenario=OFFLINE.to_dict(),
        scopes={"e2e": few, "infer": nothing},
        ratios={"e2e/infer": ratio},
        partial=True,
    )
    return report(one, partial=True, yardstick=(), machine={})


def hostile() -> Report:
    """Names that would end an element, run a script or be a tag, wherever a report has text."""
    other = model(HOSTILE + " 2")
    runs = [
        run(SINGLE_STREAM, of=model(HOSTILE), peers={HOSTILE: 20.0}),
        run(SINGLE_STREAM, 9.0, of=other, at=setting(batch=2)),
    ]
    compared = Compared(
        model=HOSTILE, other=HOSTILE, scenario=HOSTILE, scope="e2e", setting=HOSTILE,
        ratio=Ratio(ratio=0.9, low=0.0, high=float("inf"), windows=1), verdict="UNSURE",
    )  # fmt: skip
    baseline = AgainstBaseline(
        path=HOSTILE, created=HOSTILE, tolerance=0.05, comparisons=(compared,), notes=(HOSTILE,)
    )
    return report(
        *runs, comparisons=(compared,), baseline=baseline, command=HOSTILE, data=HOSTILE, advice=(HOSTILE,),
        machine={HOSTILE: {HOSTILE: [HOSTILE, {HOSTILE: HOSTILE}]}}, refused=(HOSTILE,),
    )  # fmt: skip


def gpu_sweep() -> Report:
    """Four settings of an engine, one load, no limit."""
    runs = [
        run(OFFLINE, 0.9 / batch**0.5 / streams**0.25, at=setting(batch=batch, streams=streams, devices=(0,)),
            seconds=0.3, seed=batch * streams)
        for batch in (1, 8) for streams in (1, 2)
    ]  # fmt: skip
    return report(*runs, best=Best(throughput=3))


def values_of(report: Report) -> dict[str, Any]:
    """What a file holds of it."""
    values: dict[str, Any] = json.loads(json.dumps(report.to_dict()))
    return values


ALL = {
    "single": single,
    "two scenarios": two_scenarios,
    "sweep": sweep,
    "comparison": comparison,
    "cameras": cameras,
    "found rate": found_rate,
    "partial": partial,
    "hostile": hostile,
    "gpu sweep": gpu_sweep,
    "nothing": report,
}
