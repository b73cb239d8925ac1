"""The options that several commands have in common: which GPUs, what runs an `.onnx`, what decodes files."""

from __future__ import annotations

from typing import Annotated

import typer

DevicesOption = Annotated[str, typer.Option(help="GPUs, such as 0,1.")]
ProviderOption = Annotated[
    str, typer.Option(help="For an .onnx: auto, cpu, cuda, tensorrt or nv-tensorrt-rtx.")
]
DecoderOption = Annotated[str, typer.Option(help="What decodes files: cpu, gpu, or auto, the faster one.")]


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
