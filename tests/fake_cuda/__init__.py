"""A stand-in for NVIDIA's driver library, so that code over the real cuda-bindings and pycuda runs without a GPU.

A process started with `LD_LIBRARY_PATH` at the built folder finds one "GPU": libcuda.cpp says what it knows and which
environment variables it obeys. Kernels are ordinary CUDA sources, compiled as C++ (kernel.hpp says what they may use).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
_KERNEL = re.compile(r"__global__\s+void\s+(\w+)")


def built(folder: Path, *sources: Path) -> Path:
    """Compiles the library with the kernels of these sources; skips the test where there is no g++.

    Args:
        folder: Where to.
        sources: CUDA source files, each of kernels without shared memory.

    Returns:
        The folder for `LD_LIBRARY_PATH`.
    """
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++, which compiles the stand-in for the GPU's driver")
    wrappers = [_wrapper(folder, source.resolve()) for source in sources]
    command = [
        compiler, "-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wno-cast-function-type", "-fPIC", "-shared",
        "-pthread", f"-I{HERE}", HERE / "libcuda.cpp", *wrappers, "-Wl,-soname,libcuda.so.1", "-ldl",
        "-o", folder / "libcuda.so.1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return folder


def _wrapper(folder: Path, source: Path) -> Path:
    """A C++ file that enters a source's kernels into the table."""
    names = _KERNEL.findall(source.read_text())
    entries = [f'static const fake::Registered of_{name}("{name}", {name});' for name in names]
    path = folder / f"{source.stem}.cpp"
    path.write_text("\n".join(['#include "kernel.hpp"', f'#include "{source}"', *entries, ""]))
    return path
