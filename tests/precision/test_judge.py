"""Judging: how far outputs move, and mAP with labels and without."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from trt_yolo.demo.scenes import NAMES, write_yolo_dataset
from trt_yolo.errors import InputError
from trt_yolo.evaluation.accuracy import evaluate, samples
from trt_yolo.evaluation.head_runner import HeadRunner
from trt_yolo.graph.writer import FLOAT
from trt_yolo.media.images import write_jpeg
from trt_yolo.precision.images import PrecisionImages, frames_of, images_from
from trt_yolo.precision.judge import Heads, Judge, heads_of, output_error

THREADS = 2


@pytest.fixture(scope="module")
def float_model(demo_head_onnx: Path) -> bytes:
    return demo_head_onnx.read_bytes()


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> PrecisionImages:
    """Sixteen scenes with labels to calibrate, sixteen to judge."""
    return images_from(str(write_yolo_dataset(tmp_path_factory.mktemp("scenes"), train=16, val=16)), NAMES)


@pytest.fixture(scope="module")
def heads(float_model: bytes, images: PrecisionImages) -> Heads:
    return heads_of(float_model, list(frames_of(images.held_out[:4], (256, 256))()), threads=THREADS)


def _noised(model: bytes, amount: float) -> bytes:
    """The model with noise on all weights, a share of their spread."""
    changed, rng = onnx.load_model_from_string(model), np.random.default_rng(7)
    for tensor in changed.graph.initializer:
        if tensor.data_type == FLOAT and len(tensor.dims) == 4:
            weight = numpy_helper.to_array(tensor)
            noise = rng.normal(0, amount * weight.std(), weight.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(weight + noise, tensor.name))
    return bytes(changed.SerializeToString())


# output_error


def test_the_same_is_no_error(heads: Heads) -> None:
    assert output_error(heads, [head.copy() for head in heads]) == 0


def _with(heads: Heads, change: Callable[[np.ndarray], None]) -> Heads:  # type: ignore[type-arg]
    changed = [head.copy() for head in heads]
    for head in changed:
        change(head)
    return changed


def test_by_hand() -> None:
    """One anchor that is seen, one that is not: 4 pixels of width 20, and 0.1 of a score."""
    head = np.array([[50, 9], [60, 9], [20, 5], [10, 5], [0.8, 0.01], [0.2, 0.02]], np.float32)
    moved = head.copy()
    moved[:, 1] = 1000
    assert output_error([head], [moved]) == 0, "what scores nothing moves unseen"
    moved[0, 0] += 4
    moved[4, 0] -= 0.1
    assert output_error([head], [moved]) == pytest.approx(4 / 20 / 4 + 0.1, rel=1e-5)


def test_weight_is_the_score() -> None:
    head = np.array([[50, 50], [60, 60], [20, 20], [10, 10], [0.9, 0.1]], np.float32)
    for anchor, wanted in ((0, 0.9 * 0.25), (1, 0.1 * 0.25)):
        moved = head.copy()
        moved[:4, anchor] += head[[2, 3, 2, 3], anchor] * 0.25
        assert output_error([head], [moved]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("rows", [slice(0, 4), slice(4, None)], ids=["boxes", "scores"])
def test_it_grows_with_the_perturbation(rows: slice, heads: Heads) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.normal(size=head[rows].shape).astype(np.float32) for head in heads]
    errors = []
    for amount in (1e-4, 1e-3, 1e-2, 1e-1):
        changed = [head.copy() for head in heads]
        for head, one in zip(changed, noise, strict=True):
            head[rows] += amount * one
        errors.append(output_error(heads, changed))
    assert errors[0] > 0
    assert errors == sorted(errors)
    assert errors[-1] > 100 * errors[0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_is_not_finite_is_a_large_finite_error(value: float, heads: Heads) -> None:
    def spoil(head: np.ndarray) -> None:  # type: ignore[type-arg]
        head[:, ::2] = value

    error = output_error(heads, _with(heads, spoil))
    assert np.isfinite(error)
    assert error > 10


def test_nothing_seen_is_no_error(heads: Heads) -> None:
    nothing = _with(heads, lambda head: head[4:].fill(0))
    assert output_error(nothing, heads) == 0


def test_noise_on_weights_is_seen(float_model: bytes, images: PrecisionImages, heads: Heads) -> None:
    frames = list(frames_of(images.held_out[:4], (256, 256))())
    errors = [
        output_error(heads, heads_of(_noised(float_model, amount), frames, threads=THREADS))
        for amount in (0.0, 0.005, 0.05)
    ]
    assert errors[0] == 0
    assert 0 < errors[1] < errors[2]


# Judge


@pytest.fixture(scope="module")
def labelled(float_model: bytes, images: PrecisionImages) -> Judge:
    return Judge(float_model, images, threads=THREADS)


@pytest.fixture(scope="module")
def unlabelled(float_model: bytes, images: PrecisionImages) -> Judge:
    return Judge(float_model, dataclasses.replace(images, labels=None), threads=THREADS)


def test_with_labels_it_is_what_val_measures(
    labelled: Judge, float_model: bytes, images: PrecisionImages
) -> None:
    assert images.labels is not None
    for model in (float_model, _noised(float_model, 0.1)):
        with HeadRunner(model, threads=THREADS) as runner:
            wanted = evaluate(runner, samples(images.held_out, images.labels, (256, 256)))
        assert labelled.accuracy(model) == wanted
    assert labelled.reference == "labels"
    assert labelled.before == labelled.accuracy(float_model)
    assert 0.8 < labelled.before.map50_95 < 1
    assert labelled.before.images == 16


def test_without_labels_the_float_model_is_not_right_by_definition(
    unlabelled: Judge, float_model: bytes
) -> None:
    assert unlabelled.reference == "the float model's detections"
    assert 0.1 < unlabelled.before.map50_95 < 0.95
    assert unlabelled.accuracy(float_model) == unlabelled.before
    assert unlabelled.before.images == 16
    assert unlabelled.before.instances > 16


@pytest.mark.parametrize("which", ["labelled", "unlabelled"])
def test_a_worse_model_scores_lower(which: str, float_model: bytes, request: pytest.FixtureRequest) -> None:
    judge: Judge = request.getfixturevalue(which)
    scores = [judge.accuracy(_noised(float_model, amount)).map50_95 for amount in (0.1, 0.3)]
    assert judge.before.map50_95 > scores[0] + 0.005
    assert scores[0] > scores[1] + 0.05


def test_nothing_to_see_and_no_labels_is_an_error(float_model: bytes, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.jpg" for index in range(3)]
    for path in paths:
        write_jpeg(path, np.full((64, 64, 3), 114, np.uint8))
    with pytest.raises(InputError, match="finds nothing in the 3 images") as error:
        Judge(float_model, PrecisionImages(calibration=[], held_out=paths, labels=None), threads=THREADS)
    assert "give images" in str(error.value)
