"""The options that several commands have in common: which GPUs, what runs an `.onnx`, what decodes
files, how threads wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from trt_yolo.hardware.spin import Spin


from pathlib import Path
from typing import TYPE_CHECKING, cast

from trt_yolo.errors import InputError

if TYPE_CHECKING:
    from trt_yolo.engine.options import EngineOptions, HardwareCompat

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


# The options of `trt-yolo export` that ask something of TensorRT's builder, parsed.
FORMATS = ("onnx", "engine")


def engine_options(
    format_name: str,
    *,
    builder: str,
    workspace: str | None,
    opt_level: int | None,
    hardware_compat: str,
    version_compatible: bool,
    compute_capability: str | None,
    strip_weights: bool,
    sparse: bool,
    dla: int | None,
    timing_cache: Path | None,
    profile: str | None,
    verbose: bool,
) -> EngineOptions | None:
    """What to ask of the builder; None where no engine is asked for.

    Raises:
        InputError: No such format, an option that makes no sense, or one of these without an engine.
    """
    from trt_yolo.engine.options import (
        EngineOptions,
        parse_bytes,
        parse_compute_capability,
        parse_profile,
    )

    if format_name not in FORMATS:
        raise InputError(f"--format {format_name!r} does not exist; give {' or '.join(FORMATS)}")
    options = EngineOptions(
        builder=builder,
        workspace_bytes=None if workspace is None else parse_bytes(workspace),
        opt_level=opt_level,
        hardware_compat=cast("HardwareCompat", hardware_compat),
        version_compatible=version_compatible,
        compute_capability=() if compute_capability is None else parse_compute_capability(compute_capability),
        strip_weights=strip_weights,
        sparse=sparse,
        dla=dla,
        timing_cache=timing_cache,
        profile=None if profile is None else parse_profile(profile),
    )
    if format_name == "engine":
        import dataclasses

        return dataclasses.replace(options, verbose=verbose)
    if options != EngineOptions():
        asked = " ".join(options.arguments()) or f"--timing-cache {timing_cache}"
        raise InputError(f"{asked} is for TensorRT's builder; add --format engine, or leave it out")
    return None
