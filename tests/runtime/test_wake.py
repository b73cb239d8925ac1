"""The counter that wakes the other side, as an eventfd and as a pipe."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator

import pytest

from trt_yolo.runtime.ipc import Wake


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


def test_who_sleeps_is_woken(wake: Wake) -> None:
    timer = threading.Timer(0.05, wake.signal)  # long after it has stopped spinning
    timer.start()
    assert wake.wait() == 1
    timer.join()


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
