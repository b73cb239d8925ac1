"""The export stage: from a checkpoint or a head graph to artifacts in a folder, checked and whole.

Enters: a file and options. Leaves: an `ExportReport`, and the files that it names. Either all of an
artifact's files are written or none. Prints nothing.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import logging
from pathlib import Path

import onnx

from trt_yolo.artifacts.files import (
    check_no_input,
    check_utf8,
    check_writable,
    file_sha256,
    write_together,
)
from trt_yolo.artifacts.manifest import DEFAULT_ROWS, METADATA_KEY, Accuracy, Manifest
from trt_yolo.artifacts.shapes import BatchRange
from trt_yolo.artifacts.weights import cache_folder, find_weights
from trt_yolo.errors import (
    BackendError,
    ExportError,
    InputError,
    MissingDependencyError,
    UnsafeCheckpointError,
    UnsupportedModelError,
    first_line,
)
from trt_yolo.evaluation.parity import (
    Frames,
    Parity,
    check_frames,
    check_letterbox,
    check_parity,
    check_same_head,
)
from trt_yolo.export.options import DEFAULT_OUT, INT8_OPSET, ExportOptions
from trt_yolo.export.report import Artifact, ExportReport
from trt_yolo.graph import from_ultralytics
from trt_yolo.graph.blocks import UnknownBlockError
from trt_yolo.graph.checkpoint import read_checkpoint
from trt_yolo.graph.deploy_from_head import deploy_from_head
from trt_yolo.graph.head_from_checkpoint import (
    check_imgsz,
    checkpoint_from_file,
    head_from_checkpoint,
    trained_imgsz_and_stride,
)
from trt_yolo.graph.head_from_onnx import head_from_onnx, with_opset
from trt_yolo.graph.letterbox_in_graph import letterboxing_from_deploy
from trt_yolo.graph.writer import DEFAULT_OPSET, MAX_OPSET, MIN_OPSET, opset_of, serialized
from trt_yolo.precision.images import PrecisionImages, default_images, images_from
from trt_yolo.precision.int8_for_cpu import cpu_network
from trt_yolo.precision.maker import PrecisionMaker, fp16_unjudged
from trt_yolo.precision.network import Network, network_of
from trt_yolo.precision.report import PrecisionReport
from trt_yolo.system.interruption import temporary_folder
from trt_yolo.system.progress import Progress, no_progress
from trt_yolo.version import __version__

_log = logging.getLogger(__name__)


def export_model(
    source: str | Path | None = None,
    *,
    out: str | Path = DEFAULT_OUT,
    options: ExportOptions | None = None,
    progress: Progress = no_progress,
) -> ExportReport:
    """Exports a `.pt` checkpoint or a head-graph `.onnx` into the folder `out`.

        options = ExportOptions(precision="fp16", data="coco128.yaml")  # of trt_yolo.export.options
        report = trt_yolo.export_model("yolov8n.pt", out="engines", options=options)
        model = trt_yolo.load(report.artifacts[0].path)

    Args:
        source: The checkpoint or head graph; a name such as `yolov8n`, which is downloaded once; None: the demo model.
        out: The folder; made if it is not there.
        options: What to export.
        progress: Told what is being done while a precision is made.

    Raises:
        InputError: The source or the images cannot be used, an option does not fit, or the folder cannot be written.
        DownloadError: A named model that could not be fetched.
        ExportError: The deploy graph failed its check, or the precision costs too much; no artifact was written.
        MissingDependencyError: The check needs ONNX Runtime, or the architecture needs Ultralytics.
    """
    source, out = source if isinstance(source, Path) else find_weights(source), Path(out)
    options = options or ExportOptions()
    check_utf8(Path(source.name))
    check_writable(out)
    head, manifest, own_imgsz = _head(source, options)
    network = None if options.precision == "fp32" else network_of(head, origin=str(source))
    manifest = dataclasses.replace(
        manifest,
        opset=opset_of(head),
        source=source.name,
        source_sha256=file_sha256(source),
        version=__version__,
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    if not options.head:
        manifest = dataclasses.replace(manifest, graph="deploy", rows=_rows(options.rows, manifest.anchors))
    path = _path(out, source, manifest, own_imgsz, options)
    check_no_input(path, [source])
    content = _artifact(head, manifest)
    parity = None
    if options.check and not options.head:
        frames = check_frames(manifest.imgsz_hw, options.check_images)
        of_head = dataclasses.replace(manifest, graph="head", rows=0)
        reference = serialized(head, {METADATA_KEY: of_head.to_json()})
        parity = _parity(reference, content, frames, source)
    accuracy = None
    if network is not None:
        stem = _stem(source, manifest, own_imgsz, options.rows)
        manifest = _in_precision(manifest, options)
        of_target = "-cpu" if manifest.target == "cpu" else ""
        cache = out / f"{stem.removesuffix('-head')}{of_target}.calibration.json"
        content, accuracy = _precise(network, content, manifest, options, cache, progress)
        if accuracy is not None:
            manifest = dataclasses.replace(manifest, accuracy=_accuracy(accuracy))
            content = serialized(onnx.ModelProto.FromString(content), {METADATA_KEY: manifest.to_json()})
            accuracy = dataclasses.replace(accuracy, bytes_after=len(content))
    if options.source_hw is not None:
        manifest = dataclasses.replace(manifest, source_hw=options.source_hw)
        content = _letterboxing(content, manifest, check=options.check)
    write_together({path: content, path.with_name(path.name + ".json"): (manifest.to_json() + "\n").encode()})
    artifact = Artifact(path=path, format="onnx", precision=manifest.precision, bytes=len(content))
    return ExportReport(artifacts=[artifact], manifest=manifest, parity=parity, accuracy=accuracy)


def _artifact(head: onnx.ModelProto, manifest: Manifest) -> bytes:
    """The file's content: the head graph itself, or the deploy graph around it."""
    return _checked_graph(head if manifest.graph == "head" else deploy_from_head(head, manifest), manifest)


def _letterboxing(content: bytes, manifest: Manifest, *, check: bool) -> bytes:
    """The artifact, which was checked and judged with letterboxed frames, with the letterbox in the graph."""
    assert manifest.source_hw is not None
    deploy = onnx.ModelProto.FromString(content)
    if check:
        check_letterbox(manifest.source_hw, manifest.imgsz_hw, opset=opset_of(deploy))
    return _checked_graph(letterboxing_from_deploy(deploy, manifest.source_hw, manifest.imgsz_hw), manifest)


def _in_precision(manifest: Manifest, options: ExportOptions) -> Manifest:
    target = options.low_precision.target if options.precision == "int8" else ""
    return dataclasses.replace(manifest, precision=options.precision, target=target)


def _precise(
    network: Network,
    float_artifact: bytes,
    manifest: Manifest,
    options: ExportOptions,
    cache: Path,
    progress: Progress,
) -> tuple[bytes, PrecisionReport | None]:
    """The artifact in the precision asked for, and what it costs; None where nothing can tell."""
    if manifest.target == "cpu":
        network = cpu_network(network)

    finish = functools.partial(_artifact, manifest=manifest)
    with temporary_folder() as folder:
        try:
            images = _precision_images(manifest, options, folder)
        except InputError as error:
            if options.precision == "int8" or options.data is not None:
                raise
            _log.warning("the accuracy of FP16 was not measured: %s", error)
            return fp16_unjudged(network, check_frames(manifest.imgsz_hw, ()), finish=finish), None
        maker = PrecisionMaker(
            network, images, float_artifact=float_artifact, finish=finish,
            imgsz_hw=manifest.imgsz_hw, progress=progress,
        )  # fmt: skip
        if options.precision == "fp16":
            return maker.fp16(options.low_precision)
        return maker.int8(options.low_precision, cache=cache)


def _accuracy(report: PrecisionReport) -> Accuracy:
    return Accuracy(
        reference=report.reference,
        images=report.held_out_images,
        map50_95_before=report.before.map50_95,
        map50_95_after=report.after.map50_95,
    )


def _precision_images(manifest: Manifest, options: ExportOptions, folder: Path) -> PrecisionImages:
    if options.data is not None:
        return images_from(options.data, manifest.names)
    return default_images(manifest.names, folder=folder)


def export_to_cache(source: Path) -> Path:
    """The deploy graph of a checkpoint in the cache, exported there if it is not there yet."""
    if source.suffix.lower() != ".pt":
        raise InputError(f"{source} is no .pt or .onnx file; give a checkpoint, an exported model or a name")
    if not source.is_file():
        read_checkpoint(source)  # says what is wrong
    folder = cache_folder() / "models" / f"{file_sha256(source)[:16]}-{__version__}"
    kept = folder / f"{source.stem}.onnx"
    if not kept.exists():
        check_writable(folder, "TRT_YOLO_CACHE")
        _log.info("exporting %s to %s", source, kept)
        export_model(source, out=folder)
    return kept


def _head(source: Path, options: ExportOptions) -> tuple[onnx.ModelProto, Manifest, tuple[int, int]]:
    """The head graph, its manifest, and the image size that the source has of its own."""
    if source.suffix.lower() == ".onnx":
        return _given_head(source, options)
    if source.suffix.lower() != ".pt" and source.is_file():
        raise InputError(f"{source} is no .pt or .onnx file; give a checkpoint, a head graph or a name")
    if options.exporter == "ultralytics":
        return _ultralytics_head(source, options)
    try:
        return _native_head(source, options)
    except UnknownBlockError as error:
        if options.exporter == "native" or not from_ultralytics.is_installed():
            raise
        _log.warning("%s; exporting with Ultralytics instead", str(error).partition(":")[0])
        return _ultralytics_head(source, options)


def _given_head(source: Path, options: ExportOptions) -> tuple[onnx.ModelProto, Manifest, tuple[int, int]]:
    if options.exporter != "auto":
        raise InputError(f"--exporter {options.exporter} converts .pt files, and {source} is a graph already")
    head, manifest = head_from_onnx(source, imgsz_hw=options.imgsz_hw, batch=options.batch)
    own, least = opset_of(head), INT8_OPSET if options.precision == "int8" else MIN_OPSET
    if options.opset is not None and options.opset < min(own, MAX_OPSET):
        raise InputError(
            f"{source} has opset {own}, asked for {options.opset}; leave --opset out, or export from the .pt"
        )
    opset = options.opset or min(max(own, least), MAX_OPSET)
    if opset != own:
        converted = with_opset(head, opset, origin=str(source))
        if options.check:
            check_same_head(head, converted, manifest, origin=str(source))
        head = converted
    return head, dataclasses.replace(manifest, exporter="given"), manifest.imgsz_hw


def _native_head(source: Path, options: ExportOptions) -> tuple[onnx.ModelProto, Manifest, tuple[int, int]]:
    checkpoint = checkpoint_from_file(source)
    own = (checkpoint.imgsz, checkpoint.imgsz)
    imgsz_hw, batch = options.imgsz_hw or own, options.batch or BatchRange(1, 1)
    head = head_from_checkpoint(
        checkpoint, imgsz_hw=imgsz_hw, batch=batch, opset=options.opset or DEFAULT_OPSET
    )
    manifest = Manifest(
        graph="head",
        names=checkpoint.names,
        imgsz_hw=imgsz_hw,
        batch=batch,
        rows=0,
        anchors=checkpoint.anchors(imgsz_hw),
        exporter="native",
    )
    return head, manifest, own


def _ultralytics_head(
    source: Path, options: ExportOptions
) -> tuple[onnx.ModelProto, Manifest, tuple[int, int]]:
    try:
        side, stride = trained_imgsz_and_stride(source)
    except UnsafeCheckpointError as error:  # Ultralytics would run what it names
        if not options.trust:
            raise UnsafeCheckpointError(f"{error}; --trust runs it all the same") from None
        side, stride = 640, 32
    own = (side, side)
    imgsz_hw, batch = options.imgsz_hw or own, options.batch or BatchRange(1, 1)
    check_imgsz(imgsz_hw, stride=stride)
    with temporary_folder() as folder:
        exported = folder / source.with_suffix(".onnx").name
        from_ultralytics.onnx_from_ultralytics(
            source, exported, imgsz_hw=imgsz_hw, batch=batch, opset=options.opset or DEFAULT_OPSET,
            verbose=options.verbose,
        )  # fmt: skip
        try:
            head, manifest = head_from_onnx(exported, imgsz_hw=imgsz_hw, batch=batch)
        except InputError as error:
            said = str(error).replace(str(exported), f"Ultralytics' export of {source}")
            raise UnsupportedModelError(said) from error
    return head, dataclasses.replace(manifest, exporter="ultralytics"), own


def _parity(head: bytes, deploy: bytes, frames: Frames, source: Path) -> Parity:
    try:
        return check_parity(head, deploy, frames)
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"checking the export: {error}; or export unchecked with --no-check"
        ) from error
    except BackendError as error:
        raise ExportError(
            f"the graph made from {source} does not run: {error}; nothing was written"
        ) from error


def _checked_graph(model: onnx.ModelProto, manifest: Manifest) -> bytes:
    """The model's bytes, its manifest inside, once ONNX's checker has passed them."""
    content = serialized(model, {METADATA_KEY: manifest.to_json()})
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(
            f"the graph made from {manifest.source} is not valid ONNX ({first_line(error)}); "
            "nothing was written, give the .pt or export the model again"
        ) from error
    return content


def _rows(asked: int | None, anchors: int) -> int:
    """Rows of the deploy graph: NMS costs their square, which a small image need not pay."""
    return min(anchors, asked or min(DEFAULT_ROWS, max(128, anchors // 4)))


def _path(
    out: Path, source: Path, manifest: Manifest, own_imgsz: tuple[int, int], options: ExportOptions
) -> Path:
    """The artifact's file."""
    stem = _stem(source, _in_precision(manifest, options), own_imgsz, options.rows)
    if options.source_hw is not None:
        stem += f"-from{options.source_hw[0]}x{options.source_hw[1]}"
    return out / f"{stem}.onnx"


def _stem(source: Path, manifest: Manifest, own_imgsz: tuple[int, int], rows: int | None) -> str:
    """The artifact's name: the source's, and what is not its default."""
    stem = source.stem.removesuffix("-head")
    height, width = manifest.imgsz_hw
    if manifest.imgsz_hw != own_imgsz:
        stem += f"-{height}" if height == width else f"-{height}x{width}"
    if manifest.batch != BatchRange(1, 1):
        stem += f"-b{manifest.batch}".replace(":", "-")
    if rows is not None:
        stem += f"-r{rows}"
    if manifest.precision != "fp32":
        stem += f"-{manifest.precision}" + ("-cpu" if manifest.target == "cpu" else "")
    return stem + ("-head" if manifest.graph == "head" else "")
