"""How a model is run: the options that `load`, `bench` and the command line share, checked.

The one place that explains them and holds their defaults. Knows no model: what a model does not allow, the loader
refuses. Imports next to nothing, so that `--help` is quick.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from trt_yolo.errors import InputError

if TYPE_CHECKING:
    from trt_yolo.backends.onnxruntime_providers import ProviderName
    from trt_yolo.hardware.cores import Spin
    from trt_yolo.media.decoders import DecoderName

_MOST_STREAMS = 16
_MOST_DEVICES = 64
_DAY_S = 86_400
_RANGES = {
    "workers": (0, 256, "a number of worker processes"),
    "threads": (1, 1024, "a number of CPU threads"),
    "decode_threads": (1, 256, "a number of threads that decode"),
    "slots": (2, 64, "a number of slots"),
    "max_batch": (1, 4096, "a number of frames"),
}


class RuntimeKeywords(TypedDict, total=False):
    """The fields of `RuntimeOptions` as the keywords of a function."""

    workers: int
    threads: int | None
    decode_threads: int | None
    decoder: DecoderName
    slots: int
    max_batch: int | None
    max_delay_ms: float
    timeout_s: float
    start_timeout_s: float
    max_restarts: int
    provider: ProviderName
    devices: Sequence[int]
    streams: int | None
    graphs: bool
    spin: Spin


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How a model is run.

    Attributes:
        workers: Worker processes, of each device; 0 runs the model in this process.
        threads: CPU threads of one inference; None divides the CPUs that this process may use, by affinity and
            quota, among the workers.
        decode_threads: Threads of this process that decode and letterbox; None: half of the CPUs, from 2 to 8.
        decoder: What decodes image files: `cpu`, `gpu` (extra `nvcodec`), or `auto`: where both can be had, whichever
            is measured to be faster on the first files.
        slots: Batches that a worker can have: one runs, the others are filled or wait; at least 2.
        max_batch: The most frames a batch, for a model with a dynamic one; None: as many as it takes.
        max_delay_ms: How long a batch that is not full waits for more frames, in milliseconds. With 0 it leaves
            as soon as its worker has nothing else to do.
        timeout_s: A worker that answers nothing for so long while it has work is replaced, in seconds.
        start_timeout_s: A worker must be ready after so long, in seconds.
        max_restarts: More replacements than that within a minute close the model, with the last one's cause.
        provider: What ONNX Runtime runs on: `cpu`, `cuda`, `tensorrt` or `nv-tensorrt-rtx`; `auto`: CUDA where a GPU
            answers and this ONNX Runtime has it, else the CPU, and the log says why.
        devices: The GPUs, as CUDA counts; each has so many `workers`.
        streams: Batches that are under way on a GPU at once, in each worker; None: 2.
        graphs: Whether a GPU's batches are captured as CUDA graphs.
        spin: Wait without sleeping. For a GPU: lowest latency, and a core busy for each worker; `auto` sleeps. For
            the threads of an inference on the CPU: faster on an idle machine, slower on a busy one; `auto` spins
            where each thread has an idle CPU when the model is loaded, and the log says what it found.

    Raises:
        InputError: A value that cannot be, or two that do not go together.
        MissingDependencyError: The decoder `gpu`, and none can be had here.
    """

    workers: int = 0
    threads: int | None = None
    decode_threads: int | None = None
    decoder: DecoderName = "auto"
    slots: int = 4
    max_batch: int | None = None
    max_delay_ms: float = 0.0
    timeout_s: float = 60.0
    start_timeout_s: float = 120.0
    max_restarts: int = 60
    provider: ProviderName = "auto"
    devices: Sequence[int] = (0,)
    streams: int | None = None
    graphs: bool = True
    spin: Spin = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "devices", tuple(self.devices))
        self._check_gpu()
        self._check_counts()
        self._check_times()
        self._check_decoder()

    @property
    def all_workers(self) -> int:
        """Worker processes of all devices together; 0: none, the model runs in this process."""
        return self.workers * len(self.devices)

    def shares(self) -> list[tuple[list[int] | None, int]]:
        """For each worker, or this process: its cores (None: all of them), and the CPU threads of one inference."""
        from trt_yolo.hardware.cores import share_cores, usable_cpus

        return share_cores(usable_cpus(), max(1, self.all_workers), self.threads)

    def _check_counts(self) -> None:
        for name, (least, most, what) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and least <= value <= most):
                raise InputError(f"{name} is {value}; give {what}, at least {least} and at most {most}")
        if self.streams is not None and self.streams >= self.slots:
            raise InputError(
                f"streams is {self.streams} and slots {self.slots}; give at least {self.streams + 1} slots"
            )

    def _check_times(self) -> None:
        if not 0 <= self.max_delay_ms <= 60_000:
            raise InputError(f"max_delay_ms is {self.max_delay_ms}; give milliseconds from 0 to 60000")
        for name in ("timeout_s", "start_timeout_s"):
            if not 0 < getattr(self, name) <= _DAY_S:
                raise InputError(
                    f"{name} is {getattr(self, name)}; give seconds, more than 0 and at most {_DAY_S}"
                )
        if self.max_restarts < 0:
            raise InputError(
                f"max_restarts is {self.max_restarts}; give how many a minute are allowed, at least 0"
            )

    def _check_gpu(self) -> None:
        if not isinstance(self.spin, bool) and self.spin != "auto":
            raise InputError(f"spin is {self.spin!r}; give True, False or 'auto'")
        if not self.devices or not all(
            isinstance(one, int) and 0 <= one < _MOST_DEVICES for one in self.devices
        ):
            raise InputError(f"devices is {list(self.devices)}; give numbers of GPUs from 0, such as [0, 1]")
        if self.streams is not None and not 1 <= self.streams <= _MOST_STREAMS:
            raise InputError(
                f"streams is {self.streams}; give batches under way at once, 1 to {_MOST_STREAMS}"
            )

    def _check_decoder(self) -> None:
        from trt_yolo.media.decoders import check_decoder  # loads OpenCV

        check_decoder(self.decoder)
