"""Runs a source of images through the pool: read ahead, bounded, in order, or the freshest only.

Enters: anything that yields images, read in a thread of its own. Leaves: one `Result` a frame, to the consumer,
in whose pace frames are let in. Knows no workers and no slots.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from trt_yolo.errors import ImageError, InputError
from trt_yolo.media.sources import is_video
from trt_yolo.media.video import read_video
from trt_yolo.runtime.job import Image, Job, Thresholds, VideoFrame, source_of
from trt_yolo.runtime.pool import Pool
from trt_yolo.runtime.results import Result, StreamOptions

_CHECK_S = 1.0
_READ_AHEAD = 8


class Stream:
    """The frames between a source and its consumer.

    The reader calls `offer` for each frame and `end` at last; the consumer calls `take`. Both may be the same
    thread, or an event loop.

    Args:
        pool: What runs them.
        thresholds: Which detections to return.
        options: How it behaves.
    """

    def __init__(self, pool: Pool, thresholds: Thresholds, options: StreamOptions) -> None:
        self.completions = pool.completions
        self._pool = pool
        self._thresholds = thresholds
        self._options = options
        batch = pool.batch
        in_live = max(1, pool.options.all_workers) * 2 * batch  # each worker: one batch runs, one is ready
        in_file = pool.capacity + batch + _READ_AHEAD
        self._most = options.in_flight or (in_file if options.policy == "block" else in_live)
        self._backlog = batch
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._waiting: collections.deque[Job] = collections.deque()
        self._answered: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._early: dict[int, Job] = {}
        self._sent = self._taken = self._read = self._dropped = 0
        self._ended = self._stopped = False
        self._is_pulled = False
        self._pull: Iterator[object] | None = None
        self._spare: list[Job] = []
        self._error: BaseException | None = None
        self.on_news: Callable[[], None] = _nothing

    def offer(self, item: object, *, wait: bool = True) -> bool:
        """Accepts a frame, or waits or drops one, as the policy says.

        Args:
            item: (H, W, 3) uint8 BGR, the path of an image file, or a frame of a video.
            wait: Whether to wait for room where the policy is `block`.

        Returns:
            Whether the stream goes on and the frame was dealt with; False only without `wait`, or at its end.
        """
        with self._lock:
            while self._is_full() and not self._stopped:
                if self._options.policy == "drop-newest":
                    self._read += 1
                    self._drop()
                    return True
                if self._options.policy == "drop-oldest":
                    self._waiting.popleft()
                    self._drop()
                elif not wait:
                    return False
                else:
                    self._room.wait(_CHECK_S)
            if self._stopped:
                return False
            job = self._job(item)
            self._read += 1
            here = wait and self._options.policy == "block" and not isinstance(job.source, Path)
            if here:
                job.order = self._sent
                self._sent += 1
                self._note()
            else:
                self._waiting.append(job)
                self._pump()
        if here:
            self._fill(job)
        return True

    def frames_of(self, item: object) -> Iterator[VideoFrame] | None:
        """A video's frames, and, if it is bad, its error at last; None if the item is no video."""
        return self._video(Path(item)) if isinstance(item, str | Path) and is_video(item) else None

    def _video(self, path: Path) -> Iterator[VideoFrame]:
        try:
            frames = read_video(path, decoder=self._pool.options.decoder, device=self._pool.device)
            for number, image in enumerate(frames):
                yield VideoFrame(path, number, image)
        except ImageError as error:
            yield VideoFrame(path, error=error)

    def _is_full(self) -> bool:
        if self._options.policy == "block":
            return self._sent - self._taken + len(self._waiting) >= self._most
        return len(self._waiting) >= self._backlog

    def _fill(self, job: Job) -> None:
        """Letterboxes in the reader's thread, which saves the way to another; waits while all slots are full."""
        if job.error is not None:
            self._answer(job)
            return
        try:
            self._pool.fill(job)
        except Exception as error:  # noqa: BLE001  closed: the consumer hears it
            job.fail(error)
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Ends the stream because the pool is closed: the consumer gets the error at last."""
        self._waiting.clear()
        self._stopped = self._ended = True
        self._error = self._error or error
        self._answered.put(None)

    def end(self, error: BaseException | None = None) -> None:
        """Marks the end of the source; its error, if it failed, comes after the last result."""
        with self._lock:
            self._ended, self._error = True, self._error or error
        self._answered.put(None)
        self.completions.nudge()
        self.on_news()

    def stop(self) -> None:
        """Stops the reader; the consumer wants no more results."""
        with self._lock:
            self._stopped = self._ended = True
            self._waiting.clear()
            self._room.notify_all()
        self._note()

    @property
    def blocks(self) -> bool:
        """Whether a slow consumer makes the source wait."""
        return self._options.policy == "block"

    @property
    def is_stopped(self) -> bool:
        """Whether the consumer wants no more."""
        return self._stopped

    def take(self, *, wait: bool = True) -> Result | None:
        """The next result; None at the end of the stream, or, without `wait`, if there is none yet.

        Raises:
            ClosedError: The model was closed meanwhile.
            BaseException: What the source raised, after its last frame.
        """
        while True:
            self._top_up()
            job = self._early.pop(self._taken, None)
            if job is not None:
                return self._result(job)
            if self.is_exhausted:
                if self._error is not None:
                    raise self._error
                return None
            job = self._next_answer(wait)
            if job is not None:
                self._early[job.order if self._options.ordered else self._taken] = job
            elif not wait and self._answered.empty():
                self._pool.refuse_if_over()
                return None
            elif self._answered.empty():
                self._pool.refuse_if_over()

    def _next_answer(self, wait: bool) -> Job | None:
        if wait:
            return self._pool.next_ended(self._answered, or_room=bool(self._spare))
        with contextlib.suppress(queue.Empty):
            return self._answered.get_nowait()
        return None

    def pull_from(self, source: Iterator[object]) -> None:
        """Has the consumer's thread read the source itself: for a source that never makes it wait."""
        self._pull, self._is_pulled = source, True

    def _top_up(self) -> None:
        """Fills slots from a source that is pulled, in whole batches, as long as that needs no waiting."""
        while True:
            if not self._spare:
                if self._pull is None or self._sent - self._taken >= self._most:
                    return
                self._read_batch()
            elif isinstance(self._spare[0].source, Path):
                self._pool.put([self._spare.pop(0)])
            elif self._pool.batcher.has_room():
                arrays = list(itertools.takewhile(lambda job: not isinstance(job.source, Path), self._spare))
                if not self._pool.fill_together(arrays, wait=False):
                    return
                del self._spare[: len(arrays)]
            else:
                return

    def _read_batch(self) -> None:
        """Reads at most one batch from a source that is pulled."""
        assert self._pull is not None
        before = self._sent
        most = min(self._backlog, self._most - (self._sent - self._taken))
        for item in itertools.islice(self._pull, most):
            job = self._job(item)
            job.order = self._sent
            self._sent += 1
            self._read += 1
            if job.error is not None:
                self._on_end(job)
            else:
                self._spare.append(job)
        if self._sent == before:
            self._pull = None
            self.end()

    @property
    def is_exhausted(self) -> bool:
        """Whether every frame was taken and none will come."""
        with self._lock:
            return self._ended and not self._waiting and self._taken >= self._sent

    def _result(self, job: Job) -> Result:
        if self._is_pulled:
            self._taken += 1
            return Result(job)
        with self._lock:
            self._taken += 1
            self._pump()
            if self._options.policy == "block" and self._sent - self._taken <= self._most // 2:
                self._room.notify()  # not at every frame: waking a thread costs more than a frame
        return Result(job)

    def _job(self, item: object) -> Job:
        source: Image | Path = _NOTHING
        video: Path | None = None
        number: int | None = None
        error: InputError | None = None
        if isinstance(item, VideoFrame):
            video, number, error, item = item.path, item.number, item.error, item.image
        if error is None:
            try:
                source = source_of(item)
            except InputError as wrong:
                error = wrong
        return Job(
            source=source,
            video=video,
            number=number,
            thresholds=self._thresholds,
            on_end=self._on_end,
            index=self._read,
            keep_image=self._options.keep_images,
            error=error,
        )

    def _pump(self) -> None:
        """Sends what may be under way; the lock is held."""
        ready = []
        while self._waiting and self._sent - self._taken < self._most:
            job = self._waiting.popleft()
            job.order = self._sent
            self._sent += 1
            if job.error is None:
                ready.append(job)
            else:
                self._answer(job)
        if ready:
            try:
                self._pool.put(ready)
            except Exception as error:  # noqa: BLE001  closed: the consumer hears it
                for job in ready:
                    job.fail(error)
                self._give_up(error)
            self._note()

    def _on_end(self, job: Job) -> None:
        self._answered.put(job)
        self.on_news()

    def _answer(self, job: Job) -> None:
        """Hands over a job that never reached the pool; the pool wakes the consumer for all others."""
        self._on_end(job)
        self.completions.nudge()

    def _drop(self) -> None:
        self._dropped += 1
        self._note(newly_dropped=True)

    def _note(self, *, newly_dropped: bool = False) -> None:
        if newly_dropped or self._options.name is not None:
            self._pool.ledger.note_source(
                self._options.name, frames=self._read, dropped=self._dropped, newly_dropped=newly_dropped
            )


_NOTHING = np.zeros((0, 0, 3), np.uint8)


def _nothing() -> None:
    pass
