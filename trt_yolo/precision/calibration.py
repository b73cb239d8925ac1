"""What calibration knows of a network: a range for each tensor that is quantized, and what its bias loses.

Enters: a network and the histograms of its tensors. Leaves: a `Calibration` for each target and method.
Does not know graphs of Q/DQ nodes (`int8_from_float.py`, `int8_for_cpu.py`), images or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from trt_yolo.errors import ExportError
from trt_yolo.precision.network import Network
from trt_yolo.precision.observer import Observed
from trt_yolo.precision.scales import Histogram, Method, asymmetric_range, raised, symmetric_limit

Target = Literal["tensorrt", "cpu"]

Weights = npt.NDArray[np.float32]
Means = npt.NDArray[np.float64]

_LEVELS = 127  # of int8 on either side of zero; weights do not use -128
SILU_FLOOR = -8.0  # SiLU makes less than 0.003 of anything below
_LEAST_SCALE = 2.0**-14  # FP16's smallest normal number


@dataclass(frozen=True, kw_only=True)
class Activation:
    """How a tensor becomes 8 bits: `round(value / scale) + zero`, clipped.

    Attributes:
        scale: A number that FP16 holds, for TensorRT.
        zero: 0 for TensorRT's symmetric int8; for a CPU's uint8 what stands for 0.0, 0 to 255.
    """

    scale: float
    zero: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Calibration:
    """What one method found.

    Attributes:
        target: Whose 8 bits they are.
        method: The method that chose the ranges.
        activations: For each tensor that is quantized.
        bias_shifts: For each convolution, by its output, (channels,) float64: what quantization takes from the
            mean of each output channel, to be added to its bias.
    """

    target: Target
    method: Method
    activations: dict[str, Activation]
    bias_shifts: dict[str, Means]


def calibration_of(
    network: Network, observed: Mapping[str, Observed], method: Method, *, target: Target
) -> Calibration:
    """Ranges of the observed tensors, and bias corrections of the quantizable convolutions.

    Args:
        network: The network.
        observed: The tensors that the target quantizes; at least all that quantizable convolutions read.
        method: How ranges are chosen.
        target: Whose 8 bits.
    """
    before_silu = network.before_silu
    activations = {
        tensor: _symmetric(one.histogram, method)
        if target == "tensorrt"
        else _asymmetric(
            raised(one.histogram, SILU_FLOOR) if tensor in before_silu else one.histogram, method
        )
        for tensor, one in observed.items()
    }
    weights = {tensor.name: tensor for tensor in network.model.graph.initializer}
    shifts = {
        one.output: bias_shift(
            numpy_helper.to_array(weights[one.weight]),
            observed[one.input],
            quantized(observed[one.input].centres, activations[one.input], target),
        )
        for one in network.quantizable
    }
    return Calibration(target=target, method=method, activations=activations, bias_shifts=shifts)


def quantized(values: Means, activation: Activation, target: Target) -> Means:
    """What 8 bits make of values."""
    low, high = (-128, 127) if target == "tensorrt" else (0, 255)
    levels = np.clip(np.rint(values / activation.scale) + activation.zero, low, high)
    return np.asarray((levels - activation.zero) * activation.scale)


def quantized_weights(weight: Weights) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Weights as (Cout, ...) int8, and the (Cout,) float32 scales of their output channels, which FP16 holds."""
    largest = np.abs(weight).reshape(len(weight), -1).max(axis=1)
    scales = np.array([_held_by_fp16(float(one) / _LEVELS) for one in largest], np.float32)
    levels = np.rint(weight / _column(scales, weight.ndim))
    return np.clip(levels, -_LEVELS, _LEVELS).astype(np.int8), scales


def bias_shift(weight: Weights, observed: Observed, after: Means) -> Means:
    """(Cout,): mean of each output channel before quantization less after, from the inputs' histograms.

    M. Nagel et al., "Data-free quantization through weight equalization and bias correction", 2019; there the
    means come from batch normalization. Padding at the borders is not seen.

    Args:
        weight: (Cout, Cin / groups, h, w).
        observed: The input.
        after: (bins,) what each bin's centre becomes.
    """
    counts = observed.counts.astype(np.float64)
    total = np.maximum(counts.sum(axis=1), 1)
    levels, scales = quantized_weights(weight)
    rounded = levels * _column(scales, weight.ndim).astype(np.float64)
    means = np.stack([counts @ observed.centres / total, counts @ after / total])  # (2, Cin)
    groups = means.shape[1] // weight.shape[1]
    of_group = np.repeat(np.arange(groups), len(weight) // groups)  # (Cout,)
    means = means.reshape(2, groups, -1)[:, of_group]  # (2, Cout, Cin / groups)
    taps = np.stack([weight.astype(np.float64), rounded]).sum(axis=(3, 4))
    before_after = (taps * means).sum(axis=2)  # (2, Cout)
    return np.asarray(before_after[0] - before_after[1])


def _symmetric(histogram: Histogram, method: Method) -> Activation:
    return Activation(scale=_held_by_fp16(symmetric_limit(histogram, method) / _LEVELS), zero=0)


def _asymmetric(histogram: Histogram, method: Method) -> Activation:
    low, high = asymmetric_range(histogram, method)
    scale = (high - low) / 255
    return Activation(scale=scale, zero=int(np.clip(np.rint(-low / scale), 0, 255)))


def _held_by_fp16(scale: float) -> float:
    """The smallest normal FP16 number that is not below the scale."""
    if scale > float(np.finfo(np.float16).max):
        raise ExportError(
            f"the model has weights or values of {scale * _LEVELS:.3g}, which int8 with FP16 scales cannot hold; "
            "its training diverged, export it in FP32"
        )
    half = np.float16(max(scale, _LEAST_SCALE))
    return float(half if float(half) >= scale else np.nextafter(half, np.float16(np.inf)))


def _column(scales: npt.NDArray[np.float32], dimensions: int) -> npt.NDArray[np.float32]:
    return scales.reshape(-1, *[1] * (dimensions - 1))
