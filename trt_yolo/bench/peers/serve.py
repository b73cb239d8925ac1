"""A peer's own process: it loads, says {"ready": true}, and answers a line of JSON for each line of JSON.

    {"seconds": s}   runs for about that long    {"started_s": t, "images": m, "seconds": s}
    {"find": n}      runs the first n images     {"found": [[[x1, y1, x2, y2, score, class], ...], ...]}

Images are counted as `flow.Flow` counts them, from `started_s` (`time.perf_counter`, which processes of one machine
share) on. Lines come in by stdin and go out by stdout; whatever a library prints goes to stderr. When stdin ends, so
does the process, whatever it is doing.
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
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TextIO

from trt_yolo.bench.flow import Flow
from trt_yolo.bench.peers import OpenPeer, PeerOptions, Ready, peer_named
from trt_yolo.bench.window import Window
from trt_yolo.errors import BackendError, TrtYoloError

_LEAVE_S = 2
_NO_IMAGES = [""]


def main(arguments: Sequence[str]) -> None:
    """The life of the process.

    Args:
        arguments: Name, `PeerOptions` as JSON; a number of images finds that many and leaves, without reading stdin.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _leave)
    lines = _lines(sys.stdin) if len(arguments) < 3 else iter([f'{{"find": {arguments[2]}}}'])
    try:
        _serve(arguments[0], json.loads(arguments[1]), lines, out)
    except TrtYoloError as error:
        sys.exit(f"error: {error}")


def _serve(name: str, options: PeerOptions, lines: Iterator[str], out: TextIO) -> None:
    open_peer: OpenPeer = importlib.import_module(peer_named(name).module).open_peer
    images = options.get("images") or _NO_IMAGES
    files = itertools.cycle(images)
    with open_peer(options) as ready:
        for _ in ready.run(itertools.islice(files, 4 * ready.under_way)):
            pass
        _say({"ready": True}, out)
        for line in lines:
            request = json.loads(line)
            if "find" in request:
                first = itertools.islice(itertools.cycle(images), request["find"])
                _say({"found": _found(ready, first)}, out)
            else:
                window = _timed(ready, files, request["seconds"])
                counted = {"started_s": window.started_s, "images": window.images, "seconds": window.seconds}
                _say(counted, out)


def _timed(ready: Ready, files: Iterator[str], seconds: float) -> Window:
    flow, sent, came = Flow(seconds, round_images=ready.under_way), 0, 0

    def until_over() -> Iterator[str]:
        nonlocal sent
        while not flow.is_over:
            sent += 1
            yield next(files)

    for _ in ready.run(until_over()):
        flow.note()
        came += 1
    if came != sent:
        raise BackendError(f"{sent} images were sent and {came} came back")
    return flow.window()


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
