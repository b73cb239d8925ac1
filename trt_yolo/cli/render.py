"""What the commands share on a terminal: tables on stdout, progress on stderr, JSON as one line."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: int = 0
) -> None:
    """Prints a table to stdout; the last `numbers` columns are aligned to the right."""
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(
            column, justify="right" if index >= len(columns) - numbers else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # a name in brackets is no markup
    console = Console()
    console.print(printable(title), style="bold", soft_wrap=True, highlight=False, markup=False)
    console.print(table)


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
