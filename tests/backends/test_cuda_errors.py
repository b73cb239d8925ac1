"""What CUDA refuses, said in words. The driver here computes nothing: it only refuses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from trt_yolo.backends import cuda
from trt_yolo.backends.cuda import Gpu
from trt_yolo.errors import BackendError, DeviceError


class _Driver:
    """pycuda.driver, as far as errors go: its exceptions, and contexts that are counted."""

    class Error(Exception):
        pass

    class MemoryError(Error):
        pass

    class LogicError(Error):
        pass

    device_attribute = SimpleNamespace(INTEGRATED=18, CAN_MAP_HOST_MEMORY=19)

    def __init__(self) -> None:
        self.pushed = 0
        self.detached = 0
        self.is_sticky = False
        self.devices = 1
        driver = self

        class Context:
            def push(self) -> None:
                driver.pushed += 1

            def detach(self) -> None:
                driver.detached += 1

            @staticmethod
            def pop() -> None:
                driver.pushed -= 1

            @staticmethod
            def synchronize() -> None:
                assert driver.pushed == 1, "asked while the context is current"
                if driver.is_sticky:
                    raise driver.LogicError(
                        "cuCtxSynchronize failed: an illegal memory access was encountered"
                    )

        class Device:
            def __init__(self, index: int) -> None:
                self.index = index

            count = staticmethod(lambda: driver.devices)

            def name(self) -> str:
                return "RTX 4090"

            def get_attribute(self, attribute: int) -> int:
                return 1 if attribute == 19 else 0

            def retain_primary_context(self) -> Context:
                return Context()

        self.Context, self.Device = Context, Device

    def init(self) -> None:
        pass

    def mem_alloc(self, size: int) -> Any:
        raise self.MemoryError("cuMemAlloc failed: out of memory")

    def mem_get_info(self) -> tuple[int, int]:
        assert self.pushed == 1, "asked while the context is current"
        return 300 << 20, 8000 << 20


class _Bindings:
    """cuda.bindings.driver, which refuses to page-lock."""

    unregistered = 0

    def cuMemHostRegister(self, address: int, size: int, flags: int) -> tuple[int]:
        return (801,)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> _Driver:
    made = _Driver()
    modules = {"pycuda.driver": made, "cuda.bindings.driver": _Bindings()}
    monkeypatch.setattr(cuda, "_imported", modules.__getitem__)
    return made


def test_out_of_memory_says_what_was_asked_and_what_is_free(driver: _Driver) -> None:
    gpu = Gpu()
    with (
        pytest.raises(
            BackendError, match=r"40\.0 MiB were asked for, 300 of 8000 MiB are free; use fewer"
        ) as error,
        gpu.current(),
    ):
        gpu.memory(40 << 20)
    assert not isinstance(error.value, DeviceError)
    assert driver.pushed == 0


def test_out_of_memory_elsewhere(driver: _Driver) -> None:
    with pytest.raises(BackendError, match="300 of 8000 MiB are free"), Gpu().current():
        raise driver.MemoryError("cuMemHostAlloc failed: out of memory")
    assert driver.pushed == 0


def test_a_refusal_after_which_the_context_works(driver: _Driver) -> None:
    with pytest.raises(BackendError, match="GPU 0 refuses: invalid value") as error, Gpu().current():
        raise driver.LogicError("invalid value")
    assert not isinstance(error.value, DeviceError)
    assert driver.pushed == 0


def test_an_error_after_which_nothing_works_ends_the_worker(driver: _Driver) -> None:
    driver.is_sticky = True
    lost = r"GPU 0 is lost .*: launch failed; a new process can go on"
    with pytest.raises(DeviceError, match=lost), Gpu().current():
        raise driver.LogicError("launch failed")
    assert driver.pushed == 0


def test_an_error_that_is_not_cudas_passes(driver: _Driver) -> None:
    with pytest.raises(ZeroDivisionError), Gpu().current():
        raise ZeroDivisionError
    assert driver.pushed == 0


@pytest.mark.parametrize("index", [-1, 1, 7])
def test_no_such_gpu(driver: _Driver, index: int) -> None:
    with pytest.raises(BackendError, match=rf"there is no GPU {index}; 1 answer here"):
        Gpu(index)


def test_memory_that_cannot_be_page_locked_is_a_reason_and_no_error(driver: _Driver) -> None:
    import numpy as np

    gpu = Gpu()
    with gpu.current():
        assert gpu.register(np.zeros(4096, np.uint8)) == "801"
    gpu.close()
    gpu.close()
    assert (driver.detached, driver.pushed) == (1, 0)
