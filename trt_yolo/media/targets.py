"""Where a run's drawings go: a JPEG file for each image, a folder of JPEG files for each video.

Enters: the sources and the folder. Leaves: paths in that folder, all different, none of them a source's. Looks at
the disk, but changes nothing there.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from trt_yolo.errors import InputError
from trt_yolo.media.sources import is_video

_FRAME = re.compile(r"\d{6,}\.jpg", re.IGNORECASE)
_STEM_BYTES = 240  # of the 255 of a name: the rest is for a number and the suffix

_File = tuple[int, int]  # device and inode, which every name of a file shares


def find_targets(sources: Sequence[Path], folder: Path, *, overwrite: bool = False) -> dict[Path, Path]:
    """For each source the file that an image, or the folder that the frames of a video, are drawn into.

    A target is called like its source. A number is added where another target has that name, in any case and
    Unicode form, or where a source would be overwritten. The time is linear in the number of sources.

    Args:
        sources: Images and videos.
        folder: For the drawings; it need not exist.
        overwrite: Whether files that exist may be overwritten; a source never is.

    Raises:
        InputError: A file would be overwritten, or something else is in the way of a drawing.
        OSError: The folder of a video's frames cannot be read.
    """
    names = _Names()
    given = {_file(source) for source in sources} - {None}
    targets: dict[Path, Path] = {}
    for source in dict.fromkeys(sources):
        is_folder = is_video(source)
        candidates = (folder / name for name in names.of(_stem(source), "" if is_folder else ".jpg"))
        targets[source] = next(
            target
            for target in candidates
            if _is_free(target, given, is_folder=is_folder, overwrite=overwrite)
        )
    return targets


def frame_path(folder: Path, index: int) -> Path:
    """The file for the drawing of one frame, in the folder of its video."""
    return folder / f"{index:06d}.jpg"


class _Names:
    """Gives names that differ in more than case and Unicode form, and tries no number of a stem twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._tried: Counter[str] = Counter()

    def of(self, stem: str, suffix: str) -> Iterator[str]:
        """`stem` and `suffix`, then `stem_1` and `suffix`, and so on, without the names given before."""
        plain = _folded(stem + suffix)
        while True:
            number = self._tried[plain]
            self._tried[plain] += 1
            name = f"{stem}_{number}{suffix}" if number else stem + suffix
            if _folded(name) not in self._taken:
                self._taken.add(_folded(name))
                yield name


def _folded(name: str) -> str:
    """Equal for names that are one file on some file system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _stem(source: Path) -> str:
    stem = source.stem if source.stem.strip(".") else f"_{source.stem}"  # `..` would be the folder above
    while len(os.fsencode(stem)) > _STEM_BYTES:
        stem = stem[:-1]
    return stem


def _is_free(target: Path, given: Collection[_File | None], *, is_folder: bool, overwrite: bool) -> bool:
    """Whether drawings may go there; False where they would overwrite a source.

    Raises:
        InputError: They would overwrite a file that they may not, or cannot.
    """
    existing = _overwritten(target, is_folder=is_folder)
    if any(_file(path) in given for path in existing):
        return False
    is_other_kind = existing == [target] and (is_folder or target.is_dir())
    if existing and (is_other_kind or not overwrite):
        also = "" if is_other_kind else ", or --overwrite"
        raise InputError(f"{min(existing)} exists already; give another folder with --save{also}")
    return True


def _overwritten(target: Path, *, is_folder: bool) -> list[Path]:
    """What exists and drawings may overwrite: the target itself, or all in its folder that is called like a frame."""
    if is_folder and target.is_dir():
        return [path for path in target.iterdir() if _FRAME.fullmatch(path.name)]
    return [target] if os.path.lexists(target) else []


def _file(path: Path) -> _File | None:
    """None where there is none."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
