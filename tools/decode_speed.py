"""What decoding takes: the processor's decoder beside the GPU's, in turn, on the same files.

python tools/decode_speed.py photos/              # JPEG files, by as many threads as the runtime would have
python tools/decode_speed.py clip.mp4             # a video
python tools/decode_speed.py photos/ --json       # one line of JSON
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import queue
import statistics
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trt_yolo.bench.statistics import ratio_of
from trt_yolo.cores import default_decode_threads, usable_cpus
from trt_yolo.errors import TrtYoloError
from trt_yolo.media import gpu_images, video
from trt_yolo.media.decoding import decoder_for
from trt_yolo.media.images import Decode
from trt_yolo.media.sources import find_images, is_video

WINDOWS = 8
SECONDS = 1.0
FRAMES = 120


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
    """Images a second of each decoder, CPU time of an image, and the ratio of the rates with its interval.

    Raises:
        InputError: No images there.
    """
    threads = default_decode_threads(usable_cpus().count)
    files = [(path.read_bytes(), path.name) for path in find_images([source])]
    reason = gpu_images.why_not()
    decoders: dict[str, Decode] = {"cpu": decoder_for("cpu")}
    if not reason:
        decoders["gpu"] = decoder_for("gpu")
    return {"what": f"{len(files)} images, {threads} threads"} | _compared(
        {name: functools.partial(_images_rate, one, files, threads) for name, one in decoders.items()}, reason
    )


def _images_rate(decode: Decode, files: Sequence[tuple[bytes, str]], threads: int) -> float:
    """Images a second, decoded by so many threads at once."""
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
    start_s = time.perf_counter()
    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return sum(counts) / (time.perf_counter() - start_s)


def _of_video(path: Path) -> dict[str, Any]:
    reason = video.why_not()
    names: list[Any] = ["cpu"] if reason else ["cpu", "gpu"]
    return {"what": f"{path.name}, {FRAMES} frames a window"} | _compared(
        {name: functools.partial(_video_rate, path, name) for name in names}, reason
    )


def _video_rate(path: Path, decoder: Any) -> float:
    """Frames a second; the first one, which opens everything, does not count."""
    frames = video.read_video(path, decoder=decoder)
    next(frames)
    start_s, count = time.perf_counter(), 0
    for _ in itertools.islice(frames, FRAMES):
        count += 1
    rate = count / (time.perf_counter() - start_s)
    frames.close()
    return rate


def _compared(contenders: dict[str, Callable[[], float]], reason: str) -> dict[str, Any]:
    """Rates in turn, CPU time of an image, and the ratio of the rates."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    cpu_ms: dict[str, list[float]] = {name: [] for name in contenders}
    for window in range(WINDOWS + 1):
        for name, rate_of in contenders.items():
            begun, start_s = os.times(), time.perf_counter()
            rate = rate_of()
            ended, seconds = os.times(), time.perf_counter() - start_s
            spent_s = ended.user + ended.system - begun.user - begun.system
            if window:  # the first one warms up
                rates[name].append(rate)
                cpu_ms[name].append(spent_s / max(1.0, rate * seconds) * 1e3)
    found: dict[str, Any] = {}
    for name in contenders:
        found[f"{name}_per_s"] = round(statistics.median(rates[name]), 1)
        found[f"{name}_cpu_ms"] = round(statistics.median(cpu_ms[name]), 3)
    ratio = ratio_of(rates["gpu"], rates["cpu"]) if "gpu" in rates else None
    if ratio is not None:
        found["gpu_over_cpu"] = [round(value, 3) for value in (ratio.ratio, ratio.low, ratio.high)]
    if reason:
        found["gpu_not_measured"] = reason
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
