"""Which layers are worth leaving in float, and the gate that puts them back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from tests.precision import graphs
from trt_yolo.errors import ExportError
from trt_yolo.evaluation.coco import Accuracy
from trt_yolo.precision.calibration import Activation, Calibration, calibration_of
from trt_yolo.precision.int8_from_float import int8_from_float
from trt_yolo.precision.judge import heads_of
from trt_yolo.precision.network import Convolution, Network
from trt_yolo.precision.observer import observe
from trt_yolo.precision.search import Passed, Sensitivity, pass_gate, sensitivities, worth_keeping

# The search


def _convolution(output: str, macs: int, *, is_last: bool = False) -> Convolution:
    return Convolution(
        name=f"node of {output}", output=output, input="", weight="", bias="", macs=macs, is_last=is_last
    )


def _network(*convolutions: Convolution) -> Network:
    return dataclasses.replace(graphs.demo_network(), convolutions=list(convolutions))


def _found(errors: dict[str, float], network: Network) -> list[Sensitivity]:
    found = [Sensitivity(convolution=one, error=errors[one.output]) for one in network.quantizable]
    return sorted(found, key=lambda one: -one.worth)


_SMALL = _network(
    _convolution("a", 100), _convolution("b", 300), _convolution("c", 500), _convolution("last", 100, is_last=True)
)  # fmt: skip


@pytest.mark.parametrize(
    ("errors", "most", "wanted"),
    [
        ({"a": 1.0, "b": 0.1, "c": 0.1}, 1.0, ["a"]),
        ({"a": 1.0, "b": 0.1, "c": 0.1}, 0.2, ["a"]),
        ({"a": 1.0, "b": 0.1, "c": 0.1}, 0.19, []),
        ({"a": 1.0, "b": 0.1, "c": 0.1}, 0.0, []),
        ({"a": 1.0, "b": 2.0, "c": 0.1}, 1.0, ["b", "a"]),
        ({"a": 1.0, "b": 2.0, "c": 0.1}, 0.4, ["b"]),
        ({"a": 1.0, "b": 2.0, "c": 0.1}, 0.3, ["a"]),
        ({"a": 0.1, "b": 0.1, "c": 5.0}, 0.5, []),
        ({"a": 1.0, "b": 3**0.5, "c": 5**0.5}, 1.0, []),
        ({"a": 0.0, "b": 0.0, "c": 0.0}, 1.0, []),
    ],
)
def test_worth_keeping(errors: dict[str, float], most: float, wanted: list[str]) -> None:
    kept = worth_keeping(_SMALL, _found(errors, _SMALL), most=most + 1e-9)
    if wanted or len({round(one.worth, 9) for one in _found(errors, _SMALL)}) > 1:
        assert [one.convolution.output for one in kept] == wanted


@pytest.mark.parametrize("most", [0.0, 0.01, 0.06, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_worth_keeping_never_takes_too_much(most: float, seed: int) -> None:
    network = graphs.demo_network()
    rng = np.random.default_rng(seed)
    errors = {one.output: float(rng.exponential()) for one in network.quantizable}
    ordered = _found(errors, network)
    kept = worth_keeping(network, ordered, most=most)
    outputs = {one.convolution.output for one in kept}
    of_last = network.share(one.output for one in network.convolutions if one.is_last)
    assert not kept or network.share(outputs) + of_last <= most + 1e-12
    average = sum(one.error**2 for one in ordered) / sum(one.convolution.macs for one in ordered)
    assert all(one.worth > average for one in kept), "only what pays more than average"
    assert kept == sorted(kept, key=lambda one: -one.worth), "what pays most first"
    assert len(outputs) == len(kept)
    assert kept or most <= of_last or most < 0.06
    refused = [one for one in ordered if one.worth > average and one.convolution.output not in outputs]
    share = network.share(outputs) + of_last
    for one in refused:
        better = [other for other in kept if other.worth >= one.worth]
        before = network.share(other.convolution.output for other in better) + of_last
        assert before + network.share([one.convolution.output]) > most, (one.convolution.output, share)


def test_worth_is_squared_error_for_work() -> None:
    assert Sensitivity(convolution=_convolution("a", 8), error=4.0).worth == 2
    assert Sensitivity(convolution=_convolution("a", 0), error=3.0).worth == 9


def _hurt(calibration: Calibration, tensor: str) -> Calibration:
    scale = calibration.activations[tensor].scale / 64
    changed = {tensor: Activation(scale=scale, zero=0)}
    return dataclasses.replace(calibration, activations=calibration.activations | changed)


def test_a_hurt_convolution_is_found() -> None:
    network, frames = graphs.demo_network(), graphs.demo_frames(2)
    tensors = sorted({one.input for one in network.quantizable})
    observed = observe(network.model, tensors, lambda: graphs.demo_frames(3, 100), threads=graphs.THREADS)
    readers: dict[str, list[Convolution]] = {}
    for one in network.quantizable:
        readers.setdefault(one.input, []).append(one)
    (victim,) = next(ones for ones in list(readers.values())[20:] if len(ones) == 1)
    good = calibration_of(network, observed, "l2.4", target="tensorrt")
    calibration = _hurt(good, victim.input)

    def build(kept: frozenset[str]) -> bytes:
        return bytes(int8_from_float(network, calibration, keep_float=kept).SerializeToString())

    wanted = heads_of(network.model.SerializeToString(), frames, threads=graphs.THREADS)
    steps: list[tuple[int, int]] = []
    ordered = sensitivities(
        network, build, frames, wanted, threads=graphs.THREADS,
        progress=lambda _, done, total: steps.append((done, total)),
    )  # fmt: skip
    count = len(network.quantizable)
    assert steps == [(number, count) for number in range(1, count + 1)]
    assert {one.convolution.output for one in ordered} == {one.output for one in network.quantizable}
    assert min(one.error for one in ordered) >= 0
    assert np.mean([one.error > 0 for one in ordered]) > 0.5, "two frames show nothing of some scales"
    assert [one.worth for one in ordered] == sorted((one.worth for one in ordered), reverse=True)
    assert ordered[0].convolution == victim
    assert ordered[0].error > 1.5 * max(one.error for one in ordered[1:])
    assert worth_keeping(network, ordered, most=1.0)[0].convolution == victim


# The gate


def _accuracy(points: float) -> Accuracy:
    return Accuracy(map50_95=points / 100, map50=points / 100, per_class={}, images=1, instances=1)


class _TableJudge:
    """A judge that knows an accuracy for each model."""

    before = _accuracy(60)

    def __init__(self, table: dict[frozenset[str], float]) -> None:
        self._table = table
        self.built: list[frozenset[str]] = []
        self.judged: list[frozenset[str]] = []

    def build(self, kept: frozenset[str]) -> bytes:
        self.built.append(kept)
        return ",".join(sorted(kept)).encode()

    def accuracy(self, model: bytes) -> Accuracy:
        kept = frozenset(filter(None, model.decode().split(",")))
        self.judged.append(kept)
        return _accuracy(self._table[kept])


def _table(start: str, order: str, points: list[float]) -> dict[frozenset[str], float]:
    """Accuracy after each step of putting back."""
    return {frozenset(start + order[:count]): value for count, value in enumerate(points)}


def _pass(
    judge: _TableJudge, *, candidates: Iterator[str], max_drop: float = 1.0, start: str = "s"
) -> Passed:
    return pass_gate(
        judge,  # type: ignore[arg-type]
        judge.build, start=frozenset(start), candidates=candidates, max_drop=max_drop, what="the test",
    )  # fmt: skip


def _forbidden() -> Iterator[str]:
    pytest.fail("candidates cost time and were asked for without need")
    yield ""


@pytest.mark.parametrize(("points", "max_drop"), [(59.5, 1.0), (60, 0.0), (61, 0.0), (59.01, 1.0), (0, 100)])
def test_it_passes_at_once(points: float, max_drop: float) -> None:
    judge = _TableJudge({frozenset("s"): points})
    passed = _pass(judge, candidates=_forbidden(), max_drop=max_drop)
    assert (passed.model, passed.kept, passed.put_back) == (b"s", {"s"}, {})
    assert passed.accuracy.map50_95 == points / 100
    assert (judge.built, judge.judged) == ([{"s"}], [{"s"}])


@pytest.mark.parametrize(
    ("points", "put_back"),
    [
        ([58, 59.5], {"c": 2}),
        ([50, 55, 58, 59.5], {"c": 10, "a": 5, "b": 2}),
        ([58, 57, 59.5], {"c": 2, "a": 3}),
    ],
    ids=["one", "all", "worse in between"],
)
def test_it_puts_back_in_order_until_it_holds(points: list[float], put_back: dict[str, float]) -> None:
    judge = _TableJudge(_table("s", "cab", points))
    passed = _pass(judge, candidates=iter("cab"))
    assert list(passed.put_back) == list(put_back)
    assert passed.put_back == pytest.approx(put_back), "the drop that made it do so"
    assert passed.kept == {"s", *put_back}
    assert passed.model == ",".join(sorted({"s", *put_back})).encode()
    assert passed.accuracy.map50_95 == points[-1] / 100
    assert len(judge.judged) == len(judge.built) == len(points), "and no further"


@pytest.mark.parametrize(
    ("points", "candidates", "parts"),
    [
        ([50], "", ["loses 10.00 points", "1 allowed", "0 more layers"]),
        ([50, 58, 57.5], "ca", ["the test", "loses 2.00 points", "at best", "2 more layers", "--max-drop"]),
        ([0, 0, 0, 0], "cab", ["loses 60.00 points", "3 more layers", "nothing was written"]),
    ],
)
def test_it_fails_with_its_numbers(points: list[float], candidates: str, parts: list[str]) -> None:
    with pytest.raises(ExportError) as error:
        _pass(_TableJudge(_table("s", candidates, points)), candidates=iter(candidates))
    for part in parts:
        assert part in str(error.value), error.value


def test_what_is_known_is_not_measured_again() -> None:
    judge = _TableJudge(_table("s", "c", [55, 59.5]))
    steps: list[tuple[int, int]] = []
    passed = pass_gate(
        judge,  # type: ignore[arg-type]
        judge.build, start=frozenset("s"), candidates=["c"], max_drop=1.0, what="the test",
        first=(b"known", _accuracy(55)), progress=lambda _, done, total: steps.append((done, total)),
    )  # fmt: skip
    assert judge.built == [{"s", "c"}]
    assert passed.put_back == pytest.approx({"c": 5})
    assert steps == [(1, 0)]
    same = pass_gate(
        judge,  # type: ignore[arg-type]
        judge.build, start=frozenset("s"), candidates=_forbidden(), max_drop=9.0, what="the test",
        first=(b"known", _accuracy(55)),
    )  # fmt: skip
    assert same.model == b"known"


def test_an_accuracy_that_is_no_number_does_not_pass() -> None:
    with pytest.raises(ExportError):
        _pass(_TableJudge({frozenset("s"): float("nan")}), candidates=iter(""))
