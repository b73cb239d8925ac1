"""Loads as a person writes them, and what is no load."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trt_yolo.bench.loads import Scenario, poisson_arrivals, scenario_words, split_words
from trt_yolo.bench.options import (
    BenchOptions,
    layouts_of,
    milliseconds_of,
    numbers_of,
    scopes_of,
    share_of,
)
from trt_yolo.bench.subject import Layout
from trt_yolo.errors import InputError
from trt_yolo.runtime.options import RuntimeOptions


@pytest.mark.parametrize(("words", "models", "scenarios"), [
    ([], [], []),
    (["a.onnx"], ["a.onnx"], []),
    (["a.onnx", "b.engine", "offline"], ["a.onnx", "b.engine"], [("offline", 1)]),
    (["multi-stream", "4", "yolov8n"], ["yolov8n"], [("multi-stream", 4)]),
    (["a.onnx", "cameras:8", "single-stream"], ["a.onnx"], [("cameras", 8), ("single-stream", 1)]),
    (["./server", "server"], ["./server"], [("server", 1)]),
])  # fmt: skip
def test_words(words: list[str], models: list[str], scenarios: list[tuple[str, int]]) -> None:
    assert split_words(words) == (models, scenarios)


@pytest.mark.parametrize(("words", "part"), [
    (["servr"], "did you mean server"),
    (["Offline"], "did you mean offline"),
    (["multi-stream"], "followed by nothing"),
    (["multi-stream", "a.onnx"], "followed by a.onnx"),
    (["cameras", "-1"], "followed by -1"),
    (["a.onnx", "4"], "no scenario '4'"),
])  # fmt: skip
def test_words_that_are_neither(words: list[str], part: str) -> None:
    with pytest.raises(InputError, match=part):
        split_words(words)


@pytest.mark.parametrize(("text", "words"), [
    ("server", ["server"]), ("cameras 4", ["cameras", "4"]),
    ("offline,multi-stream:2", ["offline", "multi-stream", "2"]),
])  # fmt: skip
def test_the_option(text: str, words: list[str]) -> None:
    assert scenario_words(text) == words


@pytest.mark.parametrize("text", ["", "foo", "offline,", "4"])
def test_an_option_that_is_no_scenario(text: str) -> None:
    with pytest.raises(InputError, match="there are single-stream, multi-stream, server"):
        scenario_words(text)


@pytest.mark.parametrize("values", [
    {"name": "server", "rate": 0}, {"name": "server", "rate": -1}, {"name": "server", "rate": float("nan")},
    {"name": "cameras", "count": 0}, {"name": "cameras", "fps": 0}, {"name": "cameras", "fps": 1e9},
    {"name": "multi-stream", "count": 5000},
])  # fmt: skip
def test_numbers_that_make_no_load(values: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="give"):
        Scenario(**values)


@pytest.mark.parametrize(("values", "part"), [
    ({"scenarios": (Scenario(name="server"),)}, "server needs --rate"),
    ({"find_rate": True, "p99_ms": 20.0}, "--find-rate is for the scenario server"),
    ({"find_rate": True, "scenarios": (Scenario(name="server"),)}, "--p99 20ms"),
    ({"kill_every_s": 2.0}, "needs worker processes"),
    ({"kill_every_s": 0.0, "layouts": (Layout(runtime=RuntimeOptions(workers=1)),)}, "give seconds from 0.2"),
    ({"models": ("a.onnx", "a.onnx")}, "the same model twice"),
    ({"seed": -1}, "--seed -1"),
])  # fmt: skip
def test_options_that_do_not_go_together(values: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        BenchOptions(**values)


def test_a_sweep_asks_for_the_latency_of_its_batches() -> None:
    layouts = layouts_of(batches=[1, 4], workers=[0, 2], threads=[None], streams=[None])
    assert [(one.batch, one.runtime.workers) for one in layouts] == [(1, 0), (1, 2), (4, 0), (4, 2)]
    options = BenchOptions(layouts=layouts)
    assert [one.label for one in options.scenarios_for(4)] == ["multi-stream 4", "offline"]
    assert [one.label for one in options.scenarios_for(1)] == ["single-stream", "offline"]
    with pytest.raises(InputError, match="for ever"):
        layouts_of(batches=list(range(1, 40)), workers=[0, 1], threads=[None], streams=[None])


def test_what_options_mean() -> None:
    assert numbers_of("1,2, 4,2", "--batch") == [1, 2, 4]
    assert [milliseconds_of(text, "--p99") for text in ("20ms", "0.5s", "20", "250us")] == [20, 500, 20, 0.25]
    assert [share_of(text, "--tolerance") for text in ("5%", "0.05", "0")] == [0.05, 0.05, 0]
    assert scopes_of("engine, e2e") == ("e2e", "engine")


@pytest.mark.parametrize(("call", "text"), [
    (numbers_of, "1,x"), (numbers_of, ""), (numbers_of, "-1"), (milliseconds_of, "fast"), (milliseconds_of, "0ms"),
    (milliseconds_of, "-5ms"), (milliseconds_of, "nan"), (share_of, "200%"), (share_of, "x"), (share_of, "-1%"),
])  # fmt: skip
def test_what_options_cannot_mean(call: Any, text: str) -> None:
    with pytest.raises(InputError, match="--some"):
        call(text, "--some")


def test_a_scope_that_there_is_not() -> None:
    with pytest.raises(InputError, match="no scope 'gpu'"):
        scopes_of("e2e,gpu")


def test_arrivals_are_poisson_and_the_same_for_a_seed() -> None:
    arrivals_s = poisson_arrivals(100, 100, seed=1)
    gaps_s = np.diff(arrivals_s)
    assert arrivals_s == poisson_arrivals(100, 100, seed=1)
    assert arrivals_s != poisson_arrivals(100, 100, seed=2)
    assert len(arrivals_s) == pytest.approx(10_000, rel=0.03)
    assert gaps_s.mean() == pytest.approx(gaps_s.std(), rel=0.05)  # as of an exponential distribution
    assert np.mean(gaps_s > 0.01) == pytest.approx(np.exp(-1), rel=0.05)
    assert arrivals_s[-1] < 100


def test_a_rate_too_low_for_its_time_has_one_arrival() -> None:
    assert len(poisson_arrivals(0.001, 1.0, seed=0)) == 1
