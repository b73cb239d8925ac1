"""How a program and its workers reach each other: signals, messages, and who takes the answers.

    Wake         a counter in the kernel: an eventfd on Linux, a pipe elsewhere
    Channel      messages over a socket: JSON, and file descriptors
    Poll         what the supervisor's thread sleeps on
    Completions  the workers' answers, taken by the supervisor's thread or by a thread that waits for one

Knows no slots, no jobs and no processes.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_WORD = struct.Struct("=Q")
_ONE = _WORD.pack(1)
_READ_BYTES = 4096
_CHECK_S = 1.0

SPIN_S = 200e-6
"""How long to look for news before falling asleep, in seconds: waking a process costs both sides more than that
many looks, 50 to 100 us each on virtual machines; and a core that has other work gets it at every look."""

give_way = getattr(os, "sched_yield", lambda: None)
"""Lets another thread or process have the core, if one waits for it."""


class Wake:
    """A counter in the kernel: `signal` adds one; `take` and `wait` return the sum and set it back to 0.

    Both its forms, an eventfd and a pipe, carry words of 8 bytes and can be polled beside sockets.

    What was written to memory before `signal` is seen by whoever took it: both are system calls.

    Args:
        read_fd: Where the counter is read; -1 on the side that only signals.
        write_fd: Where it is raised, the same as `read_fd` for an eventfd; -1 on the side that only waits.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._poll = select.poll()
        if read_fd >= 0:
            self._poll.register(read_fd, select.POLLIN)

    @classmethod
    def create(cls) -> Wake:
        """A new counter, at 0.

        Raises:
            OSError: No file descriptor is left.
        """
        if hasattr(os, "eventfd"):
            fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            return cls(fd, fd)
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        return cls(read_fd, write_fd)

    def signal(self) -> None:
        """Adds one and wakes who waits."""
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self.write_fd, _ONE)

    def take(self) -> int:
        """How often it was signalled since the last time; does not wait."""
        try:
            words = os.read(self.read_fd, _READ_BYTES)
        except BlockingIOError:
            return 0
        return sum(word for (word,) in _WORD.iter_unpack(words))

    def wait(self) -> int:
        """The same, at least 1: looks for a signal for `SPIN_S`, then sleeps until one comes."""
        until_s = time.perf_counter() + SPIN_S
        while not (count := self.take()):
            if time.perf_counter() < until_s:
                give_way()
            else:
                self._poll.poll()
        return count

    def fileno(self) -> int:
        """What to poll."""
        return self.read_fd

    def close(self) -> None:
        """Closes its descriptors; calling twice is fine."""
        for fd in {self.read_fd, self.write_fd} - {-1}:
            os.close(fd)
        self.read_fd = self.write_fd = -1


_LENGTH = struct.Struct("=I")
_MOST_FDS = 8
_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)  # a program in which SIGPIPE is not ignored must not die of it


class Channel:
    """One end of the socket between a program and a worker: JSON messages, and file descriptors."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two ends that talk to each other.

        Raises:
            OSError: No file descriptor is left.
        """
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return cls(one), cls(other)

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        """The end that was inherited as that descriptor."""
        return cls(socket.socket(fileno=fd))

    def fileno(self) -> int:
        """What to poll: readable when a message is there, or the other side is gone."""
        return self._socket.fileno()

    def send(self, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Sends a message, and copies of open file descriptors with it.

        Raises:
            OSError: The other side is gone.
        """
        data = json.dumps(message).encode()
        head = _LENGTH.pack(len(data))
        if fds:
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))]
            self._socket.sendmsg([head], ancillary, _FLAGS)  # socket.send_fds forgets its flags
            self._socket.sendall(data, _FLAGS)
        else:
            self._socket.sendall(head + data, _FLAGS)

    def receive(self, *, timeout_s: float | None = None) -> tuple[dict[str, Any], list[int]] | None:
        """The next message and its descriptors, which are then the caller's; None when the other side is gone.

        Args:
            timeout_s: How long to wait, in seconds; None: for ever.

        Raises:
            TimeoutError: Nothing came in time.
        """
        self._socket.settimeout(timeout_s)
        try:
            head, fds, _, _ = socket.recv_fds(self._socket, _LENGTH.size, _MOST_FDS)
            for fd in fds:
                os.set_inheritable(fd, False)
            data = self._exactly(_LENGTH.unpack(head)[0]) if len(head) == _LENGTH.size else None
        except ConnectionError:
            return None
        return None if data is None else (json.loads(data), list(fds))

    def close(self) -> None:
        """Closes this end; calling twice is fine."""
        self._socket.close()

    def _exactly(self, size: int) -> bytes | None:
        data = bytearray()
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                return None
            data += piece
        return bytes(data)


class Poll:
    """The descriptors that the supervisor's thread sleeps on, and what it calls when one is readable."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._on_readable: dict[int, Callable[[], None]] = {}

    def listen(self, fd: int, on_readable: Callable[[], None]) -> None:
        """Calls `on_readable` while the descriptor is readable."""
        self._on_readable[fd] = on_readable
        self._poll.register(fd, select.POLLIN)

    def ignore(self, fd: int) -> None:
        """Stops listening to a descriptor; before it is closed."""
        if self._on_readable.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def wait(self, timeout_s: float) -> None:
        """Sleeps until something is readable, at most so many seconds, and does what is due then."""
        for fd, _ in self._poll.poll(max(0.0, timeout_s * 1e3)):
            self._on_readable.get(fd, _nothing)()


class Completions:
    """Takes the workers' answers, in the supervisor's thread or in the very thread that waits for one.

    To wake a thread, and to hand the interpreter's lock from one to the next, costs more than to take an answer. So a
    thread that waits takes all answers itself meanwhile, and the supervisor does not listen. When nobody waits, it
    listens again: at once if somebody counts on it (`expect`), else at its next look.

    This takes epoll, whose set can be changed while another thread sleeps on it. Without it (not Linux) the
    supervisor takes everything, and the threads that wait are woken.

    Args:
        poll: The supervisor's own, which takes what nobody else does.

    Raises:
        OSError: No file descriptor can be had.

    Attributes:
        taker: Identity of the waiting thread that takes answers now; None: the supervisor does.
        supervisor: Identity of the supervisor's thread, once it runs.
    """

    def __init__(self, poll: Poll) -> None:
        self.taker: int | None = None
        self.supervisor: int | None = None
        self._poll = poll
        self._listened: dict[int, tuple[Wake, Callable[[], None]]] = {}
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
        self.listen(self._news, _nothing)

    def listen(self, wake: Wake, on_signal: Callable[[], None]) -> None:
        """Calls `on_signal` for what is signalled, in whichever thread takes answers, never in two at once."""
        fd = wake.fileno()
        self._listened[fd] = wake, on_signal
        if self._has_epoll:
            self._inner.register(fd, select.EPOLLIN)
        else:
            self._poll.listen(fd, lambda: self._call(fd))

    def ignore(self, fd: int) -> None:
        """Stops listening to a descriptor; before it is closed."""
        if self._listened.pop(fd, None) is None:
            return
        if self._has_epoll:
            self._inner.unregister(fd)
        else:
            self._poll.ignore(fd)

    def is_this_thread(self) -> bool:
        """Whether the caller runs in a thread that takes answers, and must not wait for itself."""
        return threading.get_ident() in (self.taker, self.supervisor)

    @contextlib.contextmanager
    def exclusively(self) -> Iterator[None]:
        """Keeps every other thread from taking answers meanwhile."""
        with self._taking:
            yield

    @contextlib.contextmanager
    def helper(self) -> Iterator[None]:
        """Marks the caller as a thread that will `wait`, again and again, until it leaves this context."""
        self._count(helping=1)
        try:
            yield
        finally:
            self._count(helping=-1)

    def expect(self, count: int) -> None:
        """Counts answers that no thread will `wait` for, as those of futures: so many more, or fewer, below 0."""
        self._count(unattended=count)

    def wait(self, is_done: Callable[[], bool]) -> bool:
        """Takes answers in the caller's thread until `is_done`; False at once if another thread does so."""
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
        """Wakes the thread that waits, for something that is no worker's answer."""
        if self.taker not in (None, threading.get_ident()):
            with contextlib.suppress(OSError):  # over, and closed
                self._news.signal()

    def take_all(self) -> None:
        """Takes the answers that are there now."""
        if self.taker is None:
            self._take(0)

    def take_unattended(self) -> None:
        """Takes the answers that nobody has waited for; the supervisor calls it now and then."""
        if self._muted:
            self.take_all()

    def close(self) -> None:
        """Closes the descriptors; `wait` returns in the thread that waits."""
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
            if fd not in self._listened:
                return
            wake, on_signal = self._listened[fd]
            try:
                wake.take()
                on_signal()
            except BaseException:  # Ctrl-C in the thread that waits: somebody else must look again
                wake.signal()
                raise


def _nothing() -> None:
    pass
