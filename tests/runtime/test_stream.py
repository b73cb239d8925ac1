"""Sources on their way through a pool: order, room, what is dropped, how they end. The backend is the null one."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import itertools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.runtime import faulty
from tests.runtime.models import marked, pool_model
from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.errors import ClosedError, ImageError, InputError
from trt_yolo.runtime import ipc, pool, reader
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.options import RuntimeOptions
from trt_yolo.runtime.pool import Pool
from trt_yolo.runtime.results import Result, StreamOptions
from trt_yolo.runtime.worker import BackendSpec

Image = npt.NDArray[np.uint8]
HW = (32, 64)
MANIFEST = Manifest(
    graph="deploy",
    names={index: str(index) for index in range(256)},
    imgsz_hw=HW,
    batch=BatchRange(1, 4),
    rows=8,
    anchors=42,
)


def _model(*, delay_ms: float = 0.0, **options: Any) -> Model:
    backend = BackendSpec(
        factory="trt_yolo.backends.null:null_from_manifest",
        options={"manifest": MANIFEST.to_json(), "delay_ms": delay_ms},
    )
    return Model(Pool(backend, RuntimeOptions(**options)))


@pytest.fixture(scope="module", params=[0, 2], ids=["thread", "two-processes"])
def model(request: pytest.FixtureRequest) -> Iterator[Model]:
    with _model(workers=request.param) as one:
        yield one


@pytest.fixture
def slow() -> Iterator[Model]:
    """One frame a batch, 20 ms each."""
    with _model(delay_ms=20, max_batch=1, slots=2) as one:
        yield one


def _frame(mark: int) -> Image:
    return np.full((*HW, 3), mark % 256, np.uint8)


def _frames(count: int) -> Iterator[Image]:
    return map(_frame, range(count))


def _marks(results: Iterable[Result]) -> list[int]:
    """Which frames the results are of, by what the null backend saw."""
    return [int(result.detections.class_id[0]) for result in results]


def _eventually(is_so: Callable[[], bool], *, within_s: float = 10.0) -> bool:
    until_s = time.monotonic() + within_s
    while not is_so() and time.monotonic() < until_s:
        time.sleep(0.005)
    return is_so()


def _readers() -> int:
    return sum(thread.name == "trt-yolo-reader" for thread in threading.enumerate())


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 200])
@pytest.mark.parametrize("kind", [list, tuple, iter], ids=["list", "tuple", "generator"])
def test_every_frame_comes_out_once_and_in_order(
    model: Model, kind: Callable[[Iterable[Image]], Iterable[Image]], count: int
) -> None:
    results = list(model.stream(kind(list(_frames(count)))))
    assert [result.index for result in results] == list(range(count))
    assert _marks(results) == list(range(count))


@pytest.mark.parametrize("kind", [list, iter], ids=["list", "generator"])
def test_without_order_every_frame_still_comes_out_once(
    model: Model, kind: Callable[[Iterable[Image]], Iterable[Image]]
) -> None:
    results = list(model.stream(kind(list(_frames(200))), ordered=False))
    assert sorted(result.index for result in results) == list(range(200))
    assert _marks(results) == [result.index for result in results]


@pytest.mark.timeout(15)
@pytest.mark.parametrize("in_flight", [1, 2, 4, 5, 100])
@pytest.mark.parametrize("kind", [list, iter], ids=["list", "generator"])
def test_any_number_in_flight_gives_every_frame(
    model: Model, kind: Callable[[Iterable[Image]], Iterable[Image]], in_flight: int
) -> None:
    assert _marks(model.stream(kind(list(_frames(40))), in_flight=in_flight)) == list(range(40))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "drop"}, "no policy 'drop'; give block, drop-oldest, drop-newest"),
        ({"in_flight": 0}, "in_flight is 0; give a number of frames, at least 1"),
        ({"in_flight": -1}, "in_flight is -1; give"),
        ({"conf": 2}, "conf is 2; give"),
    ],
    ids=str,
)
def test_options_out_of_range_are_refused_before_anything_is_read(
    model: Model, options: dict[str, Any], message: str
) -> None:
    def source() -> Iterator[Image]:
        raise AssertionError("it was read")
        yield

    with pytest.raises(InputError, match=message):
        model.stream(source(), **options)


def test_options_are_to_block_in_order() -> None:
    assert StreamOptions() == StreamOptions(ordered=True, policy="block", in_flight=None, keep_images=False)


@pytest.mark.parametrize("kind", [list, iter], ids=["list", "generator"])
def test_pixels_are_kept_where_that_is_asked(
    model: Model, kind: Callable[[Iterable[Image]], Iterable[Image]]
) -> None:
    frames = list(_frames(6))
    for result, frame in zip(model.stream(kind(frames), keep_images=True), frames, strict=True):
        assert result.image is frame
    assert all(result.image is None for result in model.stream(kind(frames)))


def test_a_result_shows_what_came_of_it(model: Model) -> None:
    good, bad = model.stream([_frame(3), None])
    assert repr(good) == "<Result 0: 1 detections>"
    assert repr(bad).startswith("<Result 1: a NoneType is no image")
    assert good.times is not None
    assert bad.times is None


WRONG = [None, 5, "gone.jpg", _frame(0)[..., 0], _frame(0).astype(np.float32), b"bytes"]


@pytest.mark.parametrize("policy", ["block", "drop-oldest"])
@pytest.mark.parametrize("kind", [list, iter], ids=["list", "generator"])
def test_what_is_no_image_is_a_result_with_an_error_in_its_place(
    model: Model, kind: Callable[[Iterable[Any]], Iterable[Any]], policy: Any
) -> None:
    source = [item for wrong in WRONG for item in (wrong, _frame(7))]
    results = list(model.stream(kind(source), policy=policy, in_flight=50))
    assert [result.index for result in results] == list(range(len(source)))
    assert _marks(results[1::2]) == [7] * len(WRONG)
    for result in results[::2]:
        assert isinstance(result.error, ImageError)
        with pytest.raises(ImageError):
            _ = result.detections
    assert [str(result.path) for result in results if result.path is not None] == ["gone.jpg"]


def test_only_what_is_no_image_is_a_stream_too(model: Model) -> None:
    for source in ([None] * 30, iter([None] * 30)):
        results = list(model.stream(source))
        assert [result.index for result in results] == list(range(30))
        assert all(result.error is not None for result in results)


class BrokenSource(Exception):
    pass


@pytest.mark.parametrize("count", [0, 1, 7])
@pytest.mark.parametrize("policy", ["block", "drop-newest"])
def test_what_the_source_raises_comes_after_the_last_result(model: Model, count: int, policy: Any) -> None:
    def source() -> Iterator[Image]:
        yield from _frames(count)
        raise BrokenSource("unplugged")

    results = []
    with pytest.raises(BrokenSource, match="unplugged"):  # noqa: PT012
        for result in model.stream(source(), policy=policy):
            results.append(result)
    assert _marks(results) == list(range(count))


@pytest.mark.parametrize(
    "kind", [BrokenSource, KeyboardInterrupt, SystemExit], ids=lambda kind: kind.__name__
)
def test_whatever_the_source_raises_is_raised_by_the_stream(model: Model, kind: type[BaseException]) -> None:
    def source() -> Iterator[Image]:
        yield _frame(0)
        raise kind

    with pytest.raises(kind):
        list(model.stream(source()))


def _until_heard(heard: threading.Event) -> Iterator[object]:
    """A frame; an error, when its consumer waits; the end, when the consumer has it, which takes no 10 s."""
    yield _frame(0)
    time.sleep(0.05)
    yield "not there.mp4"
    assert heard.wait(10)


async def _in_the_loop(items: Iterator[object]) -> AsyncIterator[object]:
    while (item := await asyncio.to_thread(next, items, None)) is not None:
        yield item


@pytest.mark.parametrize("policy", ["block", "drop-oldest", "drop-newest"])
@pytest.mark.parametrize("way", ["thread", "loop", "source-in-the-loop"])
def test_an_error_wakes_the_consumer(
    way: str, policy: Any, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (ipc, pool, reader):
        monkeypatch.setattr(module, "_CHECK_S", 30.0)  # it is not at its next look that it finds the error
    heard = threading.Event()

    def note(result: Result) -> None:
        if result.error is not None:
            heard.set()

    async def consume(items: Any) -> None:
        async for result in model.astream(items, policy=policy):
            note(result)

    items = _until_heard(heard)
    if way == "thread":
        for result in model.stream(items, policy=policy):
            note(result)
    else:
        asyncio.run(consume(items if way == "loop" else _in_the_loop(items)))
    assert heard.is_set()


@pytest.mark.parametrize("source", [5.0, None, object()], ids=["number", "none", "object"])
def test_what_cannot_be_iterated_is_a_type_error(model: Model, source: Any) -> None:
    with pytest.raises(TypeError, match="is not iterable"):
        list(model.stream(source))


def _source_that_counts(read: list[int], count: int | None = None) -> Iterator[Image]:
    for number in itertools.count() if count is None else range(count):
        read.append(number)
        yield _frame(number)


@pytest.mark.parametrize("in_flight", [1, 4, 16])
def test_a_slow_consumer_slows_the_source(model: Model, in_flight: int) -> None:
    read: list[int] = []
    stream = model.stream(_source_that_counts(read), in_flight=in_flight)
    for taken in range(1, 12):
        assert _marks([next(stream)]) == [taken - 1]
        time.sleep(0.005)
        assert len(read) <= taken + in_flight + 1  # one more waits in the reader's hands
    stream.close()


def test_how_far_a_source_is_read_ahead_is_bounded_without_being_asked(model: Model) -> None:
    read: list[int] = []
    stream = model.stream(_source_that_counts(read))
    next(stream)
    assert _eventually(lambda: len(read) >= 8)
    time.sleep(0.05)
    assert len(read) <= 64
    stream.close()


@pytest.mark.parametrize("kind", [list, iter], ids=["list", "generator"])
def test_nothing_is_read_before_the_first_result_is_asked_for(
    model: Model, kind: Callable[[Iterable[Image]], Iterable[Image]]
) -> None:
    assert _eventually(lambda: _readers() == 0)
    model.stream(kind(list(_frames(3))))
    assert _readers() == 0


@pytest.mark.parametrize("end", ["close", "drop", "break", "throw"])
def test_a_consumer_that_leaves_stops_the_reader(model: Model, end: str) -> None:
    closed = threading.Event()

    def source() -> Iterator[Image]:
        try:
            yield from map(_frame, itertools.count())
        finally:
            closed.set()

    assert _eventually(lambda: _readers() == 0)
    stream = model.stream(source())
    assert _marks([next(stream)]) == [0]
    assert _readers() == 1
    if end == "close":
        stream.close()
    elif end == "throw":
        with contextlib.suppress(BrokenSource):
            stream.throw(BrokenSource)
    else:
        del stream
        gc.collect()
    assert _eventually(lambda: _readers() == 0)
    assert closed.is_set()
    assert _eventually(lambda: model.stats().waiting == 0)
    assert _marks(model.stream(_frames(5))) == list(range(5))


def test_a_list_left_in_the_middle_leaves_nothing_under_way(model: Model) -> None:
    for result in model.stream(list(_frames(100))):
        if result.index == 3:
            break
    assert _eventually(lambda: model.stats().waiting == 0)
    assert _marks(model.stream(list(_frames(5)))) == list(range(5))


@pytest.mark.parametrize("policy", ["drop-oldest", "drop-newest"])
def test_results_and_drops_of_a_live_source_add_up(slow: Model, policy: Any) -> None:
    results = list(slow.stream(_frames(60), policy=policy, name="camera"))
    indices = [result.index for result in results]
    assert indices == sorted(set(indices))
    assert _marks(results) == indices
    stats = slow.stats()
    assert stats.sources["camera"].frames == 60
    assert stats.sources["camera"].dropped == 60 - len(results)
    assert stats.dropped == 60 - len(results)
    assert 1 < len(results) < 60


def test_blocking_drops_nothing(slow: Model) -> None:
    assert _marks(slow.stream(_frames(20), policy="block", name="film")) == list(range(20))
    source = slow.stats().sources["film"]
    assert (source.frames, source.dropped) == (20, 0)


def _burst(policy: Any, slow: Model) -> list[int]:
    """Which of 30 frames that come at once are left."""
    return [result.index for result in slow.stream(_frames(30), policy=policy, in_flight=2)]


def test_drop_oldest_keeps_the_freshest_frame(slow: Model) -> None:
    kept = _burst("drop-oldest", slow)
    assert kept[-1] == 29
    assert kept[0] == 0
    assert len(kept) < 30


def test_drop_newest_keeps_the_frames_that_came_first(slow: Model) -> None:
    kept = _burst("drop-newest", slow)
    assert kept[:3] == [0, 1, 2]
    assert len(kept) < 30


@pytest.mark.parametrize("policy", ["drop-oldest", "drop-newest"])
def test_a_live_source_is_never_made_to_wait(slow: Model, policy: Any) -> None:
    read: list[int] = []
    stream = slow.stream(_source_that_counts(read, 500), policy=policy)
    first = next(stream)
    assert first.index == 0 or policy == "drop-oldest"
    assert _eventually(lambda: len(read) == 500)
    assert 1 <= len(list(stream)) < 100


@pytest.mark.parametrize("policy", ["drop-oldest", "drop-newest"])
def test_a_live_list_may_be_dropped_from_too(slow: Model, policy: Any) -> None:
    indices = [result.index for result in slow.stream(list(_frames(100)), policy=policy)]
    assert indices == sorted(set(indices))
    assert 1 <= len(indices) < 100


def test_two_streams_of_a_name_and_one_without_count_apart(model: Model) -> None:
    dropped = model.stats().dropped
    list(model.stream(_frames(7), name="left"))
    list(model.stream(list(_frames(9)), name="right"))
    list(model.stream(_frames(11)))
    sources = model.stats().sources
    assert (sources["left"].frames, sources["right"].frames) == (7, 9)
    assert model.stats().dropped == dropped


def test_many_streams_at_once_get_their_own_frames(model: Model) -> None:
    marks: dict[int, list[int]] = {}

    def consume(start: int) -> None:
        source = map(_frame, range(start, start + 40))
        marks[start] = _marks(model.stream(list(source) if start % 20 else source))

    threads = [threading.Thread(target=consume, args=(start,)) for start in range(0, 60, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert marks == {start: list(range(start, start + 40)) for start in range(0, 60, 10)}


def test_one_thread_may_go_through_two_streams_in_turn(model: Model) -> None:
    pairs = list(zip(model.stream(_frames(30)), model.stream(list(_frames(30))), strict=True))
    assert [_marks(pair) for pair in pairs] == [[mark, mark] for mark in range(30)]


def test_a_stream_may_feed_another(model: Model) -> None:
    first = model.stream(_frames(30), keep_images=True)
    assert _marks(model.stream(result.image for result in first)) == list(range(30))


@pytest.mark.parametrize("kind", [list, iter], ids=["list", "generator"])
def test_closing_the_model_ends_a_stream_with_its_error(
    kind: Callable[[Iterable[Image]], Iterable[Image]],
) -> None:
    model = _model(delay_ms=5)
    stream = model.stream(kind(list(_frames(200))))
    next(stream)
    model.close()
    with pytest.raises(ClosedError, match="the model is closed; load it again"):
        collections.deque(stream, maxlen=0)


@pytest.mark.parametrize("kind", [list, iter], ids=["list", "generator"])
def test_a_stream_of_a_closed_model_ends_with_its_error_however_late_it_is_heard(
    kind: Callable[[Iterable[Image]], Iterable[Image]],
) -> None:
    model = _model()
    model.close()
    with pytest.raises(ClosedError, match="the model is closed; load it again"):  # noqa: PT012
        for _ in model.stream(kind(list(_frames(2)))):
            time.sleep(0.05)


async def _from_async(source: AsyncIterator[Result]) -> list[Result]:
    return [result async for result in source]


async def _async_frames(count: int) -> AsyncIterator[Image]:
    for frame in _frames(count):
        await asyncio.sleep(0)
        yield frame


@pytest.mark.parametrize("count", [0, 1, 5, 100])
@pytest.mark.parametrize(
    "source", [lambda count: list(_frames(count)), _frames, _async_frames], ids=["list", "generator", "async"]
)
def test_an_event_loop_gets_every_frame_in_order(
    model: Model, source: Callable[[int], Any], count: int
) -> None:
    results = asyncio.run(_from_async(model.astream(source(count))))
    assert [result.index for result in results] == list(range(count))
    assert _marks(results) == list(range(count))


@pytest.mark.timeout(30)
def test_an_event_loop_is_never_held_up() -> None:
    """The loop itself opens the gate that the backend waits for."""
    faulty.GATE.clear()

    async def open_gate(model: Model) -> None:
        while model.stats().waiting == 0:
            await asyncio.sleep(0)
        faulty.GATE.set()

    async def both(model: Model) -> int:
        results = _from_async(model.astream(map(marked, range(10))))
        _, found = await asyncio.gather(open_gate(model), results)
        return len(found)

    with pool_model("Gated", workers=0) as model:
        assert asyncio.run(both(model)) == 10


def test_an_event_loop_runs_several_streams(model: Model) -> None:
    async def several() -> list[list[Result]]:
        return await asyncio.gather(
            *(
                _from_async(model.astream(source))
                for source in (_async_frames(30), _frames(30), list(_frames(30)))
            )
        )

    assert [_marks(results) for results in asyncio.run(several())] == [list(range(30))] * 3


def test_a_slow_loop_slows_an_asynchronous_source(model: Model) -> None:
    read: list[int] = []

    async def source() -> AsyncIterator[Image]:
        for number in range(40):
            read.append(number)
            yield _frame(number)
            await asyncio.sleep(0)

    async def consume() -> int:
        taken = 0
        async for result in model.astream(source(), in_flight=4):
            assert result.index == taken
            taken += 1
            await asyncio.sleep(0.002)
            assert len(read) <= taken + 4 + 1
        return taken

    assert asyncio.run(consume()) == 40


def test_what_an_asynchronous_source_raises_comes_after_the_last_result(model: Model) -> None:
    async def source() -> AsyncIterator[Image]:
        yield _frame(0)
        yield _frame(1)
        raise BrokenSource("unplugged")

    results = []

    async def consume() -> None:
        async for result in model.astream(source()):
            results.append(result)

    with pytest.raises(BrokenSource, match="unplugged"):
        asyncio.run(consume())
    assert _marks(results) == [0, 1]


@pytest.mark.parametrize("policy", ["drop-oldest", "drop-newest"])
def test_an_asynchronous_live_source_adds_up_too(slow: Model, policy: Any) -> None:
    source = _async_frames(40)
    results = asyncio.run(_from_async(slow.astream(source, policy=policy, name="camera")))
    stats = slow.stats().sources["camera"]
    assert stats.frames == 40
    assert stats.frames - stats.dropped == len(results)
    assert 1 < len(results) < 40


def test_a_loop_that_leaves_stops_the_source(model: Model) -> None:
    stopped: list[str] = []

    async def endless() -> AsyncIterator[Image]:
        try:
            for number in itertools.count():
                yield _frame(number)
                await asyncio.sleep(0)
        finally:
            stopped.append("asynchronous")

    def endless_too() -> Iterator[Image]:
        try:
            yield from map(_frame, itertools.count())
        finally:
            stopped.append("plain")

    async def consume(source: Any) -> None:
        results = model.astream(source)
        async for result in results:
            if result.index == 5:
                break
        await results.aclose()

    asyncio.run(consume(endless()))
    asyncio.run(consume(endless_too()))
    assert _eventually(lambda: sorted(stopped) == ["asynchronous", "plain"])
    assert _eventually(lambda: model.stats().waiting == 0)


def test_thresholds_reach_every_frame_of_a_stream(model: Model) -> None:
    for source in (list(_frames(10)), _frames(10)):
        results = list(model.stream(source, classes=[2, 5]))
        assert [len(result.detections) for result in results] == [0, 0, 1, 0, 0, 1, 0, 0, 0, 0]
