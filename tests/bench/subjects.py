"""Subjects of a bench whose service times are known: a backend that waits, or a pipeline on a clock of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.pipeline import Clock, Pipeline
from tests.runtime.models import tiny_manifest
from trt_yolo.bench.figures import Stages
from trt_yolo.bench.subject import Layout, Subject
from trt_yolo.runtime.worker import BackendSpec


def null_spec(delays_ms: Sequence[float], *, batch: int = 1) -> BackendSpec:
    """A backend that computes nothing and takes that long, batch after batch, round and round."""
    options = {"manifest": tiny_manifest(batch).to_json(), "delays_ms": list(delays_ms)}
    return BackendSpec(factory="trt_yolo.backends.null:null_from_manifest", options=options)


def null_subject(delays_ms: Sequence[float], paths: Sequence[Path]) -> Subject:
    """A subject over it."""
    return Subject("null", null_spec(delays_ms), Layout(), paths)


class SimulatedSubject(Subject):
    """A model on a simulated clock: all that is real of it is its manifest.

    Args:
        name: What results call it.
        clock: The bench's.
        services_ms: What its batches take, in milliseconds, round and round.
        layout: How it is laid out.
        paths: Readable image files.
        batch: The largest batch that it takes.
    """

    def __init__(
        self,
        name: str,
        clock: Clock,
        services_ms: Sequence[float],
        layout: Layout,
        paths: Sequence[Path],
        *,
        batch: int = 4,
    ) -> None:
        super().__init__(name, null_spec([0.0], batch=batch), layout, paths)
        services_s = [one / 1e3 for one in services_ms]
        self._of = lambda: Pipeline(clock, services_s, max(1, self.workers), self.batch)
        self.__dict__["model"] = self._of()
        self.__dict__["parts"] = Stages(copy_in=0.0, engine=services_ms[0], copy_out=0.0)

    @property
    def _slots(self) -> Any:  # type: ignore[override]
        return self._of().slots()

    def _sessions(self) -> Any:
        return [self._of().backend()]
