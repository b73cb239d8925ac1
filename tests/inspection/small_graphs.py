"""What the tests of inspecting ONNX share: small models, and their inspection."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from trt_yolo.inspection.from_onnx import inspection_from_onnx
from trt_yolo.inspection.inspection import Inspection

FLOAT = TensorProto.FLOAT


def inspected(model: onnx.ModelProto | bytes, folder: Path) -> Inspection:
    """The inspection of a model that is saved to a folder first."""
    path = folder / "model.onnx"
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return inspection_from_onnx(path)


def model_of(
    nodes: Sequence[onnx.NodeProto],
    shapes: dict[str, list[int | str] | None],
    stored: dict[str, Any] | None = None,
    *,
    opset: int = 17,
    results: Sequence[str] = ("y",),
    **metadata: str,
) -> onnx.ModelProto:
    """A small model: its inputs by name and shape, its stored tensors, its results."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in results],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (stored or {}).items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=min(8 + opset // 20, 10))
    helper.set_model_props(model, metadata)
    return model


def weights(*shape: int, dtype: Any = np.float32) -> Any:
    """Ones."""
    return np.ones(shape, dtype)


def branch(kind: str) -> onnx.GraphProto:
    """A branch of an If: an operator on the outer `x`, and Abs; its tensors are `h` and `r`."""
    result = helper.make_tensor_value_info("r", FLOAT, None)
    inner = [helper.make_node(kind, ["x"], ["h"], name="inner"), helper.make_node("Abs", ["h"], ["r"])]
    return helper.make_graph(inner, kind, [], [result])
