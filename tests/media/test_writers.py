"""Writing in other threads: everything is written, errors come back, and the backlog is bounded."""

from __future__ import annotations

import functools
import threading
import time
from pathlib import Path

import pytest

from trt_yolo.media.writers import WriterPool


def test_everything_is_written_when_it_is_left(tmp_path: Path) -> None:
    targets = [tmp_path / f"{number}.txt" for number in range(50)]
    with WriterPool[Path](threads=3, backlog=4) as writers:
        for target in targets:
            writers.write(target, functools.partial(_write_slowly, target))
    assert all(target.read_text() == "written" for target in targets)
    assert list(writers.errors(wait=True)) == []


def _write_slowly(target: Path) -> None:
    time.sleep(0.002)
    target.write_text("written")


def test_it_writes_in_other_threads() -> None:
    threads: set[int] = set()
    with WriterPool[int](threads=1) as writers:
        writers.write(0, lambda: threads.add(threading.get_ident()))
    assert threads
    assert threading.get_ident() not in threads


def test_errors_come_once_in_order_with_their_keys(tmp_path: Path) -> None:
    with WriterPool[int]() as writers:
        for number in range(6):
            folder = tmp_path if number % 2 else tmp_path / "missing"
            writers.write(number, functools.partial((folder / str(number)).write_text, "x"))
        found = list(writers.errors(wait=True))
        assert [key for key, _ in found] == [0, 2, 4]
        assert all(isinstance(error, FileNotFoundError) for _, error in found)
        assert list(writers.errors(wait=True)) == []


def test_what_is_under_way_is_not_waited_for_unless_asked() -> None:
    go_on = threading.Event()

    def fail() -> None:
        go_on.wait(10)
        raise OSError("disk full")

    with WriterPool[str]() as writers:
        writers.write("a", fail)
        assert list(writers.errors()) == []
        go_on.set()
        assert [(key, str(error)) for key, error in writers.errors(wait=True)] == [("a", "disk full")]


@pytest.mark.timeout(30)
def test_a_slow_disk_slows_the_caller() -> None:
    go_on = threading.Event()
    accepted: list[int] = []

    def feed() -> None:
        for number in range(5):
            writers.write(number, lambda: go_on.wait(20) or None)
            accepted.append(number)

    with WriterPool[int](threads=1, backlog=2) as writers:
        feeder = threading.Thread(target=feed)
        feeder.start()
        time.sleep(0.2)
        assert accepted == [0, 1]
        go_on.set()
        feeder.join(20)
    assert accepted == [0, 1, 2, 3, 4]
