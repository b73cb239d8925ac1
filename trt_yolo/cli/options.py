"""Options of a command in groups: a dataclass each, of which every field is an option.

Enters: a function that takes groups. Leaves: what typer makes a command of. Holds the groups that commands share.
"""
# ruff: noqa: UP045  typer reads these annotations at run time, on Python 3.10 too: Optional, not `| None`

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Optional, cast, get_type_hints

import typer

from trt_yolo.errors import InputError
from trt_yolo.runtime.options import RuntimeOptions

if TYPE_CHECKING:
    from trt_yolo.backends.onnxruntime_providers import ProviderName
    from trt_yolo.hardware.cores import Spin
    from trt_yolo.media.decoders import DecoderName
    from trt_yolo.runtime.options import RuntimeKeywords

WORKERS = "Worker processes; 0: this process."
THREADS = "CPU threads of one inference."
STREAMS = "Batches under way on a GPU at once, in each worker."
CORES_DIVIDED = "the cores, divided"
TWO_STREAMS = "2"

SpinOption = Annotated[
    Optional[bool],
    typer.Option(
        "--spin/--no-spin",
        help="Busy-wait instead of sleeping, on the GPU and the CPU: lowest latency if the CPU has no other work.",
        show_default="auto: on the CPU, if it is idle",
    ),
]


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command as typer reads it: each parameter whose type is a dataclass stands for the fields of that.

    A field is declared as a parameter would be, `Annotated[type, typer.Option(...)]`, with its default.
    """
    groups: dict[str, Any] = {}
    flat: list[inspect.Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        if dataclasses.is_dataclass(parameter.annotation):
            groups[parameter.name] = parameter.annotation
            flat += _fields_of(parameter.annotation)
        else:
            flat.append(parameter.replace(kind=parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, group in groups.items():
            fields = dataclasses.fields(group)
            given[name] = group(**{field.name: given.pop(field.name) for field in fields})
        command(**given)

    run.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in flat}
    return run


def _fields_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [one.replace(annotation=hints[one.name]) for one in inspect.signature(group).parameters.values()]


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """Who runs a model: one setting. See `RuntimeOptions`."""

    workers: Annotated[int, typer.Option(help=WORKERS)] = RuntimeOptions.workers
    threads: Annotated[Optional[int], typer.Option(help=THREADS, show_default=CORES_DIVIDED)] = None
    streams: Annotated[Optional[int], typer.Option(help=STREAMS, show_default=TWO_STREAMS)] = None

    def keywords(self) -> RuntimeKeywords:
        """As keywords of `load`."""
        return {"workers": self.workers, "threads": self.threads, "streams": self.streams}


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """What runs a model, decodes its images, and how it waits. See `RuntimeOptions`."""

    devices: Annotated[str, typer.Option(help="GPUs, such as 0,1.")] = ",".join(
        map(str, RuntimeOptions.devices)
    )
    provider: Annotated[
        str, typer.Option(help="For an .onnx: auto, cpu, cuda, tensorrt or nv-tensorrt-rtx.")
    ] = RuntimeOptions.provider
    spin: SpinOption = None
    decoder: Annotated[str, typer.Option(help="What decodes files: cpu, gpu, or auto, the faster one.")] = (
        RuntimeOptions.decoder
    )

    def keywords(self) -> RuntimeKeywords:
        """As keywords of `load`.

        Raises:
            InputError: `--devices` is no list of numbers.
        """
        return {
            "devices": _devices_of(self.devices),
            "provider": cast("ProviderName", self.provider),
            "spin": spin_of(self.spin),
            "decoder": cast("DecoderName", self.decoder),
        }


def spin_of(flag: bool | None) -> Spin:
    """What `--spin`, `--no-spin` or neither asks for."""
    return RuntimeOptions.spin if flag is None else flag


def _devices_of(text: str) -> list[int]:
    """The GPUs of `0,1`.

    Raises:
        InputError: It is no such list.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 4 for part in parts):
        raise InputError(f"--devices {text!r} names no GPUs; give their numbers, such as 0,1")
    return [int(part) for part in parts]
