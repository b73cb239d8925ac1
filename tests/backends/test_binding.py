"""Which CUDA binding is used, and why: made-up packages on the import path, and a made-up driver."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from trt_yolo.backends import binding
from trt_yolo.backends.binding import VARIABLE, chosen_binding, open_binding
from trt_yolo.errors import InputError, MissingDependencyError


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    _install(monkeypatch, cuda_bindings="13.5.0", pycuda=True)
    monkeypatch.setattr(binding, "cuda_version", lambda: "13.0")


def _install(monkeypatch: pytest.MonkeyPatch, *, cuda_bindings: str, pycuda: bool) -> None:
    bindings = types.ModuleType("cuda.bindings")
    bindings.__version__ = cuda_bindings  # type: ignore[attr-defined]
    there = {
        "cuda": types.ModuleType("cuda"),
        "cuda.bindings": bindings,
        "cuda.bindings.driver": types.ModuleType("cuda.bindings.driver") if cuda_bindings else None,
        "pycuda": types.ModuleType("pycuda"),
        "pycuda.driver": types.ModuleType("pycuda.driver") if pycuda else None,
    }
    for name, module in there.items():
        monkeypatch.setitem(sys.modules, name, module)


def test_cuda_bindings_is_the_default() -> None:
    assert chosen_binding() == ("cuda-bindings", "the default")
    assert open_binding().name == "cuda-bindings"


def test_one_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "pycuda")
    assert chosen_binding() == ("pycuda", "TRT_YOLO_CUDA asks for it")
    monkeypatch.setenv(VARIABLE, "cupy")
    with pytest.raises(InputError, match="TRT_YOLO_CUDA is 'cupy'; give cuda-bindings or pycuda"):
        chosen_binding()


def test_pycuda_stands_in(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    _install(monkeypatch, cuda_bindings="", pycuda=True)
    name, why = chosen_binding()
    assert name == "pycuda"
    assert why.startswith("cuda-bindings does not import")
    stand_in: Any = object()
    monkeypatch.setitem(binding._OPEN, "pycuda", lambda: stand_in)
    assert open_binding() is stand_in
    assert "CUDA is called through pycuda: cuda-bindings does not import" in caplog.text


@pytest.mark.parametrize(
    ("version", "driver", "fits"),
    [
        ("13.5.0", "13.0", True),  # minor versions are compatible
        ("12.9.1", "13.0", True),  # a driver runs what is older
        ("13.5.0", "12.6", False),  # a Jetson with JetPack 6
        ("13.5.0", "", True),  # no driver: another line says so
    ],
)
def test_the_drivers_cuda(monkeypatch: pytest.MonkeyPatch, version: str, driver: str, fits: bool) -> None:
    _install(monkeypatch, cuda_bindings=version, pycuda=False)
    monkeypatch.setattr(binding, "cuda_version", lambda: driver)
    if fits:
        assert chosen_binding()[0] == "cuda-bindings"
        return
    with pytest.raises(
        MissingDependencyError,
        match=r"cuda-bindings 13\.5\.0 is for CUDA 13 and the driver for 12\.6, pip install 'cuda-bindings<13'; "
        r"pycuda does not import .*pip install 'trt-yolo\[pycuda\]'",
    ):
        chosen_binding()


def test_none_that_is_asked_for_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one is not taken behind the back of who asked."""
    _install(monkeypatch, cuda_bindings="13.5.0", pycuda=False)
    monkeypatch.setenv(VARIABLE, "pycuda")
    with pytest.raises(MissingDependencyError, match="pycuda does not import"):
        open_binding()
