"""The order of the runtime's locks, as `trt_yolo/runtime/__init__.py` draws it, under real traffic."""

from __future__ import annotations

import asyncio
import graphlib
import importlib
import linecache
import pkgutil
import re
import sys
import threading
from pathlib import Path
from typing import Any

import cv2
import pytest

import trt_yolo.runtime
from tests.runtime.models import kill_one, marked, pool_model
from trt_yolo.runtime.model import Model

pytestmark = pytest.mark.timeout(60)

Pairs = set[tuple[str, str]]


def _drawn() -> tuple[set[str], Pairs]:
    """The locks of the drawing, and each that may be taken while another is held."""
    names: set[str] = set()
    pairs: Pairs = set()
    above: list[str] = []
    for line in str(trt_yolo.runtime.__doc__).splitlines():
        if match := re.match(r"    ([ │├└─>]*)([A-Za-z]\w*\.\w+)  ", line):
            depth, name = (len(match[1]) + 1) // 5, match[2]
            above = [*above[:depth], name]
            names.add(name)
            pairs |= {(held, name) for held in above[:-1]}
    return names, pairs


class Trace:
    """Stands for the module `threading`: its locks note which are taken by a thread that holds others."""

    def __init__(self) -> None:
        self.names: set[str] = set()
        self.pairs: Pairs = set()
        self._mine = threading.local()

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)

    def Lock(self) -> Traced:
        return Traced(self, _name_of_caller(), threading.Lock())

    def RLock(self) -> Traced:
        return Traced(self, _name_of_caller(), threading.RLock())

    def BoundedSemaphore(self, count: int) -> Traced:
        return Traced(self, _name_of_caller(), threading.BoundedSemaphore(count), has_owner=False)

    @property
    def held(self) -> list[Traced]:
        """What this thread holds."""
        self._mine.__dict__.setdefault("held", [])
        return self._mine.held

    def note(self, taken: Traced) -> None:
        self.pairs |= {(one.name, taken.name) for one in self.held if one is not taken}


class Traced:
    """A lock; or a semaphore, which belongs to no thread."""

    def __init__(self, trace: Trace, name: str, lock: Any, *, has_owner: bool = True) -> None:
        self.name = name
        self._trace, self._lock, self._has_owner = trace, lock, has_owner
        trace.names.add(name)

    def acquire(self, *arguments: Any, **options: Any) -> bool:
        is_taken = bool(self._lock.acquire(*arguments, **options))
        if is_taken:
            self._trace.note(self)
            if self._has_owner:
                self._trace.held.append(self)
        return is_taken

    def release(self) -> None:
        if self._has_owner:
            self._trace.held.remove(self)
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _name_of_caller() -> str:
    """`Class.attribute` of the line that makes a lock."""
    frame = sys._getframe(2)
    line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
    match = re.search(r"self\.(\w+) = ", line)
    assert match is not None
    return f"{type(frame.f_locals['self']).__name__}.{match[1]}"


@pytest.fixture
def trace(monkeypatch: pytest.MonkeyPatch) -> Trace:
    """Every module of the runtime makes its locks of it."""
    trace = Trace()
    for module in pkgutil.iter_modules(trt_yolo.runtime.__path__, "trt_yolo.runtime."):
        if hasattr(importlib.import_module(module.name), "threading"):
            monkeypatch.setattr(f"{module.name}.threading", trace)
    monkeypatch.setattr("trt_yolo.runtime.job._ENDING", Traced(trace, "job._ENDING", threading.Lock()))
    return trace


def test_the_drawing_has_no_circle() -> None:
    names, pairs = _drawn()
    order = graphlib.TopologicalSorter(
        {name: {one for one, other in pairs if other == name} for name in names}
    )
    assert set(order.static_order()) == names


@pytest.mark.parametrize("workers", [0, 1])
def test_no_lock_is_taken_against_the_drawing(workers: int, trace: Trace, tmp_path: Path) -> None:
    path = tmp_path / "frame.png"
    cv2.imwrite(str(path), marked(7))
    with pool_model("Faulty", {"delay_ms": 1}, batch=4, workers=workers) as model:
        _call_in_every_way(model, path)
        _leave_streams(model)
        if workers:
            futures = [model.submit(marked(1)) for _ in range(40)]
            kill_one(model)
            assert [int(future.result(20).class_id[0]) for future in futures] == [1] * 40
        stream = model.stream(iter([path] * 100))
        next(stream)
    names, pairs = _drawn()
    assert trace.names == names
    assert trace.pairs - pairs == set()
    assert {held for held, _ in trace.pairs} == {held for held, _ in pairs}  # the traffic was real


def _call_in_every_way(model: Model, path: Path) -> None:
    """From four threads at once."""

    def call() -> None:
        sources = [marked(1), path] * 20
        assert len(model(sources)) == len(list(model.stream(sources))) == 40
        assert len(list(model.stream(iter(sources), ordered=False, name="all"))) == 40
        assert len(list(model.stream(iter(sources[:4]), policy="drop-oldest", in_flight=1))) <= 4
        futures = [model.submit(source) for source in sources]
        again: list[Any] = []
        futures[0].add_done_callback(lambda _: again.append(model.submit(path)))
        model(path)
        assert all(future.result(20) for future in futures)
        assert len(again[0].result(20)) == 1

    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _leave_streams(model: Model) -> None:
    """A stream that is closed, and one that is left by an event loop, both with frames under way."""
    for source in ([marked(1)] * 100, iter([marked(1)] * 100)):
        stream = model.stream(source)
        next(stream)
        stream.close()  # type: ignore[attr-defined]

    async def leave() -> None:
        async for _ in model.astream(iter([marked(1)] * 100)):
            return

    asyncio.run(leave())
