"""What the runtime is compared with, each in a process of its own: `python -m trt_yolo.bench.peers NAME OPTIONS`.

    queue        frames pickled through multiprocessing.Queue to a process that does nothing with them
    ultralytics  Ultralytics' `predict` on its own ONNX export
    seed         N processes with an Ultralytics model each, fed with decoded images by a Queue: what this project
                 grew from

A peer says {"ready": true}, then answers each line {"images": n} on stdin with {"images": n, "seconds": s}: what
it took when it was running evenly. Ultralytics is imported here and nowhere else at run time, and only by a peer.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

Run = Callable[[int], Iterable[object]]
"""Runs so many images and yields once for each."""

_QUEUE_S = 120.0
_QUEUE_FRAMES = 8


class PeerOptions(TypedDict, total=False):
    """What a peer is told.

    Attributes:
        imgsz: Height and width of the model's input, in pixels.
        images: Paths of image files.
        weights: Path of a `.pt`.
        workers: How many run at once.
        threads: CPU threads of each.
    """

    imgsz: list[int]
    images: list[str]
    weights: str
    workers: int
    threads: int


@contextlib.contextmanager
def queue_peer(options: PeerOptions) -> Iterator[Run]:
    """Frames out and rows back through queues of pickles."""
    height, width = options["imgsz"]
    frames = [np.full((height, width, 3), number, np.uint8) for number in range(32)]
    with _processes(_echo, [{}]) as (tasks, answers):

        def run(images: int) -> Iterator[object]:
            yield from _through(tasks, answers, itertools.islice(itertools.cycle(frames), images))

        yield run


def _echo(_: dict[str, Any], tasks: Any, answers: Any) -> None:
    while (frame := tasks.get()) is not None:
        answers.put(np.array([[0, 0, *frame.shape[:2], 1, frame[0, 0, 0]]], np.float32))


@contextlib.contextmanager
def ultralytics_peer(options: PeerOptions) -> Iterator[Run]:
    """`predict` on files, with the ONNX graph that Ultralytics exports."""
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory(prefix="trt-yolo-") as folder:
        weights = Path(folder) / Path(options["weights"]).name
        weights.write_bytes(Path(options["weights"]).read_bytes())
        exported = YOLO(weights).export(format="onnx", imgsz=options["imgsz"], verbose=False)
        model, files = YOLO(exported, task="detect"), itertools.cycle(options["images"])

        def run(images: int) -> Iterator[object]:
            for path in itertools.islice(files, images):
                yield model.predict(path, imgsz=options["imgsz"], rect=False, device="cpu", verbose=False)

        yield run


@contextlib.contextmanager
def seed_peer(options: PeerOptions) -> Iterator[Run]:
    """Decoded images through a queue to processes with an Ultralytics model each."""
    import cv2

    files = itertools.cycle(options["images"])
    with _processes(_predict, [dict(options)] * options["workers"]) as (tasks, answers):

        def run(images: int) -> Iterator[object]:
            decoded = (cv2.imread(path) for path in itertools.islice(files, images))
            yield from _through(tasks, answers, decoded)

        yield run


def _predict(options: dict[str, Any], tasks: Any, answers: Any) -> None:
    import torch
    from ultralytics import YOLO

    torch.set_num_threads(options["threads"])
    model = YOLO(options["weights"])
    while (image := tasks.get()) is not None:
        found = model.predict(image, imgsz=options["imgsz"], rect=False, device="cpu", verbose=False)
        answers.put(found[0].boxes.data.numpy())


@contextlib.contextmanager
def _processes(target: Callable[..., None], options: list[dict[str, Any]]) -> Iterator[tuple[Any, Any]]:
    """Spawned processes between a queue of tasks and a queue of answers."""
    context = get_context("spawn")
    tasks, answers = context.Queue(_QUEUE_FRAMES), context.Queue()
    processes = [context.Process(target=target, args=(one, tasks, answers), daemon=True) for one in options]
    for process in processes:
        process.start()
    try:
        yield tasks, answers
    finally:
        for process in processes:
            process.kill()


def _through(tasks: Any, answers: Any, items: Iterable[object]) -> Iterator[object]:
    """An answer for each item; as many are under way as the queue of tasks holds."""
    under_way = 0
    for item in items:
        while under_way >= _QUEUE_FRAMES:
            yield answers.get(timeout=_QUEUE_S)
            under_way -= 1
        tasks.put(item)
        under_way += 1
        with contextlib.suppress(queue.Empty):
            while under_way:
                yield answers.get_nowait()
                under_way -= 1
    for _ in range(under_way):
        yield answers.get(timeout=_QUEUE_S)


def steady_seconds(results: Iterable[object], images: int, settling: int) -> tuple[int, float]:
    """How many of the images came, in how many seconds, without the first and last `settling` of them."""
    start_s = end_s = time.perf_counter()
    counted = images - 2 * settling
    for number, _ in enumerate(results, start=1):
        if number == settling:
            start_s = time.perf_counter()
        elif number == settling + counted:
            end_s = time.perf_counter()
    return counted, end_s - start_s


_PEERS = {"queue": queue_peer, "ultralytics": ultralytics_peer, "seed": seed_peer}


def main() -> None:
    """The process of one peer, until its stdin ends. Whatever a library prints goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    options: PeerOptions = json.loads(sys.argv[2])
    settling = max(1, options.get("workers", 1))
    with _PEERS[sys.argv[1]](options) as run:
        for _ in run(4 * settling):
            pass
        print(json.dumps({"ready": True}), file=out, flush=True)
        for line in sys.stdin:
            images = max(json.loads(line)["images"], 2 * settling + 1)
            counted, seconds = steady_seconds(run(images), images, settling)
            print(json.dumps({"images": counted, "seconds": seconds}), file=out, flush=True)


if __name__ == "__main__":
    main()
