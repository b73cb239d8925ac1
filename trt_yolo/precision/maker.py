"""A head graph in FP16 or INT8, made and judged: calibration, the choice of layers, the gate.

Enters: a float network, images, options, and how a head graph becomes an artifact. Leaves: the artifact's bytes
and a `PrecisionReport`. Writes nothing but the calibration cache, prints nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx

from trt_yolo.errors import InputError
from trt_yolo.hardware.cores import usable_cpus
from trt_yolo.precision.calibration import Calibration, Target, calibration_of
from trt_yolo.precision.calibration_cache import CalibrationCache
from trt_yolo.precision.fp16_from_float import fp16_from_float, overflowing_nodes
from trt_yolo.precision.images import PrecisionImages, frames_of, images_sha256, spread
from trt_yolo.precision.int8_for_cpu import cpu_tensors, int8_for_cpu
from trt_yolo.precision.int8_from_float import int8_from_float
from trt_yolo.precision.judge import Heads, Judge, heads_of, output_error
from trt_yolo.precision.network import Network
from trt_yolo.precision.observer import observe
from trt_yolo.precision.report import KeptLayer, MethodResult, PrecisionReport
from trt_yolo.precision.scales import METHODS, Method
from trt_yolo.precision.search import Passed, Sensitivity, pass_gate, sensitivities, worth_keeping
from trt_yolo.precision.speed import speed_here
from trt_yolo.system.progress import Progress, no_progress

MethodChoice = Literal["auto", "minmax", "percentile", "mse", "l2.4", "entropy"]

# of the work that may be left in float from the start: what TensorRT gets is FP16, what a CPU gets four times int8
FLOAT_SHARE: dict[Target, float] = {"tensorrt": 0.15, "cpu": 0.04}
LEAST_INT8_SHARE = 0.5  # less is no int8 model any more
_PROBES = 12
_OVERFLOW_FRAMES = 8

_Finish = Callable[[onnx.ModelProto], bytes]
"""Makes the artifact, an ONNX file's bytes, of a head graph."""


@dataclass(frozen=True, kw_only=True)
class PrecisionOptions:
    """What is wanted.

    Attributes:
        max_drop: Points of mAP50-95 that may be lost.
        target: What int8 is laid out for.
        method: Calibration method; `auto` takes the one that moves the outputs least.
    """

    max_drop: float = 1.0
    target: Target = "tensorrt"
    method: MethodChoice = "auto"

    def __post_init__(self) -> None:
        if self.method not in get_args(MethodChoice):
            raise InputError(
                f"--calib-method {self.method!r} does not exist; give {', '.join(get_args(MethodChoice))}"
            )
        if self.target not in get_args(Target):
            raise InputError(f"--target {self.target!r} does not exist; give {', '.join(get_args(Target))}")
        if not (np.isfinite(self.max_drop) and self.max_drop >= 0):
            raise InputError(f"--max-drop {self.max_drop:g} is not possible; give points of mAP, such as 1.0")


def fp16_unjudged(network: Network, frames: npt.NDArray[np.uint8], *, finish: _Finish) -> bytes:
    """The artifact in mixed FP16, where there are no images to judge it with.

    Args:
        network: The float network.
        frames: (N, H, W, 3) uint8, letterboxed, to look for overflow with.
        finish: Makes artifacts of head graphs.
    """
    overflowing = overflowing_nodes(network, lambda: frames, threads=usable_cpus().count)
    return finish(fp16_from_float(network.model, network, keep_fp32=overflowing))


class PrecisionMaker:
    """Makes precisions of one network, and judges them on the same images.

    Args:
        network: The float network; for int8 on a CPU what `cpu_network` made of it.
        images: To calibrate and to judge with.
        float_artifact: The float artifact, an ONNX file's bytes, whose accuracy counts as before.
        finish: Makes artifacts of head graphs.
        imgsz_hw: Height and width of the input, in pixels.
        progress: Told what is being done.
    """

    def __init__(
        self,
        network: Network,
        images: PrecisionImages,
        *,
        float_artifact: bytes,
        finish: _Finish,
        imgsz_hw: tuple[int, int],
        progress: Progress = no_progress,
    ) -> None:
        self._network = network
        self._images = images
        self._float_artifact = float_artifact
        self._finish = finish
        self._progress = progress
        self._threads = usable_cpus().count
        self._frames = frames_of(images.calibration, imgsz_hw)
        probes = frames_of(spread(images.calibration, _PROBES), imgsz_hw)
        self._probes: Sequence[npt.NDArray[np.uint8]] = list(probes())
        self._wanted: Heads = heads_of(float_artifact, self._probes, threads=self._threads)
        self._progress("measuring the float model", 0, 0)
        self._judge = Judge(float_artifact, images, threads=self._threads)
        self._names = {one.output: one for one in network.convolutions}

    def fp16(self, options: PrecisionOptions) -> tuple[bytes, PrecisionReport]:
        """The artifact in mixed FP16.

        Raises:
            ExportError: It loses more accuracy than allowed.
        """
        overflowing = self._overflowing()

        def build(kept: frozenset[str]) -> bytes:
            model = fp16_from_float(self._network.model, self._network, keep_fp32={*overflowing, *kept})
            return self._finish(model)

        start = frozenset(overflowing).intersection(self._names)
        self._progress("measuring FP16", 0, 0)
        passed = pass_gate(
            self._judge, build, start=start, candidates=self._most_sensitive(build, start),
            max_drop=options.max_drop, what="FP16", progress=self._progress,
        )  # fmt: skip
        kept = [self._kept(output, "fp32", "overflows FP16") for output in sorted(start)]
        kept += self._put_back(passed, "fp32")
        return passed.model, self._report("fp16", options, passed, kept=kept)

    def int8(self, options: PrecisionOptions, *, cache: Path) -> tuple[bytes, PrecisionReport]:
        """The artifact in int8 and FP16, or for a CPU in uint8 and FP32.

        Args:
            options: What is wanted.
            cache: The calibration cache, read and written.

        Raises:
            ExportError: It loses more accuracy than allowed.
        """
        store = CalibrationCache(
            cache, self._network, images_sha256(self._images.calibration), options.target
        )
        methods: list[Method] = list(METHODS) if options.method == "auto" else [options.method]
        calibrations, reused = store.calibrations(methods, lambda: self._calibrate(options.target))
        overflowing = self._overflowing() if options.target == "tensorrt" else []
        builds = {method: self._int8_build(calibrations[method], overflowing) for method in methods}
        errors = {method: self._error(builds[method]) for method in methods}
        chosen = min(methods, key=errors.__getitem__)
        ordered = self._ordered(store, chosen, calibrations[chosen])
        start = worth_keeping(self._network, ordered, most=FLOAT_SHARE[options.target])
        outputs = frozenset(one.convolution.output for one in start)
        self._progress("measuring int8", 0, 0)
        passed = pass_gate(
            self._judge, builds[chosen], start=outputs, candidates=self._affordable(ordered, outputs),
            max_drop=options.max_drop, what=f"int8 ({chosen} calibration)", progress=self._progress,
        )  # fmt: skip
        kept = self._kept_by_int8(
            options.target, start, passed, {one.convolution.output: one for one in ordered}
        )
        report = self._report("int8", options, passed, kept=kept)
        if options.target == "cpu":
            report = self._with_speed(report, passed.model)
        return passed.model, dataclasses.replace(
            report,
            method=chosen,
            methods=[MethodResult(method=one, error=round(errors[one], 6)) for one in methods],
            calibration_images=len(self._images.calibration),
            calibration_reused=reused,
            int8_share=self._int8_share(passed.kept),
        )

    def _with_speed(self, report: PrecisionReport, model: bytes) -> PrecisionReport:
        self._progress("measuring the speed", 0, 0)
        ratio, instructions = speed_here(self._float_artifact, model, self._probes[0], threads=self._threads)
        return dataclasses.replace(report, speedup=ratio, instructions=instructions)

    def _calibrate(self, target: Target) -> dict[Method, Calibration]:
        network = self._network
        tensors = (
            sorted({one.input for one in network.quantizable})
            if target == "tensorrt"
            else cpu_tensors(network)
        )
        count = len(self._images.calibration)
        observed = observe(
            network.model, tensors, self._frames, count=count, threads=self._threads, progress=self._progress
        )
        return {method: calibration_of(network, observed, method, target=target) for method in METHODS}

    def _overflowing(self) -> list[str]:
        self._progress("looking for overflow", 0, 0)
        frames = self._probes[:_OVERFLOW_FRAMES]
        return overflowing_nodes(self._network, lambda: frames, threads=self._threads)

    def _int8_build(
        self, calibration: Calibration, overflowing: list[str]
    ) -> Callable[[frozenset[str]], bytes]:
        def build(kept: frozenset[str]) -> bytes:
            if calibration.target == "cpu":
                return self._finish(int8_for_cpu(self._network, calibration, keep_float=kept))
            quantized = int8_from_float(self._network, calibration, keep_float=kept)
            return self._finish(fp16_from_float(quantized, self._network, keep_fp32=overflowing))

        return build

    def _error(self, build: Callable[[frozenset[str]], bytes]) -> float:
        self._progress("comparing calibration methods", 0, 0)
        return output_error(self._wanted, heads_of(build(frozenset()), self._probes, threads=self._threads))

    def _ordered(
        self, store: CalibrationCache, method: Method, calibration: Calibration
    ) -> list[Sensitivity]:
        """The sensitivity of every layer, from the cache where it is there."""

        def build(kept: frozenset[str]) -> bytes:
            model = int8_from_float(self._network, calibration, keep_float=kept)
            return bytes(model.SerializeToString())

        def errors() -> dict[str, float]:
            found = sensitivities(
                self._network, build, self._probes, self._wanted, threads=self._threads,
                progress=self._progress,
            )  # fmt: skip
            return {one.convolution.output: one.error for one in found}

        known = store.errors(method, errors)
        found = [
            Sensitivity(convolution=one, error=known.get(one.output, 0.0))
            for one in self._network.quantizable
        ]
        return sorted(found, key=lambda one: -one.worth)

    def _affordable(self, ordered: list[Sensitivity], kept: frozenset[str]) -> Iterator[str]:
        """Layers to put back, while enough of the work stays in int8."""
        share = self._int8_share(kept)
        for one in ordered:
            output = one.convolution.output
            left = share - self._network.share([output])
            if output not in kept and left >= LEAST_INT8_SHARE:
                share = left
                yield output

    def _most_sensitive(
        self, build: Callable[[frozenset[str]], bytes], start: frozenset[str]
    ) -> Iterator[str]:
        """All other layers, what pays most first; measured only when the first is asked for."""
        ordered = sensitivities(
            self._network, build, self._probes, self._wanted, threads=self._threads,
            progress=self._progress,
        )  # fmt: skip
        yield from (one.convolution.output for one in ordered if one.convolution.output not in start)

    def _int8_share(self, kept: frozenset[str]) -> float:
        return self._network.share({one.output for one in self._network.quantizable} - kept)

    def _kept(self, output: str, precision: str, reason: str, error: float | None = None) -> KeptLayer:
        return KeptLayer(
            name=self._names[output].name,
            precision=precision,
            reason=reason,
            macs_share=round(self._network.share([output]), 6),
            error=None if error is None else round(error, 6),
        )

    def _put_back(
        self, passed: Passed, precision: str, known: dict[str, Sensitivity] | None = None
    ) -> list[KeptLayer]:
        errors = {output: one.error for output, one in (known or {}).items()}
        return [
            self._kept(output, precision, f"put back: the drop was {drop:.2f} points", errors.get(output))
            for output, drop in passed.put_back.items()
        ]

    def _kept_by_int8(
        self, target: Target, start: list[Sensitivity], passed: Passed, known: dict[str, Sensitivity]
    ) -> list[KeptLayer]:
        precision = "fp16" if target == "tensorrt" else "fp32"
        kept = [
            self._kept(one.output, precision, "gives boxes and scores" if one.is_last else "reads the image")
            for one in self._network.convolutions
            if one not in self._network.quantizable
        ]
        kept += [
            self._kept(one.convolution.output, precision, "costs much accuracy for little work", one.error)
            for one in start
        ]
        return kept + self._put_back(passed, precision, known)

    def _report(
        self, precision: str, options: PrecisionOptions, passed: Passed, *, kept: list[KeptLayer]
    ) -> PrecisionReport:
        return PrecisionReport(
            precision=precision,
            target=options.target if precision == "int8" else "tensorrt",
            before=self._judge.before,
            after=passed.accuracy,
            max_drop=options.max_drop,
            reference=self._judge.reference,
            held_out_images=len(self._images.held_out),
            kept=kept,
            bytes_before=len(self._float_artifact),
            bytes_after=len(passed.model),
        )
