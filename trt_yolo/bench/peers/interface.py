"""What a peer is, seen from its own process: a module with a function `open_peer`.

    @contextlib.contextmanager
    def open_peer(options: PeerOptions) -> Iterator[Ready]: ...

It loads what it needs, yields when it can run, and gives everything back when it is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trt_yolo.bench.peers import PeerOptions

Rows = npt.NDArray[np.float32]


class Found(NamedTuple):
    """What was found in one image.

    Attributes:
        number: The image's place among those of its run.
        rows: (N, 6) float32, x1 y1 x2 y2 score class, source pixels, best first.
    """

    number: int
    rows: Rows


Run = Callable[[Iterable[str]], Iterator[Found]]
"""Runs the images of those paths and yields once for each, in the order in which they are done.

Paths are taken as there is room for them.
"""


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A peer that has loaded.

    Attributes:
        run: Its work.
        under_way: Images that it has begun and not answered while it runs evenly, at most.
    """

    run: Run
    under_way: int


OpenPeer = Callable[[PeerOptions], AbstractContextManager[Ready]]
