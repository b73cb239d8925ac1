"""What measuring costs, and whether the figure is right: the bench beside a plain loop over the same stream, in turn.

python tools/bench_cost.py                 # the demo model
python tools/bench_cost.py yolov8n.onnx 2  # another one, with 2 workers of 1 thread
python tools/bench_cost.py --null          # a backend that computes nothing: the most that it can cost
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from pathlib import Path

import trt_yolo
from trt_yolo.bench.images import write_scenes
from trt_yolo.bench.loads import Scenario
from trt_yolo.bench.runtime import null_model
from trt_yolo.bench.scope_e2e import FilesToDetections
from trt_yolo.bench.statistics import ratio_of
from trt_yolo.runtime.model import Model

WINDOWS = 20
SECONDS = 1.5


def main() -> None:
    """Prints the plain loop's rate, and ratios to it."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_scenes(Path(folder), (256, 256))
        if "--null" in sys.argv:
            model = null_model(8, workers=1)
        else:
            workers = int(sys.argv[2]) if len(sys.argv) > 2 else 0
            model = trt_yolo.load(*sys.argv[1:2], workers=workers, threads=1 if workers else None)
        with model:
            contender = FilesToDetections(model, paths, Scenario(name="offline"))
            contender.window(SECONDS)
            benched, said, plain = [], [], []
            for _ in range(WINDOWS):
                start_s = time.perf_counter()
                window = contender.window(SECONDS)
                benched.append(window.offered / (time.perf_counter() - start_s))
                said.append(window.images_per_s)
                plain.append(_plain(model, paths, window.offered))
    print(f"plain loop: {sorted(plain)[WINDOWS // 2]:.1f} images/s")
    for name, rates in (("the bench's own loop", benched), ("what the bench says", said)):
        ratio = ratio_of(rates, plain)
        assert ratio is not None
        print(f"{name} / plain loop: {ratio.ratio:.4f}, 95% interval {ratio.low:.4f} to {ratio.high:.4f}")


def _plain(model: Model, paths: list[Path], images: int) -> float:
    start_s = time.perf_counter()
    for result in model.stream(itertools.islice(itertools.cycle(paths), images), ordered=False):
        _ = result.detections
    return images / (time.perf_counter() - start_s)


if __name__ == "__main__":
    main()
