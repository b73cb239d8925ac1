"""The peer `openvino`: OpenVINO's CPU runtime on the artifact's own ONNX, as many inferences at once as it likes.

Laid out for throughput on `workers` x `threads` threads, which OpenVINO divides among its streams; images are read
and letterboxed meanwhile, one after another. FP32: OpenVINO's own choice is bfloat16 where the CPU has it, which
moves boxes and loses some at the threshold, and would not be the same work. Layers that the artifact has quantized
stay so.
"""

from __future__ import annotations

import contextlib
import queue
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from trt_yolo.bench.peers import Found, PeerOptions, Ready
from trt_yolo.bench.peers.plain_loop import Graph, in_batches, read_plainly
from trt_yolo.vision.letterbox import Letterbox


@contextlib.contextmanager
def open_peer(options: PeerOptions) -> Iterator[Ready]:
    """See `OpenPeer`."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # its import would report to Intel
    import openvino

    compiled = openvino.Core().compile_model(
        options["model"],
        "CPU",
        {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_NUM_THREADS": options["workers"] * options["threads"],
            "INFERENCE_PRECISION_HINT": "f32",
        },
    )
    requests = openvino.AsyncInferQueue(compiled, compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
    height, width = options["imgsz"]
    graph = Graph(
        imgsz_hw=(height, width),
        batch=options.get("batch", 1),
        dtype=compiled.input(0).element_type.to_dtype(),
    )
    found: queue.SimpleQueue[Found] = queue.SimpleQueue()

    def note(request: Any, batch: tuple[int, list[Letterbox]]) -> None:  # in a thread of OpenVINO's
        first, letterboxes = batch
        outputs = [tensor.data for tensor in request.output_tensors]
        for place, rows in enumerate(graph.found(outputs, letterboxes)):
            found.put(Found(first + place, rows))

    def run(paths: Iterable[str]) -> Iterator[Found]:
        for number, some in enumerate(in_batches(paths, graph.batch)):
            arrays, letterboxes = graph.fed([read_plainly(path) for path in some])
            requests.start_async(arrays, (number * graph.batch, letterboxes))  # waits for a free one
            yield from _taken(found)
        requests.wait_all()
        yield from _taken(found)

    requests.set_callback(note)
    yield Ready(run=run, under_way=len(requests) * graph.batch)


def _taken(found: queue.SimpleQueue[Found]) -> Iterator[Found]:
    while not found.empty():
        yield found.get()
