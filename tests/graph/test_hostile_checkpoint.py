"""Hostile checkpoints: code is named and not run, no tensor leaves its storage, no bomb goes off.

The pickles are put together opcode by opcode from the functions below; each returns the bytes that leave one
object on the unpickler's stack. What might take memory or time is read in a limited process of its own.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.limits import assert_refused_within_limits
from trt_yolo.errors import CheckpointError, UnsafeCheckpointError
from trt_yolo.graph.checkpoint import read_checkpoint
from trt_yolo.graph.records import Record

_CENTRAL, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"


def _name(path: str) -> bytes:
    module, _, name = path.rpartition(".")
    return f"c{module}\n{name}\n".encode()


def _value(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)[2:-1]


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _call(function: bytes, *arguments: bytes) -> bytes:
    return function + _tuple(*arguments) + b"R"


def _build(target: bytes, state: object) -> bytes:
    return target + _value(state) + b"b"


def _storage(kind: bytes = _name("torch.FloatStorage"), *, key: bytes = _value("0"), numel: int = 4) -> bytes:
    return _tuple(_value("storage"), kind, key, _value("cpu"), _value(numel)) + b"Q"


def _tensor(size: object, stride: object, *, offset: object = 0, storage: bytes | None = None) -> bytes:
    memory = _storage() if storage is None else storage
    hooks = _call(_name("collections.OrderedDict"))
    layout = (_value(offset), _value(size), _value(stride), _value(False))
    return _call(_name("torch._utils._rebuild_tensor_v2"), memory, *layout, hooks)


def _nested(depth: int) -> bytes:
    """A tuple of two tuples of two tuples ...: short here, 2 ** depth items long when it is written out."""
    return b"(I1\ntp0\n" + b"".join(b"0g%d\ng%d\n\x86p%d\n" % (n, n, n + 1) for n in range(depth))


def _archive(path: Path, body: bytes, members: dict[str, bytes] | None = None) -> Path:
    """A `.pt` as torch lays it out; `data/0` holds four floats unless `members` says otherwise."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + body + b".")
        for name, content in {"data/0": struct.pack("<4f", 1, 2, 3, 4), **(members or {})}.items():
            archive.writestr(f"archive/{name}", content)
    return path


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that a hostile pickle would create if anything of it were run."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "marker"
    assert not (tmp_path / "marker").exists(), "the pickle's code was run"


_RUN = [
    ("os.system", [_value("touch marker")]),
    ("posix.system", [_value("touch marker")]),
    ("builtins.eval", [_value("open('marker', 'w').close()")]),
    ("builtins.exec", [_value("open('marker', 'w').close()")]),
    ("builtins.open", [_value("marker"), _value("w")]),
    ("io.open", [_value("marker"), _value("w")]),
    ("subprocess.Popen", [_value(["touch", "marker"])]),
    ("subprocess.check_call", [_value(["touch", "marker"])]),
]
_NAMED = [
    ("pathlib.os.system", [_value("touch marker")]),
    ("builtins.__import__", [_value("antigravity")]),
    ("importlib.import_module", [_value("antigravity")]),
    ("runpy.run_path", [_value("marker.py")]),
    ("pickle.loads", [_value(b"cos\nsystem\n(S'touch marker'\ntR.")]),
    ("torch.load", [_value("marker")]),
    ("torch.serialization.load", [_value("marker")]),
    ("torch.hub.load", [_value("a/b"), _value("c")]),
    ("torch.jit.load", [_value("marker")]),
    ("torch.storage._load_from_bytes", [_value(b"")]),
    ("torch._utils._rebuild_sparse_tensor", []),
    ("operator.attrgetter", [_value("system")]),
    ("functools.partial", [_value("x")]),
    ("copyreg._reconstructor", []),
    ("numpy.load", [_value("marker")]),
    ("trt_yolo.graph.checkpoint.Path", []),
    ("__main__.Model", []),
]


@pytest.mark.parametrize(("path", "arguments"), _RUN, ids=[path for path, _ in _RUN])
def test_an_ordinary_unpickler_runs_these(
    path: str, arguments: list[bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        result = pickle.loads(b"\x80\x02" + _call(_name(path), *arguments) + b".")
    if isinstance(result, subprocess.Popen):
        result.wait(timeout=30)
    assert (tmp_path / "marker").exists(), "then a missing marker below would prove nothing"


@pytest.mark.parametrize(("path", "arguments"), _RUN + _NAMED, ids=[path for path, _ in _RUN + _NAMED])
def test_code_is_named_and_not_run(path: str, arguments: list[bytes], marker: Path, tmp_path: Path) -> None:
    hostile = _archive(tmp_path / "hostile.pt", _call(_name(path), *arguments))
    with pytest.raises(UnsafeCheckpointError, match=f"'{path}'") as error:
        read_checkpoint(hostile)
    assert str(hostile) in str(error.value)
    assert "none of its code was run" in str(error.value)


class _RunsSystem:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch marker",)


_FORMS = {
    **{f"protocol {n}": pickle.dumps(_RunsSystem(), n) for n in range(pickle.HIGHEST_PROTOCOL + 1)},
    "INST": b"(S'touch marker'\niposix\nsystem\n.",
    "OBJ": b"(cposix\nsystem\nS'touch marker'\no.",
    "STACK_GLOBAL": b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0ctouch marker\x85R.",
    "NEWOBJ": b"\x80\x02cposix\nsystem\nX\x0c\x00\x00\x00touch marker\x85\x81.",
    "deep inside": pickle.dumps({"model": [1, {"deep": _RunsSystem()}]}),
}


@pytest.mark.parametrize("data", _FORMS.values(), ids=_FORMS)
def test_every_way_to_name_code_is_refused(data: bytes, marker: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "hostile.pt", "w") as archive:
        archive.writestr("archive/data.pkl", data)
    with pytest.raises(UnsafeCheckpointError, match=r"posix\.system"):
        read_checkpoint(tmp_path / "hostile.pt")


@pytest.mark.parametrize(
    ("module", "name"),
    [("collections", "OrderedDict.__init__"), ("torch", "os.system"), ("builtins", "getattr.__call__")],
)
def test_a_name_with_dots_reaches_nothing_inside(module: str, name: str, tmp_path: Path) -> None:
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, name))
    with pytest.raises(UnsafeCheckpointError, match=name):
        read_checkpoint(_archive(tmp_path / "hostile.pt", texts + b"\x93"))


@pytest.mark.parametrize(
    "owner",
    [
        "collections.OrderedDict",
        "builtins.set",
        "torch._utils._rebuild_parameter",
        "builtins.getattr",
        "torch.Size",
        "torch.float32",
        "torch.FloatStorage",
    ],
)
@pytest.mark.parametrize("attribute", ["__init__", "__globals__", "__class__"])
def test_getattr_of_anything_but_a_record_is_refused(owner: str, attribute: str, tmp_path: Path) -> None:
    body = _call(_name("builtins.getattr"), _name(owner), _value(attribute))
    with pytest.raises(UnsafeCheckpointError, match=r"builtins\.getattr"):
        read_checkpoint(_archive(tmp_path / "hostile.pt", body))


@pytest.mark.parametrize(
    "body",
    [_value("text"), _value({"a": 1}), _value(None), _value(7), _call(_name("collections.OrderedDict")),
     _tensor((1,), (1,)), _storage(), _name("torch.float32")],
    ids=["text", "dict", "None", "number", "OrderedDict", "tensor", "storage", "type"],
)  # fmt: skip
def test_getattr_of_an_object_that_is_no_record_is_refused(body: bytes, tmp_path: Path) -> None:
    with pytest.raises(UnsafeCheckpointError, match=r"builtins\.getattr"):
        read_checkpoint(
            _archive(tmp_path / "hostile.pt", _call(_name("builtins.getattr"), body, _value("__class__")))
        )


@pytest.mark.parametrize(
    "name", ["forward_fuse", "__init__", "__globals__", "__class__", "_attributes", "get"]
)
def test_a_method_bound_to_a_record_is_a_name_and_nothing_else(name: str, tmp_path: Path) -> None:
    path = "ultralytics.nn.modules.conv.Conv"
    conv = _build(_call(_name(path)), {"_attributes": {"a": 1}, "x": 3})
    method = _call(_name("builtins.getattr"), conv, _value(name))
    got = read_checkpoint(_archive(tmp_path / "inert.pt", method))
    assert issubclass(got, Record)
    assert got.class_path == f"{path}.{name}"
    called = read_checkpoint(_archive(tmp_path / "called.pt", _call(method, _value("touch marker"))))
    assert isinstance(called, Record)
    assert called.args == ("touch marker",)


@pytest.mark.parametrize(
    "path",
    ["ultralytics.nn.tasks.DetectionModel", "ultralytics.utils.os.system", "torch.nn.modules.module.os.system",
     "pathlib.PosixPath", "types.SimpleNamespace", "numpy.dtype", "_codecs.encode", "datetime.datetime"],
)  # fmt: skip
def test_known_packages_become_records_that_do_nothing(path: str, marker: Path, tmp_path: Path) -> None:
    body = _build(_call(_name(path), _value("touch marker")), {"side": 3})
    record = read_checkpoint(_archive(tmp_path / "inert.pt", body))
    assert isinstance(record, Record)
    assert (record.class_path, record.args, record.side) == (path, ("touch marker",), 3)


_LAYOUTS = {
    "one element too many": _tensor((5,), (1,)),
    "offset behind the end": _tensor((1,), (1,), offset=4),
    "offset and size together": _tensor((2,), (1,), offset=3),
    "0-d behind the end": _tensor((), (), offset=4),
    "stride leaps out": _tensor((2, 2), (4, 1)),
    "negative stride": _tensor((2,), (-1,), offset=3),
    "negative size": _tensor((-2,), (1,)),
    "two negative sizes": _tensor((-2, -2), (1, 1)),
    "negative offset": _tensor((1,), (1,), offset=-1),
    "fewer strides than sizes": _tensor((2, 2), (1,)),
    "nine dimensions": _tensor((1,) * 9, (1,) * 9),
    "stride beyond 64 bits": _tensor((1,), (1 << 70,)),
    "offset beyond 64 bits": _tensor((1,), (1,), offset=1 << 70),
    "offset is a fraction": _tensor((1,), (1,), offset=0.5),
    "1 TB by size": _tensor((1 << 38,), (1,)),
    "1 TB by stride 0": _tensor((1 << 38,), (0,)),
    "1 TB by two strides 0": _tensor((1 << 19, 1 << 19), (0, 0)),
    "1 TB by numel": _tensor((1 << 38,), (1,), storage=_storage(numel=1 << 38)),
    "more elements than 64 bits count": _tensor((1 << 62, 1 << 62), (0, 0)),
    "empty, but 2 ** 62 wide": _tensor((0, 1 << 62), (1, 1)),
    "size of texts": _tensor(("x",), (1,)),
    "size of None": _tensor((None,), (1,)),
    "size is a number": _tensor(4, 1),
    "no layout at all": _call(_name("torch._utils._rebuild_tensor_v2"), _storage()),
    "storage is a number": _tensor((1,), (1,), storage=_value(5)),
    "storage is a text": _tensor((1,), (1,), storage=_value("0")),
    "storage is a tuple": _tensor((1,), (1,), storage=_value(("0", "<f4"))),
    "storage id of three": _value(("storage", "FloatStorage", "0")) + b"Q",
    "storage id of another kind": _tuple(*[_value("module")] * 5) + b"Q",
    "storage id is a text": b"P0\n",
    "storage is missing": _tensor((1,), (1,), storage=_storage(key=_value("7"))),
    "storage elsewhere in the zip": _tensor((1,), (1,), storage=_storage(key=_value("../data.pkl"))),
    "storage of five bytes": _tensor((1,), (1,), storage=_storage(key=_value("five"))),
}


@pytest.mark.parametrize("body", _LAYOUTS.values(), ids=_LAYOUTS)
def test_a_tensor_outside_its_storage_is_refused(body: bytes, tmp_path: Path) -> None:
    hostile = _archive(tmp_path / "hostile.pt", body, {"data/five": b"12345"})
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(hostile)


@pytest.mark.parametrize("kind", ["O", "S4", "V4", ">f4", "f4,f4", "(2,)f4", "c8", "M8[s]", "int32"])
def test_a_storage_of_a_type_that_torch_does_not_have_is_refused(kind: str, tmp_path: Path) -> None:
    hostile = _archive(tmp_path / "hostile.pt", _tensor((1,), (1,), storage=_storage(_value(kind))))
    with pytest.raises(CheckpointError):
        read_checkpoint(hostile)


_CONV, _OUR_TENSOR = _name("ultralytics.nn.modules.Conv"), _name("torch._utils._rebuild_tensor_v2")
_ABUSES = {
    "calls a type": _call(_name("torch.float32")),
    "calls a record": _call(_call(_CONV)),
    "calls a tensor": _call(_tensor((1,), (1,))),
    "calls a storage": _call(_storage()),
    "makes an object of a function": _OUR_TENSOR + b")\x81",
    "writes to a type": _build(_name("torch.float32"), {"x": 1}),
    "writes to a tensor": _build(_tensor((1,), (1,)), {"data": 1}),
    "writes to OrderedDict": _build(_name("collections.OrderedDict"), {"items": 1}),
    "writes a slot of OrderedDict": _build(_name("collections.OrderedDict"), (None, {"items": 1})),
    "writes to set": _build(_name("builtins.set"), {"add": 1}),
    "writes a slot of Size": _build(_name("torch.Size"), (None, {"x": 1})),
    "writes to a record's class": _build(_CONV, {"get": 1}),
    "writes a slot of a record's class": _build(_CONV, (None, {"get": 1})),
    "writes to getattr": _build(_name("builtins.getattr"), {"x": 1}),
    "writes to the tensor function": _build(_OUR_TENSOR, {"x": 1}),
    "writes a slot of the tensor function": _build(_OUR_TENSOR, (None, {"x": 1})),
    "writes to the parameter function": _build(_name("torch._utils._rebuild_parameter"), {"x": 1}),
    "unregistered extension": b"\x82\x01",
    "empty memo": b"g7\n",
    "empty stack": b"0" * 5,
    "protocol 99": b"\x80\x63N",
    "marks without end": b"(" * 1000,
}


@pytest.mark.parametrize("body", _ABUSES.values(), ids=_ABUSES)
def test_abuse_of_what_is_allowed_is_refused(body: bytes, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(_archive(tmp_path / "hostile.pt", body))


def test_a_checkpoint_changes_nothing_for_the_next_one(tmp_path: Path) -> None:
    function = _name("torch._utils._rebuild_parameter")
    planting = _build(function, (None, {"__defaults__": ("planted",)}))
    with contextlib.suppress(CheckpointError):
        read_checkpoint(_archive(tmp_path / "hostile.pt", planting))
    with pytest.raises(CheckpointError):
        read_checkpoint(_archive(tmp_path / "next.pt", _call(function)))


def test_the_error_cannot_drive_the_terminal(tmp_path: Path) -> None:
    hostile = _archive(tmp_path / "hostile.pt", _name("\x1b[2J\x1b]0;owned\x07.x"))
    with pytest.raises(UnsafeCheckpointError) as error:
        read_checkpoint(hostile)
    assert str(error.value).isprintable()


_BOMBS: dict[str, Callable[[], bytes]] = {
    "memo index of 2 ** 27": lambda: b"Nr" + struct.pack("<I", 1 << 27),
    "bytearray of 2 GB": lambda: b"\x96" + struct.pack("<Q", 1 << 31),
    "dict key that doubles 40 times": lambda: b"}" + _nested(40) + b"I1\ns",
    "set item that doubles 40 times": lambda: b"\x8f(" + _nested(40) + b"\x90",
    "size that doubles 40 times": lambda: b"}" + _call(_name("torch.Size"), _nested(40)) + b"I1\ns",
    "60 million dicts": lambda: b"}" * 60_000_000,
    "storage key that doubles 40 times": lambda: _tensor((1,), (1,), storage=_storage(key=_nested(40))),
    "storage type that doubles 40 times": lambda: _tensor((1,), (1,), storage=_storage(_nested(40))),
    "attribute that doubles 40 times": lambda: _call(_CONV) + _nested(40) + b"I1\ns",
    "method that doubles 40 times": lambda: _call(_name("builtins.getattr"), _CONV, _nested(40)),
    "method of a method of 5,000, each named by 100 kB": lambda: (
        b"X"
        + struct.pack("<I", 100_000)
        + b"a" * 100_000
        + b"p0\n0"
        + _name("builtins.getattr")
        + b"p1\n0"
        + _CONV
        + b"p2\n0"
        + b"g1\n(g2\ng0\ntRp2\n0" * 5000
        + b"N"
    ),
    "owner that doubles 40 times": lambda: _call(_name("builtins.getattr"), _nested(40), _value("x")),
}


@pytest.mark.parametrize("body", _BOMBS.values(), ids=_BOMBS)
def test_a_bomb_takes_neither_memory_nor_time(body: Callable[[], bytes], tmp_path: Path) -> None:
    assert_refused_within_limits(read_checkpoint, _archive(tmp_path / "bomb.pt", body()))


def _overlapping(path: Path, body: bytes, *, count: int, size: int) -> Path:
    """A zip whose member `data/N` holds the header and the bytes of `data/N+1` as its own bytes."""
    structure = _archive(path, body).read_bytes()
    blob, content, members = structure[: structure.index(_LOCAL, 1)], bytes(size), []
    for index in reversed(range(count)):
        name = f"archive/data/{index:05d}".encode()  # keeps members whole floats
        fields = struct.pack(
            "<5H3I2H", 20, 0, 0, 0, 33, zlib.crc32(content), *[len(content)] * 2, len(name), 0
        )
        content = _LOCAL + fields + name + content
        members.append((name, fields, len(content)))
    start = structure.index(_CENTRAL)
    entries = structure[start : structure.index(_CENTRAL, start + 1)]
    end = len(blob) + len(content)
    for name, fields, length in members:
        entries += _CENTRAL + struct.pack("<H", 20) + fields
        entries += struct.pack("<3H2I", 0, 0, 0, 0, end - length) + name
    counts = (0, 0, count + 1, count + 1, len(entries), end, 0)
    path.write_bytes(blob + content + entries + b"PK\x05\x06" + struct.pack("<4H2IH", *counts))
    return path


def test_members_that_overlap_are_not_multiplied(tmp_path: Path) -> None:
    storages = (_storage(key=_value(f"{index:05d}")) for index in range(64))
    body = _tuple(*(_tensor((4,), (1,), storage=storage) for storage in storages))
    bomb = _overlapping(tmp_path / "bomb.pt", body, count=64, size=1 << 18)
    with zipfile.ZipFile(bomb) as archive:
        assert sum(info.file_size for info in archive.infolist()) > 50 * bomb.stat().st_size
    with pytest.raises(CheckpointError):
        read_checkpoint(bomb)


_DIRECTORY: dict[str, tuple[int, bytes]] = {
    "encrypted": (8, b"\x01\x00"),
    "strongly encrypted": (8, b"\x41\x00"),
    "patched": (8, b"\x20\x00"),
    "of a later zip": (6, b"\xff\x00"),
    "of an unknown method": (10, b"\x63\x00"),
    "larger unpacked": (24, struct.pack("<I", 1 << 20)),
    "larger than the file": (20, struct.pack("<II", 1 << 25, 1 << 25)),
    "larger than any structure": (20, struct.pack("<II", 1 << 31, 1 << 31)),
    "behind the end": (42, struct.pack("<I", 1 << 30)),
    "at another place": (42, struct.pack("<I", 7)),
    "of another checksum": (16, b"\x00\x00\x00\x00"),
    "of a name that is no UTF-8": (8, b"\x00\x08" + bytes(36) + b"\xff"),
}


@pytest.mark.parametrize(("place", "content"), _DIRECTORY.values(), ids=_DIRECTORY)
@pytest.mark.parametrize("member", [0, 1], ids=["structure", "storage"])
def test_a_zip_directory_that_lies_is_refused(
    place: int, content: bytes, member: int, tmp_path: Path
) -> None:
    path = _archive(tmp_path / "patched.pt", _tensor((4,), (1,)))
    data = bytearray(path.read_bytes())
    start = data.index(_CENTRAL)
    start = data.index(_CENTRAL, start + 1) if member else start
    data[start + place : start + place + len(content)] = content
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"patched\.pt"):
        read_checkpoint(path)
