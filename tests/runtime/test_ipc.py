"""What a program and its workers reach each other by: counters that wake, and messages over a socket."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from trt_yolo.runtime.ipc import Channel, Wake


@pytest.fixture(params=["eventfd", "pipe"])
def wake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wake]:
    if request.param == "pipe":
        monkeypatch.delattr(os, "eventfd")
    one = Wake.create()
    assert (one.read_fd == one.write_fd) == (request.param == "eventfd")
    yield one
    one.close()


def _is_readable(wake: Wake) -> bool:
    return bool(select.select([wake], [], [], 0)[0])


def test_a_new_counter_is_at_0_and_sleeps(wake: Wake) -> None:
    assert not _is_readable(wake)
    assert wake.take() == 0


@pytest.mark.parametrize("count", [1, 2, 500])
def test_signals_add_up_and_are_taken_once(wake: Wake, count: int) -> None:
    for _ in range(count):
        wake.signal()
    assert _is_readable(wake)
    assert wake.take() == count
    assert wake.take() == 0
    assert not _is_readable(wake)


def test_waiting_takes_what_is_there(wake: Wake) -> None:
    wake.signal()
    wake.signal()
    assert wake.wait() == 2
    assert wake.take() == 0


def test_who_sleeps_is_woken(wake: Wake, monkeypatch: pytest.MonkeyPatch) -> None:
    class Poll:
        """Signals once somebody is about to sleep."""

        def poll(self) -> None:
            wake.signal()
            sleeping.poll()

    sleeping = wake._poll
    monkeypatch.setattr(wake, "_poll", Poll())
    assert wake.wait() == 1


def test_nothing_is_lost_between_two_threads(wake: Wake) -> None:
    count, taken = 300, 0
    signals = threading.Thread(target=lambda: [wake.signal() for _ in range(count)])
    signals.start()
    while taken < count:
        taken += wake.wait()
    signals.join()
    assert taken == count
    assert wake.take() == 0


def test_a_side_of_its_own_for_each_end(wake: Wake) -> None:
    reader, writer = Wake(os.dup(wake.read_fd), -1), Wake(-1, os.dup(wake.write_fd))
    writer.signal()
    assert reader.wait() == 1
    writer.close()
    reader.close()


def test_descriptors_are_not_inherited(wake: Wake) -> None:
    assert not os.get_inheritable(wake.read_fd)
    assert not os.get_inheritable(wake.write_fd)


def test_closing_twice_closes_once(wake: Wake) -> None:
    read_fd = wake.read_fd
    wake.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(read_fd)
    wake.close()
    assert (wake.read_fd, wake.write_fd, wake.fileno()) == (-1, -1, -1)


def test_a_full_pipe_holds_nobody_up_and_still_wakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd")
    wake = Wake.create()
    for _ in range(20_000):  # a pipe holds 8192 words
        wake.signal()
    assert wake.wait() > 0
    wake.close()


def test_a_want_of_descriptors_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(initval: int, flags: int) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "eventfd", refuse)
    with pytest.raises(OSError, match="Too many open files"):
        Wake.create()


Pair = tuple[Channel, Channel]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, other = Channel.pair()
    yield one, other
    one.close()
    other.close()


@pytest.mark.parametrize(
    "message",
    [{}, {"stop": True}, {"text": "日本 \n \0 \"'"}, {"deep": [{"a": None}, [1.5, -2]]}, {"lone": "\udcff"}],
    ids=str,
)
def test_a_message_arrives_as_it_was_sent(pair: Pair, message: dict[str, Any]) -> None:
    one, other = pair
    one.send(message)
    assert other.receive(timeout_s=5) == (message, [])


def test_messages_stay_apart_and_in_order_in_both_directions(pair: Pair) -> None:
    one, other = pair
    for number in range(50):
        one.send({"number": number})
        other.send({"back": number})
    assert [other.receive(timeout_s=5) for _ in range(50)] == [({"number": n}, []) for n in range(50)]
    assert [one.receive(timeout_s=5) for _ in range(50)] == [({"back": n}, []) for n in range(50)]


@pytest.mark.parametrize("with_file", [False, True])
def test_a_large_message_arrives_whole(pair: Pair, with_file: bool) -> None:
    one, other = pair
    text = "0123456789" * 300_000
    got: list[Any] = []
    reader = threading.Thread(target=lambda: got.extend([other.receive(), other.receive()]))
    reader.start()
    one.send({"text": text}, [0] if with_file else [])
    one.send({"next": 1})
    reader.join(20)
    (first, fds), second = got
    assert first == {"text": text}
    assert len(fds) == with_file
    assert second == ({"next": 1}, [])
    for fd in fds:
        os.close(fd)


def test_descriptors_come_with_their_message_as_copies_that_no_child_inherits(pair: Pair) -> None:
    one, other = pair
    read_fd, write_fd = os.pipe()
    one.send({"first": 1})
    one.send({"second": 2}, [read_fd, write_fd])
    one.send({"third": 3})
    os.close(read_fd)
    os.close(write_fd)
    assert other.receive(timeout_s=5) == ({"first": 1}, [])
    received = other.receive(timeout_s=5)
    assert received is not None
    message, (reading, writing) = received
    assert message == {"second": 2}
    assert not os.get_inheritable(reading)
    assert not os.get_inheritable(writing)
    os.write(writing, b"through")
    assert os.read(reading, 100) == b"through"
    assert other.receive(timeout_s=5) == ({"third": 3}, [])
    os.close(reading)
    os.close(writing)


def test_as_many_descriptors_as_a_worker_gets_keep_their_order(pair: Pair) -> None:
    one, other = pair
    files = [os.memfd_create(str(number)) for number in range(4)]
    for number, fd in enumerate(files):
        os.write(fd, b"x" * number)
    one.send({}, files)
    received = other.receive(timeout_s=5)
    assert received is not None
    assert [os.fstat(fd).st_size for fd in received[1]] == [0, 1, 2, 3]
    for fd in [*files, *received[1]]:
        os.close(fd)


def test_the_end_of_the_stream_comes_after_the_last_message(pair: Pair) -> None:
    one, other = pair
    one.send({"last": True})
    one.close()
    one.close()
    assert other.receive(timeout_s=5) == ({"last": True}, [])
    assert other.receive(timeout_s=5) is None
    assert other.receive(timeout_s=5) is None


@pytest.mark.parametrize("sent", [b"\x05", b"\x05\0\0\0", b"\x05\0\0\0{}"], ids=["head", "no-data", "data"])
def test_a_message_cut_short_by_the_end_is_the_end(sent: bytes) -> None:
    raw, end = socket.socketpair()
    channel = Channel(end)
    raw.sendall(sent)
    raw.close()
    assert channel.receive(timeout_s=5) is None
    channel.close()


def test_a_side_that_left_messages_unread_is_gone_too(pair: Pair) -> None:
    one, other = pair
    one.send({"unread": 1})
    other.close()
    assert one.receive(timeout_s=5) is None
    with pytest.raises(OSError, match="Broken pipe"):
        one.send({})


@pytest.mark.parametrize("sent", [b"", b"\x05\0\0\0{}"], ids=["silence", "half-a-message"])
def test_what_does_not_come_in_time_is_a_timeout(sent: bytes) -> None:
    raw, end = socket.socketpair()
    channel = Channel(end)
    raw.sendall(sent)
    with pytest.raises(TimeoutError):
        channel.receive(timeout_s=0.01)
    channel.close()
    raw.close()


def test_a_timeout_is_forgotten_at_the_next_message(pair: Pair) -> None:
    one, other = pair
    with pytest.raises(TimeoutError):
        other.receive(timeout_s=0.01)
    one.send({"late": 1})
    assert other.receive() == ({"late": 1}, [])
    assert other._socket.gettimeout() is None


def test_the_end_inherited_as_a_descriptor_is_the_same_end(pair: Pair) -> None:
    one, other = pair
    inherited = Channel.from_fd(os.dup(other.fileno()))
    one.send({"to": "child"})
    assert inherited.receive(timeout_s=5) == ({"to": "child"}, [])
    inherited.close()


@pytest.mark.parametrize("fds", [[], [0]], ids=["message", "with-descriptors"])
def test_a_program_that_does_not_ignore_sigpipe_survives_the_other_sides_end(fds: list[int]) -> None:
    script = f"""
import signal
from trt_yolo.runtime.ipc import Channel
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
one, other = Channel.pair()
other.close()
try:
    one.send({{}}, {fds})
except BrokenPipeError:
    print("gone")
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "gone\n")
