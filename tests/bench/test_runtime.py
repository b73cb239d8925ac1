"""The bench of the runtime: small runs of its parts, whose figures must fit together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import trt_yolo
from tests.runtime.models import children
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.bench import runtime
from trt_yolo.bench.images import write_scenes
from trt_yolo.bench.peers import PeerOptions
from trt_yolo.bench.peers.process import PeerProcess
from trt_yolo.bench.runtime import EndToEnd, RingCost, bench_end_to_end, bench_ring, summary
from trt_yolo.errors import BackendError


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_scenes(tmp_path_factory.mktemp("scenes"), (256, 256))


@pytest.fixture(scope="module")
def ring() -> RingCost:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("_WINDOWS", 2),
            ("_RING_WINDOWS", 2),
            ("_RING_FRAMES", 200),
            ("_QUEUE_S", 0.1),
            ("_CALLS", 20),
            ("MEMORY_FRAMES", 1_000),
            ("_MEMORY_STEP", 50),
        ):
            patch.setattr(runtime, name, value)
        return bench_ring()


@pytest.fixture(scope="module")
def end_to_end(demo_onnx: Path, paths: list[Path]) -> EndToEnd:
    with pytest.MonkeyPatch.context() as patch, trt_yolo.load(demo_onnx, workers=2, threads=1) as model:
        patch.setattr(runtime, "_WINDOWS", 2)
        patch.setattr(runtime, "_PARTS_S", 0.1)
        patch.setattr("trt_yolo.bench.flow.ROUNDS", 3)
        bare = OnnxRuntimeBackend(demo_onnx, threads=1)
        return bench_end_to_end(model, bare, paths, weights=None, seconds=0.5)


def test_everything_about_the_ring_is_measured(ring: RingCost) -> None:
    assert min(ring.ring_vs_copy, ring.ring_vs_queue) > 0
    assert min(ring.frames_per_s, ring.copy_frames_per_s, ring.queue_frames_per_s) > 0
    assert ring.plain_latency_ms > 0


def test_the_ring_is_as_large_as_it_says(ring: RingCost) -> None:
    payload = runtime.SLOTS * runtime.RING_BATCH * runtime.IMGSZ**2 * 3
    rows = runtime.SLOTS * runtime.RING_BATCH * 512 * 6 * 4
    assert payload + rows < ring.shared_memory_bytes < 1.01 * (payload + rows)


def test_memory_does_not_grow_with_every_frame(ring: RingCost) -> None:
    frame_bytes = runtime.IMGSZ**2 * 3
    assert abs(ring.rss_slope_bytes_per_frame) < frame_bytes / 100


def test_without_peers_their_figures_are_missing(end_to_end: EndToEnd) -> None:
    assert min(end_to_end.images_per_s, end_to_end.limit_images_per_s, end_to_end.e2e_vs_limit) > 0
    assert (end_to_end.workers, end_to_end.threads) == (2, 1)
    assert end_to_end.seed_images_per_s is end_to_end.e2e_vs_seed is end_to_end.e2e_vs_ultralytics is None


def test_the_summary_is_flat_json_with_every_figure(ring: RingCost, end_to_end: EndToEnd) -> None:
    for values in (summary(ring, end_to_end), summary(ring, None)):
        assert json.loads(json.dumps(values)) == values
        assert {
            "ring_vs_copy", "ring_vs_queue", "added_latency_ms", "e2e_vs_limit", "e2e_vs_ultralytics",
            "e2e_vs_seed", "rss_slope_bytes_per_frame",
        } <= set(values)  # fmt: skip
    assert summary(ring, end_to_end)["e2e_vs_limit"] == round(end_to_end.e2e_vs_limit, 3)


def test_a_swapped_frame_does_not_go_unnoticed() -> None:
    frames = [np.full((runtime.IMGSZ, runtime.IMGSZ, 3), 7, np.uint8)] * 32
    with runtime.null_model(8, workers=0) as model, pytest.raises(AssertionError, match="as another"):
        runtime._stream_rate(model, frames)


def test_a_slope_is_found_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter(range(0, 10**9, 5_000))
    monkeypatch.setattr(runtime, "_rss_bytes", lambda _: next(sizes) // 2)
    monkeypatch.setattr(runtime, "MEMORY_FRAMES", 500)
    monkeypatch.setattr(runtime, "_MEMORY_STEP", 50)
    frames = [np.zeros((runtime.IMGSZ, runtime.IMGSZ, 3), np.uint8)]
    with runtime.null_model(8, workers=1) as model:
        slope, growth = runtime._rss_slope(model, frames)
    assert slope == pytest.approx(2 * 5_000 / 50, rel=0.01)
    assert growth == pytest.approx(2 * 5_000 * 8, rel=0.01)


def test_a_peer_that_cannot_start_says_how_to_see_why() -> None:
    before = children()
    with pytest.raises(BackendError, match=r"python -m trt_yolo\.bench\.peers nobody"):
        PeerProcess("nobody", PeerOptions())
    assert children() <= before  # nothing of it is left, not even its exit code
