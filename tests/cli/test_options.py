"""Groups of options: typer sees their fields, the command the groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import pytest
import typer
from typer.testing import CliRunner

from trt_yolo.cli.options import DeviceOptions, WorkerOptions, with_groups
from trt_yolo.errors import InputError
from trt_yolo.runtime.options import RuntimeOptions


@dataclass(frozen=True, kw_only=True)
class Size:
    """A group."""

    width: Annotated[int, typer.Option(help="Columns.", rich_help_panel="Size")] = 3
    depth: Annotated[Optional[float], typer.Option("--deep", show_default="flat")] = None  # noqa: UP045


@dataclass(frozen=True, kw_only=True)
class Output:
    """Another one."""

    json_line: Annotated[bool, typer.Option("--json", help="A line.")] = False


def _run(*arguments: str) -> tuple[dict[str, Any], str]:
    """What the command was called with, and what it printed."""
    given: dict[str, Any] = {}
    app = typer.Typer(add_completion=False)

    @app.command()
    @with_groups
    def draw(
        path: Annotated[Path, typer.Argument(help="A file.")],
        size: Size,
        output: Output,
        note: Annotated[Optional[str], typer.Argument(help="A note.")] = None,  # noqa: UP045
        colour: Annotated[str, typer.Option(help="A name.")] = "red",
    ) -> None:
        """Draws."""
        given.update(path=path, size=size, output=output, note=note, colour=colour)

    done = CliRunner().invoke(app, arguments, env={"COLUMNS": "100", "TERMINAL_WIDTH": "100"})
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return given, done.output


def test_a_command_gets_its_groups() -> None:
    given, _ = _run("a.png", "a note", "--width", "7", "--deep", "0.5", "--json", "--colour", "blue")
    wanted = {"size": Size(width=7, depth=0.5), "output": Output(json_line=True), "colour": "blue"}
    assert given == {"path": Path("a.png"), "note": "a note", **wanted}


def test_defaults_are_the_fields() -> None:
    given, _ = _run("a.png")
    assert given == {"path": Path("a.png"), "size": Size(), "output": Output(), "note": None, "colour": "red"}


def test_the_help_has_each_field() -> None:
    _, text = _run("--help")
    for part in (
        "Draws.",
        "A file.",
        "--width",
        "Columns.",
        "Size",
        "--deep",
        "(flat)",
        "--json",
        "--colour",
    ):
        assert part in text
    assert "--size" not in text


def test_an_option_of_two_groups_is_refused() -> None:
    def twice(one: Size, other: Size) -> None:
        pass

    with pytest.raises(ValueError, match="duplicate parameter name: 'width'"):
        with_groups(twice)


def test_nothing_asked_for_is_the_default_of_load() -> None:
    assert RuntimeOptions(**WorkerOptions().keywords(), **DeviceOptions().keywords()) == RuntimeOptions()


def test_what_is_asked_for() -> None:
    device = DeviceOptions(devices="0, 2", provider="cuda", spin=False, decoder="cpu")
    worker = WorkerOptions(workers=2, threads=1, streams=3)
    assert RuntimeOptions(**worker.keywords(), **device.keywords()) == RuntimeOptions(
        workers=2, threads=1, streams=3, devices=(0, 2), provider="cuda", spin=False, decoder="cpu"
    )
    with pytest.raises(InputError, match="--devices '0;1' names no GPUs"):
        DeviceOptions(devices="0;1").keywords()
