"""Models of 64x64 pixels over the backends of `faulty.py`, and frames for them that tell which they are."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.runtime.faulty import MARK
from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.options import RuntimeOptions
from trt_yolo.runtime.pool import Pool
from trt_yolo.runtime.ring import _MAGIC
from trt_yolo.runtime.worker import BackendSpec

Image = npt.NDArray[np.uint8]

CLASSES = 255
MARKS = 250  # frames count modulo this; what is above is left for marks on which a backend goes wrong


def tiny_manifest(batch: int = 1, *, static: bool = False) -> Manifest:
    """A model that takes 1 to `batch` frames of 64x64, or always `batch`, and tells 255 classes."""
    names = {index: str(index) for index in range(CLASSES)}
    return Manifest(
        graph="deploy",
        names=names,
        imgsz_hw=(64, 64),
        batch=BatchRange(batch if static else 1, batch),
        rows=4,
        anchors=84,
    )


def pool_model(
    factory: str,
    options: dict[str, Any] | None = None,
    *,
    batch: int = 1,
    static: bool = False,
    **pool_options: Any,
) -> Model:
    """A model over the backend of that name in `faulty.py`."""
    manifest = tiny_manifest(batch, static=static).to_json()
    spec = BackendSpec(
        factory=f"tests.runtime.faulty:{factory}", options={"manifest": manifest, **(options or {})}
    )
    return Model(Pool(spec, RuntimeOptions(**{"workers": 1, "decode_threads": 2, **pool_options})))


def marked(index: int) -> Image:
    """A frame that is answered with the class `index % MARKS`."""
    return np.full((64, 64, 3), index % MARKS, np.uint8)


def poison() -> Image:
    """The frame on which a faulty backend goes wrong."""
    return np.full((64, 64, 3), MARK, np.uint8)


def pids(model: Model) -> list[int]:
    """The worker processes that there are now."""
    return [worker.pid for worker in model.stats().workers if worker.pid]


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than one that has ended and was not asked how."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(is_so: Callable[[], object], timeout_s: float = 10.0) -> bool:
    """Whether it became so within that time."""
    until_s = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.01)
    return True


def children() -> set[int]:
    """The processes that this one has started and that still run.

    Without the resource tracker of multiprocessing, which other tests (those that import torch) start for good.
    """
    found: set[int] = set()
    for task in os.listdir("/proc/self/task"):
        try:
            with open(f"/proc/self/task/{task}/children") as file:
                found.update(map(int, file.read().split()))
        except FileNotFoundError:
            continue
    return {pid for pid in found if is_running(pid) and not _is_resource_tracker(pid)}


def _is_resource_tracker(pid: int) -> bool:
    try:
        return b"multiprocessing.resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def rings_left() -> set[str]:
    """Rings that lie in /dev/shm under a name; other programs' files there are none of ours."""
    return {path.name for path in Path("/dev/shm").glob("*") if _begins_as_ring(path)}


def _begins_as_ring(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:  # a semaphore, or somebody else's; or it has just gone
        return False


def kill_one(model: Model, number: int = 0, how: signal.Signals = signal.SIGKILL) -> int:
    """Sends a signal to one of the workers that are ready, as soon as there are any; its process."""
    while not (ready := _ready(model)):
        time.sleep(0.01)
    os.kill(ready[number % len(ready)], how)
    return ready[number % len(ready)]


class Killer:
    """Kills workers at random moments in a thread of its own, until it has killed enough or is left.

    Args:
        model: Whose workers.
        most: How many it kills.
        on_end: Called when it has killed enough.
    """

    def __init__(
        self, model: Model, *, most: int = 10_000, on_end: Callable[[], None] = lambda: None
    ) -> None:
        self.kills = 0
        self._model, self._most, self._on_end = model, most, on_end
        self._killed: set[int] = set()  # one that is dead already, and not yet known to be, is no other kill
        self._left = threading.Event()
        self._chance = random.Random(most)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _run(self) -> None:
        while self.kills < self._most and not self._left.wait(self._chance.uniform(0.02, 0.25)):
            if ready := [pid for pid in _ready(self._model) if pid not in self._killed]:
                pid = self._chance.choice(ready)
                self._killed.add(pid)
                os.kill(pid, signal.SIGKILL)
                self.kills += 1
        self._on_end()


def _ready(model: Model) -> list[int]:
    return [worker.pid for worker in model.stats().workers if worker.is_ready and worker.pid]
