"""The image and video files that a person means by files, folders and glob patterns.

Enters: names, as they were given. Leaves: paths in order. Knows what files are called and how they begin;
decodes nothing.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from trt_yolo.errors import InputError
from trt_yolo.media.images import SUFFIXES as IMAGE_SUFFIXES
from trt_yolo.system.paths import absence

_VIDEO_SUFFIXES = frozenset(
    {".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".ivf", ".m1v",
     ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts",
     ".mxf", ".nut", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m"}
)  # fmt: skip

_ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+):/", re.IGNORECASE)  # a Path holds one slash of the two
_PRINTF = re.compile(r"%0?\d*d")
_ENDS = {
    "images": "images end in .jpg, .png, .bmp, .tif or .webp",
    "videos": "videos in .mp4, .mkv, .avi, .mov, .webm or .ts",
}


def find_sources(given: Sequence[str | Path]) -> list[Path]:
    """The images and videos that were named, in their order, each source's own sorted by name.

    Args:
        given: Files (taken whatever their suffix), folders (their images and videos, not those of folders below,
            and no hidden ones), and glob patterns (`**` reaches below).

    Raises:
        InputError: A source that does not exist, cannot be read, is of a kind that cannot be used, or holds or
            matches neither images nor videos.
    """
    found: list[Path] = []
    for source in given:
        matches = _files(source)
        if not matches:
            raise InputError(f"{_nothing_in(source, 'image or video')}; {_ENDS['images']}, {_ENDS['videos']}")
        found.extend(matches)
    return found


def find_images(given: Sequence[str | Path]) -> list[Path]:
    """The images that were named, as `find_sources` finds them; videos in folders are left out.

    Raises:
        InputError: As there; or a source is a video, or holds or matches videos only.
    """
    found: list[Path] = []
    for source in given:
        matches = _files(source, "images")
        images = [path for path in matches if not is_video(path)]
        if not images and matches == [Path(source)]:
            raise InputError(f"{source} is a video; give images, folders or glob patterns")
        if not images and matches:
            verb = "holds" if os.path.isdir(source) else "matches"
            raise InputError(f"{source} {verb} {len(matches)} videos and no images; {_ENDS['images']}")
        if not images:
            raise InputError(f"{_nothing_in(source, 'image')}; {_ENDS['images']}")
        found.extend(images)
    return found


def is_video(path: str | Path) -> bool:
    """Whether a file is a video: by its name, or by how it begins where the name does not tell."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in _VIDEO_SUFFIXES or suffix in IMAGE_SUFFIXES:
        return suffix in _VIDEO_SUFFIXES
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            return _begins_as_video(file.read(512))
    except OSError:
        return False


def check_source(source: object) -> None:
    """Refuses a kind of source that is not supported yet, unless a file or folder has that name.

    No address is printed: it may hold a password.

    Raises:
        InputError: A network address, a camera, a printf pattern, a list of names; says what works.
    """
    name = str(source)
    if isinstance(source, int) or name.isdecimal() or name.startswith("/dev/video"):
        kind = f"the camera {name}"
    elif match := _ADDRESS.match(name):
        kind = f"the {match[1].lower()}:// address"
    elif _PRINTF.search(name):
        kind = f"the printf pattern {name}"
    elif name.lower().endswith(".txt") and os.path.isfile(name):
        raise InputError(
            f"{name} is a text file, and lists of files are not supported yet; give images, a folder or a glob pattern"
        )
    else:
        return
    if isinstance(source, int) or not (os.path.isfile(name) or os.path.isdir(name)):
        raise InputError(f"{kind} is not supported yet; {_what_works('files')}")


def _files(source: str | Path, wanted: str = "files") -> list[Path]:
    """The images and videos of one source; empty where a folder or pattern has none. `wanted` is for the error."""
    check_source(source)
    name = str(source)
    if os.path.isdir(name):  # unlike Path's, never raises
        return sorted(_with_suffix(_listed(name)))
    if os.path.exists(name):
        return [Path(source)]
    if glob.has_magic(name):
        return sorted(_with_suffix(map(Path, glob.glob(name, recursive=True))))
    raise InputError(f"{absence(name, 'file or folder')}; {_what_works(wanted)}")


def _what_works(wanted: str) -> str:
    return f'give {wanted}, folders or glob patterns such as "frames/*.jpg"'


def _listed(folder: str) -> list[Path]:
    try:
        return [Path(folder) / name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror}") from error


def _with_suffix(paths: Iterable[Path]) -> list[Path]:
    wanted = IMAGE_SUFFIXES | _VIDEO_SUFFIXES
    return [path for path in paths if path.suffix.lower() in wanted and not os.path.isdir(path)]


def _nothing_in(source: str | Path, what: str) -> str:
    if os.path.isdir(source):
        return f"the folder {source} holds no {what.replace(' or ', 's or ')}s"
    return f"no {what} matches {source}"


def _begins_as_video(head: bytes) -> bool:
    """Whether a file begins as MP4, MKV, AVI, MPEG, MPEG-TS, FLV, ASF or Ogg does."""
    if head[4:8] == b"ftyp":
        return head[8:12] not in (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    if head[:1] == b"G":
        return head[188:189] == b"G" and head[376:377] == b"G"
    return head.startswith((b"\x1a\x45\xdf\xa3", b"\0\0\1\xba", b"FLV\1", b"\x30\x26\xb2\x75", b"OggS"))
