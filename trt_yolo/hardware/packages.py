"""What this machine has: packages and their versions; those that not every user has are imported or said to be missing.

What looks packages up never raises and imports nothing heavy: they are found by their metadata, and only onnxruntime is
imported, to ask for its providers. `import_or_refuse` imports what is asked for.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trt_yolo.errors import MissingDependencyError, on_one_line


@dataclass(frozen=True)
class Feature:
    """Something that trt-yolo does, the packages that it takes, and how to get them.

    Attributes:
        name: Of the extra; `core` is what comes without one.
        purpose: What it is for.
        packages: Names on the package index; of alternatives one is enough.
        install: The command.
    """

    name: str
    purpose: str
    packages: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class Probe:
    """One package: its version ('' if not installed) and how it is."""

    package: str
    version: str
    state: str


_PURPOSES = {
    "core": "everything",
    "cpu": "run models on the CPU, measure mAP",
    "gpu": "run engines on an NVIDIA GPU",
    "pycuda": "reach the GPU without cuda-bindings, as on older Jetsons",
    "lean": "run engines built with --version-compatible, without the whole TensorRT",
    "rtx": "build engines with TensorRT for RTX, also without a GPU",
    "nvcodec": "decode images and videos on the GPU",
    "export": "architectures other than YOLOv8",
    "metrics": "a runtime's numbers for Prometheus",
    "report": "bench --html: a page with plots",
    "peers": "bench --peers: other runtimes beside this one",
}
_HINTS = {
    "gpu": " (on a Jetson: JetPack's own TensorRT; JetPack 6 also: 'cuda-bindings<13')",
    "pycuda": " (compiles: it needs a C++ compiler and CUDA's headers)",
    "export": " (AGPL-3.0)",
}
_MODULES = {
    "opencv-python": "cv2",
    "onnxruntime-gpu": "onnxruntime",
    "cuda-bindings": "cuda.bindings",
    "nvidia-ml-py": "pynvml",
    "tensorrt-lean-cu13": "tensorrt_lean",
    "tensorrt-rtx-cu13": "tensorrt_rtx",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "nvidia-nvimgcodec-cu12": "nvidia.nvimgcodec",
    "pynvvideocodec": "PyNvVideoCodec",
}
_ALTERNATIVES = {
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "onnxruntime": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt-cu12", "tensorrt-cu13"),
    "tensorrt-lean-cu13": ("tensorrt-lean", "tensorrt-lean-cu12"),
    "tensorrt-rtx-cu13": ("tensorrt-rtx", "tensorrt-rtx-cu12"),
    "nvidia-nvimgcodec-cu12": ("nvidia-nvimgcodec-cu13",),
}
_EQUALS = re.compile(r"(\w+) == ['\"]([^'\"]*)['\"]")


def features() -> list[Feature]:
    """Those of the installed trt-yolo, `core` first, then each extra but `dev`; none where it is not installed."""
    try:
        extras = importlib.metadata.metadata("trt-yolo").get_all("Provides-Extra", [])
        requirements = importlib.metadata.requires("trt-yolo") or []
    except Exception:  # noqa: BLE001  not installed, or damaged metadata, which may raise anything
        return []
    core = Feature("core", _PURPOSES["core"], packages_of("", requirements), "pip install trt-yolo")
    return [core, *(_feature(extra, requirements) for extra in extras if extra != "dev")]


def _feature(extra: str, requirements: Sequence[str]) -> Feature:
    install = f"pip install 'trt-yolo[{extra}]'{_HINTS.get(extra, '')}"
    return Feature(extra, _PURPOSES.get(extra, ""), packages_of(extra, requirements), install)


def packages_of(extra: str, requirements: Sequence[str]) -> tuple[str, ...]:
    """The packages that an extra, '' for none, brings on this machine.

    Args:
        extra: Its name.
        requirements: As in `Requires-Dist`; of markers only those that hold `==` joined by `and` are understood.
    """
    here = {"extra": extra, "sys_platform": sys.platform, "platform_machine": platform.machine()}
    names = []
    for requirement in requirements:
        name, marker = re.split(r"[^\w.-]", requirement, maxsplit=1)[0], requirement.partition(";")[2]
        wanted = {"extra": ""} | dict(_EQUALS.findall(marker))
        if wanted.items() <= here.items():
            names.append(name.lower())
    return tuple(names)


def probe(package: str) -> Probe:
    """Whether a package, or one that stands in for it, is installed and can be found."""
    for name in (package, *_ALTERNATIVES.get(package, ())):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        except Exception:  # noqa: BLE001  damaged metadata may raise anything
            version = "?"
        state = "installed" if name == package else f"installed as {name}"
        return Probe(
            package, version or "?", state if _found(package) else "installed, but its module is missing"
        )
    if package != "onnxruntime-gpu" and _found(package):
        return Probe(package, "?", "importable, installed without pip")
    return Probe(package, "", "not installed")


def missing(feature: Feature, probes: Mapping[str, Probe]) -> list[str]:
    """The packages that a feature still needs."""
    return [name for name in feature.packages if not probes[name].version]


def warnings(probes: Mapping[str, Probe]) -> list[str]:
    """What is installed in a way that will not work."""
    lines = []
    both = [name for name in ("onnxruntime", "onnxruntime-gpu") if probes[name].state == "installed"]
    if len(both) == 2:
        lines.append(
            "onnxruntime and onnxruntime-gpu overwrite each other: pip uninstall both, then install one of them"
        )
    if probes["onnxruntime"].version:
        lines.append(f"ONNX Runtime offers: {_providers()}")
    return lines


def _found(package: str) -> bool:
    name = _MODULES.get(package, package.replace("-", "_"))
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:  # noqa: BLE001  the parent package is imported, and may raise anything
        return False


def _providers() -> str:
    try:
        return ", ".join(importlib.import_module("onnxruntime").get_available_providers())
    except Exception as error:  # noqa: BLE001  whatever a broken installation raises is the answer
        return f"nothing, its import fails ({type(error).__name__}: {error}); install it again"


def import_or_refuse(module: str, *, purpose: str, package: str, extra: str) -> Any:
    """The module.

    Args:
        module: Its name.
        purpose: What it is needed for, such as `running on a GPU`.
        package: As the package index calls it.
        extra: Of trt-yolo, which brings it.

    Raises:
        MissingDependencyError: It is not installed, or does not import.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingDependencyError(
            f"{purpose} needs {package}, which does not import ({on_one_line(error)}); "
            f"pip install 'trt-yolo[{extra}]'"
        ) from error
