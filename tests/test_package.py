"""The face of the package: its names, its errors, and that looking at it loads nothing heavy."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import trt_yolo
from trt_yolo import errors
from trt_yolo.errors import TrtYoloError
from trt_yolo.version import __version__

_HEAVY = [
    "torch",
    "tensorrt",
    "tensorrt_rtx",
    "onnxruntime",
    "cv2",
    "numpy",
    "onnx",
    "ultralytics",
    "supervision",
]


_HOMES = {
    "load": "trt_yolo.loader",
    "export_model": "trt_yolo.export.onnx_from_model",
    "Model": "trt_yolo.runtime.model",
    "Detections": "trt_yolo.detections",
    "Result": "trt_yolo.runtime.results",
    "Stats": "trt_yolo.runtime.stats",
    "__version__": "trt_yolo.version",
}
_ERRORS = [
    "TrtYoloError", "InputError", "ImageError", "EngineError", "MissingDependencyError", "DownloadError",
    "ExportError", "BackendError", "DeviceError", "WorkerError", "FrameError", "ClosedError",
]  # fmt: skip


def test_exported_names_are_pinned() -> None:
    assert sorted(trt_yolo.__all__) == sorted([*_HOMES, *_ERRORS])


@pytest.mark.parametrize(
    ("name", "home"), [*_HOMES.items(), *((error, "trt_yolo.errors") for error in _ERRORS)]
)
def test_exported_names_are_those_of_their_modules(name: str, home: str) -> None:
    assert getattr(trt_yolo, name) is getattr(importlib.import_module(home), name)
    assert name in dir(trt_yolo)


def test_what_is_exported_says_what_it_is() -> None:
    assert all(inspect.getdoc(getattr(trt_yolo, name)) for name in trt_yolo.__all__)


_EVERY_MODULE_THEN_EACH_FUNCTION_TWICE = """
import importlib, pkgutil, sys
import trt_yolo

def fail(name):
    raise

for module in pkgutil.walk_packages(trt_yolo.__path__, "trt_yolo.", onerror=fail):
    importlib.import_module(module.name)
shadowed = set(trt_yolo.__all__) & {module.name for module in pkgutil.iter_modules(trt_yolo.__path__)}
assert not shadowed, shadowed
for _ in range(2):
    report = trt_yolo.export_model(out=sys.argv[1])
    for model in (None, str(report.artifacts[0].path)):
        with trt_yolo.load(model, backend="null") as loaded:
            assert isinstance(loaded, trt_yolo.Model)
"""


def test_no_module_takes_the_place_of_a_function(tmp_path: Path) -> None:
    """An imported module becomes an attribute of its package: load.py would make trt_yolo.load a module."""
    command = [sys.executable, "-c", _EVERY_MODULE_THEN_EACH_FUNCTION_TWICE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert (tmp_path / "demo.onnx").is_file()


def test_every_name_of_all_is_there() -> None:
    names: dict[str, object] = {}
    exec("from trt_yolo import *", names)
    assert set(trt_yolo.__all__) <= set(names)


def test_other_names_are_ordinary_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="module 'trt_yolo' has no attribute 'train'"):
        _ = trt_yolo.train
    assert not hasattr(trt_yolo, "numpy")


def _loaded(script: str) -> list[str]:
    """Which heavy packages a script leaves loaded, whatever it prints."""
    whole = f"import json, sys\n{script}\nprint(json.dumps([m for m in {_HEAVY} if m in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def _command(*arguments: str) -> str:
    return (
        f"sys.argv = ['trt-yolo', *{list(arguments)}]\n"
        "from trt_yolo.cli.main import run\n"
        "try:\n    run()\n"
        "except SystemExit as stopped:\n    assert not stopped.code, stopped.code\n"
    )


@pytest.mark.parametrize(
    "script",
    [
        "import trt_yolo",
        "import trt_yolo; trt_yolo.__version__; dir(trt_yolo); trt_yolo.TrtYoloError",
        "import trt_yolo.errors",
        "import trt_yolo.cli.main",
        _command("--help"),
        _command("--version"),
        _command("export", "--help"),
        _command("predict", "--help"),
        _command("bench", "--help"),
        _command("doctor", "--help"),
    ],
    ids=["import", "look", "errors", "cli", "help", "version", "export", "predict", "bench", "doctor"],
)
def test_nothing_heavy_is_loaded(script: str) -> None:
    assert _loaded(script) == []


def test_what_is_heavy_is_seen_where_it_is_loaded() -> None:
    assert {"cv2", "numpy"} <= set(_loaded("import trt_yolo; trt_yolo.load"))


@pytest.mark.parametrize("start", [["-m", "trt_yolo"], ["-c", "from trt_yolo.cli.main import run; run()"]])
def test_both_ways_to_start_it_print_the_version(start: list[str]) -> None:
    command = [sys.executable, *start, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"trt-yolo {__version__}\n"


def _drawn_tree() -> dict[str, tuple[str, str]]:
    """Each error's parent and what is said of it, as the docstring of errors.py draws them."""
    found: dict[str, tuple[str, str]] = {}
    branch: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"^([ │├└─]*)(\w+Error)(?:\s+(.*))?$", line)
        if match is None:
            continue
        indent, name = len(match[1]), match[2]
        while branch and branch[-1][0] >= indent:
            branch.pop()
        found[name] = (branch[-1][1] if branch else "Exception", match[3] or "")
        branch.append((indent, name))
    return found


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    real = {
        name: kind.__bases__[0].__name__
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if kind.__module__ == errors.__name__
    }
    assert {name: parent for name, (parent, _) in _drawn_tree().items()} == real
    assert len(real) > 8


@pytest.mark.parametrize("name", sorted(set(_drawn_tree())))
def test_every_error_is_ours_and_says_what_it_is(name: str) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, TrtYoloError)
    assert (kind.__doc__ or "").endswith(".")
    assert str(kind("what to do")) == "what to do"


def test_control_c_during_the_import_is_quiet() -> None:
    """Ctrl-C in the first moments, before any command runs."""
    program = """
import sys
class Interrupted:
    def find_spec(self, name, path=None, target=None):
        if name == "trt_yolo.cli.main":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupted())
from trt_yolo.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
