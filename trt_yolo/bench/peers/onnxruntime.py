"""The peer `onnxruntime`: the plain loop around a session, one image after another, in one process.

The session is made as trt-yolo makes it, with `threads` threads: what differs is what stands around it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trt_yolo.backends.onnxruntime import open_session
from trt_yolo.bench.peers import Found, PeerOptions, Ready, Rows
from trt_yolo.bench.peers.plain_loop import Graph, Image, in_batches, read_plainly

_DTYPES: dict[str, npt.DTypeLike] = {
    "tensor(uint8)": np.uint8,
    "tensor(float16)": np.float16,
    "tensor(float)": np.float32,
}


@contextlib.contextmanager
def open_peer(options: PeerOptions) -> Iterator[Ready]:
    """See `OpenPeer`."""
    detect, batch = detector(options), options.get("batch", 1)

    def run(paths: Iterable[str]) -> Iterator[Found]:
        for number, some in enumerate(in_batches(paths, batch)):
            for place, rows in enumerate(detect([read_plainly(path) for path in some])):
                yield Found(number * batch + place, rows)

    yield Ready(run=run, under_way=batch)


def detector(options: PeerOptions) -> Callable[[Sequence[Image]], list[Rows]]:
    """Makes decoded images, at most a batch, into the rows of each; one session, `threads` threads.

    Raises:
        TrtYoloError: ONNX Runtime cannot load the model.
    """
    session = open_session(Path(options["model"]), threads=options["threads"])
    inputs = session.get_inputs()
    height, width = options["imgsz"]
    graph = Graph(imgsz_hw=(height, width), batch=options.get("batch", 1), dtype=_DTYPES[inputs[0].type])
    names = [one.name for one in inputs]

    def detect(images_bgr: Sequence[Image]) -> list[Rows]:
        arrays, letterboxes = graph.fed(images_bgr)
        return graph.found(session.run(None, dict(zip(names, arrays, strict=True))), letterboxes)

    return detect
