"""`trt-yolo`: the commands, and how their failures look. Every command imports what it needs when it runs."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import Any

import typer

from trt_yolo.cli.bench import bench
from trt_yolo.cli.doctor import doctor
from trt_yolo.cli.export import export
from trt_yolo.cli.inspect import inspect
from trt_yolo.cli.predict import predict
from trt_yolo.cli.val import val
from trt_yolo.errors import TrtYoloError
from trt_yolo.version import __version__

app = typer.Typer(
    name="trt-yolo",
    help="Deploy YOLOv8: export to ONNX and TensorRT, run, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (export, inspect, predict, val, bench, doctor):
    app.command()(command)

_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]  # typer ships its own copy of click's since 0.26
_INTERRUPTED = 130


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"trt-yolo {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


def run() -> None:
    """Runs the command line; a failure is one line on stderr and exit code 1."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # unreadable images are reported by us, once
    os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(1 << 28))  # 0.8 GB decoded: nobody's photograph
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name must not end a command
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    try:
        code = app(standalone_mode=False)
    except TrtYoloError as error:
        code = _failed(str(error))
    except _USAGE_ERROR as error:
        message = error.format_message()  # empty where no command was given: the help was printed
        code = _failed(f"{message} (trt-yolo --help shows the commands and options)") if message else 1
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us is gone
        code = 1
    sys.exit(code)


def _failed(message: str) -> int:
    one_line = "".join(mark if mark.isprintable() else "?" for mark in " ".join(message.split()))
    typer.echo(f"error: {one_line}", err=True)
    return 1
