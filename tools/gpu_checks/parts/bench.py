"""How fast it is: the runtime beside the bare engine, latency, the host's work, layouts, files, Ultralytics, power.

What is compared is measured in turn, window by window, in this one process; the ratio's interval says how sure it is.
Goals are those of a GPU: a rehearsal only says what it measured.
"""

from __future__ import annotations

from gpu_checks.candidates import candidates
from gpu_checks.images import image_files
from gpu_checks.job import Job, Report
from gpu_checks.record import Row
from gpu_checks.speed import Speed, best_of, plan_for
from gpu_checks.speed_of_engine import latency_added, layouts, runtime_beside_engine
from gpu_checks.speed_of_files import beside_ultralytics, decoders, files_with_all_cores
from gpu_checks.speed_of_host import host_work


def run(job: Job, report: Report) -> None:
    """See the module."""
    known = candidates(job, report)
    if job.rehearse:  # a processor computes FP16 in FP32, with conversions
        known = [one for one in known if one.precision == "fp32"] or known
    speed = Speed(paths=image_files(job), plan=plan_for(job), report=report, counts=not job.rehearse)
    host_work(speed)
    dynamic, static = best_of(known, is_dynamic=True), best_of(known, is_dynamic=False)
    chosen = dynamic or static
    if chosen is None:
        return
    note = f"{len(speed.paths)} images, windows of {speed.plan.window_s:.2f} s"
    report(Row(name="measured", value=chosen.label, note=note))
    best = runtime_beside_engine(speed, chosen)
    latency_added(speed, static or chosen)
    layouts(speed, chosen, best.batch, on_gpu=not job.rehearse)
    files_with_all_cores(speed, chosen, best.batch, best.engine)
    decoders(speed)
    in_fp32 = [one for one in known if one.precision == "fp32"]
    beside_ultralytics(speed, best_of(in_fp32, is_dynamic=chosen.is_dynamic) or chosen, best.batch, job)
