"""From image files: with all cores, by both decoders, and beside Ultralytics."""

from __future__ import annotations

import statistics
from pathlib import Path

import decode_speed

from gpu_checks.candidates import Candidate
from gpu_checks.job import Job
from gpu_checks.record import Row
from gpu_checks.speed import OFFLINE, Speed, rate, ratio, ratio_row
from trt_yolo.bench.measuring import measure
from trt_yolo.bench.peers.choosing import chosen_peers, open_peers
from trt_yolo.cores import available_cores
from trt_yolo.errors import TrtYoloError


def files_with_all_cores(speed: Speed, candidate: Candidate, batch: int, engine_rate: float) -> None:
    """From JPEG files with all cores, and how many cores the engine needs to be kept busy."""
    cores = len(available_cores())
    with speed.subject(candidate, batch=batch, workers=1, decode_threads=cores) as subject:
        measured = measure([subject.contender("e2e", OFFLINE, seed=0)], speed.plan)
    speed.report(
        Row(
            name="JPEG files to detections, all cores",
            value=rate(measured, 0),
            unit="images/s",
            note=f"{cores} cores",
        )
    )
    stages = [window.stages for window in measured.seen[0].windows if window.stages is not None]
    if stages:
        spent_ms = statistics.median(one.decode + one.letterbox for one in stages)
        speed.report(
            Row(
                name="cores that keep the bare engine busy",
                value=engine_rate * spent_ms / 1e3,
                note=f"{spent_ms:.2f} ms an image to decode and letterbox, {engine_rate:.0f} images/s",
            )
        )


def decoders(speed: Speed) -> None:
    """The GPU's image decoder beside the processor's, in turn."""
    first = speed.paths[0]
    found = decode_speed.of_images(str(first.parent / f"*{first.suffix}"))
    speed.report(
        Row(
            name="images decoded by the processor",
            value=found["cpu_per_s"],
            unit="images/s",
            note=f"{found['cpu_cpu_ms']} ms of CPU an image, {found['what']}",
        )
    )
    name = "images decoded: GPU / processor"
    if "gpu_over_cpu" not in found:
        speed.report(Row(name=name, state="absent", note=found.get("gpu_not_measured", "")))
        return
    middle, low, high = found["gpu_over_cpu"]
    note = f"{found['gpu_per_s']} images/s, {found['gpu_cpu_ms']} ms of CPU an image"
    speed.report(Row(name=name, value=middle, low=low, high=high, note=note))


def beside_ultralytics(speed: Speed, candidate: Candidate, batch: int, job: Job) -> None:
    """Ultralytics' predict on the same images and weights, in turn; in FP32, as PyTorch computes."""
    name = "ours / Ultralytics' predict, JPEG files"
    if job.model is None or not job.model.endswith(".pt"):
        speed.report(Row(name=name, state="absent", note="it needs the checkpoint: --model yolov8n.pt"))
        return
    weights = Path(job.model)
    try:
        with speed.subject(candidate, batch=batch, workers=1) as subject:
            names, _ = chosen_peers(["ultralytics"], subject, weights)
            with open_peers(names, subject, weights) as peers:
                measured = measure([subject.contender("e2e", OFFLINE, seed=0), *peers], speed.plan)
    except TrtYoloError as error:  # not installed, most of the time
        speed.report(Row(name=name, state="absent", note=str(error)))
        return
    note = f"{rate(measured, 0):.0f} against {rate(measured, 1):.0f} images/s, {candidate.label}"
    speed.report(ratio_row(name, ratio(measured, 0, 1), note))
