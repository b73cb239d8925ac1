"""What ONNX Runtime's providers are told, and which one a model gets: names and numbers, no GPU."""

from __future__ import annotations

import ctypes
import dataclasses
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.engine.plans import gpu
from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.backends import onnxruntime_gpu
from trt_yolo.backends import onnxruntime_providers as providers
from trt_yolo.backends.onnxruntime_providers import (
    PROVIDERS,
    Asked,
    chosen_provider,
    missing_libraries,
    unusable,
)
from trt_yolo.errors import BackendError, InputError, MissingDependencyError

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
TENSORRT, RTX = "TensorrtExecutionProvider", "NvTensorRTRTXExecutionProvider"


def _asked(**changed: Any) -> Asked:
    manifest = Manifest(
        graph="deploy", names={0: "a"}, imgsz_hw=(384, 640), batch=BatchRange(1, 1), rows=512, anchors=5040
    )
    asked = Asked(device=1, stream=4096, graphs=True, manifest=manifest, cache=Path("/cache"))
    here = {key: value for key, value in changed.items() if key in ("graphs", "cache")}
    asked = dataclasses.replace(asked, **here)
    rest = {key: value for key, value in changed.items() if key not in here}
    return dataclasses.replace(asked, manifest=dataclasses.replace(manifest, **rest))


def test_cuda() -> None:
    assert PROVIDERS["cuda"].chain(_asked()) == [
        (
            CUDA,
            {
                "device_id": "1",
                "user_compute_stream": "4096",
                "enable_cuda_graph": "1",
                "arena_extend_strategy": "kSameAsRequested",
                "cudnn_conv_algo_search": "HEURISTIC",
                "prefer_nhwc": "1",
            },
        )
    ]


@pytest.mark.parametrize(
    ("precision", "fp16", "int8"), [("fp32", "0", "0"), ("fp16", "1", "0"), ("int8", "1", "1")]
)
def test_tensorrt_may_use_the_precisions_that_the_graph_names(precision: str, fp16: str, int8: str) -> None:
    """Its networks are not strongly typed: without the flags it would compute in FP32."""
    (name, options), (beside, _) = PROVIDERS["tensorrt"].chain(_asked(precision=precision))
    assert (name, beside) == (TENSORRT, CUDA)
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (fp16, int8)
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == "/cache"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"


def test_no_cache_is_asked_for_where_there_is_none() -> None:
    for name in ("tensorrt", "nv-tensorrt-rtx"):
        ((_, options), *_) = PROVIDERS[name].chain(_asked(cache=None))
        assert not [key for key in options if "cache" in key], options


@pytest.mark.parametrize(("name", "prefix"), [("tensorrt", "trt"), ("nv-tensorrt-rtx", "nv")])
def test_dynamic_batches_have_a_profile(name: str, prefix: str) -> None:
    ((_, static), *_) = PROVIDERS[name].chain(_asked())
    assert not [key for key in static if "profile" in key]
    ((_, dynamic), *_) = PROVIDERS[name].chain(_asked(batch=BatchRange(1, 8)))
    assert {key: value for key, value in dynamic.items() if "profile" in key} == {
        f"{prefix}_profile_min_shapes": "frames:1x384x640x3",
        f"{prefix}_profile_opt_shapes": "frames:8x384x640x3",
        f"{prefix}_profile_max_shapes": "frames:8x384x640x3",
    }


def test_tensorrt_rtx() -> None:
    ((name, options),) = PROVIDERS["nv-tensorrt-rtx"].chain(_asked(graphs=False))
    assert name == RTX
    assert options == {
        "device_id": "1",
        "user_compute_stream": "4096",
        "has_user_compute_stream": "1",
        "enable_cuda_graph": "0",
        "nv_runtime_cache_path": "/cache",
    }


@pytest.mark.parametrize(
    ("name", "changed", "captures"),
    [
        ("cuda", {}, True),
        ("cuda", {"batch": BatchRange(1, 8)}, True),
        ("cuda", {"graph": "head"}, False),
        ("tensorrt", {}, True),
        ("tensorrt", {"batch": BatchRange(1, 8)}, False),
        ("nv-tensorrt-rtx", {"batch": BatchRange(4, 4)}, True),
        ("nv-tensorrt-rtx", {"batch": BatchRange(1, 4)}, False),
    ],
)
def test_what_may_be_captured(name: str, changed: dict[str, Any], captures: bool) -> None:
    assert PROVIDERS[name].may_capture(_asked(**changed).manifest) == captures


def _machine(monkeypatch: pytest.MonkeyPatch, *, gpus: int, offered: list[str] | None) -> None:
    """A machine that is made up: so many GPUs, and an ONNX Runtime with these providers."""
    monkeypatch.setattr(providers, "devices", lambda: [gpu()] * gpus)
    module = types.ModuleType("onnxruntime")
    module.get_available_providers = lambda: offered  # type: ignore[attr-defined]
    module.__version__ = "1.99.0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime", module if offered is not None else None)


@pytest.mark.parametrize(
    ("wanted", "gpus", "offered", "chosen", "reason"),
    [
        ("auto", 1, [CUDA, CPU], "cuda", ""),
        ("auto", 1, [TENSORRT, CUDA, CPU], "cuda", ""),
        ("auto", 0, [CUDA, CPU], "cpu", "no NVIDIA GPU answers"),
        ("auto", 1, [CPU], "cpu", "not CUDAExecutionProvider: pip uninstall onnxruntime, then"),
        ("auto", 1, None, "cpu", "onnxruntime is not installed"),
        ("cpu", 1, [CUDA, CPU], "cpu", ""),
        ("cuda", 1, [CUDA, CPU], "cuda", ""),
        ("tensorrt", 1, [TENSORRT, CUDA, CPU], "tensorrt", ""),
        ("nv-tensorrt-rtx", 1, [RTX, CPU], "nv-tensorrt-rtx", ""),
    ],
)
def test_which_provider_a_model_gets(
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    gpus: int,
    offered: list[str] | None,
    chosen: str,
    reason: str,
) -> None:
    _machine(monkeypatch, gpus=gpus, offered=offered)
    name, why = chosen_provider(wanted)
    assert name == chosen
    assert (reason in why) if reason else why == ""


@pytest.mark.parametrize(
    ("wanted", "gpus", "offered", "part"),
    [
        ("cuda", 0, [CUDA, CPU], "--provider cuda cannot be used here: no NVIDIA GPU answers"),
        ("cuda", 1, [CPU], "pip install onnxruntime-gpu"),
        ("tensorrt", 1, [CUDA, CPU], "has CUDAExecutionProvider, CPUExecutionProvider, not Tensorrt"),
        ("nv-tensorrt-rtx", 1, [CPU], "pip install onnxruntime-ep-nv-tensorrt-rtx"),
        ("tensorrt", 1, None, "onnxruntime is not installed"),
    ],
)
def test_what_was_asked_for_is_not_replaced(
    monkeypatch: pytest.MonkeyPatch, wanted: str, gpus: int, offered: list[str] | None, part: str
) -> None:
    _machine(monkeypatch, gpus=gpus, offered=offered)
    with pytest.raises(MissingDependencyError, match=part):
        chosen_provider(wanted)


def test_no_such_provider() -> None:
    with pytest.raises(
        InputError, match="no provider 'rocm'; give auto, cpu, cuda, tensorrt, nv-tensorrt-rtx"
    ):
        chosen_provider("rocm")


def shared_library(path: Path, *needed: Path) -> Path:
    """A shared library under a name of its own, which needs others."""
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler for Linux")
    path.parent.mkdir(parents=True, exist_ok=True)
    source = path.with_name("source.c")
    source.write_text("int nothing(void) { return 0; }\n")
    command = [compiler, "-shared", "-fPIC", "-nostdlib", "-o", path, source]
    subprocess.run([*command, f"-Wl,--no-as-needed,-soname,{path.name}", *needed], check=True)
    return path


def _providers_that_need(folder: Path, monkeypatch: pytest.MonkeyPatch, **needed: list[str]) -> Any:
    """An ONNX Runtime on disk whose providers' libraries need others, which nobody has; one with a GPU."""
    absent = folder / "absent"
    for provider, names in needed.items():
        libraries = [shared_library(absent / name) for name in names]
        shared_library(
            folder / "onnxruntime" / "capi" / f"libonnxruntime_providers_{provider}.so", *libraries
        )
    _machine(monkeypatch, gpus=1, offered=[TENSORRT, CUDA, CPU])
    module: Any = sys.modules["onnxruntime"]
    module.__file__ = str(folder / "onnxruntime" / "__init__.py")
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(providers, "_CUDNN", "libc.so.6")
    return module


def test_a_provider_is_not_offered_without_the_libraries_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime names it all the same."""
    _providers_that_need(
        tmp_path, monkeypatch, cuda=[], tensorrt=["libnvinfer.so.47", "libnvonnxparser.so.47"]
    )
    with pytest.raises(MissingDependencyError) as caught:
        chosen_provider("tensorrt")
    assert str(caught.value) == (
        "--provider tensorrt cannot be used here: ONNX Runtime 1.99.0 needs libnvinfer.so.47, "
        "libnvonnxparser.so.47, not found here: install TensorRT 47 and put the folder of its libraries on "
        "LD_LIBRARY_PATH"
    )
    assert chosen_provider("cuda") == ("cuda", "")


def test_another_major_version_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As with onnxruntime-gpu 1.31.1 and TensorRT 11."""
    _providers_that_need(tmp_path, monkeypatch, tensorrt=["libnvinfer.so.47"])
    there = tmp_path / "there"
    shared_library(there / "libnvinfer.so.48")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere::{there}")
    assert "libnvinfer.so.47, not found here" in unusable("tensorrt")
    shared_library(there / "libnvinfer.so.47")
    assert unusable("tensorrt") == ""


def test_what_cuda_lacks_is_said_where_the_cpu_runs_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _providers_that_need(tmp_path, monkeypatch, cuda=["libcublas.so.47", "libcudart.so.47", "libother.so.47"])
    name, why = chosen_provider("auto")
    assert name == "cpu"
    assert why == (
        "ONNX Runtime 1.99.0 needs libcublas.so.47, libcudart.so.47, not found here: "
        "pip install 'onnxruntime-gpu[cuda,cudnn]', or put them on LD_LIBRARY_PATH"
    )


def test_cudnn_is_needed_by_name_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _providers_that_need(tmp_path, monkeypatch, cuda=[])
    assert missing_libraries(module, PROVIDERS["cuda"]) == ""
    monkeypatch.setattr(providers, "_CUDNN", "libcudnn.so.47")
    assert "needs libcudnn.so.47, not found" in missing_libraries(module, PROVIDERS["cuda"])


def test_libraries_of_nvidias_packages_are_found_and_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = _providers_that_need(tmp_path, monkeypatch, cuda=["libcublas.so.47"])
    assert missing_libraries(module, PROVIDERS["cuda"])
    library = tmp_path / "site" / "nvidia" / "cu47" / "lib" / "libcublas.so.47"
    library.parent.mkdir(parents=True)
    shared_library(library)
    monkeypatch.setattr(providers, "_nvidia_folders", lambda: [library.parent])
    assert missing_libraries(module, PROVIDERS["cuda"]) == ""


def test_where_nvidias_packages_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia" / "cu47" / "lib").mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "nvidia", raising=False)
    assert providers._nvidia_folders() == [tmp_path / "nvidia" / "cu47" / "lib"]


def test_a_library_that_is_loaded_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `import tensorrt`, whose libraries lie in no folder that is searched."""
    module = _providers_that_need(tmp_path, monkeypatch, tensorrt=["libnvloaded.so.47"])
    tensorrt = PROVIDERS["tensorrt"]
    assert missing_libraries(module, tensorrt)
    ctypes.CDLL(str(tmp_path / "absent" / "libnvloaded.so.47"))
    assert missing_libraries(module, tensorrt) == ""


def test_an_onnxruntime_without_libraries_of_its_own_to_look_into() -> None:
    assert missing_libraries(types.SimpleNamespace(__version__="1"), PROVIDERS["cuda"]) == ""


class _Device:
    def __init__(self, ep_name: str, device_id: int) -> None:
        self.ep_name, self.ep_options = ep_name, {"device_id": str(device_id)}


class _Runtime:
    """An ONNX Runtime to which plugins can be added."""

    def __init__(self) -> None:
        self.registered: list[tuple[str, str]] = []

    def get_ep_devices(self) -> list[_Device]:
        on_gpus = [_Device(RTX, 0), _Device(RTX, 1)] if self.registered else []
        return [_Device(CPU, 0), *on_gpus]

    def register_execution_provider_library(self, name: str, path: str) -> None:
        assert not self.registered, "registering twice is an error there"
        self.registered.append((name, path))


class _Options:
    def __init__(self) -> None:
        self.added: list[tuple[list[_Device], dict[str, str]]] = []

    def add_provider_for_devices(self, devices: list[_Device], options: dict[str, str]) -> None:
        self.added.append((devices, options))


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("onnxruntime_ep_nv_tensorrt_rtx")
    module.get_ep_name = lambda: RTX  # type: ignore[attr-defined]
    module.get_library_path = lambda: "/there/lib.so"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", module)


@pytest.mark.usefixtures("plugin")
def test_a_provider_of_a_package_of_its_own_is_registered_once() -> None:
    runtime, rtx = _Runtime(), PROVIDERS["nv-tensorrt-rtx"]
    for _ in range(2):
        options = _Options()
        onnxruntime_gpu._add_plugin(runtime, options, rtx, _asked())
        ((devices, told),) = options.added
        assert [one.ep_options["device_id"] for one in devices] == ["1"]
        assert told["user_compute_stream"] == "4096"
        assert "device_id" not in told
    assert runtime.registered == [(RTX, "/there/lib.so")]


@pytest.mark.usefixtures("plugin")
def test_a_gpu_that_the_plugin_does_not_take() -> None:
    asked = dataclasses.replace(_asked(), device=7)
    with pytest.raises(BackendError, match="takes no GPU 7; it sees 2"):
        onnxruntime_gpu._add_plugin(_Runtime(), _Options(), PROVIDERS["nv-tensorrt-rtx"], asked)


def test_the_plugins_package_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    _machine(monkeypatch, gpus=1, offered=[CPU])
    monkeypatch.setattr(providers.importlib.util, "find_spec", lambda name: object())
    assert unusable("nv-tensorrt-rtx") == "ONNX Runtime 1.99.0 takes no plugins: 1.23 or later does"
    monkeypatch.setattr(sys.modules["onnxruntime"], "get_ep_devices", list, raising=False)
    assert unusable("nv-tensorrt-rtx") == ""
    assert "onnxruntime-gpu" in unusable("cuda")


@pytest.mark.parametrize(
    "name",
    [
        "InferenceSession", "RunOptions", "SessionOptions", "get_available_providers", "get_ep_devices",
        "register_execution_provider_library",
    ],
)  # fmt: skip
def test_onnxruntime_has_what_is_called(name: str) -> None:
    assert hasattr(pytest.importorskip("onnxruntime"), name)


def test_session_options_take_a_plugin() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    assert hasattr(onnxruntime.SessionOptions, "add_provider_for_devices")
    device = onnxruntime.get_ep_devices()[0]
    assert {"ep_name", "ep_options"} <= set(dir(device))


def test_a_provider_whose_library_was_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _providers_that_need(tmp_path, monkeypatch, cuda=[])
    assert unusable("cuda") == ""
    assert "names it without libonnxruntime_providers_tensorrt.so" in unusable("tensorrt")


def test_a_system_without_ldd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then ONNX Runtime itself says what it lacks."""
    module = _providers_that_need(tmp_path, monkeypatch, tensorrt=["libnvinfer.so.47"])
    assert missing_libraries(module, PROVIDERS["tensorrt"])
    monkeypatch.setenv("PATH", "")
    assert missing_libraries(module, PROVIDERS["tensorrt"]) == ""
