"""The TensorRT that is used: `tensorrt` or `tensorrt_rtx`, one interface, imported where it is asked for.

Knows no networks and no plans. To a type checker the module is `tensorrt`, whose stubs hold the code to the API of
10.x; the tests build with `tensorrt_rtx`, which has the API of 11.x.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from trt_yolo.engine.device import Device, devices
from trt_yolo.engine.plan import Family
from trt_yolo.errors import InputError, MissingDependencyError

BuilderChoice = Literal["auto", "tensorrt", "tensorrt-rtx"]

MODULES: dict[Family, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
INSTALL: dict[Family, str] = {
    "tensorrt": "pip install 'trt-yolo[gpu]' (on a Jetson JetPack has it: make the venv with --system-site-packages)",
    "tensorrt-rtx": "pip install 'trt-yolo[rtx]'",
}
_PACKAGES: dict[Family, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
}


class Library:
    """An imported TensorRT.

    Attributes:
        family: Which.
        trt: The module.
        version: Its version.
    """

    if TYPE_CHECKING:
        import tensorrt as trt

    def __init__(self, family: Family) -> None:
        """Imports it.

        Raises:
            MissingDependencyError: It is not installed, or does not import.
        """
        try:
            module = importlib.import_module(MODULES[family])
        except (ImportError, OSError, RuntimeError) as error:
            raise MissingDependencyError(
                f"{MODULES[family]} does not import ({' '.join(str(error).split())[:200]}); {INSTALL[family]}"
            ) from error
        if not TYPE_CHECKING:
            self.trt = module
        self.family = family
        self.version = str(self.trt.__version__)


def installed_version(family: Family) -> str:
    """The version that pip or, without pip's records, the module itself names; empty if it is not there."""
    if not is_found(family):
        return ""
    for package in _PACKAGES[family]:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    try:  # JetPack's comes from Debian packages
        return Library(family).version
    except MissingDependencyError:
        return ""


def is_found(family: Family) -> bool:
    """Whether its module is there to be imported."""
    try:
        return importlib.util.find_spec(MODULES[family]) is not None
    except (ImportError, ValueError):
        return False


def chosen_family(builder: str, *, gpus: Sequence[Device] | None = None) -> Family:
    """What builds: the one named; or `auto`: tensorrt where it and a GPU are there, else TensorRT for RTX.

    Args:
        builder: `auto`, `tensorrt` or `tensorrt-rtx`.
        gpus: The GPUs here; None asks the driver.

    Raises:
        InputError: No such builder, or tensorrt without a GPU.
        MissingDependencyError: It is not installed.
    """
    if builder not in get_args(BuilderChoice):
        raise InputError(f"--builder {builder!r} does not exist; give {', '.join(get_args(BuilderChoice))}")
    has_gpu = bool(devices() if gpus is None else gpus)
    if builder == "auto":
        return _automatic(has_gpu)
    family: Family = "tensorrt" if builder == "tensorrt" else "tensorrt-rtx"
    if not is_found(family):
        raise MissingDependencyError(f"--builder {family} is not installed; {INSTALL[family]}")
    if family == "tensorrt" and not has_gpu:
        raise InputError(
            "--builder tensorrt measures kernels on the GPU that will run the engine, and no NVIDIA GPU answers here; "
            "build there, or use --builder tensorrt-rtx, which needs none"
        )
    return family


def _automatic(has_gpu: bool) -> Family:
    if has_gpu and is_found("tensorrt"):
        return "tensorrt"
    if is_found("tensorrt-rtx"):
        return "tensorrt-rtx"
    if has_gpu:
        raise MissingDependencyError(
            f"no TensorRT is installed; {INSTALL['tensorrt']}, or, for an RTX GPU, {INSTALL['tensorrt-rtx']}"
        )
    raise MissingDependencyError(
        f"no NVIDIA GPU answers here, and TensorRT for RTX, which builds without one, is not installed; "
        f"{INSTALL['tensorrt-rtx']}"
    )
