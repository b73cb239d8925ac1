"""The deploy graph goes through the real parser and the real builder of TensorRT for RTX, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.errors import InputError
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import MAX_ROWS, ExportOptions

trt: Any = pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")


@pytest.mark.parametrize("batch", [BatchRange(1, 1), BatchRange(4, 4), BatchRange(1, 16)], ids=str)
def test_deploy_graph_builds(yolov8n: Path, batch: BatchRange, tmp_path: Path) -> None:
    report = export_model(yolov8n, out=tmp_path, options=ExportOptions(batch=batch, check=False))
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    parsed = parser.parse(report.artifacts[0].path.read_bytes())
    assert parsed, [str(parser.get_error(index)) for index in range(parser.num_errors)]
    inputs = {network.get_input(index).name: network.get_input(index) for index in range(network.num_inputs)}
    outputs = {
        network.get_output(index).name: network.get_output(index) for index in range(network.num_outputs)
    }
    assert inputs.keys() == {"frames", "conf", "iou"}
    assert inputs["frames"].dtype == trt.uint8
    assert tuple(outputs["detections"].shape)[1:] == (report.manifest.rows, 6)
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM89, 0)
    if not batch.is_static:
        profile = builder.create_optimization_profile()
        size = report.manifest.imgsz_hw
        profile.set_shape("frames", *((count, *size, 3) for count in (batch.minimum, 4, batch.maximum)))
        config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    assert plan.nbytes > 5_000_000


@pytest.mark.parametrize(("rows", "builds"), [(MAX_ROWS, True), (MAX_ROWS + 1, False)])
def test_as_many_rows_as_topk_gives(rows: int, builds: bool) -> None:
    """8,400 anchors: more rows than MAX_ROWS would export, and fail only when an engine is built."""
    logger = trt.Logger(trt.Logger.INTERNAL_ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse(_top_k(rows))
    plan = builder.build_serialized_network(network, builder.create_builder_config())
    assert (plan is not None) == builds


def _top_k(count: int) -> bytes:
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 8400])
    best = helper.make_tensor_value_info("best", TensorProto.FLOAT, [1, count])
    k = helper.make_tensor("k", TensorProto.INT64, [1], [count])
    node = helper.make_node("TopK", ["scores", "k"], ["best", "index"])
    graph = helper.make_graph([node], "top_k", [scores], [best], [k])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def test_more_rows_are_refused_before_anything_is_exported() -> None:
    assert ExportOptions(rows=MAX_ROWS).rows == 3840
    with pytest.raises(InputError, match="--rows 3841 is not possible; give 1 to 3840, such as 512"):
        ExportOptions(rows=MAX_ROWS + 1)
