"""Image files to measure with, and a clock that is not the machine's."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.pipeline import Clock, simulated
from trt_yolo.bench.images import write_scenes


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small demo scenes: they are decoded fast."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), (64, 64))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The bench's clock, simulated."""
    return simulated(monkeypatch)
