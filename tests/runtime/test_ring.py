"""The shared memory of a program and a worker: its arithmetic, its states, and what shows that it was damaged."""

from __future__ import annotations

import errno
import gc
import json
import os
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from trt_yolo.errors import WorkerError
from trt_yolo.runtime.ring import PAGE, ROW, Payload, Ring, RingError, RingShape, Slot, State, Task

SHAPE = RingShape(slots=3, batch=2, imgsz_hw=(32, 64), rows=20)
TASK = Task(1, 2, 0.25, 0.75, 123)

# where the header's words lie, as the module's docstring orders them
TASK_AT, CHECKSUM_AT, TEXT_LENGTH_AT = 8, 56, 96


@pytest.fixture
def ring() -> Iterator[Ring]:
    one = Ring.create(SHAPE)
    yield one
    one.close()


def _begin(slot: Slot) -> None:
    slot.begin()


def _publish(slot: Slot) -> None:
    slot.publish(TASK)


def _take(slot: Slot) -> None:
    slot.take()


def _finish(slot: Slot) -> None:
    slot.finish()


def _fail(slot: Slot) -> None:
    slot.fail("broken")


def _release(slot: Slot) -> None:
    slot.release()


WAYS: dict[State, list[Callable[[Slot], None]]] = {
    State.FREE: [],
    State.FILLING: [_begin],
    State.READY: [_begin, _publish],
    State.RUNNING: [_begin, _publish, _take],
    State.DONE: [_begin, _publish, _take, _finish],
    State.FAILED: [_begin, _publish, _take, _fail],
}
CHANGES: dict[Callable[[Slot], None], dict[State, State]] = {
    _begin: {State.FREE: State.FILLING},
    _publish: {State.FILLING: State.READY},
    _take: {State.READY: State.RUNNING},
    _finish: {State.RUNNING: State.DONE},
    _fail: {State.RUNNING: State.FAILED},
    _release: {State.FILLING: State.FREE, State.DONE: State.FREE, State.FAILED: State.FREE},
}


def _in_state(ring: Ring, state: State, *, index: int = 0) -> Slot:
    slot = ring.slots[index]
    for step in WAYS[state]:
        step(slot)
    assert slot.state == state
    return slot


def _poke(ring: Ring, slot: Slot, at: int, data: bytes) -> None:
    """Writes to the memory behind the ring's back, as a stray pointer would."""
    os.pwrite(ring.fd, data, PAGE + slot.index * SHAPE.slot_bytes + at)


def _peek(ring: Ring, slot: Slot, at: int, size: int) -> bytes:
    return os.pread(ring.fd, size, PAGE + slot.index * SHAPE.slot_bytes + at)


@pytest.mark.parametrize(
    ("batch", "imgsz_hw", "rows", "payload_pages", "rows_pages"),
    [
        pytest.param(1, (32, 32), 1, 1, 1, id="less-than-a-page"),
        pytest.param(1, (64, 64), 171, 3, 2, id="a-little-more-than-a-page-of-rows"),
        pytest.param(4, (640, 640), 512, 1200, 12, id="whole-pages"),
        pytest.param(3, (32, 64), 300, 5, 6, id="odd-batch"),
    ],
)
@pytest.mark.skipif(PAGE != 4096, reason="counted for pages of 4096 bytes")
def test_a_slot_is_a_page_of_header_and_whole_pages_of_frames_and_rows(
    batch: int, imgsz_hw: tuple[int, int], rows: int, payload_pages: int, rows_pages: int
) -> None:
    shape = RingShape(slots=5, batch=batch, imgsz_hw=imgsz_hw, rows=rows)
    assert shape.payload_bytes == batch * imgsz_hw[0] * imgsz_hw[1] * 3
    assert shape.rows_bytes == batch * rows * ROW * 4
    assert shape.slot_bytes == (1 + payload_pages + rows_pages) * 4096
    assert shape.total_bytes == 4096 + 5 * shape.slot_bytes


def test_a_shape_survives_json() -> None:
    again = RingShape.from_dict(json.loads(json.dumps(SHAPE.to_dict())))
    assert again == SHAPE
    assert again.imgsz_hw == (32, 64)


def test_a_new_ring_has_that_size_and_only_free_slots(ring: Ring) -> None:
    assert os.fstat(ring.fd).st_size == SHAPE.total_bytes
    assert [slot.index for slot in ring.slots] == [0, 1, 2]
    assert {slot.state for slot in ring.slots} == {State.FREE}


def test_frames_and_rows_begin_at_pages(ring: Ring) -> None:
    for slot in ring.slots:
        assert (slot.frames.shape, slot.frames.dtype) == ((2, 32, 64, 3), np.uint8)
        assert (slot.rows.shape, slot.rows.dtype) == ((2, 20, 6), np.float32)
        assert slot.frames.flags.c_contiguous
        assert slot.rows.flags.c_contiguous
        assert slot.frames.ctypes.data % PAGE == 0
        assert slot.rows.ctypes.data % PAGE == 0


def test_slots_are_written_one_by_one(ring: Ring) -> None:
    for number, slot in enumerate(ring.slots):
        slot.frames[:] = number + 1
        slot.rows[:] = -number - 1
    for number, slot in enumerate(ring.slots):
        assert (slot.frames == number + 1).all()
        assert (slot.rows == -number - 1).all()
        assert slot.state == State.FREE


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__[1:])
@pytest.mark.parametrize("state", State, ids=lambda state: state.name)
def test_a_state_changes_as_drawn_and_in_no_other_way(
    ring: Ring, state: State, change: Callable[[Slot], None]
) -> None:
    slot = _in_state(ring, state)
    wanted = CHANGES[change].get(state)
    if wanted is not None:
        change(slot)
        assert slot.state == wanted
    else:
        with pytest.raises(RingError, match="slot 0"):
            change(slot)
        assert slot.state == state
    assert {other.state for other in ring.slots[1:]} == {State.FREE}


def test_a_slot_goes_round_again(ring: Ring) -> None:
    slot = ring.slots[0]
    for sequence in range(1, 6):
        task = TASK._replace(sequence=sequence)
        slot.begin()
        slot.publish(task)
        assert slot.take() == task
        slot.finish()
        assert slot.answer(task) is not None
        slot.release()
    assert slot.state == State.FREE


def test_the_task_arrives_as_it_was_sent(ring: Ring) -> None:
    task = Task(2**40, 2, 0.125, 1.0, 2**62, Payload.FRAMES)
    slot = ring.slots[1]
    slot.begin()
    slot.publish(task)
    assert slot.task == task
    assert slot.take() == task


def test_a_done_slot_answers_with_its_times(ring: Ring) -> None:
    slot = _in_state(ring, State.DONE)
    answer = slot.answer(TASK)
    assert answer is not None
    assert answer.error is None
    assert 0 < answer.started_ns <= answer.finished_ns


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        pytest.param("", "", id="empty"),
        pytest.param("no memory: 日本", "no memory: 日本", id="unicode"),
        pytest.param("x" * 5000, "x" * 2048, id="too-long"),
        pytest.param("x" + "é" * 1024, "x" + "é" * 1023 + "\N{REPLACEMENT CHARACTER}", id="cut-in-a-letter"),
    ],
)
def test_a_failed_slot_answers_with_what_the_backend_said(ring: Ring, text: str, wanted: str) -> None:
    slot = _in_state(ring, State.RUNNING)
    slot.fail(text)
    answer = slot.answer(TASK)
    assert answer is not None
    assert answer.error == wanted
    assert 0 < answer.started_ns <= answer.finished_ns


def test_a_message_with_a_path_that_is_no_unicode_is_said_too(ring: Ring) -> None:
    slot = _in_state(ring, State.RUNNING)
    slot.fail(f"cannot run {os.fsdecode(b'/tmp/caf' + bytes([0xE9]) + b'.onnx')}")
    answer = slot.answer(TASK)
    assert answer is not None
    assert (answer.error or "").startswith("cannot run /tmp/caf")


@pytest.mark.parametrize("state", [State.READY, State.RUNNING], ids=lambda state: state.name)
def test_a_slot_that_the_worker_has_is_not_answered_yet(ring: Ring, state: State) -> None:
    assert _in_state(ring, state).answer(TASK) is None


@pytest.mark.parametrize("state", [State.FREE, State.FILLING], ids=lambda state: state.name)
def test_a_slot_that_fell_back_while_the_worker_had_it_is_an_error(ring: Ring, state: State) -> None:
    with pytest.raises(RingError, match=f"slot 0 is {state.name} while a worker has it"):
        _in_state(ring, state).answer(TASK)


@pytest.mark.parametrize(
    "sent", [TASK._replace(sequence=2), TASK._replace(frames=1)], ids=["sequence", "frames"]
)
def test_an_answer_to_another_task_is_an_error(ring: Ring, sent: Task) -> None:
    with pytest.raises(RingError, match="slot 0 answers another task than it was given"):
        _in_state(ring, State.DONE).answer(sent)


@pytest.mark.parametrize("at", [*range(TASK_AT, TASK_AT + 32), CHECKSUM_AT, CHECKSUM_AT + 3])
def test_any_byte_of_the_task_that_changed_is_noticed(ring: Ring, at: int) -> None:
    slot = _in_state(ring, State.READY)
    (byte,) = _peek(ring, slot, at, 1)
    _poke(ring, slot, at, bytes([byte ^ 0x10]))
    with pytest.raises(RingError, match="the task in slot 0 does not fit its checksum"):
        slot.take()
    with pytest.raises(RingError, match="does not fit its checksum"):
        list(ring.ready(1))


def test_a_damaged_answer_is_noticed(ring: Ring) -> None:
    slot = _in_state(ring, State.DONE)
    _poke(ring, slot, TASK_AT, b"\xff")
    with pytest.raises(RingError, match="does not fit its checksum"):
        slot.answer(TASK)


@pytest.mark.parametrize("word", [6, 77, 2**32 - 1])
def test_a_word_that_is_no_state_is_noticed(ring: Ring, word: int) -> None:
    slot = ring.slots[2]
    _poke(ring, slot, 0, word.to_bytes(4, "little"))
    for look in (lambda: slot.state, slot.begin, slot.release, lambda: slot.answer(TASK)):
        with pytest.raises(RingError, match=f"slot 2 has the state {word}"):
            look()
    with pytest.raises(RingError, match="slot 2 has the state"):
        list(ring.ready(0))


@pytest.mark.parametrize("state", [State.DONE, State.FAILED], ids=lambda state: state.name)
def test_an_end_that_no_worker_has_brought_about_is_noticed(ring: Ring, state: State) -> None:
    slot = _in_state(ring, State.READY)
    _poke(ring, slot, 0, state.to_bytes(4, "little"))
    with pytest.raises(RingError, match=f"slot 0 is {state.name} and no worker has run it"):
        slot.answer(TASK)


def test_an_end_of_an_earlier_task_is_noticed(ring: Ring) -> None:
    slot = _in_state(ring, State.DONE)
    slot.release()
    later = TASK._replace(sequence=2, ready_ns=time.monotonic_ns())
    slot.begin()
    slot.publish(later)
    _poke(ring, slot, 0, State.DONE.to_bytes(4, "little"))
    with pytest.raises(RingError, match="no worker has run it"):
        slot.answer(later)


def test_a_text_longer_than_its_room_is_cut(ring: Ring) -> None:
    slot = _in_state(ring, State.FAILED)
    _poke(ring, slot, TEXT_LENGTH_AT, b"\xff\xff\xff\xff")
    answer = slot.answer(TASK)
    assert answer is not None
    assert (answer.error or "").startswith("broken")
    assert len((answer.error or "").encode()) <= 2048


def _publish_in_order(ring: Ring, *indices: int) -> None:
    for sequence, index in enumerate(indices, start=1):
        ring.slots[index].begin()
        ring.slots[index].publish(TASK._replace(sequence=sequence))


@pytest.mark.parametrize(
    ("published", "count", "wanted"),
    [
        ([], 0, []),
        ([1], 1, [1]),
        ([2, 0, 1], 3, [2, 0, 1]),
        ([2, 0, 1], 2, [2, 0]),
        ([0, 1, 2], 1, [0]),
    ],
)
def test_ready_slots_come_in_the_order_in_which_they_became_so(
    ring: Ring, published: list[int], count: int, wanted: list[int]
) -> None:
    _publish_in_order(ring, *published)
    assert [slot.index for slot in ring.ready(count)] == wanted


def test_slots_that_run_or_are_done_are_not_ready(ring: Ring) -> None:
    _publish_in_order(ring, 0, 1, 2)
    ring.slots[0].take()
    ring.slots[1].take()
    ring.slots[1].finish()
    assert [slot.index for slot in ring.ready(1)] == [2]


def test_fewer_ready_slots_than_announced_are_an_error(ring: Ring) -> None:
    _publish_in_order(ring, 0)
    with pytest.raises(RingError, match="2 slots were announced and 1 are READY"):
        list(ring.ready(2))


def test_both_sides_see_the_same_memory(ring: Ring) -> None:
    fd = os.dup(ring.fd)
    other = Ring.attach(fd, SHAPE)
    mine, theirs = ring.slots[1], other.slots[1]
    mine.begin()
    mine.frames[0] = 7
    mine.publish(TASK)
    assert (theirs.frames[0] == 7).all()
    assert theirs.take() == TASK
    theirs.rows[1, 3] = range(6)
    theirs.finish()
    assert mine.answer(TASK) is not None
    assert mine.rows[1, 3].tolist() == [0, 1, 2, 3, 4, 5]
    other.close()


def test_memory_of_another_size_is_no_ring(ring: Ring) -> None:
    other = RingShape(slots=2, batch=2, imgsz_hw=(32, 64), rows=20)
    with pytest.raises(RingError, match=f"has {SHAPE.total_bytes} bytes, needed: {other.total_bytes}"):
        Ring.attach(ring.fd, other)


def test_memory_with_another_beginning_is_no_ring(ring: Ring) -> None:
    os.pwrite(ring.fd, b"TRTYOLO0", 0)
    with pytest.raises(RingError, match="no ring of this version"):
        Ring.attach(ring.fd, SHAPE)


def test_views_outlive_the_descriptor_and_the_ring() -> None:
    ring = Ring.create(SHAPE)
    frames = ring.slots[0].frames
    ring.close()
    ring.close()
    assert ring.fd == -1
    del ring
    gc.collect()
    frames[:] = 9
    assert (frames == 9).all()


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_want_of_memory_is_said_in_mb_and_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    shape = RingShape(slots=4, batch=8, imgsz_hw=(640, 640), rows=512)
    before = _open_files()
    with pytest.raises(WorkerError, match=r"4 slots of 8 frames, 40 MB \(No space left on device\); free"):
        Ring.create(shape)
    assert _open_files() == before


def test_a_want_of_descriptors_is_an_error_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, flags: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", refuse)
    with pytest.raises(WorkerError, match="Too many open files"):
        Ring.create(SHAPE)


@pytest.mark.parametrize("missing", [[], ["memfd_create"], ["memfd_create", "posix_fallocate"]])
def test_the_memory_has_no_name_on_any_system(monkeypatch: pytest.MonkeyPatch, missing: list[str]) -> None:
    for name in missing:
        monkeypatch.delattr(os, name)
    before = sorted(os.listdir("/dev/shm"))
    files = _open_files()
    ring = Ring.create(SHAPE)
    assert sorted(os.listdir("/dev/shm")) == before
    assert os.readlink(f"/proc/self/fd/{ring.fd}").endswith("(deleted)")
    assert os.fstat(ring.fd).st_size == SHAPE.total_bytes
    assert _open_files() == files + 2  # the ring's own, and mmap's copy
    _publish_in_order(ring, 0)
    assert Ring.attach(ring.fd, SHAPE).slots[0].take() == TASK
    ring.close()


def test_the_descriptor_is_not_inherited(ring: Ring) -> None:
    assert not os.get_inheritable(ring.fd)
