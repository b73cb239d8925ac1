"""Messages between a program and one of its workers: JSON over a socket, file descriptors beside it.

Small and rare: start-up, the ring's memory, a fatal error, the order to stop. Frames never pass here.
When either side's process ends, the kernel closes its end and the other side reads the end of the stream.
"""

from __future__ import annotations

import array
import json
import os
import socket
import struct
from collections.abc import Sequence
from typing import Any

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
