"""What a bench ran on: small trees of `/proc` and `/sys` with known numbers, and this machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trt_yolo.bench.machine import Meanwhile, machine_record, processor
from trt_yolo.cores import available_cores

X86 = """processor\t: 0
model name\t: AMD EPYC 9555P
flags\t\t: fpu avx2 fma avx512f avx512_vnni hypervisor

processor\t: 1
model name\t: AMD EPYC 9555P
flags\t\t: fpu avx2 fma avx512f avx512_vnni hypervisor
"""
JETSON = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd42\n"


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_server(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    found = processor(
        _write(
            tmp_path,
            {
                "proc/cpuinfo": X86,
                "proc/meminfo": "MemTotal:       24683122 kB\nMemFree: 1 kB\n",
                "proc/loadavg": "1.25 0.5 0.1 1/2 3\n",
                "proc/stat": "cpu  60 0 20 10 0 0 0 10 0 0\ncpu0 1\n",
                "sys/fs/cgroup/cpu.max": "150000 100000\n",
                f"{cpu}/cpu0/cpufreq/scaling_governor": "performance\n",
                f"{cpu}/cpu1/cpufreq/scaling_governor": "powersave\n",
                f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "3000000\n",
                f"{cpu}/cpu1/cpufreq/scaling_cur_freq": "4000000\n",
                f"{cpu}/cpu0/thermal_throttle/core_throttle_count": "3\n",
                f"{cpu}/cpu1/thermal_throttle/core_throttle_count": "4\n",
            },
        )
    )
    assert found["cpu"] == "AMD EPYC 9555P"
    assert (found["cores_of_machine"], found["cpu_limit"], found["virtual"]) == (2, 1.5, True)
    assert found["cpu_flags"] == ["avx2", "fma", "avx512f", "avx512_vnni"]
    assert found["governor"] == "mixed: performance, powersave"
    assert found["mhz"] == {"cur": 3500, "min": None, "max": None}
    assert (found["throttled"], found["load_1min"]) == (7, 1.25)
    assert found["memory_gb"] == pytest.approx(25.2755, rel=1e-4)


def test_a_jetson(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": JETSON, "proc/device-tree/model": "NVIDIA Jetson Orin Nano\0"}
    found = processor(_write(tmp_path, files))
    assert found["cpu"] == "NVIDIA Jetson Orin Nano"
    assert found["cpu_flags"] == ["asimd", "asimddp"]
    assert found["virtual"] is False


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    found = processor(tmp_path)
    assert found["cores"] == len(available_cores())
    for name in ("cpu", "governor", "throttled", "memory_gb", "load_1min", "cpu_limit"):
        assert found[name] is None


def test_what_a_hypervisor_gave_to_others_meanwhile(tmp_path: Path) -> None:
    """Of 100 ticks 25."""
    meanwhile = Meanwhile(_write(tmp_path, {"proc/stat": "cpu  60 0 20 10 0 0 0 10 0 0\ncpu0 1\n"}))
    _write(tmp_path, {"proc/stat": "cpu  120 0 30 15 0 0 0 35 0 0\ncpu0 1\n"})
    assert meanwhile.to_dict()["steal"] == 0.25


@pytest.mark.parametrize("text", ["", "cpu", "cpu a b", "cpu 1 2 3", "cpu 60 0 20 10 0 0 0 10"])
def test_times_that_cannot_be_read_or_stand_still(text: str, tmp_path: Path) -> None:
    meanwhile = Meanwhile(_write(tmp_path, {"proc/stat": text}))
    assert meanwhile.to_dict()["steal"] is None


def test_this_machine() -> None:
    found = machine_record()
    assert json.loads(json.dumps(found)) == found
    assert found["cores"] == len(available_cores())
    assert "numpy" in found["packages"]
    assert found["memory_gb"] > 0.1
