"""Files of an artifact: all of them, whole, or none.

Enters: contents and paths. Leaves: files. Knows no formats.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from trt_yolo.errors import InputError
from trt_yolo.system.interruption import uninterrupted


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_writable(folder: Path, option: str = "--out") -> None:
    """Refuses, before the work is done, a folder that cannot be written to.

    Args:
        folder: It need not exist.
        option: What names another folder, for the message.

    Raises:
        InputError: This user may not write there, or something on the way is no folder.
    """
    place = folder
    while not os.path.exists(place) and place != place.parent:  # unlike Path.exists, never raises
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise InputError(f"cannot write to {folder}; give a folder that you may write to with {option}")


def check_utf8(path: Path) -> None:
    """Refuses a name that no ONNX file can hold and ONNX Runtime cannot open.

    Raises:
        InputError: The path is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the path {path} is not UTF-8, which ONNX and ONNX Runtime need; rename it"
        ) from error


def check_no_input(path: Path, inputs: Iterable[str | Path | None]) -> None:
    """Refuses to write a result over what it is made from, by whatever name.

    Raises:
        InputError: The path is one of the inputs.
    """
    given = [one for one in inputs if one is not None and os.path.exists(one)]
    if os.path.exists(path) and any(os.path.samefile(path, one) for one in given):
        raise InputError(f"{path} is an input of this command; give another name or folder for the result")


def write_files(files: dict[Path, bytes]) -> None:
    """Writes every file beside its place first, then moves all of them there; the folders are made.

    Raises:
        OSError: One cannot be written, and nothing of it is left.
    """
    is_quick = not any(map(_is_device, files))  # a pipe may wait for its reader, and Ctrl-C must end that
    with uninterrupted() if is_quick else contextlib.nullcontext():
        _write_files(files)


def _write_files(files: dict[Path, bytes]) -> None:
    written: dict[Path, Path] = {}
    try:
        for path, content in files.items():
            _make_folder(path.parent)
            part = path.with_name(f".{secrets.token_hex(8)}.part")  # short, for names of 255 bytes
            if _is_device(path):
                part = path  # /dev/null stays what it is
            else:
                written[part] = path
            part.write_bytes(content)
        for part, path in written.items():
            part.replace(path)
    finally:
        for part in written:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error


def _is_device(path: Path) -> bool:
    """Whether it is a device, a pipe, or a name of something that is open, such as /dev/stdout."""
    folder = os.path.realpath(path.parent)
    return folder in ("/dev", f"/proc/{os.getpid()}/fd") or (path.exists() and not path.is_file())


def write_together(files: dict[Path, bytes]) -> None:
    """Writes the files of an artifact: all of them, whole, or none.

    Raises:
        InputError: The folder cannot be written.
    """
    try:
        write_files(files)
    except OSError as error:
        folder = next(iter(files)).parent
        is_name = error.errno == errno.ENAMETOOLONG and os.path.isdir(folder)
        what_to_do = "rename the model" if is_name else "give another folder with --out"
        raise InputError(f"cannot write to {folder}: {error.strerror or error}; {what_to_do}") from error
