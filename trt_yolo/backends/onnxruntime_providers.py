"""ONNX Runtime's execution providers: which there are, what each is told, which one a model gets.

Names and numbers in and out, but for the question what the installed ONNX Runtime has. Knows no sessions.
Options: onnxruntime.ai/docs/execution-providers, pages CUDA, TensorRT and TensorRT RTX.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.errors import InputError, MissingDependencyError
from trt_yolo.hardware.gpus import NO_GPU, devices

ProviderName = Literal["auto", "cpu", "cuda", "tensorrt", "nv-tensorrt-rtx"]

_Options = dict[str, str]

_OF_NVIDIA = ("libcu", "libnv")  # CUDA, cuBLAS, cuDNN; TensorRT
_CUDNN = "libcudnn.so.9"
_LDD_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a session on a GPU is to be.

    Attributes:
        device: The GPU, as CUDA counts.
        stream: Address of the CUDA stream that everything runs in.
        graphs: Whether it captures CUDA graphs by itself.
        manifest: What the model is.
        cache: Folder for what a provider builds; None: it is not kept.
        channels_last: Whether CUDA's convolutions work on NHWC, as tensor cores do. Of Q/DQ graphs ONNX Runtime makes
            one that does not run.
    """

    device: int
    stream: int
    graphs: bool
    manifest: Manifest
    cache: Path | None = None
    channels_last: bool = True


@dataclass(frozen=True, kw_only=True)
class Provider:
    """One of ONNX Runtime's providers for GPUs.

    Attributes:
        registered: As ONNX Runtime calls it.
        options: What it is told.
        memory: Where a bound tensor lies, as ONNX Runtime calls it.
        graphs_by_number: Whether a session keeps several captured graphs, each under a number of its own.
        beside: What runs the operators that it does not take.
        plugin: Package that brings it to an ONNX Runtime which was built without it.
        library: The middle of its library's name in onnxruntime/capi; empty where it is not looked into.
    """

    registered: str
    options: Callable[[Asked], _Options]
    memory: str = "cuda"
    graphs_by_number: bool = False
    beside: tuple[str, ...] = ()
    plugin: str = ""
    library: str = ""

    def chain(self, asked: Asked) -> list[tuple[str, _Options]]:
        """The `providers` of a session: this one, and what runs the operators that it does not take."""
        others = [(PROVIDERS[name].registered, PROVIDERS[name].options(asked)) for name in self.beside]
        return [(self.registered, self.options(asked)), *others]

    def may_capture(self, manifest: Manifest) -> bool:
        """Whether it can capture what is run.

        Several batch sizes need several graphs; and a head graph's images lie at another address each time.
        """
        return manifest.graph != "head" and (manifest.batch.is_static or self.graphs_by_number)


def _on_device(asked: Asked) -> _Options:
    return {"device_id": str(asked.device), "user_compute_stream": str(asked.stream)}


def _cuda(asked: Asked) -> _Options:
    return _on_device(asked) | {
        "enable_cuda_graph": _flag(asked.graphs),
        "arena_extend_strategy": "kSameAsRequested",  # twice as much each time is for models that grow
        "cudnn_conv_algo_search": "HEURISTIC",  # trying all algorithms takes seconds, and gains nothing
        "prefer_nhwc": _flag(asked.channels_last),
    }


def _tensorrt(asked: Asked) -> _Options:
    # its networks are not strongly typed: it may use the precisions that are named
    return (
        _on_device(asked)
        | {
            "trt_cuda_graph_enable": _flag(asked.graphs),
            "trt_fp16_enable": _flag(asked.manifest.precision != "fp32"),
            "trt_int8_enable": _flag(asked.manifest.precision == "int8"),
        }
        | _kept(
            asked,
            "trt_engine_cache_path",
            "trt_timing_cache_path",
            also=("trt_engine_cache_enable", "trt_timing_cache_enable"),
        )
        | _profile(asked.manifest, "trt_profile_{}_shapes")
    )


def _tensorrt_rtx(asked: Asked) -> _Options:
    return (
        _on_device(asked)
        | {
            "has_user_compute_stream": "1",
            "enable_cuda_graph": _flag(asked.graphs),
        }
        | _kept(asked, "nv_runtime_cache_path")
        | _profile(asked.manifest, "nv_profile_{}_shapes")
    )


def _kept(asked: Asked, *paths: str, also: tuple[str, ...] = ()) -> _Options:
    """Options that name the cache, and those that turn it on; none where there is no cache."""
    if asked.cache is None:
        return {}
    return dict.fromkeys(paths, str(asked.cache)) | dict.fromkeys(also, "1")


def _profile(manifest: Manifest, option: str) -> _Options:
    """The range of a dynamic batch; static ones need none."""
    batch = manifest.batch
    if batch.is_static or manifest.graph == "head":
        return {}
    frame = "x".join(str(side) for side in (*manifest.frame_hw, 3))
    sizes = {"min": batch.minimum, "opt": batch.maximum, "max": batch.maximum}
    return {option.format(end): f"frames:{size}x{frame}" for end, size in sizes.items()}


def _flag(on: bool) -> str:
    return "1" if on else "0"


PROVIDERS: dict[str, Provider] = {
    "cuda": Provider(
        registered="CUDAExecutionProvider", options=_cuda, graphs_by_number=True, library="cuda"
    ),
    "tensorrt": Provider(
        registered="TensorrtExecutionProvider", options=_tensorrt, beside=("cuda",), library="tensorrt"
    ),
    "nv-tensorrt-rtx": Provider(
        registered="NvTensorRTRTXExecutionProvider",
        options=_tensorrt_rtx,
        plugin="onnxruntime_ep_nv_tensorrt_rtx",
    ),
}


def chosen_provider(wanted: str) -> tuple[str, str]:
    """Which provider runs a model, and why it is the CPU where nobody asked for that.

    Args:
        wanted: `auto`: CUDA where a GPU answers and this ONNX Runtime has it, else the CPU.

    Raises:
        InputError: There is no provider of that name.
        MissingDependencyError: This ONNX Runtime does not have it, or no GPU answers.
    """
    if wanted not in get_args(ProviderName):
        raise InputError(f"no provider {wanted!r}; give {', '.join(get_args(ProviderName))}")
    if wanted == "cpu":
        return "cpu", ""
    reason = unusable(wanted if wanted != "auto" else "cuda")
    if not reason:
        return ("cuda" if wanted == "auto" else wanted), ""
    if wanted == "auto":
        return "cpu", reason
    raise MissingDependencyError(f"--provider {wanted} cannot be used here: {reason}")


def unusable(provider: str) -> str:
    """Why a provider for GPUs cannot be used here; empty where it can."""
    if not devices():
        return NO_GPU
    known = PROVIDERS[provider]
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError:
        return "onnxruntime is not installed: pip install onnxruntime-gpu"
    offered = onnxruntime.get_available_providers()
    if known.registered in offered:
        return missing_libraries(onnxruntime, known)
    if known.plugin and importlib.util.find_spec(known.plugin):
        is_new = hasattr(onnxruntime, "get_ep_devices")
        return (
            "" if is_new else f"ONNX Runtime {onnxruntime.__version__} takes no plugins: 1.23 or later does"
        )
    lacking = f"ONNX Runtime {onnxruntime.__version__} has {', '.join(offered)}, not {known.registered}"
    if known.plugin:
        return f"{lacking}: pip install {known.plugin.replace('_', '-')}"
    return f"{lacking}: pip uninstall onnxruntime, then pip install onnxruntime-gpu"


def missing_libraries(onnxruntime: Any, provider: Provider) -> str:
    """Which of NVIDIA's libraries a provider lacks; empty where all are found. It is offered without them too."""
    capi = Path(getattr(onnxruntime, "__file__", "") or "").parent / "capi"
    library = capi / f"libonnxruntime_providers_{provider.library}.so"
    if not provider.library or not capi.is_dir() or os.name == "nt":
        return ""
    if not library.is_file():
        return f"ONNX Runtime {onnxruntime.__version__} names it without {library.name}: install it again"
    absent = _not_found(library)
    if provider.library == "cuda" and not _opens(_CUDNN):  # which it opens by name at the first convolution
        absent.append(_CUDNN)
    if not absent:
        return ""
    return (
        f"ONNX Runtime {onnxruntime.__version__} needs {', '.join(absent)}, not found here: {_remedy(absent)}"
    )


def _remedy(absent: list[str]) -> str:
    nvinfer = next((name for name in absent if name.startswith("libnvinfer.so.")), "")
    if nvinfer:
        major = nvinfer.rpartition(".")[2]
        return f"install TensorRT {major} and put the folder of its libraries on LD_LIBRARY_PATH"
    return "pip install 'onnxruntime-gpu[cuda,cudnn]', or put them on LD_LIBRARY_PATH"


def _not_found(library: Path) -> list[str]:
    """NVIDIA's libraries that one of ONNX Runtime's needs and would not find. `ldd` asks the loader and runs nothing.

    To open it would end the process: outside of a session the first instruction of a provider is a segmentation fault.
    """
    folders = [os.environ.get("LD_LIBRARY_PATH", ""), *map(str, _nvidia_folders())]
    environment = os.environ | {"LD_LIBRARY_PATH": os.pathsep.join(filter(None, folders))}
    try:
        done = subprocess.run(
            ["ldd", str(library)],  # noqa: S607  wherever the system has it
            env=environment, capture_output=True, text=True, timeout=_LDD_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):  # a system without it: ONNX Runtime will say
        return []
    names = re.findall(r"^\s*(\S+) => not found", done.stdout, re.MULTILINE)
    return [name for name in names if name.startswith(_OF_NVIDIA) and not _is_loaded(name)]


def _nvidia_folders() -> list[Path]:
    """Where pip puts CUDA and cuDNN, and `onnxruntime.preload_dlls` finds them."""
    found = importlib.util.find_spec("nvidia")
    roots = [] if found is None else list(found.submodule_search_locations or [])
    return [folder for root in roots for folder in Path(root).glob("*/lib")]


def _opens(library: str) -> bool:
    if any((folder / library).is_file() for folder in _nvidia_folders()):
        return True
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _is_loaded(library: str) -> bool:
    """As TensorRT's are after `import tensorrt`, from folders that nobody searches."""
    try:
        ctypes.CDLL(library, mode=os.RTLD_NOLOAD | os.RTLD_NOW)
    except OSError:
        return False
    return True
