"""What a file really is, by its first bytes, where its suffix says otherwise: a web page, an archive, another format.

Enters: a path. Leaves: a few words and what to do, for the line of an error. Reads a few kilobytes.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_HEAD_BYTES = 4096
_WEB_PAGE = "a web page, left by a failed download; download the file again"

# What a file starts with, in lower case, and what it then is.
_KINDS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; run git lfs pull",
    b"<!doctype html": _WEB_PAGE,
    b"<html": _WEB_PAGE,
    b"<?xml": "an XML file, such as OpenVINO's",
    b"ftrt": "a TensorRT engine; name it .engine",
    b"vtrt": "an engine of TensorRT for RTX; name it .engine",
    b"\x89hdf": "an HDF5 file, as Keras writes",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it",
    b"rar!": "a RAR archive; unpack it",
} | dict.fromkeys(
    [bytes([0x80, protocol]) for protocol in range(2, 6)],
    "a pickle, such as a PyTorch checkpoint; name it .pt",
)
_FLATBUFFERS = {  # bytes 4 to 8 of a FlatBuffers file name its format
    b"TFL3": "a TensorFlow Lite model",
    b"ORTM": "a model in ONNX Runtime's own format, .ort",
}


def kind_of(path: Path) -> str:
    """What the file is and what to do with it; empty where it is not recognized, cannot be read, or is named right."""
    head = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    kind = _kind_of(head)
    return "" if path.suffix and kind.endswith(f"; name it {path.suffix.lower()}") else kind


def _kind_of(head: bytes) -> str:
    if head.startswith(b"PK\x03\x04"):
        is_torch = b"/data.pkl" in head or b"/version" in head
        return "a PyTorch checkpoint; name it .pt" if is_torch else "a zip archive; unpack it"
    if kind := _FLATBUFFERS.get(head[4:8]):
        return kind
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return next((kind for mark, kind in _KINDS.items() if start.startswith(mark)), "")
