"""Which NVIDIA GPUs answer here, asked of the driver alone. Never raises, makes no context.

The driver's library is called by ctypes: what loads an engine must be known before a CUDA binding or TensorRT is there.
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path

_LIBRARIES = ("libcuda.so.1", "nvcuda.dll")
_MAJOR, _MINOR, _INTEGRATED, _CAN_MAP, _CAN_REGISTER = 75, 76, 18, 19, 99  # CUdevice_attribute of cuda.h
_NAME_BYTES = 256
_BUS_ID_BYTES = 32
NO_GPU = "no NVIDIA GPU answers; see trt-yolo doctor"

_MPS = "/tmp/nvidia-mps"  # noqa: S108  where the service listens unless told otherwise


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU.

    Attributes:
        index: As CUDA counts.
        name: As the driver calls it.
        compute_capability: Such as 8.9.
        memory_bytes: Its memory.
        integrated: Whether it shares the processor's memory, as on a Jetson.
        can_map: Whether it can address page-locked memory of the processor.
        can_register: Whether memory that is there already can be page-locked.
        pci_bus_id: Where it sits, such as 0000:65:00.0; empty where it does not say. NVML counts GPUs otherwise.
    """

    index: int
    name: str
    compute_capability: str
    memory_bytes: int
    integrated: bool
    can_map: bool = True
    can_register: bool = True
    pci_bus_id: str = ""


def devices() -> list[Device]:
    """The GPUs that this process may use; none where there is no driver or it refuses."""
    driver = _driver()
    count = ctypes.c_int(0)
    try:
        if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return []
        return [found for index in range(count.value) if (found := _device(driver, index)) is not None]
    except (OSError, AttributeError):
        return []


def cuda_version() -> str:
    """The highest CUDA version that the driver takes, such as 13.0; empty without a driver."""
    driver, version = _driver(), ctypes.c_int(0)
    try:
        if driver is None or driver.cuDriverGetVersion(ctypes.byref(version)):
            return ""
    except AttributeError:
        return ""
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def driver_version() -> str:
    """The driver's own version, such as 580.65.06; empty where it does not say."""
    try:
        text = Path("/proc/driver/nvidia/version").read_text()
    except OSError:
        return ""
    found = re.search(r"\b\d{3}\.\d+(?:\.\d+)?\b", text)
    return found[0] if found else ""


def is_mps_running() -> bool:
    """Whether NVIDIA's Multi-Process Service listens, which lets processes share a GPU at the same time."""
    return os.path.exists(os.path.join(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", _MPS), "control"))


def platform_name() -> str:
    """System and processor, such as linux-x86_64: plans do not pass from one to another."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{ {'amd64': 'x86_64', 'arm64': 'aarch64'}.get(machine, machine) }"


def _driver() -> ctypes.CDLL | None:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _device(driver: ctypes.CDLL, index: int) -> Device | None:
    handle = ctypes.c_int(0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    memory = ctypes.c_size_t(0)
    if driver.cuDeviceGet(ctypes.byref(handle), index):
        return None
    driver.cuDeviceGetName(name, _NAME_BYTES, handle)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    major, minor = (_attribute(driver, one, handle) for one in (_MAJOR, _MINOR))
    integrated, can_map, can_register = (
        bool(_attribute(driver, one, handle)) for one in (_INTEGRATED, _CAN_MAP, _CAN_REGISTER)
    )
    return Device(
        index=index,
        name=name.value.decode(errors="replace"),
        compute_capability=f"{major}.{minor}",
        memory_bytes=memory.value,
        integrated=integrated,
        can_map=can_map,
        can_register=can_register,
        pci_bus_id=_pci_bus_id(driver, handle),
    )


def _pci_bus_id(driver: ctypes.CDLL, handle: ctypes.c_int) -> str:
    text = ctypes.create_string_buffer(_BUS_ID_BYTES)
    try:
        refused = driver.cuDeviceGetPCIBusId(text, _BUS_ID_BYTES, handle)
    except AttributeError:  # a driver without it
        return ""
    return "" if refused else text.value.decode(errors="replace")


def _attribute(driver: ctypes.CDLL, attribute: int, handle: ctypes.c_int) -> int:
    value = ctypes.c_int(0)
    driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
    return value.value
