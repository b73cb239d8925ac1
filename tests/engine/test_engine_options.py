"""What is asked of the builder: read from a person's words, from a manifest, and refused where it cannot be had."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main
from hypothesis import given
from hypothesis import strategies as st

from tests.engine.plans import gpu
from trt_yolo.artifacts.shapes import BatchRange, parse_batch
from trt_yolo.cli.main import app
from trt_yolo.engine.library import (
    RTX_CAPABILITIES,
    Library,
    chosen_family,
    installed_version,
    is_found,
    is_lean,
    module_of,
)
from trt_yolo.engine.options import (
    EngineOptions,
    check_dla,
    check_profile,
    check_supported,
    options_from_dict,
    parse_bytes,
    parse_compute_capability,
    parse_profile,
)
from trt_yolo.errors import InputError, MissingDependencyError
from trt_yolo.hardware.gpus import Device

FLAGS = {"--version-compatible", "--strip-weights", "--sparse"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("65536", 65536),
        ("0", 0),
        ("512M", 512 << 20),
        ("512m", 512 << 20),
        ("2G", 2 << 30),
        ("2GB", 2 << 30),
        ("2GiB", 2 << 30),
        ("2 gib", 2 << 30),
        (" 64k ", 64 << 10),
        ("1.5G", 3 << 29),
        ("0.5M", 1 << 19),
    ],
)
def test_sizes(text: str, wanted: int) -> None:
    assert parse_bytes(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", " ", "G", "2T", "-1G", "+1G", "1e9", "2,5G", "0x10", "nan", "inf", "1G2", "1..5G", ".5G", "2G\n3", "²G"],
)  # fmt: skip
def test_no_sizes(text: str) -> None:
    with pytest.raises(InputError, match=r"--workspace .* is no size; give one such as 2G") as caught:
        parse_bytes(text)
    assert "\n" not in str(caught.value)


def test_a_size_without_end_is_refused() -> None:
    with pytest.raises(InputError):
        parse_bytes("9" * 400)


@pytest.mark.parametrize("size", [1 << 63, 1 << 64, 1 << 80])
def test_a_workspace_that_no_builder_can_count_is_refused(size: int) -> None:
    with pytest.raises(InputError, match="--workspace"):
        EngineOptions(workspace_bytes=size)


@pytest.mark.parametrize(
    ("text", "wanted"), [("1,4,16", (1, 4, 16)), (" 1 , 1, 1", (1, 1, 1)), ("8,8,32", (8, 8, 32))]
)
def test_profiles(text: str, wanted: tuple[int, int, int]) -> None:
    assert parse_profile(text) == wanted


@pytest.mark.parametrize(
    "text",
    ["", "1", "1,2", "1,2,3,4", "4,1,16", "1,16,4", "0,1,2", "-1,1,2", "1,a,2", "1,2,3x", "1;2;3", "1,,2", "1.0,2,3",
     "1,2,99999999"],
)  # fmt: skip
def test_no_profiles(text: str) -> None:
    with pytest.raises(InputError, match="is no profile; give the smallest, the best and the largest batch"):
        parse_profile(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("8.9", ("8.9",)), ("8.6, 8.9", ("8.6", "8.9")), ("12.0,8.9,12.0", ("12.0", "8.9"))],
)
def test_compute_capabilities(text: str, wanted: tuple[str, ...]) -> None:
    assert parse_compute_capability(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "8", "89", "8.9,", ",8.9", "sm_89", "8.9+", "8,9", "8.99", "-8.9", "8.9;8.6"]
)
def test_no_compute_capabilities(text: str) -> None:
    with pytest.raises(
        InputError, match=r"--compute-capability .* is none; give one or several, such as 8\.6"
    ):
        parse_compute_capability(text)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"opt_level": -1}, "--opt-level -1 .* give 0 to 5"),
        ({"opt_level": 6}, "--opt-level 6 .* give 0 to 5"),
        ({"hardware_compat": "ampere"}, "--hardware-compat 'ampere' .* none, ampere"),
        ({"dla": -1}, "--dla -1"),
        ({"workspace_bytes": 0}, "--workspace"),
        ({"workspace_bytes": (1 << 20) - 1}, "--workspace is 1048575 bytes; give 1M to 1024G"),
    ],
)
def test_values_that_are_not_possible(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        EngineOptions(**fields)


@st.composite
def _profiles(draw: st.DrawFn) -> tuple[int, int, int]:
    smallest, best, largest = sorted(draw(st.lists(st.integers(1, 999_999), min_size=3, max_size=3)))
    return smallest, best, largest


_CAPABILITIES = st.sampled_from(["7.5", "8.0", "8.6", "8.9", "12.0"])
_OPTIONS = st.builds(
    EngineOptions,
    builder=st.sampled_from(["auto", "tensorrt", "tensorrt-rtx"]),
    workspace_bytes=st.none() | st.integers(1 << 20, 1 << 40),
    opt_level=st.none() | st.integers(0, 5),
    hardware_compat=st.sampled_from(["none", "ampere+", "same-cc"]),
    version_compatible=st.booleans(),
    compute_capability=st.lists(_CAPABILITIES, unique=True).map(tuple),
    strip_weights=st.booleans(),
    sparse=st.booleans(),
    dla=st.none() | st.integers(0, 3),
    timing_cache=st.none() | st.just(Path("some.cache")),
    profile=st.none() | _profiles(),
    verbose=st.booleans(),
)


def _kept(options: EngineOptions) -> EngineOptions:
    """What a manifest keeps."""
    return dataclasses.replace(options, timing_cache=None, verbose=False)


@given(_OPTIONS)
def test_what_a_manifest_keeps_comes_back(options: EngineOptions) -> None:
    assert options_from_dict(json.loads(json.dumps(options.to_dict()))) == _kept(options)


@given(_OPTIONS)
def test_the_command_line_says_the_same(options: EngineOptions) -> None:
    assert _of_the_command_line(options.arguments()) == _kept(options)


def _of_the_command_line(arguments: list[str]) -> EngineOptions:
    """What a person would have meant by these; the command line reads them with the same functions."""
    readers = {
        "--builder": ("builder", str),
        "--workspace": ("workspace_bytes", parse_bytes),
        "--opt-level": ("opt_level", int),
        "--hardware-compat": ("hardware_compat", str),
        "--compute-capability": ("compute_capability", parse_compute_capability),
        "--dla": ("dla", int),
        "--profile": ("profile", parse_profile),
    }
    fields: dict[str, Any] = {}
    left = iter(arguments)
    for option in left:
        if option in FLAGS:
            fields[option[2:].replace("-", "_")] = True
        else:
            name, read = readers[option]
            assert name not in fields
            fields[name] = read(next(left))
    return EngineOptions(**fields)


def test_the_command_line_has_every_option_that_a_rebuild_names() -> None:
    everything = EngineOptions(
        builder="tensorrt", workspace_bytes=1 << 30, opt_level=5, hardware_compat="ampere+", version_compatible=True,
        compute_capability=("8.9",), strip_weights=True, sparse=True, dla=0, profile=(1, 2, 4),
    )  # fmt: skip
    command = typer.main.get_command(app)
    assert isinstance(command, typer.core.TyperGroup)
    known = {name for one in command.commands["export"].params for name in one.opts}
    named = {one for one in everything.arguments() if one.startswith("--")}
    assert len(named) == 10
    assert named <= known
    assert "--no-such-option" not in known


def test_default_options_say_nothing() -> None:
    assert EngineOptions().to_dict() == {}
    assert EngineOptions().arguments() == []


@pytest.mark.parametrize(
    "fields",
    [
        {"no_such_option": 1},
        {"timing_cache": "/tmp/a.cache"},
        {"verbose": True},
        {"opt_level": "high"},
        {"opt_level": 9},
        {"opt_level": 2.5},
        {"dla": "0"},
        {"dla": [0]},
        {"builder": 5},
        {"hardware_compat": []},
        {"hardware_compat": {"a": 1}},
        {"compute_capability": 8.9},
        {"compute_capability": []},
        {"compute_capability": [8.9]},
        {"compute_capability": "8.9"},
        {"compute_capability": ["8.9; rm -rf /"]},
        {"profile": [4, 2, 1]},
        {"profile": [1, 2]},
        {"profile": {"a": 1}},
        {"profile": 5},
        {"workspace_bytes": "2G"},
        {"workspace_bytes": 1},
        {"version_compatible": "yes"},
        {"strip_weights": 2},
        {"sparse": [0]},
        {1: 2},
    ],
    ids=str,
)
def test_options_of_a_manifest_that_make_no_sense(fields: dict[Any, Any]) -> None:
    with pytest.raises(InputError) as caught:
        options_from_dict(fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("profile", "batch", "wanted"),
    [
        (None, "1", (1, 1, 1)),
        (None, "4", (4, 4, 4)),
        (None, "1:16", (1, 16, 16)),
        ((1, 4, 16), "1:16", (1, 4, 16)),
        ((2, 3, 4), "1:16", (2, 3, 4)),
        ((8, 8, 8), "8", (8, 8, 8)),
    ],
)
def test_a_profile_that_fits(
    profile: tuple[int, int, int] | None, batch: str, wanted: tuple[int, int, int]
) -> None:
    assert check_profile(profile, parse_batch(batch), origin="a.onnx") == wanted


@pytest.mark.parametrize(
    ("profile", "batch", "command"),
    [
        ((1, 4, 17), "1:16", "--batch 1:17"),
        ((1, 1, 1), "2:16", "--batch 1:1"),
        ((1, 4, 16), "1", "--batch 1:16"),
        ((1, 1, 1), "4", "--batch 1:1"),
    ],
)
def test_a_profile_that_does_not_fit(profile: tuple[int, int, int], batch: str, command: str) -> None:
    with pytest.raises(
        InputError, match=rf"does not fit a\.onnx.* a batch of {batch}; export it .*{command}$"
    ):
        check_profile(profile, parse_batch(batch), origin="a.onnx")
    wanted = command.removeprefix("--batch ")
    assert parse_batch(wanted) == BatchRange(profile[0], profile[2])


@pytest.fixture(scope="module")
def rtx() -> Library:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")
    return Library("tensorrt-rtx")


@pytest.mark.parametrize(
    ("fields", "option", "why"),
    [
        ({"hardware_compat": "ampere+"}, "--hardware-compat ampere", "every RTX GPU since Ampere"),
        ({"hardware_compat": "same-cc"}, "--hardware-compat same-cc", "every RTX GPU since Ampere"),
        ({"version_compatible": True}, "--version-compatible", "the version that built them alone"),
        ({"dla": 0}, "--dla 0", "it knows no DLA"),
        ({"timing_cache": Path("a.cache")}, "--timing-cache", "it measures no kernels"),
        ({"strip_weights": True}, "--strip-weights", "it needs a GPU for that"),
    ],
)
def test_tensorrt_for_rtx_without_a_gpu_refuses(
    fields: dict[str, Any], option: str, why: str, rtx: Library
) -> None:
    wanted = rf"^{option}.* is not possible with tensorrt-rtx {rtx.version}: .*{why}"
    with pytest.raises(InputError, match=wanted) as caught:
        check_supported(EngineOptions(**fields), rtx, has_gpu=False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"workspace_bytes": 1 << 30},
        {"opt_level": 0},
        {"opt_level": 5},
        {"compute_capability": ("8.6", "8.9")},
        {"sparse": True},
        {"profile": (1, 2, 4)},
        {"verbose": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("has_gpu", [False, True])
def test_tensorrt_for_rtx_takes(fields: dict[str, Any], has_gpu: bool, rtx: Library) -> None:
    check_supported(EngineOptions(**fields), rtx, has_gpu=has_gpu)


def test_tensorrt_for_rtx_strips_weights_where_a_gpu_is(rtx: Library) -> None:
    check_supported(EngineOptions(strip_weights=True), rtx, has_gpu=True)


def test_the_library_is_the_one_that_is_installed(rtx: Library) -> None:
    assert rtx.version == rtx.trt.__version__
    assert installed_version("tensorrt-rtx") == rtx.version
    assert is_found("tensorrt-rtx")


def test_the_builder_is_chosen_by_what_is_here(rtx: Library) -> None:
    assert chosen_family("auto", gpus=[]) == "tensorrt-rtx"
    assert chosen_family("tensorrt-rtx", gpus=[]) == "tensorrt-rtx"
    with pytest.raises(
        InputError, match="--builder 'trtexec' does not exist; give auto, tensorrt, tensorrt-rtx"
    ):
        chosen_family("trtexec", gpus=[])
    wanted: type[Exception] = InputError if is_found("tensorrt") else MissingDependencyError
    with pytest.raises(wanted, match="--builder tensorrt"):
        chosen_family("tensorrt", gpus=[])


@pytest.fixture
def no_lean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lean runtime is not installed."""
    monkeypatch.setitem(sys.modules, "tensorrt_lean", None)


@pytest.mark.usefixtures("no_lean")
def test_a_library_that_is_not_installed_says_how_to_get_it() -> None:
    if is_found("tensorrt"):
        pytest.skip("TensorRT is installed")
    assert (installed_version("tensorrt"), module_of("tensorrt"), is_lean()) == ("", "", False)
    with pytest.raises(
        MissingDependencyError, match=r"tensorrt does not import .*pip install 'trt-yolo\[gpu\]'"
    ):
        Library("tensorrt")


def test_a_library_that_is_broken_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_found("tensorrt"):
        pytest.skip("TensorRT is installed")
    (tmp_path / "tensorrt.py").write_text(
        "raise OSError('libnvinfer.so.10:\\ncannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert module_of("tensorrt") == "tensorrt", "the lean runtime does not hide that it is broken"
    wanted = r"does not import \(libnvinfer\.so\.10: cannot open shared object file\); pip install"
    with pytest.raises(MissingDependencyError, match=wanted):
        Library("tensorrt")
    assert installed_version("tensorrt") == ""


@pytest.fixture
def lean() -> Library:
    """The real lean runtime."""
    pytest.importorskip("tensorrt_lean", reason="extra `lean` is not installed")
    if is_found("tensorrt"):
        pytest.skip("TensorRT itself is installed")
    return Library("tensorrt")


def test_the_lean_runtime_stands_in_for_tensorrt(lean: Library) -> None:
    assert lean.lean
    assert is_lean()
    assert (lean.name, lean.family, module_of("tensorrt")) == ("tensorrt-lean", "tensorrt", "tensorrt_lean")
    assert installed_version("tensorrt") == lean.version == lean.trt.__version__
    assert (lean.package, lean.cuda) == ("tensorrt-lean-cu13", 13)


@pytest.mark.parametrize("gpus", [[], [gpu()], [gpu("9.0")]], ids=["no GPU", "8.9", "9.0"])
def test_the_lean_runtime_is_no_builder(gpus: list[Device], lean: Library) -> None:
    wanted = r"--builder tensorrt is not installed \(tensorrt-lean is: it runs engines and builds none\); pip"
    with pytest.raises(MissingDependencyError, match=wanted):
        chosen_family("tensorrt", gpus=gpus)


def test_auto_says_that_the_lean_runtime_builds_none(lean: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingDependencyError, match=r"no TensorRT is installed \(tensorrt-lean is: it runs"):
        chosen_family("auto", gpus=[gpu()])


def test_a_library_knows_which_cuda_it_was_built_for(rtx: Library) -> None:
    assert rtx.package == f"tensorrt-rtx-cu{rtx.cuda}"
    assert rtx.cuda in (12, 13)
    assert (rtx.lean, rtx.name) == (False, "tensorrt-rtx")


def test_the_table_of_capabilities_is_that_of_the_installed_module(rtx: Library) -> None:
    """Where this fails, TensorRT for RTX has learned a GPU: the table is to be changed."""
    names = dir(getattr(rtx.trt, "ComputeCapability"))  # noqa: B009
    known = [f"{name[2:-1]}.{name[-1]}" for name in names if name.startswith("SM")]
    assert sorted(known, key=float) == list(RTX_CAPABILITIES)


@pytest.mark.parametrize("capability", ["8.7", "9.0", "10.0", "11.0"])
def test_auto_builds_nothing_with_rtx_that_would_not_run_here(
    capability: str, rtx: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    gpus = [gpu(capability, "NVIDIA H100")]
    wanted = rf"runs on compute capability 7\.5, .* and this is {capability} \(NVIDIA H100\); pip install"
    with pytest.raises(MissingDependencyError, match=wanted):
        chosen_family("auto", gpus=gpus)
    assert chosen_family("tensorrt-rtx", gpus=gpus) == "tensorrt-rtx", "for another GPU"


@pytest.mark.parametrize("capability", RTX_CAPABILITIES)
def test_auto_takes_rtx_where_it_runs(capability: str, rtx: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert chosen_family("auto", gpus=[gpu(capability)]) == "tensorrt-rtx"


@pytest.mark.parametrize(
    ("dla", "profile", "quantized", "wanted"),
    [
        (None, (1, 4, 4), True, ""),
        (0, (4, 4, 4), False, ""),
        (1, (1, 2, 4), False, r"--dla 1 does not take a batch of 1 to 4: .* give --profile 4,4,4, or leave --dla out"),
        (0, (1, 1, 1), True, r"--dla 0 does not take a\.onnx, which is int8 .*export it with --fp16, or leave"),
    ],
)  # fmt: skip
def test_what_dla_does_not_take(
    dla: int | None, profile: tuple[int, int, int], quantized: bool, wanted: str
) -> None:
    options = EngineOptions(dla=dla)
    if not wanted:
        check_dla(options, profile, quantized=quantized, origin="a.onnx")
        return
    with pytest.raises(InputError, match=wanted):
        check_dla(options, profile, quantized=quantized, origin="a.onnx")
