"""What TensorRT itself says of the layers of an engine. Needs the GPU that the engine runs on."""

from __future__ import annotations

from trt_yolo.engine.library import Library
from trt_yolo.engine.loadable import Engine
from trt_yolo.engine.log import Log, in_one_line, started_runtime
from trt_yolo.errors import BackendError


def layer_information(engine: Engine) -> str:
    """The engine inspector's JSON: `Layers` and `Bindings`.

    Args:
        engine: One that loads here.

    Raises:
        BackendError: TensorRT does not start, or does not load it all the same.
        MissingDependencyError: Its TensorRT does not import.
    """
    library = Library(engine.plan.family)
    log = Log(library)
    runtime = started_runtime(log)
    plan = runtime.deserialize_cuda_engine(engine.plan.read())
    if plan is None:
        raise BackendError(
            f"{library.name} {library.version} does not load {engine.plan.path}: {in_one_line(log.errors)}; "
            "build it again"
        )
    return str(plan.create_engine_inspector().get_engine_information(library.trt.LayerInformationFormat.JSON))
