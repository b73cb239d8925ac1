"""A build in a process of its own: what it is asked, how it is watched, and how it ends.

Both sides of one conversation stand here. The child (`main`) reads one line of JSON, writes lines of JSON, and lays
the plan where it was told; its stderr, TensorRT's own printing included, is the log. The parent (`run_build`) passes
on the progress, and kills the child when it is interrupted itself; a child whose parent is gone stops at the next
step. Knows nothing of manifests and of what the plan is called in the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from trt_yolo.build.plan_from_onnx import STEPS, build_plan, timing_cache_part
from trt_yolo.engine.library import Library
from trt_yolo.engine.options import EngineOptions, check_supported, options_from_dict
from trt_yolo.engine.plan import Family
from trt_yolo.engine.store import write_durably
from trt_yolo.errors import ExportError, InputError, MissingDependencyError, TrtYoloError
from trt_yolo.hardware.gpus import devices
from trt_yolo.system.interpreter import WHAT_TO_SET, executable, fresh_python
from trt_yolo.system.progress import Progress, no_progress

_STAGE = "building the engine"
_SAID_EVERY_S = 0.05
_ERRORS = {error.__name__: error for error in (InputError, ExportError, MissingDependencyError)}
_LOUD = ("fatal", "error", "warning")


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """One build.

    Attributes:
        family: What builds.
        onnx: From what.
        plan: Where the plan goes.
        log: Where the log goes while it grows.
        failed_log: Where it will be found if the build fails; named in errors.
        options: What to ask of the builder.
        profile: Smallest, best and largest batch.
        imgsz_hw: Height and width in pixels.
    """

    family: Family
    onnx: Path
    plan: Path
    log: Path
    failed_log: Path
    options: EngineOptions
    profile: tuple[int, int, int]
    imgsz_hw: tuple[int, int]

    def to_json(self) -> str:
        """One line."""
        cache = self.options.timing_cache
        return json.dumps(
            {
                "family": self.family,
                "onnx": str(self.onnx),
                "plan": str(self.plan),
                "options": self.options.to_dict(),
                "verbose": self.options.verbose,
                "timing_cache": None if cache is None else str(cache),
                "profile": self.profile,
                "imgsz_hw": self.imgsz_hw,
            }
        )


@dataclass(frozen=True, kw_only=True)
class Built:
    """A build that succeeded.

    Attributes:
        version: Of the builder.
        warnings: What it warned of, each once.
        seconds: What it took, TensorRT's own start not counted.
        peak_bytes: The most memory that the process had; 0 where the system does not tell.
    """

    version: str
    warnings: list[str]
    seconds: float
    peak_bytes: int


def run_build(request: BuildRequest, progress: Progress = no_progress) -> Built:
    """Builds, in a child process.

    Raises:
        InputError: The graph or an option does not fit this TensorRT or this machine.
        ExportError: The build failed, or its process ended without a word.
        MissingDependencyError: TensorRT does not import.
        WorkerError: This program has no Python interpreter to start.
    """
    try:
        log = request.log.open("wb")
    except OSError as error:
        raise InputError(
            f"cannot write {request.log}: {error.strerror or error}; give another folder with --out"
        ) from error
    with log:
        with fresh_python("trt_yolo.build.process:main") as (command, file):
            child = subprocess.Popen(
                command, pass_fds=[file],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
            )  # fmt: skip
        try:
            return _watched(child, request, progress)
        finally:
            child.kill()
            child.communicate()
            if request.options.timing_cache is not None:  # it may have been killed while it wrote
                with contextlib.suppress(OSError):
                    timing_cache_part(request.options.timing_cache, child.pid).unlink()


def _watched(child: subprocess.Popen[str], request: BuildRequest, progress: Progress) -> Built:
    warnings: dict[str, None] = {}
    with contextlib.suppress(BrokenPipeError):  # a child that fell at once says why in its exit status
        assert child.stdin is not None
        child.stdin.write(request.to_json() + "\n")
        child.stdin.flush()
    for kind, value in _messages(child):
        if kind == "progress":
            progress(_STAGE, int(value), STEPS)
        elif kind == "warning":
            warnings.setdefault(str(value))
        elif kind == "error":
            name, text = value
            raise _ERRORS.get(name, ExportError)(f"{text}{_where_the_log_is(request)}")
        elif kind == "built":
            progress(_STAGE, STEPS, STEPS)
            return Built(warnings=list(warnings), **value)
    ended = _how_it_ended(child.wait())
    unheard = f"; {executable()} printed nothing: if it is not a Python interpreter, {WHAT_TO_SET}"
    raise ExportError(f"{ended} while it built {request.onnx}{_where_the_log_is(request) or unheard}")


def _where_the_log_is(request: BuildRequest) -> str:
    """For the end of an error's line; nothing where TensorRT has said nothing."""
    return f"; TensorRT's log: {request.failed_log}" if request.log.stat().st_size else ""


def _messages(child: subprocess.Popen[str]) -> Iterator[tuple[str, Any]]:
    assert child.stdout is not None
    for line in child.stdout:
        with contextlib.suppress(ValueError, TypeError):
            kind, value = json.loads(line)
            yield kind, value


def _how_it_ended(status: int) -> str:
    if status == 0 and signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN:
        return "the builder ended with unknown status (this program ignores SIGCHLD)"
    if status == -signal.SIGKILL:
        return "the builder was killed, as the kernel does when memory runs out,"
    if status < 0:
        return f"the builder crashed ({signal.Signals(-status).name})"
    return f"the builder ended with status {status}"


def main() -> None:
    """The child."""
    with contextlib.suppress(ValueError):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent too, which decides
    said = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to the log
    try:
        fields = json.loads(sys.stdin.readline())
    except ValueError:
        sys.exit(1)  # the parent is gone already
    _Child(said).run(fields)


class _Child:
    def __init__(self, said: IO[str]) -> None:
        self._said = said
        self._last = 0.0
        self._lock = threading.Lock()  # TensorRT calls from several threads
        self._is_heard = True

    def run(self, fields: dict[str, Any]) -> None:
        try:
            if not self._say("built", self._build(fields)):
                # whoever wanted it is gone, and nobody else may come to clear it away
                Path(fields["plan"]).unlink(missing_ok=True)
        except TrtYoloError as error:
            self._say("error", (type(error).__name__, str(error)))
        except MemoryError:
            self._say("error", ("ExportError", f"there is not enough memory to build {fields['onnx']}"))
        with contextlib.suppress(OSError):  # nobody listens
            self._said.close()
        sys.stderr.flush()
        os._exit(0)  # TensorRT's own teardown is not worth waiting for, nor its crashes

    def _build(self, fields: dict[str, Any]) -> dict[str, Any]:
        library = Library(fields["family"])
        begin = time.perf_counter()
        cache = fields["timing_cache"]
        options = dataclasses.replace(
            options_from_dict(fields["options"]),
            verbose=fields["verbose"],
            timing_cache=None if cache is None else Path(cache),
        )
        check_supported(options, library, has_gpu=bool(devices()))
        plan = build_plan(
            library, Path(fields["onnx"]), options,
            profile=tuple(fields["profile"]), imgsz_hw=tuple(fields["imgsz_hw"]),
            say=self._log, progress=self._progress, is_wanted=lambda: self._is_heard,
        )  # fmt: skip
        try:
            write_durably(Path(fields["plan"]), plan)
        except OSError as error:
            raise InputError(
                f"cannot write {fields['plan']}: {error.strerror or error}; give another folder with --out"
            ) from error
        seconds = time.perf_counter() - begin
        return {"version": library.version, "seconds": seconds, "peak_bytes": _peak_bytes()}

    def _log(self, severity: str, text: str) -> None:
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {severity} {text}\n")
        if severity in _LOUD:
            self._say("warning", text)

    def _progress(self, _phase: str, done: int, _total: int) -> None:
        now = time.monotonic()
        if now - self._last >= _SAID_EVERY_S:
            self._last = now
            self._say("progress", done)

    def _say(self, kind: str, value: Any) -> bool:
        """Whether somebody still listens."""
        try:
            with self._lock:
                self._said.write(json.dumps((kind, value)) + "\n")
                self._said.flush()
        except OSError:
            self._is_heard = False
        return self._is_heard


def _peak_bytes() -> int:
    """Of this process alone: ru_maxrss begins at what its parent had."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0
