"""`trt-yolo bench`: tables for a person, one line for a machine, files, exit codes, and what is refused."""

from __future__ import annotations

import csv
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import Command, assert_one_error, run_process
from trt_yolo.demo.scenes import scene
from trt_yolo.hardware.cores import usable_cpus
from trt_yolo.media.images import write_jpeg

QUICK = ("--duration", "0.1", "--min-count", "3")
_WINDOWS = 4  # fewer give no interval


@pytest.fixture(scope="module", autouse=True)
def _little_work() -> Iterator[None]:
    """How exact a window is, is not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (
            ("flow.ROUNDS", 3), ("measure._LEAST_WINDOWS", _WINDOWS), ("measure._AGREEING", 1),
            ("measure._WARM_WINDOW_S", 0.01), ("images._SCENES", 3), ("images.SCENE_SIDE", 256),
        ):  # fmt: skip
            patch.setattr(f"trt_yolo.bench.{name}", value)
        yield


def _bench(cli: Command, *arguments: str) -> dict[str, Any]:
    outcome = cli("bench", *arguments, *QUICK, "--json")
    assert outcome.code == 0, outcome
    (line,) = outcome.out.splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_two_loads_and_three_scopes_by_default(demo_onnx: Path, cli: Command) -> None:
    found = _bench(cli, str(demo_onnx))
    assert [run["scenario"]["label"] for run in found["runs"]] == ["single-stream", "offline"]
    assert all(set(run["scopes"]) == {"e2e", "infer", "engine"} for run in found["runs"])
    run = found["runs"][0]
    assert run["model"]["precision"] == "fp32"
    assert len(run["model"]["sha256"]) == 64
    assert run["setting"]["threads"] == usable_cpus().count
    assert found["machine"]["cores"] == len(usable_cpus().cores)
    assert found["data"].startswith("demo scenes")
    assert found["command"].startswith("trt-yolo bench")


def test_tables_for_a_person(demo_onnx: Path, cli: Command) -> None:
    outcome = cli("bench", str(demo_onnx), *QUICK)
    assert outcome.code == 0
    for part in (
        "single-stream: ",
        "offline: ",
        "where an image's time goes",
        "e2e / this",
        "Decoding and letterboxing",
    ):
        assert part in outcome.out
    assert "{" not in outcome.out


def test_nothing_given_measures_the_demo(cli: Command) -> None:
    found = _bench(cli, "--threads", "1", "--scope", "engine", "offline")
    (run,) = found["runs"]
    assert (run["model"]["name"], run["setting"]["threads"], list(run["scopes"])) == ("demo", 1, ["engine"])


def test_own_images_a_batch_and_workers(
    demo_dynamic_onnx: Path, val_images: list[Path], tmp_path: Path, cli: Command
) -> None:
    for path in val_images[:3]:
        shutil.copy(path, tmp_path)
    found = _bench(
        cli, str(demo_dynamic_onnx), "offline", "--data", str(tmp_path), "--batch", "4", "--workers", "2",
        "--scope", "e2e",
    )  # fmt: skip
    assert (found["images"], found["data"]) == (3, str(tmp_path))
    setting = found["runs"][0]["setting"]
    assert (setting["batch"], setting["workers"]) == (4, 2)
    assert setting["threads"] == max(1, usable_cpus().count // 2)


def test_every_load_by_word_and_by_option(demo_onnx: Path, cli: Command) -> None:
    words = ["multi-stream", "3", "server", "--rate", "20", "--scenario", "cameras:2", "--fps", "5"]
    found = _bench(cli, str(demo_onnx), *words, "--scope", "e2e")
    labels = [run["scenario"]["label"] for run in found["runs"]]
    assert labels == ["multi-stream 3", "server at 20 images/s", "cameras 2 at 5 frames/s"]
    server = found["runs"][1]["scopes"]["e2e"]
    assert server["offered"] == server["images"] > 0
    assert found["runs"][2]["scopes"]["e2e"]["drop_rate"] == 0


def test_a_sweep_and_its_best(demo_dynamic_onnx: Path, cli: Command) -> None:
    arguments = ["--batch", "1,2,9", "--scope", "engine", "--p99", "10s", *QUICK]
    outcome = cli("bench", str(demo_dynamic_onnx), *arguments)
    assert outcome.code == 0
    assert "most images/s, most within 10000 ms" in outcome.out
    assert "refused: a batch of 9, and this model takes 1:4" in outcome.out
    assert "Most images/s: --batch" in outcome.out


def test_a_result_is_the_baseline_of_the_next(demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    """Exit code 3 beside a result that says that it was ten times as fast."""
    arguments = [str(demo_onnx), "offline", "--scope", "engine"]
    path = tmp_path / "before.json"
    before = _bench(cli, *arguments)
    path.write_text(json.dumps(before))
    outcome = cli("bench", *arguments, *QUICK, "--baseline", str(path), "--tolerance", "90%")
    assert outcome.code == 0
    assert f"beside {path} of {before['created']}" in outcome.out
    throughput = before["runs"][0]["scopes"]["engine"]["throughput"]
    throughput["windows"] = [10 * rate for rate in throughput["windows"]]
    path.write_text(json.dumps(before))
    outcome = cli("bench", *arguments, *QUICK, "--baseline", str(path))
    assert outcome.code == 3
    assert "SLOWER" in outcome.out


def test_files(demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    pytest.importorskip("plotly")
    paths = {name: tmp_path / name for name in ("samples.csv", "figures.csv", "page.html")}
    found = _bench(
        cli, str(demo_onnx), "--samples", str(paths["samples.csv"]), "--csv", str(paths["figures.csv"]),
        "--html", str(paths["page.html"]),
    )  # fmt: skip
    with paths["samples.csv"].open() as file:
        samples = list(csv.DictReader(file))
    e2e = [row for row in samples if row["scope"] == "e2e" and row["scenario"] == "single-stream"]
    latency = found["runs"][0]["scopes"]["e2e"]["latency_ms"]
    assert len(e2e) == latency["count"]
    assert max(float(row["latency_ms"]) for row in e2e) == pytest.approx(latency["max"], rel=1e-3)
    offline = [row for row in samples if row["scope"] == "e2e" and row["scenario"] == "offline"]
    assert sum(int(row["images"]) for row in offline) == found["runs"][1]["scopes"]["e2e"]["images"]
    with paths["figures.csv"].open() as file:
        figures = list(csv.DictReader(file))
    assert [(row["scenario"], row["scope"]) for row in figures] == [
        (load, scope) for load in ("single-stream", "offline") for scope in ("e2e", "infer", "engine")
    ]
    assert "<html" in paths["page.html"].read_text()[:200].lower()


def test_peers(demo_onnx: Path, cli: Command) -> None:
    found = _bench(cli, str(demo_onnx), "offline", "--scope", "e2e", "--peers", "onnxruntime")
    (run,) = found["runs"]
    assert run["peers"]["onnxruntime"]["throughput"]["images_per_s"] > 0
    assert run["ratios"]["e2e/onnxruntime"]["windows"] >= _WINDOWS


def test_lost_workers(demo_onnx: Path, cli: Command) -> None:
    outcome = cli(
        "bench", str(demo_onnx), "--workers", "2", "--kill-worker-every", "0.2", "--scope", "e2e", *QUICK
    )
    assert outcome.code == 0
    assert "Losing a worker every 0.2 s costs" in outcome.out
    assert "none was lost" in outcome.out


_INTERRUPTED = """
import os, signal, threading
from trt_yolo.__main__ import main
from trt_yolo.bench import measure

class Reading(measure.Reading):
    def __init__(self, **given):
        super().__init__(**given)
        if not self.is_warm_up:  # a window that counts is whole: Ctrl-C cuts the next, which lasts 1 s
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()

measure.Reading = Reading
main()
"""


def test_ctrl_c_gives_the_result_so_far(demo_onnx: Path) -> None:
    """In a process of its own, interrupted in the second window that counts."""
    command = [sys.executable, "-c", _INTERRUPTED, "bench", str(demo_onnx)]
    command += ["--duration", "10", "--scope", "e2e", "--json"]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (outcome.returncode, outcome.stderr) == (130, "")
    found = json.loads(outcome.stdout)
    assert found["partial"] is True
    assert found["runs"][0]["partial"] is True
    assert found["runs"][0]["scopes"]["e2e"]["images"] > 0


@pytest.mark.parametrize(("arguments", "parts"), [
    (["servr"], ["no scenario 'servr'", "did you mean server?"]),
    (["--scenario", "foo"], ["no scenario 'foo'", "single-stream, multi-stream, server"]),
    (["multi-stream"], ["followed by nothing"]),
    (["server"], ["server needs --rate"]),
    (["server", "--rate", "0"], ["--rate 0", "more than 0"]),
    (["server", "--rate", "-3"], ["--rate -3"]),
    (["--rate", "5"], ["--rate is for the scenario server"]),
    (["server", "--find-rate"], ["--p99 20ms"]),
    (["server", "--rate", "5", "--find-rate", "--p99", "5ms"], ["do not go together"]),
    (["server", "--find-rate", "--p99", "soon"], ["--p99 'soon' is no time"]),
    (["cameras", "0"], ["cameras 0", "1 to 512"]),
    (["cameras", "2", "--fps", "0"], ["--fps 0"]),
    (["cameras", "2", "--policy", "block"], ["no policy 'block'"]),
    (["--baseline", "missing.json"], ["cannot read the baseline missing.json"]),
    (["--tolerance", "x"], ["--tolerance 'x' is no share"]),
    (["--duration", "0"], ["--duration 0 is no time"]),
    (["--min-count", "0"], ["--min-count 0"]),
    (["--scope", "gpu"], ["no scope 'gpu'"]),
    (["--batch", "x"], ["--batch 'x' is no list of numbers"]),
    (["--batch", "3"], ["a batch of 3", "takes 1"]),
    (["--peers", "somebody"], ["no peer 'somebody'"]),
    (["single-stream", "--peers", "onnxruntime"], ["measured with offline"]),
    (["--kill-worker-every", "2"], ["needs worker processes"]),
    (["--streams", "2", "--provider", "cpu"], ["are for a GPU"]),
    (["--provider", "x"], ["no provider 'x'"]),
    (["--decoder", "x"], ["no decoder 'x'"]),
    (["--csv", "no/such/folder.csv"], ["there is no folder no/such"]),
    (["--samples", "."], ["is a folder"]),
    (["--seed", "-1"], ["--seed -1"]),
    (["--runtime", "offline"], ["--runtime has a load of its own"]),
    (["--data", "nothing-here"], ["no such file or folder: nothing-here"]),
])  # fmt: skip
def test_what_is_refused(arguments: list[str], parts: list[str], demo_onnx: Path, cli: Command) -> None:
    assert_one_error(cli("bench", str(demo_onnx), *arguments), *parts)


@pytest.mark.parametrize("option", ["--csv", "--samples", "--html"])
def test_what_is_measured_is_not_written_over(
    option: str, demo_onnx: Path, tmp_path: Path, cli: Command
) -> None:
    pytest.importorskip("plotly")
    paths = [tmp_path / "model.onnx", tmp_path / "photos" / "0.jpg"]
    paths[1].parent.mkdir()
    write_jpeg(paths[1], scene(0).image_bgr)
    shutil.copy(demo_onnx, paths[0])
    for path in paths:
        before = path.read_bytes()
        refused = cli("bench", str(paths[0]), "--data", str(paths[1].parent), option, str(path))
        assert_one_error(refused, f"{path} is an input of this command", "another name")
        assert path.read_bytes() == before


def _small_files_only() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def test_a_full_disk_leaves_no_half_table(demo_onnx: Path, tmp_path: Path) -> None:
    write_jpeg(tmp_path / "photo.jpg", scene(0).image_bgr)
    arguments = [
        str(demo_onnx),
        "offline",
        "--scope",
        "engine",
        "--data",
        str(tmp_path / "photo.jpg"),
        *QUICK,
    ]
    table = tmp_path / "a.csv"
    done = run_process("bench", *arguments, "--csv", str(table), before=_small_files_only)
    assert (done.code, done.err) == (
        1, f"error: cannot write {table}: File too large; the result is printed above\n"
    )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["photo.jpg"]


def test_a_baseline_of_another_schema(demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    path = tmp_path / "old.json"
    path.write_text('{"tool": "trt-yolo bench", "schema": 0, "runs": [{}]}\n')
    assert_one_error(
        cli("bench", str(demo_onnx), "--baseline", str(path)), "has schema 0", "measure the baseline again"
    )


def test_models_that_are_not_there(cli: Command) -> None:
    assert_one_error(cli("bench", "missing.onnx", *QUICK), "missing.onnx")


@pytest.fixture
def small_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    from trt_yolo.bench import runtime

    for name, value in (
        ("_WINDOWS", 1), ("_RING_WINDOWS", 1), ("_RING_FRAMES", 100), ("_QUEUE_S", 0.1), ("_CALLS", 10),
        ("MEMORY_FRAMES", 500), ("_MEMORY_STEP", 50),
    ):  # fmt: skip
        monkeypatch.setattr(runtime, name, value)


@pytest.mark.usefixtures("small_runs")
def test_the_runtime_is_measured_in_two_tables_and_one_line(demo_onnx: Path, cli: Command) -> None:
    outcome = cli("bench", str(demo_onnx), "--runtime", "--seconds", "1")
    assert outcome.code == 0
    assert outcome.err == (
        "warning: peers need the checkpoint: give the .pt instead of the .onnx to compare with Ultralytics\n"
    )
    assert "through the ring" in outcome.out
    assert "not measured" in outcome.out
    result = json.loads(outcome.out.splitlines()[-1])
    assert result["e2e_vs_ultralytics"] is result["e2e_vs_seed"] is None
    assert {
        "ring_vs_copy",
        "ring_vs_queue",
        "added_latency_ms",
        "e2e_vs_limit",
        "rss_slope_bytes_per_frame",
    } <= {name for name, value in result.items() if isinstance(value, float)}
    assert (result["workers"], result["threads"]) == (max(2, usable_cpus().count), 1)


def test_the_runtime_has_no_batch(demo_onnx: Path, cli: Command) -> None:
    outcome = cli("bench", str(demo_onnx), "--runtime", "--batch", "2")
    assert_one_error(outcome, "--batch does not go with --runtime", "leave it out")


@pytest.mark.timeout(20)
def test_a_number_of_workers_that_cannot_be_is_refused_before_anything_is_measured(
    demo_onnx: Path, cli: Command
) -> None:
    outcome = cli("bench", str(demo_onnx), "--runtime", "--workers", "-2")
    assert_one_error(outcome, "workers is -2", "at least 0")


def test_help_names_the_loads() -> None:
    outcome = run_process("bench", "--help", env={"COLUMNS": "200"})
    for word in ("single-stream", "multi-stream", "server", "offline", "cameras"):
        assert word in outcome.out
