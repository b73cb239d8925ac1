// The errors that the stand-in answers with: ERROR(name here, number, what CUDA calls it, its text).
ERROR(OK, 0, "CUDA_SUCCESS", "no error")
ERROR(INVALID_VALUE, 1, "CUDA_ERROR_INVALID_VALUE", "invalid argument")
ERROR(OUT_OF_MEMORY, 2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory")
ERROR(NOT_INITIALIZED, 3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error")
ERROR(NO_DEVICE, 100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected")
ERROR(INVALID_DEVICE, 101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal")
ERROR(INVALID_CONTEXT, 201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context")
ERROR(INVALID_HANDLE, 400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle")
ERROR(ILLEGAL_STATE, 401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state")
ERROR(NOT_FOUND, 500, "CUDA_ERROR_NOT_FOUND", "named symbol not found")
ERROR(NOT_READY, 600, "CUDA_ERROR_NOT_READY", "device not ready")
ERROR(CONTEXT_IS_DESTROYED, 709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed")
ERROR(ALREADY_REGISTERED, 712, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
      "part or all of the requested memory range is already mapped")
ERROR(NOT_REGISTERED, 713, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
      "pointer does not correspond to a registered memory region")
ERROR(LAUNCH_FAILED, 719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure")
ERROR(NOT_SUPPORTED, 801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported")
ERROR(CAPTURE_UNSUPPORTED, 900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
      "operation not permitted when stream is capturing")
ERROR(CAPTURE_INVALIDATED, 901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
      "operation failed due to a previous error during capture")
ERROR(CAPTURE_IMPLICIT, 906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
      "operation would make the legacy stream depend on a capturing blocking stream")
ERROR(CAPTURED_EVENT, 907, "CUDA_ERROR_CAPTURED_EVENT",
      "operation not permitted on an event last recorded in a capturing stream")
ERROR(CAPTURE_WRONG_THREAD, 908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
      "attempt to terminate a thread-local capture sequence from another thread")
