"""What comes out of a model: `Detections`, one object an image.

Field names are those of roboflow `supervision`, so that what is written for one reads the other.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    import supervision


_SHOWN_CLASSES = 5


@dataclass(frozen=True, eq=False, repr=False)  # arrays have no single answer to ==
class Detections:
    """The objects found in one image, best first.

    Attributes:
        xyxy: (N, 4) float32, x1 y1 x2 y2, pixels of the source image, inside it.
        confidence: (N,) float32, 0 to 1, falling.
        class_id: (N,) int64.
        names: Class names by class id, of the whole model.
        image_hw: Height and width of the source image, in pixels.

    Raises:
        InputError: The arrays' shapes do not fit together.
    """

    xyxy: npt.NDArray[np.float32]
    confidence: npt.NDArray[np.float32]
    class_id: npt.NDArray[np.int64]
    names: Mapping[int, str] = field(default_factory=dict)
    image_hw: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        count = len(self.xyxy) if self.xyxy.ndim else 0
        if self.xyxy.shape != (count, 4):
            raise InputError(
                f"xyxy has shape {self.xyxy.shape}; needed: (N, 4), and (0, 4) for no detections"
            )
        if self.confidence.shape != (count,) or self.class_id.shape != (count,):
            raise InputError(
                f"confidence {self.confidence.shape} and class_id {self.class_id.shape} "
                f"do not fit {count} boxes; needed: ({count},) each"
            )

    @classmethod
    def empty(
        cls, *, names: Mapping[int, str] | None = None, image_hw: tuple[int, int] = (0, 0)
    ) -> Detections:
        """No detections."""
        return cls(
            xyxy=np.zeros((0, 4), np.float32),
            confidence=np.zeros(0, np.float32),
            class_id=np.zeros(0, np.int64),
            names=names or {},
            image_hw=image_hw,
        )

    def __repr__(self) -> str:
        """Such as `Detections(7: 4 person, 2 car, 1 dog; 1080x1920)`: how many, of which classes, in which image."""
        classes = Counter(self.class_id.tolist()).most_common()
        shown = [
            f"{count} {self.names.get(one, f'class {one}')[:30]}" for one, count in classes[:_SHOWN_CLASSES]
        ]
        more = len(classes) - len(shown)
        if more:
            shown.append(f"{more} more class{'es' * (more > 1)}")
        of_classes = f": {', '.join(shown)}" if shown else ""
        of_image = "; {}x{}".format(*self.image_hw) if any(self.image_hw) else ""
        return f"Detections({len(self)}{of_classes}{of_image})"

    def __len__(self) -> int:
        return len(self.xyxy)

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.float32], float, int]]:
        """(xyxy (4,) float32, confidence, class id) of each detection."""
        for box, confidence, class_id in zip(self.xyxy, self.confidence, self.class_id, strict=True):
            yield box, float(confidence), int(class_id)

    def __getitem__(self, index: int | slice | list[int] | list[bool] | npt.NDArray[Any]) -> Detections:
        """The detection at that position, as one row; or those of a slice, a boolean mask, a list of positions.

        Raises:
            IndexError: A position outside, or a mask of another length.
            TypeError: Anything else.
        """
        rows = index if isinstance(index, slice) else _rows(index, len(self))
        return Detections(
            self.xyxy[rows], self.confidence[rows], self.class_id[rows], self.names, self.image_hw
        )

    def name(self, class_id: int) -> str:
        """The class's name, or its number where the model has no names."""
        return self.names.get(class_id, str(class_id))

    def to_dicts(self) -> list[dict[str, Any]]:
        """One dict a detection, of plain Python values: `xyxy`, `confidence`, `class_id`, `name`."""
        return [
            {
                "xyxy": [round(side, 2) for side in box.tolist()],
                "confidence": round(confidence, 4),
                "class_id": class_id,
                "name": self.name(class_id),
            }
            for box, confidence, class_id in self
        ]

    def to_supervision(self) -> supervision.Detections:
        """The same as `supervision.Detections`, class names under `data["class_name"]`.

        Raises:
            MissingDependencyError: supervision is not installed.
        """
        try:
            import supervision
        except ImportError as error:
            raise MissingDependencyError(
                "to_supervision() needs the package supervision: pip install supervision"
            ) from error
        return supervision.Detections(
            xyxy=self.xyxy.copy(),
            confidence=self.confidence.copy(),
            class_id=self.class_id.copy(),
            data={"class_name": np.array([self.name(index) for index in self.class_id.tolist()], str)},
        )


def _rows(index: object, count: int) -> npt.NDArray[Any]:
    """Positions or a boolean mask, (N,), of what an index means among so many rows; see `__getitem__`."""
    try:
        rows = np.asarray(index)
    except ValueError:  # a list of lists of several lengths
        rows = np.empty((), object)
    if rows.shape == (0,) and rows.dtype.kind == "f":  # an empty list
        rows = rows.astype(np.int64)
    if rows.dtype.kind == "b" and rows.ndim == 1:
        if len(rows) != count:
            raise IndexError(f"a mask of {len(rows)} for {count} detections; give one boolean for each")
        return rows
    if rows.dtype.kind not in "iu" or rows.ndim > 1 or isinstance(index, tuple):
        raise TypeError(
            f"detections[{reprlib.repr(index)}]: give a position, a slice, a mask of booleans, or a list of positions"
        )
    rows = np.atleast_1d(rows).astype(np.int64)
    outside = rows[(rows < -count) | (rows >= count)]
    if outside.size:
        raise IndexError(f"no detection {outside[0]}: there are {count}")
    return rows
