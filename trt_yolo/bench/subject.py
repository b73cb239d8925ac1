"""What is measured: a model laid out in one way, and what its scopes need of it.

Enters: how a worker makes the backend, a setting. Leaves: a runtime, workers with full slots, bare backends; each
opened when it is first asked for, all closed together.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trt_yolo.artifacts.files import file_sha256
from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.backends.base import Backend
from trt_yolo.bench.figures import Stages
from trt_yolo.bench.images import letterboxed
from trt_yolo.bench.loads import Scenario
from trt_yolo.bench.report import ModelFacts, Setting
from trt_yolo.bench.scope_e2e import FilesToDetections
from trt_yolo.bench.scope_engine import BareEngine, measured_parts
from trt_yolo.bench.scope_infer import FullSlots, SlotToSlot
from trt_yolo.bench.window import Contender
from trt_yolo.errors import InputError
from trt_yolo.hardware.cores import default_decode_threads, usable_cpus
from trt_yolo.loader import backend_spec
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.options import RuntimeOptions
from trt_yolo.runtime.pool import Pool
from trt_yolo.runtime.worker import BackendSpec

if TYPE_CHECKING:
    from typing_extensions import Self

_FRAMES = 16
_RESTARTS = 100_000


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How a model is to be laid out, as it was asked for.

    Attributes:
        batch: The most images a batch; None: the smallest that the model takes.
        runtime: The options of `trt_yolo.load`.
    """

    batch: int | None = None
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)


class Subject:
    """A model, laid out in one way. A context manager.

    Args:
        name: What results call it.
        spec: How a worker makes its backend.
        layout: How it is laid out.
        paths: Readable image files.

    Raises:
        InputError: A batch that the model does not take, or numbers that do not go together.
        TrtYoloError: The backend's own error, where it cannot load the model.
    """

    def __init__(self, name: str, spec: BackendSpec, layout: Layout, paths: Sequence[Path]) -> None:
        if not paths:
            raise InputError("no image to measure with; give a folder of images with --data")
        self.name, self.spec, self.layout, self.paths = name, spec, layout, paths
        self._stack = contextlib.ExitStack()
        self.workers = layout.runtime.all_workers
        self._shares = layout.runtime.shares()
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            first = self._backend(0)
            self.manifest: Manifest = first.manifest
            self.batch = self.manifest.batch.minimum if layout.batch is None else layout.batch
            self.manifest.batch.check(self.batch)
            self._backends = [first]
            on_error.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers and sessions."""
        self._stack.close()

    @property
    def setting(self) -> Setting:
        """How it is laid out, with what was chosen."""
        return Setting(
            batch=self.batch,
            workers=self.workers,
            threads=self._shares[0][1],
            decode_threads=self.options.decode_threads or default_decode_threads(usable_cpus().count),
            streams=getattr(self._backends[0], "at_once", None) if self.spec.devices else None,
            devices=self.spec.devices,
        )

    @functools.cached_property
    def options(self) -> RuntimeOptions:
        """The runtime's."""
        return replace(self.layout.runtime, max_batch=self.batch, max_restarts=_RESTARTS)

    @functools.cached_property
    def facts(self) -> ModelFacts:
        """Which model it is; its file is hashed."""
        manifest, accuracy = self.manifest, self.manifest.accuracy
        path = str(self.spec.options.get("model") or self.spec.options.get("engine") or "")
        return ModelFacts(
            name=self.name,
            path=path,
            sha256=file_sha256(Path(path)) if path else "",
            graph=manifest.graph,
            precision=manifest.precision,
            imgsz=manifest.imgsz_hw,
            map50_95=accuracy.map50_95_after if accuracy is not None else None,
            map50_95_before=accuracy.map50_95_before if accuracy is not None else None,
            judged_by=accuracy.reference if accuracy is not None else "",
        )

    @functools.cached_property
    def model(self) -> Model:
        """The runtime around it."""
        return self._stack.enter_context(Model(Pool(self.spec, self.options)))

    @functools.cached_property
    def frames(self) -> npt.NDArray[np.uint8]:
        """(N, H, W, 3) uint8: real images, letterboxed; N is 16, or a batch."""
        return letterboxed(self.paths, self.manifest.frame_hw, max(_FRAMES, self.batch))

    @functools.cached_property
    def parts(self) -> Stages:
        """How copy in, engine and copy out share a batch's time."""
        return measured_parts(self._backends[0], self.frames, self.batch)

    def contender(self, scope: str, scenario: Scenario, *, seed: int) -> Contender:
        """What is measured in a scope, under a load; see `report.SCOPES`."""
        if scope == "e2e":
            return FilesToDetections(self.model, self.paths, scenario, seed=seed)
        if scope == "infer":
            return SlotToSlot(self._slots, scenario)
        return BareEngine(self._sessions(), self.frames, batch=self.batch, scenario=scenario)

    @functools.cached_property
    def _slots(self) -> FullSlots:
        return self._stack.enter_context(FullSlots(self.spec, self.options, self.frames))

    def _sessions(self) -> Sequence[Backend]:
        """As many bare backends as run at once: one for each worker on a CPU, for each GPU else."""
        count = len(self.spec.devices) or max(1, self.workers)
        while len(self._backends) < count:
            self._backends.append(self._backend(len(self._backends)))
        return self._backends

    def _backend(self, number: int) -> Backend:
        threads = self._shares[number % len(self._shares)][1]
        return self._stack.enter_context(self.spec.of_worker(number).build(threads))


def open_subject(model: str | None, layout: Layout, paths: Sequence[Path], name: str) -> Subject:
    """A subject of whatever names a model, under the name that results call it.

    Raises:
        TrtYoloError: As `trt_yolo.load`.
    """
    return Subject(name, backend_spec(model, layout.runtime), layout, paths)
