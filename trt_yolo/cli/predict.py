"""`trt-yolo predict`: images and videos in; a table, JSON lines or drawn images out."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, cast

import typer

from trt_yolo.cli.gpu_options import DecoderOption, DevicesOption, ProviderOption, devices_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from trt_yolo.backends.onnxruntime_providers import ProviderName
    from trt_yolo.detections import Detections
    from trt_yolo.media.decoding import DecoderName
    from trt_yolo.media.writers import WriterPool


def predict(
    model: Annotated[
        str, typer.Argument(help="An .engine or exported .onnx; a .pt or a name is exported first.")
    ],
    sources: Annotated[list[str], typer.Argument(help="Images, videos, folders, glob patterns.")],
    conf: Annotated[float, typer.Option(help="Confidence must be above it.")] = 0.25,
    iou: Annotated[float, typer.Option(help="NMS drops boxes that overlap a better one by more.")] = 0.7,
    classes: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Only these class ids or names, such as 0,2 or person,car.", show_default="all"),
    ] = None,
    max_det: Annotated[int, typer.Option(help="The most detections an image.")] = 300,
    save: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder for drawn images."),
    ] = None,
    workers: Annotated[int, typer.Option(help="Worker processes; 0: this process.")] = 0,
    threads: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="CPU threads of one inference.", show_default="the cores, divided"),
    ] = None,
    streams: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Batches under way on a GPU at once, in each worker.", show_default="2"),
    ] = None,
    devices: DevicesOption = "0",
    provider: ProviderOption = "auto",
    decoder: DecoderOption = "auto",
    spin: Annotated[
        bool, typer.Option("--spin", help="Wait for a GPU without sleeping: lowest latency.")
    ] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build an engine anew that does not load here.")
    ] = False,
    json_line: Annotated[
        bool, typer.Option("--json", help="One JSON object an image, each on its line.")
    ] = False,
) -> None:
    """Detect objects in images and videos. Exit code 1 if an image or a frame could not be read."""
    from trt_yolo.cli.predict_video import predict_video, split_sources
    from trt_yolo.cli.render import print_json, progress_bar, warn
    from trt_yolo.loading import load
    from trt_yolo.media.images import find_images
    from trt_yolo.media.writers import WriterPool

    given, videos = split_sources(sources)
    paths = find_images(given) if given else []
    failed = frames_failed = 0
    rows: list[list[str]] = []
    with (
        load(
            model,
            workers=workers,
            threads=threads,
            rebuild=rebuild,
            streams=streams,
            devices=devices_of(devices),
            spin=spin,
            decoder=cast("DecoderName", decoder),
            provider=cast("ProviderName", provider),
        ) as loaded,
        _table_at_last(rows),
        progress_bar() as bar,
        WriterPool[Path]() as writers,
    ):
        class_ids = _class_ids(classes, loaded.names)
        thresholds: dict[str, Any] = {"conf": conf, "iou": iou, "classes": class_ids, "max_det": max_det}
        drawn = _drawn_paths(paths, save) if save is not None else {}
        task = bar.add_task("images", total=None if videos else len(paths))
        for result in loaded.stream(paths, keep_images=save is not None, **thresholds):
            path = paths[result.index]
            bar.advance(task)
            if result.error is not None:
                failed += 1
                warn(f"{expected(result.error)} (skipped)")
                continue
            if path in drawn and result.image is not None:
                writers.write(path, functools.partial(_save, drawn[path], result.image, result.detections))
            if json_line:
                print_json(json_object(path, result.detections))
            else:
                rows.append([str(path), str(len(result.detections)), _summary(result.detections)])
            failed += _not_drawn(writers)
        for video in videos:
            frames_failed += predict_video(
                loaded, video, thresholds, folder=save, save=_save, writers=writers, json_line=json_line, rows=rows,
                advance=functools.partial(bar.advance, task),
            )  # fmt: skip
        failed += _not_drawn(writers, wait=True)
    if failed or frames_failed:
        frames = f", {frames_failed} frames of videos" if videos else ""
        warn(f"{failed} of {len(paths)} images could not be read or drawn{frames}")
        raise typer.Exit(1)


def expected(error: Exception) -> Exception:
    """The error, if it is about its image alone; all others end the command."""
    from trt_yolo.errors import FrameError, ImageError

    if isinstance(error, ImageError | FrameError):
        return error
    raise error


def _not_drawn(writers: WriterPool[Path], *, wait: bool = False) -> int:
    """How many drawings have failed since; a folder that cannot be written to ends the command."""
    from trt_yolo.cli.render import warn
    from trt_yolo.errors import ImageError

    count = 0
    for _, error in writers.errors(wait=wait):
        if not isinstance(error, ImageError):
            raise error
        count += 1
        warn(f"{error} (not drawn)")
    return count


@contextlib.contextmanager
def _table_at_last(rows: list[list[str]]) -> Iterator[None]:
    """Prints the rows in the end, also where something failed half-way."""
    from trt_yolo.cli.render import print_table

    try:
        yield
    finally:
        if rows:
            print_table("detections", ["image", "objects", "what"], rows)


def _class_ids(text: str | None, names: dict[int, str]) -> list[int] | None:
    """Class ids of `0,2` or `person,car`."""
    from trt_yolo.errors import InputError

    if text is None:
        return None
    by_name = {name: index for index, name in names.items()}
    ids = []
    for item in (part.strip() for part in text.split(",")):
        index = by_name.get(item, int(item) if item.isdecimal() and len(item) < 9 else -1)
        if index not in names:
            raise InputError(
                f"--classes {item!r} is no class of this model; give ids 0 to {len(names) - 1} or names "
                f"such as {names[min(names)]}"
            )
        ids.append(index)
    return ids


def json_object(path: Path, detections: Detections) -> dict[str, object]:
    """An image's detections for a line of JSON."""
    height, width = detections.image_hw
    return {"path": str(path), "height": height, "width": width, "detections": detections.to_dicts()}


def _summary(detections: Detections) -> str:
    counts = Counter(detections.name(index) for index in detections.class_id.tolist())
    return ", ".join(f"{name} ×{count}" if count > 1 else name for name, count in counts.most_common())


def _drawn_paths(paths: list[Path], folder: Path) -> dict[Path, Path]:
    """Where each drawn image goes: under its own name, numbered where two are called the same."""
    made_folder(folder)
    taken = {path.resolve() for path in paths}  # never over a source
    targets: dict[Path, Path] = {}
    for path in dict.fromkeys(paths):
        names = itertools.chain([f"{path.stem}.jpg"], (f"{path.stem}_{n}.jpg" for n in itertools.count(1)))
        targets[path] = next(folder / name for name in names if (folder / name).resolve() not in taken)
        taken.add(targets[path].resolve())
    return targets


def made_folder(folder: Path) -> Path:
    """The folder, which is there now.

    Raises:
        InputError: It cannot be made.
    """
    from trt_yolo.errors import InputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to {folder}: {error.strerror}; give another folder with --save"
        ) from error
    return folder


def _save(target: Path, image: npt.NDArray[np.uint8], detections: Detections) -> None:
    from trt_yolo.errors import InputError
    from trt_yolo.media.images import write_jpeg
    from trt_yolo.vision.drawing import draw_detections

    try:
        write_jpeg(target, draw_detections(image, detections))
    except OSError as error:
        raise InputError(
            f"cannot write {target}: {error.strerror}; give another folder with --save"
        ) from error
