"""The peers of the bench: that they do the same work, that their windows are true, and that they leave nothing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import trt_yolo
from tests.assertions import assert_detections_match, share_matched
from tests.runtime.models import children, is_running, wait_until
from trt_yolo import Detections
from trt_yolo.artifacts.weights import demo_checkpoint
from trt_yolo.bench.flow import ROUNDS
from trt_yolo.bench.images import write_scenes
from trt_yolo.bench.peers import (
    DETECTING,
    PEERS,
    Found,
    PeerOptions,
    Ready,
    Rows,
    available,
    process,
    serve,
    why_not,
)
from trt_yolo.bench.peers.process import PeerProcess
from trt_yolo.bench.window import Contender
from trt_yolo.demo.scenes import scene
from trt_yolo.errors import BackendError, InputError
from trt_yolo.media.images import read_image, write_jpeg

_IMAGES = 7
_ON_THE_GRAPH = ("onnxruntime", "openvino", "queue-pool")
_LEAVES_S = 10.0


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Scenes of several sizes: some are letterboxed, some only scaled, some neither."""
    folder = tmp_path_factory.mktemp("scenes")
    paths = write_scenes(folder, (256, 256))[:3]
    for number, (height, width) in enumerate([(400, 300), (240, 400), (512, 512), (200, 390)]):
        paths.append(folder / f"cut{number}.jpg")
        write_jpeg(paths[-1], scene(20 + number, size=max(height, width)).image_bgr[:height, :width])
    assert len(paths) == _IMAGES
    return paths


@pytest.fixture(scope="module")
def options(demo_onnx: Path, images: list[Path]) -> PeerOptions:
    return PeerOptions(
        imgsz=[256, 256],
        images=[str(path) for path in images],
        weights=str(demo_checkpoint()),
        model=str(demo_onnx),
        workers=2,
        threads=1,
    )


@pytest.fixture(scope="module")
def wanted(demo_onnx: Path, images: list[Path]) -> list[Detections]:
    with trt_yolo.load(demo_onnx) as model:
        found = [model(path) for path in images]
    assert sum(map(len, found)) > 20
    return found


@pytest.fixture
def nothing_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fails where a process, a file or a semaphore is left."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    before, semaphores = children(), _orphaned_semaphores()
    yield
    assert children() <= before
    assert list(folder.iterdir()) == []
    assert wait_until(lambda: _orphaned_semaphores() <= semaphores)


def _orphaned_semaphores() -> set[str]:
    """Those of multiprocessing that no process has any more; what runs beside this test has its own."""
    names = {name for name in os.listdir("/dev/shm") if name.startswith("sem.mp-")}
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with contextlib.suppress(OSError):  # it has ended
            names -= set(re.findall(r"sem\.mp-\w+", maps.read_text()))
    return names


def _skip_unless_here(name: str) -> None:
    if not available(name):
        pytest.skip(why_not(name) or "")


def _detections(rows: Rows) -> Detections:
    return Detections(xyxy=rows[:, :4], confidence=rows[:, 4], class_id=rows[:, 5].astype(np.int64))


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize(("name", "batch"), [("onnxruntime", 1), ("openvino", 1), ("queue-pool", 3)])
def test_a_peer_finds_what_trt_yolo_finds(
    name: str, batch: int, options: PeerOptions, wanted: list[Detections], demo_dynamic_onnx: Path
) -> None:
    _skip_unless_here(name)
    with PeerProcess(name, {**options, "model": str(demo_dynamic_onnx), "batch": batch}) as peer:
        found = peer.found(_IMAGES)
        _check_window(peer)
    assert len(found) == _IMAGES
    for rows, detections in zip(found, wanted, strict=True):
        assert_detections_match(_detections(rows), detections)


def _check_window(peer: Contender) -> None:
    """It is as long as asked at the least, and counts what came in it."""
    assert not peer.is_continuous
    begun_s = time.perf_counter()
    window = peer.window(0.2)
    ended_s = time.perf_counter()
    assert begun_s < window.started_s < ended_s
    assert ended_s - begun_s >= 0.2
    assert window.images >= ROUNDS
    assert (window.offered, window.errors, window.lost) == (0, 0, 0)


def test_more_images_than_a_command_line_holds(options: PeerOptions) -> None:
    many = PeerOptions(**{**options, "images": options["images"] * 5000})
    with PeerProcess("queue", many) as peer:
        assert peer.name == "queue"
        _check_window(peer)


@pytest.mark.slow
@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("name", ["ultralytics", "seed"])
def test_ultralytics_finds_what_trt_yolo_finds(
    name: str, options: PeerOptions, wanted: list[Detections]
) -> None:
    _skip_unless_here(name)
    with PeerProcess(name, options) as peer:
        found = peer.found(_IMAGES)
        _check_window(peer)
    for rows, detections in zip(found, wanted, strict=True):
        both, alone = share_matched(_detections(rows), detections, iou=0.98, score=0.005)
        assert (both, alone) == (len(detections), 0)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("graph", "batch"), [("demo_head_onnx", 1), ("demo_dynamic_onnx", 3)])
def test_other_graphs_and_batches_give_the_same(
    name: str,
    graph: str,
    batch: int,
    options: PeerOptions,
    wanted: list[Detections],
    request: pytest.FixtureRequest,
) -> None:
    """In this process."""
    _skip_unless_here(name)
    model = str(request.getfixturevalue(graph))
    module = importlib.import_module(PEERS[name].module)
    with module.open_peer({**options, "model": model, "batch": batch}) as ready:
        found = sorted(ready.run(options["images"]), key=lambda one: one.number)  # the last batch is not full
        window = serve._timed(ready, itertools.cycle(options["images"]), 0.0)
    for one, detections in zip(found, wanted, strict=True):
        assert_detections_match(_detections(one.rows), detections)
    assert window.images % batch == 0


def test_every_peer_is_tested() -> None:
    assert {*_ON_THE_GRAPH, "ultralytics", "seed"} == set(DETECTING)
    assert {*DETECTING, "queue"} == set(PEERS)
    assert all(importlib.util.find_spec(peer.module) for peer in PEERS.values())


def test_an_image_that_does_not_come_back_is_no_rate() -> None:
    def lossy(paths: Iterator[str]) -> Iterator[Found]:
        for number, path in enumerate(paths):
            if path != "lost":
                yield Found(number, np.zeros((0, 6), np.float32))

    files = itertools.chain(["a", "b", "lost"], itertools.repeat("c"))
    with pytest.raises(BackendError, match=r"(\d+) images were sent and (?!\1)\d+ came back"):
        serve._timed(Ready(run=lossy, under_way=1), files, 0.0)


@pytest.mark.parametrize(
    ("name", "given", "reason"),
    [
        ("onnxruntime", {"model": "a.onnx"}, None),
        ("openvino", {"model": "a.onnx", "weights": "a.pt"}, None),
        ("queue", {}, None),
        ("seed", {"weights": "a.pt", "device": "cuda:0"}, None),
        ("queue-pool", {"weights": "a.pt"}, "it needs the .onnx: give that, or the .pt to export it from"),
        ("seed", {"model": "b/a.onnx"}, "it needs the checkpoint: give the .pt instead of a.onnx"),
        ("ultralytics", {}, "it needs the checkpoint: give the .pt"),
        (
            "openvino",
            {"model": "a.onnx", "device": "cuda:0"},
            "it runs on the CPU, and this model on cuda:0: give the .onnx to compare on the CPU",
        ),
    ],
)
def test_why_a_peer_cannot_run(
    name: str, given: dict[str, str], reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert why_not(name, **given) == reason


@pytest.mark.parametrize(
    ("name", "missing", "reason"),
    [
        ("openvino", "openvino", "openvino not installed: pip install 'trt-yolo[peers]'"),
        ("onnxruntime", "onnxruntime", "onnxruntime not installed: pip install 'trt-yolo[cpu]'"),
        ("seed", "ultralytics", "ultralytics not installed: pip install 'trt-yolo[export]'"),
        ("ultralytics", "onnxruntime", "onnxruntime not installed: pip install 'trt-yolo[cpu,export]'"),
    ],
)
def test_a_missing_package_is_said_with_how_to_get_it(
    name: str, missing: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None if package == missing else object())
    assert not available(name)
    assert why_not(name, model="a.onnx", weights="a.pt") == reason


@pytest.mark.parametrize("ask", [available, why_not])
def test_no_such_peer(ask: Callable[[str], object]) -> None:
    with pytest.raises(InputError, match="no peer 'nobody'; give of onnxruntime, openvino, "):
        ask("nobody")


def test_looking_at_peers_imports_none_of_what_they_need() -> None:
    code = (
        "import sys; from trt_yolo.bench import peers; [peers.why_not(name) for name in peers.PEERS]; "
        "print({'cv2', 'torch', 'ultralytics', 'onnxruntime', 'openvino'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


@pytest.mark.usefixtures("nothing_left")
def test_a_killed_peer_is_one_line(options: PeerOptions) -> None:
    with PeerProcess("queue-pool", options) as peer:
        others = _descendants(peer.pid)
        assert len(others) >= 2
        threading.Timer(0.3, os.kill, (peer.pid, signal.SIGKILL)).start()
        with pytest.raises(
            BackendError, match=r"'queue-pool' of the bench was ended by signal 9, Killed; "
        ) as caught:
            peer.window(60)
        assert "\n" not in str(caught.value)
        assert not any(map(is_running, others))
        with pytest.raises(BackendError, match="has been closed"):
            peer.window(1)


@pytest.mark.usefixtures("nothing_left")
def test_a_killed_process_of_a_pool_ends_the_pool(options: PeerOptions) -> None:
    with PeerProcess("queue-pool", options) as peer:
        one = next(pid for pid in _descendants(peer.pid) if _is_of_pool(pid))
        os.kill(one, signal.SIGKILL)
        with pytest.raises(BackendError, match=r"a process of the pool has ended with exit code -9\); "):
            peer.window(1)


@pytest.mark.usefixtures("nothing_left")
def test_the_command_that_an_error_names_shows_why(options: PeerOptions) -> None:
    with pytest.raises(BackendError, match=r"no such file: /nowhere/a\.onnx") as caught:
        PeerProcess("queue-pool", {**options, "model": "/nowhere/a.onnx"})
    command = str(caught.value).partition("); ")[2].removesuffix(" shows why")
    shown = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=60)
    assert shown.returncode == 1
    assert "no such file: /nowhere/a.onnx" in shown.stderr


def test_by_hand_a_peer_runs_without_a_bench(options: PeerOptions) -> None:
    words = [sys.executable, "-m", "trt_yolo.bench.peers", "onnxruntime", json.dumps(options), "20"]
    shown = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    ready, answer = map(json.loads, shown.stdout.splitlines())
    assert ready == {"ready": True}
    assert len(answer["found"]) == 20


@pytest.mark.usefixtures("nothing_left")
def test_a_peer_that_does_not_answer_is_given_up(
    options: PeerOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_RUN_S", -59.5)
    with (
        PeerProcess("onnxruntime", options) as peer,
        pytest.raises(BackendError, match=r"has not answered for 0 s; .* shows why"),
    ):
        peer.window(60)


_BENCH = """
import json, sys, time
from trt_yolo.bench.peers.process import PeerProcess
try:
    with PeerProcess("queue-pool", json.loads(sys.argv[1])) as peer:
        print(peer.pid, flush=True)
        peer.window(600)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_bench_that_ends_takes_its_peers_along(
    how: signal.Signals, options: PeerOptions, tmp_path: Path
) -> None:
    semaphores = _orphaned_semaphores()
    bench = subprocess.Popen(
        [sys.executable, "-c", _BENCH, json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    assert bench.stdout is not None
    peer = int(bench.stdout.readline())
    of_peer = [peer, *_descendants(peer)]
    assert os.getsid(peer) == peer  # Ctrl-C in the terminal of the bench does not reach it
    assert len(of_peer) >= 3
    time.sleep(0.3)
    os.killpg(bench.pid, how)  # what a terminal does
    said, errors = bench.communicate(timeout=_LEAVES_S)
    assert (said, errors) == ("interrupted\n" if how == signal.SIGINT else "", "")
    assert wait_until(lambda: not any(map(is_running, of_peer)), _LEAVES_S)
    assert wait_until(lambda: _orphaned_semaphores() <= semaphores)
    if how == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []


def test_openvino_does_not_report_to_its_maker(
    options: PeerOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _skip_unless_here("openvino")
    monkeypatch.setenv("HOME", str(tmp_path))
    with PeerProcess("openvino", options) as peer:
        assert peer.window(0.1).images
        assert _descendants(peer.pid) == []
    assert list(tmp_path.iterdir()) == []  # its telemetry would have written an id


@pytest.mark.slow
def test_the_seed_has_as_many_threads_as_it_was_told(options: PeerOptions) -> None:
    _skip_unless_here("seed")
    code = (
        "import json, sys, torch; from trt_yolo.bench.peers.seed import _predictor; import cv2; "
        "options = json.loads(sys.argv[1]); predict = _predictor(options); "
        "predict(cv2.imread(options['images'][0])); print('threads', torch.get_num_threads())"
    )
    told = json.dumps({**options, "threads": 3})
    said = subprocess.check_output([sys.executable, "-c", code, told], text=True)
    assert said.splitlines()[-1] == "threads 3"


def test_scenes_of_other_sizes_are_what_they_say(images: list[Path]) -> None:
    shapes = {read_image(path).shape[:2] for path in images}
    assert shapes == {(256, 256), (400, 300), (240, 400), (512, 512), (200, 390)}


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in os.listdir(f"/proc/{pid}/task"):
        for child in Path(f"/proc/{pid}/task/{task}/children").read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


def _is_of_pool(pid: int) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
