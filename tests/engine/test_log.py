"""TensorRT that does not start: an error in one line, where the next call would be a segmentation fault."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from tests.engine.plans import python, tensorrt_plan
from trt_yolo.engine import log as log_module
from trt_yolo.engine.library import Library
from trt_yolo.engine.log import Log, check_driver, in_one_line, started_builder, started_runtime
from trt_yolo.errors import BackendError, MissingDependencyError
from trt_yolo.hardware.gpus import cuda_version

without_driver = pytest.mark.skipif(bool(cuda_version()), reason="an NVIDIA driver is here")


def _lean() -> None:
    """Skips where the lean runtime does not stand in for TensorRT."""
    pytest.importorskip("tensorrt_lean", reason="extra `lean` is not installed")
    if not Library("tensorrt").lean:
        pytest.skip("TensorRT itself is installed")


OPENED = """
import sys
from pathlib import Path
from trt_yolo.backends.tensorrt_engine import LoadedEngine
from trt_yolo.inspection.from_inspector import layer_information
from trt_yolo.engine.library import Library
from trt_yolo.engine.compatibility import Engine
from trt_yolo.engine.plan import plan_file
from trt_yolo.errors import BackendError

if sys.argv[3] == "nobody says":  # which CUDA it was built for, as with a module without pip's records
    import importlib.metadata
    importlib.metadata.version = lambda name: (_ for _ in ()).throw(importlib.metadata.PackageNotFoundError(name))
library = Library("tensorrt")
engine = Engine(plan=plan_file(Path(sys.argv[1])), manifest=None, problem="")
try:
    LoadedEngine(engine, library) if sys.argv[2] == "load" else layer_information(engine)
except BackendError as error:
    print(error)
"""


@without_driver
@pytest.mark.parametrize("way", ["load", "inspect"])
@pytest.mark.parametrize(
    ("known", "wanted"),
    [
        ("pip says", "was built for CUDA 13, and no NVIDIA driver answers here; install one for CUDA 13"),
        ("nobody says", "does not start: createInferRuntime: "),
    ],
)
def test_a_plan_without_a_driver_is_an_error_and_no_segmentation_fault(
    way: str, known: str, wanted: str, tmp_path: Path
) -> None:
    _lean()
    plan = tmp_path / "model.engine"
    plan.write_bytes(tensorrt_plan(version=(11, 4, 0, 106)))
    child = python(OPENED, plan, way, known)
    said, errors = child.communicate(timeout=60)
    assert child.returncode == 0, f"{child.returncode}: {errors}"
    assert said.startswith("tensorrt-lean 11.")
    assert wanted in said
    assert said.count("\n") == 1


def test_the_lean_runtime_builds_nothing() -> None:
    _lean()
    with pytest.raises(MissingDependencyError, match=r"tensorrt-lean 11\..* builds none; pip install"):
        started_builder(Log(Library("tensorrt")))


@without_driver
def test_tensorrt_for_rtx_starts_its_builder_without_a_driver_and_its_runtime_not() -> None:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    log = Log(Library("tensorrt-rtx"))
    assert started_builder(log).create_network(0) is not None
    with pytest.raises(BackendError, match=r"tensorrt-rtx .* was built for CUDA 1\d, and no NVIDIA driver"):
        started_runtime(log)


@dataclasses.dataclass
class _Trt:
    """A module whose objects log these lines when they are made."""

    lines: list[tuple[int, str]]
    made: object = "made"

    class ILogger:
        pass

    def Runtime(self, logger: Any) -> object:
        for severity, text in self.lines:
            logger.log(severity, text)
        return self.made

    Builder = Runtime


def _library(trt: Any = None, *, cuda: int = 13, package: str = "tensorrt-cu13") -> Any:
    """A TensorRT that is made up."""
    library = Library.__new__(Library)
    library.family, library.version, library.lean, library.name = "tensorrt", "11.4.0.106", False, "tensorrt"
    library.trt, library.cuda, library.package = trt, cuda, package
    return library


@pytest.mark.parametrize(
    ("cuda", "driver", "wanted"),
    [
        (13, "13.0", ""),
        (13, "13.2", ""),
        (12, "13.0", ""),
        (12, "12.2", ""),
        (0, "11.4", ""),
        (0, "", ""),
        (13, "", "no NVIDIA driver answers here; install one for CUDA 13 or later"),
        (
            13, "12.8",
            "the NVIDIA driver here takes CUDA 12.8; update the driver, "
            "or pip uninstall tensorrt-cu13, then pip install tensorrt-cu12",
        ),
    ],
)  # fmt: skip
def test_major_versions_alone_are_compared(
    cuda: int, driver: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "cuda_version", lambda: driver)
    if not wanted:
        check_driver(_library(cuda=cuda))
        return
    with pytest.raises(BackendError) as caught:
        check_driver(_library(cuda=cuda))
    assert str(caught.value) == f"tensorrt 11.4.0.106 was built for CUDA {cuda}, and {wanted}"


@pytest.mark.parametrize("start", [started_runtime, started_builder])
def test_the_driver_is_asked_before_tensorrt(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "cuda_version", lambda: "12.8")
    with pytest.raises(BackendError, match=r"takes CUDA 12\.8"):
        start(Log(_library(trt=_Trt([(0, "asked")]))))


@pytest.mark.parametrize("start", [started_runtime, started_builder])
@pytest.mark.parametrize(
    ("lines", "made", "wanted"),
    [
        ([(1, "CUDA initialization\nfailure with error: 35"), (1, "second")], "made", "failure with error: 35;"),
        ([(0, "broken")], "made", "does not start: broken;"),
        ([], None, "does not start: it does not say why;"),
        ([(2, "careful"), (3, "fine"), (1, "Thread context has not been set")], "made", ""),
    ],
    ids=["error", "fatal", "None", "warnings and noise"],
)  # fmt: skip
def test_an_error_while_it_starts_is_an_exception(
    start: Any, lines: list[tuple[int, str]], made: object, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_module, "cuda_version", lambda: "13.0")
    log = Log(_library(_Trt(lines, made)))
    if not wanted:
        assert start(log) == made
        return
    with pytest.raises(BackendError, match=wanted) as caught:
        start(log)
    assert "\n" not in str(caught.value)


def test_what_is_told_and_what_is_kept() -> None:
    told: list[tuple[int, str]] = []
    log = Log(_library(_Trt([])), lambda severity, text: told.append((severity, text)))
    log.logger.log(2, "careful")  # type: ignore[arg-type]
    log.logger.log(1, "unsupported in TensorRT-RTX")  # type: ignore[arg-type]
    for index in range(100):
        log.logger.log(1, f"error {index}")  # type: ignore[arg-type]
    assert told[:2] == [(2, "careful"), (3, "unsupported in TensorRT-RTX")]
    assert len(told) == 102
    assert len(log.errors) == 64
    assert log.errors[-1] == "error 99"


def test_a_long_message_is_cut() -> None:
    assert in_one_line([" a\n b", "c"]) == "a b"
    assert in_one_line(["x" * 900]) == "x" * 400 + " ..."
