"""A fresh Python imports from where this one does, and is told anything; where there is none, an error says so."""

from __future__ import annotations

import json
import multiprocessing
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trt_yolo.errors import WorkerError
from trt_yolo.system.interpreter import executable, fresh_python, import_path

pytestmark = pytest.mark.timeout(60)

ROOT = Path(__file__).resolve().parents[1]
MANY = [f"/a/build/system/has/many/{index:05}/{'x' * 150}" for index in range(1200)]

TELLING = """
import json, signal, sys
def tell(*arguments):
    ignored = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
    print(json.dumps([sys.path, arguments, ignored]))
"""


@pytest.fixture(autouse=True)
def _executable_as_before() -> Iterator[None]:
    before = multiprocessing.spawn.get_executable()
    yield
    multiprocessing.set_executable(before)


def _told(folder: Path, *arguments: Any) -> Any:
    """What a fresh Python tells of itself, by a module that only this program's import path leads to."""
    (folder / "telling.py").write_text(TELLING)
    with fresh_python("telling:tell", *arguments) as (command, file):
        assert sum(map(len, command)) < 300
        ended = subprocess.run(command, pass_fds=[file], capture_output=True, text=True, check=True, cwd="/")
    assert ended.stderr == ""
    return json.loads(ended.stdout)


@pytest.mark.parametrize(
    ("entries", "kept"),
    [
        pytest.param([], [], id="nothing-more"),
        pytest.param([Path("src"), b"/bytes", None, 3], [], id="what-python-passes-over"),
        pytest.param(["", "relative"], ["", "relative"], id="relative"),
        pytest.param(["/\udcff\udc80", "/日本"], ["/\udcff\udc80", "/日本"], id="not-utf-8"),
        pytest.param(["/a'b\"c\n\r\t\\{fd}"], ["/a'b\"c\n\r\t\\{fd}"], id="every-quote"),
        pytest.param(MANY, MANY, id="more-than-a-command-line-holds"),
    ],
)
def test_the_import_path_is_this_programs(
    entries: list[Any], kept: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path, *entries])
    path, _, _ = _told(tmp_path)
    assert path == import_path()
    assert path[len(path) - len(kept) :] == kept


def test_arguments_arrive_whatever_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    arguments = [7, "日\udcff\n'\"", [*MANY], "x" * 1_000_000]
    assert _told(tmp_path, *arguments)[1] == arguments


def test_it_sees_how_its_own_children_end_though_this_program_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        assert _told(tmp_path)[2] is False
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_what_multiprocessing_was_told_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", None)
    multiprocessing.set_executable("/opt/my/python")
    assert executable() == "/opt/my/python"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"executable": None}, "sys.executable is None (a program that embeds Python)"),
        ({"executable": ""}, "sys.executable is '' (a program that embeds Python)"),
        ({"executable": "/no/such/python"}, "/no/such/python does not run (No such file or directory)"),
        ({"executable": "/etc/passwd"}, "/etc/passwd does not run (Permission denied)"),
        ({"executable": "/app", "frozen": True}, "this program is a frozen executable"),
    ],
    ids=str,
)
def test_without_a_python_it_says_what_to_set(
    changed: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changed.items():
        monkeypatch.setattr(sys, name, value, raising=False)
    multiprocessing.set_executable(sys.executable)
    with pytest.raises(WorkerError) as caught, fresh_python("a:b") as (command, _):
        subprocess.run(command, check=True)
    assert message in str(caught.value)
    assert "set the Python of this environment with multiprocessing.set_executable(" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("closed", [(0,), (1, 2), (0, 1, 2)], ids=str)
def test_standard_streams_that_are_closed_are_opened_on_nothing(closed: tuple[int, ...]) -> None:
    script = f"""
import os, sys
from trt_yolo.system.standard_streams import hold_standard_streams
for number in {closed}:
    os.close(number)
hold_standard_streams()
hold_standard_streams()
right = [os.readlink(f"/proc/self/fd/{{n}}") == "/dev/null" and os.get_inheritable(n) for n in {closed}]
os._exit(7 if all(right) else 1)
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False)
    assert ended.returncode == 7
