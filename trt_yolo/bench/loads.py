"""The loads of a bench: what a person calls them, and how each of them sends its images.

They have the names of MLPerf's LoadGen. A closed loop asks again when it has been answered, an open loop at moments
that were fixed beforehand. Enters: words, a query to make. Leaves: a `Scenario`, a `Window`. Knows no models.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np

from trt_yolo.bench.window import Query, Window
from trt_yolo.errors import InputError
from trt_yolo.runtime.results import Policy

ScenarioName = Literal["single-stream", "multi-stream", "server", "offline", "cameras"]
NAMES: tuple[str, ...] = get_args(ScenarioName)
_DEFAULT_FPS = 25.0

_COUNTED = {"multi-stream": "images a query", "cameras": "cameras"}
_MOST = {"multi-stream": 4096, "cameras": 512}
_MOST_RATE = 1e6

_SPIN_S = 200e-6
_LOOK_S = 0.001
_HOPELESS_S = 2.0


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A load.

    Attributes:
        name: Which.
        count: Images a query, or cameras.
        rate: Arrivals a second, of `server`; None while it is searched for.
        fps: Frames a second of each camera.
        policy: What cameras drop.

    Raises:
        InputError: A number that makes no load.
    """

    name: ScenarioName
    count: int = 1
    rate: float | None = None
    fps: float = _DEFAULT_FPS
    policy: Policy = "drop-oldest"

    def __post_init__(self) -> None:
        if self.rate is not None and not 0 < self.rate <= _MOST_RATE:
            raise InputError(
                f"--rate {self.rate:g} is no rate; give arrivals a second, more than 0, such as 50"
            )
        if not 0 < self.fps <= 1000:
            raise InputError(
                f"--fps {self.fps:g} is no camera; give frames a second, more than 0, such as 25"
            )
        most = _MOST.get(self.name, 1)
        if not 1 <= self.count <= most:
            raise InputError(
                f"{self.name} {self.count}; give a number of {_COUNTED.get(self.name, 'images')}, 1 to {most}"
            )

    @property
    def label(self) -> str:
        """In a few words, with its numbers."""
        if self.name == "cameras":
            return f"cameras {self.count} at {self.fps:g} frames/s"
        if self.name == "server" and self.rate is not None:
            return f"server at {self.rate:.4g} images/s"
        return f"{self.name} {self.count}" if self.name == "multi-stream" else self.name

    @property
    def has_latency(self) -> bool:
        """Whether its queries have a latency: one can only ask how long what was waited for took."""
        return self.name != "offline"

    @property
    def is_open(self) -> bool:
        """Whether its images come when they come, whatever has been answered."""
        return self.name in ("server", "cameras")

    def to_dict(self) -> dict[str, Any]:
        """Plain values; only the numbers that this load has."""
        values: dict[str, Any] = {"name": self.name, "label": self.label}
        if self.name == "multi-stream":
            values["images_per_query"] = self.count
        elif self.name == "server":
            values["rate"] = self.rate
        elif self.name == "cameras":
            values |= {"cameras": self.count, "fps": self.fps, "policy": self.policy}
        return values


def split_words(words: Sequence[str]) -> tuple[list[str], list[tuple[ScenarioName, int]]]:
    """Of `a.onnx b.onnx multi-stream 4 offline` the models, and the scenarios with their counts.

    Raises:
        InputError: A scenario without its number, or a word that is neither.
    """
    models: list[str] = []
    scenarios: list[tuple[ScenarioName, int]] = []
    waiting = [part for word in words for part in _parts(word)]
    while waiting:
        word = waiting.pop(0)
        if word not in NAMES:
            _refuse_misspelt(word)
            models.append(word)
            continue
        count = 1
        if word in _COUNTED:
            if not waiting or not waiting[0].isdecimal() or len(waiting[0]) > 9:
                given = waiting[0] if waiting else "nothing"
                raise InputError(
                    f"{word} is followed by {given}; needed: a number of {_COUNTED[word]}, such as {word} 4"
                )
            count = int(waiting.pop(0))
        scenarios.append((word, count))  # type: ignore[arg-type]  # it is one of NAMES
    return models, scenarios


def scenario_words(text: str) -> list[str]:
    """The words of `--scenario 'cameras 4'`, `cameras:4` or `server,offline`.

    Raises:
        InputError: The first word of a part is no scenario.
    """
    words: list[str] = []
    for part in text.split(","):
        parts = part.replace(":", " ").split()
        if not parts or parts[0] not in NAMES:
            raise InputError(f"no scenario {part.strip()!r}; there are {', '.join(NAMES)}")
        words += parts
    return words


def _parts(word: str) -> list[str]:
    """`cameras:4` in two."""
    name, colon, count = word.partition(":")
    return [name, count] if colon and name in NAMES else [word]


def _refuse_misspelt(word: str) -> None:
    """Words that look like a scenario and like no model are no model that could not be found."""
    looks_like_a_model = any(mark in word for mark in "./\\") or word.startswith("yolo")
    close = difflib.get_close_matches(word.lower(), NAMES, n=1)
    if not looks_like_a_model and (close or word.isdecimal()):
        hint = f"; did you mean {close[0]}?" if close else ""
        raise InputError(f"no scenario {word!r}; there are {', '.join(NAMES)}{hint}")


class _Issue(Protocol):
    """Sends one image on its way."""

    def __call__(self, ended: Callable[[Exception | None], None]) -> None:
        """Returns when it is under way; `ended` is called when it is answered, from any thread."""


def closed_loop(query: Callable[[], object], *, images: int, seconds: float) -> Window:
    """One query after another for so long, at least one.

    Args:
        query: Returns when it is answered.
        images: How many images each is about.
        seconds: For how long.
    """
    clock, queries = time.perf_counter, list[Query]()
    started_s = now_s = clock()
    until_s = started_s + seconds
    while not queries or now_s < until_s:
        begun_s = clock()
        query()
        now_s = clock()
        queries.append(Query(begun_s, begun_s, now_s, images))
    return Window(
        started_s=started_s, seconds=now_s - started_s, images=images * len(queries), queries=queries
    )


def timed_for(call: Callable[[], object], seconds: float) -> list[float]:
    """What each call took, in seconds, called for so long, at least once."""
    window = closed_loop(call, images=1, seconds=seconds)
    return [query.ended_s - query.begun_s for query in window.queries]


def poisson_arrivals(rate: float, seconds: float, *, seed: int) -> list[float]:
    """Moments within so many seconds at which images are due, at least one; the same for the same seed."""
    chance = np.random.default_rng(seed)
    due_s = 0.0
    arrivals: list[float] = []
    while True:
        due_s += chance.exponential(1 / rate)
        if due_s >= seconds and arrivals:
            return arrivals
        arrivals.append(due_s)


def open_loop(issue: _Issue, arrivals_s: Sequence[float], *, seconds: float) -> Window:
    """Sends images when they are due, whether or not earlier ones have been answered.

    Latencies count from when an image was due. If it could not be sent then, because all slots were full, it
    has waited all the same (Tene's coordinated omission). When sending falls more than 2 s and more than the
    whole load's time behind, the rest is not sent: nobody would wait for that queue to end.

    Args:
        issue: Sends one; may wait for room.
        arrivals_s: When they are due, in seconds after the start, rising.
        seconds: The time that they are spread over; what came is counted over that, or until the last answer.
    """
    answers = _Answers()
    patience_s = max(_HOPELESS_S, arrivals_s[-1])
    started_s = time.perf_counter()
    sent = 0
    for moment_s in arrivals_s:
        due_s = started_s + moment_s
        if wait_until(due_s) > patience_s:
            break
        issue(answers.expect(due_s, time.perf_counter()))
        sent += 1
    answers.wait_for(sent)
    queries = answers.queries
    ends_s = [query.ended_s for query in queries]
    return Window(
        started_s=started_s,
        seconds=max([started_s + seconds, *ends_s]) - started_s,
        images=len(queries),
        queries=queries,
        offered=len(arrivals_s),
        errors=answers.errors,
        dropped=len(arrivals_s) - sent,
        is_cut=sent < len(arrivals_s),
        ends_s=ends_s,
    )


class _Answers:
    """Notes answers that come from any thread."""

    def __init__(self) -> None:
        self.queries: list[Query] = []
        self.errors = 0
        self._lock = threading.Lock()

    def expect(self, due_s: float, begun_s: float) -> Callable[[Exception | None], None]:
        """What to call with the answer's error."""

        def ended(error: Exception | None) -> None:
            ended_s = time.perf_counter()
            with self._lock:
                if error is None:
                    self.queries.append(Query(due_s, begun_s, ended_s))
                else:
                    self.errors += 1

        return ended

    def wait_for(self, count: int) -> None:
        """Waits until so many have come."""
        while len(self.queries) + self.errors < count:
            time.sleep(_LOOK_S)


def wait_until(due_s: float) -> float:
    """Waits for that moment of `time.perf_counter`; how late it is then, in seconds."""
    while (left_s := due_s - time.perf_counter()) > 0:
        time.sleep(max(0.0, left_s - _SPIN_S))  # the last moments are yielded, not slept through
    return -left_s


def ticks(fps: float, *, offset_s: float, frames: int, stopped: threading.Event) -> Iterator[float]:
    """The moments at which a camera has a frame; each is given when it has come.

    Args:
        fps: Frames a second.
        offset_s: When the first one is due, `time.perf_counter`.
        frames: How many.
        stopped: Ends it early.
    """
    for number in range(frames):
        due_s = offset_s + number / fps
        wait_until(due_s)
        if stopped.is_set():
            return
        yield due_s
