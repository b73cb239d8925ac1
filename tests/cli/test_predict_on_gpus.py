"""`predict --devices --streams --spin`: one line for what makes no sense."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.cli.commands import Command, assert_one_error


@pytest.fixture
def photos(tmp_path: Path) -> str:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    return str(tmp_path)


@pytest.mark.parametrize("text", ["", "a", "0,", "-1", "0;1", "99999"])
def test_devices(text: str, cli: Command, demo_onnx: Path, photos: str) -> None:
    assert_one_error(cli("predict", str(demo_onnx), photos, f"--devices={text}"), "names no GPUs", "0,1")


@pytest.mark.parametrize("option", ["--streams=2", "--devices=1", "--spin"])
def test_for_engines_alone(option: str, cli: Command, demo_onnx: Path, photos: str) -> None:
    assert_one_error(cli("predict", str(demo_onnx), photos, option), "are for an .engine")
