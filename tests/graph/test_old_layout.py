"""The layout before PyTorch 1.6: read as torch reads it, refused where it is damaged or hostile."""

from __future__ import annotations

import os
import pickle
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_yolo.errors import CheckpointError, TrtYoloError, UnsafeCheckpointError
from trt_yolo.graph.checkpoint import read_checkpoint

torch = pytest.importorskip("torch")

_MAGIC = 0x1950A86A20F9469CFC6C
_SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


def _saved(content: Any, path: Path, protocol: int = 2) -> Path:
    torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    return path


def _written(
    path: Path, structure: bytes, *, system: Any = _SYSTEM, keys: Any = (), memory: bytes = b""
) -> Path:
    parts = [pickle.dumps(part, 2) for part in (_MAGIC, 1001, system)]
    path.write_bytes(b"".join(parts) + structure + pickle.dumps(list(keys), 2) + memory)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_torch_reads(protocol: int, tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(4, 6)
    content = {
        "base": base, "view": base[1:, ::2], "transposed": base.T, "scalar": base[0, 0], "empty": base[:0],
        "half": base.half(), "bfloat16": base.bfloat16(), "bool": base > 3, "long": base.long(),
        "layer": torch.nn.Linear(2, 3), "odd": [1, "two", None],
    }  # fmt: skip
    got = read_checkpoint(_saved(content, tmp_path / "old.pt", protocol))
    assert list(got) == list(content)
    for name in ("base", "view", "transposed", "scalar", "empty", "half", "bool", "long"):
        np.testing.assert_array_equal(got[name], content[name].numpy(), strict=True, err_msg=name)
    np.testing.assert_array_equal(got["bfloat16"], base.numpy(), strict=True)
    np.testing.assert_array_equal(got["layer"].weight, content["layer"].weight.detach().numpy(), strict=True)
    assert np.shares_memory(got["base"], got["view"])
    assert got["odd"] == content["odd"]


class _RunsSystem:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, ("touch marker",)


@pytest.mark.parametrize("place", ["structure", "system", "keys"])
def test_code_is_named_and_not_run(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, content = _RunsSystem(), pickle.dumps({}, 2)
    path = _written(
        tmp_path / "hostile.pt", pickle.dumps(code, 2) if place == "structure" else content,
        system=code if place == "system" else _SYSTEM, keys=[code] if place == "keys" else [],
    )  # fmt: skip
    with pytest.raises(UnsafeCheckpointError, match=r"none of its code was run.*posix\.system"):
        read_checkpoint(path)
    assert not (tmp_path / "marker").exists()


def _tensor(count: int = 4, *, kind: bytes = b"FloatStorage", key: bytes = b"0", tail: bytes = b"N") -> bytes:
    """The pickle of a list of one tensor of four elements."""
    storage = b"(X\x07\0\0\0storagectorch\n" + kind + b"\nX\x01\0\0\0" + key + b"X\x03\0\0\0cpu"
    storage += b"J" + struct.pack("<i", count) + tail + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0K\x04\x85K\x01\x85\x89" + hooks + b"tR"


_FOUR = struct.pack("<q4f", 4, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("body", "options", "message"),
    [
        (_tensor(), {"memory": _FOUR[:-1]}, "ends within a storage of 4 elements"),
        (_tensor(), {"memory": _FOUR[:5]}, "error"),
        (_tensor(), {"memory": struct.pack("<q", 1 << 60)}, "ends within a storage"),
        (_tensor(), {"memory": struct.pack("<q", -1) + bytes(32)}, "ends within a storage"),
        (_tensor(), {"memory": struct.pack("<q2f", 2, 1, 2)}, "reaches outside its storage"),
        (_tensor(), {"keys": []}, "list of storages"),
        (_tensor(), {"keys": ["0", "1"], "memory": _FOUR * 2}, "list of storages"),
        (_tensor(), {"keys": [["0"]]}, "unhashable"),
        (_tensor(), {"keys": 5 * [None]}, "list of storages"),
        (_tensor() + _tensor(kind=b"LongStorage") + b"\x86", {"memory": _FOUR}, "has two types"),
        (_tensor(tail=b"X\x01\0\0\x000K\0K\x02\x87"), {"memory": _FOUR}, r"before PyTorch 0\.4"),
        (_tensor(), {"memory": _FOUR, "system": {"little_endian": False}}, "big-endian machine"),
        (_tensor(), {"memory": _FOUR, "system": []}, "big-endian machine"),
    ],
)  # fmt: skip
def test_damage_is_refused(body: bytes, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    sound = _written(tmp_path / "sound.pt", b"\x80\x02" + _tensor() + b".", keys=["0"], memory=_FOUR)
    np.testing.assert_array_equal(read_checkpoint(sound), np.float32([1, 2, 3, 4]), strict=True)
    path = _written(tmp_path / "damaged.pt", b"\x80\x02" + body + b".", **{"keys": ["0"], **options})
    with pytest.raises(CheckpointError, match=rf"damaged\.pt is damaged .*{message}"):
        read_checkpoint(path)


def test_random_damage_only_ever_raises_our_errors(tmp_path: Path) -> None:
    whole = _saved({"layer": torch.nn.Linear(2, 3), "t": torch.ones(3)}, tmp_path / "old.pt").read_bytes()
    refused = 0
    for seed in range(400):
        rng, data = random.Random(seed), bytearray(whole)
        for _ in range(rng.choice([1, 2, 5])):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "damaged.pt").write_bytes(data[: rng.choice([len(data), rng.randrange(len(data))])])
        try:
            read_checkpoint(tmp_path / "damaged.pt")
        except TrtYoloError:
            refused += 1
    assert refused > 200
