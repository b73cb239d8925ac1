"""The scope `infer`: slots that are full to slots that are answered, through the workers and nothing else.

The frames lie in the slots from the start: nothing is decoded, letterboxed or made into `Detections`. What is left
is what the runtime adds to an engine: waking a worker, copies to a GPU and back, waking the program.

Enters: how a worker makes its backend, frames. Leaves: windows. Workers are the runtime's own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import select
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trt_yolo.bench.flow import Flow
from trt_yolo.bench.loads import Scenario, closed_loop
from trt_yolo.bench.window import Window
from trt_yolo.errors import BackendError, TrtYoloError, WorkerError
from trt_yolo.runtime.inline import WorkerThread
from trt_yolo.runtime.ipc import SPIN_S, give_way
from trt_yolo.runtime.job import StageTimes, Thresholds
from trt_yolo.runtime.options import RuntimeOptions
from trt_yolo.runtime.process import RingOptions, Worker, WorkerGone, WorkerProcess
from trt_yolo.runtime.ring import Answer, Slot, Task
from trt_yolo.runtime.worker import BackendSpec, WorkerSpec

if TYPE_CHECKING:
    from typing_extensions import Self

_ANSWER_S = 60.0
_STOP_S = 5.0


class FullSlots:
    """Workers of the bench, with frames in all of their slots. A context manager.

    Attributes:
        posts: The workers.

    Args:
        spec: How a worker makes its backend.
        options: How many workers, threads and slots, as the runtime has them.
        frames: (N, H, W, 3) uint8, letterboxed; copied into the slots, round and round.

    Raises:
        TrtYoloError: The worker's own error, where it cannot start.
    """

    def __init__(self, spec: BackendSpec, options: RuntimeOptions, frames: npt.NDArray[np.uint8]) -> None:
        self.posts: list[Post] = []
        shares = options.shares()
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            for number, (cores, threads) in enumerate(shares):
                worker = WorkerSpec(backend=spec.of_worker(number), threads=threads, cores=cores)
                self.posts.append(Post(worker, options))
            for post in self.posts:
                post.await_ready(options.start_timeout_s)
                post.fill(frames)
            on_error.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers."""
        for post in self.posts:
            post.worker.stop()
        for post in self.posts:
            post.end()
        self.posts = []


class SlotToSlot:
    """Full slots under a load; see `Contender`.

    Args:
        slots: The workers.
        scenario: `single-stream` and `multi-stream` as they are; all others as `offline`.
    """

    name = "infer"
    is_continuous = False

    def __init__(self, slots: FullSlots, scenario: Scenario) -> None:
        self._posts, self._scenario = slots.posts, scenario

    def window(self, seconds: float) -> Window:
        """See `Contender`.

        Raises:
            BackendError: The backend failed, or a worker has ended.
        """
        if self._scenario.name == "single-stream":
            return closed_loop(lambda: self._ask(1), images=1, seconds=seconds)
        if self._scenario.name == "multi-stream":
            count = self._scenario.count
            return closed_loop(lambda: self._ask(count), images=count, seconds=seconds)
        return self._flow(seconds)

    def _ask(self, images: int) -> None:
        """So many frames, spread over the workers in whole batches, and waits for all of them."""
        batch = self._posts[0].batch
        waiting = [min(batch, images - start) for start in range(0, images, batch)]
        under_way = 0
        while waiting or under_way:
            for post in self._posts:
                if waiting and post.send(waiting[0]):
                    waiting.pop(0)
                    under_way += 1
            if not waiting or all(not post.free for post in self._posts):
                under_way -= len(self._answers())

    def _flow(self, seconds: float) -> Window:
        """All slots of all workers under way, again and again."""
        flow = Flow(seconds, round_images=len(self._posts) * self._posts[0].batch)
        seen: list[tuple[Answer, Task]] = []
        while True:
            is_over = flow.is_over
            for post in self._posts:
                while not is_over and post.send(post.batch):
                    pass
            if is_over and not any(post.under_way for post in self._posts):
                return dataclasses.replace(flow.window(), stages=_stages(seen))
            for answer, task in self._answers():
                flow.note(task.frames)
                if flow.counted_from_s is not None and not is_over:
                    seen.append((answer, task))

    def _answers(self) -> list[tuple[Answer, Task]]:
        """Waits for at least one answer."""
        until_s = time.perf_counter() + SPIN_S
        while True:
            found = [one for post in self._posts for one in post.answers()]
            if found:
                return found
            if time.perf_counter() < until_s:
                give_way()
            else:
                self._sleep()

    def _sleep(self) -> None:
        poll = select.poll()
        for post in self._posts:
            poll.register(post.worker.done, select.POLLIN)
            poll.register(post.worker, select.POLLIN)
        if not poll.poll(_ANSWER_S * 1e3):
            raise BackendError(f"a worker of the bench has answered nothing for {_ANSWER_S:g} s")
        for post in self._posts:
            post.check()


class Post:
    """A worker, and the slots that it shares with us.

    Attributes:
        worker: The worker.
        free: Slots that may be sent.
        under_way: What was sent, by slot.
        batch: Frames of a full slot.
    """

    def __init__(self, spec: WorkerSpec, options: RuntimeOptions) -> None:
        ring = RingOptions(slots=options.slots, max_batch=options.max_batch)
        make = WorkerProcess if options.workers else WorkerThread
        self.worker: Worker = make(spec, ring=ring)
        self.free: list[Slot] = []
        self.under_way: dict[int, tuple[Slot, Task]] = {}
        self.batch = 1
        self._sequence = 0
        self._thresholds = Thresholds()

    def await_ready(self, timeout_s: float) -> None:
        """Waits until slots may be sent.

        Raises:
            TrtYoloError: The worker's own error.
        """
        poll = select.poll()
        poll.register(self.worker, select.POLLIN)
        until_s = time.monotonic() + timeout_s
        while not self.worker.is_ready:
            if not poll.poll(max(0.0, until_s - time.monotonic()) * 1e3):
                raise WorkerError(f"a worker of the bench was not ready after {timeout_s:g} s")
            self._receive()

    def check(self) -> None:
        """Raises BackendError if the worker has ended."""
        poll = select.poll()
        poll.register(self.worker, select.POLLIN)
        if poll.poll(0):
            self._receive()

    def _receive(self) -> None:
        try:
            self.worker.receive()
        except WorkerGone as gone:
            raise _as_ours(gone) from gone

    def fill(self, frames: npt.NDArray[np.uint8]) -> None:
        """Writes the frames into the slots, once for all."""
        ring = self.worker.ring
        assert ring is not None
        self.free, self.batch = list(ring.slots), ring.shape.batch
        number = 0
        for slot in ring.slots:
            for place in slot.frames:
                place[:] = frames[number % len(frames)]
                number += 1

    def send(self, frames: int) -> bool:
        """Sends a slot as it is; False if none is free."""
        if not self.free:
            return False
        slot = self.free.pop(0)
        self._sequence += 1
        slot.begin()
        task = Task(self._sequence, frames, self._thresholds.conf, self._thresholds.iou, time.monotonic_ns())
        slot.publish(task)
        self.under_way[slot.index] = slot, task
        self.worker.ready.signal()
        return True

    def answers(self) -> list[tuple[Answer, Task]]:
        """What has been answered since; its slots are free again.

        Raises:
            BackendError: The backend failed.
        """
        if not self.worker.done.take():
            return []
        found = []
        for slot, task in list(self.under_way.values()):
            answer = slot.answer(task)
            if answer is None:
                continue
            if answer.error is not None:
                raise BackendError(f"{answer.error} (in the bench's slots)")
            slot.release()
            del self.under_way[slot.index]
            self.free.append(slot)
            found.append((answer, task))
        return found

    def end(self) -> None:
        """Ends the worker, which was asked to leave."""
        if not self.worker.join(_STOP_S):
            self.worker.kill()
            self.worker.join(_STOP_S)
        self.free, self.under_way = [], {}
        self.worker.close()


def _stages(seen: Sequence[tuple[Answer, Task]]) -> StageTimes:
    waits_ms = [(answer.started_ns - task.ready_ns) / 1e6 for answer, task in seen]
    runs_ms = [(answer.finished_ns - answer.started_ns) / 1e6 for answer, _ in seen]
    return StageTimes(queue=float(np.mean(waits_ms)), infer=float(np.mean(runs_ms)))


def _as_ours(gone: WorkerGone) -> TrtYoloError:
    if isinstance(gone.error, TrtYoloError):
        return gone.error
    return BackendError(
        f"a worker of the bench {gone.death.cause}; run predict to see whether it does there too"
    )
