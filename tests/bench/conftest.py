"""Image files to measure with."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_yolo.bench.images import write_scenes


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Small demo scenes: what decoding takes is little beside a known service time."""
    return write_scenes(tmp_path_factory.mktemp("scenes"), (64, 64))
