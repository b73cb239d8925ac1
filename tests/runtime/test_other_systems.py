"""The runtime without what only Linux has: pipes, a nameless file and poll instead of eventfd, memfd and epoll."""

from __future__ import annotations

import os
import select

import pytest

from tests.runtime.models import kill_one, marked, pool_model, rings_left

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _no_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((os, "eventfd"), (os, "memfd_create"), (select, "epoll")):
        monkeypatch.delattr(module, name, raising=False)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 4])
def test_every_call_answers(workers: int, batch: int) -> None:
    with pool_model("Faulty", workers=workers, batch=batch) as model:
        frames = [marked(index) for index in range(50)]
        wanted = [*range(50)]
        assert model(frames[7]).class_id[0] == 7
        assert [found.class_id[0] for found in model(frames)] == wanted
        assert [result.detections.class_id[0] for result in model.stream(frames)] == wanted
        assert [result.detections.class_id[0] for result in model.stream(iter(frames))] == wanted
        futures = [model.submit(frame) for frame in frames]
        assert [future.result(10).class_id[0] for future in futures] == wanted


def test_a_killed_worker_is_replaced_and_nothing_is_left() -> None:
    with pool_model("Faulty", {"delay_ms": 2}, workers=2) as model:
        got = []
        for result in model.stream([marked(index % 200) for index in range(400)]):
            got.append(result.detections.class_id[0])
            if result.index == 50:
                kill_one(model)
        assert got == [index % 200 for index in range(400)]
        assert rings_left() == set()
