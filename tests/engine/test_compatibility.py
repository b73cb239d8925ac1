"""Whether an engine loads on a machine, for machines and engines that are made up; and the line that says why not."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.engine.plans import here, manifest_for, tensorrt_plan, ultralytics, write_pair
from trt_yolo.build.engine_from_onnx import EngineReport
from trt_yolo.engine.compatibility import (
    Here,
    check_loads,
    engine_at,
    for_this_machine,
    rebuild_command,
    this_machine,
)
from trt_yolo.engine.library import RTX_CAPABILITIES, installed_version, is_lean
from trt_yolo.engine.options import EngineOptions, options_from_dict, parse_bytes
from trt_yolo.errors import EngineError
from trt_yolo.hardware.gpus import platform_name

TENSORRT = tensorrt_plan()
RTX = tensorrt_plan(tag=b"vtrt", version=(1, 7, 1, 116))
RTX_FACTS: dict[str, Any] = {
    "builder": "tensorrt-rtx",
    "builder_version": "1.7.1.116",
    "compute_capabilities": ("8.0+",),
    "device": "",
    "options": {"builder": "tensorrt-rtx"},
}
RTX_HERE = here({"tensorrt-rtx": "1.7.1.116"})


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return tmp_path / "model.engine"


def _compatible(**options: Any) -> dict[str, Any]:
    return {"options": {"builder": "tensorrt", **options}}


LEAN = here({"tensorrt": "11.4.0.106"}, lean=True)
LOADS = [
    pytest.param(TENSORRT, {}, here(), id="the same"),
    pytest.param(TENSORRT, {}, here({"tensorrt": "10.13.0.35", "tensorrt-rtx": "1.7.1.116"}), id="both are here"),
    pytest.param(TENSORRT, {}, here({"tensorrt": "10.13.0"}), id="JetPack's three numbers"),
    pytest.param(TENSORRT, {}, here({"tensorrt": "10.13.0.35.post1"}), id="five parts"),
    pytest.param(tensorrt_plan(version=(0, 0, 0, 0)), None, here({"tensorrt": "0.0.0.0"}), id="all zeros"),
    pytest.param(b"ftrt\1\0\0\0" + bytes(24), None, here(), id="a version that nobody can read"),
    pytest.param(TENSORRT, _compatible(version_compatible=True), here({"tensorrt": "10.14.1.48"}), id="a later minor"),
    pytest.param(TENSORRT, _compatible(version_compatible=True), here({"tensorrt": "11.0.0.1"}), id="a later major"),
    pytest.param(TENSORRT, _compatible(version_compatible=True), here({"tensorrt": "10.13.0"}), id="compatible same"),
    pytest.param(TENSORRT, _compatible(version_compatible=True), LEAN, id="compatible, the lean runtime of 11"),
    pytest.param(
        TENSORRT, _compatible(version_compatible=True), here({"tensorrt": "10.13.0.35"}, lean=True),
        id="compatible, the lean runtime of the same",
    ),
    pytest.param(TENSORRT, None, here(), id="another tool's"),
    pytest.param(TENSORRT, None, here(capability="12.0"), id="another tool's, any GPU"),
    pytest.param(TENSORRT, {"compute_capabilities": ()}, here(capability="7.5"), id="capabilities that nobody knows"),
    pytest.param(TENSORRT, {"compute_capabilities": ("8.6", "8.9")}, here(), id="two capabilities"),
    pytest.param(TENSORRT, {"platform": ""}, here(), id="a platform that nobody knows"),
    pytest.param(
        TENSORRT, {"compute_capabilities": ("8.6",), **_compatible(hardware_compat="ampere+")}, here(), id="ampere+"
    ),
    pytest.param(
        TENSORRT, {"compute_capabilities": ("12.0",), **_compatible(hardware_compat="ampere+")},
        here(capability="8.0"), id="ampere+ on Ampere",
    ),
    pytest.param(
        TENSORRT, {"device": "another", **_compatible(hardware_compat="same-cc")}, here(), id="same-cc, another device"
    ),
    pytest.param(RTX, RTX_FACTS, RTX_HERE, id="RTX"),
    pytest.param(RTX, RTX_FACTS, here({"tensorrt-rtx": "1.7.1.116"}, "8.0"), id="RTX 8.0+ on 8.0"),
    pytest.param(RTX, RTX_FACTS, here({"tensorrt-rtx": "1.7.1.116"}, "12.1"), id="RTX 8.0+ on 12.1"),
    pytest.param(RTX, RTX_FACTS, here({"tensorrt-rtx": "1.7.1.116"}, "8.6"), id="RTX 8.0+ on 8.6"),
    pytest.param(RTX, RTX_FACTS, here({"tensorrt-rtx": "1.7.1.116"}, platform="windows-x86_64"), id="RTX elsewhere"),
]  # fmt: skip


@pytest.mark.parametrize(("plan", "facts", "machine"), LOADS)
def test_an_engine_loads(plan: bytes, facts: dict[str, Any] | None, machine: Here, engine: Path) -> None:
    if facts is None:
        engine.write_bytes(plan)
    else:
        write_pair(engine, plan, manifest_for(plan, **facts))
    found = engine_at(engine, machine)
    assert (found.problem, found.why_not) == ("", "")
    assert check_loads(engine, machine) == found
    assert (found.facts is None) == (facts is None)
    assert found.plan.path == engine


REFUSED = [
    pytest.param(TENSORRT, {}, here({}), "tensorrt 10.13.0.35, and here is neither", id="nothing is here"),
    pytest.param(
        TENSORRT, {}, RTX_HERE, "tensorrt 10.13.0.35, and here is tensorrt-rtx 1.7.1.116 (pip install", id="RTX is here"
    ),
    pytest.param(
        RTX, RTX_FACTS, here(), "tensorrt-rtx 1.7.1.116, and here is tensorrt 10.13.0.35 (pip install", id="RTX is not"
    ),
    pytest.param(TENSORRT, {}, here({"tensorrt": "10.13.0.36"}), "10.13.0.35, and here is 10.13.0.36", id="build"),
    pytest.param(TENSORRT, {}, here({"tensorrt": "10.14.0"}), "10.13.0.35, and here is 10.14.0", id="JetPack's minor"),
    pytest.param(TENSORRT, {}, here({"tensorrt": "8.6.1"}), "10.13.0.35, and here is 8.6.1", id="older major"),
    pytest.param(TENSORRT, None, here({"tensorrt": "10.14.0.1"}), "10.13.0.35, and here is 10.14.0.1", id="other tool"),
    pytest.param(
        TENSORRT, _compatible(version_compatible=True), here({"tensorrt": "10.12.0.36"}),
        "10.13.0.35, and here is 10.12.0.36", id="compatible, but newer than what is here",
    ),
    pytest.param(
        RTX, RTX_FACTS, here({"tensorrt-rtx": "1.7.2.3"}), "tensorrt-rtx 1.7.1.116, and here is 1.7.2.3", id="RTX newer"
    ),
    pytest.param(
        RTX, RTX_FACTS | _compatible(version_compatible=True), here({"tensorrt-rtx": "1.7.2.3"}),
        "tensorrt-rtx 1.7.1.116, and here is 1.7.2.3", id="RTX has no compatible engines",
    ),
    pytest.param(
        TENSORRT, {}, LEAN, "tensorrt 10.13.0.35, and here is tensorrt-lean 11.4.0.106, which runs only engines built "
        "with --version-compatible (pip install", id="lean, not compatible",
    ),
    pytest.param(
        TENSORRT, {}, here(lean=True), "here is tensorrt-lean 10.13.0.35, which runs only", id="lean, the same version"
    ),
    pytest.param(TENSORRT, None, LEAN, "which runs only engines built with --version-comp", id="lean, another tool's"),
    pytest.param(
        TENSORRT, _compatible(version_compatible=True, strip_weights=True), LEAN,
        "without weights, and here is tensorrt-lean 11.4.0.106, which cannot give it any", id="lean, stripped",
    ),
    pytest.param(
        TENSORRT, _compatible(version_compatible=True), here({"tensorrt": "10.12.0.36"}, lean=True),
        "tensorrt 10.13.0.35, and here is tensorrt-lean 10.12.0.36", id="lean, older than the engine",
    ),
    pytest.param(
        RTX, RTX_FACTS, LEAN, "tensorrt-rtx 1.7.1.116, and here is tensorrt-lean 11.4.0.106 (pip", id="lean, RTX's"
    ),
    *(
        pytest.param(
            RTX, RTX_FACTS, here({"tensorrt-rtx": "1.7.1.116"}, capability),
            f"runs on compute capability {', '.join(RTX_CAPABILITIES)} alone, and this is {capability} "
            "(NVIDIA GeForce RTX 4090): use TensorRT itself (--builder tensorrt), or model.onnx in ONNX Runtime",
            id=f"RTX on {capability}",
        )
        for capability in ("8.7", "9.0", "10.0", "11.0")
    ),
    pytest.param(
        RTX, None, here({"tensorrt-rtx": "1.7.1.116"}, "9.0"), "or its ONNX in ONNX Runtime", id="RTX, another tool's"
    ),
    pytest.param(TENSORRT, {}, here(capability=None), "no NVIDIA GPU answers here", id="no GPU"),
    pytest.param(TENSORRT, None, here(capability=None), "no NVIDIA GPU answers here", id="other tool, no GPU"),
    pytest.param(RTX, RTX_FACTS, here({"tensorrt-rtx": "1.7.1.116"}, None), "no NVIDIA GPU", id="RTX, no GPU"),
    pytest.param(
        TENSORRT, {}, here(capability="8.6"),
        "capability 8.9 (NVIDIA GeForce RTX 4090), and this is 8.6", id="capability",
    ),
    pytest.param(TENSORRT, {"device": ""}, here(capability="8.6"), "capability 8.9, and this is 8.6", id="no device"),
    pytest.param(
        TENSORRT, {"compute_capabilities": ("7.5", "8.0")}, here(), "capability 7.5, 8.0 ", id="two capabilities"
    ),
    pytest.param(
        TENSORRT, {"compute_capabilities": ("8.6",), **_compatible(hardware_compat="ampere+")}, here(capability="7.5"),
        "capability 8.6", id="ampere+ on Turing",
    ),
    pytest.param(
        TENSORRT, _compatible(hardware_compat="same-cc"), here(capability="8.6"), "capability 8.9", id="same-cc"
    ),
    pytest.param(
        RTX, RTX_FACTS, here({"tensorrt-rtx": "1.7.1.116"}, "7.5"),
        "capability 8.0+, and this is 7.5", id="RTX on Turing",
    ),
    pytest.param(
        RTX, RTX_FACTS | {"compute_capabilities": ("8.6", "12.0")}, RTX_HERE,
        "8.6, 12.0, and this is 8.9", id="RTX, two",
    ),
    pytest.param(
        TENSORRT, {}, here(platform="linux-aarch64"),
        "it was built for linux-x86_64, and this is linux-aarch64", id="platform",
    ),
    pytest.param(
        TENSORRT, {"builder": "tensorrt-rtx"}, here(), "its manifest says tensorrt-rtx, and the plan is of tensorrt",
        id="another family",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("plan", "facts", "machine", "wanted"), REFUSED)
def test_an_engine_does_not_load(
    plan: bytes, facts: dict[str, Any] | None, machine: Here, wanted: str, engine: Path
) -> None:
    if facts is None:
        engine.write_bytes(plan)
    else:
        write_pair(engine, plan, manifest_for(plan, **facts))
    found = engine_at(engine, machine)
    assert wanted in found.problem
    assert found.why_not.startswith(f"{engine} does not load here: {found.problem}; ")
    assert "\n" not in found.why_not
    with pytest.raises(EngineError) as caught:
        check_loads(engine, machine)
    assert str(caught.value) == found.why_not
    command = _command(found.why_not)
    assert command[:2] == ["trt-yolo", "export"]
    assert command[2] == ("MODEL.onnx" if facts is None else str(engine.with_name("model.onnx")))
    assert command[3:5] == ["--format", "engine"]


def _command(line: str) -> list[str]:
    """What the line says to run."""
    return shlex.split(line[line.index("trt-yolo export") :])


def test_the_command_for_the_lean_runtime_builds_what_it_runs(engine: Path) -> None:
    options = {"builder": "tensorrt", "strip_weights": True, "opt_level": 5}
    write_pair(engine, TENSORRT, manifest_for(TENSORRT, options=options))
    line = engine_at(engine, LEAN).why_not
    assert "; for this machine, where TensorRT itself is: trt-yolo export" in line
    assert _command(line)[5:] == ["--opt-level", "5", "--version-compatible"]


def test_ultralytics_engine_says_what_to_do(engine: Path) -> None:
    engine.write_bytes(ultralytics(TENSORRT))
    assert engine_at(engine, here()).why_not == ""
    line = engine_at(engine, here({"tensorrt": "10.3.0"})).why_not
    assert "it was built with tensorrt 10.13.0.35, and here is 10.3.0" in line
    assert _command(line) == ["trt-yolo", "export", "MODEL.onnx", "--format", "engine"]


def test_the_command_builds_for_this_machine_with_the_same_options(tmp_path: Path) -> None:
    engine = tmp_path / "it's a model.engine"
    options = {
        "builder": "tensorrt",
        "workspace_bytes": 2 << 30,
        "opt_level": 5,
        "compute_capability": ["8.6"],
        "hardware_compat": "ampere+",
        "version_compatible": True,
        "profile": [1, 2, 4],
    }
    write_pair(
        engine, TENSORRT, manifest_for(TENSORRT, options=options, onnx="it's a model; rm -rf $HOME.onnx")
    )
    command = _command(engine_at(engine, here(capability="7.5")).why_not)
    assert command[2] == str(tmp_path / "it's a model; rm -rf $HOME.onnx")
    arguments = command[5:]
    assert parse_bytes(arguments[arguments.index("--workspace") + 1]) == 2 << 30
    assert arguments[arguments.index("--opt-level") + 1] == "5"
    assert arguments[arguments.index("--hardware-compat") + 1] == "ampere+"
    assert arguments[arguments.index("--profile") + 1] == "1,2,4"
    assert "--version-compatible" in arguments
    assert not {"--builder", "--compute-capability"} & set(arguments)


@pytest.mark.parametrize(
    "options",
    [{"no_such": 1}, {"opt_level": "x"}, {"profile": 5}, {"timing_cache": "/etc/passwd"}, {"dla": {}}],
)
def test_options_that_make_no_sense_leave_a_command_without_them(
    options: dict[str, Any], engine: Path
) -> None:
    facts = manifest_for(TENSORRT, options=options).engine
    assert shlex.split(rebuild_command(engine, facts)) == [
        "trt-yolo", "export", str(engine.with_name("model.onnx")), "--format", "engine",
    ]  # fmt: skip


def test_nothing_of_another_machine_goes_into_a_rebuild() -> None:
    given = EngineOptions(
        builder="tensorrt",
        compute_capability=("8.6",),
        opt_level=4,
        hardware_compat="same-cc",
        profile=(1, 2, 3),
    )
    wanted = EngineOptions(opt_level=4, hardware_compat="same-cc", profile=(1, 2, 3))
    assert for_this_machine(given) == wanted
    assert for_this_machine(options_from_dict(given.to_dict())) == wanted


HOSTILE = {
    "device": "RTX\n4090\x1b[31m",
    "platform": "linux\nx86",
    "builder_version": "1\n2",
    "compute_capabilities": ("8.9\n",),
    "onnx": "a\nb.onnx",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_texts_of_a_manifest_do_not_break_the_line(name: str, engine: Path) -> None:
    write_pair(engine, TENSORRT, manifest_for(TENSORRT, **{name: HOSTILE[name]}))
    try:
        line = engine_at(engine, here(capability="7.5")).why_not
    except Exception as error:  # noqa: BLE001 - refused before: that is as good
        line = str(error)
    assert line
    assert "\n" not in line
    assert "\x1b" not in line


def test_the_first_gpu_counts(engine: Path) -> None:
    write_pair(engine, TENSORRT)
    machine = here()
    two = dataclasses.replace(machine, gpus=[*here(capability="8.6").gpus, *machine.gpus])
    assert "this is 8.6" in engine_at(engine, two).why_not


def test_this_machine() -> None:
    found = this_machine()
    assert found.platform == platform_name()
    assert found.versions.get("tensorrt-rtx", "") == installed_version("tensorrt-rtx")
    assert found.versions.get("tensorrt", "") == installed_version("tensorrt")
    assert found.lean == is_lean()
    assert "" not in found.versions.values()


def test_a_real_engine_here(built: EngineReport) -> None:
    versions = this_machine().versions
    assert engine_at(built.path, here(versions)).why_not == ""
    assert "no NVIDIA GPU answers here" in engine_at(built.path, here(versions, None)).why_not
    facts = built.manifest.engine
    assert facts is not None
    assert facts.platform == platform_name()
    machine = this_machine()
    assert engine_at(built.path).why_not == engine_at(built.path, machine).why_not
    assert bool(engine_at(built.path).why_not) == (not machine.gpus)
