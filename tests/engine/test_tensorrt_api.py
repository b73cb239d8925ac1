"""What the code asks of TensorRT is there: in RTX's module and the lean one, and in the stubs of TensorRT 10."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = [
    *(path for folder in ("engine", "build") for path in sorted((ROOT / "trt_yolo" / folder).glob("*.py"))),
    ROOT / "trt_yolo" / "inspection" / "from_inspector.py",
    *sorted((ROOT / "trt_yolo" / "backends").glob("tensorrt*.py")),
]
MODULE = "trt"  # how the code calls it: a name, or an attribute of a `Library`
STUBS = Path(os.environ.get("TRT_YOLO_STUBS", ROOT / ".venv" / "stubs"))


def names_of_tensorrt(source: str) -> set[str]:
    """What a source asks of `trt`, `library.trt` and the like, without `trt` itself: such as BuilderFlag.FP16.

    A name in quotes, for getattr or hasattr, is asked for with care and does not count.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        parts = list(_parts(node))
        if MODULE in parts[:-1]:
            found.add(".".join(parts[parts.index(MODULE) + 1 :]))
    return found


def members_of_tensorrt(source: str) -> set[str]:
    """What a source asks of arguments that are annotated as TensorRT's, such as IBuilderConfig.set_flag."""
    found = set()
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef):
            continue
        kinds = {
            argument.arg: ".".join(list(_parts(argument.annotation))[1:])
            for argument in (*function.args.args, *function.args.kwonlyargs)
            if argument.annotation is not None and next(_parts(argument.annotation), "") == "tensorrt"
        }
        for node in ast.walk(function):
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in kinds
            ):
                found.add(f"{kinds[node.value.id]}.{node.attr}")
    return found


def _parts(node: ast.AST) -> Iterator[str]:
    """`a.b.c` as a, b, c; nothing of what is no such chain."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        before = list(_parts(node.value))
        if before:
            yield from before
            yield node.attr


def missing_from(module: Any, names: set[str]) -> list[str]:
    """The names that a module does not have."""
    missing = []
    for name in sorted(names):
        found = module
        for part in name.split("."):
            if not hasattr(found, part):
                missing.append(name)
                break
            found = getattr(found, part)
    return missing


def test_names_are_collected() -> None:
    source = """
import tensorrt
trt.Builder(logger).create_network(1 << int(trt.Flag.STRONG))
library.trt.A.B
def work(self, config: tensorrt.IBuilderConfig, other: int, *, builder: tensorrt.Builder) -> tensorrt.ILogger:
    x = self._library.trt.C
    config.set_flag(1)
    builder.count = other.nothing
    if hasattr(trt, "GUARDED") or getattr(library.trt.Careful, "TOO"):
        trt_yolo.engine.x = other.trt
"""
    assert names_of_tensorrt(source) == {
        "Builder", "Flag", "Flag.STRONG", "A", "A.B", "C", "Careful",
    }  # fmt: skip
    assert members_of_tensorrt(source) == {"IBuilderConfig.set_flag", "Builder.count"}


def test_tensorrt_for_rtx_has_all_that_is_asked_of_it() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    names = set().union(*(names_of_tensorrt(path.read_text()) for path in SOURCES))
    assert {"Builder", "OnnxParser", "BuilderFlag.STRIP_PLAN", "MemoryPoolType.WORKSPACE"} <= names
    assert len(names) > 20
    assert missing_from(trt, names) == []
    made_up = {"NoSuchClass", "BuilderFlag.NO_SUCH_FLAG", "Builder.no_such_method.at_all"}
    assert missing_from(trt, names | made_up) == sorted(made_up)


def test_tensorrt_for_rtx_has_all_methods_that_are_called() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    members = set().union(*(members_of_tensorrt(path.read_text()) for path in SOURCES))
    assert {"Builder.create_optimization_profile", "IBuilderConfig.set_flag"} <= members
    assert missing_from(trt, members) == []
    assert missing_from(trt, members | {"Builder.no_such_method"}) == ["Builder.no_such_method"]


RUNNING = [ROOT / "trt_yolo" / name for name in ("engine/log.py", "inspection/from_inspector.py")] + [
    *sorted((ROOT / "trt_yolo" / "backends").glob("tensorrt*.py")),
]
BUILT_OR_RTX = {  # behind a question for the library's kind
    "Builder", "OnnxParserRefitter", "DynamicShapesKernelSpecializationStrategy",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
}  # fmt: skip
# asked of values that no annotation names
UNNAMED = {
    "Runtime.DLA_core", "Runtime.engine_host_code_allowed", "Runtime.deserialize_cuda_engine",
    "ICudaEngine.create_engine_inspector", "ICudaEngine.create_execution_context", "ICudaEngine.num_io_tensors",
    "ICudaEngine.device_memory_size_v2", "ICudaEngine.get_tensor_name", "ICudaEngine.get_tensor_mode",
    "ICudaEngine.get_tensor_dtype", "ICudaEngine.get_tensor_shape", "IExecutionContext.execute_async_v3",
    "IExecutionContext.set_device_memory", "IExecutionContext.set_input_shape", "nptype",
}  # fmt: skip


@pytest.mark.parametrize("module", ["tensorrt_lean", "tensorrt_rtx"])
def test_a_runtime_has_all_that_running_asks_of_it(module: str) -> None:
    """`tensorrt_lean` is the real TensorRT 11, without its builder."""
    trt = pytest.importorskip(module, reason="extra `lean` or `rtx` is not installed")
    texts = [path.read_text() for path in RUNNING]
    names = set().union(*map(names_of_tensorrt, texts), *map(members_of_tensorrt, texts))
    assert {"Runtime", "IExecutionContext.set_tensor_address", "LayerInformationFormat.JSON"} <= names
    assert {"ExecutionContextAllocationStrategy.USER_MANAGED"} <= names
    assert names >= BUILT_OR_RTX
    assert missing_from(trt, (names - BUILT_OR_RTX) | UNNAMED) == []


CALLED_WITH = {  # by position
    "IExecutionContext.set_device_memory": 2,
    "IExecutionContext.set_input_shape": 2,
    "IExecutionContext.set_tensor_address": 2,
    "IExecutionContext.execute_async_v3": 1,
    "IExecutionContext.update_device_memory_size_for_shapes": 0,
    "ICudaEngine.create_execution_context": 1,
    "Runtime.deserialize_cuda_engine": 1,
}


@pytest.mark.parametrize("module", ["tensorrt_lean", "tensorrt_rtx"])
@pytest.mark.parametrize("name", CALLED_WITH)
def test_a_runtime_takes_so_many_arguments(module: str, name: str) -> None:
    trt = pytest.importorskip(module, reason="extra `lean` or `rtx` is not installed")
    owner, _, method = name.partition(".")
    text = getattr(getattr(trt, owner), method).__doc__
    signatures = re.findall(rf"{method}\((self: .*)\) ->", text)
    taken = [len(re.findall(r"\w+: ", signature)) - 1 for signature in signatures]
    assert CALLED_WITH[name] in taken, text


def test_tensorrt_for_rtx_says_what_may_be_captured() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    names = {
        "IExecutionContext.is_stream_capturable", "IRuntimeConfig.set_execution_context_allocation_strategy",
        "BuilderFlag.REQUIRE_USER_ALLOCATION",
    }  # fmt: skip
    assert missing_from(trt, names) == []


def _ty(*paths: Path) -> subprocess.CompletedProcess[str]:
    """The type checker, with TensorRT's stubs."""
    command = [
        "check", "--extra-search-path", STUBS, "--python", sys.prefix, "--output-format", "concise",
        "--ignore", "deprecated", *paths,
    ]  # fmt: skip
    return subprocess.run(
        [_checker(), *map(str, command)], capture_output=True, text=True, cwd=ROOT, timeout=60
    )


def _checker() -> str:
    found = shutil.which("ty") or shutil.which("ty", path=str(Path(sys.executable).parent))
    if found is None:
        pytest.skip("ty is not installed")
    if not (STUBS / "tensorrt").is_dir():
        pytest.skip(f"no stubs of TensorRT: {STUBS} is missing; make test lays them there")
    return found


def test_the_code_fits_tensorrts_stubs() -> None:
    checked = _ty(*SOURCES)
    assert checked.returncode == 0, checked.stdout


WRONG = [
    ("build/plan_from_onnx.py", "create_optimization_profile", "create_optimisation_profile"),
    ("build/plan_from_onnx.py", "trt.BuilderFlag.STRIP_PLAN", "trt.BuilderFlag.NO_SUCH_FLAG"),
    ("build/plan_from_onnx.py", "trt.OnnxParser(", "trt.NoSuchParser("),
    ("engine/log.py", "log.library.trt.Runtime(", "log.library.trt.NoSuchRuntime("),
]


@pytest.mark.parametrize(("name", "right", "wrong"), WRONG, ids=[one[2] for one in WRONG])
def test_a_name_that_tensorrt_does_not_have_is_found(
    name: str, right: str, wrong: str, tmp_path: Path
) -> None:
    source = (ROOT / "trt_yolo" / name).read_text()
    assert right in source
    (tmp_path / "changed.py").write_text(source.replace(right, wrong))
    checked = _ty(tmp_path / "changed.py")
    assert checked.returncode == 1, checked.stderr
    assert wrong.rstrip("(").rpartition(".")[2] in checked.stdout
