"""The peer `queue`: what it costs to send frames through queues of pickles, and nothing else.

Frames of the model's size, which are there already, to a process that answers with one row. Reads no images.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import numpy.typing as npt

from trt_yolo.bench.peers import Found, PeerOptions, Ready, Rows
from trt_yolo.bench.peers.queues import QueueProcesses

_FRAMES = 32
_UNDER_WAY = 8

Frame = npt.NDArray[np.uint8]


@contextlib.contextmanager
def open_peer(options: PeerOptions) -> Iterator[Ready]:
    """See `OpenPeer`."""
    height, width = options["imgsz"]
    frames = [np.full((height, width, 3), number, np.uint8) for number in range(_FRAMES)]
    with QueueProcesses(_echo, options, count=1, under_way=_UNDER_WAY) as processes:

        def run(paths: Iterable[str]) -> Iterator[Found]:
            sent = (frame for _, frame in zip(paths, itertools.cycle(frames), strict=False))
            for number, rows in processes.answers_to(sent):
                yield Found(number, rows)

        yield Ready(run=run, under_way=_UNDER_WAY)


def _echo(_: PeerOptions) -> Callable[[Frame], Rows]:
    def answer(frame: Frame) -> Rows:
        return np.array([[0, 0, *frame.shape[:2], 1, frame[0, 0, 0]]], np.float32)

    return answer
