"""How a runtime is laid out, and what is done where nobody says."""

from __future__ import annotations

from dataclasses import dataclass

from trt_yolo.media.decoders import DecoderName


@dataclass(frozen=True, kw_only=True)
class PoolOptions:
    """How a runtime is laid out.

    Attributes:
        workers: Worker processes; 0: one worker in a thread of this process.
        threads: CPU threads of one inference; None divides the cores among the workers.
        decode_threads: Threads that decode and letterbox; None chooses by the number of cores.
        decoder: What decodes image files: `cpu`, `gpu`, or `auto`, the faster one.
        slots: Slots of a worker's ring, at least 2: one that runs, one that is filled.
        max_batch: The most frames a batch; None: as many as the model takes.
        max_delay_ms: How long a batch that is not full waits for more, in milliseconds.
        timeout_s: A worker that answers nothing for so long while it has work is replaced, in seconds.
        start_timeout_s: A worker must be ready after so long, in seconds.
        max_restarts: More replacements than that within a minute close the pool.
    """

    workers: int = 0
    threads: int | None = None
    decode_threads: int | None = None
    decoder: DecoderName = "cpu"
    slots: int = 4
    max_batch: int | None = None
    max_delay_ms: float = 0.0
    timeout_s: float = 60.0
    start_timeout_s: float = 120.0
    max_restarts: int = 60
