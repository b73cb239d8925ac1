"""Reads the source of a stream: in a thread, in the consumer's own, or in an event loop.

Enters: a stream, and anything that yields images, paths or frames. Leaves: its results. Knows no pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any

from trt_yolo.runtime.results import Result
from trt_yolo.runtime.stream import Stream
from trt_yolo.system.exit import await_at_exit

_CHECK_S = 1.0


def results(stream: Stream, source: Iterable[object]) -> Iterator[Result]:
    """The results of a source, which a thread of its own reads from now on. Closing it stops the stream.

    A list of images needs no thread: handing frames from one thread to another costs more than to letterbox them.
    """
    is_list = isinstance(source, list | tuple) and stream.blocks
    if is_list and all(stream.frames_of(item) is None for item in source):
        stream.pull_from(iter(source))
    else:
        _start_reader(stream, source)
    try:
        with stream.completions.helper():
            while (result := stream.take()) is not None:
                yield result
    finally:
        stream.stop()


async def async_results(
    stream: Stream, source: Iterable[object] | AsyncIterable[object]
) -> AsyncIterator[Result]:
    """The same in an event loop, which is never held up; an asynchronous source is read in the loop."""
    loop, news, room = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def tell() -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(news.set)

    stream.on_news = tell
    stream.completions.expect(1)
    task: asyncio.Task[None] | None = None
    if isinstance(source, AsyncIterable):
        task = asyncio.create_task(_read_async(stream, source, room))
    else:
        _start_reader(stream, source)
    try:
        while True:
            news.clear()
            while (result := stream.take(wait=False)) is not None:
                room.set()
                yield result
            if stream.is_exhausted:
                return
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(news.wait(), _CHECK_S)
    finally:
        stream.completions.expect(-1)
        stream.stop()
        if task is not None:
            task.cancel()


def _start_reader(stream: Stream, source: Iterable[object]) -> None:
    thread = threading.Thread(target=_read, args=(stream, source), name="trt-yolo-reader", daemon=True)
    await_at_exit(thread, stream.stop)
    thread.start()


def _read(stream: Stream, source: Iterable[object]) -> None:
    error: BaseException | None = None
    iterator: Any = None
    try:
        iterator = iter(source)
        for item in iterator:
            frames = stream.frames_of(item)
            if not (stream.offer(item) if frames is None else all(map(stream.offer, frames))):
                break
            del item, frames
    except BaseException as wrong:  # noqa: BLE001  the consumer raises it
        error = wrong
    finally:
        with contextlib.suppress(Exception):
            getattr(iterator, "close", lambda: None)()
        stream.end(error)


async def _read_async(stream: Stream, source: AsyncIterable[object], room: asyncio.Event) -> None:
    error: BaseException | None = None
    try:
        async for item in source:
            frames = stream.frames_of(item)
            while frames is not None and (frame := await asyncio.to_thread(next, frames, None)) is not None:
                if not await _offer_async(stream, frame, room):
                    return
            if frames is None and not await _offer_async(stream, item, room):
                return
    except Exception as wrong:  # noqa: BLE001  the consumer raises it
        error = wrong
    finally:
        stream.end(error)


async def _offer_async(stream: Stream, item: object, room: asyncio.Event) -> bool:
    """Whether the stream goes on."""
    room.clear()
    while not stream.offer(item, wait=False):
        if stream.is_stopped:
            return False
        await room.wait()
        room.clear()
    return True
