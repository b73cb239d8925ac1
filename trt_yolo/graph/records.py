"""The pickled structure of a checkpoint as inert records: none of its code is imported or run.

Enters: a pickle, and a function that gives a tensor's memory. Leaves: dicts, lists, numpy arrays, and for every
object of torch.nn and ultralytics a `Record`. Does not know how a file is laid out: `checkpoint.py` does.

`find_class` answers only from the allow-list below, with objects that compute nothing but tensor views.
"""

from __future__ import annotations

import enum
import io
import math
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trt_yolo.errors import CheckpointError, UnsafeCheckpointError, UnsupportedModelError

if TYPE_CHECKING:
    from typing_extensions import Self

_MAX_DIMENSIONS = 8
_MAX_NAME = 500  # characters of a class and its module; a method of a method of ... grows with each


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


# Classes that hold data and are never needed here: they become records too.
_INERT_MODULES = (
    "torch.nn.modules.", "torch.nn.parallel.", "torch.nn.parameter", "torch.distributed.", "ultralytics.",
)  # fmt: skip
# Packages whose checkpoints people take for Ultralytics' own.
_REPOSITORIES = {
    "models": "the YOLOv5 repository or of one made from it, such as YOLOv7",
    "yolov5": "the package yolov5",
    "yolov6": "the YOLOv6 repository",
    "yolox": "YOLOX",
    "super_gradients": "super-gradients (YOLO-NAS)",
    "mmengine": "MMDetection or MMYOLO",
}
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
            raise CheckpointError(f"a key of its {self.class_path} is of type {type(key).__name__}")
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


class Storage(NamedTuple):
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


class RecordUnpickler(pickle.Unpickler):
    """Reads one pickle.

    Args:
        file: The pickle, which `check_pickle` let pass.
        memory: The bytes of a tensor's storage.
    """

    def __init__(self, file: io.BytesIO, memory: Callable[[Storage], bytes]) -> None:
        super().__init__(file)
        self._memory = memory
        self._records: dict[str, type[Record]] = {}
        self._read: dict[Storage, npt.NDArray[Any]] = {}
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
        if repository := _REPOSITORIES.get(module.partition(".")[0]):
            raise UnsupportedModelError(
                f"is a checkpoint of {repository} ({shown(class_path)}), whose models trt-yolo does not support; "
                "give one that Ultralytics' package trained, such as yolov8n.pt or yolov5nu.pt"
            )
        raise UnsafeCheckpointError(_forbidden(class_path))

    def persistent_load(self, pid: Any) -> Storage | type[Record]:
        if not (isinstance(pid, tuple) and len(pid) in (4, 5, 6)):
            raise CheckpointError("it refers to something that is no tensor storage")
        if pid[0] == "module" and isinstance(pid[1], type) and issubclass(pid[1], Record):
            return pid[1]  # before PyTorch 1.6, with its source code, which nothing reads
        if pid[0] != "storage" or len(pid) == 4:
            raise CheckpointError("it refers to something that is no tensor storage")
        if pid[5:] not in ((), (None,)):
            raise CheckpointError("a storage is part of another, as before PyTorch 0.4")
        if not isinstance(pid[1], _StorageType) or not isinstance(pid[2], str):
            raise CheckpointError("a tensor's storage has a type that torch does not know")
        return Storage(key=pid[2], kind=pid[1])

    def _method(self, owner: object, name: object, *_: object) -> type[Record]:
        """An inert stand-in for a method of a record or its class.

        Segmentation models hold such a reference, and so does every convolution of a fused model: `forward_fuse`.
        """
        if not (isinstance(owner, Record) or (isinstance(owner, type) and issubclass(owner, Record))):
            raise UnsafeCheckpointError(_forbidden(f"builtins.getattr of a {type(owner).__name__}"))
        if not isinstance(name, str):
            raise CheckpointError("it refers to a method without a name")
        return self._record(f"{owner.class_path}.{name}")

    def _record(self, class_path: str) -> type[Record]:
        if len(class_path) > _MAX_NAME:
            raise CheckpointError(f"it names a class with more than {_MAX_NAME} characters")
        if class_path not in self._records:
            self._records[class_path] = type(
                class_path.rpartition(".")[2], (Record,), {"class_path": class_path, "__slots__": ()}
            )
        return self._records[class_path]

    def _rebuild_tensor(self, storage: Storage, offset: int, size: Any, stride: Any, *_: object) -> Any:
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

    def _storage(self, storage: Storage) -> npt.NDArray[Any]:
        if not isinstance(storage, Storage):
            raise CheckpointError("a tensor has no storage")
        if storage not in self._read:
            memory = np.frombuffer(self._memory(storage), storage.kind.value)
            if storage.kind is _StorageType.BFloat16Storage:
                memory = (memory.astype(np.uint32) << 16).view(np.float32)
            self._read[storage] = memory
        return self._read[storage]


def _forbidden(what: str) -> str:
    way_out = "get the file from a source you trust, or save it again with Ultralytics"
    if what.startswith("torch._dynamo."):
        way_out = "it was saved compiled: save what torch.compile was given instead, model._orig_mod"
    return f"its pickle names '{shown(what)}', which no YOLOv8 checkpoint needs; {way_out}"


def _rebuild_parameter(data: Any, *_: object) -> Any:
    return data


def shown(text: str) -> str:
    """A text of the file's own, short, and without what drives a terminal."""
    return text[:100] if text[:100].isprintable() else ascii(text[:100])
