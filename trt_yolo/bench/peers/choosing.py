"""Which peers run beside a model: those that were asked for and can."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from trt_yolo.bench.peers import DETECTING, PeerOptions, peer_named, why_not
from trt_yolo.bench.peers.process import PeerProcess
from trt_yolo.bench.subject import Subject
from trt_yolo.errors import InputError

ALL = "all"


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
