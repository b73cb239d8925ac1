"""The same head from every file of a model: checkpoint, head graph, deploy graph, static and dynamic."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import BackendError, InputError, UnsupportedModelError
from trt_yolo.evaluation.head_runner import HeadRunner
from trt_yolo.graph.writer import FLOAT16


@pytest.fixture(scope="module")
def frames() -> npt.NDArray[np.uint8]:
    """Five demo scenes, 256x256."""
    return np.stack([scene(index).image_bgr for index in range(5)])


@pytest.fixture(scope="module")
def wanted(demo_head_onnx: Path, frames: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """The head of each, by bare ONNX Runtime."""
    with OnnxRuntimeBackend(demo_head_onnx, threads=1) as backend:
        return np.concatenate(
            [backend.session.run(None, backend.feed(frame[None], 0, 0))[0] for frame in frames]
        )


@pytest.fixture(params=["pt", "head", "deploy", "dynamic", "static4"])
def model(request: pytest.FixtureRequest) -> Path:
    fixtures = {
        "head": "demo_head_onnx", "deploy": "demo_onnx", "dynamic": "demo_dynamic_onnx",
        "static4": "demo_static4_onnx",
    }  # fmt: skip
    if request.param == "pt":
        return demo_checkpoint()
    return request.getfixturevalue(fixtures[request.param])


@pytest.mark.parametrize("count", [1, 4, 5])
def test_every_file_gives_the_same_head(
    model: Path, count: int, frames: npt.NDArray[np.uint8], wanted: npt.NDArray[np.float32]
) -> None:
    with HeadRunner(model, threads=1) as runner:
        got = runner.head(frames[:count])
        assert (runner.manifest.imgsz_hw, len(runner.manifest.names)) == ((256, 256), 10)
        assert runner.manifest.precision == "fp32"
    assert (got.shape, got.dtype) == ((count, 14, 1344), np.float32)
    np.testing.assert_allclose(got[:, :4], wanted[:count, :4], atol=5e-3)
    np.testing.assert_allclose(got[:, 4:], wanted[:count, 4:], atol=1e-4)


def test_bytes_are_as_good_as_a_path_and_files_stay_as_they_are(
    demo_onnx: Path, frames: npt.NDArray[np.uint8]
) -> None:
    before = hashlib.sha256(demo_onnx.read_bytes()).hexdigest()
    with HeadRunner(demo_onnx, threads=1) as first, HeadRunner(demo_onnx.read_bytes(), threads=1) as second:
        np.testing.assert_array_equal(first.head(frames[:2]), second.head(frames[:2]))
    assert hashlib.sha256(demo_onnx.read_bytes()).hexdigest() == before


def test_a_deploy_graph_loses_its_nms_and_thresholds(demo_onnx: Path) -> None:
    with HeadRunner(demo_onnx, threads=1) as runner:
        session = runner._backend.session
        assert [node.name for node in session.get_inputs()] == ["frames"]
        assert [node.shape for node in session.get_outputs()] == [[1, 14, 1344]]


def test_a_checkpoint_at_another_size(demo_onnx: Path) -> None:
    with HeadRunner(demo_checkpoint(), imgsz_hw=(128, 192), threads=1) as runner:
        assert runner.head(np.zeros((1, 128, 192, 3), np.uint8)).shape == (1, 14, 504)
    with pytest.raises(InputError, match="fixed at 256x256 pixels, asked for 128x192; leave --imgsz out"):
        HeadRunner(demo_onnx, imgsz_hw=(128, 192))
    HeadRunner(demo_onnx, imgsz_hw=(256, 256)).close()


def _half(head: Path) -> onnx.ModelProto:
    """The head graph behind a float16 input and before a float16 output."""
    model = onnx.load(head)
    graph = model.graph
    inner_in, inner_out = graph.input[0].name, graph.output[0].name
    last = next(node for node in graph.node if inner_out in node.output)
    last.output[list(last.output).index(inner_out)] = "whole"
    nodes = [
        onnx.helper.make_node("Cast", ["half_in"], [inner_in], to=onnx.TensorProto.FLOAT),
        *graph.node,
        onnx.helper.make_node("Cast", ["whole"], [inner_out], to=FLOAT16),
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    graph.input[0].name = "half_in"
    for value in (graph.input[0], graph.output[0]):
        value.type.tensor_type.elem_type = FLOAT16
    return model


def test_half_precision_graphs(
    demo_head_onnx: Path, frames: npt.NDArray[np.uint8], wanted: npt.NDArray[np.float32]
) -> None:
    from trt_yolo.artifacts.manifest import METADATA_KEY, Manifest, manifest_from_json
    from trt_yolo.graph.deploy_from_head import deploy_from_head

    head = _half(demo_head_onnx)
    about = next(entry.value for entry in head.metadata_props if entry.key == METADATA_KEY)
    fields = vars(manifest_from_json(about, origin="test"))
    manifest = Manifest(**{**fields, "graph": "deploy", "rows": 128, "precision": "fp16"})
    deploy = deploy_from_head(head, manifest)
    onnx.helper.set_model_props(deploy, {METADATA_KEY: manifest.to_json()})
    for model in (head, deploy):
        with HeadRunner(model.SerializeToString(), threads=1) as runner:
            got = runner.head(frames[:2])
            assert (got.dtype, runner.manifest.precision) == (np.float32, "fp16")
        np.testing.assert_allclose(got[:, :4], wanted[:2, :4], atol=1)  # pixels too are rounded to 11 bits
        np.testing.assert_allclose(got[:, 4:], wanted[:2, 4:], atol=0.01)


@pytest.mark.parametrize(
    "frames",
    [
        pytest.param(np.zeros((1, 128, 256, 3), np.uint8), id="size"),
        pytest.param(np.zeros((1, 256, 256, 3), np.float32), id="type"),
        pytest.param(np.zeros((256, 256, 3), np.uint8), id="no-batch"),
        pytest.param(np.zeros((0, 256, 256, 3), np.uint8), id="none"),
    ],
)
def test_wrong_frames(demo_onnx: Path, frames: npt.NDArray[np.uint8]) -> None:
    with (
        HeadRunner(demo_onnx, threads=1) as runner,
        pytest.raises(InputError, match=r"needed: uint8 \(N, 256, 256, 3\)"),
    ):
        runner.head(frames)


def test_files_that_are_no_model(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("this is no model\n" * 40)
    (tmp_path / "folder.onnx").mkdir()
    for name, kind, message in (
        ("gone.onnx", InputError, "no such file"),
        ("folder.onnx", InputError, "is a folder"),
        ("text.onnx", BackendError, "cannot load"),
        ("gone.pt", InputError, "gone.pt"),
    ):
        with pytest.raises(kind, match=message):
            HeadRunner(tmp_path / name)


def test_a_deploy_graph_of_a_stranger(demo_onnx: Path) -> None:
    model = onnx.load(demo_onnx)
    for node in model.graph.node:
        node.name = ""
    with pytest.raises(UnsupportedModelError, match="no deploy graph as this trt-yolo writes it"):
        HeadRunner(model.SerializeToString())
