"""The code of a worker: loads a backend, reports it, runs slots in place until it is told to stop.

`serve` is a worker process's whole life; `run_slots` is its work, which `runtime/inline.py` runs in a thread.
The conversation over the channel:

    program                                   worker
                                        <──   {doing}
    {factory, options, cores, threads}  ──>   loads the backend
                                        <──   {loaded: manifest, at_once, doing}   or {error: class, text}
    {shape} + ring, ready (2), done     ──>   attaches the ring, warms up
                                        <──   {ready: true, about}           or {error: class, text}
    signals `ready` for every slot      ──>   runs it, signals `done`        or {error: class, text}, and leaves
    {stop: true}                        ──>   leaves

A worker whose program is gone leaves by itself. Knows no images, no letterbox geometry and no other workers.
"""

from __future__ import annotations

import collections
import contextlib
import importlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from trt_yolo.backends.base import Backend, Flight
from trt_yolo.errors import DeviceError, TrtYoloError
from trt_yolo.runtime.ipc import Channel, Wake, give_way
from trt_yolo.runtime.ring import Ring, RingShape, Slot

_log = logging.getLogger(__name__)
_LOOK_S = 1.0
_NAP_S = 20e-6  # the system makes some 70 us of it
_RING, _READY_READ, _READY_WRITE, _DONE_WRITE = range(4)  # the descriptors, as the program sends them


@dataclass(frozen=True, kw_only=True)
class BackendSpec:
    """How to make a backend, as plain values that can be sent to another process.

    Attributes:
        factory: `package.module:name` of a class or function that returns a `Backend`.
        options: Its keyword arguments; values that JSON can hold.
        takes_threads: Whether it has a keyword `threads` too, CPU threads of one inference.
        devices: Its keyword `device` for the first worker, the second, and so on, round and round; none: it has none.
    """

    factory: str
    options: dict[str, Any] = field(default_factory=dict)
    takes_threads: bool = False
    devices: tuple[int, ...] = ()

    def of_worker(self, number: int) -> BackendSpec:
        """The same for one worker, from 0."""
        if not self.devices:
            return self
        options = self.options | {"device": self.devices[number % len(self.devices)]}
        return replace(self, options=options, devices=())

    def build(self, threads: int) -> Backend:
        """The backend, loaded in this process, with so many CPU threads; errors are the factory's."""
        module, _, name = self.factory.partition(":")
        options = {**self.options, "threads": threads} if self.takes_threads else self.options
        made: Backend = getattr(importlib.import_module(module), name)(**options)
        return made


@dataclass(frozen=True, kw_only=True)
class WorkerSpec:
    """What a worker is told at its start.

    Attributes:
        backend: What it runs.
        threads: CPU threads of one inference.
        cores: The CPU cores that it may use; None for those of the program.
        folder: The working directory that paths in `backend` start from; None for the program's own.
    """

    backend: BackendSpec
    threads: int
    cores: list[int] | None = None
    folder: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the channel."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> WorkerSpec:
        """What `to_dict` gave."""
        return cls(**{**fields, "backend": BackendSpec(**fields["backend"])})


def run_slots(backend: Backend, ring: Ring, ready: Wake, done: Wake, is_stopped: Callable[[], bool]) -> None:
    """Runs READY slots in their order, as many at once as the backend can, until it is stopped.

    Raises:
        RingError: The ring's memory was written to by something else.
        DeviceError: The device is lost; the slots at hand stay RUNNING.
    """
    running = _Running(backend, done)
    announced = 0
    while True:
        announced += ready.take() if running.flights or announced else ready.wait()
        if is_stopped():
            return
        while announced and running.has_room(ring) and not is_stopped():  # many may be announced at once
            (slot,) = ring.ready(1)
            announced -= 1
            running.begin(slot)
        if running.flights:
            running.land()


class _Running:
    """The slots that a backend has begun, the oldest first."""

    def __init__(self, backend: Backend, done: Wake) -> None:
        self._backend, self._done = backend, done
        self.flights: collections.deque[tuple[Slot, Flight, bool]] = collections.deque()
        self._idle_s = 0.0

    def has_room(self, ring: Ring) -> bool:
        """Whether the next READY slot may be begun; one that is to run alone waits for all others, and they for it."""
        if not self.flights:
            return True
        if len(self.flights) >= self._backend.at_once or self.flights[-1][2]:
            return False
        (slot,) = ring.ready(1)
        return not slot.task.alone

    def begin(self, slot: Slot) -> None:
        task = slot.take()
        try:
            flight = self._backend.begin_into(
                slot.frames, slot.rows, count=task.frames, conf=task.conf, iou=task.iou
            )
        except DeviceError:
            raise
        except Exception as error:  # noqa: BLE001  a backend may raise anything: it is the frame's answer
            self._fail(slot, error)
            return
        if self._backend.at_once == 1:
            self._finish(slot, flight)
        else:
            self.flights.append((slot, flight, task.alone))

    def land(self) -> None:
        """Finishes the oldest if it is done; else yields the core, and sleeps if nothing was done for long."""
        slot, flight, _ = self.flights[0]
        if flight.is_done():
            self.flights.popleft()
            self._idle_s = 0.0
            self._finish(slot, flight)
            return
        now_s = time.perf_counter()
        self._idle_s = self._idle_s or now_s
        if now_s - self._idle_s < self._backend.spin_s:
            give_way()
        else:
            time.sleep(_NAP_S)

    def _finish(self, slot: Slot, flight: Flight) -> None:
        try:
            flight.finish()
        except DeviceError:
            raise
        except Exception as error:  # noqa: BLE001  as above
            self._fail(slot, error)
        else:
            slot.finish()
            self._done.signal()

    def _fail(self, slot: Slot, error: Exception) -> None:
        slot.fail(_in_words(error))
        self._done.signal()


def serve(fd: int) -> None:
    """A worker process, from start to end.

    Args:
        fd: The channel to the program that started it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the program, which stops its workers
    channel = Channel.from_fd(fd)
    threading.Thread(target=_exit_with_program, args=(channel,), daemon=True).start()
    try:
        with contextlib.ExitStack() as stack:
            _serve(channel, stack)
    except (BrokenPipeError, ConnectionResetError):
        os._exit(0)  # the program is gone
    except Exception as error:  # noqa: BLE001  whatever it is, the program should hear it
        with contextlib.suppress(OSError):
            channel.send({"error": type(error).__name__, "text": _in_words(error)})
        if not isinstance(error, TrtYoloError):
            _log.exception("worker %d ended", os.getpid())
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # no destructors: threads of native libraries may be at work


def _serve(channel: Channel, stack: contextlib.ExitStack) -> None:
    channel.send({"doing": "loading the model"})
    received = channel.receive()
    if received is None:
        return
    spec = WorkerSpec.from_dict(received[0])
    if spec.cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, spec.cores)
    backend = stack.enter_context(spec.backend.build(spec.threads))
    channel.send({"loaded": backend.manifest.to_json(), "at_once": backend.at_once, "doing": "warming up"})
    received = channel.receive()
    if received is None:
        return
    message, fds = received
    ring = Ring.attach(fds[_RING], RingShape.from_dict(message["shape"]))
    backend.adopt(ring.memory)
    backend.warm_up([(slot.frames, slot.rows) for slot in ring.slots])
    ready, done = Wake(fds[_READY_READ], fds[_READY_WRITE]), Wake(-1, fds[_DONE_WRITE])
    stopped = threading.Event()
    threading.Thread(target=_await_stop, args=(channel, stopped, ready), daemon=True).start()
    channel.send({"ready": True, "about": backend.about})
    run_slots(backend, ring, ready, done, stopped.is_set)


def _exit_with_program(channel: Channel) -> None:
    """Ends the process when its program is gone, whatever the process is doing."""
    program = os.getppid()
    hang_up = select.poll()
    hang_up.register(channel, getattr(select, "POLLRDHUP", 0))
    while not hang_up.poll(_LOOK_S * 1e3):
        if os.getppid() != program:  # the socket may live on in a child that the program forked
            break
    os._exit(0)


def _await_stop(channel: Channel, stopped: threading.Event, ready: Wake) -> None:
    """Waits for the message to stop, and wakes `run_slots`."""
    if channel.receive() is not None:
        stopped.set()
        ready.signal()


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, TrtYoloError) else f"{type(error).__name__}: {error}"
