"""The figures of one thing that was measured: throughput, latency, where an image's time goes.

Enters: windows. Leaves: `Figures`, and plain values. Knows no models and no scenarios.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trt_yolo.bench.statistics import Latency, Throughput, latency_of, latency_pieces, throughput_of
from trt_yolo.bench.window import Window
from trt_yolo.runtime.job import StageTimes


@dataclass(frozen=True, kw_only=True)
class WarmUp:
    """What was run before anything counted.

    Attributes:
        seconds: For how long.
        windows: In how many windows.
        is_steady: Whether the last windows agreed; else it was ended by its time limit.
    """

    seconds: float
    windows: int
    is_steady: bool


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Where an image's time goes, mean, in milliseconds.

    Attributes:
        decode: The file read and decoded.
        letterbox: Scaled into its slot.
        wait: In its slot, until a worker took the batch.
        copy_in: Its batch brought to where the engine reads it. Of a head graph: made into float images.
        engine: Its batch in the engine.
        copy_out: Rows brought back. Of a head graph: decoded, and NMS.
        post: Rows made into `Detections`.
    """

    decode: float = 0.0
    letterbox: float = 0.0
    wait: float = 0.0
    copy_in: float = 0.0
    engine: float = 0.0
    copy_out: float = 0.0
    post: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What one thing did: a scope of a model, or a peer.

    Attributes:
        images: Images that were counted, warm-up not among them.
        seconds: How long they took, all windows together.
        warm_up: What was run before.
        throughput: Images a second; None where nothing was answered.
        latency_ms: Of queries; None where a load has none.
        quantiles_ms: The 0th, 1st, ... 100th percentile of the latencies.
        latency_windows_ms: Of loads whose throughput is given, the median latency in equal pieces of the time.
        window_starts_s: When each window began, in seconds after the first one of the run.
        stages_ms: Where an image's time goes; None where nobody can see it.
        offered: Images that were sent, or that cameras had.
        dropped: Of those, thrown away by the drop policy.
        errors: Of those, answered with an error.
        lost: Of those, never answered.
        cut: Whether answers fell behind without end, so that it was ended early.
        watts: What the machine drew meanwhile; None where nobody knows.
    """

    images: int
    seconds: float
    warm_up: WarmUp
    throughput: Throughput | None
    latency_ms: Latency | None
    quantiles_ms: tuple[float, ...] = ()
    latency_windows_ms: tuple[float, ...] = ()
    window_starts_s: tuple[float, ...] = ()
    stages_ms: Stages | None = None
    offered: int = 0
    dropped: int = 0
    errors: int = 0
    lost: int = 0
    cut: bool = False
    watts: float | None = None

    @property
    def speeds(self) -> tuple[float, ...]:
        """What comparisons compare, by window: images a second; where those were given, queries by latency."""
        if self.latency_windows_ms:
            return tuple(1e3 / latency_ms for latency_ms in self.latency_windows_ms)
        return self.throughput.windows if self.throughput is not None else ()

    @property
    def images_per_s(self) -> float:
        """Its throughput; 0 where nothing was answered."""
        return self.throughput.images_per_s if self.throughput is not None else 0.0

    @property
    def drop_rate(self) -> float:
        """The share of the offered images that was thrown away."""
        return self.dropped / self.offered if self.offered else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with what follows from them."""
        values = dataclasses.asdict(self)
        if self.throughput is not None:
            values["throughput"]["steady"] = self.throughput.is_steady
        per_watt = self.images_per_s / self.watts if self.watts else None
        return values | {"drop_rate": self.drop_rate, "images_per_s_per_watt": per_watt}


def figures_of(
    windows: Sequence[Window], *, warm_up: WarmUp, began_s: float, parts: Stages | None, watts: float | None
) -> Figures:
    """The figures of windows.

    Args:
        windows: What was seen.
        warm_up: What was run before.
        began_s: When the run's first window began, `time.perf_counter`.
        parts: How copy in, engine and copy out share a batch's time in the backend; None: all of it is engine.
        watts: What the machine drew meanwhile.
    """
    latencies = [query.latency_ms for window in windows for query in window.queries]
    quantiles = np.percentile(latencies, np.arange(101)) if latencies else np.empty(0)
    return Figures(
        images=sum(window.images for window in windows),
        seconds=sum(window.seconds for window in windows),
        warm_up=warm_up,
        throughput=throughput_of(windows),
        latency_ms=latency_of(latencies),
        quantiles_ms=tuple(quantiles.tolist()),
        latency_windows_ms=latency_pieces(windows[0]) if len(windows) == 1 else (),
        window_starts_s=_starts(windows, began_s),
        stages_ms=_mean_stages(windows, parts),
        offered=sum(window.offered or window.images for window in windows),
        dropped=sum(window.dropped for window in windows),
        errors=sum(window.errors for window in windows),
        lost=sum(window.lost for window in windows),
        cut=any(window.is_cut for window in windows),
        watts=watts,
    )


def _starts(windows: Sequence[Window], began_s: float) -> tuple[float, ...]:
    """One for each of `Throughput.windows`."""
    counted = [window for window in windows if window.images and window.seconds > 0]
    if len(counted) != 1:
        return tuple(window.started_s - began_s for window in counted)
    throughput = throughput_of(counted)
    count = len(throughput.windows) if throughput is not None else 1
    step = counted[0].seconds / count
    return tuple(counted[0].started_s - began_s + index * step for index in range(count))


def _mean_stages(windows: Sequence[Window], parts: Stages | None) -> Stages | None:
    """The mean of what images took, their time in the backend shared out as `parts` were; None without any."""
    seen = [
        (window.stages, window.images) for window in windows if window.stages is not None and window.images
    ]
    if not seen:
        return None
    means = StageTimes(
        *np.average(
            [dataclasses.astuple(one) for one, _ in seen], axis=0, weights=[n for _, n in seen]
        ).tolist()
    )
    shares = Stages(engine=1.0) if parts is None else parts
    whole = shares.copy_in + shares.engine + shares.copy_out
    scale = means.infer / whole if whole else 0.0
    return Stages(
        decode=means.decode,
        letterbox=means.letterbox,
        wait=means.queue,
        copy_in=shares.copy_in * scale,
        engine=shares.engine * scale,
        copy_out=shares.copy_out * scale,
        post=means.post,
    )
