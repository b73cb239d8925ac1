"""A PyTorch checkpoint read without torch and without running its pickle.

Enters: the path of a `.pt`, in PyTorch's zip layout or the one before PyTorch 1.6. Leaves: the pickled object, in
which every class of torch.nn and ultralytics is an inert `Record`, and every tensor a numpy array.
The module does not know what a YOLO model is; `head_from_checkpoint.py` walks the records.

What a hostile file can do here: be refused. `records.py` imports nothing that a pickle names; sizes are checked
against the file before memory is taken.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from trt_yolo.artifacts.file_kinds import kind_of
from trt_yolo.errors import CheckpointError, InputError, UnsafeCheckpointError, UnsupportedModelError
from trt_yolo.graph.old_layout import content_of_old_layout, is_old_layout
from trt_yolo.graph.pickle_check import MAX_PICKLE_BYTES, check_pickle
from trt_yolo.graph.records import RecordUnpickler, shown
from trt_yolo.system.paths import absence

# What zipfile and pickle raise on nonsense.
_NONSENSE = (
    zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError,
    AttributeError, OverflowError, MemoryError, RuntimeError,
)  # fmt: skip


def read_checkpoint(path: Path) -> Any:
    """The pickled object of a `.pt` file: dicts, lists, `Record`s, numpy arrays.

    Raises:
        InputError: No such file, or a folder.
        CheckpointError: The file is empty, truncated, or no file of PyTorch's.
        UnsafeCheckpointError: The pickle names something outside the allow-list.
        UnsupportedModelError: The checkpoint of another repository, a TorchScript, or a file of another kind.
    """
    if not os.path.exists(path):  # unlike Path.exists, never raises
        raise InputError(f"{absence(path)}; give the path of a .pt checkpoint, or a name such as yolov8n")
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a .pt checkpoint file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; copy or download the checkpoint again")
    try:
        return _content(path)
    except UnsupportedModelError as error:
        raise UnsupportedModelError(f"{path} {error}") from None
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(f"{path} was refused, and none of its code was run: {error}") from None
    except CheckpointError as error:
        raise CheckpointError(_damaged(path, str(error))) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except _NONSENSE as error:
        raise CheckpointError(_damaged(path, f"{type(error).__name__}: {str(error)[:200]}")) from error


def _content(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(64)
        if is_old_layout(start):
            file.seek(0)
            return content_of_old_layout(file.read())
    if not start.startswith(b"PK") and (kind := kind_of(path)):
        raise UnsupportedModelError(f"is {kind}")
    with zipfile.ZipFile(path) as archive:
        return _load(archive, path.stat().st_size)


def _load(archive: zipfile.ZipFile, file_bytes: int) -> Any:
    if sum(info.file_size for info in archive.infolist()) > file_bytes:
        raise CheckpointError("its members are larger than the file")
    if any(name.endswith("/constants.pkl") for name in archive.namelist()):
        raise UnsupportedModelError(
            "is a TorchScript, which is exported already; give the .pt it was made from"
        )
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError("it holds no data.pkl")
    prefix = pickles[0].removesuffix("data.pkl")
    if prefix + "byteorder" in archive.namelist() and _member(archive, prefix + "byteorder") != b"little":
        raise CheckpointError("it was written on a big-endian machine; save it again on a little-endian one")
    data = _member(archive, pickles[0])
    if len(data) > MAX_PICKLE_BYTES:
        raise CheckpointError(f"its structure takes {len(data)} bytes, more than any YOLO checkpoint")
    check_pickle(data)
    unpickler = RecordUnpickler(
        io.BytesIO(data), lambda storage: _member(archive, f"{prefix}data/{storage.key}")
    )
    return unpickler.load()


def _damaged(path: Path, detail: str) -> str:
    return f"{path} is damaged or not a PyTorch checkpoint ({detail}); copy, download or save it again"


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of one stored member. PyTorch never compresses, so a compressed one is refused unread."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise CheckpointError(f"its member {shown(name)} is missing") from None
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise CheckpointError(f"its member {shown(name)} is compressed, which PyTorch never does")
    return archive.read(info)
