"""What decoding takes: the processor's decoder, the GPU's and OpenCV, in turn, on the same files.

python tools/decode_speed.py photos/              # images, by as many threads as the runtime would have
python tools/decode_speed.py clip.mp4             # a video
python tools/decode_speed.py photos/ --json       # one line of JSON
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from trt_yolo.bench.statistics import ratio_of
from trt_yolo.errors import ImageError, TrtYoloError
from trt_yolo.hardware.cores import default_decode_threads, usable_cpus
from trt_yolo.media import video
from trt_yolo.media.decoders import decoder_for, why_not
from trt_yolo.media.images import Decode
from trt_yolo.media.sources import find_images, is_video

WINDOWS = 8
SECONDS = 1.0
FRAMES = 120


class Cost(NamedTuple):
    """What a window measured: images a second, and the milliseconds of CPU time of one."""

    per_s: float
    cpu_ms: float


def main(arguments: Sequence[str]) -> int:
    """The command: 0, or 1 with a line that says what is wrong."""
    given = [one for one in arguments if one != "--json"]
    if len(given) != 1 or given[0].startswith("--"):
        sys.stderr.write("error: give a folder of images, or a video; and --json for one line of JSON\n")
        return 1
    try:
        found = _of_video(Path(given[0])) if is_video(given[0]) else of_images(given[0])
    except TrtYoloError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    if "--json" in arguments:
        print(json.dumps(found))
    else:
        for key, value in found.items():
            print(f"{key}: {value}")
    return 0


def of_images(source: str) -> dict[str, Any]:
    """Images a second and CPU time of an image for each decoder, and their ratios with intervals.

    Raises:
        InputError: No images there.
    """
    threads = default_decode_threads(usable_cpus().count)
    files = [(path.read_bytes(), path.name) for path in find_images([source])]
    reason = why_not()
    decoders: dict[str, Decode] = {"cpu": decoder_for("cpu"), "opencv": _by_opencv}
    if not reason:
        decoders["gpu"] = decoder_for("gpu")
    return {"what": f"{len(files)} images, {threads} threads"} | _compared(
        {name: functools.partial(_images_cost, one, files, threads) for name, one in decoders.items()}, reason
    )


def _by_opencv(data: bytes, *, name: str) -> Any:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ImageError(f"{name} is no image that OpenCV can decode; give images that it decodes")
    return image


def _images_cost(decode: Decode, files: Sequence[tuple[bytes, str]], threads: int) -> Cost:
    """Of images that so many threads decode at once."""
    waiting: queue.SimpleQueue[tuple[bytes, str]] = queue.SimpleQueue()
    until_s = time.perf_counter() + SECONDS
    endless = itertools.cycle(files)
    counts = [0] * threads
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            while time.perf_counter() < until_s:
                data, name = waiting.get()
                decode(data, name=name)
                counts[number] += 1
                waiting.put(next(endless))
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            errors.append(error)

    for _ in range(2 * threads):
        waiting.put(next(endless))
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]

    def run() -> int:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if errors:
            raise errors[0]
        return sum(counts)

    return _cost(run)


def _of_video(path: Path) -> dict[str, Any]:
    reason = video.why_not()
    readers: dict[str, Callable[[], Generator[Any]]] = {
        "cpu": functools.partial(video.read_video, path, decoder="cpu"),
        "opencv": functools.partial(_video_by_opencv, path),
    }
    if not reason:
        readers["gpu"] = functools.partial(video.read_video, path, decoder="gpu")
    return {"what": f"{path.name}, {FRAMES} frames a window"} | _compared(
        {name: functools.partial(_video_cost, read) for name, read in readers.items()}, reason
    )


def _video_by_opencv(path: Path) -> Generator[Any]:
    capture = cv2.VideoCapture(str(path))
    while (read := capture.read())[0]:
        yield read[1]


def _video_cost(read: Callable[[], Generator[Any]]) -> Cost:
    """The first frame, which opens everything, does not count."""
    with contextlib.closing(read()) as frames:
        next(frames)
        return _cost(lambda: sum(1 for _ in itertools.islice(frames, FRAMES)))


def _cost(decode: Callable[[], int]) -> Cost:
    start_s, cpu_start_s = time.perf_counter(), time.process_time()
    count = max(1, decode())
    seconds, cpu_s = time.perf_counter() - start_s, time.process_time() - cpu_start_s
    return Cost(count / seconds, cpu_s / count * 1e3)


def _compared(contenders: dict[str, Callable[[], Cost]], reason: str) -> dict[str, Any]:
    """Medians of windows in turn; the rate of the GPU over the CPU's, the CPU time over that of OpenCV."""
    costs: dict[str, list[Cost]] = {name: [] for name in contenders}
    for window in range(WINDOWS + 1):
        for name, measure in contenders.items():
            cost = measure()
            if window:  # the first one warms up
                costs[name].append(cost)
    per_s = {name: [one.per_s for one in found] for name, found in costs.items()}
    cpu_ms = {name: [one.cpu_ms for one in found] for name, found in costs.items()}
    found: dict[str, Any] = {}
    for name in contenders:
        found[f"{name}_per_s"] = round(statistics.median(per_s[name]), 1)
        found[f"{name}_cpu_ms"] = round(statistics.median(cpu_ms[name]), 3)
    ratios = {"cpu_ms_cpu_over_opencv": ratio_of(cpu_ms["cpu"], cpu_ms["opencv"])}
    if "gpu" in contenders:
        ratios["gpu_over_cpu"] = ratio_of(per_s["gpu"], per_s["cpu"])
    for name, ratio in ratios.items():
        if ratio is not None:
            found[name] = [round(value, 3) for value in (ratio.ratio, ratio.low, ratio.high)]
    if reason:
        found["gpu_not_measured"] = reason
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
