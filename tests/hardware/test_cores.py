"""Who gets which cores, and how many threads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.hardware.test_processor import write
from trt_yolo.hardware.cores import Cpus, default_decode_threads, share_cores, usable_cpus


def test_the_cores_are_those_that_the_process_may_use() -> None:
    cpus = usable_cpus()
    assert cpus.cores == tuple(sorted(os.sched_getaffinity(0)))
    assert 1 <= cpus.count <= len(cpus.cores) <= cpus.machine


def test_without_affinity_they_are_all_that_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert usable_cpus(tmp_path) == Cpus(cores=(0, 1, 2), machine=3)
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus(tmp_path) == Cpus(cores=(0,), machine=1)


@pytest.mark.parametrize(
    ("cores", "quota", "count", "reason"),
    [
        (4, None, 4, "no limit is set"),
        (2, None, 2, "affinity"),
        (4, 0.3, 1, "cgroup quota 0.3"),
        (4, 1.0, 1, "cgroup quota 1"),
        (4, 1.5, 2, "cgroup quota 1.5"),
        (4, 4.0, 4, "no limit is set"),
        (2, 3.0, 2, "affinity"),
        (2, 1.5, 2, "cgroup quota 1.5"),
    ],
)
def test_a_quota_is_rounded_up(cores: int, quota: float | None, count: int, reason: str) -> None:
    cpus = Cpus(cores=tuple(range(cores)), quota=quota, machine=4)
    assert (cpus.count, cpus.reason) == (count, reason)


def test_the_quota_is_that_of_the_control_groups(tmp_path: Path) -> None:
    assert usable_cpus(write(tmp_path, {"sys/fs/cgroup/cpu.max": "50000 100000"})).quota == 0.5


@pytest.mark.parametrize(
    ("quota", "workers", "threads", "wanted"),
    [
        (0.3, 1, None, [(None, 1)]),
        (0.3, 2, None, [(None, 1)] * 2),
        (2.0, 1, None, [(None, 2)]),
        (2.0, 2, None, [(None, 1)] * 2),
        (2.5, 2, None, [(None, 1), (None, 2)]),
        (2.0, 2, 3, [(None, 3)] * 2),
        (9.0, 2, None, [([0, 1, 2, 3], 4), ([4, 5, 6, 7], 4)]),
    ],
)
def test_a_quota_is_shared_and_ties_nobody_to_a_core(
    quota: float, workers: int, threads: int | None, wanted: list[tuple[list[int] | None, int]]
) -> None:
    cpus = Cpus(cores=tuple(range(8)), quota=quota)
    assert share_cores(cpus, workers, threads) == wanted


FOUR = [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("cores", "workers", "threads", "wanted"),
    [
        pytest.param([0], 1, None, [(None, 1)], id="one-of-one"),
        pytest.param(FOUR, 1, None, [(None, 4)], id="one-worker-takes-all"),
        pytest.param(FOUR, 1, 2, [(None, 2)], id="one-worker-is-not-tied-down"),
        pytest.param(FOUR, 1, 9, [(None, 9)], id="one-worker-with-more-threads-than-cores"),
        pytest.param(FOUR, 2, None, [([0, 1], 2), ([2, 3], 2)], id="equal-halves"),
        pytest.param(FOUR, 4, None, [([0], 1), ([1], 1), ([2], 1), ([3], 1)], id="a-core-each"),
        pytest.param(FOUR, 3, None, [([0], 1), ([1], 1), ([2, 3], 2)], id="a-rest"),
        pytest.param(FOUR, 2, 1, [([0, 1], 1), ([2, 3], 1)], id="fewer-threads-than-cores"),
        pytest.param(FOUR, 2, 3, [(None, 3), (None, 3)], id="more-threads-than-a-share"),
        pytest.param(FOUR, 3, 2, [(None, 2)] * 3, id="a-share-too-small-for-one-frees-all"),
        pytest.param([0, 1], 4, None, [(None, 1)] * 4, id="more-workers-than-cores"),
        pytest.param([0, 1], 4, 2, [(None, 2)] * 4, id="more-workers-than-cores-with-threads"),
        pytest.param([3, 5, 8, 9], 2, None, [([3, 5], 2), ([8, 9], 2)], id="cores-with-gaps"),
    ],
)
def test_cores_are_shared_in_equal_pieces(
    cores: list[int], workers: int, threads: int | None, wanted: list[tuple[list[int] | None, int]]
) -> None:
    assert share_cores(Cpus(cores=tuple(cores)), workers, threads) == wanted


@pytest.mark.parametrize("workers", range(2, 17))
def test_no_core_is_given_twice_or_left_over(workers: int) -> None:
    cores = list(range(100, 117))
    shares = share_cores(Cpus(cores=tuple(cores)), workers, None)
    pieces = [piece for piece, _ in shares if piece is not None]
    assert sorted(core for piece in pieces for core in piece) == cores
    sizes = [len(piece) for piece in pieces]
    assert max(sizes) - min(sizes) <= 1
    assert [threads for _, threads in shares] == sizes


@pytest.mark.parametrize(
    ("cores", "threads"), [(1, 2), (2, 2), (4, 2), (5, 2), (6, 3), (16, 8), (17, 8), (256, 8)]
)
def test_half_of_the_cores_decode_from_2_to_8(cores: int, threads: int) -> None:
    assert default_decode_threads(cores) == threads
