"""`trt-yolo inspect`: what is inside a checkpoint, an ONNX graph or an engine; tables, JSON, one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from trt_yolo.inspection.inspection import Format, Inspection

_SUFFIXES: dict[str, Format] = {".pt": "pt", ".onnx": "onnx", ".engine": "engine", ".plan": "engine"}


def inspect(
    file: Annotated[Path, typer.Argument(help="A .pt, an .onnx or an .engine.", show_default=False)],
    json_line: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    html: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write one page with the graph, coloured by precision.", show_default=False),
    ] = None,
    times: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="What layers took: the JSON of trtexec --exportProfile.", show_default=False),
    ] = None,
) -> None:
    """Say what is inside a model file: inputs, precision of its layers, Q/DQ, manifest, and whether it loads here."""
    from trt_yolo.cli.render import print_json

    inspection = _inspected(file)
    if times is not None:
        inspection = _with_times(inspection, times)
    if html is not None:
        _write_page(inspection, html, times)
    _show(inspection)
    if html is not None:
        typer.echo(f"wrote {html}")
    if json_line:
        print_json(inspection.to_dict())


def _with_times(inspection: Inspection, file: Path) -> Inspection:
    """The layers with what each took, by their names."""
    import dataclasses

    from trt_yolo.errors import InputError
    from trt_yolo.inspection.from_inspector import times_from_profile

    try:
        found = times_from_profile(file.read_text(encoding="utf-8", errors="replace"))
    except OSError as error:
        raise InputError(
            f"cannot read {file}: {error.strerror or error}; give another with --times"
        ) from error
    layers = tuple(dataclasses.replace(one, time_ms=found.get(one.name)) for one in inspection.layers)
    if all(one.time_ms is None for one in layers):
        raise InputError(
            f"none of the {len(found)} layers in {file} is one of {inspection.path}; "
            "give the profile of this engine, inspected where it loads"
        )
    return dataclasses.replace(inspection, layers=layers)


def _inspected(file: Path) -> Inspection:
    kind = _format(file)
    if kind == "pt":
        from trt_yolo.inspection.from_checkpoint import inspection_from_checkpoint

        return inspection_from_checkpoint(file)
    if kind == "onnx":
        from trt_yolo.inspection.from_onnx import inspection_from_onnx

        return inspection_from_onnx(file)
    from trt_yolo.inspection.from_engine import inspection_from_engine

    return inspection_from_engine(file)


def _format(file: Path) -> Format:
    """What the file is, by its first bytes; where they do not tell, by its suffix."""
    import os

    from trt_yolo.errors import InputError
    from trt_yolo.system.paths import absence

    if not os.path.exists(file):  # unlike Path.exists, never raises
        raise InputError(f"{absence(file)}; give the path of a .pt, an .onnx or an .engine")
    if not file.is_file():
        raise InputError(f"{file} is no file; give the path of a .pt, an .onnx or an .engine")
    try:
        with file.open("rb") as opened:
            start = opened.read(8)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from error
    kind = _format_of_bytes(start) or _SUFFIXES.get(file.suffix.lower())
    if kind is None:
        raise InputError(f"{file} is no checkpoint, ONNX model or engine; give a .pt, an .onnx or an .engine")
    return kind


def _format_of_bytes(start: bytes) -> Format | None:
    """A zip is a checkpoint; TensorRT has its own mark, Ultralytics puts JSON and its length before the engine.

    ONNX begins with its IR version: field 1 of the message, a small number, then another field.
    """
    if start.startswith(b"PK\x03\x04"):
        return "pt"
    from trt_yolo.engine.plan import TAGS

    if start[:4] in TAGS or start[4:5] == b"{":
        return "engine"
    if len(start) > 2 and start[0] == 0x08 and 0 < start[1] < 0x80 and start[2] != 0:
        return "onnx"
    return None


def _write_page(inspection: Inspection, page: Path, times: Path | None) -> None:
    import os

    from trt_yolo.artifacts.files import check_no_input, write_together
    from trt_yolo.errors import InputError
    from trt_yolo.inspection.page import page_from_inspection

    if os.path.isdir(page):
        raise InputError(f"{page} is a folder; give the name of a page with --html, such as model.html")
    check_no_input(page, [inspection.path, f"{inspection.path}.json", times])
    text = page_from_inspection(inspection)
    try:
        write_together({page: text.encode("utf-8", "replace")})
    except InputError as error:
        reason = getattr(error.__cause__, "strerror", None) or error.__cause__
        raise InputError(f"cannot write {page}: {reason}; give another place with --html") from error


def _show(inspection: Inspection) -> None:
    from trt_yolo.cli.render import print_table, printable

    rows = [[name, text] for name, text in _facts(inspection)]
    print_table(f"{inspection.path}: {inspection.format}", ["fact", "value"], rows)
    columns = ["precision", "layers", "conv", "matmul", "parameters", "MACs", "MACs, %"]
    print_table("layers by precision", columns, _sums(inspection), numbers=len(columns) - 1)
    if inspection.headline:
        typer.echo(inspection.headline)
    for note in inspection.notes:
        typer.echo(f"note: {printable(note)}")


def _facts(inspection: Inspection) -> list[tuple[str, str]]:
    from trt_yolo.inspection.inspection import shape_text

    rows = [("size", f"{inspection.bytes / 1e6:.1f} MB")]
    for title, tensors in (("input", inspection.inputs), ("output", inspection.outputs)):
        rows += [(f"{title} {one.name}", f"{one.dtype} {shape_text(one.shape)}") for one in tensors]
    rows += [("parameters", f"{inspection.parameters:,}"), *inspection.facts.items()]
    if inspection.quantize_nodes is not None:
        rows.append(("Q/DQ", f"{inspection.quantize_nodes} / {inspection.dequantize_nodes}"))
    manifest = inspection.manifest
    if manifest is not None:
        target = f" for {manifest.target}" if manifest.target else ""
        rows.append(
            ("manifest", f"{manifest.graph} graph, {manifest.precision}{target}, {_classes(inspection)}")
        )
    if inspection.loads_here is not None:
        rows.append(("loads here", "yes" if inspection.loads_here else f"no: {inspection.why_not}"))
    return rows


def _classes(inspection: Inspection) -> str:
    names = inspection.manifest.names if inspection.manifest else {}
    return f"{len(names)} class{'' if len(names) == 1 else 'es'}"


def _sums(inspection: Inspection) -> list[list[str]]:
    from trt_yolo.inspection.inspection import amount

    total = sum(share.macs for share in inspection.precisions.values())
    return [
        [
            precision or "unknown",
            str(share.layers),
            str(share.convolutions or ""),
            str(share.products or ""),
            amount(share.parameters),
            amount(share.macs) if share.macs else "",
            f"{100 * share.macs / total:.1f}" if share.macs else "",
        ]
        for precision, share in inspection.precisions.items()
    ]
