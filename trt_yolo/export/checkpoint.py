"""A PyTorch checkpoint read without torch and without running its pickle.

Enters: the path of a `.pt` in PyTorch's zip layout. Leaves: the pickled object, in which every class of
torch.nn and ultralytics is an inert `Record`, and every tensor a numpy array.
The module does not know what a YOLO model is; `head_from_checkpoint.py` walks the records.

What a hostile file can do here: be refused. `find_class` answers only from the allow-list below, with
objects that compute nothing but tensor views; sizes are checked against the file before memory is taken.
"""

from __future__ import annotations

import enum
import io
import math
import os
import pickle
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import CheckpointError, InputError, UnsafeCheckpointError
from trt_yolo.export.pickle_check import check_pickle

if TYPE_CHECKING:
    from typing_extensions import Self

_MAX_PICKLE_BYTES = 2 << 20  # the structure only; a YOLOv8x checkpoint has 0.3 MB
_MAX_DIMENSIONS = 8


class _StorageType(enum.Enum):
    """The storage classes of torch, and how their memory is laid out; bfloat16 is read as uint16."""

    DoubleStorage = "<f8"
    FloatStorage = "<f4"
    HalfStorage = "<f2"
    BFloat16Storage = "<u2"
    LongStorage = "<i8"
    IntStorage = "<i4"
    ShortStorage = "<i2"
    CharStorage = "<i1"
    ByteStorage = "<u1"
    BoolStorage = "|b1"


# What zipfile and pickle raise on nonsense.
_NONSENSE = (
    zipfile.BadZipFile, zlib.error, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError,
    AttributeError, OverflowError, MemoryError, RuntimeError,
)  # fmt: skip

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

    __slots__ = ("_attributes",)  # of their own: what the file calls `get` must not hide the method
    class_path = ""
    _attributes: dict[str, Any]

    def __new__(cls, *args: object) -> Self:
        record = super().__new__(cls)
        record._attributes = {"args": args}
        return record

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self._attributes.update(state)

    def __setitem__(self, key: object, value: object) -> None:
        if not isinstance(key, str):
            raise CheckpointError(f"an entry of its {self.class_path} is called by a {type(key).__name__}")
        self._attributes[key] = value

    def __getattr__(self, name: str) -> Any:
        for group in ("_modules", "_parameters", "_buffers"):
            members = self._attributes.get(group)
            if isinstance(members, dict) and name in members:
                return members[name]
        if name in self._attributes:
            return self._attributes[name]
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
        modules = self._attributes.get("_modules")
        return list(modules.values()) if isinstance(modules, dict) else []


class _Storage(NamedTuple):
    """A tensor's memory before any of it is read."""

    key: str
    kind: _StorageType


class _Allowed:
    """A function that a pickle may call, and do nothing else with: writing to it is refused."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *args: object) -> Any:
        return object.__getattribute__(self, "_function")(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise CheckpointError("its pickle writes to a function")


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
            return _load(archive, path.stat().st_size)
    except UnsafeCheckpointError as error:
        raise UnsafeCheckpointError(f"{path} was refused, and none of its code was run: {error}") from None
    except CheckpointError as error:
        raise CheckpointError(_damaged(path, str(error))) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except _NONSENSE as error:
        raise CheckpointError(_damaged(path, f"{type(error).__name__}: {str(error)[:200]}")) from error


def _load(archive: zipfile.ZipFile, file_bytes: int) -> Any:
    if sum(info.file_size for info in archive.infolist()) > file_bytes:
        raise CheckpointError("its members are larger than the file")
    pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError("it holds no data.pkl")
    prefix = pickles[0].removesuffix("data.pkl")
    if prefix + "byteorder" in archive.namelist() and _member(archive, prefix + "byteorder") != b"little":
        raise CheckpointError("it was written on a big-endian machine; save it again on a little-endian one")
    data = _member(archive, pickles[0])
    if len(data) > _MAX_PICKLE_BYTES:
        raise CheckpointError(f"its structure takes {len(data)} bytes, more than any YOLO checkpoint")
    check_pickle(data)
    return _Unpickler(io.BytesIO(data), archive, prefix).load()


def _damaged(path: Path, detail: str) -> str:
    return f"{path} is damaged or not a PyTorch checkpoint ({detail}); copy, download or save it again"


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """The bytes of one stored member. PyTorch never compresses, so a compressed one is refused unread."""
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise CheckpointError(f"its member {_shown(name)} is missing") from None
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise CheckpointError(f"its member {_shown(name)} is compressed, which PyTorch never does")
    return archive.read(info)


def _shown(text: str) -> str:
    """A text of the file's own, short, and without what drives a terminal."""
    return text[:100] if text[:100].isprintable() else ascii(text[:100])


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
            ("torch", "Size"): tuple,
            ("builtins", "getattr"): _Allowed(self._method),
            ("__builtin__", "getattr"): _Allowed(self._method),
            ("torch._utils", "_rebuild_tensor_v2"): _Allowed(self._rebuild_tensor),
            ("torch._utils", "_rebuild_parameter"): _Allowed(_rebuild_parameter),
        }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._functions:
            return self._functions[module, name]
        if module in ("torch", "torch.storage") and name in _StorageType.__members__:
            return _StorageType[name]
        class_path = f"{module}.{name}"
        if module == "torch" and name.startswith(("float", "int", "uint", "bfloat", "bool")):
            return class_path
        if module.startswith(_INERT_MODULES) or (module, name) in _INERT_NAMES:
            return self._record(class_path)
        raise UnsafeCheckpointError(_forbidden(class_path))

    def persistent_load(self, pid: Any) -> _Storage:
        if not (isinstance(pid, tuple) and len(pid) == 5 and pid[0] == "storage"):
            raise CheckpointError("it refers to something that is no tensor storage")
        if not isinstance(pid[1], _StorageType) or not isinstance(pid[2], str):
            raise CheckpointError("a tensor's storage is of no type that torch has")
        return _Storage(key=pid[2], kind=pid[1])

    def _method(self, owner: object, name: object, *_: object) -> type[Record]:
        """An inert stand-in for a method of a record's class; segmentation models hold such a reference."""
        if not (isinstance(owner, type) and issubclass(owner, Record)):
            raise UnsafeCheckpointError(_forbidden(f"builtins.getattr of a {type(owner).__name__}"))
        if not isinstance(name, str):
            raise CheckpointError("it refers to a method without a name")
        return self._record(f"{owner.class_path}.{name}")

    def _record(self, class_path: str) -> type[Record]:
        if class_path not in self._records:
            self._records[class_path] = type(
                class_path.rpartition(".")[2], (Record,), {"class_path": class_path, "__slots__": ()}
            )
        return self._records[class_path]

    def _rebuild_tensor(self, storage: _Storage, offset: int, size: Any, stride: Any, *_: object) -> Any:
        """A read-only view of the storage. Everything about its extent is checked before numpy sees it."""
        size, stride = tuple(map(int, size)), tuple(map(int, stride))
        if len(size) != len(stride) or len(size) > _MAX_DIMENSIONS or min((offset, *size, *stride)) < 0:
            raise CheckpointError("a tensor has an impossible layout")
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
            memory = np.frombuffer(data, storage.kind.value)
            if storage.kind is _StorageType.BFloat16Storage:
                memory = (memory.astype(np.uint32) << 16).view(np.float32)
            self._read[storage] = memory
        return self._read[storage]


def _forbidden(what: str) -> str:
    return (
        f"its pickle names '{_shown(what)}', which no YOLOv8 checkpoint needs; "
        "get the file from a source you trust, or save it again with Ultralytics"
    )


def _rebuild_parameter(data: Any, *_: object) -> Any:
    return data
