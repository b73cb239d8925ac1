"""`predict --devices --streams`: one line for what makes no sense."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.cli.commands import Command, assert_one_error
from trt_yolo.errors import InputError
from trt_yolo.runtime.options import RuntimeOptions


@pytest.fixture
def photos(tmp_path: Path) -> str:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    return str(tmp_path)


@pytest.mark.parametrize("text", ["", "a", "0,", "-1", "0;1", "99999"])
def test_devices(text: str, cli: Command, demo_onnx: Path, photos: str) -> None:
    assert_one_error(cli("predict", str(demo_onnx), photos, f"--devices={text}"), "names no GPUs", "0,1")


@pytest.mark.parametrize("option", ["--streams=2", "--devices=1"])
def test_for_gpus_alone(option: str, cli: Command, demo_onnx: Path, photos: str) -> None:
    given = ("predict", str(demo_onnx), photos, option, "--provider=cpu")
    assert_one_error(cli(*given), "are for a GPU", "the provider cpu was asked for")


@pytest.mark.parametrize(
    ("command", "flags", "wanted"),
    [
        ("predict", (), "auto"),
        ("predict", ("--spin",), True),
        ("predict", ("--no-spin",), False),
        ("val", ("--no-spin",), False),
        ("bench", ("--spin",), True),
        ("bench --runtime", ("--no-spin",), False),
    ],
)
def test_every_command_that_runs_a_model_takes_spin(
    command: str, flags: tuple[str, ...], wanted: object, cli: Command, demo_onnx: Path, photos: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Up to where the threads are made."""
    told = []

    def chosen(options: RuntimeOptions) -> bool:
        told.append(options.spin)
        raise InputError("far enough")

    monkeypatch.setattr("trt_yolo.loader.chosen_spin", chosen)
    name, *more = command.split()
    rest = {"predict": [photos], "val": ["--data=coco8.yaml"]}.get(name, [])
    if name == "val":
        monkeypatch.setattr("trt_yolo.evaluation.dataset.dataset_from_yaml", lambda *given, **more: None)
    else:
        more.append("--provider=cpu")
    done = cli(name, str(demo_onnx), *rest, *more, *flags)
    assert_one_error(done, "far enough")
    assert told == [wanted]


def test_provider(cli: Command, demo_onnx: Path, photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = cli("predict", str(demo_onnx), photos, "--provider", "cpu", "--json")
    assert (done.code, done.err) == (0, "")
    assert_one_error(
        cli("predict", str(demo_onnx), photos, "--provider=x"), "no provider 'x'; give auto, cpu"
    )
    monkeypatch.setattr("trt_yolo.backends.onnxruntime_providers.devices", list)
    refused = cli("predict", str(demo_onnx), photos, "--provider=cuda")
    assert_one_error(refused, "cuda cannot be used here", "no NVIDIA GPU answers")
