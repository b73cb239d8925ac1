"""The driver, asked by ctypes: none, one that is broken, and one with two GPUs that is made for the test."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from trt_yolo.hardware import gpus

HAS_GPU = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvhost-gpu").exists()

# what cuda.h says these do; {init} is the answer of cuInit
DRIVER = """
int cuInit(unsigned flags) {{ return {init}; }}
int cuDriverGetVersion(int *version) {{ *version = {version}; return {init}; }}
int cuDeviceGetCount(int *count) {{ *count = 2; return {count}; }}
int cuDeviceGet(int *device, int ordinal) {{ *device = ordinal + 100; return ordinal == {lost} ? 101 : 0; }}
int cuDeviceGetName(char *name, int length, int device) {{
    const char *text = device == 100 ? "NVIDIA H100 80GB HBM3" : "Orin\\xff"; int at = 0;
    while (at < length - 1 && text[at]) {{ name[at] = text[at]; at++; }}
    name[at] = 0; return 0;
}}
int cuDeviceTotalMem_v2(unsigned long *bytes, int device) {{
    *bytes = device == 100 ? 80ul << 30 : 8ul << 30; return 0;
}}
int cuDeviceGetPCIBusId(char *text, int length, int device) {{
    const char *bus = "0000:65:00.0"; int at = 0;
    if (device != 100) return 1;
    while (at < length - 1 && bus[at]) {{ text[at] = bus[at]; at++; }}
    text[at] = 0; return 0;
}}
int cuDeviceGetAttribute(int *value, int attribute, int device) {{
    if (attribute == 75) *value = device == 100 ? 9 : 8;
    else if (attribute == 76) *value = device == 100 ? 0 : 7;
    else if (attribute == 18) *value = device != 100;
    else return 1;
    return 0;
}}
"""


def _driver(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    init: int = 0,
    count: int = 0,
    lost: int = -1,
    version: int = 13000,
) -> None:
    """Has a driver of ours asked instead of NVIDIA's."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    (folder / "driver.c").write_text(DRIVER.format(init=init, count=count, lost=lost, version=version))
    library = folder / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, folder / "driver.c"], check=True)
    monkeypatch.setattr(gpus, "_LIBRARIES", (str(library),))


@pytest.mark.skipif(HAS_GPU, reason="a GPU is here")
def test_no_gpu_here() -> None:
    assert gpus.devices() == []
    assert gpus.cuda_version() == ""
    assert gpus.driver_version() == ""


@pytest.mark.skipif(not HAS_GPU, reason="no GPU is here")
def test_a_gpu_here() -> None:
    found = gpus.devices()
    assert found
    assert all(
        re.fullmatch(r"\d+\.\d", one.compute_capability) and one.memory_bytes > 1 << 28 for one in found
    )
    assert re.fullmatch(r"\d+\.\d+", gpus.cuda_version())


def test_what_a_driver_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _driver(tmp_path, monkeypatch, version=12080)
    first, second = gpus.devices()
    assert first == gpus.Device(
        index=0,
        name="NVIDIA H100 80GB HBM3",
        compute_capability="9.0",
        memory_bytes=80 << 30,
        integrated=False,
        can_map=False,
        can_register=False,
        pci_bus_id="0000:65:00.0",
    )
    assert second.pci_bus_id == ""
    assert (second.index, second.compute_capability, second.memory_bytes) == (1, "8.7", 8 << 30)
    assert second.integrated
    assert second.name.startswith("Orin")
    assert gpus.cuda_version() == "12.8"


def test_a_gpu_that_is_lost_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _driver(tmp_path, monkeypatch, lost=0)
    assert [one.index for one in gpus.devices()] == [1]


@pytest.mark.parametrize("failing", ["init", "count"])
def test_a_driver_that_refuses(failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _driver(tmp_path, monkeypatch, **{failing: 100})
    assert gpus.devices() == []
    assert gpus.cuda_version() == ("" if failing == "init" else "13.0")


def test_a_library_that_is_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "_LIBRARIES", ("libc.so.6",))
    assert gpus._driver() is not None
    assert gpus.devices() == []
    assert gpus.cuda_version() == ""


def test_a_file_that_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libcuda.so.1").write_text("stub")
    monkeypatch.setattr(gpus, "_LIBRARIES", (str(tmp_path / "libcuda.so.1"), "no-such-library.so"))
    assert gpus.devices() == []
    assert gpus.cuda_version() == ""


@pytest.mark.parametrize(
    ("system", "machine", "wanted"),
    [
        ("Linux", "x86_64", "linux-x86_64"),
        ("Linux", "aarch64", "linux-aarch64"),
        ("Windows", "AMD64", "windows-x86_64"),
        ("Darwin", "arm64", "darwin-aarch64"),
        ("Linux", "riscv64", "linux-riscv64"),
    ],
)
def test_platform_names(system: str, machine: str, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert gpus.platform_name() == wanted
