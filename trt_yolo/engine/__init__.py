"""TensorRT engines: built from ONNX, described, checked before they are loaded, built anew.

`tensorrt` and `tensorrt_rtx` are imported in `library.py` alone, and only where one of them is asked to work.
"""
