"""The loads that a bench knows, under the names of MLPerf's LoadGen, and how a person writes them.

    single-stream    one image, the next when it is answered: latency
    multi-stream N   N images at once, the next N when they are answered: latency of all of them
    server           images at random moments (Poisson), so many a second: latency from when they were due
    offline          as many as can be: throughput
    cameras N        N live streams, each so many frames a second, that drop what cannot be done in time

(Reddi et al., MLPerf Inference Benchmark, 2020; `cameras` is ours.) Knows no models.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from trt_yolo.errors import InputError
from trt_yolo.runtime.results import Policy

ScenarioName = Literal["single-stream", "multi-stream", "server", "offline", "cameras"]
NAMES: tuple[str, ...] = get_args(ScenarioName)
DEFAULT_FPS = 25.0

_COUNTED = {"multi-stream": "images a query", "cameras": "cameras"}
_MOST = {"multi-stream": 4096, "cameras": 512}
_MOST_RATE = 1e6


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
    fps: float = DEFAULT_FPS
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
