"""Which job goes into which slot and when a batch leaves: a real ring, and the test in the worker's place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.runtime.models import wait_until
from trt_yolo.errors import ClosedError, WorkerError
from trt_yolo.runtime import batcher
from trt_yolo.runtime.batcher import Batch, Batcher, Place, WorkerQueue
from trt_yolo.runtime.job import Group, Job, Thresholds
from trt_yolo.runtime.ring import Ring, RingError, RingShape, Slot, State

LONG_S = 3600.0
DEFAULT = Thresholds()


class Clock:
    """Stands for the module `time` in the batcher: a test moves it."""

    monotonic_ns = staticmethod(time.monotonic_ns)  # what the ring compares with its own

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(batcher, "time", clock)
    return clock


class Hall:
    """A batcher with queues to workers that do nothing by themselves."""

    def __init__(self, *, workers: int = 1, slots: int = 4, batch: int = 3, max_delay_s: float = 0.0) -> None:
        self.lost: list[Batch] = []
        self.began_to_wait = 0
        self.broken: list[WorkerQueue] = []
        self.notified = [0] * workers
        self.batcher = Batcher(
            max_delay_s=max_delay_s,
            on_lost=self.lost.append,
            on_waiting=self._waits,
            on_broken=lambda queue, _: self.broken.append(queue),
        )
        self.queues = [WorkerQueue(number, notify=self._notify(number)) for number in range(workers)]
        self.shape = RingShape(slots=slots, batch=batch, imgsz_hw=(32, 32), rows=2)
        for queue in self.queues:
            self.open(queue)

    def open(self, queue: WorkerQueue) -> None:
        ring = Ring.create(self.shape)
        self.batcher.open_queue(queue, ring)
        ring.close()

    def _waits(self) -> None:
        self.began_to_wait += 1

    def _notify(self, number: int) -> Callable[[], None]:
        def notify() -> None:
            self.notified[number] += 1

        return notify

    def reserve(self, job: Job | None = None) -> Place:
        place = self.batcher.reserve(job or _job(), timeout_s=0)
        assert place is not None
        return place

    def commit(self, *jobs: Job) -> Batch:
        """Places and writes the jobs; the last one's batch."""
        for job in jobs:
            place = self.reserve(job)
            self.batcher.commit(place)
        return place.batch

    def fill_up(self) -> list[Batch]:
        """Something under way in every free slot of every queue."""
        batches = []
        while self.batcher.has_room():
            batches.append(self.commit(_job(alone=True)))
        return batches

    def answer(self, batch: Batch) -> None:
        """What the worker and the pool do with a batch that was sent."""
        batch.slot.take()
        batch.slot.finish()
        self.batcher.release(batch)


def _job(*, thresholds: Thresholds = DEFAULT, group: Group | None = None, alone: bool = False) -> Job:
    image = np.zeros((8, 8, 3), np.uint8)
    return Job(source=image, thresholds=thresholds, group=group, alone=alone)


def _is_sent(batch: Batch) -> bool:
    return batch.task is not None


def test_a_job_alone_leaves_at_once_when_the_worker_has_nothing() -> None:
    hall = Hall()
    batch = hall.commit(_job())
    assert _is_sent(batch)
    assert batch.slot.state == State.READY
    assert hall.queues[0].in_flight == {batch.slot.index: batch}
    assert hall.notified == [1]


def test_what_is_sent_says_how_many_frames_and_which_thresholds() -> None:
    hall = Hall(max_delay_s=LONG_S)
    thresholds = Thresholds(conf=0.125, iou=0.5)
    batch = hall.commit(*(_job(thresholds=thresholds) for _ in range(3)))
    task = batch.slot.take()
    assert task == batch.task
    assert task[:2] == (1, 3)
    assert (task.conf, task.iou) == (0.125, 0.5)


def test_tasks_are_numbered_in_the_order_in_which_they_leave() -> None:
    hall = Hall(batch=1, slots=4)
    batches = hall.fill_up()
    assert [batch.task and batch.task.sequence for batch in batches] == [1, 2, 3, 4]


def test_places_of_a_batch_are_frames_of_one_slot() -> None:
    hall = Hall(max_delay_s=LONG_S)
    places = [hall.reserve() for _ in range(3)]
    assert [place.number for place in places] == [0, 1, 2]
    assert len({id(place.batch) for place in places}) == 1
    for place in places:
        place.frame[:] = place.number + 1
    assert places[0].batch.slot.frames[:, 0, 0, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize("written_last", [0, 1, 2])
def test_a_full_batch_leaves_when_its_last_place_is_written(written_last: int) -> None:
    hall = Hall(max_delay_s=LONG_S)
    places = [hall.reserve() for _ in range(3)]
    for place in places:
        if place.number != written_last:
            hall.batcher.commit(place)
    assert not _is_sent(places[0].batch)
    hall.batcher.commit(places[written_last])
    assert _is_sent(places[0].batch)
    assert hall.notified == [1]


def test_a_full_batch_that_is_not_written_yet_takes_nobody_else() -> None:
    hall = Hall(max_delay_s=LONG_S)
    places = [hall.reserve() for _ in range(3)]
    assert hall.reserve().batch is not places[0].batch


def test_a_batch_goes_to_the_worker_with_the_most_free_slots() -> None:
    hall = Hall(workers=3, slots=3, batch=1)
    queues = [hall.commit(_job()).queue.number for _ in range(9)]
    assert sorted(queues[:3]) == sorted(queues[3:6]) == sorted(queues[6:]) == [0, 1, 2]
    assert hall.notified == [3, 3, 3]


def test_a_worker_that_answers_faster_gets_more() -> None:
    hall = Hall(workers=2, slots=3, batch=1)
    batches = hall.fill_up()
    quick = [batch for batch in batches if batch.queue.number == 1]
    for batch in quick:
        hall.answer(batch)
    assert [hall.commit(_job()).queue.number for _ in range(3)] == [1, 1, 1]


def test_among_equals_the_worker_unused_for_longest_is_chosen() -> None:
    hall = Hall(workers=2, batch=1)
    order = []
    for _ in range(4):
        batch = hall.commit(_job())
        order.append(batch.queue.number)
        hall.answer(batch)
    assert order in ([0, 1, 0, 1], [1, 0, 1, 0])


def test_a_batch_that_is_not_full_waits_for_max_delay(clock: Clock) -> None:
    hall = Hall(max_delay_s=0.5)
    batch = hall.commit(_job())
    assert hall.began_to_wait == 1
    clock.now_s += 0.25
    assert hall.batcher.send_due() == 100.5
    assert not _is_sent(batch)
    clock.now_s += 0.25
    assert hall.batcher.send_due() is None
    assert _is_sent(batch)


def test_who_waits_for_the_deadline_is_told_once_a_batch() -> None:
    hall = Hall(max_delay_s=LONG_S)
    hall.commit(_job(), _job())
    assert hall.began_to_wait == 1
    hall.commit(_job(), _job())
    assert hall.began_to_wait == 2


def test_a_batch_that_is_not_written_is_not_due() -> None:
    hall = Hall()
    place = hall.reserve()
    assert hall.batcher.send_due() is None
    assert not _is_sent(place.batch)
    hall.batcher.commit(place)
    assert _is_sent(place.batch)


def test_while_the_worker_has_two_batches_a_third_waits_and_grows() -> None:
    hall = Hall()
    running, next_one = hall.commit(_job()), hall.commit(_job())
    third = hall.commit(_job())
    assert (_is_sent(running), _is_sent(next_one), _is_sent(third)) == (True, True, False)
    assert hall.batcher.send_due() is None
    assert hall.commit(_job()) is third
    assert not _is_sent(third)
    hall.answer(running)
    assert _is_sent(third)
    assert len(third.jobs) == 2


def test_a_full_batch_leaves_however_busy_the_worker_is() -> None:
    hall = Hall(slots=5, batch=2, max_delay_s=LONG_S)
    assert all(_is_sent(hall.commit(_job(), _job())) for _ in range(5))
    assert hall.notified == [5]


def test_other_thresholds_are_another_batch() -> None:
    hall = Hall(max_delay_s=LONG_S)
    first = hall.reserve(_job(thresholds=Thresholds(conf=0.25)))
    second = hall.reserve(_job(thresholds=Thresholds(conf=0.5)))
    third = hall.reserve(_job(thresholds=Thresholds(conf=0.25, iou=0.5)))
    assert len({id(place.batch.slot) for place in (first, second, third)}) == 3


def test_classes_and_max_det_share_a_batch_for_they_are_applied_later() -> None:
    hall = Hall(max_delay_s=LONG_S)
    first = hall.reserve(_job(thresholds=Thresholds(classes=[1])))
    second = hall.reserve(_job(thresholds=Thresholds(max_det=1)))
    assert first.batch is second.batch


def test_a_group_leaves_when_all_of_it_is_there_and_not_before() -> None:
    hall, group = Hall(batch=4), Group(2)
    first = hall.commit(_job(group=group))
    hall.batcher.send_due()
    assert not _is_sent(first)
    assert hall.began_to_wait == 0
    assert hall.commit(_job(group=group)) is first
    assert _is_sent(first)


def test_nobody_else_comes_into_the_batch_of_a_group() -> None:
    hall, group = Hall(max_delay_s=LONG_S), Group(3)
    batches = [hall.reserve(job).batch for job in (_job(group=group), _job(), _job(group=Group(2)))]
    assert len({id(batch) for batch in batches}) == 3


def test_a_group_need_not_wait_for_who_will_not_come() -> None:
    hall, group = Hall(), Group(3)
    jobs = [_job(group=group) for _ in range(3)]
    batch = hall.commit(jobs[0])
    hall.batcher.withdraw(jobs[1])
    assert not _is_sent(batch)
    hall.batcher.withdraw(jobs[2])
    assert _is_sent(batch)
    assert batch.jobs == [jobs[0]]


def test_who_is_missing_from_the_start_is_not_waited_for() -> None:
    hall, group = Hall(), Group(3)
    jobs = [_job(group=group) for _ in range(3)]
    hall.batcher.withdraw(jobs[0])
    batch = hall.commit(jobs[1])
    assert not _is_sent(batch)
    assert hall.commit(jobs[2]) is batch
    assert _is_sent(batch)


def test_a_group_still_being_written_leaves_at_its_last_place() -> None:
    hall, group = Hall(), Group(3)
    jobs = [_job(group=group) for _ in range(3)]
    places = [hall.reserve(job) for job in jobs[:2]]
    hall.batcher.withdraw(jobs[2])
    hall.batcher.commit(places[0])
    assert not _is_sent(places[0].batch)
    hall.batcher.commit(places[1])
    assert _is_sent(places[0].batch)


def test_a_job_without_group_has_nothing_to_forgo() -> None:
    hall = Hall(max_delay_s=LONG_S)
    batch = hall.commit(_job())
    hall.batcher.withdraw(_job())
    assert not _is_sent(batch)


def test_who_is_to_be_alone_is_alone_at_once() -> None:
    hall = Hall(max_delay_s=LONG_S)
    waiting = hall.commit(_job())
    suspect = hall.commit(_job(alone=True))
    assert _is_sent(suspect)
    assert len(suspect.jobs) == 1
    assert not _is_sent(waiting)
    assert hall.commit(_job()) is waiting


def test_together_takes_a_whole_slot_and_leaves_when_committed() -> None:
    hall = Hall(max_delay_s=LONG_S)
    jobs = [_job(), _job()]
    batch = hall.batcher.reserve_together(jobs, timeout_s=0)
    assert batch is not None
    assert batch.jobs == jobs
    assert hall.reserve().batch is not batch
    assert batch.slot.state == State.FILLING
    hall.batcher.commit_together(batch)
    assert _is_sent(batch)
    assert batch.slot.take().frames == 2


def test_together_may_give_places_up_but_keeps_the_others_places() -> None:
    hall = Hall()
    jobs = [_job(), _job(), _job()]
    batch = hall.batcher.reserve_together(jobs, timeout_s=0)
    assert batch is not None
    batch.jobs[1] = None
    hall.batcher.commit_together(batch)
    assert batch.slot.take().frames == 3
    assert batch.jobs == [jobs[0], None, jobs[2]]


@pytest.mark.parametrize("count", [1, 3])
def test_together_with_nobody_left_gives_the_slot_back(count: int) -> None:
    hall = Hall(slots=2)
    batch = hall.batcher.reserve_together([_job() for _ in range(count)], timeout_s=0)
    assert batch is not None
    batch.jobs[:] = [None] * count
    hall.batcher.commit_together(batch)
    assert not _is_sent(batch)
    assert batch.slot.state == State.FREE
    assert hall.notified == [0]
    assert len(hall.fill_up()) == 2


def test_an_abandoned_place_stays_empty_and_the_rest_goes_on() -> None:
    hall = Hall(max_delay_s=LONG_S)
    jobs = [_job() for _ in range(3)]
    places = [hall.reserve(job) for job in jobs]
    hall.batcher.commit(places[0])
    hall.batcher.abandon(places[1])
    assert not _is_sent(places[0].batch)
    hall.batcher.commit(places[2])
    assert places[0].batch.jobs == [jobs[0], None, jobs[2]]
    assert places[0].batch.slot.take().frames == 3


def test_a_batch_of_abandoned_places_only_gives_its_slot_back() -> None:
    hall = Hall(slots=2)
    batch = hall.reserve().batch
    hall.batcher.abandon(Place(batch, 0, batch.slot.frames[0]))
    assert batch.slot.state == State.FREE
    assert hall.notified == [0]
    assert hall.queues[0].in_flight == {}
    assert len(hall.fill_up()) == 2


def test_a_group_whose_last_place_is_abandoned_leaves_with_the_rest() -> None:
    hall, group = Hall(), Group(2)
    batch = hall.commit(_job(group=group))
    hall.batcher.abandon(hall.reserve(_job(group=group)))
    assert _is_sent(batch)


def test_without_a_free_slot_there_is_no_place() -> None:
    hall = Hall(slots=2)
    hall.fill_up()
    assert not hall.batcher.has_room()
    assert hall.batcher.reserve(_job(), timeout_s=0) is None
    assert hall.batcher.reserve(_job(), timeout_s=0.01) is None
    assert hall.batcher.reserve_together([_job()], timeout_s=0) is None
    assert hall.batcher.reserve_together([_job()], timeout_s=0.01) is None


def test_without_a_worker_there_is_no_place() -> None:
    hall = Hall(workers=0)
    assert not hall.batcher.has_room()
    assert hall.batcher.reserve(_job(), timeout_s=0) is None
    assert hall.batcher.send_due() is None


def test_released_slots_are_free_again() -> None:
    hall = Hall(slots=2)
    for _ in range(3):
        batches = hall.fill_up()
        assert len(batches) == 2
        for batch in batches:
            hall.answer(batch)
            assert batch.slot.state == State.FREE
    assert hall.queues[0].in_flight == {}


@pytest.mark.parametrize(
    "wait",
    [
        pytest.param(lambda batcher: batcher.reserve(_job()), id="reserve"),
        pytest.param(lambda batcher: batcher.reserve(_job(), timeout_s=20), id="reserve-in-time"),
        pytest.param(lambda batcher: batcher.reserve_together([_job()], timeout_s=20), id="together"),
    ],
)
@pytest.mark.parametrize("by", ["release", "new worker", "abandon"])
def test_who_waits_for_a_place_is_woken(
    wait: Callable[[Batcher], object], by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "_CHECK_S", 30.0)  # it is not at its next look that it finds the place
    hall = Hall(slots=1, max_delay_s=LONG_S)
    place = hall.reserve(_job(alone=True))
    if by == "release":
        hall.batcher.commit(place)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, hall.batcher)
        assert wait_until(lambda: hall.batcher._slot_free._waiters)
        if by == "release":
            hall.answer(place.batch)
        elif by == "new worker":
            hall.open(WorkerQueue(1))
        else:
            hall.batcher.abandon(place)
        assert waiting.result(10) is not None


@pytest.mark.parametrize("count", range(5))
def test_who_waits_gets_a_slot_before_who_comes_later(count: int) -> None:
    """Or results of a stream in order wait for the one frame that is passed by again and again."""
    hall = Hall(batch=1)
    under_way = hall.fill_up()
    first, second = _job(), _job()
    with ThreadPoolExecutor(2) as threads:
        earlier = threads.submit(hall.batcher.reserve, first)
        assert wait_until(lambda: list(hall.batcher._waiting) == [first])
        hall.answer(under_way[0])
        assert hall.batcher.reserve(second, timeout_s=0.05) is None  # the only free slot is the other's
        place = earlier.result(timeout=5)
    assert place is not None
    assert place.batch.jobs == [first]
    assert not hall.batcher._waiting
    hall.answer(under_way[1])
    assert hall.batcher.reserve(second, timeout_s=5) is not None


def test_all_who_wait_share_the_batch_that_the_first_begins() -> None:
    hall = Hall(batch=3, slots=2)
    under_way = hall.fill_up()
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(hall.batcher.reserve, _job()) for _ in range(3)]
        assert wait_until(lambda: len(hall.batcher._waiting) == 3)
        hall.answer(under_way[0])
        places = [one.result(timeout=5) for one in waiting]
    assert {place.batch.slot.index for place in places if place is not None} == {under_way[0].slot.index}
    assert sorted(place.number for place in places if place is not None) == [0, 1, 2]


@pytest.mark.parametrize(
    "wait",
    [
        pytest.param(lambda batcher: batcher.reserve(_job()), id="reserve"),
        pytest.param(lambda batcher: batcher.reserve_together([_job()], timeout_s=20), id="together"),
    ],
)
def test_who_waits_when_it_is_closed_gets_the_error(wait: Callable[[Batcher], object]) -> None:
    hall = Hall(slots=1)
    hall.fill_up()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait, hall.batcher)
        assert wait_until(lambda: hall.batcher._slot_free._waiters)
        hall.batcher.close(ClosedError("the model is closed"))
        with pytest.raises(ClosedError, match="the model is closed"):
            waiting.result(10)


def test_who_comes_after_the_end_gets_the_first_reason_each_time_as_a_new_error() -> None:
    hall = Hall()
    reason = WorkerError("no worker can start")
    hall.batcher.close(reason)
    hall.batcher.close(ClosedError("the model is closed"))
    raised = []
    for _ in range(2):
        with pytest.raises(WorkerError, match="no worker can start") as caught:
            hall.batcher.reserve(_job())
        raised.append(caught.value)
    assert len({id(error) for error in (*raised, reason)}) == 3
    with pytest.raises(WorkerError, match="no worker can start"):
        hall.batcher.reserve_together([_job()], timeout_s=0)
    assert hall.batcher.has_room()


def test_what_a_worker_had_comes_back_in_the_order_it_was_sent() -> None:
    hall = Hall(slots=3)
    batches = hall.fill_up()
    hall.answer(batches[1])
    again = hall.commit(_job(alone=True))
    assert hall.batcher.close_queue(hall.queues[0]) == [batches[0], batches[2], again]
    assert hall.lost == []
    assert not hall.batcher.has_room()
    assert not hall.batcher.has_room()


def test_a_batch_whose_worker_ended_is_lost_once_all_of_it_is_written() -> None:
    hall = Hall(max_delay_s=LONG_S)
    places = [hall.reserve() for _ in range(2)]
    hall.batcher.commit(places[0])
    assert hall.batcher.close_queue(hall.queues[0]) == []
    assert hall.lost == []
    places[1].frame[:] = 9
    hall.batcher.commit(places[1])
    assert hall.lost == [places[0].batch]
    assert (hall.lost[0].slot.frames[1] == 9).all()
    assert hall.notified == [0]


def test_a_written_batch_that_waited_for_more_is_lost_at_once() -> None:
    hall = Hall(max_delay_s=LONG_S)
    batch = hall.commit(_job(), _job())
    hall.batcher.close_queue(hall.queues[0])
    assert hall.lost == [batch]
    assert hall.batcher.send_due() is None


def test_a_full_batch_whose_worker_ended_is_lost_at_its_last_place() -> None:
    hall = Hall(max_delay_s=LONG_S)
    places = [hall.reserve() for _ in range(3)]
    hall.batcher.close_queue(hall.queues[0])
    for place in places[:2]:
        hall.batcher.commit(place)
    assert hall.lost == []
    hall.batcher.abandon(places[2])
    assert hall.lost == [places[0].batch]


@pytest.mark.parametrize("is_replaced", [False, True])
def test_jobs_together_whose_worker_ended_are_lost(is_replaced: bool) -> None:
    hall = Hall()
    batch = hall.batcher.reserve_together([_job(), _job()], timeout_s=0)
    assert batch is not None
    hall.batcher.close_queue(hall.queues[0])
    if is_replaced:
        hall.open(hall.queues[0])
    hall.batcher.commit_together(batch)
    assert hall.lost == [batch]
    assert not _is_sent(batch)
    assert hall.notified == [0]


def test_a_batch_begun_for_the_last_worker_does_not_go_to_the_next() -> None:
    hall = Hall(max_delay_s=LONG_S)
    old = hall.reserve()
    hall.batcher.close_queue(hall.queues[0])
    hall.open(hall.queues[0])
    new = hall.reserve()
    assert new.batch is not old.batch
    hall.batcher.commit(old)
    assert hall.lost == [old.batch]
    assert hall.queues[0].in_flight == {}
    assert len(hall.fill_up()) >= hall.shape.slots - 1


def test_other_workers_go_on_when_one_ends() -> None:
    hall = Hall(workers=2, batch=1)
    hall.batcher.close_queue(hall.queues[0])
    assert {batch.queue.number for batch in hall.fill_up()} == {1}


def test_releasing_what_a_worker_that_ended_had_changes_nothing() -> None:
    hall = Hall(slots=2)
    batch = hall.commit(_job())
    hall.batcher.close_queue(hall.queues[0])
    hall.batcher.release(batch)
    assert not hall.batcher.has_room()


def test_the_release_of_a_batch_of_the_last_worker_frees_nothing_of_the_next() -> None:
    hall = Hall(slots=2)
    old = hall.commit(_job(alone=True))
    hall.batcher.close_queue(hall.queues[0])
    hall.open(hall.queues[0])
    new = hall.commit(_job(alone=True))
    assert new.slot.index == old.slot.index
    hall.batcher.release(old)
    assert hall.queues[0].in_flight == {new.slot.index: new}


def _tear(slot: Slot) -> None:
    """Brings a slot into a state that is not due, as something else that writes there would."""
    if slot.state == State.FREE:
        slot.begin()
    else:
        slot.release()


def test_a_slot_that_is_not_free_when_it_should_be_is_left_out_and_told() -> None:
    hall = Hall(slots=2)
    _tear(hall.queues[0].slots[0])
    assert hall.batcher.reserve(_job(), timeout_s=0) is None
    assert hall.broken == hall.queues
    place = hall.reserve()
    assert place.batch.slot.index == 1
    hall.batcher.commit(place)
    assert _is_sent(place.batch)


@pytest.mark.parametrize("how", ["commit", "abandon", "together", "due"])
def test_a_batch_whose_slot_was_written_to_is_lost_and_told(how: str, clock: Clock) -> None:
    hall = Hall(slots=2, max_delay_s=1.0 if how == "due" else 0.0)
    jobs = [_job(), _job()]
    if how == "together":
        batch = hall.batcher.reserve_together(jobs, timeout_s=0)
        assert batch is not None
        _tear(batch.slot)
        hall.batcher.commit_together(batch)
    else:
        places = [hall.reserve(job) for job in jobs]
        batch = places[0].batch
        hall.batcher.commit(places[0])
        _tear(batch.slot)
        (hall.batcher.abandon if how == "abandon" else hall.batcher.commit)(places[1])
    if how == "due":
        clock.now_s += 1.0
        hall.batcher.send_due()
    assert hall.lost == [batch]
    assert batch.lost
    assert hall.broken == hall.queues
    assert hall.notified == [0]
    assert hall.queues[0].in_flight == {}
    assert batch.jobs[0] is jobs[0]


def test_a_corrupt_batch_is_lost_once_also_when_its_worker_is_retired() -> None:
    hall = Hall()
    place = hall.reserve()
    _tear(place.batch.slot)
    hall.batcher.commit(place)
    assert hall.batcher.close_queue(hall.queues[0]) == []
    assert hall.lost == [place.batch]


def test_a_batch_that_cannot_be_released_stays_in_flight() -> None:
    hall = Hall()
    batch = hall.commit(_job())
    with pytest.raises(RingError, match="is READY and cannot become FREE"):
        hall.batcher.release(batch)
    assert hall.queues[0].in_flight == {batch.slot.index: batch}
    assert hall.batcher.close_queue(hall.queues[0]) == [batch]


def test_a_queue_says_since_when_its_worker_owes_an_answer(clock: Clock) -> None:
    hall = Hall()
    queue = hall.queues[0]
    first = hall.commit(_job())
    assert queue.since_s == 100.0
    assert not queue.has_answered
    clock.now_s += 1.0
    hall.commit(_job())
    assert queue.since_s == 100.0
    hall.answer(first)
    assert queue.since_s == 101.0
    assert queue.has_answered


def test_many_threads_fill_and_every_job_is_sent_once() -> None:
    hall = Hall(workers=2, slots=2, batch=3)
    jobs = [_job() for _ in range(200)]
    seen: list[Job | None] = []
    stopped = threading.Event()

    def work() -> None:
        while not stopped.is_set() or any(queue.in_flight for queue in hall.queues):
            hall.batcher.send_due()
            for batch in [batch for queue in hall.queues for batch in list(queue.in_flight.values())]:
                seen.extend(batch.jobs)
                hall.answer(batch)

    def place(job: Job) -> None:
        found = hall.batcher.reserve(job)
        assert found is not None
        hall.batcher.commit(found)

    worker = threading.Thread(target=work)
    worker.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(place, jobs))
    hall.batcher.send_due()
    stopped.set()
    worker.join(20)
    assert not worker.is_alive()
    assert len(seen) == len(jobs)
    assert {id(job) for job in seen} == {id(job) for job in jobs}
