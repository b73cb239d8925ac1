"""Subjects of a bench whose service times are known, and another go for what only noise can spoil."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tests.runtime.models import tiny_manifest
from trt_yolo.bench.subject import Layout, Subject
from trt_yolo.runtime.worker import BackendSpec

ATTEMPTS = 6


def null_spec(delays_ms: Sequence[float], *, batch: int = 1) -> BackendSpec:
    """A backend that computes nothing and takes that long, batch after batch, round and round."""
    options = {"manifest": tiny_manifest(batch).to_json(), "delays_ms": list(delays_ms)}
    return BackendSpec(factory="trt_yolo.backends.null:null_from_manifest", options=options)


def null_subject(
    delays_ms: Sequence[float], paths: Sequence[Path], *, batch: int = 1, workers: int = 0
) -> Subject:
    """A subject over it."""
    return Subject("null", null_spec(delays_ms, batch=batch), Layout(batch=batch, workers=workers), paths)


def on_a_noisy_machine(test: Callable[..., None]) -> Callable[..., None]:
    """Runs a test of times again when it fails: other programs make things slower, but never right."""

    @functools.wraps(test)
    def again(*args: Any, **kwargs: Any) -> None:
        for _ in range(ATTEMPTS - 1):
            try:
                test(*args, **kwargs)
            except AssertionError:
                continue
            return
        test(*args, **kwargs)

    return again
