"""`python -m trt_yolo.bench.peers NAME OPTIONS_JSON [IMAGES]`: the process of one peer; see `serve`."""

from __future__ import annotations

import sys

from trt_yolo.bench.peers.serve import main

if __name__ == "__main__":
    main(sys.argv[1:])
