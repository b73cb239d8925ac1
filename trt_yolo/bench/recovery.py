"""What lost workers cost: one is killed every so often, and what came of the images is counted.

Enters: a contender whose model has worker processes. Leaves: its windows, and how often and how fast workers
were replaced.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time

from trt_yolo.bench.report import Recovery
from trt_yolo.bench.statistics import ratio_of
from trt_yolo.bench.window import Contender, Window
from trt_yolo.runtime.model import Model

_LOOK_S = 0.005
_START_S = 30.0


class WithKills:
    """A contender whose model loses a worker every so often; see `Contender`.

    Attributes:
        kills: Workers that were killed.
        ready_ms: From each kill until as many workers were ready as before, in milliseconds.

    Args:
        contender: What is measured; it must tolerate errors.
        model: Its model, with worker processes.
        every_s: Seconds from one kill to the next.
        seed: Of which worker it hits.
        counted: The share of a window that the contender counts, up to its end.
    """

    name = "e2e with kills"
    is_continuous = False

    def __init__(
        self, contender: Contender, model: Model, *, every_s: float, seed: int, counted: float = 1.0
    ) -> None:
        self.kills = 0
        self.ready_ms: list[float] = []
        self._contender, self._model, self._every_s, self._counted = contender, model, every_s, counted
        self._chance = random.Random(seed)  # noqa: S311  no secret
        self._next_s = time.perf_counter() + every_s

    def window(self, seconds: float) -> Window:
        """See `Contender`; what is counted holds two kills or more, evenly spaced."""
        kills = max(2, round(self._counted * seconds / self._every_s))
        stopped = threading.Event()
        thread = threading.Thread(target=self._kill, args=(stopped,), daemon=True)
        self._next_s = time.perf_counter() + self._every_s / 2
        thread.start()
        try:
            return self._contender.window(kills * self._every_s / self._counted)
        finally:
            stopped.set()
            thread.join()
            self._await_all(self._model.workers)

    def _kill(self, stopped: threading.Event) -> None:
        while not stopped.wait(max(0.0, self._next_s - time.perf_counter())):
            ready = self._ready()
            if ready:
                os.kill(self._chance.choice(ready), signal.SIGKILL)
                self.kills += 1
                self._note_recovery(set(ready), stopped)
            self._next_s += self._every_s

    def _note_recovery(self, before: set[int], stopped: threading.Event) -> None:
        killed_s = time.perf_counter()
        while not stopped.wait(_LOOK_S):
            now = set(self._ready())
            if len(now) >= len(before) and now != before:
                self.ready_ms.append((time.perf_counter() - killed_s) * 1e3)
                return

    def _await_all(self, count: int) -> None:
        """What comes next is measured with all workers there."""
        until_s = time.perf_counter() + _START_S
        while len(self._ready()) < count and time.perf_counter() < until_s:
            time.sleep(_LOOK_S)

    def _ready(self) -> list[int]:
        return self._model.ready_pids


def recovery_of(
    killing: WithKills,
    quiet_windows: list[Window],
    windows: list[Window],
    *,
    every_s: float,
    restarts: int,
) -> Recovery:
    """What lost workers cost, from windows that were measured in turn."""
    ratio = ratio_of([one.images_per_s for one in windows], [one.images_per_s for one in quiet_windows])
    ready_ms = sorted(killing.ready_ms)
    return Recovery(
        every_s=every_s,
        kills=killing.kills,
        restarts=restarts,
        ready_ms=ready_ms[len(ready_ms) // 2] if ready_ms else None,
        cost=1 - ratio.ratio if ratio is not None else None,
        cost_low=1 - ratio.high if ratio is not None else None,
        cost_high=1 - ratio.low if ratio is not None else None,
        offered=sum(one.offered for one in windows),
        errors=sum(one.errors for one in windows),
        lost=sum(one.lost for one in windows),
    )
