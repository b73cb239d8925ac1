"""The checkpoint that a person meant: a path, a released model's name, or nothing for the demo.

Released checkpoints, and coco128's images, are downloaded once into the cache. Knows no formats.
Environment: `TRT_YOLO_CACHE` moves the cache, `TRT_YOLO_WEIGHTS_URL` the place that they come from.
"""

from __future__ import annotations

import os
import re
import tempfile
import urllib.error
import urllib.request
import zipfile
from http.client import HTTPException
from importlib import resources
from pathlib import Path

from trt_yolo.errors import DownloadError, InputError, UnsupportedModelError
from trt_yolo.system.paths import absence
from trt_yolo.system.progress import Progress, no_progress

_RELEASE_URL = "https://github.com/ultralytics/assets/releases/download/v8.3.0"
_COCO128_URL = "https://github.com/ultralytics/assets/releases/download/v0.0.0"
_TIMEOUT_S = 30
_CHUNK_BYTES = 1 << 16
_RELEASED = re.compile(r"yolov8[nsmlx](-oiv7)?(-(?P<task>seg|pose|obb|cls|world|worldv2))?(\.pt)?")


def cache_folder() -> Path:
    """Where downloads and exports of checkpoints are kept; not created here."""
    named = os.environ.get("TRT_YOLO_CACHE")
    if named:
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trt-yolo"
    except RuntimeError as error:  # no HOME, and a user without an entry, as in containers
        raise InputError(
            "no home folder is known, so there is no cache; set TRT_YOLO_CACHE to a folder that you may write to"
        ) from error


def demo_checkpoint() -> Path:
    """The checkpoint that comes with the package: YOLOv8n for ten handwritten digits."""
    return Path(str(resources.files("trt_yolo.demo"))) / "demo.pt"


def find_weights(model: str | Path | None, *, progress: Progress = no_progress) -> Path:
    """The file of a model: an existing path as it is, a released model's name from the cache or the net.

    Args:
        model: A path, a name such as `yolov8s` or `yolov8n.pt`, or None for the demo checkpoint.
        progress: Told the bytes of a download.

    Raises:
        InputError: Neither a file nor the name of a released model.
        DownloadError: It must be downloaded, and that failed.
    """
    if model is None:
        return demo_checkpoint()
    model = str(model)
    if os.path.exists(model):  # unlike Path.exists, never raises
        return Path(model)
    match = _RELEASED.fullmatch(model)
    if match is None:
        raise InputError(
            f"{absence(model)}; give the path of a .pt or .onnx, "
            "or the name of a released model: yolov8n, yolov8s, yolov8m, yolov8l or yolov8x"
        )
    if match["task"]:
        raise UnsupportedModelError(
            f"{model} is a model for another task ({match['task']}); this version takes detection models, "
            "such as yolov8n"
        )
    name = f"{model.removesuffix('.pt')}.pt"
    kept = cache_folder() / "weights" / name
    if not kept.exists():
        base = os.environ.get("TRT_YOLO_WEIGHTS_URL", _RELEASE_URL).rstrip("/")
        _download(model, f"{base}/{name}", kept, progress)
    return kept


def fetch_coco128() -> Path:
    """The folder of coco128's images, 128 of COCO's with labels beside them; downloaded into the cache once.

    Raises:
        DownloadError: It must be downloaded, and that failed.
    """
    folder = cache_folder() / "coco128"
    if not folder.exists():
        base = os.environ.get("TRT_YOLO_WEIGHTS_URL", _COCO128_URL).rstrip("/")
        archive = cache_folder() / "coco128.zip"
        if not archive.exists():
            _download("coco128", f"{base}/coco128.zip", archive, no_progress)
        try:
            _unpack(archive, folder)
        except (zipfile.BadZipFile, OSError, RuntimeError, ValueError) as error:
            raise DownloadError(
                f"{archive} cannot be unpacked ({error}); try again, or copy a sound coco128.zip to {folder.parent}"
            ) from error
        finally:
            archive.unlink(missing_ok=True)
    return folder / "images"


def _unpack(archive: Path, folder: Path) -> None:
    """Writes the archive's images and labels, flat, to `images` and `labels` in a new folder."""
    with tempfile.TemporaryDirectory(dir=archive.parent) as place:
        for kind in ("images", "labels"):
            (Path(place) / "whole" / kind).mkdir(parents=True)
        with zipfile.ZipFile(archive) as content:
            for name in content.namelist():
                part = {".jpg": "images", ".txt": "labels"}.get(Path(name).suffix, "")
                if part and f"/{part}/" in name:  # its own name only: no path leads out of the folder
                    (Path(place) / "whole" / part / Path(name).name).write_bytes(content.read(name))
        if not any((Path(place) / "whole" / "images").iterdir()):
            raise ValueError("it holds no images")
        (Path(place) / "whole").replace(folder)


def _download(name: str, url: str, target: Path, progress: Progress) -> None:
    """Fetches a file beside its target, and moves it there once it is whole."""
    if not url.startswith(("https://", "http://")):
        raise InputError(f"TRT_YOLO_WEIGHTS_URL gives {url}; give an address that starts with https://")
    part = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response,  # noqa: S310  scheme checked above
            tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as file,
        ):
            part = Path(file.name)
            length = response.headers.get("Content-Length") or ""
            total = int(length) if length.isdecimal() else 0
            done = 0
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress(f"downloading {name}", done, total)
        if total and done != total:
            raise DownloadError(f"the download of {url} ended after {done} of {total} bytes; try again")
        if not zipfile.is_zipfile(part):
            raise DownloadError(
                f"what {url} answered is no checkpoint ({done} bytes); see what a browser shows there"
            )
        part.chmod(0o644)  # a temporary file is its owner's alone, a cache may be shared
        part.replace(target)
    except (urllib.error.URLError, HTTPException, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(
            f"cannot download {url} ({reason}); with no network, copy {target.name} to {target} "
            "from a machine that has one, or give the path of a .pt file"
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
