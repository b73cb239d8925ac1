"""What calibration found, kept in a file beside the artifact, and found again when nothing has changed.

The key covers the float graph, the images' contents, the target and this module's version; each method has its own
entry. A file that is damaged, or has another key, is as good as none.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trt_yolo.artifacts.files import write_together
from trt_yolo.precision.calibration import Activation, Calibration, Target
from trt_yolo.precision.int8_for_cpu import cpu_tensors
from trt_yolo.precision.network import Network
from trt_yolo.precision.scales import Method

_SCHEMA = 1
_DAMAGE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError)
_LARGEST_SCALE = 1e30

_log = logging.getLogger(__name__)


class CalibrationCache:
    """The file, and what of it holds for a network, its images and a target.

    Attributes:
        path: The file.

    Args:
        path: Where it is or will be.
        network: The float network.
        images_sha256: Of the images that calibrate.
        target: Whose 8 bits.
    """

    def __init__(self, path: Path, network: Network, images_sha256: str, target: Target) -> None:
        self.path = path
        self._network = network
        self._target = target
        self._key = _key(network, images_sha256, target)
        self._methods: dict[str, dict[str, Any]] = self._read()

    def calibrations(
        self, methods: list[Method], make: Callable[[], Mapping[Method, Calibration]]
    ) -> tuple[dict[Method, Calibration], bool]:
        """The calibration of each method, and whether all of them were in the file.

        Args:
            methods: Which.
            make: Makes all of them where one is missing.
        """
        found = {method: self._calibration(method) for method in methods}
        whole = {method: one for method, one in found.items() if one is not None}
        if len(whole) == len(methods):
            return whole, True
        made = dict(make())
        for method, one in made.items():
            self._methods[method] = _fields(one)
        self._write()
        return made, False

    def errors(self, method: Method, make: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """The sensitivity of each convolution, by its output, for one method: from the file, or made and kept."""
        entry = self._methods.setdefault(method, {})
        try:
            return self._sound_errors(entry["sensitivity"])
        except _DAMAGE:
            errors = dict(make())
        entry["sensitivity"] = errors
        self._write()
        return errors

    def _calibration(self, method: Method) -> Calibration | None:
        fields = self._methods.get(method)
        try:
            return None if fields is None else self._sound(_calibration(fields, method, self._target))
        except _DAMAGE:
            _log.info("%s has a damaged entry %s; calibrating again", self.path, method)
            return None

    def _sound(self, one: Calibration) -> Calibration:
        """The calibration, if it fits the network; else ValueError."""
        stored = self._network.model.graph.initializer
        channels = {tensor.name: tensor.dims[0] for tensor in stored if tensor.dims}
        highest = 0 if self._target == "tensorrt" else 255
        sound = all(
            0 < how.scale < _LARGEST_SCALE and 0 <= how.zero <= highest for how in one.activations.values()
        )
        for convolution in self._network.quantizable:
            shift = one.bias_shifts[convolution.output]
            sound &= convolution.input in one.activations
            sound &= shift.shape == (channels[convolution.weight],) and bool(np.isfinite(shift).all())
        if self._target == "cpu":
            sound &= one.activations.keys() == set(cpu_tensors(self._network))
        if not sound:
            raise ValueError("it does not fit the network")
        return one

    def _sound_errors(self, errors: dict[str, Any]) -> dict[str, float]:
        """The sensitivity of every convolution; else ValueError."""
        sound = {one.output: float(errors[one.output]) for one in self._network.quantizable}
        if not np.isfinite(list(sound.values())).all():
            raise ValueError("it holds what is no number")
        return sound

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            content = json.loads(self.path.read_text())
            methods = content["methods"] if content["key"] == self._key else {}
        except (OSError, *_DAMAGE):
            return {}
        if not (isinstance(methods, dict) and all(isinstance(one, dict) for one in methods.values())):
            return {}
        return methods

    def _write(self) -> None:
        content = {"schema": _SCHEMA, "key": self._key, "target": self._target, "methods": self._methods}
        write_together({self.path: json.dumps(content).encode()})


def _key(network: Network, images_sha256: str, target: Target) -> str:
    digest = hashlib.sha256(network.model.graph.SerializeToString(deterministic=True))
    digest.update(f"{images_sha256} {target} {_SCHEMA}".encode())
    return digest.hexdigest()


def _fields(one: Calibration) -> dict[str, Any]:
    return {
        "activations": {tensor: [how.scale, how.zero] for tensor, how in one.activations.items()},
        "bias_shifts": {output: shift.tolist() for output, shift in one.bias_shifts.items()},
    }


def _calibration(fields: dict[str, Any], method: Method, target: Target) -> Calibration:
    return Calibration(
        target=target,
        method=method,
        activations={
            str(tensor): Activation(scale=float(scale), zero=int(zero))
            for tensor, (scale, zero) in fields["activations"].items()
        },
        bias_shifts={
            str(output): np.array(shift, np.float64) for output, shift in fields["bias_shifts"].items()
        },
    )
