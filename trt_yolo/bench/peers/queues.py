"""The peer `queue-pool`, and what all peers with queues share: processes between a queue of tasks and one of answers.

`queue-pool` is processes with an ONNX Runtime session each, fed with decoded images by a `multiprocessing.Queue`.
Enters: what makes a function in each process, and tasks. Leaves: answers, in the order in which they come. Every
task and every answer is pickled; that is what these peers are about. A process ends with the one that started it,
however that ends. `QueueProcesses` knows no models.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection, get_context, parent_process
from typing import Any, NamedTuple

from trt_yolo.bench.peers import Found, PeerOptions, Ready
from trt_yolo.bench.peers.onnxruntime import detector
from trt_yolo.bench.peers.plain_loop import in_batches, read_plainly
from trt_yolo.errors import BackendError

_START_S = 240.0
_ANSWER_S = 120.0
_LOOK_S = 0.5

_MakeAnswering = Callable[[PeerOptions], Callable[[Any], Any]]
"""Called once in each process, by its name: what it returns answers tasks."""


@contextlib.contextmanager
def open_peer(options: PeerOptions) -> Iterator[Ready]:
    """See `OpenPeer`."""
    batch, workers = options.get("batch", 1), options["workers"]
    under_way = 2 * workers  # batches: one in each process, and one that waits for it
    with QueueProcesses(detector, options, count=workers, under_way=under_way) as processes:

        def run(paths: Iterable[str]) -> Iterator[Found]:
            decoded = ([read_plainly(path) for path in some] for some in in_batches(paths, batch))
            for number, found in processes.answers_to(decoded):
                for place, rows in enumerate(found):
                    yield Found(number * batch + place, rows)

        yield Ready(run=run, under_way=under_way * batch)


class Answer(NamedTuple):
    """What came of a task.

    Attributes:
        number: The task's place.
        value: The answer.
    """

    number: int
    value: Any


class _Failed(NamedTuple):
    error: str


class QueueProcesses:
    """Processes that are ready to answer; a context manager.

    Args:
        make: Makes a process's function; of a module, since it is pickled.
        options: What it is told.
        count: How many processes.
        under_way: Tasks that are sent and not answered, at most.

    Attributes:
        under_way: See above.

    Raises:
        BackendError: One of them could not start.
    """

    def __init__(self, make: _MakeAnswering, options: PeerOptions, *, count: int, under_way: int) -> None:
        self.under_way = under_way
        context = get_context("spawn")
        self._tasks, self._answers = context.Queue(), context.Queue()
        self._processes = [
            context.Process(target=_answer_all, args=(make, options, self._tasks, self._answers), daemon=True)
            for _ in range(count)
        ]
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            for process in self._processes:
                process.start()
            for _ in self._processes:
                self._next(_START_S)
            on_error.pop_all()

    def __enter__(self) -> QueueProcesses:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def answers_to(self, tasks: Iterable[object]) -> Iterator[Answer]:
        """An answer for each task; tasks are taken while fewer than `under_way` are.

        Raises:
            BackendError: A process has ended, or nothing comes any more.
        """
        under_way = 0
        for sent in enumerate(tasks):
            while under_way >= self.under_way:
                yield self._next(_ANSWER_S)
                under_way -= 1
            self._tasks.put(sent)
            under_way += 1
            with contextlib.suppress(queue.Empty):
                while under_way:
                    yield _checked(self._answers.get_nowait())
                    under_way -= 1
        for _ in range(under_way):
            yield self._next(_ANSWER_S)
        self._check()  # one that has ended leaves its share to the others

    def close(self) -> None:
        """Ends them, whatever they are doing."""
        for process in self._processes:
            if process.pid is not None:
                process.kill()
                process.join()
        for one in (self._tasks, self._answers):
            one.cancel_join_thread()  # what nobody reads any more must not hold up the end
            one.close()

    def _next(self, timeout_s: float) -> Answer:
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            with contextlib.suppress(queue.Empty):
                return _checked(self._answers.get(timeout=_LOOK_S))
            self._check()
        raise BackendError(f"no process of the pool has answered for {timeout_s:.0f} s")

    def _check(self) -> None:
        for process in self._processes:
            if process.exitcode is not None:
                raise BackendError(f"a process of the pool has ended with exit code {process.exitcode}")


def _checked(given: Any) -> Answer:
    if isinstance(given, _Failed):
        raise BackendError(f"a process of the pool has failed: {given.error}")
    assert isinstance(given, Answer)
    return given


def _answer_all(make: _MakeAnswering, options: PeerOptions, tasks: Any, answers: Any) -> None:
    """The life of one process."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        answer = make(options)
        answers.put(Answer(-1, None))  # ready
        while True:
            number, task = tasks.get()
            answers.put(Answer(number, answer(task)))
    except Exception as error:
        answers.put(_Failed(f"{type(error).__name__}: {error}"))
        raise


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)  # nobody is left to clean up for
