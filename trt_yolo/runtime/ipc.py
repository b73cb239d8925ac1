"""Wakes the other side: a counter in the kernel that one side raises and the other waits for.

An eventfd where there is one (Linux), a pipe elsewhere; both carry words of 8 bytes and can be polled beside
sockets. Knows no slots and no processes.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

_WORD = struct.Struct("=Q")
_ONE = _WORD.pack(1)
_READ_BYTES = 4096

SPIN_S = 200e-6
"""How long to look for news before falling asleep, in seconds: waking a process costs both sides more than that
many looks, 50 to 100 us each on virtual machines; and a core that has other work gets it at every look."""

give_way = getattr(os, "sched_yield", lambda: None)
"""Lets another thread or process have the core, if one waits for it."""


class Wake:
    """A counter. `signal` adds one; `take` and `wait` return the sum so far and start at 0 again.

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
        """The same, at least 1: sleeps until it is signalled, after it has looked around for `SPIN_S`."""
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


# Messages between a program and one of its workers: JSON over a socket, file descriptors beside it.
_LENGTH = struct.Struct("=I")
_MOST_FDS = 8
_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)  # a program in which SIGPIPE is not ignored must not die of it


class Channel:
    """One end of the conversation; owns the socket."""

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
