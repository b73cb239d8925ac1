"""A peer's own process: it loads, says {"ready": true}, and answers a line of JSON for each line of JSON.

    {"images": n}    runs about n images         {"started_s": t, "images": m, "seconds": s}
    {"seconds": s}   runs for about that long    the same
    {"find": n}      runs the first n images     {"found": [[[x1, y1, x2, y2, score, class], ...], ...]}

Counted are the m images that came while it ran evenly, from `started_s` (`time.perf_counter`) on. Lines come in by
stdin and go out by stdout; whatever a library prints goes to stderr. When stdin ends, so does the process, whatever
it is doing.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, TextIO

from trt_yolo.bench.peers import PeerOptions, peer_named
from trt_yolo.bench.peers.interface import OpenPeer, Ready
from trt_yolo.errors import BackendError, TrtYoloError

_LEAVE_S = 2
_NO_IMAGES = [""]


class Steady(NamedTuple):
    """The part of a run in which images came evenly.

    Attributes:
        started_s: When it began, `time.perf_counter`, which processes of one machine share.
        images: How many came.
        seconds: In how long.
    """

    started_s: float
    images: int
    seconds: float


def main(arguments: Sequence[str]) -> None:
    """The life of the process.

    Args:
        arguments: Name, `PeerOptions` as JSON; a number of images runs that many and leaves, without reading stdin.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _leave)
    lines = _lines(sys.stdin) if len(arguments) < 3 else iter([f'{{"images": {arguments[2]}}}'])
    try:
        _serve(arguments[0], json.loads(arguments[1]), lines, out)
    except TrtYoloError as error:
        sys.exit(f"error: {error}")


def steady_part(ends_s: Sequence[float], settling: int) -> Steady:
    """What came between the first and the last `settling` images, which are not counted.

    Args:
        ends_s: When each image was done, rising, in seconds; more than twice `settling`.
        settling: Images, at least 1: those that came while it got going, or when no more were sent.
    """
    started_s = ends_s[settling - 1]
    return Steady(started_s, len(ends_s) - 2 * settling, ends_s[-settling - 1] - started_s)


def _serve(name: str, options: PeerOptions, lines: Iterator[str], out: TextIO) -> None:
    open_peer: OpenPeer = importlib.import_module(peer_named(name).module).open_peer
    images = options.get("images") or _NO_IMAGES
    files, batch = itertools.cycle(images), options.get("batch", 1)
    with open_peer(options) as ready:
        for _ in ready.run(itertools.islice(files, 4 * ready.under_way)):
            pass
        _say({"ready": True}, out)
        for line in lines:
            request = json.loads(line)
            if "find" in request:
                _say({"found": _found(ready, images[: request["find"]])}, out)
            else:
                is_enough = _enough(request, least=2 * ready.under_way + batch, batch=batch)
                _say(_timed(ready, files, is_enough)._asdict(), out)


def _enough(request: dict[str, Any], *, least: int, batch: int) -> Callable[[int], bool]:
    """Says of a number of images sent whether that is enough: whole batches, and some that can be counted."""
    if "images" in request:
        return lambda sent: sent >= max(least, request["images"]) and sent % batch == 0
    until_s = time.perf_counter() + request["seconds"]
    return lambda sent: sent >= least and sent % batch == 0 and time.perf_counter() >= until_s


def _timed(ready: Ready, files: Iterator[str], is_enough: Callable[[int], bool]) -> Steady:
    sent = 0

    def until_enough() -> Iterator[str]:
        nonlocal sent
        while not is_enough(sent):
            sent += 1
            yield next(files)

    ends_s = [time.perf_counter() for _ in ready.run(until_enough())]
    if len(ends_s) != sent:
        raise BackendError(f"{sent} images were sent and {len(ends_s)} came back")
    return steady_part(ends_s, ready.under_way)


def _found(ready: Ready, images: Iterable[str]) -> list[list[list[float]]]:
    return [one.rows.tolist() for one in sorted(ready.run(images), key=lambda one: one.number)]


def _say(message: dict[str, Any], out: TextIO) -> None:
    print(json.dumps(message), file=out, flush=True)


def _lines(source: TextIO) -> Iterator[str]:
    """Lines as they come; the process leaves when there will be no more."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in source:
            lines.put(line)
        signal.alarm(_LEAVE_S)  # the kernel's: it also ends what hangs while it leaves
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=read, daemon=True).start()
    return iter(lines.get, None)


def _leave(*_: object) -> None:
    sys.exit(0)
