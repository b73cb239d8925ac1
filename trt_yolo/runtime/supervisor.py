"""Starts workers, restarts those that exit or hang, and stops them.

One thread waits for everything at once: answers, messages, processes that end, deadlines. Knows no images: what
a worker had in hand when it ended is given to the pool.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.errors import TrtYoloError, WorkerError
from trt_yolo.runtime.batcher import Batch, Batcher, WorkerQueue
from trt_yolo.runtime.ipc import Completions, Poll, Wake
from trt_yolo.runtime.job import Death
from trt_yolo.runtime.process import Worker, WorkerGone, start_errors_in_words
from trt_yolo.runtime.ring import RingError, State
from trt_yolo.system.standard_streams import hold_standard_streams

_log = logging.getLogger(__name__)

_TICK_S = 0.25
_PAUSE_S = 8 * _TICK_S
_MINUTE_S = 60.0
_STOP_S = 5.0
_REAP_S = 5.0
_FIRST_BACK_OFF_S = 0.1
_LONGEST_BACK_OFF_S = 5.0
_MOST_DOUBLINGS = 16
_HOPELESS_STARTS = 3


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How long the supervisor waits for workers, and how often it replaces them.

    Attributes:
        timeout_s: A worker that answers nothing for so long while it has work is replaced, in seconds.
        start_timeout_s: A worker must be ready after so long, in seconds.
        max_restarts: More replacements than that within a minute close the pool.
    """

    timeout_s: float
    start_timeout_s: float
    max_restarts: int


@dataclass(eq=False, slots=True)
class Replica:
    """One worker of a model, over all the processes that serve as it.

    Attributes:
        queue: Its slots.
        worker: The process or thread that serves now; None until the next one is started.
        start_at_s: When the next worker is started, monotonic.
        ready_by_s: When the worker must be ready, monotonic.
        failures: Workers in a row that ended before they answered anything.
        bad_starts: Workers in a row that ended before they were ready.
        restarts: How often it was replaced.
        broken: Why the worker must be replaced, although it lives.
    """

    queue: WorkerQueue
    worker: Worker | None = None
    start_at_s: float = 0.0
    ready_by_s: float = 0.0
    failures: int = 0
    bad_starts: int = 0
    restarts: int = 0
    broken: Death | None = None


@dataclass(eq=False)
class RestartBudget:
    """Counts replacements within the last minute.

    Attributes:
        most: How many are allowed.
    """

    most: int
    _times: collections.deque[float] = field(default_factory=collections.deque)

    def spend(self, now_s: float) -> bool:
        """Counts one replacement; whether it is allowed."""
        self._times.append(now_s)
        while now_s - self._times[0] > _MINUTE_S:
            self._times.popleft()
        return len(self._times) <= self.most


def back_off_s(failures: int) -> float:
    """How long to wait before a worker is replaced, in seconds, after so many that came to nothing."""
    doublings = min(failures - 1, _MOST_DOUBLINGS)
    return min(_FIRST_BACK_OFF_S * 2**doublings, _LONGEST_BACK_OFF_S) if failures else 0.0


class Supervisor:
    """The thread that starts, restarts and stops the workers of a pool.

    Args:
        make: Starts the worker of that number.
        count: How many workers.
        batcher: Fills their slots.
        limits: How long they are waited for.
        on_answer: Called when a worker has answered something; reads all answers of that queue.
        on_lost_batches: Called with the batches of a worker that ended, and why.
        on_end: Called once when all is over, with the reason if it was not `stop`.

    Raises:
        WorkerError: No file descriptor can be had.
    """

    def __init__(
        self,
        make: Callable[[int], Worker],
        count: int,
        *,
        batcher: Batcher,
        limits: Limits,
        on_answer: Callable[[WorkerQueue], None],
        on_lost_batches: Callable[[Sequence[Batch], Death], None],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self.replicas = [Replica(WorkerQueue(number)) for number in range(count)]
        self.manifest: Manifest | None = None
        self.started = threading.Event()
        self._make = make
        self._batcher = batcher
        self._limits = limits
        self._budget = RestartBudget(limits.max_restarts)
        self._on_answer, self._on_lost_batches, self._on_end = on_answer, on_lost_batches, on_end
        self._poll = Poll()
        with contextlib.ExitStack() as on_error, start_errors_in_words():
            hold_standard_streams()
            self._wake = Wake.create()
            on_error.callback(self._wake.close)
            self.completions = Completions(self._poll)
            on_error.pop_all()
        self._next_tick_s = 0.0
        self._looked_s = time.monotonic()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="trt-yolo-supervisor", daemon=True)

    def start(self) -> None:
        """Starts the thread, which starts the workers; `started` is set when they are ready, or it is over."""
        self._thread.start()

    def stop(self) -> None:
        """Asks the workers and the thread to end. Takes no lock: a destructor may call it at any moment."""
        self._stopping = True
        self.wake()

    def join(self) -> None:
        """Waits for the end; returns at once in the supervisor's own thread."""
        if self._thread.ident is not None and not self.completions.is_this_thread():
            self._thread.join()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or is ending."""
        return self._stopping or not self._thread.is_alive()

    def wake(self) -> None:
        """Wakes the thread: something may be due earlier than it expects."""
        with contextlib.suppress(OSError):  # over, and closed
            self._wake.signal()

    def mark_broken(self, queue: WorkerQueue, error: RingError) -> None:
        """Has a worker replaced whose memory something else wrote to. From any thread."""
        for replica in self.replicas:
            if replica.queue is queue:
                replica.broken = _corrupted(error)
        self.wake()

    def close_in_child(self) -> None:
        """Closes in a forked child what belongs to the parent, and tells the workers nothing."""
        for replica in self.replicas:
            if replica.worker is not None:
                with contextlib.suppress(OSError):
                    replica.worker.close()

    def _run(self) -> None:
        reason: Exception | None = None
        self.completions.supervisor = threading.get_ident()
        self._poll.listen(self._wake.fileno(), self._woken)
        try:
            while not self._stopping:
                now_s = time.monotonic()
                if now_s >= self._next_tick_s:
                    self._next_tick_s = self._tick(now_s)
                self._poll.wait(self._next_tick_s - time.monotonic())
        except TrtYoloError as error:
            reason = error
        except Exception as error:  # noqa: BLE001  nobody may wait for ever because of a bug in here
            _log.exception("the supervisor ended")
            reason = error
        finally:
            self._on_end(reason)
            self._stop_workers()
            self.started.set()

    def _woken(self) -> None:
        self._wake.take()
        self._next_tick_s = 0.0

    def _tick(self, now_s: float) -> float:
        """Does what is due; when to look again, monotonic seconds."""
        next_s = now_s + _TICK_S
        self._ignore_pause(now_s)
        self.completions.take_unattended()
        for replica in self.replicas:
            worker = replica.worker
            if worker is None and now_s >= replica.start_at_s:
                self._start_worker(replica, now_s)
            elif worker is None:
                next_s = min(next_s, replica.start_at_s)
            elif replica.broken is not None:
                self._retire(replica, replica.broken)
            elif not worker.is_ready and now_s >= replica.ready_by_s:
                limit_s = self._limits.start_timeout_s
                self._retire(replica, Death(f"was not ready after {limit_s:g} s (still {worker.doing})"))
            elif self._hangs(replica, now_s):
                self._retire(replica, Death(f"answered nothing for {self._limits.timeout_s:g} s"))
        due_s = self._batcher.send_due()
        return next_s if due_s is None else min(next_s, due_s)

    def _hangs(self, replica: Replica, now_s: float) -> bool:
        """Whether a worker has work, and has answered nothing for too long."""
        queue = replica.queue
        if not queue.in_flight or now_s - queue.since_s < self._limits.timeout_s:
            return False
        with contextlib.suppress(RingError):
            for batch in list(queue.in_flight.values()):
                if batch.slot.state in (State.DONE, State.FAILED):
                    return False  # it did answer: whoever should take the answer is busy
        return True

    def _ignore_pause(self, now_s: float) -> None:
        """Does not count time in which this program itself was stopped."""
        pause_s = now_s - self._looked_s
        self._looked_s = now_s
        if pause_s > _PAUSE_S:
            for replica in self.replicas:
                replica.queue.since_s += pause_s
                replica.ready_by_s += pause_s

    def _start_worker(self, replica: Replica, now_s: float) -> None:
        try:
            worker = self._make(replica.queue.number)
        except WorkerError as error:
            replica.bad_starts += 1
            self._replace_later(replica, Death(str(error)), error)
            return
        replica.worker, replica.broken = worker, None
        replica.ready_by_s = now_s + self._limits.start_timeout_s
        self._poll.listen(worker.fileno(), lambda: self._receive(replica, worker))
        self.completions.listen(worker.done, functools.partial(self._on_answer, replica.queue))

    def _receive(self, replica: Replica, worker: Worker) -> None:
        if replica.worker is not worker:
            return
        was_ready = worker.is_ready
        try:
            worker.receive()
        except WorkerGone as gone:
            self._retire(replica, gone.death, gone.error)
        except WorkerError as error:  # no memory for its ring
            self._retire(replica, Death(str(error)), error)
        else:
            if worker.is_ready and not was_ready:
                self._admit(replica, worker)

    def _admit(self, replica: Replica, worker: Worker) -> None:
        if self.manifest is not None and self.manifest != worker.manifest:
            self._retire(replica, Death("loads another model than before: the file has changed"))
            return
        self.manifest = worker.manifest
        if worker.about:
            facts = ", ".join(f"{name} {value}" for name, value in worker.about.items())
            _log.info("worker %d is ready: %s", replica.queue.number, facts)
        replica.bad_starts = 0
        replica.queue.notify, replica.queue.at_once = worker.ready.signal, worker.at_once
        assert worker.ring is not None
        self._batcher.open_queue(replica.queue, worker.ring)
        self.completions.nudge()  # whoever waits for room
        if all(other.worker is not None and other.worker.is_ready for other in self.replicas):
            self.started.set()

    def _retire(self, replica: Replica, death: Death, error: Exception | None = None) -> None:
        """Ends a worker, gives back the batches that it had, and has it replaced."""
        worker = replica.worker
        assert worker is not None
        self._poll.ignore(worker.fileno())
        worker.kill()
        worker.join(_REAP_S)
        with self.completions.exclusively():
            self.completions.ignore(worker.done.fileno())
            if not death.is_corrupt:
                self._on_answer(replica.queue)  # what it answered before it ended
            lost = self._batcher.close_queue(replica.queue)
            worker.close()
            replica.worker = None
        if not worker.is_ready:
            replica.bad_starts += 1
        self._on_lost_batches(lost, death)
        self._replace_later(replica, death, error)

    def _replace_later(self, replica: Replica, death: Death, error: Exception | None) -> None:
        """Decides when the next worker is started.

        Raises:
            TrtYoloError: Not at all: the worker could not even start at first, or was replaced too often.
        """
        number, now_s = replica.queue.number, time.monotonic()
        if not self.started.is_set():
            raise error or WorkerError(
                f"worker {number} {death.cause} while it started; see its last lines above"
            )
        nobody = not any(other.worker is not None and other.worker.is_ready for other in self.replicas)
        if nobody and replica.bad_starts >= _HOPELESS_STARTS:
            raise WorkerError(f"no worker can start any more; worker {number} {death.cause}") from error
        if not self._budget.spend(now_s):
            raise WorkerError(
                f"workers were replaced more than {self._budget.most} times within a minute; the last one, "
                f"worker {number}, {death.cause}"
            ) from error
        if replica.queue.has_answered:
            replica.failures = 0
        replica.queue.has_answered = False
        wait_s = back_off_s(replica.failures)
        replica.failures += 1
        replica.restarts += 1
        replica.start_at_s = now_s + wait_s
        self._next_tick_s = 0.0
        _log.warning("worker %d %s; it is replaced, its frames run again", number, death.cause)

    def _stop_workers(self) -> None:
        """Stops all workers; kills those that do not leave in time."""
        workers = [replica.worker for replica in self.replicas if replica.worker is not None]
        for worker in workers:
            if worker.is_ready:
                worker.stop()
            else:
                worker.kill()  # one that still loads hears nothing, and has nothing to lose
        until_s = time.monotonic() + _STOP_S
        for worker in workers:
            if not worker.join(max(0.0, until_s - time.monotonic())):
                worker.kill()
                worker.join(_REAP_S)
        with self.completions.exclusively():
            for replica in self.replicas:
                if replica.worker is not None:
                    self._poll.ignore(replica.worker.fileno())
                    self.completions.ignore(replica.worker.done.fileno())
                    replica.worker.close()
                replica.worker = None
                replica.queue.slots = ()
        self.completions.close()
        self._wake.close()


def _corrupted(error: RingError) -> Death:
    return Death(f"shares memory that something wrote to: {error}", is_corrupt=True)
