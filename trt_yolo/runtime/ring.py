"""The memory that a program shares with one worker: a ring of slots, each with a batch of frames.

    offset 0            the ring's own page: its magic and its shape
    slot 0  header      one page: state | task, checksum | times | error text
            payload     batch x height x width x 3 bytes, from a page's start
            rows        batch x rows x 6 float32, from a page's start
    slot 1  header ...

A slot's state is one word; only the side named here may change it, and only so:

                 program            program, signals worker
        FREE ───────────────> FILLING ───────────────> READY
         ^ ^                     │                       │ worker
         │ └────── program ──────┘                       v
         │                                            RUNNING
         │       program           worker, signals       │
         └────────────── DONE or FAILED <────────────────┘

Everything else in the slot belongs to the side that may make the next change. The task says what the payload
is (`Payload`), so that another kind of payload needs no other ring. Its checksum, and the program's own record
of what it sent, show a header that something else has written to.

The memory has no name: memfd, or a nameless file in /dev/shm. So there is nothing to leave behind when both
processes are killed, /dev/shm's size does not limit it on Linux, and Python's resource tracker, which before
3.13 deletes what a child attaches by name, never hears of it. Workers get its descriptor over their socket.
"""

from __future__ import annotations

import contextlib
import enum
import mmap
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import WorkerError

PAGE = mmap.PAGESIZE
ROW = 6  # x1 y1 x2 y2 score class
_MAGIC = b"TRTYOLO1"
_TASK = struct.Struct("=QIIffQB")  # sequence, payload, frames, conf, iou, ready_ns, alone
_CHECKSUM = struct.Struct("=I")
_TIMES = struct.Struct("=QQ")  # started_ns, finished_ns
_TEXT_LENGTH = struct.Struct("=I")
_TASK_AT, _CHECKSUM_AT, _TIMES_AT, _LENGTH_AT, _TEXT_AT = 8, 56, 64, 96, 100
_TEXT_BYTES = 2048


class State(enum.IntEnum):
    """The state of a slot: who may change it, and what comes next; drawn in the module's docstring."""

    FREE = 0
    FILLING = 1
    READY = 2
    RUNNING = 3
    DONE = 4
    FAILED = 5


_STATES = tuple(State)


class Payload(enum.IntEnum):
    """What a slot's payload is."""

    FRAMES = 1  # (frames, height, width, 3) uint8 BGR, letterboxed to the model's size
    SOURCE_FRAMES = 2  # the same, as the camera gives them: the graph letterboxes


class RingError(WorkerError):
    """A slot whose header is not what either side has written: something else wrote to its memory."""


class Task(NamedTuple):
    """What a slot asks for.

    Attributes:
        sequence: Counts the ring's tasks, from 1: the order in which they are run.
        frames: How many there are in the batch.
        conf: Confidence threshold.
        iou: NMS threshold.
        ready_ns: When it became READY, `time.monotonic_ns`.
        payload: What the payload is.
        alone: Whether nothing may run beside it: it is suspected of ending workers.
    """

    sequence: int
    frames: int
    conf: float
    iou: float
    ready_ns: int
    payload: Payload = Payload.FRAMES
    alone: bool = False


class Answer(NamedTuple):
    """How a task ended.

    Attributes:
        error: None, or what the backend said.
        started_ns: When the worker took it, `time.monotonic_ns`, one clock for all processes.
        finished_ns: When it was done.
    """

    error: str | None
    started_ns: int
    finished_ns: int


@dataclass(frozen=True, kw_only=True)
class RingShape:
    """How large a ring is.

    Attributes:
        slots: How many.
        batch: Frames a slot.
        imgsz_hw: Height and width of a frame, in pixels.
        rows: Output rows a frame.
        letterboxed_hw: Height and width that the graph letterboxes frames to; None: they come letterboxed.
    """

    slots: int
    batch: int
    imgsz_hw: tuple[int, int]
    rows: int
    letterboxed_hw: tuple[int, int] | None = None

    @property
    def payload_bytes(self) -> int:
        """Bytes of one slot's frames."""
        return self.batch * self.imgsz_hw[0] * self.imgsz_hw[1] * 3

    @property
    def rows_bytes(self) -> int:
        """Bytes of one slot's output rows."""
        return self.batch * self.rows * ROW * 4

    @property
    def slot_bytes(self) -> int:
        """Bytes from one slot to the next, whole pages."""
        return PAGE + _whole_pages(self.payload_bytes) + _whole_pages(self.rows_bytes)

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole ring."""
        return PAGE + self.slots * self.slot_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> RingShape:
        """What `to_dict` gave, also after JSON."""
        height, width = fields["imgsz_hw"]
        letterboxed = fields.get("letterboxed_hw")
        sizes = {
            "imgsz_hw": (height, width),
            "letterboxed_hw": None if letterboxed is None else (letterboxed[0], letterboxed[1]),
        }
        return cls(**{**fields, **sizes})


class Slot:
    """One slot of a ring, as either side sees it.

    Attributes:
        index: Its place in the ring.
        frames: (batch, H, W, 3) uint8, the payload as frames; a view of the ring's memory.
        rows: (batch, rows, 6) float32, the output; a view of the ring's memory.
        letterboxed_hw: As in `RingShape`.
        payload: What its payload is.
    """

    def __init__(self, memory: mmap.mmap, shape: RingShape, index: int) -> None:
        self.index = index
        self.letterboxed_hw = shape.letterboxed_hw
        self.payload = Payload.FRAMES if shape.letterboxed_hw is None else Payload.SOURCE_FRAMES
        start = PAGE + index * shape.slot_bytes
        self._memory = memory
        self._start = start
        # one aligned store a change: struct.pack_into writes zeros first, which the other side may see
        self._state = memoryview(memory)[start : start + 4].cast("I")
        payload_at = start + PAGE
        rows_at = payload_at + _whole_pages(shape.payload_bytes)
        self.frames: npt.NDArray[np.uint8] = np.ndarray(
            (shape.batch, *shape.imgsz_hw, 3), np.uint8, memory, payload_at
        )
        self.rows: npt.NDArray[np.float32] = np.ndarray(
            (shape.batch, shape.rows, ROW), np.float32, memory, rows_at
        )

    @property
    def state(self) -> State:
        """Its state now.

        Raises:
            RingError: The word is no state.
        """
        word = self._state[0]
        try:
            return _STATES[word]
        except IndexError as error:
            raise RingError(f"slot {self.index} has the state {word}, which there is not") from error

    @property
    def task(self) -> Task:
        """What it asks for.

        Raises:
            RingError: The checksum does not fit.
        """
        at = self._start + _TASK_AT
        data = self._memory[at : at + _TASK.size]
        if _CHECKSUM.unpack_from(self._memory, self._start + _CHECKSUM_AT)[0] != zlib.crc32(data):
            raise RingError(f"the task in slot {self.index} does not fit its checksum")
        sequence, payload, frames, conf, iou, ready_ns, alone = _TASK.unpack(data)
        return Task(sequence, frames, conf, iou, ready_ns, Payload(payload), bool(alone))

    def begin(self) -> None:
        """FREE -> FILLING, by the program."""
        self._change(State.FREE, State.FILLING)

    def publish(self, task: Task) -> None:
        """FILLING -> READY, by the program, which then signals the worker."""
        sequence, frames, conf, iou, ready_ns, payload, alone = task
        data = _TASK.pack(sequence, payload, frames, conf, iou, ready_ns, alone)
        at = self._start + _TASK_AT
        self._memory[at : at + len(data)] = data
        _CHECKSUM.pack_into(self._memory, self._start + _CHECKSUM_AT, zlib.crc32(data))
        self._change(State.FILLING, State.READY)

    def take(self) -> Task:
        """READY -> RUNNING, by the worker; what is to be done."""
        task = self.task
        _TIMES.pack_into(self._memory, self._start + _TIMES_AT, time.monotonic_ns(), 0)
        self._change(State.READY, State.RUNNING)
        return task

    def finish(self) -> None:
        """RUNNING -> DONE, by the worker, which then signals the program."""
        self._note_end()
        self._change(State.RUNNING, State.DONE)

    def fail(self, message: str) -> None:
        """RUNNING -> FAILED, by the worker, which then signals the program."""
        self._note_end()
        text = message.encode(errors="backslashreplace")[:_TEXT_BYTES]
        _TEXT_LENGTH.pack_into(self._memory, self._start + _LENGTH_AT, len(text))
        self._memory[self._start + _TEXT_AT : self._start + _TEXT_AT + len(text)] = text
        self._change(State.RUNNING, State.FAILED)

    def answer(self, sent: Task) -> Answer | None:
        """How the task ended, for the program; None while it has not.

        Args:
            sent: What the program remembers to have asked.

        Raises:
            RingError: The header is not what was sent, or no state that follows.
        """
        state = self.state
        if state in (State.READY, State.RUNNING):
            return None
        if state not in (State.DONE, State.FAILED):
            raise RingError(f"slot {self.index} is {state.name} while a worker has it")
        if self.task[:2] != sent[:2]:
            raise RingError(f"slot {self.index} answers another task than it was given")
        started_ns, finished_ns = _TIMES.unpack_from(self._memory, self._start + _TIMES_AT)
        if not sent.ready_ns <= started_ns <= finished_ns:
            raise RingError(f"slot {self.index} is {state.name} and no worker has run it")
        return Answer(self._text() if state == State.FAILED else None, started_ns, finished_ns)

    def release(self) -> None:
        """FILLING, DONE or FAILED -> FREE, by the program."""
        if self.state not in (State.FILLING, State.DONE, State.FAILED):
            raise RingError(f"slot {self.index} is {self.state.name} and cannot become FREE")
        self._state[0] = State.FREE

    def _change(self, before: State, after: State) -> None:
        self._expect(before)
        self._state[0] = after

    def _expect(self, state: State) -> None:
        word = self._state[0]
        if word != state:
            raise RingError(f"slot {self.index} has the state {word} where {state.name} is due")

    def _note_end(self) -> None:
        """Writes when it ended; not where it does not run, or a forged state would look like an answer."""
        self._expect(State.RUNNING)
        _TIMES.pack_into(self._memory, self._start + _TIMES_AT, self._started_ns(), time.monotonic_ns())

    def _started_ns(self) -> int:
        return int(_TIMES.unpack_from(self._memory, self._start + _TIMES_AT)[0])

    def _text(self) -> str:
        length = _TEXT_LENGTH.unpack_from(self._memory, self._start + _LENGTH_AT)[0]
        at = self._start + _TEXT_AT
        return self._memory[at : at + min(length, _TEXT_BYTES)].decode(errors="replace")


class Ring:
    """A ring of slots in shared memory. The memory lives as long as anything here or a view of it does.

    Attributes:
        shape: How large it is.
        slots: Its slots.
        memory: (bytes,) uint8, all of it.
        fd: The memory's descriptor, open until `close`.
    """

    def __init__(self, fd: int, memory: mmap.mmap, shape: RingShape) -> None:
        self.fd = fd
        self.shape = shape
        self.memory: npt.NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
        self.slots = [Slot(memory, shape, index) for index in range(shape.slots)]

    @classmethod
    def create(cls, shape: RingShape) -> Ring:
        """A new ring, all slots FREE.

        Raises:
            WorkerError: There is not so much memory, or no file descriptor left.
        """
        try:
            with contextlib.ExitStack() as on_error:
                fd = _nameless_memory()
                on_error.callback(os.close, fd)
                _reserve(fd, shape.total_bytes)
                memory = mmap.mmap(fd, shape.total_bytes)
                memory[: len(_MAGIC)] = _MAGIC
                on_error.pop_all()
        except OSError as error:
            raise WorkerError(
                f"no shared memory for {shape.slots} slots of {shape.batch} frames, "
                f"{shape.total_bytes / 1e6:.0f} MB ({error.strerror}); free some, or ask for fewer workers, "
                "fewer slots or a smaller batch"
            ) from error
        return cls(fd, memory, shape)

    @classmethod
    def attach(cls, fd: int, shape: RingShape) -> Ring:
        """The ring behind a descriptor that the other side sent.

        Raises:
            RingError: It is another memory, or of another size.
        """
        if os.fstat(fd).st_size != shape.total_bytes:
            raise RingError(f"the ring has {os.fstat(fd).st_size} bytes, needed: {shape.total_bytes}")
        memory = mmap.mmap(fd, shape.total_bytes)
        if memory[: len(_MAGIC)] != _MAGIC:
            raise RingError("the shared memory is no ring of this version")
        return cls(fd, memory, shape)

    def ready(self, count: int) -> Iterator[Slot]:
        """The `count` slots that have been READY longest, in the order in which they became so.

        Raises:
            RingError: Fewer are READY.
        """
        waiting = [slot for slot in self.slots if slot.state == State.READY]
        if len(waiting) < count:
            raise RingError(f"{count} slots were announced and {len(waiting)} are READY")
        yield from sorted(waiting, key=lambda slot: slot.task.sequence)[:count]

    def close(self) -> None:
        """Closes the descriptor; the memory stays while views of it are in use. Calling twice is fine."""
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def _nameless_memory() -> int:
    """A descriptor of memory that no path leads to."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("trt-yolo-ring", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as file:  # noqa: S108
        return os.dup(file.fileno())


def _reserve(fd: int, size: int) -> None:
    """Makes the memory that large, now: memory that is only promised ends a process when it is touched."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        os.ftruncate(fd, size)


def _whole_pages(size: int) -> int:
    """So many bytes, rounded up to pages."""
    return -(-size // PAGE) * PAGE
