"""What CUDA refuses, said in words. The binding here computes nothing: it only refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from trt_yolo.backends import cuda
from trt_yolo.backends.cuda import Gpu
from trt_yolo.errors import BackendError, DeviceError


class _Error(Exception):
    pass


class _MemoryError(_Error):
    pass


class _Binding:
    """A binding as far as errors go: contexts are counted, and what is to fail fails."""

    name, can_capture = "none", True
    Error, MemoryError = _Error, _MemoryError

    def __init__(self) -> None:
        self.pushed = self.closed = 0
        self.is_broken = False  # as after a kernel that trapped: every call says so again
        self.is_capturing = False
        self.devices = 1

    def count(self) -> int:
        return self.devices

    def retain(self, index: int) -> None:
        pass

    def device_name(self) -> str:
        return "RTX 4090"

    def is_integrated(self) -> bool:
        return False

    def can_map(self) -> bool:
        return True

    def push(self) -> None:
        self._try("cuCtxPushCurrent")
        self.pushed += 1

    def pop(self) -> None:
        self.pushed -= 1
        self._try("cuCtxPopCurrent")

    def synchronize(self) -> None:
        assert self.pushed == 1, "asked while the context is current"
        assert not self.is_capturing, "a context that captures cannot be asked"
        self._try("cuCtxSynchronize")

    def close(self) -> None:
        self.closed += 1

    def ignore_captures_elsewhere(self) -> None:
        pass

    def allocate(self, size: int) -> Any:
        raise _MemoryError("cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY")

    def memory_info(self) -> tuple[int, int]:
        assert self.pushed == 1, "asked while the context is current"
        return 300 << 20, 8000 << 20

    def register(self, memory: Any, *, mapped: bool) -> None:
        raise _Error("cuMemHostRegister: CUDA_ERROR_NOT_SUPPORTED")

    def begin_capture(self, stream: Any) -> None:
        self.is_capturing = True

    def end_capture(self, stream: Any) -> str:
        self.is_capturing = False
        return "graph"

    def abandon_capture(self, stream: Any) -> None:
        self.is_capturing = False

    def breaks(self, error: Exception) -> None:
        """Nothing works any more, and that is how it was noticed."""
        self.is_broken = True
        raise error

    def _try(self, call: str) -> None:
        if self.is_broken:
            raise _Error(f"{call}: CUDA_ERROR_LAUNCH_FAILED")


@pytest.fixture
def binding(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Binding]:
    made = _Binding()
    monkeypatch.setattr(cuda, "open_binding", lambda: made)
    yield made
    assert made.pushed == 0


def test_out_of_memory_says_what_was_asked_and_what_is_free(binding: _Binding) -> None:
    gpu = Gpu()
    said = r"40\.0 MiB were asked for, 300 of 8000 MiB are free; use fewer"
    with pytest.raises(BackendError, match=said) as error, gpu.current():
        gpu.memory(40 << 20)
    assert not isinstance(error.value, DeviceError)


def test_out_of_memory_elsewhere(binding: _Binding) -> None:
    with pytest.raises(BackendError, match="300 of 8000 MiB are free"), Gpu().current():
        raise _MemoryError("cuMemHostAlloc: CUDA_ERROR_OUT_OF_MEMORY")


def test_a_refusal_after_which_the_context_works(binding: _Binding) -> None:
    with pytest.raises(BackendError, match="GPU 0 refuses: invalid value") as error, Gpu().current():
        raise _Error("invalid value")
    assert not isinstance(error.value, DeviceError)


def test_an_error_after_which_nothing_works_ends_the_worker(binding: _Binding) -> None:
    """The context's end fails too then, and must not take the place of what was said."""
    gpu = Gpu()
    lost = r"GPU 0 is lost .*: launch failed; a new process can go on"
    with pytest.raises(DeviceError, match=lost), gpu.current():
        binding.breaks(_Error("launch failed"))
    for _ in range(2):  # and every later use says the same, in one class of error
        with pytest.raises(DeviceError, match=r"GPU 0 is lost .*cuCtxPushCurrent"), gpu.current():
            raise AssertionError("not reached")


def test_a_context_that_is_found_broken_when_it_is_left(binding: _Binding) -> None:
    gpu = Gpu()
    with pytest.raises(DeviceError, match="cuCtxPopCurrent"), gpu.current():
        binding.is_broken = True


def test_an_error_that_is_not_cudas_passes(binding: _Binding) -> None:
    gpu = Gpu()
    with pytest.raises(ZeroDivisionError), gpu.current():
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), gpu.current():
        binding.breaks(ZeroDivisionError())


@pytest.mark.parametrize("index", [-1, 1, 7])
def test_no_such_gpu(binding: _Binding, index: int) -> None:
    with pytest.raises(BackendError, match=rf"there is no GPU {index}; 1 answer here"):
        Gpu(index)


def test_memory_that_cannot_be_page_locked_is_a_reason_and_no_error(binding: _Binding) -> None:
    gpu = Gpu()
    with gpu.current():
        assert "NOT_SUPPORTED" in gpu.register(np.zeros(4096, np.uint8))


def test_closing_twice_releases_once(binding: _Binding) -> None:
    gpu = Gpu()
    gpu.close()
    gpu.close()
    assert (binding.closed, gpu.is_open) == (1, False)


def _raising(error: BaseException) -> Callable[[], None]:
    def work() -> None:
        raise error

    return work


def test_a_capture(binding: _Binding) -> None:
    gpu = Gpu()
    stream: Any = None
    with gpu.current():
        assert gpu.captured(stream, lambda: None) == "graph"
    assert not binding.is_capturing


@pytest.mark.parametrize(
    ("error", "raised"),
    [
        (_Error("not while capturing"), BackendError),
        (BackendError("TensorRT refuses"), BackendError),
        (ZeroDivisionError(), ZeroDivisionError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_whatever_fails_in_a_capture_the_stream_captures_no_longer(
    binding: _Binding, error: BaseException, raised: type[BaseException]
) -> None:
    gpu = Gpu()
    stream: Any = None
    with pytest.raises(raised), gpu.current():
        gpu.captured(stream, _raising(error))
    assert not binding.is_capturing


def test_what_a_library_refuses_in_a_capture_is_asked_of_the_context_after_it(binding: _Binding) -> None:
    gpu = Gpu()
    stream: Any = None

    def work() -> None:
        binding.is_broken = True
        raise gpu.refused("TensorRT: error 719")

    with (
        pytest.raises(DeviceError, match="capturing failed: GPU 0 refuses: TensorRT: error 719"),
        gpu.current(),
    ):
        gpu.captured(stream, work)


def test_a_binding_without_graphs(binding: _Binding, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Binding, "can_capture", False)
    gpu = Gpu()
    stream: Any = None
    with (
        pytest.raises(BackendError, match="none has no CUDA graphs; pip install cuda-bindings"),
        gpu.current(),
    ):
        gpu.captured(stream, _raising(AssertionError()))
