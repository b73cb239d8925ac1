"""Which image goes into which slot, and when a batch leaves.

Enters: jobs, one place each. Leaves: slots that are READY, sent to their lane's worker. Many threads fill at
once; one lock guards all of it. Knows neither processes nor how an image is decoded.
"""

from __future__ import annotations

import collections
import contextlib
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence

from trt_yolo.errors import TrtYoloError
from trt_yolo.runtime.batch import Batch, Lane, Place
from trt_yolo.runtime.job import Job
from trt_yolo.runtime.ring import Ring, RingError, Task

_CHECK_S = 1.0


class Batcher:
    """Gives places in slots to jobs, and sends batches.

    A batch goes to the lane with the most free slots. It leaves when it is full; or when `max_delay_s` is over
    and its worker would have nothing to do next: while the worker is busy, waiting costs nothing and the batch
    may still grow.

    Args:
        max_delay_s: How long a batch waits for more, in seconds.
        on_lost: Called with a batch whose worker ended while it was filled; its frames are still in its slot.
        on_waiting: Called when a batch begins to wait for its deadline.
        on_broken: Called when a slot of a lane is not in the state that it was left in.
    """

    def __init__(
        self,
        *,
        max_delay_s: float,
        on_lost: Callable[[Batch], None],
        on_waiting: Callable[[], None],
        on_broken: Callable[[Lane, RingError], None],
    ) -> None:
        self.lock = threading.Lock()
        self._slot_free = threading.Condition(self.lock)
        self._lanes: list[Lane] = []
        self._filling: dict[Hashable, Batch] = {}
        self._line: collections.deque[Job] = collections.deque()
        self._max_delay_s = max_delay_s
        self._on_lost = on_lost
        self._on_waiting = on_waiting
        self._on_broken = on_broken
        self._torn: list[Batch] = []
        self._uses = 0
        self._closed: TrtYoloError | None = None

    def open_lane(self, lane: Lane, ring: Ring) -> None:
        """A worker is ready: its slots may be filled."""
        with self.lock:
            lane.slots, lane.sequence = ring.slots, 0
            lane.free = collections.deque(range(len(ring.slots)))
            self._lanes.append(lane)
            self._slot_free.notify_all()

    def shut_lane(self, lane: Lane) -> list[Batch]:
        """A worker ended: nothing more is sent to it; the batches that it had, in the order they were sent."""
        with self.lock:
            if lane in self._lanes:
                self._lanes.remove(lane)
            in_flight = list(lane.in_flight.values())
            lost = [batch for batch in self._filling.values() if batch.lane is lane]
            for batch in lost:
                del self._filling[batch.key]
                batch.sealed = True
            lane.in_flight, lane.slots = {}, ()
            lane.free.clear()
        for batch in lost:
            self._lose(batch)
        return in_flight

    def close(self, error: TrtYoloError) -> None:
        """Whoever waits for a place, or will, gets the error."""
        with self.lock:
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
        with self.lock:
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
                is_next = timeout_s == 0 or not self._line or self._line[0] is job
                batch = self._filling.get(key) or (self._begin(key, job) if is_next else None)
                if batch is not None or timeout_s == 0:
                    return batch
                if not waiting:
                    self._line.append(job)
                    waiting = True
                if not self._slot_free.wait(timeout_s or _CHECK_S) and timeout_s is not None:
                    return None
        finally:
            if waiting:
                self._line.remove(job)
                if self._line:
                    self._slot_free.notify_all()  # there may be another free slot, or places left in this one

    def reserve_together(self, jobs: Sequence[Job], *, timeout_s: float) -> Batch | None:
        """A slot for jobs that make one batch, all its places at once; None if there is none in time.

        Args:
            jobs: From 1 to the model's largest batch, of the same thresholds.
            timeout_s: How long to wait, in seconds.

        Raises:
            ClosedError: Closed meanwhile; or the error that closed it.
        """
        with self.lock:
            self._refuse_if_closed()
            lane = self._freest()
            if lane is None and timeout_s > 0 and self._slot_free.wait(timeout_s):
                self._refuse_if_closed()
                lane = self._freest()
            if lane is None:
                return None
            batch = self._new(lane, jobs[0], len(jobs), together=True)
            if batch is not None:
                batch.jobs, batch.sealed = list(jobs), True
        return batch

    def commit_together(self, batch: Batch) -> None:
        """All places of a batch are written, or given up by setting their job to None: it leaves."""
        with self._sending():
            batch.filled = len(batch.jobs)
            lost = self._is_lost(batch)
            if not lost:
                self._send(batch)
        if lost:
            self._lose(batch)

    def commit(self, place: Place) -> None:
        """The place is written; the batch leaves if it is due."""
        batch = place.batch
        with self._sending():
            batch.filled += 1
            lost = self._is_lost(batch)
            if not lost:
                self._send_if_due(batch)
            waits = not lost and not batch.sealed and not batch.together and batch.filled == 1
        if lost:
            self._lose(batch)
        elif waits:
            self._on_waiting()

    def abandon(self, place: Place) -> None:
        """The place will not be written; what else is in its batch goes on."""
        place.batch.jobs[place.number] = None
        self.commit(place)

    def forgo(self, job: Job) -> None:
        """A job of a group will not come: its batch need not wait for it."""
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
        """The batch is answered and read: its slot is free again.

        Raises:
            RingError: The slot is not in the state that it was left in; the batch still counts as in flight.
        """
        lane = batch.lane
        with self._sending():
            if lane.in_flight.get(batch.slot.index) is not batch:
                return
            batch.slot.release()
            del lane.in_flight[batch.slot.index]
            lane.since_s = time.monotonic()
            lane.free.append(batch.slot.index)
            for waiting in [other for other in self._filling.values() if other.lane is lane]:
                self._send_if_due(waiting)
            self._slot_free.notify_all()

    def send_due(self) -> float | None:
        """Sends what is due; when the next batch will be, monotonic seconds, or None."""
        with self._sending():
            for batch in list(self._filling.values()):
                self._send_if_due(batch)
            waiting = [b.deadline_s for b in self._filling.values() if b.lane.is_hungry and b.is_whole]
        return min(waiting, default=None)

    def has_room(self) -> bool:
        """Whether a slot is free."""
        return self._closed is not None or any(lane.free for lane in self._lanes)

    @contextlib.contextmanager
    def _sending(self) -> Iterator[None]:
        """The lock, held where a batch may be sent; then what could not be sent is given back."""
        with self.lock:
            yield
            torn, self._torn = self._torn, []
        for batch in torn:
            self._on_lost(batch)

    def _refuse_if_closed(self) -> None:
        if self._closed is not None:
            raise type(self._closed)(str(self._closed))

    def _freest(self) -> Lane | None:
        """The lane with the most free slots, of those the one that was not used for longest; None: all full."""
        best: Lane | None = None
        for lane in self._lanes:
            if lane.free and (best is None or (len(lane.free), -lane.used) > (len(best.free), -best.used)):
                best = lane
        return best

    def _begin(self, key: Hashable, job: Job) -> Batch | None:
        lane = self._freest()
        if lane is None:
            return None
        group = None if job.alone else job.group
        capacity = 1 if job.alone else len(lane.slots[0].frames)
        capacity = min(capacity, group.size) if group is not None else capacity
        batch = self._new(lane, key, capacity, together=group is not None)
        if batch is not None:
            self._filling[key] = batch
        return batch

    def _new(self, lane: Lane, key: Hashable, capacity: int, *, together: bool) -> Batch | None:
        self._uses += 1
        lane.used = self._uses
        slot = lane.slots[lane.free.popleft()]
        try:
            slot.begin()
        except RingError as error:  # the slot is left out until the lane's worker is replaced
            self._on_broken(lane, error)
            return None
        return Batch(lane, slot, key, capacity, together, time.monotonic() + self._max_delay_s)

    def _seal(self, batch: Batch) -> None:
        if not batch.sealed:
            batch.sealed = True
            del self._filling[batch.key]

    def _send_if_due(self, batch: Batch) -> None:
        if batch.task is not None or not batch.is_whole:
            return
        may_grow = batch.together or not batch.lane.is_hungry or time.monotonic() < batch.deadline_s
        if may_grow and not batch.sealed:
            return
        self._seal(batch)
        self._send(batch)

    def _send(self, batch: Batch) -> None:
        try:
            self._publish(batch)
        except RingError as error:
            batch.lost = True
            self._torn.append(batch)
            self._on_broken(batch.lane, error)

    def _publish(self, batch: Batch) -> None:
        lane = batch.lane
        thresholds = next((job.thresholds for job in batch.jobs if job is not None), None)
        if thresholds is None:  # every place was given up
            batch.slot.release()
            lane.free.append(batch.slot.index)
            self._slot_free.notify_all()
            return
        task = Task(
            lane.sequence + 1, len(batch.jobs), thresholds.conf, thresholds.iou, time.monotonic_ns(),
            payload=batch.slot.payload, alone=any(job is not None and job.alone for job in batch.jobs),
        )  # fmt: skip
        batch.slot.publish(task)
        batch.task, lane.sequence = task, task.sequence
        if not lane.in_flight:
            lane.since_s = time.monotonic()
        lane.in_flight[batch.slot.index] = batch
        lane.notify()

    def _is_lost(self, batch: Batch) -> bool:
        return not batch.lane.slots or batch.slot is not batch.lane.slots[batch.slot.index]

    def _lose(self, batch: Batch) -> None:
        with self.lock:
            if batch.lost or not batch.is_whole:
                return  # whoever writes the last place comes here again
            batch.lost = True
        self._on_lost(batch)
