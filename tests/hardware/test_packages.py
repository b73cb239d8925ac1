"""What a machine has: real packages, broken packages on a real path, and drivers that are none."""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trt_yolo.hardware import packages
from trt_yolo.hardware.packages import Feature, Probe, features, packages_of

PACKAGES = sorted({package for feature in features() for package in feature.packages})
ROOT = Path(__file__).resolve().parent.parent.parent


def _run(code: str, **variables: str) -> str:
    """What the code prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_installed_package_has_its_version() -> None:
    assert packages.probe("numpy") == Probe("numpy", importlib.metadata.version("numpy"), "installed")


@pytest.mark.parametrize("package", [*PACKAGES, "no-such-package", "no.such.module", ".", "-"])
def test_every_probe_answers_in_text(package: str) -> None:
    got = packages.probe(package)
    assert got.package == package
    assert isinstance(got.version, str)
    assert got.state
    assert bool(got.version) == (got.state != "not installed")


def test_a_package_that_is_not_there_has_no_version() -> None:
    assert packages.probe("no-such-package") == Probe("no-such-package", "", "not installed")


def _install(folder: Path, name: str, metadata: str, *, module: bool) -> None:
    info = folder / f"{name}-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(metadata)
    if module:
        (folder / f"{name}.py").touch()


@pytest.mark.parametrize(
    ("metadata", "module", "state"),
    [
        pytest.param("Name: lame_duck\nVersion: 1.2\n", True, "installed", id="sound"),
        pytest.param(
            "Name: lame_duck\nVersion: 1.2\n", False, "installed, but its module is missing", id="no-module"
        ),
        pytest.param("", True, "installed", id="empty-metadata"),
    ],
)
def test_a_half_installed_package_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: str, module: bool, state: str
) -> None:
    _install(tmp_path, "lame_duck", metadata, module=module)
    monkeypatch.syspath_prepend(tmp_path)
    got = packages.probe("lame_duck")
    assert got.state == state
    assert got.version == ("1.2" if metadata else "?")


def test_a_module_without_metadata_is_importable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stray_goose.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert packages.probe("stray_goose") == Probe("stray_goose", "?", "importable, installed without pip")


@pytest.mark.parametrize(
    ("installed", "wanted"),
    [((), ["a", "b"]), (("b",), ["a"]), (("a", "b"), [])],
)
def test_missing_lists_what_a_feature_still_needs(installed: tuple[str, ...], wanted: list[str]) -> None:
    probes = {name: Probe(name, "1" if name in installed else "", "") for name in ("a", "b", "c")}
    assert packages.missing(Feature("x", "", ("a", "b"), ""), probes) == wanted


def _extras() -> dict[str, list[str]]:
    """Requirements by extra, as pyproject.toml has them."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads TOML")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {"core": project["dependencies"], **project["optional-dependencies"]}


def test_features_are_the_extras_of_the_package() -> None:
    extras, found = _extras(), {feature.name: feature for feature in features()}
    assert {"dev", *found} == set(extras)
    for name, feature in found.items():
        assert set(feature.packages) == set(packages_of("", extras[name])), name
        assert feature.purpose, name
        assert name == "core" or f"trt-yolo[{name}]" in feature.install


def test_markers_of_our_own_requirements_are_understood() -> None:
    markers = [one.partition(";")[2].strip() for names in _extras().values() for one in names]
    assert any(markers)
    for marker in filter(None, markers):
        assert re.fullmatch(r"\w+ == '[^']*'( and \w+ == '[^']*')*", marker), marker


_REQUIREMENTS = [
    "numpy>=1.24",
    "PyNvVideoCodec>=2; (sys_platform == 'linux' and platform_machine == 'x86_64') and extra == 'nvcodec'",
    "nvidia-nvimgcodec-cu12[nvjpeg]>=0.6; (sys_platform == 'linux') and extra == 'nvcodec'",
    'plotly; extra == "report"',
]


@pytest.mark.parametrize(
    ("extra", "system", "machine", "wanted"),
    [
        pytest.param("", "linux", "x86_64", ["numpy"], id="core"),
        pytest.param(
            "nvcodec", "linux", "x86_64", ["pynvvideocodec", "nvidia-nvimgcodec-cu12"], id="all-of-an-extra"
        ),
        pytest.param("nvcodec", "linux", "aarch64", ["nvidia-nvimgcodec-cu12"], id="another-processor"),
        pytest.param("nvcodec", "win32", "AMD64", [], id="another-system"),
        pytest.param("report", "win32", "AMD64", ["plotly"], id="double-quotes"),
        pytest.param("gone", "linux", "x86_64", [], id="unknown"),
    ],
)
def test_packages_of_an_extra_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, extra: str, system: str, machine: str, wanted: list[str]
) -> None:
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert list(packages_of(extra, _REQUIREMENTS)) == wanted


def test_an_extra_that_nobody_describes_is_a_feature_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = (
        "Name: trt-yolo\nVersion: 1.2\nRequires-Dist: numpy>=1\nProvides-Extra: dev\n"
        "Provides-Extra: new\nRequires-Dist: goose; extra == 'new'\nRequires-Dist: pytest; extra == 'dev'\n"
    )
    _install(tmp_path, "trt_yolo", metadata, module=False)
    monkeypatch.syspath_prepend(tmp_path)
    assert features() == [
        Feature("core", "everything", ("numpy",), "pip install trt-yolo"),
        Feature("new", "", ("goose",), "pip install 'trt-yolo[new]'"),
    ]


def test_what_is_not_installed_has_no_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert features() == []


def test_an_nvimgcodec_for_cuda_13_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia_nvimgcodec_cu13-1.2.dist-info").mkdir()
    metadata = tmp_path / "nvidia_nvimgcodec_cu13-1.2.dist-info" / "METADATA"
    metadata.write_text("Name: nvidia-nvimgcodec-cu13\nVersion: 1.2\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert packages.probe("nvidia-nvimgcodec-cu12").version == "1.2"


def test_nothing_of_a_gpu_is_compiled_unless_it_is_asked_for() -> None:
    """pycuda has no wheels."""
    assert [one.name for one in features() if "pycuda" in one.packages] == ["pycuda"]


def test_this_environment_has_the_core() -> None:
    core = features()[0]
    probes = {package: packages.probe(package) for package in core.packages}
    assert packages.missing(core, probes) == []
    assert {one.state for one in probes.values()} == {"installed"}  # their modules too


def _probes(**versions: str) -> dict[str, Probe]:
    names = ("onnxruntime", "onnxruntime-gpu")
    found = {name: versions.get(name.replace("-", "_"), "") for name in names}
    return {
        name: Probe(name, version, "installed" if version else "not installed")
        for name, version in found.items()
    }


@pytest.mark.parametrize(
    ("probes", "wanted"),
    [
        pytest.param(_probes(), [], id="neither"),
        pytest.param(_probes(onnxruntime_gpu="1"), [], id="gpu-only"),
        pytest.param(_probes(onnxruntime="1"), ["CPUExecutionProvider"], id="cpu-only"),
        pytest.param(
            _probes(onnxruntime="1", onnxruntime_gpu="1"),
            ["overwrite each other", "CPUExecutionProvider"],
            id="both",
        ),
    ],
)
def test_warnings_say_what_will_not_work(probes: dict[str, Probe], wanted: list[str]) -> None:
    lines = packages.warnings(probes)
    assert len(lines) == len(wanted)
    for line, part in zip(lines, wanted, strict=True):
        assert part in line


def test_a_broken_onnxruntime_is_an_answer(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime").mkdir()
    (tmp_path / "onnxruntime" / "__init__.py").write_text("raise RuntimeError('no such symbol')")
    printed = _run(
        "from trt_yolo.hardware.packages import probe, warnings\n"
        "print(warnings({name: probe(name) for name in ('onnxruntime', 'onnxruntime-gpu')}))",
        PYTHONPATH=str(tmp_path),
    )
    assert "its import fails (RuntimeError: no such symbol); install it again" in printed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="LD_LIBRARY_PATH is Linux")
@pytest.mark.parametrize("kind", ["text", "another-library"])
def test_a_library_that_is_no_driver_is_no_driver(tmp_path: Path, kind: str) -> None:
    library = tmp_path / "libcuda.so.1"
    if kind == "text":
        library.write_text("not a library")
    else:
        name = ctypes.util.find_library("m")
        assert name
        shutil.copy(_loaded_path(name), library)
    printed = _run(
        "from trt_yolo.hardware.gpus import cuda_version, devices; print(repr(cuda_version()), devices())",
        LD_LIBRARY_PATH=str(tmp_path),
    )
    assert printed == "'' []"


def _loaded_path(name: str) -> str:
    ctypes.CDLL(name)
    maps = Path("/proc/self/maps").read_text().splitlines()
    return next(line.split()[-1] for line in maps if line.endswith(name))
