"""Plans and manifests made by hand, machines made up, and processes that build: what the tests of engines share."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.runtime.models import is_running
from trt_yolo.artifacts.manifest import EngineFacts, Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.engine.compatibility import Here
from trt_yolo.engine.plan import Family, manifest_path
from trt_yolo.hardware.gpus import Device

VERSION = (10, 13, 0, 35)
ROOT = Path(__file__).resolve().parent.parent.parent


def tensorrt_plan(
    body: bytes = bytes(100), version: tuple[int, ...] = VERSION, tag: bytes = b"ftrt"
) -> bytes:
    """What TensorRT writes first, and something after it."""
    return tag + bytes(4) + bytes(range(1, 17)) + bytes(version) + body


def ultralytics(plan: bytes, metadata: Any = None) -> bytes:
    """A plan as Ultralytics writes it: the length of its metadata, the metadata, the plan."""
    text = json.dumps({"task": "detect", "stride": 32} if metadata is None else metadata).encode()
    return struct.pack("<I", len(text)) + text + plan


def facts_of(plan: bytes, **changed: Any) -> EngineFacts:
    """What a manifest says of such a plan."""
    fields: dict[str, Any] = {
        "builder": "tensorrt",
        "builder_version": "10.13.0.35",
        "platform": "linux-x86_64",
        "cuda": "13.0",
        "compute_capabilities": ("8.9",),
        "device": "NVIDIA GeForce RTX 4090",
        "profile": (1, 4, 4),
        "options": {"builder": "tensorrt"},
        "onnx": "model.onnx",
        "onnx_sha256": "0" * 64,
        "plan_sha256": hashlib.sha256(plan).hexdigest(),
        "plan_bytes": len(plan),
    }
    return EngineFacts(**{**fields, **changed})


def manifest_for(plan: bytes, **changed: Any) -> Manifest:
    """The manifest of such a plan."""
    return Manifest(
        graph="deploy",
        names={0: "cat", 1: "dog"},
        imgsz_hw=(64, 96),
        batch=BatchRange(1, 4),
        rows=16,
        anchors=126,
        engine=facts_of(plan, **changed),
    )


def write_pair(engine: Path, plan: bytes, manifest: Manifest | None = None) -> Manifest:
    """Lays a plan and its manifest on disk, without any care."""
    manifest = manifest or manifest_for(plan)
    engine.write_bytes(plan)
    manifest_path(engine).write_text(manifest.to_json())
    return manifest


def gpu(capability: str = "8.9", name: str = "NVIDIA GeForce RTX 4090") -> Device:
    """A GPU that is made up."""
    return Device(index=0, name=name, compute_capability=capability, memory_bytes=24 << 30, integrated=False)


def here(
    versions: dict[Family, str] | None = None,
    capability: str | None = "8.9",
    platform: str = "linux-x86_64",
    *,
    lean: bool = False,
) -> Here:
    """A machine that is made up; no capability, no GPU; lean: its tensorrt is the lean runtime."""
    return Here(
        versions={"tensorrt": "10.13.0.35"} if versions is None else versions,
        gpus=[] if capability is None else [gpu(capability)],
        platform=platform,
        lean=lean,
    )


def left_in(folder: Path) -> set[str]:
    """The files of a folder."""
    return {one.name for one in folder.iterdir()}


def children_of(pid: int) -> set[int]:
    """The processes that a process has started and that still run."""
    found: set[int] = set()
    for task in Path(f"/proc/{pid}/task").glob("*"):
        try:
            found.update(map(int, (task / "children").read_text().split()))
        except FileNotFoundError:
            continue
    return {child for child in found if is_running(child)}


def builders() -> set[int]:
    """The builder processes of this process that still run."""
    return {pid for pid in children_of(os.getpid()) if b"trt_yolo.build.process:" in _command_of(pid)}


def _command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def python(script: str, *arguments: str | Path, stdin: int | None = None) -> subprocess.Popen[str]:
    """A Python process of the test's own, whose output can be read; it finds this repository."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
    )  # fmt: skip
