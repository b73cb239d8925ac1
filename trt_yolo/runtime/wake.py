"""Wakes the other side: a counter in the kernel that one side raises and the other waits for.

An eventfd where there is one (Linux), a pipe elsewhere; both carry words of 8 bytes and can be polled beside
sockets. Knows no slots and no processes.
"""

from __future__ import annotations

import contextlib
import os
import select
import struct
import time

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
