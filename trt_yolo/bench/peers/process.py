"""Peers as the bench sees them: which of them run beside a model, each in a process that is asked to run for a while.

The process has a session of its own: Ctrl-C is for the bench alone. The peer and all that it has started end when
its stdin does, which they also do if the bench is killed; what it writes lies in a folder that goes when it is closed.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from trt_yolo.bench.peers import DETECTING, PeerOptions, Rows, peer_named, why_not
from trt_yolo.bench.subject import Subject
from trt_yolo.bench.window import Window
from trt_yolo.errors import BackendError, InputError
from trt_yolo.system.interpreter import executable, fresh_python

if TYPE_CHECKING:
    from typing_extensions import Self

ALL = "all"
"""Instead of names: every peer that can run."""

_START_S = 300.0
_RUN_S = 300.0
_CLOSE_S = 5.0
_LOOK_S = 0.005
_IMAGES_TO_SEE_WHY = 20
_QUIET = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}


def check_names(names: Sequence[str]) -> None:
    """Raises InputError for a peer that there is not."""
    for name in names:
        if name != ALL:
            peer_named(name)


def chosen_peers(names: Sequence[str], subject: Subject, weights: Path | None) -> tuple[list[str], list[str]]:
    """The peers that run, and why others do not.

    Args:
        names: What was asked for; of `all` those that cannot run are left out.
        subject: What they run beside.
        weights: The checkpoint, where there is one.

    Raises:
        InputError: One that was asked for by name cannot run.
    """
    model = subject.facts.path if subject.facts.path.endswith(".onnx") else None
    wanted = list(DETECTING if ALL in names else dict.fromkeys(names))
    reasons = {name: why_not(name, model=model, weights=weights, device=_device(subject)) for name in wanted}
    missing = [f"the peer {name} does not run: {reason}" for name, reason in reasons.items() if reason]
    if missing and ALL not in names:
        raise InputError(missing[0])
    return [name for name in wanted if not reasons[name]], missing


@contextlib.contextmanager
def open_peers(names: Sequence[str], subject: Subject, weights: Path | None) -> Iterator[list[PeerProcess]]:
    """The peers, running.

    Raises:
        BackendError: One cannot start.
        InputError: The model takes other frames than they do.
    """
    if subject.manifest.source_hw is not None:
        raise InputError(
            f"peers take letterboxed frames, and {subject.name} has its letterbox in the graph; "
            "give a model that was exported without --letterbox gpu"
        )
    options = PeerOptions(
        imgsz=list(subject.manifest.imgsz_hw),
        images=[str(path) for path in subject.paths],
        workers=max(1, subject.workers),
        threads=subject.setting.threads,
        batch=subject.batch,
        device=_device(subject),
    )
    if subject.facts.path.endswith(".onnx"):
        options["model"] = subject.facts.path
    if weights is not None:
        options["weights"] = str(weights)
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(PeerProcess(name, _for_one(name, options))) for name in names]


def _for_one(name: str, options: PeerOptions) -> PeerOptions:
    """The plain loop is one process: it gets the cores of all workers."""
    if name != "onnxruntime":
        return options
    return {**options, "threads": options["workers"] * options["threads"]}


def _device(subject: Subject) -> str:
    return f"cuda:{subject.setting.devices[0]}" if subject.setting.devices else "cpu"


class PeerProcess:
    """A running peer, to be measured beside others: a `Contender`. A context manager.

    Args:
        name: Which, of `PEERS`.
        options: What it is told.

    Attributes:
        name: Which.
        is_continuous: False.
        pid: Of its process, which leads a session of its own.

    Raises:
        BackendError: It could not start.
        WorkerError: This program has no Python interpreter to start.
    """

    def __init__(self, name: str, options: PeerOptions) -> None:
        self.name = name
        self.is_continuous = False
        self._options = options
        self._is_closed = False
        self._folder = tempfile.TemporaryDirectory(prefix="trt-yolo-peer-", ignore_cleanup_errors=True)
        self._stderr = Path(self._folder.name) / "stderr"
        arguments = [name, json.dumps(options)]
        with (
            self._stderr.open("wb") as stderr,
            fresh_python("trt_yolo.bench.peers.serve:main", arguments) as (command, file),
        ):
            self._process = subprocess.Popen(
                command,
                pass_fds=[file],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env={**os.environ, **_QUIET, "TMPDIR": self._folder.name},
                text=True,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._answer(_START_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def window(self, seconds: float) -> Window:
        """See `Contender`; the peer looks at the clock and counts by itself.

        Raises:
            BackendError: It has ended.
        """
        return Window(**self._ask({"seconds": seconds}, seconds + _RUN_S))

    def found(self, images: int) -> list[Rows]:
        """What it finds in the first images: (N, 6) float32 each, x1 y1 x2 y2 score class, source pixels.

        Raises:
            BackendError: It has ended.
        """
        found = self._ask({"find": images}, _RUN_S)["found"]
        return [np.array(rows, np.float32).reshape(-1, 6) for rows in found]

    def close(self) -> None:
        """Ends it and its own processes, whatever they are doing; calling twice is fine."""
        if self._is_closed:  # its number may be another's by now
            return
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended before it had read everything
                pipe.close()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._end_the_rest()
        self._folder.cleanup()
        self._is_closed = True

    def _end_the_rest(self) -> None:
        """Ends what it has started and left running.

        If it was killed, not at once: multiprocessing's tracker then removes its semaphores, and leaves.
        """
        is_clean = self._process.returncode >= 0
        until_s = time.monotonic() + (0 if is_clean else _CLOSE_S)
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < until_s:
                os.killpg(self.pid, 0)
                time.sleep(_LOOK_S)
            os.killpg(self.pid, signal.SIGKILL)

    def _ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            raise BackendError(f"the peer {self.name!r} of the bench has been closed; open it again")
        with contextlib.suppress(BrokenPipeError):  # it has ended: reading its answer will tell
            print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer(timeout_s)

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        """Its next line; the peer is closed if there is none, or if nobody waits for it any more."""
        assert self._process.stdout is not None
        try:
            is_there = select.select([self._process.stdout], [], [], timeout_s)[0]
            line = self._process.stdout.readline() if is_there else ""
            if not line.endswith("\n"):
                raise self._gone(f"has not answered for {timeout_s:.0f} s" if not is_there else None)
            answer: dict[str, Any] = json.loads(line)
        except BaseException:
            self.close()
            raise
        return answer

    def _gone(self, silence: str | None) -> BackendError:
        how = silence or self._death()
        return BackendError(f"the peer {self.name!r} of the bench {how}; {self._command()} shows why")

    def _death(self) -> str:
        try:
            code = self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            return "has closed its output"
        if code < 0:
            return f"was ended by signal {-code}, {signal.strsignal(-code)}"
        said = [
            line.strip() for line in self._stderr.read_text(errors="replace").splitlines() if line.strip()
        ]
        return f"has ended with exit code {code}" + (f" ({said[-1]})" if said else "")

    def _command(self) -> str:
        """Runs the same on a few images, where a person can see what it says."""
        options = {**self._options, "images": self._options.get("images", [])[:1]}
        words = [executable(), "-m", "trt_yolo.bench.peers", self.name, json.dumps(options)]
        return shlex.join([*words, str(_IMAGES_TO_SEE_WHY)])
