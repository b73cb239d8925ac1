"""`trt-yolo`, also as `python -m trt_yolo`."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line; Ctrl-C while it is still being imported ends it like any later one."""
    try:
        from trt_yolo.cli.main import run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
