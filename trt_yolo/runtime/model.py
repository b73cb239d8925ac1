"""`Model`: runs images now (a call), later (`submit`), or one after another (`stream`); returns `Detections`.

Knows no processes and no slots: it makes jobs, and the pool ends them.
"""

from __future__ import annotations

import queue
import threading
import weakref
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, overload

import numpy as np

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.detections import Detections
from trt_yolo.errors import ClosedError, InputError, WorkerError
from trt_yolo.media.sources import check_source, find_sources
from trt_yolo.runtime.job import (
    DEFAULT_CONF,
    DEFAULT_IOU,
    DEFAULT_MAX_DET,
    Group,
    Image,
    Job,
    Thresholds,
    source_of,
)
from trt_yolo.runtime.pool import Pool
from trt_yolo.runtime.reader import async_results, results
from trt_yolo.runtime.results import Policy, Result, StreamOptions
from trt_yolo.runtime.stats import Stats
from trt_yolo.runtime.stream import Stream

if TYPE_CHECKING:
    from typing_extensions import Self

Source = str | Path | Iterable["Image | str | Path"]


class Model:
    """A loaded model. Safe to call from any number of threads: they share its workers.

    Made by `trt_yolo.load`. A context manager; `close` ends the workers and gives back what they hold.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._submitted = 0
        self._files = threading.BoundedSemaphore(pool.capacity)
        weakref.finalize(self, Pool.abandon, pool)

    @property
    def manifest(self) -> Manifest:
        """What the model is: names, image size, batch, precision."""
        return self._pool.manifest

    @property
    def names(self) -> dict[int, str]:
        """Class names by class id."""
        return self.manifest.names

    @property
    def workers(self) -> int:
        """Worker processes; 0 if it runs in this one."""
        return self._pool.options.all_workers

    @property
    def ready_pids(self) -> list[int]:
        """Processes of the workers that take frames now; costs less than `stats`."""
        return self._pool.ready_pids

    @property
    def threads(self) -> int:
        """CPU threads of one inference."""
        return self._pool.threads

    @property
    def max_batch(self) -> int:
        """The most frames a batch."""
        return self._pool.batch

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.close(drain=error is None)

    def close(self) -> None:
        """Waits for what is under way, then ends the workers; calling twice is fine."""
        self._pool.close()

    def __reduce__(self) -> NoReturn:
        raise InputError(
            "a Model holds processes and memory of this program, and can neither be pickled nor copied; give the "
            "other process the model's path and load it there (threads may share the Model itself)"
        )

    @overload
    def __call__(  # type: ignore[overload-overlap]  # a str is a Sequence[str]; the first overload wins
        self,
        source: Image | str | Path,
        *,
        conf: float = ...,
        iou: float = ...,
        classes: Collection[int] | None = ...,
        max_det: int = ...,
    ) -> Detections: ...

    @overload
    def __call__(
        self,
        source: Sequence[Image | str | Path],
        *,
        conf: float = ...,
        iou: float = ...,
        classes: Collection[int] | None = ...,
        max_det: int = ...,
    ) -> list[Detections]: ...

    def __call__(
        self,
        source: Image | str | Path | Sequence[Image | str | Path],
        *,
        conf: float = DEFAULT_CONF,
        iou: float = DEFAULT_IOU,
        classes: Collection[int] | None = None,
        max_det: int = DEFAULT_MAX_DET,
    ) -> Detections | list[Detections]:
        """The detections in an image, or a list of them for a list of images.

        Args:
            source: An image, (H, W, 3) uint8 BGR, or the path of an image file; or a list of those, which is
                spread over all workers in whole batches.
            conf: Confidence must be above it, 0 to 1.
            iou: NMS drops a box that overlaps a better one of its class by more, 0 to 1.
            classes: Only these class ids; None for all.
            max_det: The most detections an image.

        Raises:
            ImageError: A file that is no image, or an array of another shape or type.
            InputError: A threshold outside its range.
            FrameError: The image brought down worker after worker.
            ClosedError: The model is closed.
        """
        thresholds = Thresholds(conf=conf, iou=iou, classes=classes, max_det=max_det)
        self._refuse_in_callback()
        with self._pool.completions.helper():
            if not isinstance(source, list | tuple):
                return _detections(self._run([_job(source, "the image", thresholds)])[0])
            jobs = [_job(one, f"image {number}", thresholds) for number, one in enumerate(source)]
            return [_detections(job) for job in self._run(jobs)]

    def _run(self, jobs: list[Job]) -> list[Job]:
        """The same jobs when they have ended; whole batches of them stay together."""
        ended: queue.SimpleQueue[Job] = queue.SimpleQueue()
        size = self._pool.batch
        on_way = 0
        try:
            for start in range(0, len(jobs), size):
                together = jobs[start : start + size]
                group = Group(len(together)) if len(together) > 1 else None
                for job in together:
                    job.on_end, job.group = ended.put, group
                on_way += self._start(together)
        except BaseException:
            for job in jobs[on_way:]:
                self._pool.batcher.withdraw(job)
            raise
        waiting = len(jobs)
        while waiting:
            waiting -= self._pool.next_ended(ended) is not None
        return jobs

    def _start(self, jobs: list[Job]) -> int:
        """Sends jobs on their way: files to the decode threads, arrays from here."""
        if all(isinstance(job.source, np.ndarray) for job in jobs):
            self._pool.fill_together(jobs, wait=True)
        elif len(jobs) > 1:
            self._pool.put(jobs)
        else:
            self._pool.fill(jobs[0], helps=True)
        return len(jobs)

    def submit(
        self,
        frame: Image | str | Path,
        *,
        conf: float = DEFAULT_CONF,
        iou: float = DEFAULT_IOU,
        classes: Collection[int] | None = None,
        max_det: int = DEFAULT_MAX_DET,
        name: str | None = None,
    ) -> Future[Detections]:
        """The detections of one image, later. Waits while all slots are full.

        An array is letterboxed before this returns: its memory is the caller's again. Callbacks of the future run
        in the thread that serves all workers: they must be short.

        Args:
            frame: (H, W, 3) uint8 BGR, or the path of an image file.
            conf: Confidence must be above it, 0 to 1.
            iou: NMS drops a box that overlaps a better one of its class by more, 0 to 1.
            classes: Only these class ids; None for all.
            max_det: The most detections.
            name: What errors call the frame; None: `frame 17`, or its path.

        Raises:
            ImageError: An array of another shape or type. (A file that is no image: the future's error.)
            InputError: A threshold outside its range.
            ClosedError: The model is closed.
        """
        thresholds = Thresholds(conf=conf, iou=iou, classes=classes, max_det=max_det)
        future: Future[Detections] = Future()
        future.set_running_or_notify_cancel()
        self._submitted += 1
        in_callback = self._pool.completions.is_this_thread()
        is_bounded = not isinstance(frame, np.ndarray) and not in_callback

        def end(job: Job) -> None:
            self._pool.completions.expect(-1)
            if is_bounded:
                self._files.release()
            if job.error is not None:
                future.set_exception(job.error)
            else:
                future.set_result(_detections(job))

        job = _job(frame, name or f"frame {self._submitted - 1}", thresholds, rename=name is None)
        job.on_end = end
        if is_bounded:
            self._files.acquire()
        self._pool.completions.expect(1)
        try:
            if isinstance(job.source, np.ndarray) and not in_callback:
                self._pool.fill(job)
            else:
                job.source = job.source.copy() if isinstance(job.source, np.ndarray) else job.source
                self._pool.put([job])
        except BaseException as error:
            job.fail(error if isinstance(error, Exception) else ClosedError("interrupted"))
            raise
        return future

    def stream(
        self,
        source: Source,
        *,
        conf: float = DEFAULT_CONF,
        iou: float = DEFAULT_IOU,
        classes: Collection[int] | None = None,
        max_det: int = DEFAULT_MAX_DET,
        ordered: bool = True,
        policy: Policy = "block",
        in_flight: int | None = None,
        name: str | None = None,
        keep_images: bool = False,
    ) -> Iterator[Result]:
        """One `Result` for each image of a source, which is read ahead in a thread of its own.

        A frame that fails is a result with an error, and so is a damaged video, after the frames that could be
        decoded; the stream goes on. Frames are let in as results are taken: a slow consumer slows the source, or
        with another policy than `block` makes it drop frames.

        Args:
            source: Anything that yields images, (H, W, 3) uint8 BGR, or paths of images and videos; or the name of
                an image, a video, a folder, a glob pattern. An array must not change while its frame is under way.
            conf: Confidence must be above it, 0 to 1.
            iou: NMS drops a box that overlaps a better one of its class by more, 0 to 1.
            classes: Only these class ids; None for all.
            max_det: The most detections an image.
            ordered: Results in the source's order; False: each as soon as it is there.
            policy: `block`; for live video `drop-oldest` or `drop-newest`.
            in_flight: Frames under way at once; None: enough to keep every worker busy.
            name: Under which it appears in `stats().sources`.
            keep_images: Whether results hold the source's pixels, for drawing.

        Raises:
            InputError: A threshold, a policy or a number outside its range; no such file or folder.
        """
        thresholds = Thresholds(conf=conf, iou=iou, classes=classes, max_det=max_det)
        options = StreamOptions(
            ordered=ordered, policy=policy, in_flight=in_flight, name=name, keep_images=keep_images
        )
        images = _items_of(source)
        self._refuse_in_callback()
        return self._results(images, thresholds, options)

    def _results(
        self, images: Iterable[object], thresholds: Thresholds, options: StreamOptions
    ) -> Iterator[Result]:
        # a method: as long as it runs, the model is in use and stays open
        yield from results(Stream(self._pool, thresholds, options), images)

    async def astream(
        self,
        source: Source | AsyncIterable[Image | str | Path],
        *,
        conf: float = DEFAULT_CONF,
        iou: float = DEFAULT_IOU,
        classes: Collection[int] | None = None,
        max_det: int = DEFAULT_MAX_DET,
        ordered: bool = True,
        policy: Policy = "block",
        in_flight: int | None = None,
        name: str | None = None,
        keep_images: bool = False,
    ) -> AsyncIterator[Result]:
        """`stream` for `async for`: the event loop is never held up. The source may be asynchronous too."""
        thresholds = Thresholds(conf=conf, iou=iou, classes=classes, max_det=max_det)
        options = StreamOptions(
            ordered=ordered, policy=policy, in_flight=in_flight, name=name, keep_images=keep_images
        )
        images = _items_of(source)
        stream = Stream(self._pool, thresholds, options)
        async for result in async_results(stream, images):
            yield result

    def stats(self) -> Stats:
        """What the runtime has done so far: frames, drops, restarts, where the time goes."""
        return self._pool.stats()

    def _refuse_in_callback(self) -> None:
        if self._pool.completions.is_this_thread():
            raise WorkerError(
                "called from a future's callback, which runs in the thread that would have to answer; "
                "use submit there, or hand the work to another thread"
            )


def _items_of(source: Any) -> Any:
    """What a stream goes through: a name stands for files.

    Raises:
        InputError: A single image, or no such files.
    """
    if isinstance(source, np.ndarray) and source.ndim < 4:
        raise InputError(
            f"an array of shape {source.shape} is one image; give stream a list of images, or call model(image)"
        )
    if isinstance(source, int):
        check_source(source)
    return find_sources([source]) if isinstance(source, str | Path) else source


def _job(given: object, name: str, thresholds: Thresholds, *, rename: bool = True) -> Job:
    source = source_of(given)
    named = str(source) if rename and isinstance(source, Path) else name
    return Job(source=source, name=named, thresholds=thresholds)


def _detections(job: Job) -> Detections:
    if job.error is not None:
        raise job.error
    assert job.detections is not None
    return job.detections
