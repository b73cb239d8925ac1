"""A fresh Python of this environment, for work in a process of its own.

Enters: a function and plain arguments. Leaves: the command that calls it, which is short whatever the process is
told: its import path and the arguments lie in a nameless file that it inherits (one word of a command line holds
128 KiB). Knows nothing of what runs there.
"""

from __future__ import annotations

import contextlib
import errno
import multiprocessing.spawn
import os
import sys
import tempfile
from collections.abc import Iterator
from typing import IO

from trt_yolo.errors import WorkerError
from trt_yolo.system.standard_streams import hold_standard_streams

# SIGCHLD that is ignored would be ignored there too: no library would see how processes of its own end
_PROGRAM = """\
import os, sys
os.close({fd})
sys.path[:] = {path}
import signal
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
from {module} import {name}
{name}(*{arguments})
"""
_DOES_NOT_RUN = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC)

WHAT_TO_SET = "set the Python of this environment with multiprocessing.set_executable('/path/to/python')"

_Plain = str | int | list[str]


@contextlib.contextmanager
def fresh_python(function: str, *arguments: _Plain) -> Iterator[tuple[list[str], int]]:
    """The command that calls a function in a fresh interpreter, which imports from where this one does.

    Start the process inside the `with`; the descriptor that comes beside the command is for its `pass_fds`.

    Args:
        function: `package.module:name`.
        arguments: What it is called with, of any size.

    Raises:
        WorkerError: This program has no interpreter to start, or what should be one does not run.
    """
    hold_standard_streams()
    python = executable()
    module, _, name = function.partition(":")
    with contextlib.closing(_nameless_file()) as file:
        text = _PROGRAM.format(
            fd=file.fileno(), path=ascii(import_path()), module=module, name=name, arguments=ascii(arguments)
        )
        file.write(text.encode())
        file.seek(0)
        command = [python, "-c", f"import os; exec(os.read({file.fileno()}, {len(text)}))  # {function}"]
        try:
            yield command, file.fileno()
        except OSError as error:
            if error.errno in _DOES_NOT_RUN and error.filename == python:
                raise WorkerError(f"{python} does not run ({error.strerror}); {WHAT_TO_SET}") from error
            raise


def executable() -> str:
    """The path of a Python of this environment: what multiprocessing was told, or what runs this program.

    Raises:
        WorkerError: The program is frozen into one file, or embeds Python.
    """
    found = multiprocessing.spawn.get_executable() or sys.executable
    if not found:
        raise WorkerError(
            f"a child process needs a Python interpreter, but sys.executable is {found!r} (a program that "
            f"embeds Python); {WHAT_TO_SET}"
        )
    if getattr(sys, "frozen", False) and os.fsdecode(found) == sys.executable:
        raise WorkerError(
            "a child process needs a Python interpreter, but this program is a frozen executable; "
            f"{WHAT_TO_SET}"
        )
    return os.fsdecode(found)


def import_path() -> list[str]:
    """`sys.path` as Python itself reads it: entries that are no strings are passed over."""
    return [str(entry) for entry in sys.path if isinstance(entry, str)]


def _nameless_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("trt-yolo-start", os.MFD_CLOEXEC), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
