"""How large a ring is, and where its slots lie; `ring.py` draws it. Numbers in, numbers out."""

from __future__ import annotations

import mmap
from dataclasses import asdict, dataclass
from typing import Any

PAGE = mmap.PAGESIZE
ROW = 6  # x1 y1 x2 y2 score class


@dataclass(frozen=True, kw_only=True)
class RingShape:
    """How large a ring is.

    Attributes:
        slots: How many.
        batch: Frames a slot.
        imgsz_hw: Height and width of a frame, in pixels.
        rows: Output rows a frame.
        letterboxed_hw: Height and width that the graph letterboxes frames to; None: they come letterboxed.
    """

    slots: int
    batch: int
    imgsz_hw: tuple[int, int]
    rows: int
    letterboxed_hw: tuple[int, int] | None = None

    @property
    def payload_bytes(self) -> int:
        """Bytes of one slot's frames."""
        return self.batch * self.imgsz_hw[0] * self.imgsz_hw[1] * 3

    @property
    def rows_bytes(self) -> int:
        """Bytes of one slot's output rows."""
        return self.batch * self.rows * ROW * 4

    @property
    def slot_bytes(self) -> int:
        """Bytes from one slot to the next, whole pages."""
        return PAGE + whole_pages(self.payload_bytes) + whole_pages(self.rows_bytes)

    @property
    def total_bytes(self) -> int:
        """Bytes of the whole ring."""
        return PAGE + self.slots * self.slot_bytes

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> RingShape:
        """What `to_dict` gave, also after JSON."""
        height, width = fields["imgsz_hw"]
        letterboxed = fields.get("letterboxed_hw")
        sizes = {
            "imgsz_hw": (height, width),
            "letterboxed_hw": None if letterboxed is None else (letterboxed[0], letterboxed[1]),
        }
        return cls(**{**fields, **sizes})


def whole_pages(size: int) -> int:
    """So many bytes, rounded up to pages."""
    return -(-size // PAGE) * PAGE
