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
def test_for_gpus_alone(option: str, cli: Command, demo_onnx: Path, photos: str) -> None:
    given = ("predict", str(demo_onnx), photos, option, "--provider=cpu")
    assert_one_error(cli(*given), "are for a GPU", "the provider cpu was asked for")


def test_provider(cli: Command, demo_onnx: Path, photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("predict", str(demo_onnx), photos, "--provider", "cpu", "--json")
    assert (done.code, done.err) == (0, "")
    assert_one_error(
        cli("predict", str(demo_onnx), photos, "--provider=x"), "no provider 'x'; give auto, cpu"
    )
    monkeypatch.setattr("trt_yolo.backends.onnxruntime_providers.devices", list)
    refused = cli("predict", str(demo_onnx), photos, "--provider=cuda")
    assert_one_error(refused, "cuda cannot be used here", "no NVIDIA GPU answers")
