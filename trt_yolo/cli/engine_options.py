"""The options of `trt-yolo export` that ask something of TensorRT's builder, parsed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from trt_yolo.errors import InputError

if TYPE_CHECKING:
    from trt_yolo.engine.options import EngineOptions, HardwareCompat

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
