"""Facts about TensorRT engines: what lies in one, where it loads, its options, how it is kept on disk.

Builds nothing: that is `trt_yolo.build`. Runs nothing: that is `trt_yolo.backends`.
"""
