"""The TensorRT that is used: `tensorrt` or `tensorrt_rtx`, one interface, imported where it is asked for.

Where `tensorrt` is not installed, its lean runtime `tensorrt_lean` stands in: it runs engines that were built with
--version-compatible, and builds none. Knows no networks and no plans. To a type checker the module is `tensorrt`,
whose stubs hold the code to the API of 10.x; the tests build with `tensorrt_rtx`, which has the API of 11.x.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_args

from trt_yolo.engine.plan import Family
from trt_yolo.errors import InputError, MissingDependencyError, on_one_line
from trt_yolo.hardware.gpus import Device, devices

_BuilderChoice = Literal["auto", "tensorrt", "tensorrt-rtx"]

_MODULES: dict[Family, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
INSTALL: dict[Family, str] = {
    "tensorrt": "pip install 'trt-yolo[gpu]' (on a Jetson JetPack has it: make the venv with --system-site-packages)",
    "tensorrt-rtx": "pip install 'trt-yolo[rtx]'",
}
# The enumeration ComputeCapability of TensorRT for RTX 1.7; its support matrix says the same. A100's 8.0 is in it,
# Orin's 8.7, Hopper's 9.0, Blackwell's 10.x in data centres and Thor's 11.0 are not
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
_LEAN = "tensorrt_lean"
_RUNS_ALONE = "it runs engines and builds none"
_PACKAGES = {
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt"),
    "tensorrt_lean": ("tensorrt-lean-cu13", "tensorrt-lean-cu12", "tensorrt-lean"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
}


class Library:
    """An imported TensorRT.

    Attributes:
        family: Which.
        trt: The module.
        version: Its version.
        lean: Whether it is the lean runtime, which builds nothing.
        name: As messages call it: `tensorrt`, `tensorrt-lean` or `tensorrt-rtx`.
        package: The installed distribution; empty where pip has no records of one.
        cuda: The major version of CUDA that it was built for; 0 where nothing says so, as with JetPack's.
    """

    if TYPE_CHECKING:
        import tensorrt as trt

    def __init__(self, family: Family) -> None:
        """Imports it.

        Raises:
            MissingDependencyError: It is not installed, or does not import.
        """
        name = module_of(family) or _MODULES[family]
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            raise MissingDependencyError(
                f"{name} does not import ({on_one_line(error)}); {INSTALL[family]}"
            ) from error
        if not TYPE_CHECKING:
            self.trt = module
        self.family = family
        self.version = str(self.trt.__version__)
        self.lean = name == _LEAN
        self.name = name.replace("_", "-")
        self.package, _ = _distribution(name)
        built_for = re.search(r"-cu(\d+)$", self.package)
        self.cuda = int(built_for[1]) if built_for else 0


def installed_version(family: Family) -> str:
    """The version that pip or, without pip's records, the module itself names; empty if it is not there."""
    module = module_of(family)
    if not module:
        return ""
    _, version = _distribution(module)
    if version:
        return version
    try:  # JetPack's comes from Debian packages
        return Library(family).version
    except MissingDependencyError:
        return ""


def module_of(family: Family) -> str:
    """What runs a family's engines here: its module, or its lean runtime's where only that is; empty if neither."""
    if is_found(family):
        return _MODULES[family]
    return _LEAN if family == "tensorrt" and _is_importable(_LEAN) else ""


def is_lean() -> bool:
    """Whether engines of `tensorrt` run here in its lean runtime alone."""
    return module_of("tensorrt") == _LEAN


def is_found(family: Family) -> bool:
    """Whether the module that builds and runs a family's engines is there to be imported."""
    return _is_importable(_MODULES[family])


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _distribution(module: str) -> tuple[str, str]:
    """Name and version of the installed distribution of a module; empty without pip's records."""
    for package in _PACKAGES[module]:
        try:
            return package, importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "", ""


def chosen_family(builder: str, *, gpus: Sequence[Device] | None = None) -> Family:
    """What builds: the one named; or `auto`: tensorrt where it and a GPU are there, else TensorRT for RTX.

    `auto` does not take TensorRT for RTX where a GPU answers that cannot run its engines.

    Args:
        builder: `auto`, `tensorrt` or `tensorrt-rtx`.
        gpus: The GPUs here; None asks the driver.

    Raises:
        InputError: No such builder, or tensorrt without a GPU.
        MissingDependencyError: It is not installed.
    """
    if builder not in get_args(_BuilderChoice):
        raise InputError(f"--builder {builder!r} does not exist; give {', '.join(get_args(_BuilderChoice))}")
    gpus = devices() if gpus is None else gpus
    if builder == "auto":
        return _automatic(gpus)
    family: Family = "tensorrt" if builder == "tensorrt" else "tensorrt-rtx"
    if not is_found(family):
        lean = f" (tensorrt-lean is: {_RUNS_ALONE})" if family == "tensorrt" and is_lean() else ""
        raise MissingDependencyError(f"--builder {family} is not installed{lean}; {INSTALL[family]}")
    if family == "tensorrt" and not gpus:
        raise InputError(
            "--builder tensorrt measures kernels on the GPU that will run the engine, and no NVIDIA GPU answers here; "
            "build there, or use --builder tensorrt-rtx, which needs none"
        )
    return family


def _automatic(gpus: Sequence[Device]) -> Family:
    if gpus and is_found("tensorrt"):
        return "tensorrt"
    if not gpus and not is_found("tensorrt-rtx"):
        raise MissingDependencyError(
            "no NVIDIA GPU answers here, and TensorRT for RTX, which builds without one, is not installed; "
            f"{INSTALL['tensorrt-rtx']}"
        )
    if gpus and gpus[0].compute_capability not in RTX_CAPABILITIES:
        raise MissingDependencyError(
            f"TensorRT is not installed, and {not_for_rtx(gpus[0])}; {INSTALL['tensorrt']}, run the .onnx in ONNX "
            "Runtime, or give --builder tensorrt-rtx to build for another GPU"
        )
    if is_found("tensorrt-rtx"):
        return "tensorrt-rtx"
    lean = f" (tensorrt-lean is: {_RUNS_ALONE})" if is_lean() else ""
    raise MissingDependencyError(
        f"no TensorRT is installed{lean}; {INSTALL['tensorrt']}, or, for an RTX GPU, {INSTALL['tensorrt-rtx']}"
    )


def not_for_rtx(gpu: Device) -> str:
    """Why TensorRT for RTX does not run on a GPU whose compute capability it does not know."""
    return (
        f"TensorRT for RTX runs on compute capability {', '.join(RTX_CAPABILITIES)} alone, "
        f"and this is {gpu.compute_capability} ({gpu.name})"
    )
