"""What a bench ran on: this machine, small trees with known numbers, and a GPU whose binding answers known ones."""

from __future__ import annotations

import dataclasses
import json
import platform
from pathlib import Path

from tests.hardware.nvml import GPU, Binding
from tests.hardware.test_processor import write
from trt_yolo.hardware.cores import usable_cpus
from trt_yolo.hardware.gpus import devices
from trt_yolo.hardware.machine import Meanwhile, gpu_records, machine_record
from trt_yolo.hardware.nvml import Nvml

THROTTLED = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"


def test_this_machine() -> None:
    found = machine_record()
    assert json.loads(json.dumps(found)) == found
    assert found["cores"] == len(usable_cpus().cores)
    assert found["cpu"]
    assert {"numpy", "onnx"} <= found["packages"].keys()
    assert "" not in found["packages"].values()
    assert found["providers"] is None or "CPUExecutionProvider" in found["providers"]
    assert len(found["gpus"]) == len(devices())
    assert found["gpus"] or found["notes"] == ["clocks and power of GPUs: no GPU answers here"]


def test_a_record_does_not_say_whose_machine_it_is() -> None:
    text = json.dumps(machine_record())
    assert f'"{platform.node()}"' not in text
    assert str(Path.home()) not in text


def test_a_machine_that_says_nothing_is_no_error(tmp_path: Path) -> None:
    found = machine_record(tmp_path)
    assert found["memory_gb"] is None
    assert found["python"] == platform.python_version()


def test_a_gpu() -> None:
    with Nvml([GPU], Binding(reasons=4)) as nvml:
        (found,) = gpu_records([GPU], nvml)
    assert json.loads(json.dumps(found)) == found
    assert dataclasses.asdict(GPU).items() <= found.items()
    assert (found["throttled_by"], found["power_w"], found["power_limit_w"]) == (["power limit"], 350, None)
    assert (found["persistence"], found["ecc"], found["mig"]) == (True, True, False)


def test_a_gpu_that_nvml_does_not_know() -> None:
    """What is not known is null, not left out."""
    with Nvml([GPU], Binding(is_there=False)) as nvml:
        (found,) = gpu_records([GPU], nvml)
    assert found["name"] == GPU.name
    assert (found["throttled_by"], found["sm_mhz"]) == (None, None)


def test_what_happened_to_the_processor_meanwhile(tmp_path: Path) -> None:
    """Of 100 ticks 25 went to others."""
    before = {"proc/stat": "cpu  60 0 20 10 0 0 0 10 0 0\ncpu0 1\n", THROTTLED: "3\n"}
    meanwhile = Meanwhile(write(tmp_path, before), gpus=[])
    write(tmp_path, {"proc/stat": "cpu  120 0 30 15 0 0 0 35 0 0\ncpu0 1\n", THROTTLED: "8\n"})
    assert meanwhile.to_dict() == {"steal": 0.25, "throttled": 5, "load_1min": None, "gpus": []}


def test_times_that_stand_still(tmp_path: Path) -> None:
    meanwhile = Meanwhile(write(tmp_path, {"proc/stat": "cpu 60 0 20 10 0 0 0 10"}), gpus=[])
    assert meanwhile.to_dict()["steal"] is None
    assert meanwhile.to_dict()["throttled"] is None


def test_what_happened_to_a_gpu_meanwhile(tmp_path: Path) -> None:
    binding = Binding(reasons=1)
    binding.violation_ns = {0: 5_000_000_000, 1: 0}
    meanwhile = Meanwhile(tmp_path, gpus=[GPU], library=binding)
    binding.violation_ns = {0: 7_500_000_000, 1: 0}
    (found,) = meanwhile.to_dict()["gpus"]
    assert found["held_back_s"] == {"power limit": 2.5, "temperature": 0}
    assert (found["index"], found["throttled_by"]) == (1, [])
    assert binding.open == 0
