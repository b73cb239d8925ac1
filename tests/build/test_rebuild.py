"""An engine that does not load on a machine that is made up is built anew from its ONNX, by TensorRT for RTX."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.engine.plans import here, left_in, manifest_for, python, tensorrt_plan, write_pair
from trt_yolo.build.engine_from_onnx import EngineReport, engine_from_onnx
from trt_yolo.build.rebuild import loading_engine
from trt_yolo.engine.compatibility import Here, check_loads
from trt_yolo.engine.options import EngineOptions
from trt_yolo.engine.plan import manifest_path, plan_file
from trt_yolo.engine.store import manifest_of
from trt_yolo.errors import EngineError, TrtYoloError, UnsupportedModelError

trt: Any = pytest.importorskip("tensorrt_rtx", reason="extra `rtx` is not installed")

HERE = here({"tensorrt-rtx": trt.__version__})
LEFT = {"model.onnx", "model-rtx.engine", "model-rtx.engine.json", "model-rtx.engine.log"}


def _made_by_another_version(engine: Path) -> None:
    """Gives the engine a version that was never here, in the plan's header and in the manifest."""
    content = bytearray(engine.read_bytes())
    content[24:28] = (1, 2, 3, 4)
    engine.write_bytes(content)
    _rewrite(engine, builder_version="1.2.3.4", plan_sha256=plan_file(engine).sha256())


def _rewrite(engine: Path, **facts: Any) -> None:
    fields = json.loads(manifest_path(engine).read_text())
    fields["engine"].update(facts)
    manifest_path(engine).write_text(json.dumps(fields))


def _inode(engine: Path) -> int:
    return engine.stat().st_ino


def _assert_rebuilt(engine: Path, machine: Here = HERE) -> None:
    before = _inode(engine)
    found = loading_engine(engine, rebuild=True, here=machine)
    assert _inode(engine) != before
    assert found.why_not == ""
    assert found.plan.version_text == trt.__version__
    assert found.manifest == manifest_of(plan_file(engine))
    assert check_loads(engine, machine) == found
    assert left_in(engine.parent) == LEFT


def _refused(engine: Path, *, rebuild: bool = True, machine: Here = HERE) -> str:
    """The line with which it is refused; nothing was built."""
    before = {name: (engine.parent / name).read_bytes() for name in left_in(engine.parent)}
    with pytest.raises(EngineError) as caught:
        loading_engine(engine, rebuild=rebuild, here=machine)
    assert {name: (engine.parent / name).read_bytes() for name in left_in(engine.parent)} == before
    assert "\n" not in str(caught.value)
    assert str(engine) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("rebuild", [True, False])
def test_an_engine_that_loads_is_left_alone(rebuild: bool, engine: Path) -> None:
    before = (_inode(engine), engine.stat().st_mtime_ns)
    found = loading_engine(engine, rebuild=rebuild, here=HERE)
    assert (_inode(engine), engine.stat().st_mtime_ns) == before
    assert found.plan.path == engine


def test_an_engine_of_another_version(engine: Path, caplog: pytest.LogCaptureFixture) -> None:
    _made_by_another_version(engine)
    with caplog.at_level(logging.WARNING, logger="trt_yolo"):
        _assert_rebuilt(engine)
    wanted = rf"{engine} does not load here: .*tensorrt-rtx 1\.2\.3\.4, and here is {trt.__version__}; building it anew"
    assert [re.fullmatch(wanted, one.getMessage()) is not None for one in caplog.records] == [True]


def test_an_engine_of_another_version_is_refused_where_it_may_not_be_built(engine: Path) -> None:
    _made_by_another_version(engine)
    line = _refused(engine, rebuild=False)
    assert f"tensorrt-rtx 1.2.3.4, and here is {trt.__version__}" in line
    assert f"trt-yolo export {engine.with_name('model.onnx')} --format engine" in line


def test_an_engine_of_another_version_is_refused_where_no_gpu_is(engine: Path) -> None:
    """What would be built would not load either."""
    _made_by_another_version(engine)
    _refused(engine, machine=here({"tensorrt-rtx": trt.__version__}, None))


@pytest.mark.parametrize("kept", [0, 28, -1])
def test_an_engine_that_was_cut(kept: int, engine: Path) -> None:
    engine.write_bytes(engine.read_bytes()[:kept])
    assert "build it again" in _refused(engine, rebuild=False)
    _assert_rebuilt(engine)


def test_an_engine_with_a_bit_that_flipped(engine: Path) -> None:
    content = bytearray(engine.read_bytes())
    content[-1] ^= 128
    engine.write_bytes(content)
    assert "damaged or was replaced" in _refused(engine, rebuild=False)
    _assert_rebuilt(engine)


def test_an_engine_for_other_gpus(engine: Path) -> None:
    engine_from_onnx(
        engine.with_name("model.onnx"), engine=engine, options=EngineOptions(compute_capability=("12.0",))
    )
    assert "it was built for compute capability 12.0, and this is 8.9" in _refused(engine, rebuild=False)
    _assert_rebuilt(engine)


def test_an_engine_of_tensorrt_becomes_one_of_what_is_here(engine: Path) -> None:
    """The options that both have are kept."""
    facts = manifest_of(plan_file(engine))
    assert facts is not None
    assert facts.engine is not None
    plan = tensorrt_plan()
    options = {"builder": "tensorrt", "opt_level": 1, "workspace_bytes": 1 << 28}
    write_pair(
        engine,
        plan,
        manifest_for(plan, options=options, onnx="model.onnx", onnx_sha256=facts.engine.onnx_sha256),
    )
    _assert_rebuilt(engine)
    rebuilt = manifest_of(plan_file(engine))
    assert rebuilt is not None
    assert rebuilt.engine is not None
    assert rebuilt.engine.options == options | {"builder": "tensorrt-rtx"}


def test_an_option_that_what_is_here_does_not_have(engine: Path) -> None:
    facts, plan = manifest_of(plan_file(engine)), tensorrt_plan()
    assert facts is not None
    assert facts.engine is not None
    options = {"builder": "tensorrt", "hardware_compat": "ampere+"}
    write_pair(
        engine,
        plan,
        manifest_for(plan, options=options, onnx="model.onnx", onnx_sha256=facts.engine.onnx_sha256),
    )
    with pytest.raises(TrtYoloError, match=r"--hardware-compat ampere\+ is not possible with tensorrt-rtx"):
        loading_engine(engine, rebuild=True, here=HERE)
    assert engine.read_bytes() == plan


@pytest.mark.parametrize("options", [{"no_such": 1}, {"opt_level": "high"}, {"dla": True}])
def test_options_that_make_no_sense(options: dict[str, Any], engine: Path) -> None:
    _made_by_another_version(engine)
    _rewrite(engine, options=options)
    before = engine.read_bytes()
    with pytest.raises(TrtYoloError, match="options of the builder make no sense"):
        loading_engine(engine, rebuild=True, here=HERE)
    assert engine.read_bytes() == before


def test_a_manifest_names_no_file_that_a_rebuild_writes(engine: Path, tmp_path: Path) -> None:
    victim = tmp_path.parent / f"{tmp_path.name}.victim"
    victim.write_text("untouched")
    _made_by_another_version(engine)
    _rewrite(engine, options={"timing_cache": str(victim), "verbose": True})
    with pytest.raises(TrtYoloError, match="make no sense"):
        loading_engine(engine, rebuild=True, here=HERE)
    assert victim.read_text() == "untouched"


def test_the_onnx_is_gone(engine: Path) -> None:
    _made_by_another_version(engine)
    engine.with_name("model.onnx").unlink()
    assert f"it cannot be rebuilt: {engine.with_name('model.onnx')} is not there" in _refused(engine)


def test_the_onnx_is_a_folder(engine: Path) -> None:
    _made_by_another_version(engine)
    engine.with_name("model.onnx").unlink()
    engine.with_name("model.onnx").mkdir()
    with pytest.raises(EngineError, match="it cannot be rebuilt"):
        loading_engine(engine, rebuild=True, here=HERE)


def test_the_onnx_is_another(engine: Path, demo_dynamic_onnx: Path) -> None:
    _made_by_another_version(engine)
    shutil.copy(demo_dynamic_onnx, engine.with_name("model.onnx"))
    assert "model.onnx is not the graph that it was built from" in _refused(engine)


def test_no_manifest(engine: Path) -> None:
    _made_by_another_version(engine)
    manifest_path(engine).unlink()
    assert "it cannot be rebuilt: no manifest says from which ONNX" in _refused(engine)


def test_a_manifest_that_names_no_onnx(engine: Path) -> None:
    _made_by_another_version(engine)
    _rewrite(engine, onnx="", onnx_sha256="")
    assert "no manifest says from which ONNX" in _refused(engine)


def test_a_damaged_manifest(engine: Path) -> None:
    manifest_path(engine).write_text('{"schema": 1, ')
    with pytest.raises(UnsupportedModelError, match=r"model-rtx\.engine\.json has a damaged manifest"):
        loading_engine(engine, rebuild=True, here=HERE)


def test_no_engine_but_its_manifest_and_its_onnx(engine: Path) -> None:
    """Only the plan, which is large, was left out of a copy."""
    engine.unlink()
    with pytest.raises(EngineError, match="no such file"):
        loading_engine(engine, rebuild=False, here=HERE)
    assert loading_engine(engine, rebuild=True, here=HERE).why_not == ""
    assert left_in(engine.parent) == LEFT


def test_nothing_at_all(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"no such file: .*gone\.engine"):
        loading_engine(tmp_path / "gone.engine", rebuild=True, here=HERE)


@pytest.mark.parametrize("first", [True, False])
def test_a_manifest_that_has_not_come_to_its_place(first: bool, engine: Path) -> None:
    """Its writer was killed after the plan was there: with no manifest before it, or one of another graph."""
    _made_by_another_version(engine)
    new = engine.with_name(engine.name + ".json.new")
    manifest_path(engine).replace(new)
    if not first:
        old = manifest_for(tensorrt_plan(), onnx="model.onnx", onnx_sha256="1" * 64)
        manifest_path(engine).write_text(old.to_json())
    _assert_rebuilt(engine)


def test_progress_is_passed_on(engine: Path) -> None:
    _made_by_another_version(engine)
    told: list[int] = []
    loading_engine(engine, rebuild=True, here=HERE, progress=lambda _, done, of: told.append(done))
    assert told
    assert told == sorted(told)


def test_an_engine_that_is_rebuilt_keeps_what_the_model_is(built: EngineReport, engine: Path) -> None:
    _made_by_another_version(engine)
    found = loading_engine(engine, rebuild=True, here=HERE)
    assert found.manifest is not None
    assert (
        dataclasses.replace(found.manifest, engine=built.manifest.engine, created=built.manifest.created)
        == built.manifest
    )


LOADING = """
import logging, sys
from pathlib import Path
import tensorrt_rtx
from tests.engine.plans import here
from trt_yolo.build.rebuild import loading_engine

class Builds(logging.Handler):
    def emit(self, record):
        print("asked", flush=True)

logging.getLogger("trt_yolo").addHandler(Builds(logging.WARNING))
machine = here({"tensorrt-rtx": tensorrt_rtx.__version__})
print("ready", flush=True)
sys.stdin.readline()
engine = Path(sys.argv[1])
told = []
found = loading_engine(engine, rebuild=True, here=machine, progress=lambda *one: told.append(one))
print("built" if told else "found", found.plan.sha256(), engine.stat().st_ino, flush=True)
"""
PROCESSES = 4


def test_processes_build_one_engine(engine: Path) -> None:
    """All ask at once; one builds, and the others take what it has built."""
    _made_by_another_version(engine)
    before = _inode(engine)
    processes = [python(LOADING, engine, stdin=subprocess.PIPE) for _ in range(PROCESSES)]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        ends = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [errors for _, errors in ends if errors] == []
    lines = [said.splitlines() for said, _ in ends]
    results = [line[-1].split() for line in lines]
    assert sorted(how for how, _, _ in results) == ["built"] + ["found"] * (PROCESSES - 1)
    assert len({(sha256, inode) for _, sha256, inode in results}) == 1
    assert int(results[0][2]) == _inode(engine) != before
    assert sum("asked" in line for line in lines) > 1  # otherwise they came one after the other
    assert left_in(engine.parent) == LEFT
