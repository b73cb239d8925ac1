"""Results that leave their process, and a model that cannot."""

from __future__ import annotations

import copy
import importlib
import multiprocessing
import pickle
import pkgutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import trt_yolo
from tests.runtime.models import marked, pool_model
from trt_yolo.errors import ImageError, InputError, TrtYoloError
from trt_yolo.runtime.job import Job, Thresholds
from trt_yolo.runtime.model import Model
from trt_yolo.runtime.results import Result

pytestmark = pytest.mark.timeout(60)

COPIES: dict[str, Callable[[Any], Any]] = {
    **{
        f"pickle-{level}": lambda one, level=level: pickle.loads(pickle.dumps(one, level))
        for level in range(6)
    },
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with pool_model("Faulty") as model:
        yield model


@pytest.fixture(scope="module")
def results(model: Model, tmp_path_factory: pytest.TempPathFactory) -> list[Result]:
    """Of an array, a file, and a file that is none."""
    path = tmp_path_factory.mktemp("results") / "one.png"
    cv2.imwrite(str(path), marked(7))
    return list(model.stream([marked(3), path, path.with_name("none.png")], keep_images=True))


def _facts(result: Result) -> object:
    """All that a result says, comparable."""
    said = (result.index, result.path, result.times, type(result.error), str(result.error), repr(result))
    if result.error is not None:
        return said
    found, image = result.detections, result.image
    assert image is not None
    arrays = [
        (array.dtype, array.shape, array.tobytes())
        for array in (found.xyxy, found.confidence, found.class_id)
    ]
    return (*said, arrays, dict(found.names), found.image_hw, image.shape, image.tobytes())


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
def test_a_copy_says_the_same(results: list[Result], copied: Callable[[Any], Any]) -> None:
    assert [_facts(copied(result)) for result in results] == [_facts(result) for result in results]
    with pytest.raises(ImageError, match=r"none\.png"):
        _ = copied(results[2]).detections


def _send_back(given: Any, back: Any) -> None:
    for result in iter(given.get, None):
        back.put((result, result.index))


def test_results_pass_through_a_queue_to_another_process_and_back(results: list[Result]) -> None:
    context = multiprocessing.get_context("spawn")
    given, back = context.Queue(), context.Queue()
    process = context.Process(target=_send_back, args=(given, back))
    process.start()
    for result in results:
        given.put(result)
    given.put(None)
    returned = [back.get(timeout=30) for _ in results]
    process.join(10)
    assert [index for _, index in returned] == [0, 1, 2]
    assert [_facts(result) for result, _ in returned] == [_facts(result) for result in results]


def _tree(kind: type[TrtYoloError]) -> Iterator[type[TrtYoloError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from _tree(one)


def _errors() -> list[type[TrtYoloError]]:
    """All of the tree, wherever they are defined."""
    for folder in ("runtime", "export"):
        for module in pkgutil.iter_modules([str(Path(trt_yolo.__file__).parent / folder)]):
            importlib.import_module(f"trt_yolo.{folder}.{module.name}")
    return sorted({*_tree(TrtYoloError)}, key=lambda kind: kind.__name__)


@pytest.mark.parametrize("kind", _errors(), ids=lambda kind: kind.__name__)
def test_every_error_survives_with_its_message(kind: type[TrtYoloError]) -> None:
    read = pickle.loads(pickle.dumps(_failed(kind("a.jpg: 日 is damaged"))))
    assert (type(read.error), str(read.error)) == (kind, "a.jpg: 日 is damaged")


class HoldsLock(Exception):
    """Does not pickle."""

    def __init__(self) -> None:
        super().__init__("it is odd", threading.Lock())


class TakesTwo(Exception):
    """Pickles, and is not read again."""

    def __init__(self, one: str, two: str) -> None:
        super().__init__(one + two)


@pytest.mark.parametrize(
    "error", [HoldsLock(), TakesTwo("it is", " odd")], ids=lambda one: type(one).__name__
)
def test_an_error_of_somebody_elses_that_does_not_pickle_goes_in_words(error: Exception) -> None:
    read = pickle.loads(pickle.dumps(_failed(error)))
    assert type(read.error) is TrtYoloError
    assert str(read.error).startswith(f"{type(error).__name__}: ")
    assert "it is odd" in str(read.error)


def _failed(error: Exception) -> Result:
    job = Job(source=np.zeros((1, 1, 3), np.uint8), thresholds=Thresholds())
    job.fail(error)
    return Result(job)


def test_a_result_keeps_nothing_of_the_model_alive(model: Model) -> None:
    result = next(iter(model.stream([marked(1)])))
    assert result.image is None
    assert not any(isinstance(getattr(result, name), Job) for name in Result.__slots__)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
def test_a_model_says_why_it_neither_pickles_nor_copies(model: Model, copied: Callable[[Any], Any]) -> None:
    with pytest.raises(InputError) as caught:
        copied(model)
    assert "give the other process the model's path and load it there" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES.keys())
def test_what_a_model_says_of_itself_pickles(model: Model, copied: Callable[[Any], Any]) -> None:
    stats = model.stats()
    assert copied(stats) == stats
    assert copied(model.manifest) == model.manifest
