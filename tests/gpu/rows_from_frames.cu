// Rows from frames by a rule that the host knows (rows_rule.py): every byte of every answer can be checked.
// grid (ceil(rows / 128), batch), block 128: a thread makes one row of one frame. Built by NVRTC, or as plain C++ by
// tests/fake_cuda.

extern "C" __global__ void rows_from_frames(const unsigned char* frames,  // (batch, frame_bytes)
                                            const float* conf,            // one number
                                            const float* iou,             // one number
                                            float* detections,            // (batch, rows, 6): x1 y1 x2 y2 score class
                                            float* unconverged,           // (batch,)
                                            int frame_bytes, int rows, long long wait_cycles) {
    const long long start = clock64();
    const int row = blockIdx.x * blockDim.x + threadIdx.x;
    const int index = blockIdx.y;
    if (row >= rows) return;

    const unsigned char* frame = frames + (size_t)index * frame_bytes;
    if (frame[0] == 'T' && frame[1] == 'R' && frame[2] == 'A' && frame[3] == 'P') __trap();

    unsigned int hash = __float_as_uint(*conf) * 31u + __float_as_uint(*iou) * 17u;
    for (int i = row; i < frame_bytes; i += rows)
        hash += (frame[i] + 1u) * ((unsigned int)i * 2654435761u + 1u);

    while (clock64() - start < wait_cycles) {
    }
    float* out = detections + ((size_t)index * rows + row) * 6;
    out[0] = (float)(hash & 127u);
    out[1] = (float)((hash >> 7) & 127u);
    out[2] = (float)(128u + ((hash >> 14) & 127u));
    out[3] = (float)(128u + ((hash >> 21) & 127u));
    out[4] = __fdiv_rn((float)(rows - row), (float)(2 * rows));  // rounded as IEEE 754 says, as NumPy does
    out[5] = (float)(hash >> 28);
    if (row == 0) unconverged[index] = 0.0f;
}
