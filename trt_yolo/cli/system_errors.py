"""An OSError as a line for the person at the terminal, where the cause is a file, a disk or a limit.

Enters: an OSError that no command expected. Leaves: one line, or None where only a bug explains it.
"""

from __future__ import annotations

import errno
import os

_FILES = {
    getattr(errno, name)
    for name in (
        "ENOENT", "EEXIST", "ENOTDIR", "EISDIR", "ENOTEMPTY", "ELOOP", "ENAMETOOLONG", "EACCES", "EPERM", "EROFS",
        "EBUSY", "ETXTBSY", "ESTALE",
    )
    if hasattr(errno, name)
}  # fmt: skip
_WRITING = {errno.ENOSPC, errno.EFBIG, errno.EIO, getattr(errno, "EDQUOT", errno.ENOSPC)}
_LIMITS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}


def line_of(error: OSError) -> str | None:
    """What the system refused, and for which file; None for an error that a file, disk or limit does not explain."""
    reason = error.strerror or str(error)
    if error.errno in _LIMITS:
        return f"a system limit was reached: {reason}; ulimit -a shows the limits"
    if error.filename is not None and error.errno in _FILES | _WRITING:
        return f"cannot use {os.fsdecode(error.filename)}: {reason}"
    if error.errno in _WRITING:
        return f"cannot write the output: {reason}; free some space there, or redirect the output"
    if error.errno == errno.ENOENT:  # of the current folder, or of every folder for temporary files
        return f"{reason}; check that the current folder still exists and that TMPDIR names a folder"
    return None
