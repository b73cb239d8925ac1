"""`load`'s options of a GPU: what makes no sense is refused before anything starts; what does reaches each worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import trt_yolo
from trt_yolo.errors import InputError
from trt_yolo.loading import GpuOptions, backend_spec
from trt_yolo.runtime.worker import BackendSpec


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"streams": 0}, "streams is 0"),
        ({"streams": 17, "slots": 64}, "streams is 17"),
        ({"streams": 4}, "streams is 4 and slots 4; give at least 5 slots"),
        ({"devices": []}, r"devices is \[\]"),
        ({"devices": [-1]}, r"devices is \[-1\]"),
        ({"devices": ["a"]}, r"devices is \['a'\]"),
        ({"devices": [0, 1]}, "2 devices need worker processes"),
    ],
    ids=str,
)
def test_what_makes_no_sense(options: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError, match=part):
        trt_yolo.load("x.engine", **options)


@pytest.mark.parametrize(
    "options", [{"streams": 2}, {"devices": [1]}, {"graphs": False}, {"spin": True}], ids=str
)
def test_what_is_for_engines_alone(options: dict[str, Any], demo_onnx: Path) -> None:
    with pytest.raises(InputError, match=r"are for an \.engine, and .*demo.onnx is none"):
        trt_yolo.load(demo_onnx, **options)


def test_workers_go_round_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.loading.loadable_engine", lambda model, *, rebuild: Path(model))
    gpu = GpuOptions(devices=(0, 2), streams=3, graphs=False, spin=True)
    spec = backend_spec("x.engine", "auto", gpu, rebuild=False)
    assert [spec.of_worker(number).options["device"] for number in range(4)] == [0, 2, 0, 2]
    wanted = {"engine": "x.engine", "streams": 3, "graphs": False, "spin": True, "device": 2}
    assert spec.of_worker(1).options == wanted
    assert spec.of_worker(1).devices == ()


def test_a_backend_without_devices_is_the_same_for_all() -> None:
    spec = BackendSpec(factory="a:b", options={"model": "x"})
    assert spec.of_worker(3) is spec
