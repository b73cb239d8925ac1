"""The picture's boxes and edges: layers without what only surrounds them.

Enters: an `Inspection`. Leaves: boxes and the edges between them. Q/DQ become marks of an edge; a convolution, its
Sigmoid and the Mul of both become one box. Knows neither places nor HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trt_yolo.inspection.inspection import DEQUANTIZE, QUANTIZE, Inspection, Layer, Precision, Tensor

INPUT, OUTPUT = "input", "output"


@dataclass(frozen=True, kw_only=True)
class Box:
    """One box.

    Attributes:
        kind: What it does; `input` and `output` are the model's.
        name: Of its first layer, or of the model's tensor.
        precision: Of its first layer.
        shape: Of what it makes.
        layers: The layers in it; none in the model's inputs and outputs.
    """

    kind: str
    name: str
    precision: Precision
    shape: tuple[int | str, ...]
    layers: tuple[Layer, ...] = ()

    @property
    def parameters(self) -> int:
        """Of all its layers."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def macs(self) -> int | None:
        """Of all its layers, as far as they are known."""
        known = [layer.macs for layer in self.layers if layer.macs is not None]
        return sum(known) if known else None

    @property
    def time_ms(self) -> float | None:
        """Of all its layers, as far as they were measured."""
        known = [layer.time_ms for layer in self.layers if layer.time_ms is not None]
        return sum(known) if known else None


@dataclass(frozen=True)
class Edge:
    """A tensor's way from one box to another, by their indices.

    Attributes:
        quantized: The type that Q/DQ on its way give it, such as `int8`; empty where there are none.
    """

    source: int
    target: int
    quantized: str


def fold(inspection: Inspection) -> tuple[list[Box], list[Edge]]:
    """The boxes and edges of a model's picture."""
    return _Folding(inspection).fold()


class _Folding:
    def __init__(self, inspection: Inspection) -> None:
        self._inspection = inspection
        quantizers = [one for one in inspection.layers if one.kind in (QUANTIZE, DEQUANTIZE)]
        self._quantizer = {name: one for one in quantizers for name in one.outputs}
        self._layers = [one for one in inspection.layers if one.kind not in (QUANTIZE, DEQUANTIZE)]
        self._reads = [[self._origin(name) for name in one.inputs] for one in self._layers]
        self._maker: dict[str, int] = {}  # box of a tensor
        self._readers: dict[str, list[int]] = {}
        for index, layer in enumerate(self._layers):
            for name in layer.outputs:
                self._maker.setdefault(name, index)
            for name, _ in self._reads[index]:
                self._readers.setdefault(name, []).append(index)
        known = (*inspection.tensors, *inspection.outputs)
        self._shapes = {tensor.name: tensor.shape for tensor in known}
        self._results = {self._origin(tensor.name)[0] for tensor in inspection.outputs}

    def fold(self) -> tuple[list[Box], list[Edge]]:
        groups = self._groups()
        boxes = [self._box([self._layers[index] for index in group]) for group in groups]
        box_of = {index: number for number, group in enumerate(groups) for index in group}
        edges: dict[Edge, None] = {}  # each once, in their order
        place = {name: box_of[index] for name, index in self._maker.items()}
        for tensor in self._inspection.inputs:
            if tensor.name not in place:
                place[tensor.name] = len(boxes)
                boxes.append(_end(INPUT, tensor))
        for index, reads in enumerate(self._reads):
            for name, quantized in reads:
                if name in place and place[name] != box_of[index]:
                    edges[Edge(place[name], box_of[index], quantized)] = None
        for tensor in self._inspection.outputs:
            name, quantized = self._origin(tensor.name)
            if name in place:
                edges[Edge(place[name], len(boxes), quantized)] = None
            boxes.append(_end(OUTPUT, tensor))
        return boxes, list(edges)

    def _origin(self, name: str) -> tuple[str, str]:
        """The tensor before all Q/DQ that lead to this one, and the type that they give it."""
        quantized, seen = "", set()
        while name in self._quantizer and name not in seen:
            seen.add(name)
            node = self._quantizer[name]
            quantized = quantized or node.precision or "8 bits"
            if not node.inputs:  # what is stored
                break
            name = node.inputs[0]
        return name, quantized

    def _groups(self) -> list[list[int]]:
        """Indices of the layers that share a box."""
        folded: set[int] = set()
        after: dict[int, list[int]] = {}
        for index in range(len(self._layers)):
            silu = self._silu(index)
            if silu and not folded.intersection(silu):
                after[index] = silu
                folded.update(silu)
        return [[index, *after.get(index, [])] for index in range(len(self._layers)) if index not in folded]

    def _silu(self, index: int) -> list[int]:
        """The Sigmoid and Mul of `x * Sigmoid(x)` behind a convolution; empty where it has none."""
        layer = self._layers[index]
        if layer.multiplies != "convolution" or len(layer.outputs) != 1 or layer.outputs[0] in self._results:
            return []
        readers = self._readers.get(layer.outputs[0], [])
        if sorted(self._layers[one].kind for one in readers) != ["Mul", "Sigmoid"]:
            return []
        sigmoid, mul = sorted(readers, key=lambda one: self._layers[one].kind, reverse=True)
        made = self._layers[sigmoid].outputs[:1]
        if any(self._readers.get(name) != [mul] or name in self._results for name in made):
            return []
        wanted = {layer.outputs[0], *made}
        return [sigmoid, mul] if {name for name, _ in self._reads[mul]} == wanted else []

    def _box(self, layers: Sequence[Layer]) -> Box:
        first, last = layers[0], layers[-1]
        return Box(
            kind=first.kind if len(layers) == 1 else f"{first.kind} + SiLU",
            name=first.name,
            precision=first.precision,
            shape=self._shapes.get(last.outputs[0], ()) if last.outputs else (),
            layers=tuple(layers),
        )


def _end(kind: str, tensor: Tensor) -> Box:
    return Box(kind=kind, name=tensor.name, precision="", shape=tensor.shape)
