"""`trt-yolo doctor`: says what is there and what is missing, and never fails."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.commands import Command, Outcome, run_process
from trt_yolo.hardware.cores import Cpus
from trt_yolo.hardware.packages import features
from trt_yolo.version import __version__


def _assert_well(outcome: Outcome) -> None:
    assert (outcome.code, outcome.err) == (0, "")
    assert all(f"{feature.name}: " in outcome.out for feature in features()), outcome.out


def test_every_package_and_every_feature_has_a_line(cli: Command) -> None:
    outcome = cli("doctor")
    _assert_well(outcome)
    assert f"trt-yolo {__version__}" in outcome.out
    for package in (package for feature in features() for package in feature.packages):
        assert any(line.startswith(f"│ {package} ") for line in outcome.out.splitlines()), package
    assert "NVIDIA driver: " in outcome.out


def test_the_cuda_binding_and_why(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cuda.bindings.driver")
    assert "CUDA binding: cuda-bindings (the default)" in cli("doctor").out.splitlines()
    monkeypatch.setenv("TRT_YOLO_CUDA", "cupy")
    outcome = cli("doctor")
    _assert_well(outcome)
    assert "CUDA binding: none (TRT_YOLO_CUDA is 'cupy'; give cuda-bindings or pycuda" in outcome.out


@pytest.mark.parametrize(
    ("quota", "flags", "wanted"),
    [
        (None, ["avx512_vnni"], ["2 of 64 CPUs (affinity)", "INT8 on the CPU: AVX512 VNNI"]),
        (1.5, ["avx2"], ["2 of 64 CPUs (cgroup quota 1.5)", "INT8 on the CPU: no faster than FP32 (no VNNI"]),
        (0.3, [], ["1 of 64 CPUs (cgroup quota 0.3)"]),
    ],
)
def test_the_cpus_and_why(
    quota: float | None, flags: list[str], wanted: list[str], cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpus = Cpus(cores=(0, 1), quota=quota, machine=64)
    monkeypatch.setattr("trt_yolo.hardware.cores.usable_cpus", lambda: cpus)
    monkeypatch.setattr(
        "trt_yolo.hardware.processor.processor", lambda root: {"cpu": "A processor", "cpu_flags": flags}
    )
    lines = [line for line in cli("doctor").out.splitlines() if line.startswith(("CPU: ", "INT8 on the CPU"))]
    assert len(lines) == len(wanted)
    assert all(part in line for part, line in zip(wanted, lines, strict=True)), lines
    assert lines[0].startswith("CPU: A processor; ")


def test_json(cli: Command) -> None:
    outcome = cli("doctor", "--json")
    assert (outcome.code, outcome.err) == (0, "")
    (line,) = outcome.out.splitlines()
    found = json.loads(line)
    assert found["version"] == __version__
    assert {one["package"] for one in found["packages"]} >= {"numpy", "cuda-bindings", "tensorrt"}
    assert [one["name"] for one in found["features"]] == [feature.name for feature in features()]
    assert {"cpu", "driver", "cuda", "gpus", "binding", "provider", "tensorrt", "engines", "notes"} <= set(
        found
    )


def test_hidden_files_are_no_engines(cli: Command, tmp_path: Path) -> None:
    """macOS leaves ._a.engine beside a.engine on disks of other systems."""
    for name in ("a.engine", "._a.engine"):
        (tmp_path / name).write_bytes(b"no engine")
    found = json.loads(cli("doctor", "--engines", tmp_path, "--json").out)
    assert [engine["engine"] for engine in found["engines"]] == ["a.engine"]


def test_what_is_installed_has_its_version(cli: Command) -> None:
    lines = cli("doctor").out.splitlines()
    (row,) = (line for line in lines if line.startswith("│ numpy "))
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "numpy", importlib.metadata.version("numpy"), "installed",
    ]  # fmt: skip
    assert "core: ready (everything)" in lines


def test_a_checkout_that_is_not_installed_says_so(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trt_yolo.hardware.packages.features", list)
    outcome = cli("doctor")
    assert (outcome.code, outcome.err) == (0, "")
    assert "note: trt-yolo is not installed: pip install -e ." in outcome.out.splitlines()
    found = json.loads(cli("doctor", "--json").out)
    assert found["features"] == []
    assert {one["package"] for one in found["packages"]} >= {"onnxruntime-gpu", "tensorrt", "cuda-bindings"}


def test_what_is_missing_comes_with_its_command(cli: Command) -> None:
    lines = cli("doctor").out.splitlines()
    for feature in features():
        (line,) = (line for line in lines if line.startswith(f"{feature.name}: "))
        assert line.startswith(f"{feature.name}: ready") or line.endswith(feature.install)


@pytest.mark.parametrize(
    "env",
    [
        {"PATH": "", "PYTHONPATH": ""},
        {"PATH": "/nonexistent", "PYTHONPATH": "/nonexistent:::/dev/null:/etc/passwd"},
        {"HOME": "/nonexistent", "XDG_CACHE_HOME": "relative", "TRT_YOLO_CACHE": "/dev/null/x"},
        {"TERM": "dumb", "COLUMNS": "1", "NO_COLOR": "1"},
        {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    ],
    ids=["empty", "nonexistent", "no home", "narrow", "ascii"],
)
def test_an_odd_environment_is_no_failure(env: dict[str, str]) -> None:
    _assert_well(run_process("doctor", env=env))


@pytest.mark.parametrize(
    ("module", "content", "said"),
    [
        ("onnxruntime", "raise ImportError('libonnxruntime.so is missing')", "libonnxruntime.so is missing"),
        ("onnxruntime", "raise RuntimeError('built against another numpy')", "built against another numpy"),
        ("onnxruntime", "", "AttributeError"),
        ("onnxruntime", "def get_available_providers(): return [None]", "install it again"),
        ("onnxruntime", "syntax error", "SyntaxError"),
        ("cuda", "raise RuntimeError('no driver')", "cuda-bindings"),
        ("cuda", "raise OSError('libcuda.so')", "cuda-bindings"),
        ("tensorrt", "raise OSError('libnvinfer.so.10')", "tensorrt"),
    ],
    ids=["import", "runtime", "empty", "odd", "syntax", "cuda runtime", "cuda os", "tensorrt"],
)
def test_a_broken_package_is_no_failure(module: str, content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / module).mkdir()
    (tmp_path / module / "__init__.py").write_text(f"{content}\n")
    outcome = run_process("doctor", env={"PYTHONPATH": str(tmp_path), "COLUMNS": "300"})
    _assert_well(outcome)
    assert said in outcome.out


@pytest.mark.parametrize("content", [None, "", "Name: numpy\n", "Version: \xff\n"])
def test_broken_metadata_is_no_failure(content: str | None, tmp_path: Path) -> None:
    folder = tmp_path / "numpy-9.9.dist-info"
    folder.mkdir()
    if content is not None:
        (folder / "METADATA").write_bytes(content.encode("latin-1"))
    _assert_well(run_process("doctor", env={"PYTHONPATH": str(tmp_path)}))


def test_nothing_heavy_is_imported_to_look_for_it() -> None:
    script = (
        "import sys\n"
        "from trt_yolo.cli.main import run\n"
        "try:\n    run()\n"
        "except SystemExit as stopped:\n"
        "    heavy = {'torch', 'ultralytics', 'tensorrt', 'tensorrt_rtx', 'cv2', 'onnx', 'pycuda'}\n"
        "    print(stopped.code or 0, sorted(heavy & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", script, "doctor"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
