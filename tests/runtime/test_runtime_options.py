"""The runtime's options: one list of them, one default each, and what makes no sense is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

import trt_yolo
from trt_yolo.errors import InputError
from trt_yolo.hardware import cores
from trt_yolo.hardware.cores import Cpus
from trt_yolo.runtime.options import RuntimeKeywords, RuntimeOptions


def test_the_keywords_are_the_fields() -> None:
    keywords = {name: one.__forward_arg__ for name, one in RuntimeKeywords.__annotations__.items()}
    assert keywords == {one.name: one.type for one in fields(RuntimeOptions)}
    assert RuntimeKeywords.__total__ is False


def test_every_option_is_explained() -> None:
    for one in fields(RuntimeOptions):
        assert f"        {one.name}: " in (RuntimeOptions.__doc__ or "")


def test_an_unknown_keyword_is_named() -> None:
    wrong: Any = {"worker": 2}
    with pytest.raises(TypeError, match="'worker'"):
        trt_yolo.load(**wrong)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"workers": -1}, "workers is -1; give a number of worker processes, at least 0 and at most 256"),
        ({"threads": 0}, "threads is 0; give a number of CPU threads, at least 1"),
        ({"decode_threads": 1.5}, "decode_threads is 1.5; give a number of threads that decode"),
        ({"slots": 1}, "slots is 1; give a number of slots, at least 2"),
        ({"max_batch": 0}, "max_batch is 0; give a number of frames, at least 1"),
        ({"max_delay_ms": -1}, "max_delay_ms is -1; give milliseconds from 0 to 60000"),
        ({"timeout_s": 0}, "timeout_s is 0; give seconds, more than 0"),
        ({"start_timeout_s": 86_401}, "start_timeout_s is 86401; give seconds, .* at most 86400"),
        ({"max_restarts": -1}, "max_restarts is -1; give how many a minute"),
        ({"decoder": "tpu"}, "no decoder 'tpu'"),
        ({"spin": "on"}, "spin is 'on'; give True, False or 'auto'"),
        ({"devices": [64]}, r"devices is \[64\]; give numbers of GPUs"),
        ({"streams": 17, "slots": 64}, "streams is 17; give batches under way at once, 1 to 16"),
        ({"streams": 4}, "streams is 4 and slots 4; give at least 5 slots"),
    ],
    ids=str,
)
def test_what_makes_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        RuntimeOptions(**values)


def test_each_device_has_so_many_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "usable_cpus", lambda: Cpus(cores=(0, 1, 2, 3), machine=4))
    options = RuntimeOptions(workers=2, devices=[0, 3])
    assert (options.all_workers, options.devices) == (4, (0, 3))
    assert options.shares() == [([0], 1), ([1], 1), ([2], 1), ([3], 1)]
    in_process = RuntimeOptions(threads=3)
    assert (in_process.all_workers, in_process.shares()) == (0, [(None, 3)])
