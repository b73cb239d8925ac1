"""Workers and the threads that feed them: takes jobs from any thread and ends each exactly once.

    caller or reader ──put──> decode threads ──┐ letterbox into a place  ┌── worker 0 (process or thread)
    caller ───────────fill─────────────────────┴──> slots of a ring  ────┼── worker 1
                                                                         └── ...
    on_end of each job <── supervisor's thread: rows out of the slot, slot free again, Detections

Enters: jobs. Leaves: jobs that have ended. Knows no sources, no streams and no files to write.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import time
import weakref
from collections.abc import Sequence
from queue import Empty, SimpleQueue
from typing import TypeVar

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.detections import Detections
from trt_yolo.errors import ClosedError, TrtYoloError, WorkerError
from trt_yolo.hardware.cores import default_decode_threads, usable_cpus
from trt_yolo.hardware.nvml import gpu_readings
from trt_yolo.media.decoders import decoder_for
from trt_yolo.runtime.batcher import Batch, Batcher, WorkerQueue
from trt_yolo.runtime.feeder import Feeder
from trt_yolo.runtime.inline import WorkerThread
from trt_yolo.runtime.job import Job, detections_of_batch
from trt_yolo.runtime.options import RuntimeOptions
from trt_yolo.runtime.process import RingOptions, Worker, WorkerProcess
from trt_yolo.runtime.retry import Retry, saved_jobs
from trt_yolo.runtime.ring import Answer, RingError
from trt_yolo.runtime.stats import Ledger, Stats
from trt_yolo.runtime.supervisor import Limits, Supervisor
from trt_yolo.runtime.worker import BackendSpec, WorkerSpec

_CHECK_S = 1.0
_LOOK_AGAIN_S = 0.02

T = TypeVar("T")


class Pool:
    """The workers of a model, and the threads that feed them. Made by `trt_yolo.load`, driven by `Model`.

    Attributes:
        options: How many workers there are, and how they are laid out.
        device: The first GPU of its workers, as CUDA counts; 0 where they have none.

    Args:
        backend: What the workers run.
        options: How many of them, and how.

    Raises:
        TrtYoloError: The worker's own error, where it cannot start.
    """

    def __init__(self, backend: BackendSpec, options: RuntimeOptions) -> None:
        self.options = options
        self.device = next(iter(backend.devices), 0)
        self._pid = os.getpid()
        self._folder = _working_directory()
        self._is_copy = False
        self._backend = backend
        self._shares = options.shares()
        self._jobs: set[Job] = set()
        self._idle = threading.Event()
        self._closing: Exception | None = None
        self._is_over = False
        self.ledger = Ledger(len(self._shares))
        self._retry = Retry(again=self._requeue, on_failure=self._fail)
        self.batcher = Batcher(
            max_delay_s=options.max_delay_ms / 1e3,
            on_lost=self._retry.unsent,
            on_waiting=lambda: self._supervisor.wake(),
            on_broken=lambda queue, error: self._supervisor.mark_broken(queue, error),
        )
        self._supervisor = Supervisor(
            self._worker,
            len(self._shares),
            batcher=self.batcher,
            limits=Limits(
                timeout_s=options.timeout_s,
                start_timeout_s=options.start_timeout_s,
                max_restarts=options.max_restarts,
            ),
            on_answer=self._answered,
            on_lost_batches=self._retry.lost,
            on_end=self._ended,
        )
        self.completions = self._supervisor.completions
        self._feeder = Feeder(
            self.batcher,
            threads=options.decode_threads or default_decode_threads(usable_cpus().count),
            decode=decoder_for(options.decoder, device=self.device),
            take_answers=self.completions.wait,
            on_failure=self._fail,
        )
        _POOLS.add(self)
        self._supervisor.start()
        self._await_start()

    @property
    def manifest(self) -> Manifest:
        """What the workers have loaded."""
        manifest = self._supervisor.manifest
        assert manifest is not None
        return manifest

    @property
    def threads(self) -> int:
        """CPU threads of one inference, of the first worker."""
        return self._shares[0][1]

    @property
    def batch(self) -> int:
        """The most frames a batch."""
        return self.options.max_batch or self.manifest.batch.maximum

    @property
    def capacity(self) -> int:
        """Frames that fit into all slots of all workers."""
        return len(self._supervisor.replicas) * self.options.slots * self.batch

    def put(self, jobs: Sequence[Job]) -> None:
        """Queues jobs for the decode threads; does not wait. Bounding them is the caller's work.

        Raises:
            ClosedError: The pool is closed.
            WorkerError: This process was forked from the one that made the pool.
        """
        self._check()
        self._jobs.update(jobs)
        self._feeder.put(jobs)
        self._end_if_over(jobs)

    def next_ended(self, ended: SimpleQueue[T], *, or_room: bool = False) -> T | None:
        """The next of the caller's jobs to end, from the queue that `on_end` fills; None: look again.

        Args:
            ended: Where it comes.
            or_room: Whether a free slot is a reason to look again too.
        """

        def is_done() -> bool:
            return not ended.empty() or (or_room and self.batcher.has_room())

        if not is_done() and not self.completions.wait(is_done):
            with contextlib.suppress(Empty):
                return ended.get(timeout=_LOOK_AGAIN_S if or_room else _CHECK_S)
        with contextlib.suppress(Empty):
            return ended.get_nowait()
        return None

    def fill_together(self, jobs: Sequence[Job], *, wait: bool) -> bool:
        """Letterboxes arrays that make one batch, in the caller's thread, a `helper`.

        Args:
            jobs: From 1 to the model's largest batch, of the same thresholds, their sources arrays.
            wait: Whether to take answers until a slot is free; else False, and the jobs are as they were.

        Raises:
            ClosedError: The pool is closed.
            WorkerError: This process was forked from the one that made the pool.
        """
        self._check()
        self._jobs.update(jobs)
        try:
            is_filled = self._feeder.fill_together(jobs, wait=wait)
        except BaseException:
            for job in jobs:
                self._fail(job, ClosedError("interrupted"))
            raise
        if not is_filled:
            self._jobs.difference_update(jobs)
        self._end_if_over(jobs)
        return is_filled

    def fill(self, job: Job, *, helps: bool = False) -> None:
        """Decodes and letterboxes one job in the caller's thread, which waits for a place.

        Args:
            job: What is to be done.
            helps: Whether the caller is a `helper`, and takes answers while it waits.

        Raises:
            ClosedError: The pool is closed.
            WorkerError: This process was forked from the one that made the pool.
        """
        self._check()
        self._jobs.add(job)
        self._feeder.fill(job, helps=helps)

    def refuse_if_over(self) -> None:
        """Raises what closed the pool, if nothing will be answered any more."""
        if self._is_over:
            self._check()

    @property
    def ready_pids(self) -> list[int]:
        """Processes of the workers that take frames now."""
        workers = [replica.worker for replica in self._supervisor.replicas]
        return [worker.pid for worker in workers if worker is not None and worker.is_ready]

    def stats(self) -> Stats:
        """What has been done so far."""
        gpus = gpu_readings(self._backend.devices) if self._backend.devices else ()
        return self.ledger.stats(self._supervisor.replicas, waiting=len(self._jobs), gpus=gpus)

    def close(self, *, drain: bool = True) -> None:
        """Ends the workers and gives everything back; calling twice is fine.

        Args:
            drain: First let the jobs end that are under way; else they end with ClosedError.
        """
        if self._is_copy:
            return  # a forked child: nothing here is its own
        if drain and self._closing is None and not self.completions.is_this_thread():
            self._drain()
        self._supervisor.stop()
        self._supervisor.join()

    def abandon(self) -> None:
        """Asks the workers to end, without waiting. Takes no lock: for destructors."""
        if not self._is_copy:
            self._supervisor.stop()

    def close_in_child(self) -> None:
        """Closes what a forked child has inherited; nothing here is its own."""
        self._is_copy = True
        self._supervisor.close_in_child()

    def _await_start(self) -> None:
        try:
            while not self._supervisor.started.wait(_CHECK_S):
                pass
        except BaseException:
            self.abandon()
            raise
        if self._closing is not None:
            self._supervisor.join()
            raise self._closing

    def _worker(self, number: int) -> Worker:
        cores, threads = self._shares[number]
        ring = RingOptions(slots=self.options.slots, max_batch=self.options.max_batch)
        spec = WorkerSpec(
            backend=self._backend.of_worker(number), threads=threads, cores=cores, folder=self._folder
        )
        if self.options.workers == 0:
            return WorkerThread(spec, ring=ring)
        return WorkerProcess(spec, ring=ring)

    def _check(self) -> None:
        if self._is_copy:
            raise WorkerError(
                f"this model was loaded in process {self._pid} and process {os.getpid()} was forked from it; "
                "load it after the fork (gunicorn: in post_fork, or without preload_app)"
            )
        if self._closing is not None:
            raise _again_as_new(self._closing)

    def _answered(self, queue: WorkerQueue) -> None:
        """Takes every answer of a worker out of its slot, frees the slot, and ends the jobs."""
        try:
            self._collect(queue)
        except RingError as error:
            self._supervisor.mark_broken(queue, error)

    def _collect(self, queue: WorkerQueue) -> None:
        for batch in list(queue.in_flight.values()):
            assert batch.task is not None
            answer = batch.slot.answer(batch.task)
            if answer is None:
                continue
            if answer.error is None:
                self._succeed(batch, answer)
            else:
                jobs = saved_jobs(batch)
                self.batcher.release(batch)
                self._retry.refused(jobs, answer.error, was_alone=len(batch.jobs) == 1)

    def _succeed(self, batch: Batch, answer: Answer) -> None:
        assert batch.task is not None
        start_s, jobs = time.perf_counter(), batch.jobs
        try:
            found = detections_of_batch(batch.slot.rows[: len(jobs)], jobs, self.manifest.names)
        except Exception as error:  # noqa: BLE001  a bug, but of this batch alone
            self.batcher.release(batch)
            for failed in jobs:
                if failed is not None:
                    self._fail(failed, error)
            return
        post_ms = (time.perf_counter() - start_s) * 1e3 / len(jobs)
        queue_ms = (answer.started_ns - batch.task.ready_ns) / 1e6
        infer_ms = (answer.finished_ns - answer.started_ns) / 1e6
        ended = [
            (job, one) for job, one in zip(jobs, found, strict=True) if job is not None and one is not None
        ]
        try:
            self.batcher.release(batch)
            self.ledger.note_batch(batch.queue.number, [job for job, _ in ended], queue_ms, infer_ms, post_ms)
            self._deliver(ended, queue_ms, infer_ms, post_ms)
        except RingError:
            raise  # the batch is still in flight, and runs again
        except BaseException:  # Ctrl-C in the thread that waits: the frames may be another thread's
            self._deliver(ended, queue_ms, infer_ms, post_ms)
            raise

    def _deliver(
        self, ended: Sequence[tuple[Job, Detections]], queue_ms: float, infer_ms: float, post_ms: float
    ) -> None:
        """Ends jobs with what was found; those that have ended stay as they are."""
        for job, detections in ended:
            self._jobs.discard(job)
            job.succeed(detections, (job.decode_ms, job.letterbox_ms, queue_ms, infer_ms, post_ms))
        self._note_progress()

    def _requeue(self, job: Job) -> None:
        self.batcher.withdraw(job)
        job.group = None
        self._feeder.put([job])
        self._end_if_over([job])

    def _end_if_over(self, jobs: Sequence[Job]) -> None:
        """Ends jobs that came after the pool was closed."""
        if self._is_over and self._closing is not None:
            for job in jobs:
                self._fail(job, _again_as_new(self._closing))

    def _fail(self, job: Job, error: Exception) -> None:
        self.ledger.errors += not job.ended
        self._jobs.discard(job)
        job.fail(error)
        self._note_progress()

    def _note_progress(self) -> None:
        self.completions.nudge()
        if not self._jobs:
            self._idle.set()

    def _drain(self) -> None:
        self._closing = self._closing or _closed()
        self.completions.expect(1)  # whoever waited so far may have gone: the supervisor takes the answers
        while self._jobs and not self._supervisor.is_over:
            self._idle.clear()
            if self._jobs:
                self._idle.wait(_CHECK_S)

    def _ended(self, reason: Exception | None) -> None:
        """Ends every job that is left with the reason: the supervisor has ended."""
        self._closing = reason or self._closing or _closed()
        self._is_over = True
        self.batcher.close(_again_as_new(self._closing))
        for job in list(self._jobs):
            self._fail(job, _again_as_new(self._closing))
        self._feeder.stop()


def _working_directory() -> str | None:
    with contextlib.suppress(OSError):  # it has been deleted
        return os.getcwd()
    return None


def _again_as_new(error: Exception) -> TrtYoloError:
    """The same error as a new object: each thread that raises it writes its own traceback."""
    if isinstance(error, TrtYoloError):
        return type(error)(str(error))
    return WorkerError(f"the runtime ended: {error!r}")


def _closed() -> ClosedError:
    return ClosedError("the model is closed; load it again")


_POOLS: weakref.WeakSet[Pool] = weakref.WeakSet()


def _close_all() -> None:
    for pool in list(_POOLS):
        with contextlib.suppress(Exception):
            pool.close(drain=False)


def _close_all_in_child() -> None:
    for pool in list(_POOLS):
        pool.close_in_child()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_all_in_child)
