"""`trt-yolo`: the commands, and how their failures look. Every command imports what it needs when it runs."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from trt_yolo.cli.bench import bench
from trt_yolo.cli.doctor import doctor
from trt_yolo.cli.export import export
from trt_yolo.cli.inspect import inspect
from trt_yolo.cli.predict import predict
from trt_yolo.cli.system_errors import line_of
from trt_yolo.cli.val import val
from trt_yolo.errors import InputError, TrtYoloError
from trt_yolo.system.standard_streams import flush_standard_streams, open_standard_streams
from trt_yolo.version import __version__

if TYPE_CHECKING:
    from trt_yolo.cli.foreign_options import Options

_USAGE_ERROR: Any = typer.BadParameter.__bases__[0]  # typer ships its own copy of click's since 0.26
_INTERRUPTED = 130


class _Command(TyperCommand):
    """A command that refuses `name=value`, as other tools write options, among its arguments."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        given = [ctx.params[one.name] for one in self.params if one.param_type_name == "argument"]
        arguments = [word for one in given for word in (one if isinstance(one, list | tuple) else [one])]
        pairs = [str(word) for word in arguments if "=" in str(word)]
        if pairs:
            from trt_yolo.cli.foreign_options import equivalents, sentence

            found = equivalents(self.name or "", pairs, options_of(ctx.parent.command))
            if found:
                raise InputError(sentence(found))
        return rest


def options_of(group: Any) -> Options:
    """The options of each command, such as `--imgsz`, and whether they are flags."""
    return {
        name: {
            option: bool(one.is_flag)
            for one in command.params
            if one.param_type_name == "option"
            for option in one.opts + one.secondary_opts
        }
        for name, command in group.commands.items()
    }


app = typer.Typer(
    name="trt-yolo",
    help="Deploy YOLOv8: export to ONNX and TensorRT, run, measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (export, inspect, predict, val, bench, doctor):
    app.command(cls=_Command)(command)


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
    """Runs the command line; a failure is one line on stderr and exit code 1, a reader who left exit code 1 alone."""
    open_standard_streams()
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")  # unreadable images are reported by us, once
    warnings.filterwarnings("ignore", module="PIL")  # of damaged files, which are reported by us
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    code = _exit_code()
    problem = flush_standard_streams()
    if problem is not None and not code:
        code = _failed_in_system(problem)
    sys.exit(code)


def _exit_code() -> int:
    """Runs the command, and prints its failure."""
    try:
        return int(app(standalone_mode=False) or 0)
    except TrtYoloError as error:
        return _failed(str(error))
    except _USAGE_ERROR as error:
        message = _line_of_usage(error)
        return _failed(message) if message else 1
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except OSError as error:
        return _failed_in_system(error)


def _line_of_usage(error: Any) -> str:
    """What to write instead of another tool's words, or click's message; empty where the help was printed."""
    instead = _instead_of(error)
    if instead:
        return instead
    message = error.format_message()
    return f"{message} (trt-yolo --help shows the commands and options)" if message else ""


def _instead_of(error: Any) -> str:
    """What to write instead; empty if click's error is about a word that has no equivalent."""
    from trt_yolo.cli.foreign_options import equivalents, equivalents_at_start, sentence

    if error.ctx is None:  # one of our own options without its value, or with a value that it does not take
        return ""
    words, options = sys.argv[1:], options_of(error.ctx.find_root().command)
    if error.ctx.parent is None:
        found = equivalents_at_start(words, options)
    else:
        found = equivalents(error.ctx.info_name, words, options)
    unknown = getattr(error, "option_name", None)
    is_found = found and (unknown is None or any(one.typed == unknown for one in found))
    return sentence(found) if is_found else ""


def _failed_in_system(error: OSError) -> int:
    if isinstance(error, BrokenPipeError):  # whoever read us has all they wanted
        return 1
    line = line_of(error)
    if line is None:
        raise error
    return _failed(line)


def _failed(message: str) -> int:
    one_line = "".join(mark if mark.isprintable() else "?" for mark in " ".join(message.split()))
    with contextlib.suppress(OSError):
        typer.echo(f"error: {one_line}", err=True)
    return 1
