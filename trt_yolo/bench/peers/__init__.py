"""What trt-yolo is measured beside, each peer in a process of its own.

    onnxruntime  the plain loop around ONNX Runtime: read, letterbox, run, boxes; one after another, one process
    openvino     OpenVINO's CPU runtime on the same graph, several inferences at once
    queue-pool   processes with an ONNX Runtime session each, fed with decoded images by a multiprocessing.Queue
    ultralytics  Ultralytics' `predict` on its own ONNX export; on a GPU on the checkpoint
    seed         processes with an Ultralytics model each, fed by a Queue: what this project grew from
    queue        frames pickled through a Queue to a process that does nothing with them; finds nothing

All but `queue` do what trt-yolo does: image files to final detections, letterboxed to the same size, with the same
thresholds. This module says which peers there are, whether they can run here, and what each one is in its own
process; it imports none of what they need. A peer's module has a function

    @contextlib.contextmanager
    def open_peer(options: PeerOptions) -> Iterator[Ready]: ...

that loads what it needs, yields when it can run, and gives everything back when it is left.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import InputError

Takes = Literal["nothing", "artifact", "checkpoint"]
Rows = npt.NDArray[np.float32]


class PeerOptions(TypedDict, total=False):
    """What a peer is told; what a peer does not use may be missing.

    Attributes:
        imgsz: Height and width of the model's input, in pixels.
        images: Paths of image files, taken round and round.
        weights: Path of a `.pt`.
        model: Path of an `.onnx`, a deploy graph or a head graph.
        workers: How many run at once.
        threads: CPU threads of each.
        batch: Images of one inference of `model`, 1 where missing; at least the least that it takes.
        device: `cpu` where missing, or a GPU as PyTorch calls it, such as `cuda:0`.
    """

    imgsz: list[int]
    images: list[str]
    weights: str
    model: str
    workers: int
    threads: int
    batch: int
    device: str


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


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What there is to know of a peer before it runs.

    Attributes:
        name: What it is called in commands and results.
        about: What it is, in one line.
        module: What implements it: a module with a function `open_peer`, an `OpenPeer`.
        packages: What it imports, as Python calls it.
        extra: Of trt-yolo, which brings them.
        takes: What it runs: the `.onnx` artifact, the `.pt` checkpoint, or nothing.
        is_cpu_only: Whether it leaves a GPU alone.
    """

    name: str
    about: str
    module: str
    packages: tuple[str, ...] = ()
    extra: str = ""
    takes: Takes
    is_cpu_only: bool = True


_ALL = (
    Peer(
        name="onnxruntime",
        about="a plain loop around ONNX Runtime, one process",
        module="trt_yolo.bench.peers.onnxruntime",
        packages=("onnxruntime",),
        extra="cpu",
        takes="artifact",
    ),
    Peer(
        name="openvino",
        about="OpenVINO on the same graph, FP32, several inferences at once",
        module="trt_yolo.bench.peers.openvino",
        packages=("openvino",),
        extra="peers",
        takes="artifact",
    ),
    Peer(
        name="queue-pool",
        about="processes with ONNX Runtime, fed by a Queue",
        module="trt_yolo.bench.peers.queues",
        packages=("onnxruntime",),
        extra="cpu",
        takes="artifact",
    ),
    Peer(
        name="ultralytics",
        about="Ultralytics predict on its ONNX export",
        module="trt_yolo.bench.peers.ultralytics",
        packages=("ultralytics", "onnxruntime"),
        extra="cpu,export",
        takes="checkpoint",
        is_cpu_only=False,
    ),
    Peer(
        name="seed",
        about="processes with Ultralytics, fed by a Queue",
        module="trt_yolo.bench.peers.seed",
        packages=("ultralytics",),
        extra="export",
        takes="checkpoint",
        is_cpu_only=False,
    ),
    Peer(
        name="queue",
        about="frames through a Queue to a process that does nothing",
        module="trt_yolo.bench.peers.queue_echo",
        takes="nothing",
    ),
)

PEERS: Mapping[str, Peer] = MappingProxyType({peer.name: peer for peer in _ALL})
"""All peers by name, in the order in which they are shown."""

DETECTING = tuple(peer.name for peer in _ALL if peer.takes != "nothing")
"""Names of those that find something: image files to detections."""


def peer_named(name: str) -> Peer:
    """The peer of that name.

    Raises:
        InputError: There is none.
    """
    if name not in PEERS:
        raise InputError(f"no peer {name!r}; give of {', '.join(PEERS)}")
    return PEERS[name]


def available(name: str) -> bool:
    """Whether all that the peer imports is installed.

    Raises:
        InputError: There is no such peer.
    """
    return not _missing(peer_named(name))


def why_not(
    name: str, *, model: str | Path | None = None, weights: str | Path | None = None, device: str = "cpu"
) -> str | None:
    """Why the peer cannot run, and what to do about it, in half a sentence; None where it can.

    Args:
        name: Which.
        model: The `.onnx` artifact, if there is one.
        weights: The `.pt` checkpoint, if there is one.
        device: What trt-yolo runs on.

    Raises:
        InputError: There is no such peer.
    """
    peer = peer_named(name)
    if missing := _missing(peer):
        return f"{' and '.join(missing)} not installed: pip install 'trt-yolo[{peer.extra}]'"
    if peer.takes == "checkpoint" and weights is None:
        return f"it needs the checkpoint: give the .pt{f' instead of {Path(model).name}' if model else ''}"
    if peer.takes == "artifact" and model is None:
        return "it needs the .onnx: give that, or the .pt to export it from"
    if peer.is_cpu_only and device != "cpu":
        return f"it runs on the CPU, and this model on {device}: give the .onnx to compare on the CPU"
    return None


def _missing(peer: Peer) -> list[str]:
    return [package for package in peer.packages if importlib.util.find_spec(package) is None]
