"""What is installed, what of it imports here, and what the GPU says of itself."""

from __future__ import annotations

import subprocess
import sys

from gpu_checks.job import Job, Report
from gpu_checks.record import Row
from trt_yolo.backends.onnxruntime_providers import PROVIDERS, unusable
from trt_yolo.engine.device import cuda_version, devices, driver_version, is_mps_running
from trt_yolo.environment import probe

# package: what is imported
_MODULES = {
    "tensorrt": "tensorrt",
    "tensorrt-rtx-cu13": "tensorrt_rtx",
    "onnxruntime": "onnxruntime",
    "onnxruntime-gpu": "onnxruntime",
    "onnxruntime-ep-nv-tensorrt-rtx": "onnxruntime_ep_nv_tensorrt_rtx",
    "pycuda": "pycuda.driver",
    "cuda-bindings": "cuda.bindings.driver",
    "nvidia-ml-py": "pynvml",
    "nvidia-nvimgcodec-cu12": "nvidia.nvimgcodec",
    "PyNvVideoCodec": "PyNvVideoCodec",
    "opencv-python": "cv2",
    "ultralytics": "ultralytics",
}
_IMPORT_S = 60.0


def run(job: Job, report: Report) -> None:
    """See the module."""
    for gpu in devices():
        memory = f"{gpu.memory_bytes / 2**30:.0f} GiB"
        report(
            Row(
                name=f"GPU {gpu.index}",
                value=gpu.name,
                note=f"compute capability {gpu.compute_capability}, {memory}",
            )
        )
    cuda = cuda_version()
    note = f"for CUDA {cuda}" if cuda else "none found"
    report(Row(name="driver", state="info" if cuda else "absent", value=driver_version() or None, note=note))
    report(Row(name="MPS", value="running" if is_mps_running() else "not running"))
    for package, module in _MODULES.items():
        version = probe(package).version
        if not version:
            report(Row(name=package, state="absent", note="not installed"))
            continue
        problem = _import_problem(module)
        report(Row(name=package, state="failed" if problem else "ok", value=version, note=problem))
    for provider in PROVIDERS:
        reason = unusable(provider)
        report(Row(name=f"ONNX Runtime's {provider}", state="absent" if reason else "ok", note=reason))


def _import_problem(module: str) -> str:
    """Why a module does not import, in a process that it may take down; empty where it does."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", f"import {module}"],
            capture_output=True,
            text=True,
            timeout=_IMPORT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"its import takes longer than {_IMPORT_S:.0f} s"
    if done.returncode == 0:
        return ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return f"does not import: {lines[-1] if lines else f'exit code {done.returncode}'}"
