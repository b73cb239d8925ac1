"""Keeps workers alive: starts them, hears them, replaces those that end or hang, and stops them.

One thread waits for everything at once: answers, messages, processes that end, deadlines. Knows no images: what
a worker had in hand when it ended is given to the pool.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.errors import TrtYoloError, WorkerError
from trt_yolo.runtime.batch import Batch, Lane
from trt_yolo.runtime.batcher import Batcher
from trt_yolo.runtime.completions import Answers, Poll
from trt_yolo.runtime.ipc import Wake
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
class Patience:
    """How long workers are waited for, and how often replaced.

    Attributes:
        timeout_s: A worker that answers nothing for so long while it has work is replaced, in seconds.
        start_timeout_s: A worker must be ready after so long, in seconds.
        max_restarts: More replacements than that within a minute close the pool.
    """

    timeout_s: float
    start_timeout_s: float
    max_restarts: int


@dataclass(eq=False, slots=True)
class Post:
    """A worker's place, whoever fills it now.

    Attributes:
        lane: The way to it.
        worker: Who fills it; None while it is vacant.
        start_at_s: When the next worker is started, monotonic.
        ready_by_s: When the worker must be ready, monotonic.
        failures: Workers in a row that ended before they answered anything.
        bad_starts: Workers in a row that ended before they were ready.
        restarts: How often it was filled anew.
        broken: Why the worker must be replaced, although it lives.
    """

    lane: Lane
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
        """Notes one; whether it is allowed."""
        self._times.append(now_s)
        while now_s - self._times[0] > _MINUTE_S:
            self._times.popleft()
        return len(self._times) <= self.most


def back_off_s(failures: int) -> float:
    """How long to wait before a worker is replaced, in seconds, after so many that came to nothing."""
    doublings = min(failures - 1, _MOST_DOUBLINGS)
    return min(_FIRST_BACK_OFF_S * 2**doublings, _LONGEST_BACK_OFF_S) if failures else 0.0


class Supervisor:
    """The thread that keeps workers alive.

    Args:
        make: Starts the worker of that number.
        count: How many workers.
        batcher: Whose lanes they serve.
        patience: How long they are waited for.
        on_answer: Called when a worker has answered something; reads all answers of that lane. It may raise
            RingError.
        on_orphans: Called with the batches of a worker that ended, and why.
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
        patience: Patience,
        on_answer: Callable[[Lane], None],
        on_orphans: Callable[[Sequence[Batch], Death], None],
        on_end: Callable[[Exception | None], None],
    ) -> None:
        self.posts = [Post(Lane(number)) for number in range(count)]
        self.manifest: Manifest | None = None
        self.started = threading.Event()
        self._make = make
        self._batcher = batcher
        self._patience = patience
        self._budget = RestartBudget(patience.max_restarts)
        self._on_answer, self._on_orphans, self._on_end = on_answer, on_orphans, on_end
        self._poll = Poll()
        with contextlib.ExitStack() as on_error, start_errors_in_words():
            hold_standard_streams()
            self._wake = Wake.create()
            on_error.callback(self._wake.close)
            self.answers = Answers(self._poll)
            on_error.pop_all()
        self._next_tick_s = 0.0
        self._looked_s = time.monotonic()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="trt-yolo-supervisor", daemon=True)

    def start(self) -> None:
        """Starts the thread, which starts the workers; `started` is set when they are ready, or it is over."""
        self._thread.start()

    def stop(self) -> None:
        """Asks for the end. Takes no lock: a destructor may call it in the middle of anything."""
        self._stopping = True
        self.hurry()

    def join(self) -> None:
        """Waits for the end; returns at once in the supervisor's own thread."""
        if self._thread.ident is not None and not self.is_this_thread():
            self._thread.join()

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or is ending."""
        return self._stopping or not self._thread.is_alive()

    def hurry(self) -> None:
        """Something may be due earlier than expected."""
        with contextlib.suppress(OSError):  # over, and closed
            self._wake.signal()

    def is_this_thread(self) -> bool:
        """Whether the caller runs in the thread that would have to answer, and must not wait for itself."""
        return threading.get_ident() in (self._thread.ident, self.answers.taker)

    def break_off(self, lane: Lane, error: RingError) -> None:
        """A lane's memory was written to by something else: its worker is replaced soon. From any thread."""
        for post in self.posts:
            if post.lane is lane:
                post.broken = _scribbled(error)
        self.hurry()

    def forget(self) -> None:
        """In a forked child: lets go of what belongs to the parent, without a word to the workers."""
        for post in self.posts:
            if post.worker is not None:
                with contextlib.suppress(OSError):
                    post.worker.close()

    def _run(self) -> None:
        reason: Exception | None = None
        self._poll.listen(self._wake.fileno(), self._hurried)
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
            self._dismiss()
            self.started.set()

    def _hurried(self) -> None:
        self._wake.take()
        self._next_tick_s = 0.0

    def _tick(self, now_s: float) -> float:
        """Does what is due; when to look again, monotonic seconds."""
        next_s = now_s + _TICK_S
        self._forgive_pause(now_s)
        self.answers.take_forgotten()
        for post in self.posts:
            worker = post.worker
            if worker is None and now_s >= post.start_at_s:
                self._fill(post, now_s)
            elif worker is None:
                next_s = min(next_s, post.start_at_s)
            elif post.broken is not None:
                self._bury(post, post.broken)
            elif not worker.is_ready and now_s >= post.ready_by_s:
                limit_s = self._patience.start_timeout_s
                self._bury(post, Death(f"was not ready after {limit_s:g} s (still {worker.doing})"))
            elif self._hangs(post, now_s):
                self._bury(post, Death(f"answered nothing for {self._patience.timeout_s:g} s"))
        due_s = self._batcher.send_due()
        return next_s if due_s is None else min(next_s, due_s)

    def _hangs(self, post: Post, now_s: float) -> bool:
        """Whether a worker has work, and has answered nothing for too long."""
        lane = post.lane
        if not lane.in_flight or now_s - lane.since_s < self._patience.timeout_s:
            return False
        with contextlib.suppress(RingError):
            for batch in list(lane.in_flight.values()):
                if batch.slot.state in (State.DONE, State.FAILED):
                    return False  # it did answer: whoever should take the answer is busy
        return True

    def _forgive_pause(self, now_s: float) -> None:
        """Time in which this program itself was stopped is nobody's fault."""
        pause_s = now_s - self._looked_s
        self._looked_s = now_s
        if pause_s > _PAUSE_S:
            for post in self.posts:
                post.lane.since_s += pause_s
                post.ready_by_s += pause_s

    def _fill(self, post: Post, now_s: float) -> None:
        try:
            worker = self._make(post.lane.number)
        except WorkerError as error:
            post.bad_starts += 1
            self._replace_later(post, Death(str(error)), error)
            return
        post.worker, post.broken = worker, None
        post.ready_by_s = now_s + self._patience.start_timeout_s
        self._poll.listen(worker.fileno(), lambda: self._hear(post, worker))
        self.answers.listen(worker.done.fileno(), lambda: self._answered(post, worker))

    def _hear(self, post: Post, worker: Worker) -> None:
        if post.worker is not worker:
            return
        was_ready = worker.is_ready
        try:
            worker.hear()
        except WorkerGone as gone:
            self._bury(post, gone.death, gone.error)
        except WorkerError as error:  # no memory for its ring
            self._bury(post, Death(str(error)), error)
        else:
            if worker.is_ready and not was_ready:
                self._welcome(post, worker)

    def _welcome(self, post: Post, worker: Worker) -> None:
        if self.manifest is not None and self.manifest != worker.manifest:
            self._bury(post, Death("loads another model than before: the file has changed"))
            return
        self.manifest = worker.manifest
        if worker.about:
            facts = ", ".join(f"{name} {value}" for name, value in worker.about.items())
            _log.info("worker %d is ready: %s", post.lane.number, facts)
        post.bad_starts = 0
        post.lane.notify, post.lane.at_once = worker.notify, worker.at_once
        assert worker.ring is not None
        self._batcher.open_lane(post.lane, worker.ring)
        self.answers.nudge()  # whoever waits for room
        if all(other.worker is not None and other.worker.is_ready for other in self.posts):
            self.started.set()

    def _answered(self, post: Post, worker: Worker) -> None:
        """In the supervisor's thread or in one that waits for an answer; never in two at once."""
        if post.worker is not worker:
            return
        try:
            worker.done.take()
            self._on_answer(post.lane)
        except RingError as error:
            self.break_off(post.lane, error)
        except BaseException:  # Ctrl-C in the thread that waits: somebody else must look again
            worker.done.signal()
            raise
        else:
            post.failures = 0

    def _bury(self, post: Post, death: Death, error: Exception | None = None) -> None:
        """Ends a worker for good; what it had goes back to the pool, and its post will be filled again."""
        worker = post.worker
        assert worker is not None
        self._poll.ignore(worker.fileno())
        worker.kill()
        worker.join(_REAP_S)
        with self.answers.exclusively():
            self.answers.ignore(worker.done.fileno())
            if not death.is_torn:
                with contextlib.suppress(RingError):
                    self._on_answer(post.lane)  # what it answered before it ended
            orphans = self._batcher.shut_lane(post.lane)
            worker.close()
            post.worker = None
        if not worker.is_ready:
            post.bad_starts += 1
        self._on_orphans(orphans, death)
        self._replace_later(post, death, error)

    def _replace_later(self, post: Post, death: Death, error: Exception | None) -> None:
        """Decides when the post is filled again.

        Raises:
            TrtYoloError: Not at all: the worker could not even start at first, or was replaced too often.
        """
        number, now_s = post.lane.number, time.monotonic()
        if not self.started.is_set():
            raise error or WorkerError(
                f"worker {number} {death.cause} while it started; see its last lines above"
            )
        nobody = not any(other.worker is not None and other.worker.is_ready for other in self.posts)
        if nobody and post.bad_starts >= _HOPELESS_STARTS:
            raise WorkerError(f"no worker can start any more; worker {number} {death.cause}") from error
        if not self._budget.spend(now_s):
            raise WorkerError(
                f"workers were replaced more than {self._budget.most} times within a minute; the last one, "
                f"worker {number}, {death.cause}"
            ) from error
        wait_s = back_off_s(post.failures)
        post.failures += 1
        post.restarts += 1
        post.start_at_s = now_s + wait_s
        self._next_tick_s = 0.0
        _log.warning("worker %d %s; it is replaced, its frames run again", number, death.cause)

    def _dismiss(self) -> None:
        """Stops all workers, those that do not leave by force."""
        workers = [post.worker for post in self.posts if post.worker is not None]
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
        with self.answers.exclusively():
            for post in self.posts:
                if post.worker is not None:
                    self._poll.ignore(post.worker.fileno())
                    self.answers.ignore(post.worker.done.fileno())
                    post.worker.close()
                post.worker = None
                post.lane.slots = ()
        self.answers.close()
        self._wake.close()


def _scribbled(error: RingError) -> Death:
    return Death(f"shares memory that something wrote to: {error}", is_torn=True)
