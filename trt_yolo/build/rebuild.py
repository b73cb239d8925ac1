"""An engine that does not load here, built anew from the ONNX that its manifest names.

Enters: a path. Leaves: an engine that loads, in the same place. However many processes ask at once, one builds and
the others wait.
"""

from __future__ import annotations

import logging
from pathlib import Path

from trt_yolo.artifacts.files import file_sha256
from trt_yolo.build.engine_from_onnx import engine_from_onnx
from trt_yolo.engine.compatibility import Engine, Here, check_loads, for_this_machine, this_machine
from trt_yolo.engine.options import options_from_dict
from trt_yolo.engine.store import manifest_beside
from trt_yolo.errors import EngineError, TrtYoloError
from trt_yolo.system.progress import Progress, no_progress

_log = logging.getLogger(__name__)


def loading_engine(
    path: Path, *, rebuild: bool, here: Here | None = None, progress: Progress = no_progress
) -> Engine:
    """An engine that loads here, built anew first if it does not and that is allowed.

    Args:
        path: The engine.
        rebuild: Whether it may be built anew.
        here: What is here; None looks.
        progress: Told how far building is.

    Raises:
        EngineError: It does not load here, and is not to be built anew, or cannot be.
        ExportError: Building it failed.
    """
    here = here or this_machine()
    try:
        return check_loads(path, here)
    except EngineError as error:
        if not rebuild or not here.gpus:  # without a GPU, what would be built would not load either
            raise
        problem = str(error)
    _rebuild(path, problem, here, progress)
    return check_loads(path, here)


def _rebuild(path: Path, problem: str, here: Here, progress: Progress) -> None:
    manifest = manifest_beside(path)
    facts = None if manifest is None else manifest.engine
    if facts is None or not facts.onnx:
        raise EngineError(f"{problem} (it cannot be rebuilt: no manifest says from which ONNX)")
    onnx = path.with_name(facts.onnx)
    if not onnx.is_file():
        raise EngineError(f"{problem} (it cannot be rebuilt: {onnx} is not there)")
    if file_sha256(onnx) != facts.onnx_sha256:
        raise EngineError(f"{problem} (it cannot be rebuilt: {onnx} is not the graph that it was built from)")
    _log.warning("%s; building it anew", problem.partition("; for this machine")[0])
    options = for_this_machine(options_from_dict(facts.options))
    engine_from_onnx(onnx, engine=path, options=options, progress=progress, unless=lambda: _loads(path, here))


def _loads(path: Path, here: Here) -> bool:
    """Whether another process has built it meanwhile."""
    try:
        check_loads(path, here)
    except TrtYoloError:
        return False
    return True
