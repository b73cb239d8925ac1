"""Real checkpoints are read as torch reads them, damaged ones are refused; hostile ones have their own file."""

from __future__ import annotations

import io
import json
import pickle
import random
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_yolo.errors import CheckpointError, InputError
from trt_yolo.graph.checkpoint import read_checkpoint
from trt_yolo.graph.records import Record


@pytest.fixture(scope="module")
def torch() -> Any:
    """PyTorch, the reference."""
    return pytest.importorskip("torch")


def _leaves(module: Record, prefix: str = "") -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of a module's record by the names of its state_dict."""
    own = {**module._parameters, **module._buffers}
    found = {prefix + name: value for name, value in own.items() if value is not None}
    for name, child in module._modules.items():
        found |= _leaves(child, f"{prefix}{name}.")
    return found


def _same(got: Any, wanted: Any) -> bool:
    """Whether two trees of dicts, lists, records and arrays are equal, bit for bit."""
    if isinstance(wanted, Record):
        return bool(got.class_path == wanted.class_path) and _same(got._attributes, wanted._attributes)
    if isinstance(wanted, dict):
        return list(got) == list(wanted) and all(_same(got[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list | tuple):
        return len(got) == len(wanted) and all(map(_same, got, wanted))
    if isinstance(wanted, np.ndarray):
        return got.dtype == wanted.dtype and got.tobytes() == wanted.tobytes()
    return bool(got == wanted)


def test_yolov8n_equals_what_torch_loads(yolov8n: Path, torch: Any) -> None:
    pytest.importorskip("ultralytics")
    wanted = torch.load(yolov8n, map_location="cpu", weights_only=False)
    got = read_checkpoint(yolov8n)
    state, leaves = wanted["model"].state_dict(), _leaves(got["model"])
    assert list(leaves) == list(state)
    assert {array.dtype.name for array in leaves.values()} == {"float16", "int64"}
    for name, tensor in state.items():
        np.testing.assert_array_equal(leaves[name], tensor.numpy(), strict=True, err_msg=name)
    assert list(got) == list(wanted)
    assert got["train_args"] == wanted["train_args"]
    assert got["model"].names == wanted["model"].names
    np.testing.assert_array_equal(got["model"].stride, wanted["model"].stride.numpy())


@pytest.mark.parametrize(
    "dtype", ["float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool"]
)
def test_every_type_of_torch(dtype: str, torch: Any, tmp_path: Path) -> None:
    tensor = (torch.arange(12).reshape(3, 4) * 7.7).to(getattr(torch, dtype))
    torch.save({"tensor": tensor, "dtype": tensor.dtype}, tmp_path / "types.pt")
    got = read_checkpoint(tmp_path / "types.pt")
    wanted = (tensor.float() if dtype == "bfloat16" else tensor).numpy()
    np.testing.assert_array_equal(got["tensor"], wanted, strict=True)
    assert got["dtype"] == f"torch.{dtype}"
    assert not got["tensor"].flags.writeable


@pytest.mark.parametrize(
    "view",
    [
        lambda base: base.T,
        lambda base: base[1:, ::2],
        lambda base: base[:, 3],
        lambda base: base.permute(1, 0)[2:5, 1:],
        lambda base: base[0, :1].expand(7),
        lambda base: base[0, 0],
        lambda base: base[:0],
        lambda base: base.reshape(2, 2, 6).transpose(0, 2),
    ],
    ids=["transposed", "sliced", "column", "permuted", "expanded", "scalar", "empty", "three"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_views_are_read_as_torch_sees_them(
    view: Callable[[Any], Any], dtype: str, torch: Any, tmp_path: Path
) -> None:
    tensor = view(torch.arange(24).reshape(4, 6).to(getattr(torch, dtype)))
    torch.save({"tensor": tensor}, tmp_path / "view.pt")
    got = read_checkpoint(tmp_path / "view.pt")["tensor"]
    np.testing.assert_array_equal(got, tensor.float().numpy(), strict=True)


def test_views_of_one_storage_share_it(torch: Any, tmp_path: Path) -> None:
    base = torch.arange(10.0)
    torch.save([base[:6], base[4:], base.clone()], tmp_path / "shared.pt")
    first, second, other = read_checkpoint(tmp_path / "shared.pt")
    assert (first[4], second[0]) == (4.0, 4.0)
    assert np.shares_memory(first, second)
    assert not np.shares_memory(first, other)


def test_plain_values_parameters_and_containers(torch: Any, tmp_path: Path) -> None:
    layer = torch.nn.Linear(2, 3)
    content = {
        "size": torch.Size([2, 3]), "set": {1, 2}, "none": None, "text": "ä", "ordered": OrderedDict(a=1),
        "parameter": layer.weight, "layer": layer, "device": torch.device("cpu"), "path": Path("/tmp/x"),
    }  # fmt: skip
    torch.save(content, tmp_path / "values.pt")
    got = read_checkpoint(tmp_path / "values.pt")
    for key in ("size", "set", "none", "text", "ordered"):
        assert got[key] == content[key], key
    np.testing.assert_array_equal(got["parameter"], layer.weight.detach().numpy(), strict=True)
    assert (got["layer"].class_name, got["layer"].out_features) == ("Linear", 3)
    assert (got["device"].args, got["path"].args[-1]) == (("cpu",), "x")


def test_a_checkpoint_saved_to_memory_reads_the_same(torch: Any, tmp_path: Path) -> None:
    """torch.save calls the folder in the archive `archive` in memory, and by the file's name in a file."""
    content, buffer = {"tensor": torch.ones(3), "odd": [1, "two", None]}, io.BytesIO()
    torch.save(content, buffer)
    torch.save(content, tmp_path / "named.pt")
    (tmp_path / "buffer.pt").write_bytes(buffer.getvalue())
    assert _same(read_checkpoint(tmp_path / "named.pt"), read_checkpoint(tmp_path / "buffer.pt"))


# Damage


def _zip(path: Path, members: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"no such file: .*; give the path of a \.pt"),
        ("folder", "is a folder; give the path"),
        ("empty", "is empty; copy or download"),
        ("text", "is damaged or not a PyTorch checkpoint"),
        ("no structure", r"holds no data\.pkl"),
        ("two structures", "is damaged or not a PyTorch checkpoint"),
        ("a plain pickle", "is damaged or not a PyTorch checkpoint"),
    ],
)
def test_a_path_without_a_checkpoint_is_refused(kind: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    if kind == "folder":
        path.mkdir()
    elif kind == "no structure":
        _zip(path, {"readme.txt": b"hello"})
    elif kind == "two structures":
        _zip(path, {"a/data.pkl": b"N.", "b/data.pkl": b"N."})
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"text\n" * 99, "a plain pickle": pickle.dumps({})}[kind])
    with pytest.raises(InputError, match=message) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_members_are_refused(method: int, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="is compressed, which PyTorch never does"):
        read_checkpoint(_zip(tmp_path / "packed.pt", {"a/data.pkl": b"\x80\x02N."}, method=method))


@pytest.mark.parametrize("order", [b"big", b"", b"little"])
def test_only_little_endian_is_read(order: bytes, tmp_path: Path) -> None:
    path = _zip(tmp_path / "order.pt", {"a/data.pkl": b"\x80\x02K\x07.", "a/byteorder": order})
    if order == b"little":
        assert read_checkpoint(path) == 7
    else:
        with pytest.raises(CheckpointError, match=r"big-endian machine.* save it again"):
            read_checkpoint(path)


@pytest.mark.parametrize("cut", [*(n / 24 for n in range(1, 24)), -1, -22, -100])
def test_a_checkpoint_cut_short_is_refused(cut: float, yolov8n: Path, tmp_path: Path) -> None:
    data = yolov8n.read_bytes()
    (tmp_path / "cut.pt").write_bytes(data[: int(cut * len(data)) if cut > 0 else int(cut)])
    with pytest.raises(CheckpointError, match=r"cut\.pt is damaged"):
        read_checkpoint(tmp_path / "cut.pt")


def test_a_flipped_bit_is_noticed_or_means_nothing(yolov8n: Path, tmp_path: Path) -> None:
    rng, wanted, refused = random.Random(0), read_checkpoint(yolov8n), 0
    data = bytearray(yolov8n.read_bytes())
    for _ in range(16):
        position, bit = rng.randrange(len(data)), 1 << rng.randrange(8)
        data[position] ^= bit
        (tmp_path / "flipped.pt").write_bytes(data)
        try:
            assert _same(read_checkpoint(tmp_path / "flipped.pt"), wanted), f"bit {bit} of byte {position}"
        except CheckpointError:
            refused += 1
        data[position] ^= bit
    assert refused > 10


_MUTATE = """
import io, json, random, resource, sys, zipfile
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from pathlib import Path
from trt_yolo.errors import TrtYoloError
from trt_yolo.graph.head_from_checkpoint import checkpoint_from_file, head_from_checkpoint
from trt_yolo.artifacts.shapes import BatchRange

source, path, part, count = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
whole = source.read_bytes()
directory = whole.index(b"PK\\x01\\x02")
with zipfile.ZipFile(source) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
structure = next(name for name in members if name.endswith("data.pkl"))
storages = io.BytesIO()
with zipfile.ZipFile(storages, "w") as archive:
    for name in members:
        if name != structure:
            archive.writestr(name, members[name])

def damaged(data, rng):
    data = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place, kind = rng.randrange(len(data)), rng.randrange(4)
        if kind == 0 or part == "directory":
            data[place] = rng.randrange(256)
        elif kind == 1:
            data[place] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del data[place : place + rng.randrange(1, 9)]
        else:
            data[place:place] = rng.randbytes(rng.randrange(1, 5))
    return bytes(data)

escaped, refused = [], 0
for seed in range(count):
    rng = random.Random(seed)
    if part == "directory":
        path.write_bytes(whole[:directory] + damaged(whole[directory:], rng))
    else:
        path.write_bytes(storages.getvalue())
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(structure, damaged(members[structure], rng))
    try:
        head_from_checkpoint(checkpoint_from_file(path), imgsz_hw=(32, 32), batch=BatchRange(1, 1))
    except TrtYoloError:
        refused += 1
    except Exception as error:
        escaped.append(f"seed {seed}: {type(error).__name__}: {error}")
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
peak_mb = int(status["VmHWM"].split()[0]) >> 10
print(json.dumps({"escaped": escaped, "refused": refused, "peak_mb": peak_mb}))
"""


@pytest.mark.parametrize("part", ["structure", "directory"])
def test_random_damage_only_ever_raises_our_errors(part: str, yolov8n: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _MUTATE, str(yolov8n), str(tmp_path / "damaged.pt"), part, "50"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout)
    assert result["escaped"] == []
    assert result["refused"] > 25
    assert result["peak_mb"] < 500
