"""Runs frames again that got no answer: their worker ended, or the backend refused their batch.

Enters: batches. Leaves: their jobs, letterboxed already, on their way a second time; or ended, with the error that is
theirs alone. Knows no workers and no threads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from trt_yolo.errors import BackendError
from trt_yolo.runtime.batcher import Batch
from trt_yolo.runtime.job import Death, Job
from trt_yolo.runtime.ring import RingError, State


class Retry:
    """Decides which jobs run again, and which of them alone.

    Args:
        again: Sends a job on its way once more.
        on_failure: Ends a job with an error.
    """

    def __init__(self, *, again: Callable[[Job], None], on_failure: Callable[[Job, Exception], None]) -> None:
        self._again = again
        self._fail = on_failure

    def refused(self, jobs: Sequence[Job], error: str, *, was_alone: bool) -> None:
        """Fails a frame that was alone in its batch; runs the frames of a larger one again, one by one.

        Args:
            jobs: With their frames, as `saved_jobs` returns them.
            error: What the backend said.
            was_alone: Whether the batch had one place.
        """
        for job in jobs:
            if was_alone:
                self._fail(job, BackendError(f"{error} (at {job.label})"))
            else:
                job.alone = True
                self._again(job)

    def lost(self, batches: Sequence[Batch], death: Death) -> None:
        """Runs the frames of a worker that ended again: those that it was running alone, they may be why it ended.

        Of several that it was running nobody knows which it was: each runs again alone, and nothing beside it.
        """
        running = [batch for batch in batches if _was_running(batch)]
        for batch in batches:
            is_suspect = batch in running
            for job in saved_jobs(batch):
                job.alone = job.alone or is_suspect
                error = job.blame(death) if is_suspect and len(running) == 1 else None
                if error is not None:
                    self._fail(job, error)
                else:
                    self._again(job)

    def unsent(self, batch: Batch) -> None:
        """Runs the frames again of a slot that was being filled when its worker ended: none of them is to blame."""
        for job in saved_jobs(batch):
            self._again(job)


def saved_jobs(batch: Batch) -> list[Job]:
    """The jobs of a batch that have not ended, their frames copied out of its slot."""
    jobs = [(index, job) for index, job in enumerate(batch.jobs) if job is not None and not job.ended]
    for index, job in jobs:
        job.frame = np.array(batch.slot.frames[index])
    return [job for _, job in jobs]


def _was_running(batch: Batch) -> bool:
    try:
        return batch.slot.state == State.RUNNING
    except RingError:
        return True
