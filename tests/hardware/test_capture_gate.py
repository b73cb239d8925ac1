"""Whoever captures is alone; whoever allocates waits for it, and is not waited for twice."""

from __future__ import annotations

import threading

from trt_yolo.hardware.capture_gate import allocating, capturing


def test_many_allocate_at_once() -> None:
    both = threading.Barrier(2, timeout=10)

    def work() -> None:
        with allocating():
            both.wait()

    thread = threading.Thread(target=work)
    thread.start()
    work()
    thread.join()


def test_nobody_allocates_while_one_captures() -> None:
    inside: list[str] = []
    clashes: list[str] = []

    def work(name: str) -> None:
        for _ in range(500):
            with capturing() if name.startswith("capture") else allocating():
                inside.append(name)
                there = set(inside)
                if len(there) > 1 and any(one.startswith("capture") for one in there):
                    clashes.append(" ".join(sorted(there)))
                inside.remove(name)

    names = ["capture 1", "capture 2", "allocate 1", "allocate 2", "allocate 3"]
    threads = [threading.Thread(target=work, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clashes == []


def test_a_failure_leaves_the_gate_open() -> None:
    for gate in (allocating, capturing):
        try:
            with gate():
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
    with capturing():
        pass
    with allocating():
        pass
