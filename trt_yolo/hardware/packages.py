"""What this machine has: packages and their versions. Never raises, imports nothing heavy.

Packages are looked up by their metadata; only onnxruntime is imported, to ask for its providers.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trt_yolo.errors import MissingDependencyError


@dataclass(frozen=True)
class Feature:
    """Something that trt-yolo does, the packages that it takes, and how to get them.

    Attributes:
        name: As in the extras of the package.
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


FEATURES = (
    Feature(
        "core",
        "everything",
        (
            "numpy",
            "opencv-python",
            "av",
            "simplejpeg",
            "pillow",
            "onnx",
            "typer",
            "rich",
            "pyyaml",
            "filelock",
        ),
        "pip install trt-yolo",
    ),
    Feature(
        "cpu",
        "run models on the CPU, measure mAP",
        ("onnxruntime", "faster-coco-eval"),
        "pip install 'trt-yolo[cpu]'",
    ),
    Feature(
        "gpu",
        "run engines on an NVIDIA GPU",
        ("onnxruntime-gpu", "tensorrt", "cuda-bindings", "nvidia-ml-py", "faster-coco-eval"),
        "pip install 'trt-yolo[gpu]' (on a Jetson: JetPack's own TensorRT; JetPack 6 also: 'cuda-bindings<13')",
    ),
    Feature(
        "pycuda",
        "reach the GPU without cuda-bindings, as on older Jetsons",
        ("pycuda",),
        "pip install 'trt-yolo[pycuda]' (compiles: it needs a C++ compiler and CUDA's headers)",
    ),
    Feature(
        "lean",
        "run engines built with --version-compatible, without the whole TensorRT",
        ("tensorrt-lean-cu13",),
        "pip install 'trt-yolo[lean]'",
    ),
    Feature(
        "rtx",
        "build engines with TensorRT for RTX, also without a GPU",
        ("tensorrt-rtx-cu13",),
        "pip install 'trt-yolo[rtx]'",
    ),
    Feature(
        "nvcodec",
        "decode images and videos on the GPU",
        ("nvidia-nvimgcodec-cu12", "PyNvVideoCodec"),
        "pip install 'trt-yolo[nvcodec]'",
    ),
    Feature(
        "export",
        "architectures other than YOLOv8",
        ("ultralytics", "onnxslim"),
        "pip install 'trt-yolo[export]' (AGPL-3.0)",
    ),
)

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
    "faster-coco-eval": "faster_coco_eval",
}
_ALTERNATIVES = {
    "opencv-python": ("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    "onnxruntime": ("onnxruntime-gpu",),
    "tensorrt": ("tensorrt-cu12", "tensorrt-cu13"),
    "tensorrt-lean-cu13": ("tensorrt-lean", "tensorrt-lean-cu12"),
    "tensorrt-rtx-cu13": ("tensorrt-rtx", "tensorrt-rtx-cu12"),
    "nvidia-nvimgcodec-cu12": ("nvidia-nvimgcodec-cu13",),
}


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
    name = _MODULES.get(package, package)
    try:
        return importlib.util.find_spec(name) is not None
    except Exception:  # noqa: BLE001  the parent package is imported, and may raise anything
        return False


def _providers() -> str:
    try:
        return ", ".join(importlib.import_module("onnxruntime").get_available_providers())
    except Exception as error:  # noqa: BLE001  whatever a broken installation raises is the answer
        return f"nothing, its import fails ({type(error).__name__}: {error}); install it again"


# Packages that not every user has: imported where they are needed, or said in words to be missing.
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
            f"{purpose} needs {package}, which does not import ({' '.join(str(error).split())[:200]}); "
            f"pip install 'trt-yolo[{extra}]'"
        ) from error
