"""Decodes and letterboxes images into slots: files in decode threads, arrays in the caller's own.

Enters: jobs. Leaves: frames, letterboxed straight into shared memory, in batches that are on their way. Knows no
workers; a job that cannot be decoded or letterboxed is given to `on_failure`.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from trt_yolo.errors import ClosedError, ImageError
from trt_yolo.media.images import Decode
from trt_yolo.runtime.batcher import Batcher, Place
from trt_yolo.runtime.job import Image, Job
from trt_yolo.system.exit import await_at_exit
from trt_yolo.vision.letterbox import fit_letterbox, letterbox_into

_CHECK_S = 1.0


class Feeder:
    """The decode threads, started with the first file, and the same work in callers' threads.

    Args:
        batcher: Gives places in slots.
        threads: How many decode threads.
        decode: What decodes files.
        take_answers: Lets the caller's thread take answers until a condition holds; False if another one does.
        on_failure: Ends a job with an error.
    """

    def __init__(
        self,
        batcher: Batcher,
        *,
        threads: int,
        decode: Decode,
        take_answers: Callable[[Callable[[], bool]], bool],
        on_failure: Callable[[Job, Exception], None],
    ) -> None:
        self._batcher = batcher
        self._count = threads
        self._decoder = decode
        self._take_answers = take_answers
        self._fail = on_failure
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def put(self, jobs: Sequence[Job]) -> None:
        """Queues jobs for the decode threads; does not wait."""
        self._start()
        with self._lock:  # a group in one piece: or decode threads could wait for each other's places
            for job in jobs:
                self._queue.put(job)

    def fill(self, job: Job, *, helps: bool) -> None:
        """Decodes and letterboxes one job in the caller's thread, which waits for a place.

        Args:
            job: What is to be done.
            helps: Whether the caller takes answers while it waits.
        """
        try:
            if job.frame is None:
                job.load(self._decoder)
            place = self._batcher.reserve(job, timeout_s=0 if helps else None)
            while place is None:
                taking = self._take_answers(self._batcher.has_room)
                place = self._batcher.reserve(job, timeout_s=0 if taking else _CHECK_S)
        except BaseException as error:
            self._batcher.withdraw(job)
            self._fail(job, _as_exception(error))
            if not isinstance(error, Exception):
                raise
            return
        self._write(job, place)

    def fill_together(self, jobs: Sequence[Job], *, wait: bool) -> bool:
        """Letterboxes arrays that make one batch, in the caller's thread.

        Args:
            jobs: From 1 to the largest batch, of the same thresholds, their sources arrays.
            wait: Whether to take answers until a slot is free; else False, and the jobs are as they were.

        Raises:
            ClosedError: Closed meanwhile; or the error that closed it.
        """
        batch = self._batcher.reserve_together(jobs, timeout_s=0)
        while batch is None and wait:
            taking = self._take_answers(self._batcher.has_room)
            batch = self._batcher.reserve_together(jobs, timeout_s=0 if taking else _CHECK_S)
        if batch is None:
            return False
        written = 0
        try:
            for job in jobs:
                error = _letterbox(job, batch.slot.frames[written], batch.slot.letterboxed_hw)
                if error is not None:
                    batch.jobs[written] = None
                    self._fail(job, error)
                written += 1
        finally:
            for number in range(written, len(jobs)):  # interrupted
                batch.jobs[number] = None
                self._fail(jobs[number], ClosedError("interrupted"))
            self._batcher.commit_together(batch)
        return True

    def stop(self) -> None:
        """Ends the decode threads, each after the file that it has in hand; what is in the queue has failed."""
        with self._lock:
            self._stopped = True
            for _ in self._threads:
                self._queue.put(None)

    def _start(self) -> None:
        if self._threads:
            return
        with self._lock:
            while len(self._threads) < self._count and not self._stopped:
                name = f"trt-yolo-decode-{len(self._threads)}"
                thread = threading.Thread(target=self._decode, name=name, daemon=True)
                self._threads.append(thread)
                await_at_exit(thread, self.stop)
                thread.start()

    def _decode(self) -> None:
        while (job := self._queue.get()) is not None and not self._stopped:
            self.fill(job, helps=False)
            del job  # and its pixels

    def _write(self, job: Job, place: Place) -> None:
        """Letterboxes a job into its place."""
        try:
            error = _letterbox(job, place.frame, place.batch.slot.letterboxed_hw)
        except BaseException:
            self._batcher.abandon(place)
            self._fail(job, ClosedError("interrupted"))
            raise
        if error is None:
            self._batcher.commit(place)
        else:
            self._batcher.abandon(place)
            self._fail(job, error)


def _letterbox(job: Job, frame: Image, letterboxed_hw: tuple[int, int] | None) -> Exception | None:
    """Writes a job's image to where it belongs, letterboxed, or as it is where the graph letterboxes to that size.

    What went wrong, or None.
    """
    start_s = time.perf_counter()
    try:
        if job.frame is not None:
            frame[:] = job.frame
            return None
        image = job.load()
        if letterboxed_hw is None:
            job.letterbox = fit_letterbox(image.shape[:2], frame.shape[:2])
            letterbox_into(image, frame, job.letterbox)
        else:
            job.letterbox = fit_letterbox(frame.shape[:2], letterboxed_hw)
            _copy(image, frame, job.label)
    except Exception as error:  # noqa: BLE001  whatever it is, it is this job's end
        return error
    job.letterbox_ms = (time.perf_counter() - start_s) * 1e3
    job.release_pixels()
    return None


def _copy(image: Image, frame: Image, label: str) -> None:
    if image.shape != frame.shape:
        (height, width), (rows, columns) = image.shape[:2], frame.shape[:2]
        raise ImageError(
            f"{label} is {height}x{width} pixels, and this model takes frames of {rows}x{columns} alone, which "
            "its graph letterboxes; give such frames, or a model that was exported without --letterbox gpu"
        )
    np.copyto(frame, image)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else ClosedError("interrupted")
