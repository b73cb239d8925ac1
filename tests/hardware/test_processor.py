"""Processor and system: small trees of `/proc` and `/sys`, in the kernel's own formats, with known numbers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from trt_yolo.hardware.cores import usable_cpus
from trt_yolo.hardware.processor import cpu_times, int8_instructions, processor, throttle_count

CPU = "sys/devices/system/cpu"
X86 = "".join(
    f"processor\t: {number}\nvendor_id\t: AuthenticAMD\nmodel\t\t: 17\nmodel name\t: AMD EPYC 9555P\n"
    f"cpu MHz\t\t: {2500 + number}.250\nflags\t\t: fpu avx2 fma avx512f avx512_vnni hypervisor\nbugs\t\t:\n\n"
    for number in range(2)
)


def _arm(parts: list[str], tail: str = "") -> str:
    return tail + "".join(
        f"processor\t: {number}\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd evtstrm asimddp\n"
        f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {part}\nCPU revision\t: 1\n\n"
        for number, part in enumerate(parts)
    )


def write(root: Path, files: dict[str, str]) -> Path:
    """A tree of files."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_server(tmp_path: Path) -> None:
    files = {
        "proc/cpuinfo": X86,
        "proc/meminfo": "MemTotal:       24683122 kB\nMemFree: 1 kB\n",
        "proc/loadavg": "1.25 0.5 0.1 1/2 3\n",
        "sys/fs/cgroup/cpu.max": "150000 100000\n",
        f"{CPU}/smt/active": "1\n",
        f"{CPU}/cpufreq/boost": "0\n",
    }
    for number, (governor, khz, throttled) in enumerate([("performance", 3, 3), ("powersave", 4, 4)]):
        files[f"{CPU}/cpu{number}/cpufreq/scaling_governor"] = f"{governor}\n"
        files[f"{CPU}/cpu{number}/cpufreq/scaling_cur_freq"] = f"{khz}000000\n"
        files[f"{CPU}/cpu{number}/thermal_throttle/core_throttle_count"] = f"{throttled}\n"
    found = processor(write(tmp_path, files))
    assert (found["cpu"], found["board"]) == ("AMD EPYC 9555P", None)
    assert (found["cores_of_machine"], found["cpu_limit"], found["virtual"]) == (2, 1.5, True)
    assert found["cpu_flags"] == ["avx2", "fma", "avx512f", "avx512_vnni"]
    assert found["governor"] == "mixed: performance, powersave"
    assert found["mhz"] == {"cur": 3500, "min": None, "max": None}
    assert (found["throttled"], found["load_1min"], found["smt"], found["turbo"]) == (7, 1.25, True, False)
    assert found["memory_gb"] == pytest.approx(25.2755, rel=1e-4)


def test_a_virtual_machine_without_clock_policies(tmp_path: Path) -> None:
    found = processor(write(tmp_path, {"proc/cpuinfo": X86}))
    assert found["mhz"] == {"cur": 2500.75, "min": None, "max": None}
    assert found["governor"] is None


def test_hardware_is_told_from_a_virtual_machine(tmp_path: Path) -> None:
    bare = processor(write(tmp_path, {"proc/cpuinfo": X86.replace(" hypervisor", "")}))
    assert bare["virtual"] is False


def test_a_jetson(tmp_path: Path) -> None:
    board = "NVIDIA Jetson Orin NX Engineering Reference Developer Kit"
    files = {"proc/cpuinfo": _arm(["0xd42"] * 8), "proc/device-tree/model": f"{board}\0"}
    for number in range(8):
        files[f"{CPU}/cpu{number}/cpufreq/scaling_governor"] = "schedutil\n"
        files[f"{CPU}/cpu{number}/cpufreq/scaling_max_freq"] = "1984000\n"
    found = processor(write(tmp_path, files))
    assert (found["cpu"], found["board"]) == ("Cortex-A78AE", board)
    assert (found["cores_of_machine"], found["cpu_flags"]) == (8, ["asimd", "asimddp"])
    assert (found["governor"], found["mhz"]["max"], found["virtual"]) == ("schedutil", 1984, None)


def test_a_raspberry(tmp_path: Path) -> None:
    tail = "Hardware\t: BCM2835\nRevision\t: d03114\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n\n"
    found = processor(write(tmp_path, {"proc/cpuinfo": _arm(["0xd08"] * 4, tail)}))
    assert (found["cpu"], found["board"]) == ("Cortex-A72", "Raspberry Pi 4 Model B Rev 1.4")


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [(["0xd05", "0xd05", "0xd0b"], "Cortex-A55 + Cortex-A76"), (["0xfff"], "ARM 0x41 0xfff")],
)
def test_names_of_arm_cores(parts: list[str], wanted: str, tmp_path: Path) -> None:
    found = processor(write(tmp_path, {"proc/cpuinfo": _arm(parts)}))
    assert (found["cpu"], found["board"]) == (wanted, None)


def test_a_virtual_machine_on_arm(tmp_path: Path) -> None:
    files = {"proc/cpuinfo": _arm(["0xd40"]), "proc/device-tree/hypervisor/compatible": "linux,kvm\0"}
    assert processor(write(tmp_path, files))["virtual"] is True


def test_a_system_that_says_nothing(tmp_path: Path) -> None:
    found = processor(tmp_path)
    assert (found.pop("cores"), found.pop("cores_of_machine")) == (len(usable_cpus().cores), os.cpu_count())
    assert (found.pop("cpu_flags"), found.pop("mhz")) == ([], {"cur": None, "min": None, "max": None})
    assert set(found.values()) == {None}


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in (
        "proc/cpuinfo",
        "proc/meminfo",
        "proc/loadavg",
        "proc/stat",
        f"{CPU}/cpu0/cpufreq/scaling_governor",
    ):
        (tmp_path / name).mkdir(parents=True)  # root can read everything else
    found = processor(tmp_path)
    assert [found[name] for name in ("cpu", "memory_gb", "load_1min", "governor")] == [None] * 4
    assert cpu_times(tmp_path) is None


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({".dockerenv": ""}, "docker"),
        ({"run/.containerenv": "engine=podman"}, "podman"),
        ({"proc/self/cgroup": "0::/kubepods/besteffort/pod1\n"}, "kubepods"),
        ({"proc/self/cgroup": "0::/user.slice/user-1000.slice\n"}, None),
    ],
)
def test_containers(files: dict[str, str], wanted: str | None, tmp_path: Path) -> None:
    assert processor(write(tmp_path, files))["container"] == wanted


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ([], ""),
        (["avx2", "fma"], ""),
        (["avx2", "avx512f"], ""),
        (["avx512_vnni", "avx_vnni", "amx_int8"], "AMX INT8, AVX512 VNNI, AVX-VNNI"),
        (["avx2", "avx_vnni"], "AVX-VNNI"),
        (["asimd"], ""),
        (["asimd", "asimddp", "i8mm"], "i8mm, dot product"),
    ],
)
def test_what_multiplies_bytes(flags: list[str], wanted: str) -> None:
    assert int8_instructions(flags) == wanted


SUPPLY = "sys/class/power_supply"


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"AC/type": "Mains", "AC/online": "1", "BAT0/type": "Battery", "BAT0/status": "Charging"}, False),
        ({"AC/type": "Mains", "AC/online": "0", "BAT0/type": "Battery", "BAT0/status": "Discharging"}, True),
        ({"mouse/type": "Battery", "mouse/status": "Discharging", "mouse/scope": "Device"}, None),
    ],
)
def test_batteries(files: dict[str, str], wanted: bool | None, tmp_path: Path) -> None:
    root = write(tmp_path, {f"{SUPPLY}/{name}": f"{text}\n" for name, text in files.items()})
    assert processor(root)["on_battery"] is wanted


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"intel_pstate/no_turbo": "1"}, False),
        ({"intel_pstate/no_turbo": "0"}, True),
        ({"cpufreq/boost": "1"}, True),
    ],
)
def test_turbo(files: dict[str, str], wanted: bool, tmp_path: Path) -> None:
    root = write(tmp_path, {f"{CPU}/{name}": f"{text}\n" for name, text in files.items()})
    assert processor(root)["turbo"] is wanted


@pytest.mark.parametrize("text", ["", "cpu", "cpu a b", "cpu 1 2 3"])
def test_times_that_cannot_be_read(text: str, tmp_path: Path) -> None:
    assert cpu_times(write(tmp_path, {"proc/stat": text})) is None


def test_times_of_guests_are_not_counted_twice(tmp_path: Path) -> None:
    assert cpu_times(write(tmp_path, {"proc/stat": "cpu  60 0 20 10 0 0 0 10 60 0\n"})) == (100, 10)


def test_this_machine() -> None:
    found: dict[str, Any] = processor(Path("/"))
    assert found["cores"] == len(usable_cpus().cores)
    assert found["cores"] <= found["cores_of_machine"]
    if Path("/proc/meminfo").exists():
        assert 0.1 < found["memory_gb"] < 1e5
        assert found["load_1min"] >= 0
        times = cpu_times(Path("/"))
        assert times is not None
        assert times[0] > times[1] >= 0
    assert (throttle_count(Path("/")) or 0) >= 0
