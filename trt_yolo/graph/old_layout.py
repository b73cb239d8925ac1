"""The layout that PyTorch wrote before 1.6: pickles one after another, then the memory of all tensors.

Enters: a file's bytes. Leaves: the pickled object. The pickles are a magic number, a protocol, facts about the
system, the object, and the keys of its storages; then each storage, its number of elements first.
"""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np

from trt_yolo.errors import CheckpointError
from trt_yolo.graph.pickle_check import MAX_PICKLE_BYTES, check_pickle
from trt_yolo.graph.records import RecordUnpickler, Storage

_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # 0x1950a86a20f9469cfc6c as every pickle protocol writes it
_COUNT = struct.Struct("<q")


def is_old_layout(start: bytes) -> bool:
    """Whether a file that starts so has this layout."""
    return _MAGIC in start[:32]


def content_of_old_layout(data: bytes) -> Any:
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
        one = data[position : position + MAX_PICKLE_BYTES]
        length = check_pickle(one)
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
