"""What the commands share on a terminal: tables on stdout, progress on stderr, JSON as one line."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console, JustifyMethod
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

_SPLIT = re.compile(f"(?<={re.escape(os.sep)})")  # after a folder
_Column = list[str]  # its head, then its cells


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0
) -> None:
    """Prints a table to stdout; the last `numbers` columns are aligned to the right.

    A terminal's width is kept: folders that all paths of a column share become `...`, text is wrapped between words
    and paths after a folder, and where that is not enough each row becomes a table. Elsewhere lines are as long as
    they need to be, so that what is read by a script is whole.
    """
    console = Console()
    console.print(printable(title), style="bold", soft_wrap=True, highlight=False, markup=False)
    made = [[head, *(printable(row[at]) for row in rows)] for at, head in enumerate(columns)]
    _print_columns(console, made, numbers)


def _print_columns(console: Console, columns: Sequence[_Column], numbers: int) -> None:
    frame = 3 * len(columns) + 1
    if not console.is_terminal:
        console.width = max(console.width, frame + sum(map(_whole_width, columns)))
    room = console.width - frame
    if sum(map(_least_width, columns)) > room and len(columns) > 2:
        heads = ["", *(column[0] for column in columns)]
        for row in zip(*map(_shortened, columns), strict=True):
            _print_columns(console, [heads, ["", *row]], 0)
        return
    table = Table(show_header=any(column[0] for column in columns))
    fitted = []
    for at, (column, width) in enumerate(zip(columns, _widths(columns, room), strict=True)):
        justify: JustifyMethod = "right" if at >= len(columns) - numbers else "left"
        table.add_column(column[0], justify=justify, overflow="fold", width=width)
        fitted.append(_fitted(column[1:], width))
    for row in zip(*fitted, strict=True):
        table.add_row(*map(Text, row))  # a name in brackets is no markup
    console.print(table)


def _widths(columns: Sequence[_Column], room: int) -> list[int]:
    """Of each column, in marks: what its longest word takes, and a share of what is left."""
    widths = [min(_least_width(column), room) for column in columns]
    wanted = [_whole_width(column) - width for column, width in zip(columns, widths, strict=True)]
    spare = max(0, room - sum(widths))
    for done, at in enumerate(sorted(range(len(columns)), key=wanted.__getitem__)):
        more = min(wanted[at], spare // (len(columns) - done))
        widths[at] += more
        spare -= more
    return widths


def _whole_width(column: _Column) -> int:
    return max(map(cell_len, column))


def _least_width(column: _Column) -> int:
    """The longest word, of paths the longest part, where the folders that they share are left out."""
    words = [word for cell in _shortened(column) for word in cell.split(" ")]
    parts = [part for word in words for part in (_SPLIT.split(word) if _is_path(word) else [word])]
    return max(map(cell_len, [*column[0].split(" "), *parts]))


def _shortened(column: _Column) -> list[str]:
    """The cells without any folder that their paths share."""
    cells = column[1:]
    return [_without(cell, _shared_folders(cells)) for cell in cells]


def _fitted(cells: Sequence[str], width: int) -> list[str]:
    """The cells, with as few shared folders left out as makes their words fit."""
    shown = list(cells)
    for folders in range(1, _shared_folders(cells) + 1):
        if all(cell_len(word) <= width for cell in shown for word in cell.split(" ")):
            break
        shown = [_without(cell, folders) for cell in cells]
    return [" ".join(_broken(word, width) for word in cell.split(" ")) for cell in shown]


def _is_path(word: str) -> bool:
    return word.count(os.sep) > 1


def _shared_folders(cells: Sequence[str]) -> int:
    """With how many folders all paths in the cells begin."""
    paths = {word for cell in cells for word in cell.split(" ") if _is_path(word)}
    levels = zip(*(path.split(os.sep)[:-1] for path in paths), strict=False)
    return len(list(itertools.takewhile(lambda level: len(set(level)) == 1, levels)))


def _without(cell: str, folders: int) -> str:
    """The cell with `...` for the first folders of its paths, of which `/` is one."""
    if folders < 2:  # not worth it
        return cell
    words = cell.split(" ")
    return " ".join(
        os.sep.join(["...", *word.split(os.sep)[folders:]]) if _is_path(word) else word for word in words
    )


def _broken(word: str, width: int) -> str:
    """A path in lines that fit, broken after a folder; other words as they are."""
    if not _is_path(word) or cell_len(word) <= width:
        return word
    lines = [""]
    for part in _SPLIT.split(word):
        if lines[-1] and cell_len(lines[-1] + part) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def printable(text: str) -> str:
    """What may come from a file, without what a terminal would obey."""
    return "".join(mark if mark.isprintable() else "?" for mark in text)


def print_json(value: dict[str, Any]) -> None:
    """Prints one object on one line to stdout."""
    text = json.dumps(value, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def progress_bar(*columns: Any) -> Progress:
    """A progress bar on stderr that leaves nothing behind; silent where that is no terminal."""
    console = Console(stderr=True)
    return Progress(
        *(columns or Progress.get_default_columns()),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def warn(message: str) -> None:
    """Prints one line to stderr, where that can be written to."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"warning: {' '.join(message.split())}\n")
