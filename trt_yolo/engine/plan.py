"""What lies in an `.engine` file: the plan, and perhaps Ultralytics' header before it.

Enters: a path. Leaves: a `PlanFile`, read from the first bytes, or the plan. What the file says of its own
length is checked before it is believed. Loads nothing into TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal

from trt_yolo.errors import EngineError

Family = Literal["tensorrt", "tensorrt-rtx"]

# trtexec of TensorRT 10 (samples/common/sampleEngines.cpp, printPlanVersion): the tag, then four zero bytes, and
# the version in bytes 24 to 27. TensorRT for RTX writes the same with a tag of its own.
TAGS: dict[bytes, Family] = {b"ftrt": "tensorrt", b"vtrt": "tensorrt-rtx"}
_VERSION_AT = 24
_HEADER_BYTES = 28
_MOST_METADATA = 1 << 24  # Ultralytics' metadata has a few kilobytes
_CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class PlanFile:
    """What an engine file's first bytes say.

    Attributes:
        path: The file.
        family: What builds and runs such plans.
        version: Of the builder, four numbers; empty in a serialization that this does not know.
        offset: Where the plan begins; above 0 behind Ultralytics' header.
        size: Bytes of the plan.
        metadata: Ultralytics' entries, as it writes them.
    """

    path: Path
    family: Family
    version: tuple[int, ...]
    offset: int
    size: int
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def version_text(self) -> str:
        """The version with dots, or a question mark."""
        return ".".join(map(str, self.version)) or "?"

    def chunks(self) -> Iterator[bytes]:
        """The plan, a megabyte at a time.

        Raises:
            EngineError: The file cannot be read any more.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                while chunk := file.read(_CHUNK):
                    yield chunk
        except OSError as error:
            raise EngineError(f"{self.path} cannot be read: {error.strerror or error}") from error

    def read(self) -> bytes:
        """The plan."""
        return b"".join(self.chunks())

    def sha256(self) -> str:
        """Hash of the plan, in hexadecimal."""
        digest = hashlib.sha256()
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()


def plan_file(path: Path) -> PlanFile:
    """What kind of engine a file holds.

    Raises:
        EngineError: It is no engine, or is cut short.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no file that can be read again"
            raise EngineError(f"{path} is {what}; give an .engine file")
        size = status.st_size
        with path.open("rb") as file:
            return _from_file(path, file, size)
    except FileNotFoundError as error:
        raise EngineError(f"no such file: {path}; give an .engine file") from error
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error


def _from_file(path: Path, file: BinaryIO, size: int) -> PlanFile:
    header = file.read(_HEADER_BYTES)
    offset, metadata = 0, dict[str, Any]()
    if len(header) == _HEADER_BYTES and header[:4] not in TAGS and header[4:5] == b"{":
        offset, metadata = _ultralytics_header(path, file, size)
        file.seek(offset)
        header = file.read(_HEADER_BYTES)
    family = TAGS.get(header[:4])
    if family is None:
        raise EngineError(f"{path} is no TensorRT engine: {_what_it_is(header, size)}")
    if len(header) < _HEADER_BYTES:
        raise EngineError(f"{path} is cut short: {size} bytes are no whole engine; copy or build it again")
    known = header[4:8] == bytes(4)
    version = tuple(header[_VERSION_AT:_HEADER_BYTES]) if known else ()
    return PlanFile(
        path=path, family=family, version=version, offset=offset, size=size - offset, metadata=metadata
    )


def _ultralytics_header(path: Path, file: BinaryIO, size: int) -> tuple[int, dict[str, Any]]:
    """Where the plan begins, and the metadata before it: its length in 4 bytes, then JSON."""
    file.seek(0)
    length = int.from_bytes(file.read(4), "little")
    if length > min(_MOST_METADATA, size - 4):
        raise EngineError(
            f"{path} is damaged: its header says that {length} bytes of metadata follow, and the file has {size}; "
            "copy or build it again"
        )
    try:
        metadata = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise EngineError(f"{path} is damaged: its header is no JSON; copy or build it again") from error
    if not isinstance(metadata, dict):
        raise EngineError(f"{path} is damaged: its header holds no entries; copy or build it again")
    return 4 + length, {str(key): value for key, value in metadata.items()}


def ultralytics_metadata(entries: Mapping[str, Any]) -> dict[str, str]:
    """The header's entries as Ultralytics writes them into an ONNX: Python literals."""
    found = {name: str(value) for name, value in entries.items()}
    names = entries.get("names")
    if isinstance(names, dict) and all(
        key.isdecimal() for key in names
    ):  # JSON has made texts of the class ids
        found["names"] = str({int(key): str(name) for key, name in names.items()})
    return found


def _what_it_is(header: bytes, size: int) -> str:
    """In words, what the first bytes look like, and what to do."""
    if size == 0:
        return "it is empty; copy or build it again"
    if header[:4] == b"PK\x03\x04":
        return "it looks like a .pt checkpoint; give that to trt-yolo export"
    if header[:1] == b"\x08" and header[1:2] < b"\x20":
        return "it looks like an ONNX graph; build an engine from it with trt-yolo export FILE.onnx --format engine"
    return "it begins with neither TensorRT's tag nor Ultralytics' header; copy or build it again"


def manifest_path(engine: Path) -> Path:
    """Where an engine's manifest lies."""
    return engine.with_name(engine.name + ".json")


def log_path(engine: Path) -> Path:
    """Where TensorRT's log of the build lies."""
    return engine.with_name(engine.name + ".log")


def failed_log_path(engine: Path) -> Path:
    """Where the log of a build that failed lies, beside that of the engine that is there still."""
    return engine.with_name(engine.name + ".failed.log")
