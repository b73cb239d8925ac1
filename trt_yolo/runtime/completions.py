"""Who takes the workers' answers: the supervisor's thread, or the very thread that waits for one.

To wake a thread, and to hand the interpreter's lock from one to the next, costs more than to take an answer.
So a thread that waits takes all answers itself meanwhile, and the supervisor does not listen. When nobody waits,
it listens again: at once if somebody counts on it, else at its next look.

This takes epoll, whose set can be changed while another thread sleeps on it. Without it (not Linux) the
supervisor takes everything, and the threads that wait are woken.
"""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator

from trt_yolo.runtime.ipc import SPIN_S, Wake

_CHECK_S = 1.0


class Poll:
    """Descriptors that one thread sleeps on, and what it does when they are readable."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._on_readable: dict[int, Callable[[], None]] = {}

    def listen(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Calls `on_readable` while the descriptor is readable."""
        self._on_readable[fd] = on_readable
        self._poll.register(fd, select.POLLIN)

    def ignore(self, fd: int) -> None:
        """Ends that; before the descriptor is closed."""
        if self._on_readable.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def wait(self, timeout_s: float) -> None:
        """Sleeps until something is readable, at most so many seconds, and does what is due then."""
        for fd, _ in self._poll.poll(max(0.0, timeout_s * 1e3)):
            self._on_readable.get(fd, _nothing)()


class Answers:
    """Descriptors that are readable when a worker has answered, and what to do then.

    Args:
        poll: The supervisor's own, which takes what nobody else does.

    Raises:
        OSError: No file descriptor can be had.

    Attributes:
        taker: Identity of the waiting thread that takes answers now; None: the supervisor does.
    """

    def __init__(self, poll: Poll) -> None:
        self.taker: int | None = None
        self._poll = poll
        self._on_readable: dict[int, Callable[[], None]] = {}
        self._has_epoll = hasattr(select, "epoll")
        with contextlib.ExitStack() as on_error:
            self._news = Wake.create()
            on_error.callback(self._news.close)
            if self._has_epoll:
                self._inner = on_error.enter_context(contextlib.closing(select.epoll()))
                self._outer = on_error.enter_context(contextlib.closing(select.epoll()))
                self._outer.register(self._inner.fileno(), select.EPOLLIN)
                poll.listen(self._outer.fileno(), self.take_all)
            on_error.pop_all()
        self._taking = threading.RLock()
        self._turn = threading.Lock()
        self._state = threading.Lock()
        self._muted = self._closed = False
        self._helping = self._unattended = 0
        self.listen(self._news.fileno(), self._hear_news)

    def listen(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Calls `on_readable`, in whichever thread, never in two at once, while the descriptor is readable."""
        self._on_readable[fd] = on_readable
        if self._has_epoll:
            self._inner.register(fd, select.EPOLLIN)
        else:
            self._poll.listen(fd, lambda: self._call(fd))

    def ignore(self, fd: int) -> None:
        """Ends that; before the descriptor is closed."""
        if self._on_readable.pop(fd, None) is None:
            return
        if self._has_epoll:
            self._inner.unregister(fd)
        else:
            self._poll.ignore(fd)

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """No answer is taken by another thread meanwhile."""
        with self._taking:
            yield

    @contextlib.contextmanager
    def helper(self) -> Iterator[None]:
        """Somebody comes who will `wait`, again and again, until this is left."""
        self._count(helping=1)
        try:
            yield
        finally:
            self._count(helping=-1)

    def expect(self, count: int) -> None:
        """So many more answers (or fewer, below 0) are awaited by nobody in particular, as by a future."""
        self._count(unattended=count)

    def wait(self, is_done: Callable[[], bool]) -> bool:
        """Takes answers in the caller's thread until it has what it wants; False if another thread does so now."""
        if not self._has_epoll or not self._turn.acquire(blocking=False):
            return False
        try:
            with self._state:
                self.taker = threading.get_ident()
                self._mute(True)
            spin_until_s = time.perf_counter() + SPIN_S
            while not is_done() and not self._closed:
                self._take(0 if time.perf_counter() < spin_until_s else _CHECK_S)
        finally:
            with self._state:
                self.taker = None
                self._mute(self._unattended == 0 and self._helping <= 1)
            self._turn.release()
        return True

    def nudge(self) -> None:
        """Something came that is no worker's answer: the thread that waits should look."""
        if self.taker not in (None, threading.get_ident()):
            with contextlib.suppress(OSError):  # over, and closed
                self._news.signal()

    def take_all(self) -> None:
        """Takes what is there now."""
        if self.taker is None:
            self._take(0)

    def take_forgotten(self) -> None:
        """Takes what is there if nobody has waited for a while; for the supervisor, now and then."""
        if self._muted:
            self.take_all()

    def close(self) -> None:
        """Gives the descriptors back; who waits is sent away."""
        self._closed = True
        self.nudge()
        if not self._has_epoll:
            self._news.close()
            return
        with self._taking, self._state:
            self._poll.ignore(self._outer.fileno())
            self._outer.close()
        while self.taker is not None and not self._turn.acquire(timeout=_CHECK_S):
            self.nudge()
        self._inner.close()
        self._news.close()

    def _count(self, *, helping: int = 0, unattended: int = 0) -> None:
        with self._state:
            self._helping += helping
            self._unattended += unattended
            if self.taker is None and (self._unattended or self._helping > 1):
                self._mute(False)

    def _mute(self, muted: bool) -> None:
        if muted != self._muted and self._has_epoll and not self._outer.closed:
            self._outer.modify(self._inner.fileno(), 0 if muted else select.EPOLLIN)
            self._muted = muted

    def _take(self, timeout_s: float) -> None:
        for fd, _ in self._inner.poll(timeout_s):
            self._call(fd)

    def _call(self, fd: int) -> None:
        with self._taking:
            self._on_readable.get(fd, _nothing)()

    def _hear_news(self) -> None:
        self._news.take()


def _nothing() -> None:
    pass
