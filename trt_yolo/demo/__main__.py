"""`python -m trt_yolo.demo FOLDER`: writes demo scenes and their labels, to try things on."""

from __future__ import annotations

import argparse
from pathlib import Path

from trt_yolo.demo.scenes import holds_other_files, write_yolo_dataset

_LEAST_SIZE = 96


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m trt_yolo.demo", description=__doc__)
    parser.add_argument("folder", type=Path, help="gets images/val, labels/val and data.yaml")
    parser.add_argument("--count", type=int, default=16, help="how many scenes (default 16)")
    parser.add_argument("--size", type=int, default=256, help="side in pixels (default 256)")
    options = parser.parse_args()
    if options.size < _LEAST_SIZE:
        parser.error(f"--size {options.size} is too small for digits; give at least {_LEAST_SIZE}")
    try:
        if holds_other_files(options.folder):
            parser.error(f"{options.folder} holds files that are not the demo's; give a new folder")
        write_yolo_dataset(options.folder, train=0, val=options.count, size=options.size)
    except OSError as error:
        parser.error(f"cannot write to {options.folder}: {error.strerror}; give another folder")


if __name__ == "__main__":
    main()
