"""What spinning threads cost and bring: an inference with spinning, with sleeping and with one thread, in turn.

python tools/spin_cost.py engines/yolov8n.onnx          # alone, then beside as many busy programs as there are CPUs
python tools/spin_cost.py engines/yolov8n.onnx 1        # alone, then beside one

One JSON line each: milliseconds, middle value, and ratios to spinning with 95% intervals, above 1 where it is slower.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trt_yolo.backends.onnxruntime import OnnxRuntimeBackend
from trt_yolo.bench.loads import timed_for
from trt_yolo.bench.statistics import ratio_of
from trt_yolo.hardware.cores import usable_cpus

ROUNDS = 10
SECONDS = 0.8
BUSY = "while True: pass"


def main() -> None:
    """Prints a line for each company."""
    model, cpus = Path(sys.argv[1]), usable_cpus().count
    with contextlib.ExitStack() as stack:
        backends = {
            "spin": stack.enter_context(OnnxRuntimeBackend(model, threads=cpus, spin=True)),
            "sleep": stack.enter_context(OnnxRuntimeBackend(model, threads=cpus, spin=False)),
            "one thread": stack.enter_context(OnnxRuntimeBackend(model, threads=1)),
        }
        for busy in (0, int(sys.argv[2]) if len(sys.argv) > 2 else cpus):
            with _company(busy):
                print(json.dumps({"busy": busy, "threads": cpus, **_measured(backends)}))


def _measured(backends: dict[str, OnnxRuntimeBackend]) -> dict[str, object]:
    frames = np.random.default_rng(0).integers(0, 255, (1, *backends["spin"].manifest.frame_hw, 3), np.uint8)
    taken_ms: dict[str, list[float]] = {name: [] for name in backends}
    for _ in range(ROUNDS):
        for name, backend in backends.items():
            call = backend.bare_call(frames, conf=0.25, iou=0.7)
            taken_ms[name].append(1e3 * statistics.mean(timed_for(call, SECONDS)))
    found: dict[str, object] = {
        f"{name} ms": round(statistics.median(ms), 1) for name, ms in taken_ms.items()
    }
    for name in ("sleep", "one thread"):
        ratio = ratio_of(taken_ms[name], taken_ms["spin"])
        assert ratio is not None
        found[f"{name} / spin"] = [round(value, 2) for value in (ratio.ratio, ratio.low, ratio.high)]
    return found


@contextlib.contextmanager
def _company(count: int) -> Iterator[None]:
    """Programs that are always busy, each in a session of its own as services are."""
    programs = [subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


if __name__ == "__main__":
    main()
