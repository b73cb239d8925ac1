"""The calibration cache: what is kept comes back exactly, anything else is made anew."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.precision import graphs
from trt_yolo.errors import InputError
from trt_yolo.precision.calibration import Activation, Calibration, Target
from trt_yolo.precision.calibration_cache import CalibrationCache
from trt_yolo.precision.int8_for_cpu import cpu_network, cpu_tensors
from trt_yolo.precision.network import Network, network_of
from trt_yolo.precision.scales import Method

IMAGES = "a" * 64
BOTH: list[Method] = ["l2.4", "minmax"]


@functools.cache
def _network(target: Target) -> Network:
    """The demo network, as the target takes it; not to be changed."""
    return graphs.demo_network() if target == "tensorrt" else cpu_network(graphs.demo_network())


@functools.cache
def _calibration(target: Target, method: Method) -> Calibration:
    """Of the demo network, with numbers whose every digit must be kept."""
    network, rng = _network(target), np.random.default_rng(len(method))
    tensors = cpu_tensors(network) if target == "cpu" else sorted({one.input for one in network.quantizable})
    scales = np.float16(rng.uniform(2**-14, 9, len(tensors))).astype(float)
    zeros = rng.integers(0, 256, len(tensors)) if target == "cpu" else np.zeros(len(tensors), int)
    channels = {tensor.name: tensor.dims[0] for tensor in network.model.graph.initializer if tensor.dims}
    return Calibration(
        target=target,
        method=method,
        activations={
            tensor: Activation(scale=float(scale), zero=int(zero))
            for tensor, scale, zero in zip(tensors, scales, zeros, strict=True)
        },
        bias_shifts={one.output: rng.normal(size=channels[one.weight]) for one in network.quantizable},
    )


@functools.cache
def _errors(seed: int = 0) -> dict[str, float]:
    """A sensitivity for each convolution of the demo network; not to be changed."""
    outputs = [one.output for one in graphs.demo_network().quantizable]
    return dict(
        zip(outputs, np.random.default_rng(seed).exponential(1e-3, len(outputs)).tolist(), strict=True)
    )


class _Maker:
    """Makes calibrations and counts how often it was asked."""

    def __init__(self, target: Target = "tensorrt") -> None:
        self.asked = 0
        self._target: Target = target

    def __call__(self) -> Mapping[Method, Calibration]:
        self.asked += 1
        return {method: _calibration(self._target, method) for method in BOTH}


def _cache(path: Path, *, images: str = IMAGES, target: Target = "tensorrt") -> CalibrationCache:
    return CalibrationCache(path, _network(target), images, target)


@pytest.fixture(scope="module")
def _written(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("cache") / "demo.calibration.json"
    cache = _cache(path)
    cache.calibrations(BOTH, _Maker())
    cache.errors("minmax", _errors)
    return path.read_text()


@pytest.fixture
def written(_written: str, tmp_path: Path) -> Path:
    """A cache file with two methods, and the sensitivity of one."""
    path = tmp_path / "demo.calibration.json"
    path.write_text(_written)
    return path


def _assert_same(got: Calibration, wanted: Calibration) -> None:
    assert (got.target, got.method) == (wanted.target, wanted.method)
    assert got.activations == wanted.activations
    assert got.bias_shifts.keys() == wanted.bias_shifts.keys()
    for output, shift in wanted.bias_shifts.items():
        assert got.bias_shifts[output].dtype == np.float64
        np.testing.assert_array_equal(got.bias_shifts[output], shift)


@pytest.mark.parametrize("target", ["tensorrt", "cpu"])
def test_a_round_trip_is_exact(target: Target, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "demo.calibration.json"
    make = _Maker(target)
    made, reused = _cache(path, target=target).calibrations(BOTH, make)
    assert (reused, make.asked) == (False, 1)
    found, reused = _cache(path, target=target).calibrations(BOTH, make)
    assert (reused, make.asked) == (True, 1)
    for method in BOTH:
        _assert_same(found[method], _calibration(target, method))
        _assert_same(made[method], found[method])
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_one_method_of_several_is_enough(written: Path) -> None:
    make = _Maker()
    found, reused = _cache(written).calibrations(["minmax"], make)
    assert (list(found), reused, make.asked) == (["minmax"], True, 0)


def test_a_method_that_is_missing_has_all_made(written: Path) -> None:
    content = json.loads(written.read_text())
    del content["methods"]["l2.4"]
    written.write_text(json.dumps(content))
    make = _Maker()
    found, reused = _cache(written).calibrations(BOTH, make)
    assert (set(found), reused, make.asked) == (set(BOTH), False, 1)
    assert _cache(written).calibrations(BOTH, make)[1]


def _other_network() -> Network:
    model = onnx.ModelProto()
    model.CopyFrom(graphs.demo_network().model)
    tensor = next(one for one in model.graph.initializer if len(one.raw_data) > 100)
    tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])
    return network_of(model, origin="another")


@pytest.mark.parametrize("other", ["images", "target", "graph"])
def test_another_key_is_made_anew(other: str, written: Path) -> None:
    images = "b" * 64 if other == "images" else IMAGES
    target: Target = "cpu" if other == "target" else "tensorrt"
    network = _other_network() if other == "graph" else _network(target)
    make = _Maker(target)
    found, reused = CalibrationCache(written, network, images, target).calibrations(BOTH, make)
    assert (reused, make.asked) == (False, 1)
    assert {one.target for one in found.values()} == {target}
    asked: list[str] = []
    wanted = {one.output: _errors(1)[one.output] for one in network.quantizable}
    errors = CalibrationCache(written, network, images, target).errors(
        "minmax", lambda: asked.append("errors") or wanted
    )
    assert asked == ["errors"]
    assert errors == wanted, "the old sensitivity went with the old key"
    assert CalibrationCache(written, network, images, target).calibrations(BOTH, make)[1]
    assert not _cache(written).calibrations(BOTH, _Maker())[1], "the first key is gone"


def _key_of(path: Path) -> str:
    return str(json.loads(path.read_text())["key"])


_DAMAGED = {
    "empty": "",
    "text": "this is no JSON",
    "cut": None,
    "null": "null",
    "number": "17",
    "list": "[1, 2]",
    "nested": "[" * 100_000,
    "no key": '{"methods": {}}',
    "no methods": '{"key": "KEY"}',
    "methods null": '{"key": "KEY", "methods": null}',
    "methods a list": '{"key": "KEY", "methods": ["minmax", "l2.4"]}',
    "method a number": '{"key": "KEY", "methods": {"minmax": 1, "l2.4": 2}}',
    "method empty": '{"key": "KEY", "methods": {"minmax": {}, "l2.4": {}}}',
    "key a list": '{"key": ["KEY"], "methods": {}}',
}


@pytest.mark.parametrize("kind", _DAMAGED)
def test_damaged_files_are_as_good_as_none(kind: str, written: Path) -> None:
    text = _DAMAGED[kind]
    whole = written.read_text()
    written.write_text(whole[: len(whole) // 2] if text is None else text.replace("KEY", _key_of(written)))
    make = _Maker()
    found, reused = _cache(written).calibrations(BOTH, make)
    assert (reused, make.asked) == (False, 1)
    _assert_same(found["minmax"], _calibration("tensorrt", "minmax"))
    assert written.read_text() != whole or kind == "cut"
    assert _cache(written).calibrations(BOTH, make)[1], "it is whole again"


def test_a_file_of_other_bytes(written: Path) -> None:
    written.write_bytes(bytes(range(256)) * 10)
    assert not _cache(written).calibrations(BOTH, _Maker())[1]


_BROKEN_VALUES: dict[str, tuple[str, Any]] = {
    "no activations": ("activations", None),
    "activations a list": ("activations", [1]),
    "activations empty": ("activations", {}),
    "shifts missing": ("bias_shifts", None),
    "shifts a number": ("bias_shifts", 3),
    "shifts empty": ("bias_shifts", {}),
    "scale text": ("scale", "large"),
    "scale null": ("scale", None),
    "scale zero": ("scale", 0.0),
    "scale negative": ("scale", -1.0),
    "scale nan": ("scale", float("nan")),
    "scale infinite": ("scale", float("inf")),
    "scale huge": ("scale", 10**400),
    "zero text": ("zero", "no"),
    "zero huge": ("zero", 10**6),
    "zero infinite": ("zero", float("inf")),
    "pair of three": ("pair", [0.5, 0, 0]),
    "tensor missing": ("tensor", None),
    "shift missing": ("shift", None),
    "shift text": ("shift", ["a"]),
    "shift of another length": ("shift", [0.5]),
    "shift nan": ("shift", "nan"),
}


def _broken(entry: dict[str, Any], field: str, value: Any) -> None:
    """Breaks one thing of a method's entry."""
    activations, shifts = entry["activations"], entry["bias_shifts"]
    tensor, output = next(iter(activations)), next(iter(shifts))
    if field in ("activations", "bias_shifts"):
        entry[field] = value
    elif field in ("scale", "zero"):
        activations[tensor][0 if field == "scale" else 1] = value
    elif field == "pair":
        activations[tensor] = value
    elif field == "tensor":
        del activations[tensor]
    elif value is None:
        del shifts[output]
    else:
        shifts[output] = [float("nan")] * len(shifts[output]) if value == "nan" else value


@pytest.mark.parametrize("kind", _BROKEN_VALUES)
def test_damaged_entries_are_made_anew(kind: str, written: Path) -> None:
    content = json.loads(written.read_text())
    _broken(content["methods"]["minmax"], *_BROKEN_VALUES[kind])
    written.write_text(json.dumps(content))
    make = _Maker()
    found, reused = _cache(written).calibrations(BOTH, make)
    assert (reused, make.asked) == (False, 1)
    _assert_same(found["minmax"], _calibration("tensorrt", "minmax"))


def test_sensitivity_is_kept_for_each_method(written: Path) -> None:
    asked: list[Method] = []

    def errors(method: Method) -> dict[str, float]:
        def make() -> dict[str, float]:
            asked.append(method)
            return _errors(1)

        return _cache(written).errors(method, make)

    assert errors("minmax") == _errors()
    assert asked == []
    assert errors("l2.4") == errors("l2.4") == _errors(1)
    assert asked == ["l2.4"]
    assert errors("minmax") == _errors()
    assert _cache(written).calibrations(BOTH, _Maker())[1], "the calibrations are still there"


@pytest.mark.parametrize("damaged", [None, 3, "text", ["a"], {}], ids=str)
def test_damaged_sensitivity_is_made_anew(damaged: Any, written: Path) -> None:
    _assert_errors_made_anew(written, damaged)


@pytest.mark.parametrize(
    "value", ["much", None, [1], float("nan"), float("inf"), 10**400], ids=lambda one: str(one)[:9]
)
def test_damaged_sensitivity_of_one_layer_is_made_anew(value: Any, written: Path) -> None:
    output = next(iter(_errors()))
    _assert_errors_made_anew(written, _errors() | {output: value})


def _assert_errors_made_anew(path: Path, damaged: Any) -> None:
    content = json.loads(path.read_text())
    content["methods"]["minmax"]["sensitivity"] = damaged
    path.write_text(json.dumps(content))
    assert _cache(path).errors("minmax", lambda: _errors(1)) == _errors(1)
    assert _cache(path).errors("minmax", _errors) == _errors(1)


@pytest.mark.parametrize("where", ["below a file", "a folder", "/proc"])
def test_a_place_that_cannot_be_written(where: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    path = {
        "below a file": tmp_path / "file" / "demo.calibration.json",
        "a folder": tmp_path / "taken",
        "/proc": Path("/proc/nope/demo.calibration.json"),
    }[where]
    (tmp_path / "taken" / "deep").mkdir(parents=True)
    with pytest.raises(InputError, match=r"cannot write to .*--out"):
        _cache(path).calibrations(BOTH, _Maker())
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "taken"], "nothing half-written"
