"""How the tests run the command line, and the one assertion of what its failures look like."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

TIMEOUT_S = 120


class Outcome(NamedTuple):
    """What a command left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


def run_process(
    *arguments: str,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    before: Callable[[], None] | None = None,
) -> Outcome:
    """`python -m trt_yolo ...` in a process of its own; `before` is called there first."""
    done = subprocess.run(
        [sys.executable, "-m", "trt_yolo", *arguments],
        capture_output=True, env={**os.environ, **(env or {})}, cwd=cwd, preexec_fn=before, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    out, err = (text.decode(errors="backslashreplace") for text in (done.stdout, done.stderr))
    return Outcome(done.returncode, out, err)


def run_here(
    arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch, capture: pytest.CaptureFixture[str]
) -> Outcome:
    """The same in this process, without the second that a new one takes to import."""
    from trt_yolo.cli.main import run

    monkeypatch.setattr(sys, "argv", ["trt-yolo", *arguments])
    monkeypatch.setenv("COLUMNS", "300")
    capture.readouterr()
    with pytest.raises(SystemExit) as stopped:
        run()
    return Outcome(int(stopped.value.code or 0), *capture.readouterr())


def assert_one_error(outcome: Outcome, *parts: str) -> None:
    """Fails unless the command ended with 1 and one line on stderr that says all of `parts`."""
    assert outcome.code == 1, outcome
    lines = outcome.err.splitlines()
    assert len(lines) == 1, outcome.err
    assert lines[0].startswith("error: "), outcome.err
    assert outcome.out == "", outcome.out
    for part in parts:
        assert part in lines[0], f"{part!r} is not in: {lines[0]}"
