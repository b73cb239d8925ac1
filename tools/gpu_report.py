"""What trt-yolo does on this machine's GPU: one JSON, one table. `tools/gpu_report --help`

Runs what is there already, each step in a process of its own, most important first: facts of CUDA, the runtime over a
kernel that the host can check, ONNX Runtime, TensorRT, the bench. A step that is cut off keeps what it found.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from gpu_rows import VARIABLE, add, read  # noqa: E402

from tests.gpu.artifacts import FOLDER, demo_artifact, deploy_artifacts, make_artifacts  # noqa: E402
from trt_yolo.artifacts.shapes import BatchRange  # noqa: E402
from trt_yolo.backends.onnxruntime_providers import unusable  # noqa: E402
from trt_yolo.build.engine_from_onnx import manifest_of_onnx  # noqa: E402
from trt_yolo.engine.compatibility import engine_at  # noqa: E402
from trt_yolo.errors import InputError, TrtYoloError  # noqa: E402

TOOL, SCHEMA = "trt-yolo gpu_report", 1
_PYTEST = ["-m", "pytest", "-q", "-p", "gpu_rows", "-p", "no:cacheprovider", "--timeout", "60"]
_FILES = {
    "runtime": ["test_runtime_on_gpu.py"],
    "onnxruntime": ["test_onnxruntime_on_gpu.py"],
    "tensorrt": ["test_engines_on_gpu.py", "test_letterbox_on_gpu.py"],
    "decoders": ["test_decoders_on_gpu.py"],
    "telemetry": ["test_telemetry_on_gpu.py"],
}
_SHARES = {  # seconds, at most
    "cuda": 60.0,
    "runtime": 180.0,
    "onnxruntime": 180.0,
    "tensorrt": 180.0,
    "bench": 240.0,
    "decoders": 60.0,
    "telemetry": 30.0,
}
_BENCHED = ((1, 2), (2, 2), (3, 1))  # workers, streams
_BATCHES = (1, 4, 16)
_LEAST_S = 5.0
_LOAD_S = "8"  # seconds of each test that repeats something
_SHOWN = 60  # rows of a step in the table


def main(arguments: Sequence[str]) -> int:
    """The command: 0; 1 if anything failed, or if there is no GPU."""
    parser = _Parser(prog="tools/gpu_report", description=__doc__)
    parser.add_argument("--only", default=",".join(_SHARES), help=f"steps, of {', '.join(_SHARES)}")
    parser.add_argument("--artifacts", type=Path, help="folder of models made by --make-artifacts elsewhere")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds for all steps (420)")
    parser.add_argument("--json", type=Path, help="where the result goes; steps that it has already stay")
    parser.add_argument(
        "--make-artifacts", type=Path, metavar="FOLDER", help="export what the steps need; no GPU"
    )
    parser.add_argument("--model", default="yolov8n", help="with --make-artifacts: what the bench measures")
    parser.add_argument("--data", help="with --make-artifacts: images that calibrate its INT8")
    parser.add_argument(
        "--bench", action="store_true", help=argparse.SUPPRESS
    )  # the last step, in its process
    given = parser.parse_args(arguments)
    if not given.budget > 0:
        parser.error(f"--budget {given.budget:g} is not possible; give seconds, such as 420")
    if given.artifacts is not None and not given.artifacts.is_dir():
        parser.error(f"--artifacts {given.artifacts} is no folder; make one with --make-artifacts")
    if given.bench:
        bench(given.budget)
        return 0
    try:
        if given.make_artifacts is not None:
            make_artifacts(given.make_artifacts, given.model, given.data)
            return 0
        return report(_steps_of(given.only), given.artifacts, given.budget, given.json)
    except TrtYoloError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line and exit code 1, as the product's own commands have it."""
        self.exit(1, f"error: {message}\n")


def report(names: Sequence[str], artifacts: Path | None, budget_s: float, path: Path | None) -> int:
    """Runs the steps, shows and writes what they found."""
    machine = json.loads(_output([sys.executable, "-m", "trt_yolo", "doctor", "--json"]))
    if not machine["gpus"]:
        sys.stderr.write("error: no NVIDIA GPU answers here; see trt-yolo doctor\n")
        return 1
    record = _record(machine)
    path = path or ROOT / "tools" / "results" / f"{_slug(record)}.json"
    record["steps"] = _earlier_steps(path, record, names)
    end_s = time.monotonic() + budget_s
    for name in names:
        record["steps"].append(_ran(name, artifacts, min(_SHARES[name], end_s - time.monotonic())))
        _write(path, record)
    print(table(record))
    print(f"wrote {path}")
    return int(any(row["state"] == "failed" for step in record["steps"] for row in step["rows"]))


def table(record: dict[str, Any]) -> str:
    """What was found, in lines for a terminal: of tests that hold only their number."""
    lines = [
        f"{record['device']}, {record['created'][:16]}, trt-yolo {record['version']} {record['revision']}"
    ]
    for step in record["steps"]:
        held = [row for row in step["rows"] if row["state"] == "ok"]
        lines.append(f"\n{step['name']}: {step['ending']} in {step['seconds']:.0f} s, {len(held)} hold")
        shown = [
            row
            for row in step["rows"]
            if row["state"] != "absent" and (row["state"], row["unit"]) != ("ok", "s")
        ]
        lines += [_line(row) for row in shown[:_SHOWN]]
        if len(shown) > _SHOWN:
            lines.append(f"  and {len(shown) - _SHOWN} more: the JSON has them")
        absent = collections.Counter(row["note"] for row in step["rows"] if row["state"] == "absent")
        lines += [f"  {count} could not be tried: {note[:150]}" for note, count in absent.items()]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    value = "" if row["value"] is None else f"{row['value']} {row['unit']}"
    return f"  {row['state']:7} {row['name'][-70:]:70} {value:>14}  {row['note'][:120]}".rstrip()


def bench(budget_s: float) -> None:
    """The last step: the deploy graphs of the artifacts, each setting beside the bare engine, in turn."""
    end_s = time.monotonic() + budget_s
    with tempfile.TemporaryDirectory(prefix="trt-yolo-demo-") as folder:
        _bench_models(deploy_artifacts() or [demo_artifact("dynamic", Path(folder))], end_s)


def _bench_models(models: Sequence[Path], end_s: float) -> None:
    for index, model in enumerate(models):
        if model.suffix == ".onnx" and (reason := unusable("cuda")):
            add(model.stem, state="absent", note=reason)
            continue
        for label, options in _bench_settings(model, is_first=index == 0):
            if end_s - time.monotonic() < 2 * _LEAST_S:
                add(f"{model.stem}, {label}", state="absent", note="no time was left")
                continue
            _benched(model, label, options, end_s - time.monotonic())


def _bench_settings(model: Path, *, is_first: bool) -> Iterator[tuple[str, list[str]]]:
    """What is measured of a model; of the first one everything, of the others the throughput of one setting."""
    takes = _batch_of(model)
    batches = ",".join(str(size) for size in _BATCHES if takes.minimum <= size <= takes.maximum)
    offline = ["offline", "--scope", "infer,engine", "--batch", batches]
    if is_first:
        yield "latency", ["single-stream", "--workers", "1", "--streams", "2", "--batch", "1"]
    for workers, streams in _BENCHED if is_first else _BENCHED[:1]:
        layout = ["--workers", str(workers), "--streams", str(streams)]
        yield f"{workers} x {streams}", [*offline, *layout]
        if is_first and workers == 1:
            yield f"{workers} x {streams}, no graphs", [*offline, *layout, "--no-graphs"]
            yield "JPEG files", ["offline", "--scope", "e2e", "--batch", batches.split(",")[-1], *layout]


def _batch_of(model: Path) -> BatchRange:
    manifest = engine_at(model).manifest if model.suffix == ".engine" else manifest_of_onnx(model)
    return BatchRange(1, 1) if manifest is None else manifest.batch


def _benched(model: Path, label: str, options: list[str], limit_s: float) -> None:
    command = [sys.executable, "-m", "trt_yolo", "bench", str(model), *options, "--duration", "1", "--json"]
    try:
        found = json.loads(_output(command, limit_s))
    except subprocess.TimeoutExpired:
        add(f"{model.stem}, {label}", state="absent", note="no time was left")
        return
    except (subprocess.SubprocessError, ValueError) as error:
        said = getattr(error, "stderr", "") or str(error)
        add(f"{model.stem}, {label}", state="failed", note=said.strip().splitlines()[-1])
        return
    for run in found["runs"]:
        what = f"{model.stem}, {label}, batch {run['setting']['batch']}"
        scopes = run["scopes"]
        for scope, figures in scopes.items():
            add(f"{what}: {scope}", value=figures["throughput"]["images_per_s"], unit="images/s")
        for pair, ratio in run["ratios"].items():
            interval = f"95%: {ratio['low']} to {ratio['high']}"
            add(f"{what}: {pair}", value=ratio["ratio"], unit="times", note=interval)
        if label == "latency" and {"infer", "engine"} <= set(scopes):
            p50 = {scope: scopes[scope]["latency_ms"]["p50"] for scope in ("infer", "engine")}
            add(f"{what}: added to the bare engine, p50", value=p50["infer"] - p50["engine"], unit="ms")


def _ran(name: str, artifacts: Path | None, limit_s: float) -> dict[str, Any]:
    """A step, run in a process of its own session, ended with all that it started when its time is over."""
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="trt-yolo-report-") as folder:
        rows = Path(folder) / "rows"
        paths = [str(ROOT), str(ROOT / "tools"), os.environ.get("PYTHONPATH", "")]
        environment = {"TRT_YOLO_LOAD_S": _LOAD_S} | os.environ
        environment |= {VARIABLE: str(rows), "PYTHONPATH": os.pathsep.join(paths), "TRT_YOLO_CACHE": folder}
        if artifacts is not None:
            environment[FOLDER] = str(artifacts.absolute())
        ending = "no time was left"
        if limit_s >= _LEAST_S:
            ending = _ended(_command(name, limit_s), environment, limit_s)
        return {
            "name": name,
            "ending": ending,
            "seconds": round(time.monotonic() - begin_s, 1),
            "rows": read(rows),
        }


def _ended(command: list[str], environment: dict[str, str], limit_s: float) -> str:
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, stdout=sys.stderr, start_new_session=True
    ) as process:
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return f"cut off after {limit_s:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, 9)
    return "done" if code == 0 else f"exit code {code}"


def _command(name: str, limit_s: float) -> list[str]:
    if name == "cuda":
        return ["tools/gpu_facts.py"]
    if name == "bench":
        return ["tools/gpu_report.py", "--bench", "--budget", str(limit_s - _LEAST_S)]
    again = [] if name == "runtime" else ["-k", "not pycuda"]  # which runs over both bindings
    return [*_PYTEST, *again, *(f"tests/gpu/{file}" for file in _FILES[name])]


def _steps_of(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in _SHARES]:
        raise InputError(f"--only {unknown[0]} is no step; give some of {', '.join(_SHARES)}")
    return names


def _record(machine: dict[str, Any]) -> dict[str, Any]:
    return {
        "tool": TOOL,
        "schema": SCHEMA,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "version": machine["version"],
        "revision": _revision(),
        "device": machine["gpus"][0]["name"],
        "machine": machine,
        "steps": [],
    }


def _revision() -> str:
    """Git's; empty in a copy without git, or one that it does not trust."""
    try:
        return _output(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"]).strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _earlier_steps(path: Path, record: dict[str, Any], names: Sequence[str]) -> list[dict[str, Any]]:
    """The steps of a result of the same device that are not run again: a report may come in several calls."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
        if (earlier["tool"], earlier["device"]) != (TOOL, record["device"]):
            return []
        return [step for step in earlier["steps"] if step["name"] not in names]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    beside.replace(path)


def _slug(record: dict[str, Any]) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{record['device']}-{record['created'][:10]}".lower()).strip("-")


def _output(command: list[str], limit_s: float = 60.0) -> str:
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=limit_s, env=environment, check=True, cwd=ROOT
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
