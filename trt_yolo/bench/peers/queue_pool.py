"""The peer `queue-pool`: processes with an ONNX Runtime session each, fed with decoded images by a Queue.

The same sessions as trt-yolo's workers have, `workers` of `threads` threads; one process reads the files for all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from trt_yolo.bench.peers import PeerOptions
from trt_yolo.bench.peers.by_hand import in_batches, read_plainly
from trt_yolo.bench.peers.interface import Found, Ready
from trt_yolo.bench.peers.onnxruntime import detector
from trt_yolo.bench.peers.queues import QueueProcesses


@contextlib.contextmanager
def open_peer(options: PeerOptions) -> Iterator[Ready]:
    """See `interface`."""
    batch, workers = options.get("batch", 1), options["workers"]
    under_way = 2 * workers  # batches: one in each process, and one that waits for it
    with QueueProcesses(detector, options, count=workers, under_way=under_way) as processes:

        def run(paths: Iterable[str]) -> Iterator[Found]:
            decoded = ([read_plainly(path) for path in some] for some in in_batches(paths, batch))
            for number, found in processes.answers_to(decoded):
                for place, rows in enumerate(found):
                    yield Found(number * batch + place, rows)

        yield Ready(run=run, under_way=under_way * batch)
