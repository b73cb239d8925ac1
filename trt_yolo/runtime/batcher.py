"""Which image goes into which slot, and when a batch leaves.

Enters: jobs, one place each. Leaves: slots that are READY, sent to their queue's worker. Many threads fill at
once; one lock guards all of it. Knows neither processes nor how an image is decoded.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import TrtYoloError
from trt_yolo.runtime.job import Job
from trt_yolo.runtime.ring import Ring, RingError, Slot, Task

_CHECK_S = 1.0


@dataclass(eq=False, slots=True)
class WorkerQueue:
    """The slots of one worker, free and in flight; they change when its process is replaced.

    Attributes:
        number: Which worker, from 0.
        slots: The memory shared with it; none while there is no worker.
        free: Indices of its FREE slots.
        in_flight: The batches that its worker has, by slot.
        notify: Tells the worker that one more slot is READY.
        at_once: Batches that the worker runs at the same time.
        sequence: Of the last batch sent.
        used: When it was last chosen, as a count.
        has_answered: Whether its worker has answered anything yet.
        since_s: When its worker last answered, or was given something after it had nothing; monotonic.
    """

    number: int
    slots: Sequence[Slot] = ()
    free: collections.deque[int] = field(default_factory=collections.deque)
    in_flight: dict[int, Batch] = field(default_factory=dict)
    notify: Callable[[], None] = lambda: None
    at_once: int = 1
    sequence: int = 0
    used: int = 0
    since_s: float = 0.0
    has_answered: bool = False

    @property
    def needs_work(self) -> bool:
        """Whether its worker will have nothing to do next."""
        return len(self.in_flight) <= self.at_once


@dataclass(eq=False, slots=True)
class Batch:
    """The frames in one slot, on their way to a worker.

    Attributes:
        queue: Whose slot it is.
        slot: The slot.
        key: What the batch's jobs have in common.
        capacity: Places in it.
        together: Whether it waits for the rest of its group.
        deadline_s: When it leaves even if it is not full; monotonic.
        jobs: By place; None for a place that was given up.
        filled: Places that are written.
        sealed: Whether no more places are given away.
        lost: Whether its queue's worker ended before it was sent.
        task: What was sent.
    """

    queue: WorkerQueue
    slot: Slot
    key: Hashable
    capacity: int
    together: bool
    deadline_s: float
    jobs: list[Job | None] = field(default_factory=list)
    filled: int = 0
    sealed: bool = False
    lost: bool = False
    task: Task | None = None

    @property
    def is_whole(self) -> bool:
        """Whether every place given away is written."""
        return self.filled == len(self.jobs)


class Place(NamedTuple):
    """A place in a batch, to be written and then committed or abandoned.

    Attributes:
        batch: The batch.
        number: Which place.
        frame: (H, W, 3) uint8, where the image goes, letterboxed or as it is.
    """

    batch: Batch
    number: int
    frame: npt.NDArray[np.uint8]


class Batcher:
    """Assigns jobs to slots and sends batches to workers.

    A batch goes to the queue with the most free slots. It leaves when it is full; or when `max_delay_s` is over
    and its worker would have nothing to do next: while the worker is busy, waiting costs nothing and the batch
    may still grow.

    Args:
        max_delay_s: How long a batch waits for more, in seconds.
        on_lost: Called with a batch whose worker ended while it was filled; its frames are still in its slot.
        on_waiting: Called when a batch begins to wait for its deadline.
        on_broken: Called when a slot of a queue is not in the state that it was left in.
    """

    def __init__(
        self,
        *,
        max_delay_s: float,
        on_lost: Callable[[Batch], None],
        on_waiting: Callable[[], None],
        on_broken: Callable[[WorkerQueue, RingError], None],
    ) -> None:
        self._lock = threading.Lock()
        self._slot_free = threading.Condition(self._lock)
        self._queues: list[WorkerQueue] = []
        self._filling: dict[Hashable, Batch] = {}
        self._waiting: collections.deque[Job] = collections.deque()
        self._max_delay_s = max_delay_s
        self._on_lost = on_lost
        self._on_waiting = on_waiting
        self._on_broken = on_broken
        self._unsent: list[Batch] = []
        self._uses = 0
        self._closed: TrtYoloError | None = None

    def open_queue(self, queue: WorkerQueue, ring: Ring) -> None:
        """Adds the slots of a worker that is ready."""
        with self._lock:
            queue.slots, queue.sequence = ring.slots, 0
            queue.free = collections.deque(range(len(ring.slots)))
            self._queues.append(queue)
            self._slot_free.notify_all()

    def close_queue(self, queue: WorkerQueue) -> list[Batch]:
        """Removes the slots of a worker that ended; the batches that it had, in the order they were sent."""
        with self._lock:
            if queue in self._queues:
                self._queues.remove(queue)
            in_flight = list(queue.in_flight.values())
            lost = [batch for batch in self._filling.values() if batch.queue is queue]
            for batch in lost:
                del self._filling[batch.key]
                batch.sealed = True
            queue.in_flight, queue.slots = {}, ()
            queue.free.clear()
        for batch in lost:
            self._give_back(batch)
        return in_flight

    def close(self, error: TrtYoloError) -> None:
        """Raises the error in every thread that waits for a place, now or later."""
        with self._lock:
            self._closed = self._closed or error
            self._slot_free.notify_all()

    def reserve(self, job: Job, *, timeout_s: float | None = None) -> Place | None:
        """A place for the job, as soon as there is one; None if there is none in time.

        Whoever waits gets a slot before whoever comes later: a frame that is passed by again and again holds up
        all results that come after it.

        Args:
            job: Whose place it will be.
            timeout_s: How long to wait, in seconds; None: as long as it takes.

        Raises:
            ClosedError: Closed meanwhile; or the error that closed it.
        """
        key: Hashable = (job.thresholds.conf, job.thresholds.iou, job if job.alone else job.group)
        with self._lock:
            batch = self._in_turn(key, job, timeout_s)
            if batch is None:
                return None
            index = len(batch.jobs)
            batch.jobs.append(job)
            if len(batch.jobs) == batch.capacity:
                self._seal(batch)
        return Place(batch, index, batch.slot.frames[index])

    def _in_turn(self, key: Hashable, job: Job, timeout_s: float | None) -> Batch | None:
        """A batch with a place for the job, after all who wait already; None if there is none in time."""
        waiting = False
        try:
            while True:
                self._refuse_if_closed()
                is_next = timeout_s == 0 or not self._waiting or self._waiting[0] is job
                batch = self._filling.get(key) or (self._begin(key, job) if is_next else None)
                if batch is not None or timeout_s == 0:
                    return batch
                if not waiting:
                    self._waiting.append(job)
                    waiting = True
                if not self._slot_free.wait(timeout_s or _CHECK_S) and timeout_s is not None:
                    return None
        finally:
            if waiting:
                self._waiting.remove(job)
                if self._waiting:
                    self._slot_free.notify_all()  # there may be another free slot, or places left in this one

    def reserve_together(self, jobs: Sequence[Job], *, timeout_s: float) -> Batch | None:
        """A slot for jobs that make one batch, all its places at once; None if there is none in time.

        Args:
            jobs: From 1 to the model's largest batch, of the same thresholds.
            timeout_s: How long to wait, in seconds.

        Raises:
            ClosedError: Closed meanwhile; or the error that closed it.
        """
        with self._lock:
            self._refuse_if_closed()
            queue = self._freest()
            if queue is None and timeout_s > 0 and self._slot_free.wait(timeout_s):
                self._refuse_if_closed()
                queue = self._freest()
            if queue is None:
                return None
            batch = self._new(queue, jobs[0], len(jobs), together=True)
            if batch is not None:
                batch.jobs, batch.sealed = list(jobs), True
        return batch

    def commit_together(self, batch: Batch) -> None:
        """Sends a batch whose places are all written, or given up by setting their job to None."""
        with self._sending():
            batch.filled = len(batch.jobs)
            lost = self._is_lost(batch)
            if not lost:
                self._send(batch)
        if lost:
            self._give_back(batch)

    def commit(self, place: Place) -> None:
        """Marks a place as written; sends the batch if it is due."""
        batch = place.batch
        with self._sending():
            batch.filled += 1
            lost = self._is_lost(batch)
            if not lost:
                self._send_if_due(batch)
            waits = not lost and not batch.sealed and not batch.together and batch.filled == 1
        if lost:
            self._give_back(batch)
        elif waits:
            self._on_waiting()

    def abandon(self, place: Place) -> None:
        """Gives up a place that will not be written; the rest of its batch goes on."""
        place.batch.jobs[place.number] = None
        self.commit(place)

    def withdraw(self, job: Job) -> None:
        """Takes a job out of its group: their batch does not wait for it any more."""
        if job.group is None:
            return
        with self._sending():
            job.group.size -= 1
            batch = self._filling.get((job.thresholds.conf, job.thresholds.iou, job.group))
            if batch is not None:
                batch.capacity = min(batch.capacity, job.group.size)
                if len(batch.jobs) == batch.capacity:
                    self._seal(batch)
                    self._send_if_due(batch)

    def release(self, batch: Batch) -> None:
        """Frees the slot of a batch that is answered and read.

        Raises:
            RingError: The slot is not in the state that it was left in; the batch still counts as in flight.
        """
        queue = batch.queue
        with self._sending():
            if queue.in_flight.get(batch.slot.index) is not batch:
                return
            batch.slot.release()
            del queue.in_flight[batch.slot.index]
            queue.since_s, queue.has_answered = time.monotonic(), True
            queue.free.append(batch.slot.index)
            for waiting in [other for other in self._filling.values() if other.queue is queue]:
                self._send_if_due(waiting)
            self._slot_free.notify_all()

    def send_due(self) -> float | None:
        """Sends what is due; when the next batch will be, monotonic seconds, or None."""
        with self._sending():
            for batch in list(self._filling.values()):
                self._send_if_due(batch)
            waiting = [b.deadline_s for b in self._filling.values() if b.queue.needs_work and b.is_whole]
        return min(waiting, default=None)

    def has_room(self) -> bool:
        """Whether a slot is free."""
        return self._closed is not None or any(queue.free for queue in self._queues)

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        """Holds the lock where batches may be sent; afterwards gives back those that could not be."""
        with self._lock:
            yield
            unsent, self._unsent = self._unsent, []
        for batch in unsent:
            self._on_lost(batch)

    def _refuse_if_closed(self) -> None:
        if self._closed is not None:
            raise type(self._closed)(str(self._closed))

    def _freest(self) -> WorkerQueue | None:
        """The queue with the most free slots, of those the one that was not used for longest; None: all full."""
        best: WorkerQueue | None = None
        for queue in self._queues:
            if queue.free and (best is None or (len(queue.free), -queue.used) > (len(best.free), -best.used)):
                best = queue
        return best

    def _begin(self, key: Hashable, job: Job) -> Batch | None:
        queue = self._freest()
        if queue is None:
            return None
        group = None if job.alone else job.group
        capacity = 1 if job.alone else len(queue.slots[0].frames)
        capacity = min(capacity, group.size) if group is not None else capacity
        batch = self._new(queue, key, capacity, together=group is not None)
        if batch is not None:
            self._filling[key] = batch
        return batch

    def _new(self, queue: WorkerQueue, key: Hashable, capacity: int, *, together: bool) -> Batch | None:
        self._uses += 1
        queue.used = self._uses
        slot = queue.slots[queue.free.popleft()]
        try:
            slot.begin()
        except RingError as error:  # the slot is left out until the queue's worker is replaced
            self._on_broken(queue, error)
            return None
        return Batch(queue, slot, key, capacity, together, time.monotonic() + self._max_delay_s)

    def _seal(self, batch: Batch) -> None:
        if not batch.sealed:
            batch.sealed = True
            del self._filling[batch.key]

    def _send_if_due(self, batch: Batch) -> None:
        if batch.task is not None or not batch.is_whole:
            return
        may_grow = batch.together or not batch.queue.needs_work or time.monotonic() < batch.deadline_s
        if may_grow and not batch.sealed:
            return
        self._seal(batch)
        self._send(batch)

    def _send(self, batch: Batch) -> None:
        try:
            self._publish(batch)
        except RingError as error:
            batch.lost = True
            self._unsent.append(batch)
            self._on_broken(batch.queue, error)

    def _publish(self, batch: Batch) -> None:
        queue = batch.queue
        thresholds = next((job.thresholds for job in batch.jobs if job is not None), None)
        if thresholds is None:  # every place was given up
            batch.slot.release()
            queue.free.append(batch.slot.index)
            self._slot_free.notify_all()
            return
        task = Task(
            queue.sequence + 1, len(batch.jobs), thresholds.conf, thresholds.iou, time.monotonic_ns(),
            payload=batch.slot.payload, alone=any(job is not None and job.alone for job in batch.jobs),
        )  # fmt: skip
        batch.slot.publish(task)
        batch.task, queue.sequence = task, task.sequence
        if not queue.in_flight:
            queue.since_s = time.monotonic()
        queue.in_flight[batch.slot.index] = batch
        queue.notify()

    def _is_lost(self, batch: Batch) -> bool:
        return not batch.queue.slots or batch.slot is not batch.queue.slots[batch.slot.index]

    def _give_back(self, batch: Batch) -> None:
        with self._lock:
            if batch.lost or not batch.is_whole:
                return  # whoever writes the last place comes here again
            batch.lost = True
        self._on_lost(batch)
