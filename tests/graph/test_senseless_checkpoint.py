"""Sound pickles of models that make no sense: refused in words, or harmless."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.limits import assert_refused_within_limits
from trt_yolo.errors import TrtYoloError
from trt_yolo.export.onnx_from_model import export_model
from trt_yolo.export.options import ExportOptions


def _export(path: Path) -> None:
    export_model(path, out=path.parent / "out", options=ExportOptions(check=False))


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Callable[[Any], object]], Path]:
    """A function from a change of Ultralytics' model to the checkpoint of the model so changed."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("ultralytics")
    from ultralytics.nn.tasks import DetectionModel

    sound = DetectionModel("yolov8n.yaml", verbose=False)
    sound.args = {"imgsz": 64}

    def save(change: Callable[[Any], object]) -> Path:
        model = copy.deepcopy(sound)
        change(model)
        path = Path(tmp_path_factory.mktemp("spoilt")) / "spoilt.pt"
        torch.save({"model": model}, path)
        return path

    return save


@pytest.mark.parametrize(
    "change",
    [
        lambda model: None,
        lambda model: model.__dict__.update(get=1, children=2, class_path="os.system", class_name="Segment"),
    ],
    ids=["nothing", "names of a record's own"],
)
def test_a_change_that_means_nothing_is_harmless(
    change: Callable[[Any], object], spoilt: Callable[[Callable[[Any], object]], Path]
) -> None:
    _export(spoilt(change))


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model.model[-1], "stride", model.stride * 0),
        lambda model: setattr(model.model[-1], "stride", "many"),
        lambda model: setattr(model.model[-1], "stride", model.stride[:1]),
        lambda model: setattr(model.model[-1], "reg_max", -1),
        lambda model: setattr(model.model[-1], "cv2", model.model[-1].cv2[:1]),
        lambda model: setattr(model.model[0].conv, "stride", (1, 2, 3)),
        lambda model: setattr(model.model[0].conv, "groups", None),
        lambda model: setattr(model.model[0].bn, "eps", "small"),
        lambda model: setattr(model.model[11], "d", "deep"),
        lambda model: model.model[2].m.add_module("itself", model.model[2].m),
    ],
    ids=["stride 0", "stride text", "one stride", "bins", "one level", "conv stride", "groups",
         "eps", "axis", "cycle"],
)  # fmt: skip
def test_a_model_that_makes_no_sense_is_refused(
    change: Callable[[Any], object], spoilt: Callable[[Callable[[Any], object]], Path]
) -> None:
    path = spoilt(change)
    with pytest.raises(TrtYoloError):
        _export(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda model: setattr(model, "args", {"imgsz": 1 << 30}),
        lambda model: setattr(model.model[-1], "nc", 10**9),
        lambda model: setattr(model.model[9], "n", 10**9),
    ],
    ids=["image size", "classes", "pools"],
)
def test_a_model_of_impossible_size_is_refused(
    change: Callable[[Any], object], spoilt: Callable[[Callable[[Any], object]], Path]
) -> None:
    assert_refused_within_limits(_export, spoilt(change))
