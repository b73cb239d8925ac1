"""An engine and its manifest on disk, two files that change together, whatever happens in between.

A new engine comes in three steps, each of them whole or not at all:

    1. NAME.engine.json.new   the new manifest
    2. NAME.engine            the new plan takes the old one's place
    3. NAME.engine.json       the new manifest takes the old one's place

A manifest names its plan's hash. Whoever reads takes, of the manifests that are there, the one that fits the plan: the
old pair before step 2, the new one after it. Writers take a lock, which the system lifts when its process ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from trt_yolo.artifacts.manifest import Manifest, manifest_from_json
from trt_yolo.engine.plan import PlanFile, manifest_path, plan_file
from trt_yolo.errors import EngineError, ExportError, InputError, UnsupportedModelError
from trt_yolo.system.interruption import uninterrupted

_LOCK_S = 3600.0
_MOST_REMOVALS = 1000
_ATTEMPTS = 3
_PAUSE_S = 0.02
_MOST_MANIFEST = 1 << 24


@contextlib.contextmanager
def locked(engine: Path, *, timeout_s: float = _LOCK_S) -> Iterator[None]:
    """Alone with an engine, among threads and processes; what a killed builder left is cleared away.

    Raises:
        ExportError: Somebody else has built for an hour.
        InputError: The folder cannot be written.
    """
    lock = FileLock(engine.with_name(f".{engine.name}.lock"), timeout=timeout_s)
    missing = [folder for folder in engine.parents if not os.path.exists(folder)]
    try:
        _acquire(lock, engine, timeout_s)
        _clear(engine)
        yield
    finally:
        with uninterrupted():
            if lock.is_locked:
                with contextlib.suppress(OSError):
                    os.unlink(lock.lock_file)
                lock.release()
            with contextlib.suppress(OSError):
                for folder in missing:
                    folder.rmdir()  # unless there is something in it now


def _acquire(lock: FileLock, engine: Path, timeout_s: float) -> None:
    """Takes the lock of a file that is still there: whoever had it before may have removed it, and the folder too."""
    try:
        for attempt in itertools.count():
            try:
                engine.parent.mkdir(parents=True, exist_ok=True)
                with open(lock.lock_file, "ab") as file:
                    lock.acquire()
                    if os.path.samestat(os.fstat(file.fileno()), os.stat(lock.lock_file)):
                        return
            except FileNotFoundError:
                if attempt >= _MOST_REMOVALS:
                    raise
            lock.release()
    except Timeout as error:
        raise ExportError(
            f"another process has been building {engine} for {timeout_s / 60:.0f} minutes; wait, or end it"
        ) from error
    except OSError as error:
        raise InputError(
            f"cannot write to {engine.parent}: {error.strerror or error}; give another folder with --out"
        ) from error


def _clear(engine: Path) -> None:
    """Takes away what a killed builder left, and ends what it had begun; see the module."""
    part = re.compile(rf"\.{re.escape(engine.name)}\.\d+(\.\w+)?\.part(\.json)?")
    with contextlib.suppress(OSError):
        for name in os.listdir(engine.parent):
            if part.fullmatch(name):
                engine.with_name(name).unlink(missing_ok=True)
        new = _new(engine)
        if new.exists() and _describes(new, engine):
            new.replace(manifest_path(engine))
        else:
            new.unlink(missing_ok=True)


def _describes(manifest: Path, engine: Path) -> bool:
    try:
        facts = _engine_manifest(_text(manifest) or "", origin=str(manifest)).engine
        return facts is not None and facts.plan_sha256 == plan_file(engine).sha256()
    except (EngineError, UnsupportedModelError):
        return False


def _new(engine: Path) -> Path:
    """Where a manifest waits for its plan."""
    beside = manifest_path(engine)
    return beside.with_name(beside.name + ".new")


def part_path(final: Path, *, of: Path) -> Path:
    """Where a file of an engine grows, by the process that has the engine's lock."""
    return final.with_name(f".{of.name}.{os.getpid()}{final.suffix}.part")


def publish(part: Path, engine: Path, manifest: Manifest) -> None:
    """The plan that was written to `part` becomes the engine, with its manifest; see the module.

    Raises:
        InputError: The folder cannot be written; the old engine is there still.
    """
    new = _new(engine)
    try:
        with uninterrupted():
            write_durably(new, (manifest.to_json() + "\n").encode())
            _settle(engine.parent)
            part.replace(engine)
            new.replace(manifest_path(engine))
            _settle(engine.parent)
    except OSError as error:
        raise InputError(
            f"cannot write to {engine.parent}: {error.strerror or error}; give another folder with --out"
        ) from error


def manifest_of(plan: PlanFile) -> Manifest | None:
    """The manifest beside an engine; None where there is none, as with other tools' engines.

    Raises:
        EngineError: The plan is not the one that the manifest describes.
        UnsupportedModelError: The manifest is damaged.
    """
    for attempt in range(_ATTEMPTS):
        try:
            return _fitting_manifest(plan)
        except (EngineError, UnsupportedModelError):
            if attempt == _ATTEMPTS - 1:
                raise
        time.sleep(_PAUSE_S)  # somebody may have been publishing: look again
        plan = plan_file(plan.path)
    raise AssertionError


def _fitting_manifest(plan: PlanFile) -> Manifest | None:
    beside, sha256 = manifest_path(plan.path), ""
    problem: Exception | None = None
    for path in (beside, _new(plan.path)):
        text = _text(path)
        if text is None:
            continue
        try:
            manifest = _engine_manifest(text, origin=str(path))
        except UnsupportedModelError as error:
            problem = problem or error
            continue
        sha256 = sha256 or plan.sha256()
        if manifest.engine is not None and manifest.engine.plan_sha256 == sha256:
            return manifest
        problem = problem or EngineError(_not_the_same(plan, manifest))
    if problem is not None:
        raise problem
    return None


def manifest_beside(engine: Path) -> Manifest | None:
    """The manifest beside an engine, whether it fits the plan or not; of two, the one that fits.

    Raises:
        UnsupportedModelError: It is damaged.
    """
    with contextlib.suppress(EngineError, UnsupportedModelError):
        return manifest_of(plan_file(engine))
    path = next((path for path in (manifest_path(engine), _new(engine)) if path.exists()), None)
    text = None if path is None else _text(path)
    return None if text is None else _engine_manifest(text, origin=str(path))


def _engine_manifest(text: str, *, origin: str) -> Manifest:
    manifest = manifest_from_json(text, origin=origin)
    if manifest.engine is None:
        raise UnsupportedModelError(f"{origin} is no engine's manifest; build the engine again")
    return manifest


def _not_the_same(plan: PlanFile, manifest: Manifest) -> str:
    assert manifest.engine is not None
    how = (
        f"it has {plan.size} bytes, its manifest says {manifest.engine.plan_bytes}"
        if plan.size != manifest.engine.plan_bytes
        else "its bytes are not those that its manifest was written for"
    )
    return (
        f"{plan.path} is damaged or was replaced: {how}; copy it again with its manifest, or build it again"
    )


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_MANIFEST).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise EngineError(f"{path} cannot be read: {error.strerror or error}") from error


def write_durably(path: Path, content: bytes) -> None:
    """Writes a file that is there even when the power fails after this returns."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _settle(folder: Path) -> None:
    """Has the folder's entries on disk, where the system can do that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
