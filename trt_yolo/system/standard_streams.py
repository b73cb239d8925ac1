"""Standard input, output and error as a shell may leave them: closed, full, or with nobody who reads.

Enters: the process's streams. Leaves: streams that can be written to. Knows no commands.
"""

from __future__ import annotations

import io
import os
import sys


def hold_standard_streams() -> None:
    """Opens the null device as each of stdin, stdout and stderr that is closed.

    Otherwise the next file opened would get its number, and with it whatever a library prints.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            fd = os.open(os.devnull, os.O_RDWR)
            if fd == number:
                os.set_inheritable(fd, True)
            else:  # another thread was faster
                os.close(fd)


def open_standard_streams() -> None:
    """Does that, and makes `sys.stdout` and `sys.stderr` take text, file names in any encoding included."""
    hold_standard_streams()
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  as long as the process
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name must not end a command


def flush_standard_streams() -> OSError | None:
    """Writes what is still buffered, and drops what cannot be written; returns why stdout could not."""
    problem = None
    for stream in (sys.stderr, sys.stdout):
        try:
            stream.flush()
        except OSError as error:
            problem = error if stream is sys.stdout else None
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # or Python tries again at exit
    return problem
