"""`trt-yolo val`: how accurate models are on labelled images; one table with their differences, or JSON."""
# ruff: noqa: UP045  typer reads these annotations at run time, on Python 3.10 too: Optional, not `| None`

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Optional

import typer

from trt_yolo.cli.options import THREADS, SpinOption, spin_of
from trt_yolo.errors import InputError
from trt_yolo.runtime.options import RuntimeOptions

if TYPE_CHECKING:
    from trt_yolo.evaluation.coco import Accuracy, ClassAccuracy
    from trt_yolo.evaluation.dataset import Dataset, Labels
    from trt_yolo.evaluation.head_runner import HeadRunner


class _Measured(NamedTuple):
    """One model and its accuracy."""

    path: Path
    precision: str
    accuracy: Accuracy


def val(
    models: Annotated[
        list[str], typer.Argument(help="A .pt, an .onnx or a name; several: differences to the first.")
    ],
    data: Annotated[Path, typer.Option(help="The data.yaml: images, labels, class names.")],
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    imgsz: Annotated[
        Optional[str],
        typer.Option(help="Of a .pt: 640, or height x width.", show_default="the model's own"),
    ] = None,
    threads: Annotated[Optional[int], typer.Option(help=THREADS, show_default="the cores")] = None,
    spin: SpinOption = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="The accuracy of each class too.")] = False,
    json_line: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Measure mAP as `yolo val` does, on labelled images. Exit code 1 if an image could not be read."""
    from trt_yolo.artifacts.shapes import parse_imgsz
    from trt_yolo.cli.render import print_json, warn
    from trt_yolo.evaluation.dataset import dataset_from_yaml

    imgsz_hw = parse_imgsz(imgsz) if imgsz is not None else None
    options = RuntimeOptions(threads=threads, spin=spin_of(spin))
    paths = [_path(model) for model in models]
    dataset = dataset_from_yaml(data, split=split)
    skipped: dict[str, None] = {}  # messages in their order, each once
    with _runners(paths, imgsz_hw, options) as runners:
        for path, runner in zip(paths, runners, strict=True):
            _check_classes(path, runner, dataset, data)
        measured = _measure(paths, runners, dataset, skipped)
    _show(measured)
    if per_class:
        _show_classes(measured, dataset.names)
    if json_line:
        first = measured[0].accuracy
        about = {"data": str(data), "split": split, "images": first.images, "instances": first.instances}
        print_json({**about, "models": [_json_object(one, dataset.names, per_class) for one in measured]})
    if skipped:
        warn(f"{len(skipped)} of {len(dataset.images)} images could not be read")
        raise typer.Exit(1)


def _path(model: str) -> Path:
    """The file of a model: a path as it is, a released checkpoint from the cache or the net."""
    from trt_yolo.artifacts.weights import find_weights

    suffix = Path(model).suffix.lower()
    if suffix in (".engine", ".plan"):
        raise InputError(
            f"{model} is a TensorRT engine, whose NMS val cannot look behind; give the .onnx it was built from, "
            "or see its accuracy with trt-yolo inspect"
        )
    path = find_weights(model)
    if path.suffix.lower() not in (".pt", ".onnx"):
        raise InputError(f"{path} is no .pt or .onnx file; give a checkpoint, an exported model or a name")
    return path


def _check_classes(path: Path, runner: HeadRunner, dataset: Dataset, data: Path) -> None:
    own, wanted = len(runner.manifest.names), len(dataset.names)
    if own != wanted:
        raise InputError(
            f"{path} has {own} classes and {data} has {wanted}; give the data file that the model was trained with"
        )


@contextlib.contextmanager
def _runners(
    paths: list[Path], imgsz_hw: tuple[int, int] | None, options: RuntimeOptions
) -> Iterator[list[HeadRunner]]:
    """All models loaded, so that the last one's fault is told before the first one's work."""
    from trt_yolo.evaluation.head_runner import HeadRunner
    from trt_yolo.loader import chosen_spin

    threads, spin = options.shares()[0][1], chosen_spin(options)
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(HeadRunner(path, imgsz_hw=imgsz_hw, threads=threads, spin=spin))
            for path in paths
        ]


def _measure(
    paths: list[Path], runners: list[HeadRunner], dataset: Dataset, skipped: dict[str, None]
) -> list[_Measured]:
    from trt_yolo.evaluation.dataset import labels_of_all

    labels = labels_of_all(dataset)
    return [
        _Measured(path, runner.manifest.precision, _accuracy(path, runner, dataset, labels, skipped))
        for path, runner in zip(paths, runners, strict=True)
    ]


def _accuracy(
    path: Path, runner: HeadRunner, dataset: Dataset, labels: list[Labels], skipped: dict[str, None]
) -> Accuracy:
    """The accuracy of one model; an image that cannot be read is reported, once for all models."""
    from trt_yolo.cli.render import progress_bar, warn
    from trt_yolo.evaluation.accuracy import evaluate, samples

    messages: list[str] = []
    labelled = samples(dataset.images, labels, runner.manifest.imgsz_hw, skipped=messages)
    try:
        with progress_bar() as bar:
            task = bar.add_task(path.name, total=len(labels))
            return evaluate(
                runner,
                labelled,
                names=dataset.names,
                progress=lambda _stage, done, _total: bar.update(task, completed=done + len(messages)),
            )
    finally:
        for message in messages:
            if message not in skipped:
                warn(f"{message} (left out)")
                skipped[message] = None


def _show(measured: list[_Measured]) -> None:
    from trt_yolo.cli.render import print_table

    first = measured[0].accuracy
    columns = ["model", "precision", "MB", "mAP50-95", "mAP50"]
    if len(measured) > 1:
        columns += ["mAP50-95, points", "mAP50, points"]
    rows = []
    for path, precision, accuracy in measured:
        cells = [str(path), precision, f"{path.stat().st_size / 1e6:.1f}"]
        cells += [f"{accuracy.map50_95:.4f}", f"{accuracy.map50:.4f}"]
        is_first = accuracy is first
        cells.append("" if is_first else _points(accuracy.map50_95 - first.map50_95))
        cells.append("" if is_first else _points(accuracy.map50 - first.map50))
        rows.append(cells[: len(columns)])
    title = f"val of {first.images} images, {first.instances} objects"
    print_table(title, columns, rows, numbers=len(columns) - 2)


def _points(difference: float) -> str:
    """A difference of mAP, 0 to 1, in points of a hundred."""
    return f"{100 * difference:+.2f}"


def _show_classes(measured: list[_Measured], names: dict[int, str]) -> None:
    from trt_yolo.cli.render import print_table

    columns = ["class", "objects"]
    for one in measured:
        model = "" if len(measured) == 1 else f"{one.path.name} "
        columns += [f"{model}mAP50-95", f"{model}mAP50"]
    rows = []
    for class_id, of_first in measured[0].accuracy.per_class.items():
        cells = [names[class_id], str(of_first.instances)]
        for one in measured:
            found = one.accuracy.per_class[class_id]
            cells += [f"{found.map50_95:.4f}", f"{found.map50:.4f}"]
        rows.append(cells)
    print_table("classes that have objects", columns, rows, numbers=len(columns) - 1)


def _json_object(measured: _Measured, names: dict[int, str], per_class: bool) -> dict[str, Any]:
    path, precision, accuracy = measured
    result: dict[str, Any] = {"path": str(path), "precision": precision, **_rounded(accuracy)}
    if per_class:
        result["per_class"] = [
            {"class_id": class_id, "name": names[class_id], "instances": one.instances, **_rounded(one)}
            for class_id, one in accuracy.per_class.items()
        ]
    return result


def _rounded(accuracy: Accuracy | ClassAccuracy) -> dict[str, float]:
    return {"map50_95": round(accuracy.map50_95, 6), "map50": round(accuracy.map50, 6)}
