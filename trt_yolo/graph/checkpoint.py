"""A PyTorch checkpoint read without torch and without running its pickle.

Enters: the path of a `.pt`, in PyTorch's zip layout or the one before PyTorch 1.6. Leaves: the pickled object, in
which every class of torch.nn and ultralytics is an inert `Record`, and every tensor a numpy array.
The module does not know what a YOLO model is; `head_from_checkpoint.py` walks the records.

A file in zip layout holds one pickle and a member for each tensor's memory. Before 1.6 it was pickles one after
another (a magic number, a protocol, facts about the system, the object, the keys of its storages), then each storage,
its number of elements first.

What a hostile file can do here: be refused. `records.py` imports nothing that a pickle names; sizes are checked
against the file before memory is taken. A pickle's opcodes are looked through before any of them runs: the unpickler
itself would take gigabytes for a large memo index, and forever to hash a tuple that holds another twice, that one a
third twice, and so on.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from trt_yolo.artifacts.file_kinds import kind_of
from trt_yolo.errors import CheckpointError, InputError, UnsafeCheckpointError, UnsupportedModelError
from trt_yolo.graph.records import RecordUnpickler, Storage, shown
from trt_yolo.system.paths import absence

_MAX_PICKLE_BYTES = 2 << 20  # the structure only; a YOLOv8x checkpoint has 0.3 MB
_MAX_ITEMS = 1_000_000  # of one tuple with all that it holds written out
_MARK = -1
_HASHABLE = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "FROZENSET", "REDUCE"})
_GET = frozenset({"GET", "BINGET", "LONG_BINGET"})
_PUT = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})
_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # 0x1950a86a20f9469cfc6c as every pickle protocol writes it
_COUNT = struct.Struct("<q")
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
        if _MAGIC in start[:32]:
            file.seek(0)
            return _content_of_old_layout(file.read())
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
    if len(data) > _MAX_PICKLE_BYTES:
        raise CheckpointError(f"its structure takes {len(data)} bytes, more than any YOLO checkpoint")
    _check_pickle(data)
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


def _content_of_old_layout(data: bytes) -> Any:
    """The pickled object.

    Raises:
        CheckpointError: Damaged, or written on a big-endian machine.
        UnsafeCheckpointError: The pickle names something outside the allow-list.
    """
    (_, _, facts, structure, key_list), end = _pickles(data)
    system, keys = (RecordUnpickler(io.BytesIO(one), _no_memory).load() for one in (facts, key_list))
    if not (isinstance(system, dict) and system.get("little_endian") is True):
        raise CheckpointError("it was written on a big-endian machine; save it again on a little-endian one")
    survey = _Survey(io.BytesIO(structure), _no_memory)
    survey.load()
    places = _places(data, end, keys, survey.storages)
    return RecordUnpickler(io.BytesIO(structure), lambda storage: data[places[storage.key]]).load()


class _Survey(RecordUnpickler):
    """Learns of what type each storage is, which their bytes do not say, and makes no tensors."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.storages: dict[str, Storage] = {}

    def persistent_load(self, pid: Any) -> Any:
        found = super().persistent_load(pid)
        if isinstance(found, Storage) and self.storages.setdefault(found.key, found) != found:
            raise CheckpointError("a storage has two types")
        return found

    def _rebuild_tensor(self, *_: object) -> None:
        return None


def _pickles(data: bytes) -> tuple[list[bytes], int]:
    """The five pickles at the start, and where they end."""
    pickles, position = [], 0
    for _ in range(5):
        one = data[position : position + _MAX_PICKLE_BYTES]
        length = _check_pickle(one)
        pickles.append(one[:length])
        position += length
    return pickles, position


def _places(data: bytes, position: int, keys: Any, storages: dict[str, Storage]) -> dict[str, slice]:
    """Where the memory of each storage lies."""
    if not isinstance(keys, list) or set(keys) != set(storages):
        raise CheckpointError("its list of storages does not match its tensors")
    places = {}
    for key in keys:
        (count,) = _COUNT.unpack_from(data, position)
        start = position + _COUNT.size
        position = start + count * np.dtype(storages[key].kind.value).itemsize
        if count < 0 or position > len(data):
            raise CheckpointError(f"it ends within a storage of {count} elements")
        places[key] = slice(start, position)
    return places


def _no_memory(storage: Storage) -> bytes:
    raise CheckpointError("it has a tensor where none belongs")


def _check_pickle(data: bytes) -> int:
    """The pickle's length, found by walking its opcodes with a stack of sizes instead of objects.

    Raises:
        CheckpointError: A memo index beyond the pickle's length, or a tuple of more than a million items.
        ValueError: No pickle.
    """
    stack: list[int] = []
    memo: dict[int, int] = {}
    position = 0
    for opcode, argument, place in pickletools.genops(data):
        position = place or 0
        index = argument if isinstance(argument, int) else 0
        if opcode.name in _PUT:
            if index > len(data):
                raise CheckpointError(f"its pickle has a memo index of {index}")
            memo[index] = stack[-1] if stack else 1
        elif opcode.name == "MEMOIZE":
            memo[len(memo)] = stack[-1] if stack else 1
        elif opcode.name in _GET:
            stack.append(memo.get(index, 1))
        elif opcode.name == "MARK":
            stack.append(_MARK)
        else:
            taken = _pop(stack, opcode)
            size = 1 + sum(taken) if opcode.name in _HASHABLE else 1
            if size > _MAX_ITEMS:
                raise CheckpointError(f"its pickle has a tuple of more than {_MAX_ITEMS} items")
            stack.extend([size] * len(opcode.stack_after))
    return position + 1  # the last opcode, STOP, is one byte


def _pop(stack: list[int], opcode: pickletools.OpcodeInfo) -> list[int]:
    """Takes off the stack what the opcode takes, down to the last mark where it takes that."""
    taken: list[int] = []
    before = list(opcode.stack_before)
    if pickletools.markobject in before:
        while stack and (top := stack.pop()) != _MARK:
            taken.append(top)
        before = before[: before.index(pickletools.markobject)]
    for _ in before:
        if stack:
            taken.append(stack.pop())
    return taken
