"""Whether waiting threads spin: what was asked for, how many there are, how busy the CPUs are."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import trt_yolo
from tests.hardware.test_processor import write
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.errors import InputError
from trt_yolo.hardware import cores
from trt_yolo.hardware.cores import Cpus, Spin, spins_on_cpu, usable_cpus
from trt_yolo.loader import backend_spec, load_backend
from trt_yolo.runtime.options import RuntimeOptions

FOUR = Cpus(cores=(0, 1, 2, 3), machine=4)


@pytest.mark.parametrize(
    ("spin", "cpus", "threads", "workers", "wanted", "why"),
    [
        (True, FOUR, 9, 9, True, ""),
        (False, FOUR, 2, 1, False, ""),
        ("auto", FOUR, 1, 4, False, ""),
        ("auto", FOUR, 4, 1, True, "how busy the CPUs are is unknown"),
        ("auto", FOUR, 2, 2, True, "is unknown"),
        ("auto", FOUR, 2, 3, False, "6 threads share 4 CPUs (no limit is set)"),
        ("auto", FOUR, 5, 1, False, "5 threads share 4 CPUs"),
        ("auto", Cpus(cores=(0, 1), quota=1.5), 2, 1, False, "2 threads share 1.5 CPUs (cgroup quota 1.5)"),
        ("auto", Cpus(cores=(0, 1), quota=2.0), 2, 1, True, "is unknown"),
    ],
)
def test_what_threads_do(
    spin: Spin, cpus: Cpus, threads: int, workers: int, wanted: bool, why: str, tmp_path: Path
) -> None:
    found, reason = spins_on_cpu(spin, cpus, threads=threads, workers=workers, root=tmp_path)
    assert found is wanted
    assert why in reason
    assert bool(reason) is bool(why)


def _stat(*rows: tuple[int, int, int]) -> str:
    """`/proc/stat` of CPUs that were busy, idle, and taken by a hypervisor for so many ticks."""
    return "".join(
        f"cpu{n} {busy} 0 0 {idle} 0 0 0 {stolen} 0 0\n" for n, (busy, idle, stolen) in enumerate(rows)
    )


IDLE, BUSY, HALF, STOLEN = (0, 10, 0), (10, 0, 0), (5, 5, 0), (0, 0, 10)


@pytest.mark.parametrize(
    ("cores", "threads", "rows", "wanted", "why"),
    [
        ((0, 1), 2, (IDLE, IDLE), True, "0.0 of 2 CPUs are busy with something else"),
        ((0, 1), 2, (IDLE, HALF), False, "0.5 of 2"),
        ((0, 1), 2, (BUSY, BUSY), False, "2.0 of 2"),
        ((0, 1), 2, (IDLE, STOLEN), False, "1.0 of 2"),
        ((0, 1, 2, 3), 2, (BUSY, HALF, IDLE, IDLE), True, "1.5 of 4"),
        ((0, 1, 2, 3), 3, (BUSY, HALF, IDLE, IDLE), False, "1.5 of 4"),
        ((2, 3), 2, (BUSY, BUSY, IDLE, IDLE), True, "0.0 of 2"),
        ((0, 1), 2, ((0, 0, 0), (0, 0, 0)), True, "is unknown"),
    ],
)
def test_they_spin_where_nobody_else_wants_their_cpus(
    cores: tuple[int, ...], threads: int, rows: tuple[tuple[int, int, int], ...], wanted: bool, why: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write(tmp_path, {"proc/stat": "cpu  9 9\n" + _stat(*[(100, 100, 100)] * len(rows))})
    later = _stat(*[tuple(100 + more for more in row) for row in rows])  # type: ignore[arg-type, misc]
    monkeypatch.setattr(time, "sleep", lambda s: write(tmp_path, {"proc/stat": "cpu  9 9\n" + later}))
    found, reason = spins_on_cpu("auto", Cpus(cores=cores), threads=threads, root=tmp_path)
    assert (found, why in reason) == (wanted, True), reason


@pytest.fixture
def company() -> Iterator[None]:
    """A busy process for each CPU."""
    code = "print(flush=True)\nwhile True: pass"
    line = [sys.executable, "-c", code]
    busy = [subprocess.Popen(line, stdout=subprocess.PIPE) for _ in usable_cpus().cores]
    for one in busy:
        assert one.stdout is not None
        one.stdout.readline()
    yield
    for one in busy:
        one.kill()
        one.communicate()


@pytest.mark.skipif(not Path("/proc/stat").exists() or usable_cpus().count < 2, reason="nothing to decide")
def test_in_company_they_sleep(company: None, demo_onnx: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), trt_yolo.load(demo_onnx, provider="cpu") as model:
        assert model.stats().workers[0].about["spin"] == "off"
    (line,) = [one for one in caplog.messages if one.startswith("waiting threads")]
    assert line.startswith("waiting threads sleep: ")
    assert line.endswith("CPUs are busy with something else")


def _session_spins(backend: OnnxRuntimeBackend) -> set[str]:
    options = backend.session.get_session_options()
    return {
        options.get_session_config_entry(f"session.{pool}_op.allow_spinning") for pool in ("intra", "inter")
    }


@pytest.mark.parametrize(("spin", "wanted"), [(True, "1"), (False, "0")])
def test_what_is_asked_for_reaches_onnxruntime(spin: bool, wanted: str, demo_onnx: Path) -> None:
    with load_backend(demo_onnx, provider="cpu", spin=spin) as backend:
        assert isinstance(backend, OnnxRuntimeBackend)
        assert _session_spins(backend) == {wanted}
        assert backend.about["spin"] == ("on" if spin else "off")


def test_sessions_that_come_and_go_share_one_decision(
    demo_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []

    def decided(spin: Spin, cpus: Cpus, *, threads: int) -> tuple[bool, str]:
        told.append((spin, threads))
        return threads == 2, ""

    monkeypatch.setattr(cores, "spins_on_cpu", decided)
    cores.spins_here.cache_clear()
    try:
        found = [OnnxRuntimeBackend(demo_onnx, threads=threads).about["spin"] for threads in (2, 3, 2)]
    finally:
        cores.spins_here.cache_clear()
    assert (found, told) == (["on", "off", "on"], [("auto", 2), ("auto", 3)])


@pytest.mark.parametrize("workers", [0, 2])
def test_all_workers_get_the_one_decision(workers: int, demo_onnx: Path) -> None:
    threads = usable_cpus().count + 1  # of which not all have a CPU
    with trt_yolo.load(demo_onnx, provider="cpu", workers=workers, threads=threads) as model:
        about = [worker.about for worker in model.stats().workers]
    assert about == [{"threads": str(threads), "spin": "off"}] * max(1, workers)


@pytest.mark.parametrize(("spin", "wanted"), [(True, True), (False, False), ("auto", False)])
def test_on_a_gpu_auto_sleeps(spin: Spin, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.loader.loadable_engine", lambda model, *, rebuild: model)
    assert backend_spec("x.engine", RuntimeOptions(spin=spin)).options["spin"] is wanted


@pytest.mark.parametrize("wrong", ["on", 1, None], ids=str)
def test_spin_is_one_of_three(wrong: Any, demo_onnx: Path) -> None:
    with pytest.raises(InputError, match=f"spin is {wrong!r}; give True, False or 'auto'"):
        trt_yolo.load(demo_onnx, spin=wrong)
