"""What the bench says of a backend that takes as long as it was told, beside what arithmetic says.

python benchmarks/known_service_times.py         # a table
python benchmarks/known_service_times.py --json  # a line of JSON

On a simulated clock both are the same (tests/bench/test_known_service_times.py): what differs here is this machine.
"""

from __future__ import annotations

import itertools
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from trt_yolo.bench.images import write_scenes
from trt_yolo.bench.loads import Scenario, poisson_arrivals
from trt_yolo.bench.measure import Schedule, measure
from trt_yolo.bench.report import SCOPES
from trt_yolo.bench.runtime import null_manifest
from trt_yolo.bench.statistics import ratio_of
from trt_yolo.bench.subject import Layout, Subject
from trt_yolo.bench.window import Window
from trt_yolo.runtime.options import RuntimeOptions
from trt_yolo.runtime.worker import BackendSpec

SINGLE, OFFLINE = Scenario(name="single-stream"), Scenario(name="offline")
FIXED, BIMODAL = [50.0], [25.0, 25.0, 25.0, 125.0]
SECONDS = 5.0
RATE = 13.0
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A figure of the bench.

    Attributes:
        what: Which.
        wanted: What it must be.
        found: What it was.
    """

    what: str
    wanted: float
    found: float

    @property
    def error(self) -> float:
        """How much more was found, as a share."""
        return self.found / self.wanted - 1


def main() -> None:
    """Prints every figure with its error."""
    findings = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_scenes(Path(folder), (64, 64))
        for find in (closed_loops, throughputs, queues, cameras, models_in_turn):
            for finding in find(paths):
                findings.append(finding)
                if "--json" not in sys.argv:
                    print(
                        f"{finding.what:50} {finding.wanted:9.2f} {finding.found:9.2f} {finding.error:+8.2%}"
                    )
    if "--json" in sys.argv:
        print(json.dumps([asdict(one) | {"error": one.error} for one in findings]))


def closed_loops(paths: Sequence[Path]) -> Iterator[Finding]:
    """Percentiles of single-stream, and of a query of five images in batches of two."""
    for scope, services_ms in itertools.product(SCOPES, (FIXED, BIMODAL)):
        window = _window(scope, SINGLE, services_ms, paths)
        what = f"single-stream, {len(services_ms)} service times, {scope}"
        yield from _percentiles(what, window, np.resize(services_ms, len(window.queries)).tolist())
    for scope in SCOPES:
        window = _window(scope, Scenario(name="multi-stream", count=5), FIXED, paths, batch=2)
        yield from _percentiles(f"multi-stream 5, batch 2, {scope}", window, [3 * FIXED[0]])


def throughputs(paths: Sequence[Path]) -> Iterator[Finding]:
    """Images a second of offline."""
    for scope, workers, batch in itertools.product(SCOPES, (0, 2), (1, 4)):
        window = _window(scope, OFFLINE, FIXED, paths, batch=batch, workers=workers)
        wanted = max(1, workers) * batch * 1e3 / FIXED[0]
        what = f"offline, {workers} workers, batch {batch}, {scope}"
        yield Finding(what=f"{what}: images/s", wanted=wanted, found=window.images_per_s)


def queues(paths: Sequence[Path]) -> Iterator[Finding]:
    """Latencies of server, beside a queue of the same arrivals."""
    alone_ms = np.median(_latencies_ms(_window("e2e", SINGLE, FIXED, paths)))
    between_ms = 1e3 / _window("e2e", OFFLINE, FIXED, paths).images_per_s - FIXED[0]
    beside_ms = float(alone_ms) - FIXED[0] - between_ms
    for services_ms in (FIXED, BIMODAL):
        window = _window("e2e", Scenario(name="server", rate=RATE), services_ms, paths)
        arrivals_s = poisson_arrivals(RATE, SECONDS, seed=0)
        held_ms = [one + between_ms for one in services_ms]
        wanted_ms = [one + beside_ms for one in _queue_ms(arrivals_s, held_ms)]
        yield from _percentiles(f"server, {len(services_ms)} service times", window, wanted_ms)


def cameras(paths: Sequence[Path]) -> Iterator[Finding]:
    """Frames that are answered where half of them must be dropped."""
    for policy in ("drop-oldest", "drop-newest"):
        load = Scenario(name="cameras", count=2, fps=20, policy=policy)  # type: ignore[arg-type]
        window = _window("e2e", load, FIXED, paths)
        wanted = SECONDS * 1e3 / FIXED[0]
        yield Finding(what=f"cameras, {policy}: images", wanted=wanted, found=window.images)


def models_in_turn(paths: Sequence[Path]) -> Iterator[Finding]:
    """How many times as fast a model is as one that takes a tenth longer."""
    with _subject([20.0], paths) as one, _subject([22.0], paths) as other:
        for scope in SCOPES:
            contenders = [subject.contender(scope, OFFLINE, seed=0) for subject in (one, other)]
            seen = measure(contenders, Schedule(seconds=SECONDS)).seen
            ratio = ratio_of(seen[0].rates, seen[1].rates)
            assert ratio is not None
            yield Finding(what=f"models in turn, {scope}: ratio", wanted=1.1, found=ratio.ratio)


def _queue_ms(arrivals_s: Sequence[float], services_ms: Sequence[float]) -> list[float]:
    """What one server that takes them in turn makes of it."""
    free_s, latencies_ms = 0.0, []
    for due_s, service_ms in zip(arrivals_s, itertools.cycle(services_ms), strict=False):
        free_s = max(free_s, due_s) + service_ms / 1e3
        latencies_ms.append((free_s - due_s) * 1e3)
    return latencies_ms


def _percentiles(what: str, window: Window, wanted_ms: Sequence[float]) -> Iterator[Finding]:
    for share in PERCENTILES:
        wanted, found = (float(np.percentile(ms, share)) for ms in (wanted_ms, _latencies_ms(window)))
        yield Finding(what=f"{what}: p{share}, ms", wanted=wanted, found=found)


def _latencies_ms(window: Window) -> list[float]:
    return [query.latency_ms for query in window.queries]


def _window(
    scope: str,
    load: Scenario,
    services_ms: Sequence[float],
    paths: Sequence[Path],
    *,
    batch: int = 1,
    workers: int = 0,
) -> Window:
    with _subject(services_ms, paths, batch=batch, workers=workers) as subject:
        return subject.contender(scope, load, seed=0).window(SECONDS)


def _subject(
    services_ms: Sequence[float], paths: Sequence[Path], *, batch: int = 1, workers: int = 0
) -> Subject:
    options = {"manifest": null_manifest(batch).to_json(), "delays_ms": list(services_ms)}
    spec = BackendSpec(factory="trt_yolo.backends.null:null_from_manifest", options=options)
    return Subject("null", spec, Layout(batch=batch, runtime=RuntimeOptions(workers=workers)), paths)


if __name__ == "__main__":
    main()
