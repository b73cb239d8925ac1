"""How long work tells how far it is. Knows no terminal: `cli/render.py` draws it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told by whatever takes long; called on the thread that works."""

    def __call__(self, stage: str, done: int, total: int, /) -> None:
        """A step is done.

        Args:
            stage: What is being done, in words.
            done: Steps of this stage that are done: bytes, images, layers.
            total: Steps that there are; 0 if nobody knows.
        """
        ...


def no_progress(stage: str, done: int, total: int, /) -> None:
    """For work that nobody watches."""
