"""What a file is that is not what its suffix says, by its first bytes: a web page, an archive, another format.

Enters: a path. Leaves: a few words and what to do, for the line of an error. Reads a few kilobytes.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_HEAD_BYTES = 4096
_PICKLE_PROTOCOLS = tuple(bytes([0x80, protocol]) for protocol in range(2, 6))

# (where the mark stands, the mark, what the file is)
_KINDS = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself; run git lfs pull"),
    (0, b"<!doctype html", "a web page, as a failed download leaves; download the file again"),
    (0, b"<html", "a web page, as a failed download leaves; download the file again"),
    (0, b"<?xml", "an XML file, as OpenVINO's are"),
    (0, b"ftrt", "a TensorRT engine; name it .engine"),
    (0, b"vtrt", "an engine of TensorRT for RTX; name it .engine"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (4, b"ORTM", "a model in ONNX Runtime's own format, .ort"),
    (0, b"\x89HDF", "an HDF5 file, as Keras writes"),
    (0, b"\x1f\x8b", "a gzip archive; unpack it"),
    (0, b"7z\xbc\xaf", "a 7-Zip archive; unpack it"),
    (0, b"Rar!", "a RAR archive; unpack it"),
    *((0, mark, "a pickle, as a PyTorch checkpoint is; name it .pt") for mark in _PICKLE_PROTOCOLS),
)


def kind_of(path: Path) -> str:
    """What the file is and what to do with it; empty where nobody knows, or it cannot be read."""
    head = b""
    with contextlib.suppress(OSError), path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        is_torch = b"/data.pkl" in head or b"/version" in head
        return "a PyTorch checkpoint; name it .pt" if is_torch else "a zip archive; unpack it"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    for start, mark, kind in _KINDS:
        found = head[start : start + len(mark)] if start else text[: len(mark)]
        if found.lower() == mark.lower():
            return kind
    return ""
