"""A peer of the benchmark as the bench sees it: a process that is asked for so many images at a time."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

from trt_yolo.bench.peers import PeerOptions
from trt_yolo.errors import BackendError

if TYPE_CHECKING:
    from typing_extensions import Self

_START_S = 300.0
_RUN_S = 300.0
_CLOSE_S = 3.0


class PeerProcess:
    """A running peer; a context manager.

    Args:
        name: Which, of `trt_yolo.bench.peers`.
        options: What it is told.

    Raises:
        BackendError: It could not start.
    """

    def __init__(self, name: str, options: PeerOptions) -> None:
        self._name = name
        environment = {
            **os.environ,
            "YOLO_OFFLINE": "true",
            "YOLO_AUTOINSTALL": "false",
            "YOLO_VERBOSE": "false",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trt_yolo.bench.peers", name, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        self._read(_START_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def images_per_s(self, images: int) -> float:
        """Its rate, over that many images.

        Raises:
            BackendError: It has ended.
        """
        assert self._process.stdin is not None
        print(json.dumps({"images": images}), file=self._process.stdin, flush=True)
        answer = self._read(_RUN_S)
        return float(answer["images"] / answer["seconds"])

    def close(self) -> None:
        """Ends it; its own processes are daemons and end with it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        is_there = select.select([self._process.stdout], [], [], timeout_s)[0]
        line = self._process.stdout.readline() if is_there else ""
        if not line:
            self._process.kill()
            self._process.communicate()
            raise BackendError(
                f"the peer {self._name!r} of the bench has ended; "
                f"python -m trt_yolo.bench.peers {self._name} shows why"
            )
        answer: dict[str, Any] = json.loads(line)
        return answer
