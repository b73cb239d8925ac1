"""A bench as a whole: who is faster, what was before, what is partial. Nearly all of it on a simulated clock."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bench import reports
from tests.bench.pipeline import Clock
from tests.bench.subjects import SimulatedSubject, null_spec
from trt_yolo.bench.advice import advice_for
from trt_yolo.bench.baseline import read_baseline
from trt_yolo.bench.bench import Bench
from trt_yolo.bench.loads import Scenario, ScenarioName
from trt_yolo.bench.measure import Reading, Schedule, measure
from trt_yolo.bench.options import BenchOptions
from trt_yolo.bench.page import page_of
from trt_yolo.bench.report import Report
from trt_yolo.bench.subject import Layout, Subject
from trt_yolo.bench.summary import Collected, Sample, best_of, run_of
from trt_yolo.bench.tables import tables_of
from trt_yolo.bench.window import Window
from trt_yolo.errors import BackendError, InputError
from trt_yolo.hardware.power import PowerMeter
from trt_yolo.runtime.options import RuntimeOptions

OFFLINE = (Scenario(name="offline"),)
QUICK = Schedule(seconds=1.0, min_count=5, warm_up_s=0.1)


@pytest.fixture(autouse=True)
def _a_machine_that_is_always_as_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.bench.measure.Yardstick.read", lambda self: self.rates.append(1.0))


class Benches:
    """Makes benches of models that are called after how long they take, in milliseconds, and take batches up to 4."""

    def __init__(self, paths: list[Path], clock: Clock) -> None:
        self.paths, self.clock = paths, clock

    def __call__(self, *models: str, say: Callable[[Reading], None] | None = None, **options: Any) -> Bench:
        """A bench of them."""
        given = {"scopes": ("e2e", "engine"), "schedule": QUICK, "scenarios": OFFLINE, "models": models}
        return Bench(
            BenchOptions(**given | options),
            self.paths,
            data="here",
            command="bench ...",
            opened=self._opened,
            say=say,
        )

    def _opened(self, model: str | None, layout: Layout, paths: Sequence[Path], name: str) -> Subject:
        assert model is not None
        return SimulatedSubject(name, self.clock, [float(model)], layout, paths)


@pytest.fixture
def bench(paths: list[Path], clock: Clock) -> Benches:
    return Benches(paths, clock)


def _bench_here(paths: list[Path], model: str, **options: Any) -> Bench:
    """On the real clock: a backend that waits."""

    def opened(model: str | None, layout: Layout, paths: Sequence[Path], name: str) -> Subject:
        assert model is not None
        return Subject(name, null_spec([float(model)], batch=4), layout, paths)

    given = {"schedule": QUICK, "scenarios": OFFLINE, "models": (model,), **options}
    return Bench(BenchOptions(**given), paths, data="here", opened=opened)


def _written(report: Report, path: Path) -> Path:
    path.write_text("a table\n" + json.dumps(report.to_dict()) + "\n")
    return path


@pytest.fixture
def of_20_ms(bench: Benches, tmp_path: Path) -> Path:
    """The result of a model of 20 ms."""
    return _written(bench("20").run(), tmp_path / "of_20_ms.json")


def test_the_report_is_json_and_says_what_was_measured(paths: list[Path]) -> None:
    scenarios = (Scenario(name="single-stream"), *OFFLINE)
    schedule = Schedule(seconds=0.3, min_count=5, warm_up_s=0.1)
    report = _bench_here(paths, "2", scenarios=scenarios, schedule=schedule).run()
    values = report.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert (values["tool"], values["schema"], values["partial"]) == ("trt-yolo bench", 1, False)
    assert [run["scenario"]["name"] for run in values["runs"]] == ["single-stream", "offline"]
    single, offline = values["runs"]
    for run in values["runs"]:
        assert set(run["scopes"]) == {"e2e", "infer", "engine"}
        assert set(run["ratios"]) == {"e2e/engine", "e2e/infer", "infer/engine"}
        for figures in run["scopes"].values():
            assert figures["throughput"]["images_per_s"] > 0
            assert len(figures["throughput"]["windows"]) == len(figures["window_starts_s"]) >= 6
            assert figures["offered"] >= figures["images"] > 0
            assert figures["warm_up"]["windows"] > 0
    assert single["scopes"]["e2e"]["latency_ms"]["p50"] >= 2  # sleep is never shorter
    assert len(single["scopes"]["e2e"]["quantiles_ms"]) == 101
    assert offline["scopes"]["e2e"]["latency_ms"] is None
    assert offline["scopes"]["e2e"]["stages_ms"]["engine"] >= 2
    assert single["model"]["precision"] == "fp32"


def test_progress_ends_with_the_last_window() -> None:
    """A quarter of each window does not count, so that there are more of them than were asked for."""
    told: list[Reading] = []
    window = Window(started_s=0, seconds=0.75, images=100)
    contenders: Any = [
        types.SimpleNamespace(name=name, is_continuous=False, window=lambda _: window) for name in "AB"
    ]
    measure(contenders, Schedule(seconds=10.0, windows=10), say=told.append)
    shares = [one.share for one in told if not one.is_warm_up]
    assert len(shares) == 2 * 14
    assert shares == sorted(set(shares))
    assert shares[-1] == 1
    assert "".join(one.name for one in told if not one.is_warm_up)[:8] == "ABBAABBA"


def test_models_in_turn(bench: Benches) -> None:
    report = bench("20", "20.0", "22", scopes=("e2e", "infer", "engine")).run()
    compared = {(one.model, one.other, one.scope): one for one in report.comparisons}
    assert len(compared) == 3 * 3
    for scope in ("e2e", "infer", "engine"):
        assert compared["20", "20.0", scope].verdict == "SAME"
        assert compared["20", "22", scope].verdict == "FASTER"
        assert compared["20", "22", scope].ratio.ratio == pytest.approx(1.1, rel=0.002)
    assert all(run.ratios["e2e/engine"].ratio == pytest.approx(1, rel=0.002) for run in report.runs)


def test_the_same_model_beside_its_baseline(of_20_ms: Path, bench: Benches) -> None:
    report = bench("20", baseline=of_20_ms).run()
    assert report.baseline is not None
    assert {one.verdict for one in report.baseline.comparisons} == {"SAME"}
    assert [one.scope for one in report.baseline.comparisons] == ["e2e", "engine"]
    assert not report.baseline.regressed


def test_ten_percent_more_work_is_slower_than_the_baseline(of_20_ms: Path, bench: Benches) -> None:
    report = bench("22", baseline=of_20_ms).run()
    assert report.baseline is not None
    assert {one.verdict for one in report.baseline.comparisons} == {"SLOWER"}
    assert report.baseline.regressed
    allowed = bench("22", baseline=of_20_ms, tolerance=0.3).run()
    assert allowed.baseline is not None
    assert not allowed.baseline.regressed


def test_a_slower_machine_is_no_slower_model(
    of_20_ms: Path, bench: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model takes a quarter longer, and the yardstick a little more than that."""
    monkeypatch.setattr("trt_yolo.bench.measure.Yardstick.read", lambda self: self.rates.append(0.79))
    report = bench("25", baseline=of_20_ms).run()
    assert report.baseline is not None
    assert {one.verdict for one in report.baseline.comparisons} == {"UNSURE"}
    assert any("0.79 times as fast" in note for note in report.baseline.notes)


def test_latencies_of_a_server_are_compared_too(bench: Benches, tmp_path: Path) -> None:
    options = {
        "scenarios": (Scenario(name="server", rate=30),),
        "schedule": Schedule(seconds=3.0, min_count=5),
        "scopes": ("e2e",),
    }
    path = _written(bench("10", **options).run(), tmp_path / "before.json")
    after = bench("20", **options, baseline=path).run()
    assert after.baseline is not None
    (compared,) = after.baseline.comparisons
    assert compared.verdict == "SLOWER"
    assert compared.ratio.ratio < 0.6


@pytest.mark.parametrize(("text", "part"), [
    ("", "holds no result"),
    ("{}", "holds no result"),
    ("no json", "holds no result"),
    ("{broken", "holds no result"),
    ('{"tool": "trt-yolo bench", "schema": 99, "runs": [{}]}', "has schema 99, this trt-yolo reads 1"),
    ('{"tool": "trt-yolo bench", "schema": 1, "runs": []}', "holds no run"),
])  # fmt: skip
def test_files_that_are_no_baseline(text: str, part: str, tmp_path: Path) -> None:
    path = tmp_path / "before.json"
    path.write_text(text)
    with pytest.raises(InputError, match=part):
        read_baseline(path)


def test_baselines_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.json", tmp_path):
        with pytest.raises(InputError, match="cannot read the baseline"):
            read_baseline(path)


def test_a_damaged_baseline(of_20_ms: Path, bench: Benches, tmp_path: Path) -> None:
    values = json.loads(of_20_ms.read_text().splitlines()[-1])
    del values["runs"][0]["scopes"]
    path = tmp_path / "before.json"
    path.write_text(json.dumps(values))
    damaged = bench("1", baseline=path)
    assert damaged.run().runs  # what was measured is not lost
    assert isinstance(damaged.failure, InputError)
    assert "is damaged" in str(damaged.failure)


def test_a_failure_loses_nothing_that_was_measured(bench: Benches, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: object, seconds: float) -> None:
        raise BackendError(f"no server today, not for {seconds:g} s")

    monkeypatch.setattr("trt_yolo.bench.scope_e2e.FilesToDetections._server", fails)
    scenarios = (*OFFLINE, Scenario(name="server", rate=10))
    failing = bench("20", scenarios=scenarios)
    report = failing.run()
    assert report.partial
    assert [run.scenario["label"] for run in report.runs] == ["offline"]
    assert "no server today" in str(failing.failure)


def test_a_search_that_is_interrupted_keeps_its_trials(bench: Benches) -> None:
    told: list[str] = []

    def say(reading: Reading) -> None:
        if reading.name.startswith("rate "):
            told.append(reading.name)
            if len(told) == 2:
                raise KeyboardInterrupt

    server = (Scenario(name="server"),)
    report = bench("20", say=say, scenarios=server, find_rate=True, p99_ms=1e6, scopes=("e2e",)).run()
    (run,) = report.runs
    assert report.partial
    assert run.find_rate is not None
    assert len(run.find_rate.trials) == 1
    assert [table.title for table in tables_of(report)][-1] == "rates tried, p99 at most 1e+06 ms"
    pytest.importorskip("plotly")
    assert "PARTIAL" in page_of(report.to_dict())


def test_a_baseline_of_another_load(of_20_ms: Path, bench: Benches) -> None:
    other = bench("1", baseline=of_20_ms, scenarios=(Scenario(name="single-stream"),))
    with pytest.raises(InputError, match="nothing to compare with: it was measured under offline"):
        other.run()


def test_a_sweep_finds_the_best(bench: Benches) -> None:
    """20 ms a batch of whatever size: larger batches are faster, and their queries take as long."""
    layouts = (Layout(batch=1), Layout(batch=4), Layout(batch=2), Layout(batch=8))
    report = bench("20", layouts=layouts, scenarios=(), p99_ms=1000.0).run()
    assert report.best is not None
    assert report.runs[report.best.throughput].setting.batch == 4
    assert report.best.latency is not None
    assert report.runs[report.best.latency].setting.batch == 4
    assert {run.setting.batch for run in report.runs} == {1, 2, 4}
    assert any("a batch of 8, and this model takes 1:4" in line for line in report.refused)
    assert [run.scenario["label"] for run in report.runs if run.setting.batch == 4] == [
        "multi-stream 4",
        "offline",
    ]
    assert any(line.startswith("Most images/s: --batch 4 --workers 0") for line in report.advice)
    slowest = best_of(report.runs, 0.001)
    assert slowest is not None
    assert slowest.latency is None


def test_a_sweep_of_nothing_that_can_be(bench: Benches) -> None:
    with pytest.raises(InputError, match="a batch of 9"):
        bench("20", layouts=(Layout(batch=8), Layout(batch=9))).run()


@pytest.mark.parametrize("after", [1, 10])
def test_an_interrupted_bench_keeps_what_it_has(after: int, bench: Benches) -> None:
    """Ctrl-C after so many windows that count."""
    seen: list[str] = []

    def say(reading: Reading) -> None:
        if not reading.is_warm_up:
            seen.append(reading.name)
            if len(seen) == after:
                raise KeyboardInterrupt

    scenarios = (Scenario(name="single-stream"), *OFFLINE)
    report = bench("20", say=say, scenarios=scenarios).run()
    assert report.partial
    assert report.to_dict()["partial"] is True
    assert report.runs[-1].partial
    rated = [f.throughput for r in report.runs for f in r.scopes.values() if f.throughput]
    assert sum(len(throughput.windows) for throughput in rated) == after


def test_an_interrupt_before_anything_was_measured(bench: Benches) -> None:
    def say(_: Reading) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench("20", say=say).run()


@pytest.mark.slow
def test_lost_workers_cost_throughput_and_no_image(paths: list[Path]) -> None:
    runtime = RuntimeOptions(workers=2)
    schedule = Schedule(seconds=2.0, min_count=5)
    report = _bench_here(
        paths, "10", layouts=(Layout(runtime=runtime),), kill_every_s=0.5, scopes=("e2e",), schedule=schedule
    ).run()
    recovery = report.runs[0].recovery
    assert recovery is not None
    assert recovery.kills >= 6
    assert recovery.restarts == recovery.kills
    assert (recovery.lost, recovery.errors) == (0, 0)
    assert recovery.offered > 0
    assert recovery.ready_ms is not None
    assert recovery.cost is not None
    assert "e2e with kills" not in report.runs[0].scopes


def test_images_are_needed(clock: Clock) -> None:
    with pytest.raises(InputError, match="no image to measure with"):
        Benches([], clock)("20").run()


def test_numbers_that_there_are_none_for_are_null(bench: Benches) -> None:
    report = bench("20", scopes=("engine",)).run()
    run = report.runs[0]
    endless = dataclasses.replace(run.scopes["engine"].throughput, high=float("inf"))  # type: ignore[type-var]
    figures = dataclasses.replace(run.scopes["engine"], throughput=endless)
    values = dataclasses.replace(
        report, runs=(dataclasses.replace(run, scopes={"engine": figures}),)
    ).to_dict()
    assert values["runs"][0]["scopes"]["engine"]["throughput"]["high"] is None
    json.dumps(values, allow_nan=False)


@pytest.mark.parametrize(
    ("faster", "name", "more", "is_error"),
    [
        ("e2e", "offline", {"workers": 2}, True),
        ("infer", "offline", {"workers": 2}, True),
        ("e2e", "single-stream", {"workers": 2}, True),
        ("e2e", "multi-stream", {"workers": 0}, True),
        ("e2e", "multi-stream", {"workers": 2}, False),  # the bare engine is asked by one session
        ("e2e", "offline", {"streams": 2, "devices": (0,)}, False),  # batches overlap on the GPU
        ("e2e", "offline", {"streams": 1, "workers": 1, "devices": (0,)}, True),
        ("engine", "offline", {"workers": 2}, False),
    ],
)
def test_what_contains_the_engine_and_is_faster_is_a_measurement_error(
    faster: str, name: ScenarioName, more: dict[str, Any], is_error: bool
) -> None:
    """By 16%, as a count from answer to answer once said."""
    slow = [Window(started_s=float(n), seconds=1.0, images=100 + n % 2) for n in range(10)]
    fast = [dataclasses.replace(window, images=round(1.16 * window.images)) for window in slow]
    samples = {scope: Sample(fast if scope == faster else slow) for scope in ("e2e", "engine")}
    if faster == "infer":
        samples = {"infer": Sample(fast), "engine": Sample(slow)}
    collected = Collected(reports.model(), reports.setting(**more), Scenario(name=name), samples=samples)
    with PowerMeter() as meter:
        run = run_of(collected, meter)
    (ratio,) = run.ratios.values()
    assert ratio.is_error == is_error
    report = reports.report(run)
    said = [line for line in advice_for(report) if line.startswith("MEASUREMENT ERROR")]
    assert len(said) == is_error
    assert ("measurement error (1.16" in "".join(map(str, tables_of(report)))) == (
        is_error and faster == "e2e"
    )
