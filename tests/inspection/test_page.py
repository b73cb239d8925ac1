"""The page of an inspection: what it shows, what it folds, and that nothing of a file becomes part of it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import pytest
from onnx import save

from tests.precision import graphs
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.inspection.from_checkpoint import inspection_from_checkpoint
from trt_yolo.inspection.from_onnx import inspection_from_onnx
from trt_yolo.inspection.inspection import Inspection, Layer, Multiplying, Precision, Tensor
from trt_yolo.inspection.page import MOST_BOXES, page_from_inspection
from trt_yolo.inspection.picture import Box, Edge, fold
from trt_yolo.precision.int8_for_cpu import cpu_network, int8_for_cpu
from trt_yolo.precision.int8_from_float import int8_from_float

_VOID = frozenset({"meta"})
_EVIL = """</title></style></script><script>alert(1)</script><img src=x onerror=alert(2)>"'&\x1b[31m"""


class _Page(HTMLParser):
    """A page's elements, their attributes and texts; fails where an element is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open:
            self.texts.setdefault(self._open[-1], []).append(data)

    def classes(self, tag: str) -> Counter[str]:
        return Counter(
            name for one, has in self.elements if one == tag for name in (has.get("class") or "").split()
        )


def _assert_alone(text: str) -> _Page:
    """Fails if the page could load or run anything but its own script."""
    page = _Page(text)
    for tag, attributes in page.elements:
        assert tag in {
            "html", "head", "meta", "title", "style", "body", "h1", "h2", "p", "table", "tr", "td", "th", "span",
            "div", "svg", "g", "path", "rect", "text", "pre", "details", "summary", "script",
        }, tag  # fmt: skip
        for name, value in attributes.items():
            assert name not in {"src", "href", "xlink:href", "srcset", "action"}, (tag, name)
            assert not name.startswith("on"), (tag, name)
            assert "url(" not in (value or "")
    (style,), (script,) = page.texts["style"], page.texts["script"]
    assert not any(mark in style for mark in ("url(", "@import", "http:", "https:", "//"))
    assert not any(mark in script for mark in ("http:", "https:", "fetch(", "import(", "eval(", "innerHTML"))
    policy = next(has["content"] for tag, has in page.elements if tag == "meta" and "http-equiv" in has)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    return page


def _layer(
    kind: str,
    inputs: Sequence[str],
    output: str,
    precision: Precision = "fp32",
    *,
    multiplies: Multiplying = "",
    time_ms: float | None = None,
) -> Layer:
    return Layer(
        name=f"/{output}", kind=kind, precision=precision, inputs=tuple(inputs), outputs=(output,),
        multiplies=multiplies, time_ms=time_ms,
    )  # fmt: skip


def _inspection(layers: Sequence[Layer], output: str = "y") -> Inspection:
    return Inspection(
        path="model.onnx",
        format="onnx",
        bytes=1,
        inputs=(Tensor(name="x", dtype="fp32", shape=(1, 3, 8, 8)),),
        outputs=(Tensor(name=output, dtype="fp32", shape=(1, 3, 8, 8)),),
        parameters=0,
        layers=tuple(layers),
    )


def _convolution(inputs: Sequence[str], output: str, precision: Precision = "fp32") -> Layer:
    return _layer("Conv", inputs, output, precision, multiplies="convolution")


# folding


def _drawn(layers: Sequence[Layer], output: str = "y") -> tuple[list[str], set[tuple[str, str, str]]]:
    """Kinds of the boxes, and the edges between them."""
    boxes, edges = fold(_inspection(layers, output))
    named = {(boxes[edge.source].kind, boxes[edge.target].kind, edge.quantized) for edge in edges}
    return [box.kind for box in boxes], named


_SILU = [_layer("Sigmoid", ["c"], "s"), _layer("Mul", ["c", "s"], "y")]


def test_silu_is_part_of_its_convolution() -> None:
    kinds, edges = _drawn([_convolution(["x"], "c"), *_SILU])
    assert kinds == ["Conv + SiLU", "input", "output"]
    assert edges == {("input", "Conv + SiLU", ""), ("Conv + SiLU", "output", "")}


@pytest.mark.parametrize(
    "layers",
    [
        [_convolution(["x"], "c"), *_SILU, _layer("Relu", ["c"], "z")],
        [_convolution(["x"], "c"), *_SILU, _layer("Relu", ["s"], "z")],
        [_convolution(["x"], "c"), _layer("Sigmoid", ["c"], "s"), _layer("Mul", ["c", "x"], "y")],
        [_convolution(["x"], "c"), _layer("Sigmoid", ["x"], "s"), _layer("Mul", ["c", "s"], "y")],
        [_layer("Relu", ["x"], "c"), *_SILU],
    ],
    ids=["another reader", "another reader of the gate", "another factor", "another gate", "no convolution"],
)
def test_what_is_no_silu_stays_apart(layers: list[Layer]) -> None:
    assert len(_drawn(layers)[0]) == len(layers) + 2


def test_silu_of_a_result_stays_apart() -> None:
    assert "Sigmoid" in _drawn([_convolution(["x"], "c"), *_SILU], "c")[0]


def test_quantizers_become_marks_of_the_edge() -> None:
    layers = [
        _layer("QuantizeLinear", ["x"], "q", "int8"),
        _layer("DequantizeLinear", ["q"], "d", "int8"),
        _layer("DequantizeLinear", [], "w", "int8"),
        _convolution(["d", "w"], "c", "int8"),
        _layer("Relu", ["c"], "r"),
        _layer("QuantizeLinear", ["r"], "rq", "uint8"),
        _layer("DequantizeLinear", ["rq"], "y", "uint8"),
    ]
    kinds, edges = _drawn(layers)
    assert kinds == ["Conv", "Relu", "input", "output"]
    assert edges == {("input", "Conv", "int8"), ("Conv", "Relu", ""), ("Relu", "output", "uint8")}


def test_quantizers_that_read_each_other_end() -> None:
    layers = [
        _layer("QuantizeLinear", ["b"], "a"),
        _layer("DequantizeLinear", ["a"], "b"),
        _layer("Relu", ["a"], "y"),
    ]
    assert _drawn(layers)[0] == ["Relu", "input", "output"]


def _boxes_of(path: Path) -> tuple[list[Box], list[Edge]]:
    return fold(inspection_from_onnx(path))


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_the_demo_folds_to_its_convolutions(target: str, tmp_path: Path) -> None:
    network = graphs.demo_network()
    quantized = (
        int8_from_float(network, graphs.demo_calibration("tensorrt"))
        if target == "tensorrt"
        else int8_for_cpu(cpu_network(network), graphs.demo_calibration("cpu"))
    )
    save(quantized, str(tmp_path / "model.onnx"))
    boxes, edges = _boxes_of(tmp_path / "model.onnx")
    kinds = Counter(box.kind for box in boxes)
    assert kinds["Conv + SiLU"] == len(network.before_silu)
    assert kinds["Conv + SiLU"] + kinds["Conv"] == len(network.convolutions)
    assert not {"Sigmoid", "QuantizeLinear", "DequantizeLinear", "Constant"} & {
        box.kind for box in boxes if box.precision != "fp32"
    }
    assert all(box.shape[0] == 1 for box in boxes if box.kind == "Conv + SiLU")
    int8 = {index for index, box in enumerate(boxes) if box.precision == "int8"}
    assert {edge.target for edge in edges if edge.quantized} >= int8
    assert sum(box.macs or 0 for box in boxes) == network.macs


# the page


def test_the_page_of_the_deploy_graph(demo_onnx: Path) -> None:
    inspection = inspection_from_onnx(demo_onnx)
    text = page_from_inspection(inspection)
    page, boxes = _assert_alone(text), fold(inspection)[0]
    assert page.classes("g")["box"] == len(boxes)
    assert page.classes("g")["p-fp32"] == sum(box.precision == "fp32" for box in boxes)
    assert page.classes("path")["edge"] == len(fold(inspection)[1])
    assert inspection.headline in text
    assert any("Conv + SiLU  fp32" in line for line in page.texts["text"])
    assert f"{inspection.parameters:,}" in text
    assert "256 x 256" in text
    assert "Manifest" in page.texts["summary"]


def test_the_page_of_a_checkpoint() -> None:
    page = _assert_alone(page_from_inspection(inspection_from_checkpoint(demo_checkpoint())))
    assert page.classes("g")["box"] == 25
    assert page.classes("g")["p-fp16"] == 17


def test_a_title_tells_all_of_a_box() -> None:
    layers = [dataclasses.replace(_convolution(["x"], "c"), parameters=1234, macs=56789), *_SILU]
    titles = _assert_alone(page_from_inspection(_inspection(layers))).texts["title"]
    (told,) = [title for title in titles if "SiLU" in title]
    for part in ("Conv + SiLU", "/c", "1,234", "56,789", "reads x", "makes y", "Sigmoid", "1 x 3 x 8 x 8"):
        assert part in told


def test_edges_through_quantizers_are_marked() -> None:
    layers = [
        _layer("QuantizeLinear", ["x"], "q", "int8"),
        _layer("DequantizeLinear", ["q"], "d", "int8"),
        _convolution(["d"], "y", "int8"),
    ]
    page = _assert_alone(page_from_inspection(_inspection(layers)))
    assert page.classes("path") == {"edge": 2, "quantized": 1}
    assert page.classes("text")["mark"] == 1
    assert "int8" in page.texts["text"]


def test_times_are_a_stripe_and_a_number() -> None:
    layers = [
        _layer("A", ["x"], "a", time_ms=0.5),
        _layer("B", ["a"], "b", time_ms=0.25),
        _layer("C", ["b"], "y"),
    ]
    page = _assert_alone(page_from_inspection(_inspection(layers)))
    stripes = [has["style"] for tag, has in page.elements if tag == "rect" and has.get("class") == "stripe"]
    assert stripes == ["opacity:1.00", "opacity:0.50"]
    assert any("0.250 ms" in line for line in page.texts["text"])
    assert page.classes("span")["heat"] == 1


def test_no_times_are_no_stripes() -> None:
    assert _assert_alone(page_from_inspection(_inspection([_layer("A", ["x"], "y")]))).classes("rect") == {}


def test_nothing_of_a_file_becomes_part_of_the_page() -> None:
    plain = _inspection([_layer("Relu", ["x"], "y")])
    evil = Inspection(
        path=_EVIL,
        format="onnx",
        bytes=1,
        inputs=(Tensor(name=_EVIL, dtype=_EVIL, shape=(_EVIL,)),),
        outputs=(Tensor(name="y", dtype=_EVIL, shape=(_EVIL, "")),),
        parameters=0,
        layers=(Layer(name=_EVIL, kind=_EVIL, precision="", inputs=(_EVIL,), outputs=("y",)),),
        tensors=(Tensor(name="y", dtype="", shape=(_EVIL,)),),
        facts={_EVIL: _EVIL},
        notes=(_EVIL,),
        loads_here=False,
        why_not=_EVIL,
    )
    page = _assert_alone(page_from_inspection(evil))
    scripts = [tag for tag, _ in page.elements if tag == "script"]
    assert len(scripts) == 1
    assert (
        Counter(tag for tag, _ in page.elements)["g"]
        == Counter(tag for tag, _ in _assert_alone(page_from_inspection(plain)).elements)["g"]
    )
    assert _EVIL in page.texts["h1"]


def test_a_graph_without_layers() -> None:
    text = page_from_inspection(_inspection([]))
    page = _assert_alone(text)
    assert "The graph has no layers." in text
    assert page.classes("g") == {}


def test_a_graph_too_large_to_draw_is_a_table() -> None:
    layers = [_layer("Relu", [f"t{index}"], f"t{index + 1}") for index in range(MOST_BOXES)]
    text = page_from_inspection(_inspection(layers))
    page = _assert_alone(text)
    assert str(MOST_BOXES) in text
    assert page.classes("g") == {}
    assert "/t4000" in page.texts["td"]
    fewer = page_from_inspection(_inspection(layers[: MOST_BOXES - 2]))
    assert _assert_alone(fewer).classes("g")["box"] == MOST_BOXES
