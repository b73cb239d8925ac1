"""A PyTorch checkpoint read without torch and without running its pickle.

Enters: the path of a `.pt` in PyTorch's zip layout. Leaves: the pickled object, in which every class of
torch.nn and ultralytics is an inert `Record`, and every tensor a numpy array.
The module does not know what a YOLO model is; `head_from_checkpoint.py` walks the records.

What a hostile file can do here: be refused. `find_class` answers only from the allow-list below, with
objects that compute nothing but tensor views; sizes are checked against the file before memory is taken.
"""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import CheckpointError, InputError, UnsafeCheckpointError

_MAX_PICKLE_BYTES = 64 << 20  # the structure only; a YOLOv8x checkpoint has 0.3 MB
_MAX_DIMENSIONS = 8

_STORAGE_DTYPES: dict[str, str] = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}

# Classes that hold data and are never needed here: they become records too.
_INERT_MODULES = ("torch.nn.modules.", "torch.nn.parameter", "ultralytics.")
_INERT_NAMES = frozenset(
    {
        ("pathlib", "Path"),
        ("pathlib", "PosixPath"),
        ("pathlib", "PurePosixPath"),
        ("pathlib", "WindowsPath"),
        ("pathlib", "PureWindowsPath"),
        ("types", "SimpleNamespace"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("_codecs", "encode"),
        ("torch", "device"),
        ("torch", "dtype"),
        ("datetime", "datetime"),
    }
)


class Record:
    """An object of the checkpoint, stripped of its class's code: only its name and its attributes.

    Attributes:
        class_path: Module and name of the class it was pickled as.
    """

    class_path = ""

    def __init__(self, *args: object) -> None:
        self.__dict__["args"] = args

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)

    def __setitem__(self, key: object, value: object) -> None:
        self.__dict__[str(key)] = value

    def __getattr__(self, name: str) -> Any:
        for group in ("_modules", "_parameters", "_buffers"):
            members = self.__dict__.get(group)
            if isinstance(members, dict) and name in members:
                return members[name]
        raise CheckpointError(
            f"the checkpoint's {self.class_path or 'object'} has no '{name}': "
            "it is damaged or no YOLOv8 model; save it again with Ultralytics"
        )

    @property
    def class_name(self) -> str:
        """The bare class name, such as `C2f`."""
        return self.class_path.rpartition(".")[2]

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute, or `default` where there is none."""
        try:
            return getattr(self, name)
        except CheckpointError:
            return default

    def children(self) -> list[Any]:
        """The submodules, in order."""
        modules = self.__dict__.get("_modules")
        return list(modules.values()) if isinstance(modules, dict) else []


class _Storage(NamedTuple):
    """A tensor's memory before any of it is read."""

    key: str
    dtype: str


def read_checkpoint(path: Path) -> Any:
    """The pickled object of a `.pt` file: dicts, lists, `Record`s, numpy arrays.

    Raises:
        InputError: No such file, or a folder.
        CheckpointError: The file is empty, truncated, or not in PyTorch's zip layout.
        UnsafeCheckpointError: The pickle names something outside the allow-list.
    """
    if not os.path.exists(path):  # unlike Path.exists, never raises
        raise InputError(
            f"no such file: {path}; give the path of a .pt checkpoint, or a name such as yolov8n"
        )
    if path.is_dir():
        raise InputError(f"{path} is a folder; give the path of a .pt checkpoint file")
    if path.stat().st_size == 0:
        raise CheckpointError(f"{path} is empty; copy or download the checkpoint again")
    try:
        with zipfile.ZipFile(path) as archive:
            return _load(archive, path)
    except zipfile.BadZipFile as error:
        raise CheckpointError(_damaged(path, str(error))) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error


def _load(archive: zipfile.ZipFile, path: Path) -> Any:
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError(_damaged(path, "it holds no data.pkl"))
    prefix = pickles[0].removesuffix("data.pkl")
    if prefix + "byteorder" in archive.namelist() and _member(archive, prefix + "byteorder") != b"little":
        raise CheckpointError(
            f"{path} was written on a big-endian machine; save it again on a little-endian one"
        )
    data = _member(archive, pickles[0], limit=_MAX_PICKLE_BYTES)
    try:
        _check_memo(data)
        return _Unpickler(io.BytesIO(data), archive, prefix).load()
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(f"{path} was refused, and none of its code was run: {error}") from None
    except CheckpointError as error:
        raise CheckpointError(_damaged(path, str(error))) from error
    except (
        pickle.UnpicklingError, EOFError, KeyError, IndexError, ValueError, TypeError, AttributeError,
        OverflowError, MemoryError, RecursionError, UnicodeDecodeError, NotImplementedError,
    ) as error:  # what the pickle machine raises on nonsense  # fmt: skip
        raise CheckpointError(_damaged(path, f"{type(error).__name__}: {error}")) from error


def _check_memo(data: bytes) -> None:
    """Refuses a memo index that only a table of gigabytes could hold: the unpickler would allocate it."""
    for opcode, index, _ in pickletools.genops(data):
        if opcode.name in ("PUT", "LONG_BINPUT") and isinstance(index, int) and index > len(data):
            raise CheckpointError(f"its pickle has a memo index of {index}")


def _damaged(path: Path, detail: str) -> str:
    return f"{path} is damaged or not a PyTorch checkpoint ({detail}); copy, download or save it again"


def _member(archive: zipfile.ZipFile, name: str, *, limit: int | None = None) -> bytes:
    """The bytes of one stored member. PyTorch never compresses, so a compressed one is refused unread."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise CheckpointError(f"its member {name} is missing") from None
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise CheckpointError(f"its member {name} is compressed, which PyTorch never does")
    if limit is not None and info.file_size > limit:
        raise CheckpointError(f"its structure takes {info.file_size} bytes, more than any YOLO checkpoint")
    return archive.read(info)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, archive: zipfile.ZipFile, prefix: str) -> None:
        super().__init__(file)
        self._archive = archive
        self._prefix = prefix
        self._records: dict[str, type[Record]] = {}
        self._read: dict[_Storage, npt.NDArray[Any]] = {}
        self._functions: dict[tuple[str, str], Callable[..., Any]] = {
            ("collections", "OrderedDict"): OrderedDict,
            ("builtins", "set"): set,
            ("__builtin__", "set"): set,
            ("builtins", "getattr"): self._method,
            ("__builtin__", "getattr"): self._method,
            ("torch", "Size"): tuple,
            ("torch._utils", "_rebuild_tensor_v2"): self._rebuild_tensor,
            ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._functions:
            return self._functions[module, name]
        if module in ("torch", "torch.storage") and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        class_path = f"{module}.{name}"
        if module == "torch" and name.startswith(("float", "int", "uint", "bfloat", "bool")):
            return class_path
        if module.startswith(_INERT_MODULES) or (module, name) in _INERT_NAMES:
            return self._record(class_path)
        raise UnsafeCheckpointError(_forbidden(class_path))

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise CheckpointError("it refers to something that is no tensor storage")
        return _Storage(key=str(pid[2]), dtype=str(pid[1]))

    def _method(self, owner: object, name: object, *_: object) -> type[Record]:
        """An inert stand-in for a method of a record's class; segmentation models hold such a reference."""
        if not (isinstance(owner, type) and issubclass(owner, Record)):
            raise UnsafeCheckpointError(_forbidden(f"builtins.getattr of {owner!r}"))
        return self._record(f"{owner.class_path}.{name}")

    def _record(self, class_path: str) -> type[Record]:
        if class_path not in self._records:
            self._records[class_path] = type(
                class_path.rpartition(".")[2], (Record,), {"class_path": class_path}
            )
        return self._records[class_path]

    def _rebuild_tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: object) -> Any:
        """A read-only view of the storage. Everything about its extent is checked before numpy sees it."""
        size, stride = tuple(map(int, size)), tuple(map(int, stride))
        if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS or min((offset, *size, *stride)) < 0:
            raise CheckpointError(f"a tensor has an impossible layout: size {size}, stride {stride}")
        memory = self._storage(storage)
        last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if math.prod(size) and (last >= memory.size or math.prod(size) > memory.size):
            raise CheckpointError(
                f"a tensor of size {size} reaches outside its storage of {memory.size} elements"
            )
        if not math.prod(size):
            return np.zeros(size, memory.dtype)
        strides = [step * memory.itemsize for step in stride]
        return np.lib.stride_tricks.as_strided(memory[offset:], size, strides, writeable=False)

    def _storage(self, storage: _Storage) -> npt.NDArray[Any]:
        if not isinstance(storage, _Storage):
            raise CheckpointError("a tensor has no storage")
        if storage not in self._read:
            data = _member(self._archive, f"{self._prefix}data/{storage.key}")
            if storage.dtype == "bfloat16":
                self._read[storage] = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
            else:
                self._read[storage] = np.frombuffer(data, storage.dtype)
        return self._read[storage]


def _forbidden(what: str) -> str:
    return (
        f"its pickle names '{what}', which no YOLOv8 checkpoint needs; "
        "get the file from a source you trust, or save it again with Ultralytics"
    )


def _rebuild_parameter(data: Any, *_: object) -> Any:
    return data
