"""What an export tells: the files that it wrote, how they were checked, what a precision costs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_yolo.artifacts.manifest import Manifest
from trt_yolo.evaluation.parity import Parity
from trt_yolo.precision.report import PrecisionReport

if TYPE_CHECKING:
    from trt_yolo.build.engine_from_onnx import EngineReport


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """A file that was written.

    Attributes:
        path: Where it is.
        format: `onnx` or `engine`.
        precision: `fp32`, `fp16` or `int8`.
        bytes: Its size.
    """

    path: Path
    format: str
    precision: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What an export wrote, and how it was checked.

    Attributes:
        artifacts: The files.
        manifest: What they are.
        parity: The float deploy graph against the float head graph; None for a head graph or unchecked.
        accuracy: What the precision costs; None for FP32, or where there was nothing to measure it with.
        engine: The engine that was built of it; None where none was asked for.
    """

    artifacts: list[Artifact]
    manifest: Manifest
    parity: Parity | None
    accuracy: PrecisionReport | None = None
    engine: EngineReport | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        artifacts = [{**dataclasses.asdict(one), "path": str(one.path)} for one in self.artifacts]
        parity = (
            None if self.parity is None else {**dataclasses.asdict(self.parity), "holds": self.parity.holds}
        )
        accuracy = None if self.accuracy is None else self.accuracy.to_dict()
        found: dict[str, Any] = {"artifacts": artifacts, "parity": parity, "accuracy": accuracy}
        if self.engine is not None:
            assert self.manifest.engine is not None
            test = self.engine.self_test
            checked = None if test is None else dataclasses.asdict(test)
            found["engine"] = dataclasses.asdict(self.manifest.engine) | {
                "log": str(self.engine.log), "warnings": self.engine.warnings,
                "build_seconds": self.engine.build_seconds, "peak_bytes": self.engine.peak_bytes,
                "self_test": checked,
            }  # fmt: skip
        return found
