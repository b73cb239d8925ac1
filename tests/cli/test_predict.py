"""`trt-yolo predict`: lines of JSON, the table, the drawn images, and which detections are asked for."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.cli.commands import Command, assert_one_error, run_process
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.demo.scenes import NAMES, scene
from trt_yolo.media.images import read_image

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four demo scenes of different shapes."""
    folder = tmp_path_factory.mktemp("scenes")
    paths = [folder / f"{index}.png" for index in range(4)]
    for index, path in enumerate(paths):
        cv2.imwrite(str(path), scene(index).image_bgr[: 256 - 20 * index])
    return paths


def _answers(cli: Command, model: Path, *arguments: str | Path) -> list[dict[str, Any]]:
    outcome = cli("predict", str(model), *map(str, arguments), "--json")
    assert (outcome.code, outcome.err) == (0, "")
    return [json.loads(line) for line in outcome.out.splitlines()]


def test_one_json_object_a_line(demo_onnx: Path, scenes: list[Path], cli: Command) -> None:
    answers = _answers(cli, demo_onnx, *scenes)
    assert [answer["path"] for answer in answers] == [str(path) for path in scenes]
    assert sum(len(answer["detections"]) for answer in answers) > 4
    for answer, path in zip(answers, scenes, strict=True):
        assert list(answer) == ["path", "height", "width", "detections"]
        height, width = read_image(path).shape[:2]
        assert (answer["height"], answer["width"]) == (height, width)
        for one in answer["detections"]:
            assert list(one) == ["xyxy", "confidence", "class_id", "name"]
            x1, y1, x2, y2 = one["xyxy"]
            assert 0 <= x1 < x2 <= width
            assert 0 <= y1 < y2 <= height
            assert 0.25 < one["confidence"] <= 1
            assert one["name"] == NAMES[one["class_id"]]
        confidences = [one["confidence"] for one in answer["detections"]]
        assert confidences == sorted(confidences, reverse=True)


def test_a_table_without_json(demo_onnx: Path, scenes: list[Path], cli: Command) -> None:
    counts = [len(answer["detections"]) for answer in _answers(cli, demo_onnx, *scenes)]
    outcome = cli("predict", str(demo_onnx), str(scenes[0].parent))
    assert (outcome.code, outcome.err) == (0, "")
    rows = [line.split("│")[1:-1] for line in outcome.out.splitlines() if line.startswith("│")]
    assert [(path.strip(), int(count)) for path, count, _ in rows] == [
        (str(path), count) for path, count in zip(scenes, counts, strict=True)
    ]


@pytest.mark.parametrize("model", ["demo_dynamic_onnx", "demo_static4_onnx", "demo_head_onnx"])
def test_every_kind_of_graph_answers_alike(
    model: str, demo_onnx: Path, scenes: list[Path], cli: Command, request: pytest.FixtureRequest
) -> None:
    sources = [*scenes, scenes[1]]
    wanted = _answers(cli, demo_onnx, *sources)
    got = _answers(cli, request.getfixturevalue(model), *sources)
    assert [answer["path"] for answer in got] == [answer["path"] for answer in wanted]
    for one, other in zip(got, wanted, strict=True):
        assert [d["class_id"] for d in one["detections"]] == [d["class_id"] for d in other["detections"]]
        np.testing.assert_allclose(
            [d["xyxy"] for d in one["detections"]], [d["xyxy"] for d in other["detections"]], atol=0.05
        )


def test_classes_by_name_and_by_id(demo_onnx: Path, scenes: list[Path], cli: Command) -> None:
    everything = _answers(cli, demo_onnx, *scenes)
    ids = [one["class_id"] for answer in everything for one in answer["detections"]]
    common = max(set(ids), key=ids.count)
    other = next(index for index in NAMES if index != common)
    for text, chosen in (
        (str(common), {common}),
        (NAMES[common], {common}),
        (f"{common}, {NAMES[other]}", {common, other}),
    ):
        for got, every in zip(_answers(cli, demo_onnx, *scenes, "--classes", text), everything, strict=True):
            assert got["detections"] == [one for one in every["detections"] if one["class_id"] in chosen]


def test_a_class_that_is_called_like_the_number_of_another(tmp_path: Path, cli: Command) -> None:
    """A name comes before an id: in a model that calls class 1 `0`, `--classes 0` is class 1."""
    renamed = _renamed(tmp_path, {0: "1", 1: "0"}, cli)
    cv2.imwrite(str(tmp_path / "scene.png"), scene(0).image_bgr)
    (answer,) = _answers(cli, renamed, tmp_path / "scene.png", "--classes", "0", "--conf", "0.001")
    assert {(one["class_id"], one["name"]) for one in answer["detections"]} == {(1, "0")}


def _renamed(folder: Path, names: dict[int, str], cli: Command) -> Path:
    """The demo's deploy graph with other class names."""
    import onnx

    cli("export", "--no-check", "--out", str(folder))
    model = onnx.load(folder / "demo.onnx")
    (entry,) = (entry for entry in model.metadata_props if entry.key == "trt_yolo")
    manifest = json.loads(entry.value)
    manifest["names"].update({str(index): name for index, name in names.items()})
    entry.value = json.dumps(manifest)
    onnx.save(model, folder / "renamed.onnx")
    return folder / "renamed.onnx"


def test_thresholds(demo_onnx: Path, scenes: list[Path], cli: Command) -> None:
    (every,) = _answers(cli, demo_onnx, scenes[0], "--conf", "0.01")
    assert len(every["detections"]) > 3
    (few,) = _answers(cli, demo_onnx, scenes[0], "--conf", "0.01", "--max-det", "2")
    assert few["detections"] == every["detections"][:2]
    middle = every["detections"][1]["confidence"]
    (sure,) = _answers(cli, demo_onnx, scenes[0], "--conf", str(middle + 1e-4))
    assert sure["detections"] == [one for one in every["detections"] if one["confidence"] > middle + 1e-4]
    (loose,) = _answers(cli, demo_onnx, scenes[0], "--conf", "0.01", "--iou", "1")
    assert len(loose["detections"]) > len(every["detections"])


def test_a_checkpoint_is_exported_into_the_cache_once(
    demo_onnx: Path, scenes: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Command
) -> None:
    monkeypatch.setenv("TRT_YOLO_CACHE", str(tmp_path))
    first = _answers(cli, demo_checkpoint(), *scenes)
    (kept,) = tmp_path.rglob("*.onnx")
    written = kept.stat().st_mtime_ns
    assert _answers(cli, demo_checkpoint(), *scenes) == first == _answers(cli, demo_onnx, *scenes)
    assert kept.stat().st_mtime_ns == written


def test_save_draws_every_image(demo_onnx: Path, scenes: list[Path], tmp_path: Path, cli: Command) -> None:
    answers = _answers(cli, demo_onnx, *scenes, "--save", tmp_path / "new" / "drawn")
    assert sorted(path.name for path in (tmp_path / "new" / "drawn").iterdir()) == [
        f"{index}.jpg" for index in range(4)
    ]
    for path, answer in zip(scenes, answers, strict=True):
        drawn, source = (read_image(one) for one in (tmp_path / "new" / "drawn" / f"{path.stem}.jpg", path))
        assert drawn.shape == source.shape
        changed = np.abs(drawn.astype(int) - source.astype(int)).max(axis=2) > 100
        assert changed.any() == bool(answer["detections"])


def test_saving_keeps_sources_and_draws_every_image(demo_onnx: Path, tmp_path: Path, cli: Command) -> None:
    """Into the folder of a source, from two folders with equal names; which names are taken: media/test_targets.py."""
    sources = [tmp_path / name for name in ("a/x.png", "b/x.png", "drawn/x.jpg")]
    for index, source in enumerate(sources):
        source.parent.mkdir()
        cv2.imwrite(str(source), np.full((10 + index, 10, 3), 99, np.uint8))
    before = sources[2].read_bytes()
    _answers(cli, demo_onnx, *sources, "--save", tmp_path / "drawn")
    assert sources[2].read_bytes() == before
    heights = {path.name: read_image(path).shape[0] for path in (tmp_path / "drawn").iterdir()}
    assert heights == {"x.jpg": 12, "x_1.jpg": 10, "x_2.jpg": 11, "x_3.jpg": 12}


def test_files_that_exist_are_overwritten_only_if_that_was_said(
    demo_onnx: Path, scenes: list[Path], tmp_path: Path, cli: Command
) -> None:
    own = tmp_path / "1.jpg"
    own.write_text("the user's own")
    arguments = [*map(str, scenes), "--save", str(tmp_path)]
    refused = cli("predict", "missing.onnx", *arguments)  # before the model is looked for
    assert_one_error(refused, f"{own} exists already", "give another folder with --save, or --overwrite")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the user's own"]
    assert cli("predict", str(demo_onnx), *arguments, "--overwrite").code == 0
    assert read_image(own).shape == read_image(scenes[1]).shape
    assert_one_error(cli("predict", str(demo_onnx), *arguments), f"{tmp_path / '0.jpg'} exists already")


def test_overwrite_without_save(demo_onnx: Path, scenes: list[Path], cli: Command) -> None:
    assert_one_error(cli("predict", str(demo_onnx), str(scenes[0]), "--overwrite"), "--overwrite", "--save")


def _small_files_only() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))


def test_a_full_disk_leaves_no_half_drawing(demo_onnx: Path, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1600, 1600, 3), np.uint8)  # 3 MB as a JPEG
    old = tmp_path / "drawn" / "a.jpg"
    old.parent.mkdir()
    old.write_text("old")
    sources = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert all(cv2.imwrite(source, noise) for source in sources)
    arguments = ["predict", str(demo_onnx), *sources, "--save", str(old.parent), "--overwrite", "--json"]
    outcome = run_process(*arguments, before=_small_files_only)
    assert_one_error(outcome._replace(out=""), f"cannot write to {old.parent}", "File too large", "--save")
    assert [path.read_text() for path in old.parent.iterdir()] == ["old"]


def test_an_interrupt_leaves_no_half_drawing(demo_onnx: Path, scenes: list[Path], tmp_path: Path) -> None:
    sources = [tmp_path / f"{number}.png" for number in range(400)]
    for source in sources:
        source.symlink_to(scenes[0])
    drawn = tmp_path / "drawn"
    command = [sys.executable, "-m", "trt_yolo", "predict", str(demo_onnx), *map(str, sources), "--json"]
    with subprocess.Popen([*command, "--save", str(drawn)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(5):
            assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.stdout.read()
    assert process.returncode == 130
    left = list(drawn.iterdir())
    assert 0 < len(left) < len(sources)
    assert all(read_image(path).shape == read_image(scenes[0]).shape for path in left)


@pytest.mark.parametrize(
    "name", ["[red]x.png", "a[/b].png", "ärger 東京.png", "%s {0}.png", "-x.png", "🦊.png"]
)
@pytest.mark.parametrize("json_line", [True, False], ids=["json", "table"])
def test_images_may_have_any_name(
    name: str,
    json_line: bool,
    demo_onnx: Path,
    scenes: list[Path],
    tmp_path: Path,
    cli: Command,
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(scenes[0], path)
    outcome = cli("predict", str(demo_onnx), str(path), *(["--json"] if json_line else []))
    assert (outcome.code, outcome.err) == (0, "")
    assert (json.loads(outcome.out)["path"] == str(path)) if json_line else (str(path) in outcome.out)


def test_classes_may_have_any_name(tmp_path: Path, cli: Command) -> None:
    renamed = _renamed(tmp_path, {index: f"[/{index}] [red]x" for index in NAMES}, cli)
    cv2.imwrite(str(tmp_path / "scene.png"), scene(0).image_bgr)
    outcome = cli("predict", str(renamed), str(tmp_path / "scene.png"), "--conf", "0.01")
    assert (outcome.code, outcome.err) == (0, "")
    assert "[red]x" in outcome.out


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
@pytest.mark.parametrize("option", [["--json"], []], ids=["json", "table"])
def test_output_fits_every_encoding(
    encoding: str, option: list[str], demo_onnx: Path, scenes: list[Path], tmp_path: Path
) -> None:
    """A name that is no UTF-8, on Linux, and one that the terminal cannot show."""
    paths = [tmp_path / b"broken\xff.png".decode(errors="surrogateescape"), tmp_path / "東京.png"]
    for path in paths:
        shutil.copy(scenes[0], path)
    arguments = ["predict", str(demo_onnx), *map(str, paths), *option]
    outcome = run_process(*arguments, env={"PYTHONIOENCODING": encoding})
    assert (outcome.code, outcome.err) == (0, "")
    if option:
        assert [json.loads(line)["path"] for line in outcome.out.splitlines()] == [
            str(path) for path in paths
        ]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_workers_answer_alike_and_in_order(
    workers: str, demo_onnx: Path, scenes: list[Path], tmp_path: Path, cli: Command
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff")
    sources = [*scenes, str(broken), *scenes]
    arguments = ["predict", str(demo_onnx), *map(str, sources), "--json"]
    alone, many = cli(*arguments), cli(*arguments, "--workers", workers, "--save", str(tmp_path / "drawn"))
    assert alone.code == many.code == 1
    assert many.err == alone.err
    assert "broken.jpg" in many.err
    for line, wanted in zip(many.out.splitlines(), alone.out.splitlines(), strict=True):
        got, want = json.loads(line), json.loads(wanted)
        assert (got["path"], len(got["detections"])) == (want["path"], len(want["detections"]))
    assert len(list((tmp_path / "drawn").iterdir())) == len(scenes)


@pytest.mark.parametrize("workers", ["-1", "257"])
def test_a_number_of_workers_that_cannot_be(
    workers: str, demo_onnx: Path, scenes: list[Path], cli: Command
) -> None:
    outcome = cli("predict", str(demo_onnx), str(scenes[0]), "--workers", workers)
    assert_one_error(outcome, f"workers is {workers}", "at least 0 and at most 256")


def test_what_a_worker_cannot_load_is_said_in_one_line(
    scenes: list[Path], tmp_path: Path, cli: Command
) -> None:
    model = tmp_path / "text.onnx"
    model.write_text("text")
    outcome = cli("predict", str(model), str(scenes[0]), "--workers", "2")
    assert_one_error(outcome, "ONNX Runtime", "cannot load", "text.onnx", "export it again")
