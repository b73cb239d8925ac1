"""Weights in 8 bits, scales that FP16 holds, and the bias that quantization takes, measured by ONNX Runtime."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.precision import graphs
from trt_yolo.backends.base import images_for_head
from trt_yolo.backends.onnxruntime import open_session
from trt_yolo.errors import ExportError
from trt_yolo.graph.writer import FLOAT, value_info
from trt_yolo.precision.calibration import (
    SILU_FLOOR,
    Activation,
    Target,
    bias_shift,
    calibration_of,
    quantized,
    quantized_weights,
)
from trt_yolo.precision.int8_for_cpu import cpu_network
from trt_yolo.precision.observer import BINS, Observed
from trt_yolo.precision.scales import METHODS, Method

LEAST_SCALE = 2.0**-14


def _observed(values: graphs.Floats) -> Observed:
    """Of (N, channels, H, W)."""
    low, high = float(values.min()), float(values.max())
    channels = values.swapaxes(0, 1).reshape(values.shape[1], -1)
    counts = [np.histogram(one.astype(np.float64), BINS, (low, high))[0] for one in channels]
    return Observed(low, high, np.array(counts, np.uint32))


def _with_image(observed: dict[str, Observed]) -> dict[str, Observed]:
    """With what the first convolution reads, which TensorRT quantizes too."""
    name = graphs.demo_network().input
    return observed | {name: graphs.demo_observed()[name]}


def _assert_weights_hold(weight: graphs.Floats) -> None:
    levels, scales = quantized_weights(weight)
    assert (levels.dtype, scales.dtype) == (np.int8, np.float32)
    assert levels.shape == weight.shape
    assert scales.shape == (len(weight),)
    assert levels.min() >= -127
    np.testing.assert_array_equal(scales.astype(np.float16).astype(np.float32), scales)
    assert (scales >= LEAST_SCALE).all()
    column = scales.reshape(-1, *[1] * (weight.ndim - 1)).astype(np.float64)
    assert (np.abs(levels * column - weight) <= column / 2 * (1 + 1e-6)).all()
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    normal = largest > 127 * LEAST_SCALE
    used = np.abs(levels.astype(np.int64)).reshape(len(weight), -1).max(axis=1)
    assert (used[normal] >= 126).all(), "each channel uses its range"


def test_weights_of_the_demo() -> None:
    weights = graphs.initializers(graphs.demo_network().model)
    for one in graphs.demo_network().convolutions:
        _assert_weights_hold(weights[one.weight])


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), magnitude=st.floats(1e-6, 1e4), spread=st.floats(0, 3))
def test_weights_of_any_size(seed: int, magnitude: float, spread: float) -> None:
    rng = np.random.default_rng(seed)
    per_channel = magnitude * 10 ** rng.normal(0, spread, (6, 1, 1, 1))
    _assert_weights_hold((rng.normal(0, 1, (6, 3, 3, 3)) * np.minimum(per_channel, 1e5)).astype(np.float32))


@pytest.mark.parametrize(
    ("channel", "scale", "levels"),
    [
        ([0, 0, 0, 0], LEAST_SCALE, [0, 0, 0, 0]),
        ([1e-9, -1e-9, 0, 0], LEAST_SCALE, [0, 0, 0, 0]),
        ([LEAST_SCALE, -3 * LEAST_SCALE, 0, 0], LEAST_SCALE, [1, -3, 0, 0]),
        ([127, -127, 64, -1], 1.0, [127, -127, 64, -1]),
        ([63.5, -63.5, 0.5, 0.2], 0.5, [127, -127, 1, 0]),
        ([127 * 2.0**-10, 0, 0, 0], 2.0**-10, [127, 0, 0, 0]),
        ([127 * 1.0001, 0, 0, 0], 1 + 2.0**-10, [127, 0, 0, 0]),
    ],
)
def test_weights_by_hand(channel: list[float], scale: float, levels: list[int]) -> None:
    weight = np.array([channel, [1, 2, 3, 4]], np.float32).reshape(2, 1, 2, 2)
    got, scales = quantized_weights(weight)
    assert scales[0] == scale
    assert got[0].ravel().tolist() == levels
    assert got[1].ravel().tolist() == [32, 63, 95, 127]


@pytest.mark.parametrize(
    ("target", "magnitude"),
    [("tensorrt", 1e3), ("tensorrt", 1e6), ("cpu", 1e3), ("cpu", 1e6), ("cpu", 1e7), ("cpu", 1e9)],
)
def test_scales_are_finite_however_large_the_values(target: Target, magnitude: float) -> None:
    network = graphs.demo_network()
    counts = np.ones((1, BINS), np.uint32)
    observed = {one.input: graphs.demo_observed()[one.input] for one in network.quantizable}
    observed["beside"] = Observed(-magnitude, magnitude, counts)
    found = calibration_of(network, observed, "minmax", target=target).activations["beside"]
    assert np.isfinite(np.float32(found.scale))
    assert np.isfinite(quantized(np.array([magnitude]), found, target)).all()


def test_what_fp16_scales_cannot_hold_is_an_error() -> None:
    with pytest.raises(ExportError, match="1e\\+07, which int8"):
        quantized_weights(np.full((1, 1, 1, 1), 1e7, np.float32))
    network = graphs.demo_network()
    observed = {one.input: graphs.demo_observed()[one.input] for one in network.quantizable}
    observed["beside"] = Observed(-1e7, 1e7, np.ones((1, BINS), np.uint32))
    with pytest.raises(ExportError, match="cannot hold"):
        calibration_of(network, observed, "minmax", target="tensorrt")


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_scale_that_fp16_holds(sign: int) -> None:
    largest = np.float32(65504 * 127)
    levels, scales = quantized_weights(np.full((1, 1, 1, 1), sign * largest, np.float32))
    assert (levels.item(), scales.item()) == (sign * 127, 65504)
    above = np.nextafter(largest, np.float32(np.inf))
    for value in (above, np.float32(np.inf)):
        with pytest.raises(ExportError, match="which int8 with FP16 scales cannot hold"):
            quantized_weights(np.full((1, 1, 1, 1), sign * value, np.float32))


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_weights_that_fp16_scales_cannot_hold_are_an_error_for_either_target(target: Target) -> None:
    network = cpu_network(graphs.demo_network())
    model = onnx.ModelProto()
    model.CopyFrom(network.model)
    (tensor,) = (one for one in model.graph.initializer if one.name == network.quantizable[4].weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1e9), tensor.name))
    observed = {one.input: graphs.demo_observed()[one.input] for one in network.quantizable}
    with pytest.raises(ExportError, match="its training diverged, export it in FP32"):
        calibration_of(dataclasses.replace(network, model=model), observed, "minmax", target=target)


@pytest.mark.parametrize("method", METHODS)
def test_activations_for_tensorrt(method: Method) -> None:
    network, observed = graphs.demo_network(), graphs.demo_observed()
    calibration = graphs.demo_calibration("tensorrt", method)
    assert calibration.target == "tensorrt"
    assert calibration.method == method
    assert calibration.activations.keys() == {one.input for one in network.quantizable}
    assert calibration.bias_shifts.keys() == {one.output for one in network.quantizable}
    for name, activation in calibration.activations.items():
        assert activation.zero == 0
        assert float(np.float16(activation.scale)) == activation.scale
        largest = max(-observed[name].low, observed[name].high)
        assert activation.scale * 127 <= largest * (1 + 2.0**-10)
        if method == "minmax":
            assert activation.scale * 127 >= largest * (1 - 1e-6), "FP16 rounds up: nothing is clipped"


@pytest.mark.parametrize("method", METHODS)
def test_activations_for_a_cpu(method: Method) -> None:
    network, observed = cpu_network(graphs.demo_network()), graphs.demo_observed()
    calibration = graphs.demo_calibration("cpu", method)
    assert calibration.target == "cpu"
    assert calibration.method == method
    assert calibration.activations.keys() == observed.keys() - {network.input}
    assert calibration.bias_shifts.keys() == {one.output for one in network.quantizable}
    assert len(calibration.bias_shifts) == 56
    assert len(network.before_silu) == 57
    for name, activation in calibration.activations.items():
        assert isinstance(activation.zero, int)
        assert 0 <= activation.zero <= 255
        assert activation.scale > 0
        assert quantized(np.zeros(1), activation, "cpu")[0] == 0, "zero is exact: padding is of zeros"
        low, high = quantized(np.array([-np.inf, np.inf]), activation, "cpu")
        floor = SILU_FLOOR if name in network.before_silu else -np.inf
        assert low >= min(max(observed[name].low, floor), 0) - activation.scale
        assert high <= max(observed[name].high, 0) + activation.scale
        if method == "minmax":
            assert low <= max(observed[name].low, floor) + activation.scale
            assert high >= observed[name].high - activation.scale


@pytest.mark.parametrize(
    ("method", "low"), [*((method, -30.0) for method in METHODS), ("minmax", -8.5), ("minmax", -1000.0)]
)
def test_before_silu_nothing_is_represented_below_its_floor(method: Method, low: float) -> None:
    """Only where SiLU alone reads, and only for a CPU: TensorRT has no 8 bits there."""
    network = cpu_network(graphs.demo_network())
    observed = {one.input: graphs.demo_observed()[one.input] for one in network.quantizable}
    before, beside = network.quantizable[4].output, network.quantizable[4].input
    assert before in network.before_silu
    assert beside not in network.before_silu
    channels = observed[beside].counts.shape[0]
    observed[before] = observed[beside] = Observed(low, 10.0, np.ones((channels, BINS), np.uint32))
    found = calibration_of(network, observed, method, target="cpu").activations
    lowest = {name: -one.zero * one.scale for name, one in found.items()}
    assert lowest[before] >= SILU_FLOOR - found[before].scale / 2, "zero is rounded to a level"
    assert lowest[beside] < SILU_FLOOR - found[beside].scale / 2, "the check can fail"
    if method == "minmax":
        np.testing.assert_allclose(found[before].scale, (10 - SILU_FLOOR) / 255, rtol=1e-9)
        np.testing.assert_allclose(found[beside].scale, (10 - low) / 255, rtol=1e-9)
        alike = calibration_of(graphs.demo_network(), _with_image(observed), method, target="tensorrt")
        assert alike.activations[before] == alike.activations[beside]


def test_what_is_above_the_floor_of_silu_keeps_its_range() -> None:
    network = cpu_network(graphs.demo_network())
    observed = {one.input: graphs.demo_observed()[one.input] for one in network.quantizable}
    name = network.quantizable[4].output
    observed[name] = Observed(-7.5, 10.0, np.ones((1, BINS), np.uint32))
    found = calibration_of(network, observed, "minmax", target="cpu").activations[name]
    np.testing.assert_allclose(found.scale, 17.5 / 255, rtol=1e-9)
    assert found.zero == round(7.5 / 17.5 * 255)


@pytest.mark.parametrize(
    ("target", "activation", "lowest", "highest"),
    [
        ("tensorrt", Activation(scale=0.5, zero=0), -64.0, 63.5),
        ("cpu", Activation(scale=0.5, zero=0), 0.0, 127.5),
        ("cpu", Activation(scale=0.5, zero=10), -5.0, 122.5),
        ("cpu", Activation(scale=0.5, zero=255), -127.5, 0.0),
    ],
)
def test_quantized_clips_and_rounds(
    target: Target, activation: Activation, lowest: float, highest: float
) -> None:
    assert quantized(np.array([-1e9, 1e9]), activation, target).tolist() == [lowest, highest]
    inside = np.linspace(lowest, highest, 1001)
    got = quantized(inside, activation, target)
    assert np.abs(got - inside).max() <= activation.scale / 2
    np.testing.assert_array_equal(got / activation.scale, np.rint(got / activation.scale))


def _convolve(values: graphs.Floats, weight: graphs.Floats, groups: int) -> graphs.Floats:
    """Without padding, in float64's stead by ONNX Runtime in float32."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], group=groups)],
        "made",
        [value_info("x", FLOAT, list(values.shape))],
        [value_info("y", FLOAT, ["n", "c", "h", "w"])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return open_session(model.SerializeToString(), threads=graphs.THREADS).run(None, {"x": values})[0]


@pytest.mark.parametrize(
    ("channels_in", "channels_out", "groups", "side"),
    [(4, 6, 1, 1), (4, 6, 1, 3), (4, 8, 2, 3), (6, 6, 6, 3), (6, 12, 6, 5)],
    ids=["1x1", "3x3", "grouped", "depthwise", "depthwise of two"],
)
@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_bias_shift_is_the_mean_that_is_lost(
    channels_in: int, channels_out: int, groups: int, side: int, target: Target
) -> None:
    rng = np.random.default_rng(7)
    # alike everywhere, so that borders, which not all taps see, do not count; far from zero's middle
    spread = np.linspace(1, 2, channels_in)[:, None, None]
    values = (4 * rng.beta(1, 3, (2, channels_in, 160, 160)) * spread - 0.5).astype(np.float32)
    weight = rng.normal(0.05, 0.2, (channels_out, channels_in // groups, side, side)).astype(np.float32)
    weight *= np.geomspace(0.05, 4, channels_out).astype(np.float32).reshape(-1, 1, 1, 1)
    limit = float(np.quantile(values, 0.9))  # a tenth is clipped: much is lost
    activation = (
        Activation(scale=limit / 127, zero=0)
        if target == "tensorrt"
        else Activation(scale=limit / 240, zero=15)
    )
    observed = _observed(values)
    shift = bias_shift(weight, observed, quantized(observed.centres, activation, target))
    levels, scales = quantized_weights(weight)
    after = _convolve(
        quantized(values.astype(np.float64), activation, target).astype(np.float32),
        levels * scales.reshape(-1, 1, 1, 1),
        groups,
    )
    lost = _convolve(values, weight, groups).astype(np.float64) - after
    measured = lost.mean(axis=(0, 2, 3))
    bin_width = (observed.high - observed.low) / BINS
    gain = np.abs(weight).sum(axis=(1, 2, 3))
    assert (np.abs(shift - measured) <= gain * bin_width + 0.02 * np.abs(measured).max()).all()
    assert np.median(np.abs(measured) / (gain * bin_width)) > 3, "the check can fail"


def test_bias_shift_of_nothing_lost_is_the_weights_rounding() -> None:
    rng = np.random.default_rng(8)
    observed = _observed(rng.random((1, 3, 40, 40), np.float32))
    weight = rng.integers(-127, 128, (5, 3, 3, 3)).astype(np.float32) / 1024
    weight[:, 0, 0, 0] = 127 / 1024
    np.testing.assert_allclose(bias_shift(weight, observed, observed.centres), 0, atol=1e-12)


def test_bias_correction_brings_means_back() -> None:
    """The demo's own convolutions: with the shift, the mean of each output is closer to that of float."""
    network, observed = graphs.demo_network(), graphs.demo_observed()
    calibration = graphs.demo_calibration("tensorrt", "mse")
    weights: dict[str, Any] = graphs.initializers(network.model)
    one = network.quantizable[9]
    images = graphs.demo_frames(8, 100)
    before = after = 0.0
    for image in images:
        values = graphs.run_showing(network.model, [one.input], images_for_head(image[None]))[one.input]
        levels, scales = quantized_weights(weights[one.weight])
        rounded = quantized(values.astype(np.float64), calibration.activations[one.input], "tensorrt")
        before = before + _convolve(values, weights[one.weight], 1).mean(axis=(0, 2, 3))
        after = after + _convolve(rounded.astype(np.float32), levels * scales.reshape(-1, 1, 1, 1), 1).mean(
            axis=(0, 2, 3)
        )
    lost = (before - after) / len(images)
    left = lost - calibration.bias_shifts[one.output]
    assert np.abs(left).mean() < 0.35 * np.abs(lost).mean()
    assert observed[one.input].counts.shape[0] == weights[one.weight].shape[1]
