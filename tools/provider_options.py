"""What ONNX Runtime's CUDA provider gains from its options: bare sessions with captured graphs, timed in turn.

python tools/provider_options.py FOLDER --json FILE    # every .onnx there, alone on the device memory, no runtime
python tools/provider_options.py FOLDER --kernels      # and which kernels of the first one take the time (needs torch)
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

_BASE = {"cudnn_conv_algo_search": "HEURISTIC", "arena_extend_strategy": "kSameAsRequested"}
VARIANTS: dict[str, dict[str, str]] = {
    "nchw": {},
    "nhwc": {"prefer_nhwc": "1"},
    "nhwc, fused bias": {"prefer_nhwc": "1", "fuse_conv_bias": "1"},
    "no graph": {"enable_cuda_graph": "0"},
    "exhaustive": {"cudnn_conv_algo_search": "EXHAUSTIVE"},
    "no tf32": {"use_tf32": "0"},
}
ROUNDS, ROUND_S = 7, 0.05
Call = Callable[[], None]


def main() -> int:
    """Prints a line for each model, batch and variant: milliseconds, and against `nchw`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--budget", type=float, default=90.0, help="seconds")
    parser.add_argument("--kernels", action="store_true")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        sys.stderr.write("error: this ONNX Runtime has no CUDA; pip install onnxruntime-gpu\n")
        return 1
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    found: dict[str, Any] = {"onnxruntime": onnxruntime.__version__, "times": [], "kernels": {}}
    models = sorted(
        given.folder.glob("*.onnx"),
        key=lambda path: ("fp16" not in path.name, "head" in path.name, path.name),
    )
    end_s = time.monotonic() + given.budget
    for model in models:
        for batch in map(int, given.batches.split(",")):
            if time.monotonic() < end_s:
                found["times"] += measured(model, batch, is_first=model == models[0])
            if given.kernels and model == models[0]:
                for name in ("nchw", "nhwc"):
                    label = f"{model.stem}, batch {batch}, {name}"
                    found["kernels"][label] = kernels(model, batch, VARIANTS[name])
            if given.json:
                given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def measured(model: Path, batch: int, *, is_first: bool) -> list[dict[str, Any]]:
    """The variants of a model in turn."""
    rows, calls, answers = [], {}, {}
    for name, options in VARIANTS.items():
        if name == "no tf32" and ("fp16" in model.stem or "int8" in model.stem):
            continue
        if "exhaustive" in name and not is_first:  # it takes seconds to start
            continue
        begin_s = time.perf_counter()
        try:
            calls[name], answer = call_of(model, batch, options)
        except Exception as error:  # noqa: BLE001  what is refused is a finding
            print(
                f"{model.stem:28} batch {batch:2} {name:18} {' '.join(str(error).split())[:160]}", flush=True
            )
            rows.append({"model": model.stem, "batch": batch, "variant": name, "error": str(error)[:400]})
            continue
        answers[name] = answer()
        rows.append(
            {"model": model.stem, "batch": batch, "variant": name, "start_s": time.perf_counter() - begin_s}
        )
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(ROUNDS):
        for name in list(calls)[:: -1 if number % 2 else 1]:
            times[name].append(seconds_of(calls[name]))
    for row in rows:
        if "error" in row:
            continue
        name = row["variant"]
        row["ms"] = statistics.median(times[name]) * 1e3
        pairs = zip(times[name], times.get("nchw", times[name]), strict=True)
        row["against_nchw"] = statistics.median(one / other for one, other in pairs)
        row["differs_by"] = float(np.abs(answers[name] - answers.get("nchw", answers[name])).max())
        print(
            f"{model.stem:28} batch {batch:2} {name:18} {row['ms']:8.3f} ms {row['against_nchw']:6.3f} "
            f"start {row['start_s']:5.2f} s, differs {row['differs_by']:.3g}",
            flush=True,
        )
    return rows


def seconds_of(call: Call) -> float:
    """Of one call, over as many as fill a round."""
    count, begin_s = 0, time.perf_counter()
    while (taken := time.perf_counter() - begin_s) < ROUND_S or count < 3:
        call()
        count += 1
    return taken / count


def call_of(model: Path, batch: int, options: dict[str, str]) -> tuple[Call, Callable[[], Any]]:
    """A session that has run (and captured), as a call; and what it answers."""
    given = onnxruntime.SessionOptions()
    given.log_severity_level = 4
    onnxruntime.set_default_logger_severity(3)
    given.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    provider = {"device_id": "0", "enable_cuda_graph": "1", **_BASE, **options}
    session = onnxruntime.InferenceSession(
        str(model), given, providers=[("CUDAExecutionProvider", provider)], enable_fallback=0
    )
    binding, kept = session.io_binding(), []
    for node in session.get_inputs():
        value = onnxruntime.OrtValue.ortvalue_from_numpy(input_of(node, batch), "cuda", 0)
        binding.bind_ortvalue_input(node.name, value)
        kept.append(value)
    for node in session.get_outputs():
        dtype = np.float16 if "float16" in node.type else np.float32
        value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape_of(node, batch), dtype, "cuda", 0)
        binding.bind_ortvalue_output(node.name, value)
        kept.append(value)
    run_options = onnxruntime.RunOptions()

    def call() -> None:
        session.run_with_iobinding(binding, run_options)

    for _ in range(4):
        call()
    return call, lambda: np.sort(
        kept[len(session.get_inputs())].numpy().astype(np.float32).reshape(batch, -1), axis=1
    )


def shape_of(node: Any, batch: int) -> list[int]:
    return [batch if not isinstance(side, int) else side for side in node.shape]


def input_of(node: Any, batch: int) -> Any:
    """Frames of noise in squares, or a threshold."""
    shape = [
        batch if index == 0 and not isinstance(side, int) else side for index, side in enumerate(node.shape)
    ]
    random = np.random.default_rng(0)
    if "uint8" in node.type:
        coarse = random.integers(0, 256, (shape[0], shape[1] // 32, shape[2] // 32, 3), np.uint8)
        return np.ascontiguousarray(coarse.repeat(32, axis=1).repeat(32, axis=2))
    if len(shape) == 4:
        return random.random(shape, np.float32).astype(np.float16 if "float16" in node.type else np.float32)
    return np.full(shape or [1], 0.01 if node.name == "conf" else 0.7, np.float32)


def kernels(model: Path, batch: int, options: dict[str, str]) -> list[dict[str, Any]]:
    """Each kernel of one call that is not captured, in order: name and microseconds."""
    import torch

    call, _ = call_of(model, batch, {"enable_cuda_graph": "0", **options})
    torch.cuda.init()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(3):
            call()
        torch.cuda.synchronize()
    events = sorted(
        (event for event in profile.events() if event.device_type.name == "CUDA"),
        key=lambda event: event.time_range.start,
    )
    third = len(events) // 3  # of three calls, the last
    last = [{"name": event.name[:160], "us": event.time_range.elapsed_us()} for event in events[-third:]]
    total = sum(row["us"] for row in last) or 1
    sums: dict[str, list[float]] = {}
    for row in last:
        sums.setdefault(row["name"][:70], []).append(row["us"])
    print(f"{model.stem}, batch {batch}, {options}: {len(last)} kernels, {total:.0f} us")
    for name, times in sorted(sums.items(), key=lambda pair: -sum(pair[1]))[:14]:
        print(f"  {sum(times):8.0f} us {len(times):3} x {name}")
    return last


if __name__ == "__main__":
    sys.exit(main())
