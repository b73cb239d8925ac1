"""The command line as a fixture."""

from __future__ import annotations

import pytest

from tests.cli.commands import Command, Outcome, run_here


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """`cli("export", ...)`: a command run in this process."""

    def run(*arguments: str) -> Outcome:
        return run_here(arguments, monkeypatch, capfd)

    return run
