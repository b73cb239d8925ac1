"""Writes results in threads of its own, so that encoding and slow disks do not hold up inference.

Enters: calls that write something. Leaves: their errors, where the caller asks for them. Bounded: a disk that
cannot keep up slows the caller instead of filling the memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

_Key = TypeVar("_Key")

_DEFAULT_THREADS = 2
_DEFAULT_BACKLOG = 16


class WriterPool(Generic[_Key]):
    """Threads that write. A context manager: leaving it waits until everything is written.

    Args:
        threads: How many.
        backlog: Calls that may wait or run at once; `write` waits when there are more.
    """

    def __init__(self, *, threads: int = _DEFAULT_THREADS, backlog: int = _DEFAULT_BACKLOG) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="trt-yolo-write")
        self._room = threading.BoundedSemaphore(backlog)
        self._under_way: list[tuple[_Key, Future[None]]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown()

    def write(self, key: _Key, call: Callable[[], None]) -> None:
        """Has the call made soon, in another thread; waits while the backlog is full.

        Args:
            key: Under which `errors` names it.
            call: What writes; its arguments must not change until it is done.
        """
        self._room.acquire()
        future = self._executor.submit(call)
        future.add_done_callback(lambda _: self._room.release())
        self._under_way.append((key, future))

    def errors(self, *, wait: bool = False) -> Iterator[tuple[_Key, BaseException]]:
        """Each call that failed, once, in the order of `write`.

        Args:
            wait: Whether to wait for those under way; else those that are done.
        """
        pending = self._under_way
        self._under_way = []
        for key, future in pending:
            if not wait and not future.done():
                self._under_way.append((key, future))
                continue
            error = future.exception()
            if error is not None:
                yield key, error
