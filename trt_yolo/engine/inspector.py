"""What TensorRT itself says of the layers of an engine. Needs the GPU that the engine runs on."""

from __future__ import annotations

from trt_yolo.engine.library import Library
from trt_yolo.engine.loadable import Engine
from trt_yolo.errors import BackendError


def layer_information(engine: Engine) -> str:
    """The engine inspector's JSON: `Layers` and `Bindings`.

    Args:
        engine: One that loads here.

    Raises:
        BackendError: It does not load all the same.
        MissingDependencyError: Its TensorRT does not import.
    """
    library = Library(engine.plan.family)
    trt = library.trt
    runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
    plan = runtime.deserialize_cuda_engine(engine.plan.read())
    if plan is None:
        raise BackendError(
            f"{library.family} {library.version} does not load {engine.plan.path}; build it again"
        )
    return str(plan.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
