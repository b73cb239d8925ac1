"""The layers of an ONNX graph, subgraphs included, and what each computes in.

Enters: an ONNX model, its shapes inferred as far as they could be. Leaves: `Layer`s and `Tensor`s.
Constants are no layers. A tensor of a subgraph is called after the node that holds it, so that two branches may
use the same names. Does not know files, manifests or runtimes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, get_args

import onnx

from trt_yolo.graph.writer import subgraphs, text_of
from trt_yolo.inspection.inspection import DEQUANTIZE, QUANTIZE, Layer, Multiplying, Precision, Tensor

_UNKNOWN_RANK = ("...",)
_FLOATS = frozenset({"fp4", "fp8", "fp16", "bf16", "fp32", "fp64"})
_DTYPES = {"FLOAT": "fp32", "FLOAT16": "fp16", "BFLOAT16": "bf16", "DOUBLE": "fp64", "UINT4": "int4"}
# Where the weights of an operator are, then its biases and other things that training learns.
_LEARNED: dict[str, tuple[int, ...]] = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "FusedConv": (1, 2), "Gemm": (1, 2), "FusedGemm": (1, 2),
    "MatMul": (1, 0), "FusedMatMul": (1, 0), "QLinearConv": (3, 8), "QLinearMatMul": (3, 0), "ConvInteger": (1,),
    "MatMulInteger": (1, 0), "BatchNormalization": (1, 2), "InstanceNormalization": (1, 2),
    "LayerNormalization": (1, 2), "GroupNormalization": (1, 2), "PRelu": (1,), "LSTM": (1, 2, 3),
    "GRU": (1, 2, 3), "RNN": (1, 2, 3), "Gather": (0,),
}  # fmt: skip
_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "QLinearConv", "ConvInteger", "ConvTranspose"})
_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "QLinearMatMul", "MatMulInteger", "Gemm", "FusedGemm"})
_PASSING = frozenset({QUANTIZE, "Cast", "Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze"})
_LONGEST_CHAIN = 16  # nodes between stored weights and who reads them; four would do


@dataclass
class Graph:
    """What was found: layers in their order, and the tensors that they make and read.

    Attributes:
        learned: Elements of every stored tensor that training learned, each once.
    """

    layers: list[Layer] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    learned: dict[str, int] = field(default_factory=dict)


def graph_of(model: onnx.ModelProto) -> Graph:
    """The layers of the model's graph, those of subgraphs before the node that holds them."""
    found = Graph()
    _Scope(model.graph, found, prefix="", outer=None).read()
    return found


def tensor_of(value: onnx.ValueInfoProto, *, prefix: str = "") -> Tensor:
    """A graph's input, output or inner tensor."""
    kind, name = value.type, prefix + text_of(value.name)
    if not kind.HasField("tensor_type"):
        return Tensor(name=name, dtype=kind.WhichOneof("value") or "", shape=_UNKNOWN_RANK)
    shape = tuple(_side(dim) for dim in kind.tensor_type.shape.dim)
    if not kind.tensor_type.HasField("shape"):
        shape = _UNKNOWN_RANK
    return Tensor(name=name, dtype=_dtype(kind.tensor_type.elem_type), shape=shape)


def _side(dim: Any) -> int | str:
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        return int(dim.dim_value)
    return text_of(dim.dim_param)


def _dtype(number: int) -> str:
    if number not in onnx.TensorProto.DataType.values():
        return ""
    name = str(onnx.TensorProto.DataType.Name(number))
    if name == "UNDEFINED":
        return ""
    if name.startswith(("FLOAT8", "FLOAT4")):
        return f"fp{name[5]}"
    return _DTYPES.get(name, name.lower())


def _known(dtype: str) -> Precision:
    return dtype if dtype in get_args(Precision) else ""  # type: ignore[return-value]


class _Scope:
    """One graph, and the graphs around it, whose tensors it may read."""

    def __init__(self, graph: onnx.GraphProto, found: Graph, *, prefix: str, outer: _Scope | None) -> None:
        self._graph = graph
        self._found = found
        self._prefix = prefix
        self._outer = outer
        self.tensors: dict[str, Tensor] = {}
        self.stored: dict[str, Tensor] = {}
        self.makers: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[str]] = {}
        self.results = {text_of(value.name) for value in graph.output}
        for value in (*graph.value_info, *graph.output, *graph.input):
            self.tensors[text_of(value.name)] = tensor_of(value, prefix=prefix)
        for tensor in graph.initializer:
            self._store(text_of(tensor.name), tensor.data_type, tensor.dims)
        for sparse in graph.sparse_initializer:
            self._store(text_of(sparse.values.name), sparse.values.data_type, sparse.dims)
        for node in graph.node:
            self._note(node)

    def read(self) -> None:
        for index, node in enumerate(self._graph.node):
            if node.op_type == "Constant":
                continue
            inner: list[str] = []
            for number, graph in enumerate(subgraphs(node)):
                title = text_of(node.name) or f"{text_of(node.op_type)}_{index}"
                scope = _Scope(graph, self._found, prefix=f"{self._prefix}{title}/{number}/", outer=self)
                scope.read()
                inner += [scope.unique(name) for name in scope.results]
            self._found.layers.append(self._layer(node, inner))
        there = {name for layer in self._found.layers for name in (*layer.inputs, *layer.outputs)}
        self._found.tensors += [tensor for tensor in self.tensors.values() if tensor.name in there]

    def unique(self, name: str) -> str:
        """The tensor's name, said so that no other graph's tensor has it too."""
        return self._owner(name)._prefix + name

    def _note(self, node: onnx.NodeProto) -> None:
        for name in map(text_of, node.output):
            self.makers[name] = node
        for name in map(text_of, node.input):
            self.readers.setdefault(name, []).append(node.op_type)
        if node.op_type == "Constant" and node.output:
            self._store_constant(text_of(node.output[0]), node)

    def _store(self, name: str, data_type: int, dims: Any) -> None:
        shape = tuple(int(side) for side in dims)
        self.stored[name] = Tensor(name=self._prefix + name, dtype=_dtype(data_type), shape=shape)
        self.tensors[name] = self.stored[name]

    def _store_constant(self, name: str, node: onnx.NodeProto) -> None:
        for attribute in node.attribute:
            if attribute.name == "value":
                self._store(name, attribute.t.data_type, attribute.t.dims)
                return
        known = self.tensors.get(name, Tensor(name=self._prefix + name, dtype="", shape=_UNKNOWN_RANK))
        self.stored[name] = self.tensors[name] = known

    def _owner(self, name: str) -> _Scope:
        """The graph that a tensor belongs to: this one unless one around it has it."""
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.makers or name in scope.stored or name in scope.tensors:
                return scope
            scope = scope._outer
        return self

    def _type(self, name: str) -> str:
        known = self._owner(name).tensors.get(name)
        return known.dtype if known else ""

    def _shape(self, name: str) -> tuple[int | str, ...]:
        known = self._owner(name).tensors.get(name)
        return known.shape if known else _UNKNOWN_RANK

    def _layer(self, node: onnx.NodeProto, inner: list[str]) -> Layer:
        inputs = [name for name in map(text_of, node.input) if name]
        outputs = [name for name in map(text_of, node.output) if name]
        read = [name for name in inputs if name not in self._owner(name).stored]
        domain, kind = text_of(node.domain), text_of(node.op_type)
        unique_outputs = tuple(self.unique(name) for name in outputs)
        return Layer(
            name=self._prefix + (text_of(node.name) or (outputs[0] if outputs else kind)),
            kind=kind if domain in ("", "ai.onnx") else f"{domain}.{kind}",
            precision=self._precision(node, read, outputs),
            inputs=tuple(dict.fromkeys([*map(self.unique, read), *inner])),
            outputs=unique_outputs,
            parameters=self._parameters(node),
            macs=self._macs(node),
            multiplies=_multiplies(kind),
        )

    # precision

    def _precision(self, node: onnx.NodeProto, read: list[str], made: list[str]) -> Precision:
        if node.op_type == QUANTIZE:
            return _known(self._quantized_type(node, made[0] if made else ""))
        if node.op_type == DEQUANTIZE:
            return _known(self._quantized_type(node, read[0] if read else ""))
        weight = self._weight_of(node)
        if weight:
            return _known(self._weight_type(weight))
        between = self._between_quantizers(read, made)
        return between or _common({self._type(name) for name in (*read, *made)})

    def _quantized_type(self, node: onnx.NodeProto, levels: str) -> str:
        """The 8 bits of a Q or DQ: what the tensor is, else its zero point; uint8 where the file says neither."""
        zero = text_of(node.input[2]) if len(node.input) > 2 else ""
        first = text_of(node.input[0]) if node.op_type == DEQUANTIZE and node.input else levels
        return self._type(first) or (self._type(zero) if zero else "") or "uint8"

    def _weight_of(self, node: onnx.NodeProto) -> str:
        """The weights of a convolution or matrix product; empty where both factors are computed."""
        if not _multiplies(node.op_type):
            return ""
        at = _LEARNED[node.op_type][0]
        places = (at, 0) if "MatMul" in node.op_type else (at,)
        for place in places:
            name = text_of(node.input[place]) if len(node.input) > place else ""
            if name and (self._behind(name)[0] is not None or self._behind(name)[1]):
                return name
        return ""

    def _weight_type(self, name: str) -> str:
        stored, levels = self._behind(name)
        return levels or self._type(name) or (stored.dtype if stored else "")

    def _behind(self, name: str) -> tuple[Tensor | None, str]:
        """The stored tensor that a tensor is made of, if one is, and the type it is dequantized from."""
        levels = ""
        for _ in range(_LONGEST_CHAIN):
            owner = self._owner(name)
            if name in owner.stored:
                return owner.stored[name], levels
            node = owner.makers.get(name)
            if node is None or not node.input:
                return None, levels
            if node.op_type == DEQUANTIZE:
                levels = levels or owner._quantized_type(node, "")
            elif node.op_type not in _PASSING:
                return None, levels
            name = text_of(node.input[0])
        return None, levels

    def _between_quantizers(self, read: list[str], made: list[str]) -> Precision:
        """The 8 bits of a layer that reads only from DQ and is read only by Q: runtimes run it on those."""
        makers = [self._owner(name).makers.get(name) for name in read]
        if not makers or not all(node is not None and node.op_type == DEQUANTIZE for node in makers):
            return ""
        if any(name in self.results or set(self.readers.get(name, ["-"])) != {QUANTIZE} for name in made):
            return ""
        return _common({self._quantized_type(node, "") for node in makers if node is not None})

    # size

    def _parameters(self, node: onnx.NodeProto) -> int:
        count = 0
        for place in _LEARNED.get(node.op_type, ()):
            name = text_of(node.input[place]) if len(node.input) > place else ""
            stored = self._behind(name)[0] if name else None
            if stored is None or (node.op_type == "Gather" and stored.dtype not in _FLOATS):
                continue
            elements = math.prod(side for side in stored.shape if isinstance(side, int))
            self._found.learned[stored.name] = elements
            count += elements
        return count

    def _macs(self, node: onnx.NodeProto) -> int | None:
        """Multiply-accumulates for one image: the first dimension of what a layer makes is the batch."""
        kind = node.op_type
        if not _multiplies(kind) or not node.output or len(node.input) <= _LEARNED[kind][0]:
            return None
        made = self._shape(text_of(node.output[0]))
        if kind in _CONVOLUTIONS:
            weight = self._shape(text_of(node.input[_LEARNED[kind][0]]))
            spread = self._shape(text_of(node.input[0])) if kind == "ConvTranspose" else made
            return _product(*spread[1:], *weight[1:]) if len(weight) > 2 < len(spread) else None
        first = self._shape(text_of(node.input[0]))
        inner = first[0] if kind.endswith("Gemm") and _flag(node, "transA") else first[-1] if first else ""
        batched = len(made) > 2 or bool(self._weight_of(node))
        return _product(*(made[1:] if batched else made), inner)


def _multiplies(kind: str) -> Multiplying:
    if kind in _CONVOLUTIONS:
        return "convolution"
    return "matrix product" if kind in _PRODUCTS else ""


def _flag(node: onnx.NodeProto, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)


def _product(*sides: int | str) -> int | None:
    known = [side for side in sides if isinstance(side, int)]
    return math.prod(known) if len(known) == len(sides) else None


def _common(types: set[str]) -> Precision:
    """One precision of several types: the floating one, if any; whole numbers beside it are shapes and places."""
    types = {dtype for dtype in types if _known(dtype)}
    types = types & _FLOATS or types - {"bool"} or types
    return "mixed" if len(types) > 1 else _known(next(iter(types), ""))
