"""Every call of pycuda and cuda-bindings that the code makes, against what those packages have. Nothing is run."""

from __future__ import annotations

import ast
import inspect
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest

import trt_yolo
from trt_yolo.backends import cuda_bindings, pycuda_binding

BINDINGS, PYCUDA_SOURCE = Path(cuda_bindings.__file__), Path(pycuda_binding.__file__)
# of pycuda 2026.1's src/wrapper/wrap_cudadrv.cpp, where the package itself cannot be had
PYCUDA = {
    "Context": {"pop", "push", "detach", "synchronize"},
    "Device": {"count", "name", "get_attribute", "retain_primary_context"},
    "Event": {"record", "query", "synchronize"},
    "Stream": {"synchronize", "handle"},
    "device_attribute": {"INTEGRATED", "CAN_MAP_HOST_MEMORY"},
    "event_flags": {"DISABLE_TIMING", "BLOCKING_SYNC"},
    "": {
        "Error", "MemoryError", "init", "mem_alloc", "mem_get_info", "memcpy_dtoh_async", "memcpy_htod_async",
        "pagelocked_empty",
    },
}  # fmt: skip


def _attributes(source: Path, owner: str) -> set[str]:
    """What the code reads of `self._cu` or `self._cuda`, chains with dots."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text())):
        chain = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
        if chain.startswith(f"self.{owner}."):
            found.add(chain.removeprefix(f"self.{owner}."))
    return found


def _calls(source: Path) -> dict[str, set[int]]:
    """How many arguments each function of the driver is called with, through `self._do` or not."""
    found: dict[str, set[int]] = {}
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called, *arguments = node.args if ast.unparse(node.func) == "self._do" else (node.func, *node.args)
        name = ast.unparse(called)
        if name.startswith("self._cu.cu"):
            found.setdefault(name.removeprefix("self._cu."), set()).add(len(arguments))
    return found


def test_cuda_bindings_has_all_of_it() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    names = _attributes(BINDINGS, "_cu")
    assert {"cuMemHostRegister", "cuGraphLaunch", "cuStreamBeginCapture", "cuStreamDestroy"} <= names
    for chain in names:
        there: Any = driver
        for name in chain.split("."):
            assert hasattr(there, name), chain
            there = getattr(there, name)


def test_cuda_bindings_takes_so_many_arguments() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    calls = _calls(BINDINGS)
    assert len(calls) >= 25
    for name, counts in calls.items():
        signature = re.match(rf"{name}\((.*?)\)", inspect.getdoc(getattr(driver, name)) or "")
        assert signature, name
        wanted = len([part for part in signature[1].split(",") if part.strip()])
        assert counts == {wanted}, f"{name}{signature[1]}"


def test_the_flags_are_those_of_cuda() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    assert int(driver.CU_MEMHOSTREGISTER_PORTABLE) == pycuda_binding._PORTABLE
    assert int(driver.CU_MEMHOSTREGISTER_DEVICEMAP) == pycuda_binding._DEVICEMAP
    assert int(driver.CUstream_flags.CU_STREAM_NON_BLOCKING) == pycuda_binding._NON_BLOCKING
    assert int(driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) == pycuda_binding._THREAD_LOCAL


def test_pycuda_has_all_of_it() -> None:
    used = _attributes(PYCUDA_SOURCE, "_cuda")
    assert {"Context.pop", "mem_alloc", "Device"} <= used
    for chain in used:
        owner, _, name = chain.rpartition(".")
        assert name in PYCUDA[owner] or name in PYCUDA, chain


def test_the_list_is_pycudas(tmp_path: Path) -> None:
    """Against the source, where somebody has put it: `pip download --no-deps --no-binary :all: pycuda`."""
    archives = sorted(Path(trt_yolo.__file__).parent.parent.glob(".venv/pycuda/pycuda-*.tar.gz"))
    if not archives:
        pytest.skip("pycuda's source is not in .venv/pycuda")
    with tarfile.open(archives[-1]) as archive:
        (member,) = [one for one in archive.getmembers() if one.name.endswith("wrapper/wrap_cudadrv.cpp")]
        extracted = archive.extractfile(member)
        assert extracted is not None
        text = extracted.read().decode()
    for owner, names in PYCUDA.items():
        for name in (owner, *names):
            assert re.search(rf"\b{name}\b", text), f"{owner}.{name}"
    for name in ("memcpy_htod_async", "memcpy_dtoh_async"):
        assert re.search(rf"void py_{name}\([^)]*, *[^)]*, *py::object stream_py\)", text), name
