"""`python -m trt_yolo` is `trt-yolo`."""

from trt_yolo.cli.main import run

run()
