"""What a real GPU says of itself."""

from __future__ import annotations

import time

import pytest

from trt_yolo.engine.device import Device
from trt_yolo.telemetry import Nvml, PowerMeter

pytestmark = pytest.mark.gpu


def test_a_gpu_says_what_it_draws(gpu: Device) -> None:
    pytest.importorskip("pynvml")
    with Nvml() as nvml:
        readings = nvml.readings()
    assert [one.index for one in readings][:1] == [gpu.index]
    assert readings[0].power_w is None or 1 < readings[0].power_w < 3000
    assert readings[0].memory_used_bytes is None or readings[0].memory_used_bytes < gpu.memory_bytes * 1.1


def test_its_power_over_a_stretch_is_near_its_power_now(gpu: Device) -> None:
    pytest.importorskip("pynvml")
    with PowerMeter() as meter, Nvml() as nvml:
        if not any(source.startswith("GPUs") for source in meter.sources):
            pytest.skip("this GPU does not say what it draws")
        begin = meter.mark()
        time.sleep(1.0)
        watts, now = meter.watts([(begin, meter.mark())]), nvml.watts()
    assert watts is not None
    assert now is not None
    assert watts > now / 5
