"""What was found inside a model file.

Enters: what a reader (`from_checkpoint.py`, `from_onnx.py`, an engine's) found. Leaves: sums by precision, JSON.
Knows no file formats.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from trt_yolo.artifacts.manifest import Manifest

Format = Literal["pt", "onnx", "engine"]
Precision = Literal[
    "int4", "int8", "uint8", "int16", "int32", "int64", "bool",
    "fp4", "fp8", "fp16", "bf16", "fp32", "fp64", "mixed", "",
]  # fmt: skip
Multiplying = Literal["convolution", "matrix product", ""]
QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A tensor of a graph.

    Attributes:
        name: Its name.
        dtype: A `Precision`, or what the file calls another type; empty where unknown.
        shape: Sizes; names, perhaps empty, where they are dynamic or unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One step of a model.

    Attributes:
        name: For people.
        kind: What it does, in its format's own words: `Conv`, `C2f`, `CaskConvolution`.
        precision: What it computes in; `mixed` where its tensors differ, empty where unknown.
        inputs: Names of the tensors that it reads; stored weights and constants are none.
        outputs: Names of the tensors that it makes.
        parameters: Weights and biases, counted.
        macs: Multiply-accumulates for one image; None where shapes do not tell, or the layer does none.
        time_ms: What it takes, in milliseconds; None where nobody measured.
        multiplies: What of the two it is, whatever its format calls it; empty where it is neither.
    """

    name: str
    kind: str
    precision: Precision
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    parameters: int = 0
    macs: int | None = None
    time_ms: float | None = None
    multiplies: Multiplying = ""


@dataclass(frozen=True)
class Share:
    """What layers of one precision amount to.

    Attributes:
        layers: How many.
        convolutions: How many of them are convolutions.
        products: How many of them are matrix products.
        parameters: Of all of them.
        macs: Of those where it is known, for one image.
        time_ms: Of those that were measured.
    """

    layers: int
    convolutions: int
    products: int
    parameters: int
    macs: int
    time_ms: float


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """A model file, understood.

    Attributes:
        path: The file, as it was given.
        format: What its content is, whatever its suffix says.
        bytes: Its size, with the files that its weights are kept in.
        inputs: What it takes; of a checkpoint, what its head graph would take.
        outputs: What it gives.
        parameters: Weights and biases, counted.
        layers: In their order; Q/DQ among them, constants not.
        tensors: Of the layers, as far as they are known.
        quantize_nodes: QuantizeLinear nodes; None where the format has none.
        dequantize_nodes: DequantizeLinear nodes.
        facts: What else the file says, by its name for people: opset, producer, strides.
        notes: What is wrong or missing, one sentence each.
        manifest: What trt-yolo or Ultralytics wrote into it; None where there is none that can be read.
        loads_here: Whether this machine's runtime takes it; None where nobody asked.
        why_not: Why it does not.
    """

    path: str
    format: Format
    bytes: int
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: int
    layers: tuple[Layer, ...]
    tensors: tuple[Tensor, ...] = ()
    quantize_nodes: int | None = None
    dequantize_nodes: int | None = None
    facts: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    manifest: Manifest | None = None
    loads_here: bool | None = None
    why_not: str = ""

    @property
    def precisions(self) -> dict[str, Share]:
        """All layers but Q/DQ by precision, the most work first."""
        return _shares(one for one in self.layers if one.kind not in (QUANTIZE, DEQUANTIZE))

    @property
    def multiplying(self) -> dict[str, Share]:
        """Convolutions and matrix products by precision, the most work first."""
        return _shares(one for one in self.layers if one.multiplies)

    @property
    def headline(self) -> str:
        """What people ask first: `int8: 57 convolutions, 85.4% of multiply-accumulates; fp32: 7 ...`."""
        groups = self.multiplying
        total = sum(share.macs for share in groups.values())
        parts = []
        for precision, share in groups.items():
            work = f", {100 * share.macs / total:.1f}% of multiply-accumulates" if total else ""
            parts.append(f"{precision or 'unknown'}: {_layers_of(share)}{work}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """All of it, and the sums, as what `json.dumps` takes."""
        return {
            **dataclasses.asdict(self),
            "precisions": {key: dataclasses.asdict(share) for key, share in self.precisions.items()},
            "multiplying": {key: dataclasses.asdict(share) for key, share in self.multiplying.items()},
            "headline": self.headline,
        }


def _shares(layers: Iterable[Layer]) -> dict[str, Share]:
    """Layers summed by precision: the most multiply-accumulates first, then the most layers."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.precision, []).append(layer)
    summed = {
        precision: Share(
            layers=len(group),
            convolutions=sum(one.multiplies == "convolution" for one in group),
            products=sum(one.multiplies == "matrix product" for one in group),
            parameters=sum(one.parameters for one in group),
            macs=sum(one.macs or 0 for one in group),
            time_ms=sum(one.time_ms or 0.0 for one in group),
        )
        for precision, group in groups.items()
    }
    return dict(sorted(summed.items(), key=lambda item: (-item[1].macs, -item[1].layers, item[0])))


def amount(count: int) -> str:
    """A large number with three digits: `3.15 M`."""
    for unit, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= unit:
            return f"{count / unit:.{2 if count < 10 * unit else 1 if count < 100 * unit else 0}f} {letter}"
    return str(count)


def shape_text(shape: Iterable[int | str]) -> str:
    """A shape for people: `1 x 3 x ? x 640`."""
    return " x ".join(str(side) if side != "" else "?" for side in shape)


def _layers_of(share: Share) -> str:
    counts = ((share.convolutions, "convolution"), (share.products, "matrix product"))
    return " and ".join(_counted(count, noun) for count, noun in counts if count)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
