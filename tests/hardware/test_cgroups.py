"""Quotas of control groups: small trees of `/proc` and `/sys` in the kernel's own formats, and the kernel itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hardware.test_processor import write
from trt_yolo.hardware.cores import cpu_quota

V1, V2 = "sys/fs/cgroup/cpu", "sys/fs/cgroup"
GROUP, MOUNTS = "proc/self/cgroup", "proc/self/mountinfo"


def _v1(folder: str, quota: str, period: str = "100000") -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": f"{quota}\n", f"{folder}/cpu.cfs_period_us": f"{period}\n"}


def _mount(folder: str, kind: str, options: str, top: str = "/") -> str:
    return f"30 23 0:26 {top} /{folder} rw,nosuid shared:9 - {kind} cgroup {options}\n"


ALL_V2 = {MOUNTS: "1 0 8:1 / / rw - ext4 /dev/sda rw\n" + _mount(V2, "cgroup2", "rw,nsdelegate")}
V1_TOGETHER = "sys/fs/cgroup/cpu,cpuacct"


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        pytest.param({}, None, id="no-groups"),
        pytest.param({f"{V2}/cpu.max": "max 100000\n"}, None, id="no-limit"),
        pytest.param({f"{V2}/cpu.max": "150000 100000\n"}, 1.5, id="nobody-says-where-it-is-mounted"),
        pytest.param(
            {GROUP: "0::/a/b\n", f"{V2}/a/cpu.max": "50000 100000\n", f"{V2}/a/b/cpu.max": "max 100000\n"},
            0.5,
            id="a-group-around",
        ),
        pytest.param(
            {GROUP: "0::/a\n", f"{V2}/a/cpu.max": "300000 100000\n", f"{V2}/cpu.max": "200000 100000\n"},
            2.0,
            id="the-smallest",
        ),
        pytest.param(
            ALL_V2 | {GROUP: "0::/a:b (deleted)\n", f"{V2}/cpu.max": "40000 20000\n"}, 2.0, id="deleted"
        ),
        pytest.param(_v1(V1, "250000"), 2.5, id="version-1"),
        pytest.param(_v1(V1, "-1"), None, id="version-1-no-limit"),
        pytest.param(_v1(V1, "100000", "0"), None, id="version-1-no-period"),
        pytest.param(
            {GROUP: "5:memory:/m\n4:cpu,cpuacct:/docker/x\n", **_v1(f"{V1}/docker/x", "150000")},
            1.5,
            id="version-1-group",
        ),
        pytest.param(
            {
                MOUNTS: _mount(V1_TOGETHER, "cgroup", "rw,cpu,cpuacct"),
                GROUP: "4:cpu,cpuacct:/a/b\n",
                **_v1(f"{V1_TOGETHER}/a", "30000"),
                **_v1(f"{V1_TOGETHER}/a/b", "-1"),
            },
            0.3,
            id="version-1-mounted-together",
        ),
        pytest.param(
            {
                MOUNTS: _mount("cg", "cgroup", "rw,cpu", top="/docker/x"),
                GROUP: "4:cpu:/docker/x/y\n",
                **_v1("cg", "200000"),
                **_v1("cg/y", "100000"),
                **_v1("cg/docker/x", "1000"),
            },
            1.0,
            id="mounted-from-a-group",
        ),
        pytest.param(
            {
                MOUNTS: _mount(V1, "cgroup", "rw,cpu") + _mount(f"{V2}/unified", "cgroup2", "rw"),
                GROUP: "1:cpu:/a\n0::/b\n",
                **_v1(f"{V1}/a", "400000"),
                f"{V2}/unified/b/cgroup.procs": "1\n",
            },
            4.0,
            id="hybrid",
        ),
        pytest.param(
            {
                MOUNTS: _mount("c", "cgroup", "rw,cpuset,cpuacct"),
                GROUP: "1:cpuset:/a\n2:cpuacct:/a\n",
                **_v1("c", "1000"),
                **_v1("c/a", "1000"),
            },
            None,
            id="other-hierarchies",
        ),
        pytest.param(
            {MOUNTS: _mount("a\\040b", "cgroup2", "rw"), "a b/cpu.max": "70000 100000"}, 0.7, id="blanks"
        ),
        pytest.param(
            ALL_V2 | {GROUP: "0::/../../x\n", f"{V2}/x/cpu.max": "1 1\n", f"{V2}/cpu.max": "9 3\n"},
            3.0,
            id="outside-of-the-namespace",
        ),
        pytest.param(
            {GROUP: "nonsense", MOUNTS: "a b - cgroup2", f"{V2}/cpu.max": "x y"}, None, id="nonsense"
        ),
        pytest.param({f"{GROUP}/x": "", f"{MOUNTS}/x": "", f"{V2}/cpu.max/x": ""}, None, id="unreadable"),
    ],
)
def test_what_control_groups_allow(files: dict[str, str], wanted: float | None, tmp_path: Path) -> None:
    assert cpu_quota(write(tmp_path, files)) == wanted


@pytest.fixture
def group_of_a_third() -> Iterator[Path]:
    """A group of version 1 with 0.3 of a CPU, where this machine allows one to be made."""
    folder = Path("/sys/fs/cgroup/cpu") / f"trt-yolo-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error.strerror}")
    try:
        (folder / "cpu.cfs_quota_us").write_text("30000")
        yield folder
    finally:
        folder.rmdir()


def test_the_kernels_own_group(group_of_a_third: Path) -> None:
    code = (
        "import os, sys; open(sys.argv[1], 'w').write(str(os.getpid()))\n"
        "from trt_yolo.hardware.cores import usable_cpus\n"
        "print(usable_cpus().quota, usable_cpus().count, usable_cpus().reason)"
    )
    line = [sys.executable, "-c", code, str(group_of_a_third / "cgroup.procs")]
    found = subprocess.run(line, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.strip() == "0.3 1 cgroup quota 0.3"
