"""`trt-yolo predict`: images and videos in; a table, JSON lines or drawn images out."""
# ruff: noqa: UP045  typer reads these annotations at run time, on Python 3.10 too: Optional, not `| None`

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional, cast

import typer

from trt_yolo.cli.options import DeviceOptions, WorkerOptions, with_groups
from trt_yolo.errors import FrameError, ImageError, InputError

if TYPE_CHECKING:
    from trt_yolo.media.writers import WriterPool
    from trt_yolo.runtime.job import Image
    from trt_yolo.runtime.model import Model
    from trt_yolo.runtime.results import Result

_MOST_CLASSES = 8  # that a video's row names


@dataclass(frozen=True, kw_only=True)
class _Wanted:
    """Which objects are wanted."""

    conf: Annotated[float, typer.Option(help="Confidence must be above it.")] = 0.25
    iou: Annotated[float, typer.Option(help="NMS drops boxes that overlap a better one by more.")] = 0.7
    classes: Annotated[
        Optional[str],
        typer.Option(help="Only these class ids or names, such as 0,2 or person,car.", show_default="all"),
    ] = None
    max_det: Annotated[int, typer.Option(help="The most detections an image.")] = 300

    def stream(self, model: Model, paths: list[Path], *, keep_images: bool) -> Iterator[Result]:
        """The results of the files, in their order."""
        return model.stream(
            paths,
            conf=self.conf,
            iou=self.iou,
            classes=_class_ids(self.classes, model.names),
            max_det=self.max_det,
            keep_images=keep_images,
        )


@dataclass(frozen=True, kw_only=True)
class _Drawings:
    """Whether images are drawn, and where to."""

    save: Annotated[
        Optional[Path],
        typer.Option(help="Folder for annotated images; each video gets a subfolder for its frames."),
    ] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Let --save overwrite existing files, but never a source.")
    ] = False

    def targets(self, paths: list[Path]) -> dict[Path, Path]:
        """Where the drawings go, none if none are wanted; the folder is there then.

        Raises:
            InputError: A drawing would overwrite a file, or the folder cannot be written to.
        """
        from trt_yolo.media.targets import find_targets

        if self.save is None:
            if self.overwrite:
                raise InputError(
                    "--overwrite has no effect without --save; give a folder with --save, or leave --overwrite out"
                )
            return {}
        try:
            targets = find_targets(paths, self.save, overwrite=self.overwrite)
            self.save.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _cannot_write(self.save, error) from error
        return targets


@with_groups
def predict(
    model: Annotated[
        str, typer.Argument(help="An .engine or exported .onnx; a .pt or a name is exported first.")
    ],
    sources: Annotated[list[str], typer.Argument(help="Images, videos, folders, glob patterns.")],
    wanted: _Wanted,
    drawings: _Drawings,
    worker: WorkerOptions,
    device: DeviceOptions,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Build an engine anew that does not load here.")
    ] = False,
    json_line: Annotated[
        bool, typer.Option("--json", help="One JSON object an image, each on its line.")
    ] = False,
) -> None:
    """Detect objects in images and videos. Exit code 1 if an image, a video or a frame could not be read."""
    from trt_yolo.cli.render import warn
    from trt_yolo.loader import load
    from trt_yolo.media.sources import find_sources, is_video

    paths = find_sources(sources)
    targets = drawings.targets(paths)
    keywords = worker.keywords() | device.keywords()
    rows: list[_Row] = []
    with load(model, rebuild=rebuild, **keywords) as loaded, _table_at_last(rows):
        results = wanted.stream(loaded, paths, keep_images=bool(targets))
        total = None if any(map(is_video, paths)) else len(paths)
        show = _print_json if json_line else functools.partial(_add_row, rows)
        failed = _put_out(results, total, targets, show)
    if failed:
        what = "of the images, videos and frames" if total is None else f"of {total} images"
        warn(f"{failed} {what} could not be read or drawn")
        raise typer.Exit(1)


def _put_out(
    results: Iterator[Result], total: int | None, targets: dict[Path, Path], show: Callable[[Result], None]
) -> int:
    """Shows and draws every result; how many could not be read or drawn."""
    from trt_yolo.cli.render import progress_bar, warn
    from trt_yolo.media.writers import WriterPool

    failed = 0
    with progress_bar() as bar, WriterPool[Path]() as writers:
        task = bar.add_task("images", total=total)
        for result in results:
            bar.advance(task)
            failed += _not_drawn(writers)
            if result.error is not None:
                failed += 1
                warn(f"{_expected(result.error)} (skipped)")
                continue
            path = cast("Path", result.path)
            if targets:
                writers.write(path, functools.partial(_draw, targets[path], result))
            show(result)
        return failed + _not_drawn(writers, wait=True)


def _cannot_write(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write to {path}: {error.strerror}; give another folder with --save")


def _draw(target: Path, result: Result) -> None:
    """Writes the drawing of an image to its file, that of a frame into the folder of its video."""
    from trt_yolo.media.images import write_jpeg
    from trt_yolo.media.targets import frame_path
    from trt_yolo.vision.drawing import draw_detections

    file = target if result.frame is None else frame_path(target, result.frame)
    try:
        write_jpeg(file, draw_detections(cast("Image", result.image), result.detections))
    except OSError as error:
        raise _cannot_write(file, error) from error


def _expected(error: Exception) -> Exception:
    """The error, if it is about its image, video or frame alone; all others end the command."""
    if isinstance(error, ImageError | FrameError):
        return error
    raise error


def _not_drawn(writers: WriterPool[Path], *, wait: bool = False) -> int:
    """How many drawings have failed since; a folder that cannot be written to ends the command."""
    from trt_yolo.cli.render import warn

    count = 0
    for _, error in writers.errors(wait=wait):
        if not isinstance(error, ImageError):
            raise error
        count += 1
        warn(f"{error} (not drawn)")
    return count


@dataclass
class _Row:
    """A row of the table: an image, or a video with its frames until now."""

    path: Path
    is_video: bool
    frames: int = 0
    names: Counter[str] = field(default_factory=Counter)

    def cells(self) -> list[str]:
        """What is printed."""
        source = f"{self.path}, {self.frames} frames" if self.is_video else str(self.path)
        most = self.names.most_common(_MOST_CLASSES if self.is_video else None)
        what = ", ".join(f"{name} ×{count}" if count > 1 else name for name, count in most)
        return [source, str(self.names.total()), what]


def _add_row(rows: list[_Row], result: Result) -> None:
    """Adds an image or the first frame of a video; a later frame is counted in the row of its video."""
    path, detections = cast("Path", result.path), result.detections
    is_later_frame = result.frame and rows and rows[-1].path == path
    if not is_later_frame:
        rows.append(_Row(path, is_video=result.frame is not None))
    rows[-1].frames += 1
    rows[-1].names.update(detections.name(index) for index in detections.class_id.tolist())


@contextlib.contextmanager
def _table_at_last(rows: list[_Row]) -> Iterator[None]:
    """Prints the rows in the end, also where something failed half-way."""
    from trt_yolo.cli.render import print_table

    try:
        yield
    finally:
        if rows:
            print_table("detections", ["image", "objects", "what"], [row.cells() for row in rows])


def _class_ids(text: str | None, names: dict[int, str]) -> list[int] | None:
    """Class ids of `0,2` or `person,car`."""
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


def _print_json(result: Result) -> None:
    """An image's or a frame's detections as a line of JSON."""
    from trt_yolo.cli.render import print_json

    detections = result.detections
    height, width = detections.image_hw
    frame = {} if result.frame is None else {"frame": result.frame}
    print_json(
        {"path": str(result.path), "height": height, "width": width, "detections": detections.to_dicts(), **frame}
    )  # fmt: skip
