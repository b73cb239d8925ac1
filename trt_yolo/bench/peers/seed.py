"""The peer `seed`: decoded images through a queue to processes with an Ultralytics model each.

What this project grew from: PyTorch on the checkpoint, `workers` processes of `threads` threads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from trt_yolo.bench.peers import Found, PeerOptions, Ready, Rows
from trt_yolo.bench.peers.plain_loop import Image, read_plainly
from trt_yolo.bench.peers.queues import QueueProcesses
from trt_yolo.runtime.job import DEFAULT_CONF, DEFAULT_IOU


@contextlib.contextmanager
def open_peer(options: PeerOptions) -> Iterator[Ready]:
    """See `OpenPeer`."""
    under_way = 2 * options["workers"]
    with QueueProcesses(_predictor, options, count=options["workers"], under_way=under_way) as processes:

        def run(paths: Iterable[str]) -> Iterator[Found]:
            for number, rows in processes.answers_to(read_plainly(path) for path in paths):
                yield Found(number, rows)

        yield Ready(run=run, under_way=under_way)


def _predictor(options: PeerOptions) -> Callable[[Image], Rows]:
    import torch
    from ultralytics import YOLO

    model = YOLO(options["weights"])

    def predict(image_bgr: Image) -> Rows:
        results = model.predict(
            image_bgr,
            imgsz=options["imgsz"],
            conf=DEFAULT_CONF,
            iou=DEFAULT_IOU,
            rect=False,
            device=options.get("device", "cpu"),
            verbose=False,
        )
        return np.asarray(results[0].boxes.data.cpu().numpy(), np.float32)

    predict(np.zeros((*options["imgsz"], 3), np.uint8))  # the first one chooses threads by itself
    torch.set_num_threads(options["threads"])
    return predict
