"""What a real GPU says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from trt_yolo.hardware.gpus import Device, devices
from trt_yolo.hardware.machine import Meanwhile, machine_record
from trt_yolo.hardware.nvml import Nvml, gpu_readings
from trt_yolo.hardware.power import PowerMeter

pytestmark = pytest.mark.gpu


def test_a_gpu_says_what_it_draws(gpu: Device) -> None:
    pytest.importorskip("pynvml")
    with Nvml() as nvml:
        readings = nvml.readings()
    assert [one.index for one in readings][:1] == [gpu.index]
    assert readings[0].power_w is None or 1 < readings[0].power_w < 3000
    assert readings[0].memory_used_bytes is None or readings[0].memory_used_bytes < gpu.memory_bytes * 1.1
    assert gpu_readings([gpu.index])[0].max_sm_mhz == readings[0].max_sm_mhz


def test_the_record_has_it(gpu: Device) -> None:
    found = machine_record()
    assert found["gpus"][0]["name"] == gpu.name
    assert found["driver"]
    assert found["cuda"]


def test_what_held_it_back_only_grows(gpu: Device) -> None:
    pytest.importorskip("pynvml")
    meanwhile = Meanwhile()
    time.sleep(0.2)
    for one in meanwhile.to_dict()["gpus"]:
        assert all(0 <= seconds < 10 for seconds in one["held_back_s"].values())


def test_its_power_over_a_stretch_is_near_its_power_now(gpu: Device) -> None:
    pytest.importorskip("pynvml")
    with PowerMeter() as meter, Nvml() as nvml:
        if not any(source.startswith("GPU ") for source in meter.sources):
            pytest.skip("this GPU does not say what it draws")
        begin = meter.mark()
        time.sleep(1.0)
        watts = meter.watts([(begin, meter.mark())])
        now_w = sum(nvml.watts(one.index) or 0.0 for one in nvml.whole_gpus())
    assert watts is not None
    assert watts > now_w / 5


def test_a_gpu_keeps_its_name_under_another_number(gpu: Device) -> None:
    """CUDA_VISIBLE_DEVICES renumbers GPUs for CUDA alone."""
    pytest.importorskip("pynvml")
    last = devices()[-1]
    if last.index == 0:
        pytest.skip("one GPU alone")
    given = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    visible = given.split(",")[last.index] if given else str(last.index)
    code = (
        "from trt_yolo.hardware.gpus import devices; from trt_yolo.hardware.nvml import Nvml\n"
        "gpu, = devices(); nvml = Nvml(); print(gpu.pci_bus_id, nvml.whole_gpus() == [gpu], nvml.notes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": visible},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == [last.pci_bus_id, "True", "[]"]
