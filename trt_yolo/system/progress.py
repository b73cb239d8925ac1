"""The one form in which work that takes long reports its progress. Knows no terminal: `cli/render.py` draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called by work that takes long, on its own thread."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """Reports that a step is done.

        Args:
            stage: What is being done, in words.
            done: Steps of this stage that are done: bytes, images, layers.
            total: Steps that there are; 0 if nobody knows.
        """
        ...


def no_progress(stage: str, done: int, total: int, /) -> None:
    """Reports to nobody."""
