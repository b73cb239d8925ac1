"""The options that several commands have in common: which GPUs, what runs an `.onnx`, what decodes
files, how threads wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from trt_yolo.spinning import Spin

DevicesOption = Annotated[str, typer.Option(help="GPUs, such as 0,1.")]
ProviderOption = Annotated[
    str, typer.Option(help="For an .onnx: auto, cpu, cuda, tensorrt or nv-tensorrt-rtx.")
]
DecoderOption = Annotated[str, typer.Option(help="What decodes files: cpu, gpu, or auto, the faster one.")]
SpinOption = Annotated[
    Optional[bool],  # noqa: UP045
    typer.Option(
        "--spin/--no-spin",
        help="Busy-wait instead of sleeping, on the GPU and the CPU: lowest latency if the CPU has no other work.",
        show_default="auto: on the CPU, if it is idle",
    ),
]


def spin_of(flag: bool | None) -> Spin:
    """What `--spin`, `--no-spin` or neither asks for."""
    return "auto" if flag is None else flag


def devices_of(text: str) -> list[int]:
    """The GPUs of `0,1`.

    Raises:
        InputError: It is no such list.
    """
    from trt_yolo.errors import InputError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 4 for part in parts):
        raise InputError(f"--devices {text!r} names no GPUs; give their numbers, such as 0,1")
    return [int(part) for part in parts]
