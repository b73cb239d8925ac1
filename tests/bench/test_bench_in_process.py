"""A bench as a whole, of backends whose service times are known: who is faster, what was before, what is partial."""

from __future__ import annotations

import dataclasses
import json
import signal
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.bench import reports
from tests.bench.subjects import null_spec, on_a_noisy_machine
from trt_yolo.bench.advice import advice_for
from trt_yolo.bench.baseline import read_baseline
from trt_yolo.bench.bench import Bench
from trt_yolo.bench.loads import Scenario, ScenarioName
from trt_yolo.bench.measure import Plan, Progress, measure
from trt_yolo.bench.options import BenchOptions
from trt_yolo.bench.page import page_of
from trt_yolo.bench.report import Report
from trt_yolo.bench.subject import Layout, Subject
from trt_yolo.bench.summary import Collected, Sample, best_of, run_of
from trt_yolo.bench.tables import tables_of
from trt_yolo.bench.window import Window
from trt_yolo.errors import BackendError, InputError
from trt_yolo.hardware.nvml import PowerMeter

OFFLINE = (Scenario(name="offline"),)
QUICK = Plan(seconds=1.0, min_count=5, warm_up_s=0.1)


@pytest.fixture(scope="module", autouse=True)
def _a_machine_that_is_always_as_fast() -> Iterator[None]:
    """What the yardstick says of this machine is not what is tested here; nor how exact a window is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trt_yolo.bench.flow.ROUNDS", 5)
        patch.setattr("trt_yolo.bench.measure.Yardstick.read", lambda self: self.rates.append(1.0))
        yield


def _opened(model: str | None, layout: Layout, paths: Sequence[Path], name: str) -> Subject:
    """A model's name is how long it takes, in milliseconds; it takes batches up to 4."""
    assert model is not None
    return Subject(name, null_spec([float(model)], batch=4), layout, paths)


def _bench(paths: list[Path], say: Callable[[Progress], None] | None = None, **options: Any) -> Bench:
    given = {"scopes": ("e2e", "engine"), "plan": QUICK, "scenarios": OFFLINE, **options}
    return Bench(BenchOptions(**given), paths, data="here", command="bench ...", opened=_opened, say=say)


def _written(report: Report, path: Path) -> Path:
    path.write_text("a table\n" + json.dumps(report.to_dict()) + "\n")
    return path


@pytest.fixture(scope="module")
def of_20_ms(
    _a_machine_that_is_always_as_fast: None, paths: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The result of a model of 20 ms."""
    return _written(_bench(paths, models=("20",)).run(), tmp_path_factory.mktemp("baseline") / "before.json")


def test_the_report_is_json_and_says_what_was_measured(paths: list[Path]) -> None:
    scenarios = (Scenario(name="single-stream"), *OFFLINE)
    report = _bench(paths, models=("20",), scenarios=scenarios, scopes=("e2e", "infer", "engine")).run()
    values = report.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert (values["tool"], values["schema"], values["partial"]) == ("trt-yolo bench", 1, False)
    assert [run["scenario"]["name"] for run in values["runs"]] == ["single-stream", "offline"]
    single, offline = values["runs"]
    for run in values["runs"]:
        assert set(run["scopes"]) == {"e2e", "infer", "engine"}
        assert set(run["ratios"]) == {"e2e/engine", "e2e/infer", "infer/engine"}
        assert 0.8 < run["ratios"]["e2e/engine"]["ratio"] < 1.02
        for figures in run["scopes"].values():
            assert figures["throughput"]["images_per_s"] == pytest.approx(50, rel=0.1)
            assert len(figures["throughput"]["windows"]) == len(figures["window_starts_s"]) >= 6
            assert figures["offered"] >= figures["images"] > 0
            assert figures["warm_up"]["windows"] > 0
    assert single["scopes"]["e2e"]["latency_ms"]["p50"] == pytest.approx(20, rel=0.1)
    assert len(single["scopes"]["e2e"]["quantiles_ms"]) == 101
    assert offline["scopes"]["e2e"]["latency_ms"] is None
    assert offline["scopes"]["e2e"]["stages_ms"]["engine"] == pytest.approx(20, rel=0.1)
    assert single["model"]["precision"] == "fp32"


def test_progress_ends_with_the_last_window() -> None:
    """A quarter of each window does not count, so that there are more of them than were asked for."""
    told: list[Progress] = []
    window = Window(started_s=0, seconds=0.75, images=100)
    contenders: Any = [
        types.SimpleNamespace(name=name, is_continuous=False, window=lambda _: window) for name in "AB"
    ]
    measure(contenders, Plan(seconds=10.0, windows=10), say=told.append)
    shares = [one.share for one in told if not one.is_warm_up]
    assert len(shares) == 2 * 14
    assert shares == sorted(set(shares))
    assert shares[-1] == 1
    assert "".join(one.name for one in told if not one.is_warm_up)[:8] == "ABBAABBA"


@on_a_noisy_machine
def test_models_in_turn(paths: list[Path]) -> None:
    report = _bench(paths, models=("20", "20.0", "22"), scopes=("engine",)).run()
    verdicts = {(one.model, one.other): one.verdict for one in report.comparisons}
    assert verdicts[("20", "20.0")] in ("SAME", "UNSURE")
    assert verdicts[("20", "22")] == "FASTER"
    ratio = next(one.ratio for one in report.comparisons if (one.model, one.other) == ("20", "22"))
    assert ratio.ratio == pytest.approx(1.1, rel=0.02)
    assert ratio.low <= 1.1 <= ratio.high * 1.01


@on_a_noisy_machine
def test_the_same_model_beside_its_baseline(of_20_ms: Path, paths: list[Path]) -> None:
    report = _bench(paths, models=("20",), baseline=of_20_ms).run()
    assert report.baseline is not None
    assert {one.verdict for one in report.baseline.comparisons} <= {"SAME", "UNSURE"}
    assert [one.scope for one in report.baseline.comparisons] == ["e2e", "engine"]
    assert not report.baseline.regressed


@on_a_noisy_machine
def test_ten_percent_more_work_is_slower_than_the_baseline(of_20_ms: Path, paths: list[Path]) -> None:
    report = _bench(paths, models=("22",), baseline=of_20_ms).run()
    assert report.baseline is not None
    assert {one.verdict for one in report.baseline.comparisons} == {"SLOWER"}
    assert report.baseline.regressed
    allowed = _bench(paths, models=("22",), baseline=of_20_ms, tolerance=0.3).run()
    assert allowed.baseline is not None
    assert not allowed.baseline.regressed


@on_a_noisy_machine
def test_a_slower_machine_is_no_slower_model(
    of_20_ms: Path, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model takes a quarter longer, and so does the yardstick."""
    monkeypatch.setattr("trt_yolo.bench.measure.Yardstick.read", lambda self: self.rates.append(0.8))
    report = _bench(paths, models=("25",), baseline=of_20_ms).run()
    assert report.baseline is not None
    assert {one.verdict for one in report.baseline.comparisons} == {"UNSURE"}
    assert any("0.80 times as fast" in note for note in report.baseline.notes)


@on_a_noisy_machine
def test_latencies_of_a_server_are_compared_too(paths: list[Path], tmp_path: Path) -> None:
    server = (Scenario(name="server", rate=30),)
    plan = Plan(seconds=3.0, min_count=5)
    before = _bench(paths, models=("10",), scenarios=server, plan=plan, scopes=("e2e",)).run()
    path = _written(before, tmp_path / "before.json")
    after = _bench(paths, models=("20",), scenarios=server, plan=plan, scopes=("e2e",), baseline=path).run()
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


def test_a_damaged_baseline(of_20_ms: Path, paths: list[Path], tmp_path: Path) -> None:
    values = json.loads(of_20_ms.read_text().splitlines()[-1])
    del values["runs"][0]["scopes"]
    path = tmp_path / "before.json"
    path.write_text(json.dumps(values))
    bench = _bench(paths, models=("1",), baseline=path, plan=Plan(seconds=0.2, min_count=1))
    assert bench.run().runs  # what was measured is not lost
    assert isinstance(bench.failure, InputError)
    assert "is damaged" in str(bench.failure)


def test_a_failure_loses_nothing_that_was_measured(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object, seconds: float) -> None:
        raise BackendError(f"no server today, not for {seconds:g} s")

    monkeypatch.setattr("trt_yolo.bench.scope_e2e.FilesToDetections._server", fails)
    scenarios = (*OFFLINE, Scenario(name="server", rate=10))
    bench = _bench(paths, models=("20",), scenarios=scenarios)
    report = bench.run()
    assert report.partial
    assert [run.scenario["label"] for run in report.runs] == ["offline"]
    assert "no server today" in str(bench.failure)


def test_a_search_that_is_interrupted_keeps_its_trials(paths: list[Path]) -> None:
    told: list[str] = []

    def say(progress: Progress) -> None:
        if progress.name.startswith("rate "):
            told.append(progress.name)
            if len(told) == 2:
                raise KeyboardInterrupt

    server = (Scenario(name="server"),)
    plan = Plan(seconds=0.5, min_count=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trt_yolo.bench.measure._LONGEST_S", 0.5)
        options = {"scenarios": server, "find_rate": True, "p99_ms": 1e6, "scopes": ("e2e",), "plan": plan}
        report = _bench(paths, say, models=("20",), **options).run()
    (run,) = report.runs
    assert report.partial
    assert run.find_rate is not None
    assert len(run.find_rate.trials) == 1
    assert [table.title for table in tables_of(report)][-1] == "rates tried, p99 at most 1e+06 ms"
    pytest.importorskip("plotly")
    assert "PARTIAL" in page_of(report.to_dict())


def test_a_baseline_of_another_load(of_20_ms: Path, paths: list[Path]) -> None:
    bench = _bench(
        paths,
        models=("1",),
        baseline=of_20_ms,
        scenarios=(Scenario(name="single-stream"),),
        plan=Plan(seconds=0.2, min_count=1),
    )
    with pytest.raises(InputError, match="nothing to compare with: it was measured under offline"):
        bench.run()


@on_a_noisy_machine
def test_a_sweep_finds_the_best(paths: list[Path]) -> None:
    """20 ms a batch of whatever size: larger batches are faster, and their queries take as long."""
    layouts = (Layout(batch=1), Layout(batch=4), Layout(batch=2), Layout(batch=8))
    report = _bench(paths, models=("20",), layouts=layouts, scenarios=(), p99_ms=1000.0).run()
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


def test_a_sweep_of_nothing_that_can_be(paths: list[Path]) -> None:
    with pytest.raises(InputError, match="a batch of 9"):
        _bench(paths, models=("20",), layouts=(Layout(batch=8), Layout(batch=9))).run()


@pytest.mark.parametrize("after", [1, 10])
def test_an_interrupted_bench_keeps_what_it_has(after: int, paths: list[Path]) -> None:
    """Ctrl-C after so many windows that count."""
    seen: list[str] = []

    def say(progress: Progress) -> None:
        if not progress.is_warm_up:
            seen.append(progress.name)
            if len(seen) == after:
                threading.Timer(0.05, signal.raise_signal, [signal.SIGINT]).start()

    scenarios = (Scenario(name="single-stream"), *OFFLINE)
    report = _bench(paths, say, models=("20",), scenarios=scenarios).run()
    assert report.partial
    assert report.to_dict()["partial"] is True
    assert report.runs[-1].partial
    measured = sum(len(f.throughput.windows) for r in report.runs for f in r.scopes.values() if f.throughput)
    assert after <= measured <= after + 2


def test_an_interrupt_before_anything_was_measured(paths: list[Path]) -> None:
    def say(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _bench(paths, say, models=("20",)).run()


@on_a_noisy_machine
def test_lost_workers_cost_what_they_cost_and_no_image(paths: list[Path]) -> None:
    report = _bench(
        paths, models=("10",), layouts=(Layout(workers=2),), kill_every_s=0.5, scopes=("e2e",),
        plan=Plan(seconds=2.0, min_count=5),
    ).run()  # fmt: skip
    recovery = report.runs[0].recovery
    assert recovery is not None
    assert recovery.kills >= 6
    assert recovery.restarts == recovery.kills
    assert (recovery.lost, recovery.errors) == (0, 0)
    assert recovery.offered > 200
    assert recovery.ready_ms is not None
    assert 50 < recovery.ready_ms < 5000
    assert recovery.cost is not None
    assert 0.05 < recovery.cost < 0.95
    assert "e2e with kills" not in report.runs[0].scopes


def test_images_are_needed() -> None:
    with pytest.raises(InputError, match="no image to measure with"):
        _bench([], models=("20",)).run()


def test_numbers_that_there_are_none_for_are_null(paths: list[Path]) -> None:
    report = _bench(paths, models=("20",), scopes=("engine",), plan=Plan(seconds=0.2, min_count=1)).run()
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
