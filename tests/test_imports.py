"""Imports run one way: from the command line down to the errors, and never back up. docs/files.md draws the order."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import trt_yolo

PACKAGE = Path(trt_yolo.__file__).parent
PAGE = PACKAGE.parent / "docs" / "files.md"
ORDER = (
    ("cli",),
    ("bench",),
    ("loader",),
    ("export",),
    ("build", "precision"),
    ("runtime", "inspection", "evaluation"),
    ("backends", "graph", "demo"),
    ("media", "engine", "vision"),
    ("hardware", "artifacts", "detections"),
    ("system",),
    ("errors", "version"),
)
LEVELS = {room: level for level, rooms in enumerate(ORDER) for room in rooms}


def imported(source: str) -> Iterator[str]:
    """The modules of this package that a source imports, wherever it does so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module if node.module != "trt_yolo" else f"trt_yolo.{node.names[0].name}"
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def arrows() -> set[tuple[str, str]]:
    """Which room imports from which other one, as `room, file` and the module."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        name = path.relative_to(PACKAGE).with_suffix("").as_posix()
        if name in ("__init__", "__main__"):
            continue
        modules = {one for one in imported(path.read_text("utf-8")) if one.startswith("trt_yolo.")}
        found |= {(name, module.removeprefix("trt_yolo.")) for module in modules}
    return found


def room(name: str) -> str:
    return re.split(r"[./]", name)[0]


def test_every_room_has_its_level() -> None:
    assert {room(name) for name, _ in arrows()} <= set(LEVELS)


def test_nothing_is_imported_from_above() -> None:
    upwards = [
        f"trt_yolo/{name}.py imports trt_yolo.{module}"
        for name, module in sorted(arrows())
        if LEVELS[room(module)] < LEVELS[room(name)]
    ]
    assert not upwards, "imports run from top to bottom of docs/files.md only:\n" + "\n".join(upwards)


def test_rooms_of_one_level_do_not_import_each_other_both_ways() -> None:
    pairs = {(room(name), room(module)) for name, module in arrows() if room(name) != room(module)}
    assert not [pair for pair in sorted(pairs) if pair[::-1] in pairs]


@pytest.mark.parametrize("line", ["import trt_yolo.cli.main", "def f():\n    from trt_yolo import loader"])
def test_an_import_is_seen_wherever_it_stands(line: str) -> None:
    assert LEVELS[room(next(imported(line)).removeprefix("trt_yolo."))] in (0, 2)


def test_the_order_is_drawn_as_it_is() -> None:
    block = PAGE.read_text("utf-8").split("```text\n", 1)[1].split("```", 1)[0]
    drawn = [tuple(re.findall(r"\w+", line.split("  ")[0])) for line in block.splitlines() if line.strip()]
    assert drawn == list(ORDER)
