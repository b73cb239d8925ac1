"""What to ask of the builder, under TensorRT's own names; and which TensorRT can be asked for it.

Knows no files but the timing cache's name. Refusals here come before anything is built.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.engine.plan import Family
from trt_yolo.errors import InputError

if TYPE_CHECKING:
    from trt_yolo.engine.library import Library

HardwareCompat = Literal["none", "ampere+", "same-cc"]

_MAX_OPT_LEVEL = 5
_MAX_WORKSPACE = 1 << 40
_KINDS: dict[str, type | tuple[type, ...]] = {
    "builder": str,
    "workspace_bytes": int,
    "opt_level": int,
    "hardware_compat": str,
    "version_compatible": bool,
    "compute_capability": (list, tuple),
    "strip_weights": bool,
    "sparse": bool,
    "dla": int,
    "profile": (list, tuple),
}
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How to build an engine.

    Attributes:
        builder: `auto`, `tensorrt` or `tensorrt-rtx`.
        workspace_bytes: The most device memory that kernels may use beside tensors; None: all of it.
        opt_level: 0 (builds fast) to 5 (searches longest); None: TensorRT's 3.
        hardware_compat: `none`: this GPU; `ampere+`: every GPU since Ampere; `same-cc`: every GPU of this compute
            capability.
        version_compatible: The plan carries a lean runtime, and later versions of TensorRT load it.
        compute_capability: The GPUs that TensorRT for RTX builds for; none: 8.0 and every later one.
        strip_weights: The plan has no weights; they are taken from the ONNX when it is loaded.
        sparse: May use 2:4 sparsity where the weights have it.
        dla: Run on this DLA core; what it cannot do runs on the GPU.
        timing_cache: File that keeps what kernels took; None: one in the engine's folder.
        profile: Smallest, best and largest batch; None: as the ONNX has it, best for the largest.
        verbose: TensorRT's log has everything.
    """

    builder: str = "auto"
    workspace_bytes: int | None = None
    opt_level: int | None = None
    hardware_compat: HardwareCompat = "none"
    version_compatible: bool = False
    compute_capability: tuple[str, ...] = ()
    strip_weights: bool = False
    sparse: bool = False
    dla: int | None = None
    timing_cache: Path | None = None
    profile: tuple[int, int, int] | None = None
    verbose: bool = False

    def __post_init__(self) -> None:
        if self.opt_level is not None and not 0 <= self.opt_level <= _MAX_OPT_LEVEL:
            raise InputError(f"--opt-level {self.opt_level} is not possible; give 0 to {_MAX_OPT_LEVEL}")
        if self.hardware_compat not in get_args(HardwareCompat):
            raise InputError(
                f"--hardware-compat {self.hardware_compat!r} does not exist; "
                f"give {', '.join(get_args(HardwareCompat))}"
            )
        if self.dla is not None and self.dla < 0:
            raise InputError(f"--dla {self.dla} is not possible; give the number of a DLA core, from 0")
        if self.workspace_bytes is not None and not 1 << 20 <= self.workspace_bytes <= _MAX_WORKSPACE:
            raise InputError(f"--workspace is {self.workspace_bytes} bytes; give 1M to 1024G, such as 2G")

    def to_dict(self) -> dict[str, Any]:
        """What a rebuild needs, as JSON has it: what is not its default, but for files and talk."""
        fields = dataclasses.asdict(dataclasses.replace(self, timing_cache=None, verbose=False))
        default = dataclasses.asdict(EngineOptions())
        return {name: value for name, value in fields.items() if value != default[name]}

    def arguments(self) -> list[str]:
        """The same as arguments of the command line."""
        found = [] if self.builder == "auto" else ["--builder", self.builder]
        for name, value in self.to_dict().items():
            if name == "builder":
                continue
            if name == "workspace_bytes":
                name = "workspace"
            option = "--" + name.replace("_", "-")
            if isinstance(value, (tuple, list)):
                value = ",".join(map(str, value))
            found += [option] if value is True else [option, str(value)]
        return found


def options_from_dict(fields: Mapping[str, Any]) -> EngineOptions:
    """What `EngineOptions.to_dict` wrote. Whatever else a file says, a path above all, is refused.

    Raises:
        InputError: It did not write that.
    """
    values = dict(fields)
    try:
        for name, value in values.items():
            if not isinstance(value, _KINDS[name]) or (isinstance(value, bool) and _KINDS[name] is not bool):
                raise TypeError(f"{name} is {value!r}")
        if "compute_capability" in values:
            values["compute_capability"] = parse_compute_capability(",".join(values["compute_capability"]))
        if "profile" in values:
            values["profile"] = parse_profile(",".join(map(str, values["profile"])))
        return EngineOptions(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the manifest's options of the builder make no sense ({error})") from error


def parse_bytes(text: str) -> int:
    """Bytes of `2G`, `512M`, `65536`; K, M and G are powers of 1024.

    Raises:
        InputError: It is no size.
    """
    found = re.fullmatch(r"(\d{1,13}(?:\.\d{1,6})?)\s*([kmg]?)(?:i?b)?", text.strip().lower())
    if found is None:
        raise InputError(f"--workspace {text!r} is no size; give one such as 2G or 512M")
    return int(float(found[1]) * _UNITS[found[2]])


def parse_profile(text: str) -> tuple[int, int, int]:
    """Smallest, best and largest batch of `1,4,16`.

    Raises:
        InputError: Not three numbers that grow.
    """
    parts = text.split(",")
    if len(parts) == 3 and all(re.fullmatch(r"\s*\d{1,6}\s*", part) for part in parts):
        smallest, best, largest = map(int, parts)
        if 1 <= smallest <= best <= largest:
            return smallest, best, largest
    raise InputError(
        f"--profile {text!r} is no profile; give the smallest, the best and the largest batch, such as 1,4,16"
    )


def parse_compute_capability(text: str) -> tuple[str, ...]:
    """The capabilities of `8.6,8.9`.

    Raises:
        InputError: Not such a list.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(re.fullmatch(r"\d{1,2}\.\d", part) for part in parts):
        raise InputError(f"--compute-capability {text!r} is none; give one or several, such as 8.6,8.9")
    return tuple(dict.fromkeys(parts))


def check_profile(
    profile: tuple[int, int, int] | None, batch: BatchRange, *, origin: str
) -> tuple[int, int, int]:
    """The profile, or the one that a graph's batch sizes give; the best is the largest.

    Raises:
        InputError: The graph does not take such batches.
    """
    if profile is None:
        return batch.minimum, batch.maximum, batch.maximum
    if not (batch.minimum <= profile[0] and profile[2] <= batch.maximum):
        wanted = f"{profile[0]}:{profile[2]}"
        raise InputError(
            f"--profile {','.join(map(str, profile))} does not fit {origin}, which takes a batch of {batch}; "
            f"export it with --batch {wanted}"
        )
    return profile


def check_dla(options: EngineOptions, profile: tuple[int, int, int], *, quantized: bool, origin: str) -> None:
    """Refuses what DLA does not take: NVIDIA's "DLA Supported Layers and Restrictions" of TensorRT 10.

    Args:
        options: What is asked of the builder.
        profile: Smallest, best and largest batch.
        quantized: Whether the graph has INT8 of its own, QuantizeLinear and DequantizeLinear.
        origin: The graph, as it is called in errors.

    Raises:
        InputError: A dynamic batch, or a quantized graph.
    """
    if options.dla is None:
        return
    if quantized:
        raise InputError(
            f"--dla {options.dla} does not take {origin}, which is int8 (Q/DQ): DLA does not run explicit "
            "quantization; export it with --fp16, or leave --dla out to use the GPU"
        )
    if profile[0] != profile[2]:
        largest = profile[2]
        raise InputError(
            f"--dla {options.dla} does not take a batch of {profile[0]} to {largest}: DLA has no dynamic batches; "
            f"give --profile {largest},{largest},{largest}, or leave --dla out to use the GPU"
        )


def check_supported(options: EngineOptions, library: Library, *, has_gpu: bool) -> None:
    """Refuses by name what this TensorRT does not have, or not without a GPU.

    Raises:
        InputError: An option that it does not have.
    """
    check_family(options, library.family, library.version, has_gpu=has_gpu)
    if options.hardware_compat == "same-cc" and not hasattr(
        library.trt.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY"
    ):
        raise InputError(
            f"--hardware-compat same-cc is not possible with {library.family} {library.version}: "
            "it came with TensorRT 10.10; use ampere+ or none"
        )


def check_family(options: EngineOptions, family: Family, version: str = "", *, has_gpu: bool) -> None:
    """The same, as far as it can be said before TensorRT is imported.

    Raises:
        InputError: An option that no such TensorRT has.
    """
    missing = _missing_in_rtx(options, has_gpu) if family == "tensorrt-rtx" else _missing_in_tensorrt(options)
    for option, problem in missing:
        raise InputError(f"{option} is not possible with {f'{family} {version}'.strip()}: {problem}")


def _missing_in_rtx(options: EngineOptions, has_gpu: bool) -> list[tuple[str, str]]:
    found = []
    if options.hardware_compat != "none":
        wanted = "its engines run on every RTX GPU since Ampere; --compute-capability names fewer"
        found.append((f"--hardware-compat {options.hardware_compat}", wanted))
    if options.version_compatible:
        found.append(("--version-compatible", "its engines run with the version that built them alone"))
    if options.dla is not None:
        found.append((f"--dla {options.dla}", "it knows no DLA; use --builder tensorrt on the Jetson"))
    if options.timing_cache is not None:
        found.append(("--timing-cache", "it measures no kernels when it builds"))
    if options.strip_weights and not has_gpu:
        found.append(("--strip-weights", "it needs a GPU for that while it builds, and none answers here"))
    return found


def _missing_in_tensorrt(options: EngineOptions) -> list[tuple[str, str]]:
    wanted = "it builds for the GPU that it runs on; see --hardware-compat, or use --builder tensorrt-rtx"
    return [("--compute-capability", wanted)] if options.compute_capability else []
