// layer_norm: normalised rows as halves, for matrix products of many rows (prefill, large batches).
//
// Grid   ceil(M / 4). Block  128 threads, one warp a row; d a multiple of 4.
// Bytes  6 d a row: float read (three times, twice from L1), half written.
// Limit  memory bandwidth.
// Reference  kernels/reference/dense_step.py, `layer_norm`, rounded to half.
#include "layer_norm.cuh"

extern "C" __global__ void __launch_bounds__(128)
    layer_norm_rows(const float *x, const float *gain, const float *bias, float epsilon, half *out, int rows, int d) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = static_cast<int>(blockIdx.x) * 4 + static_cast<int>(threadIdx.x) / 32;
    if (row >= rows) return;  // the whole warp
    const float *values = x + static_cast<size_t>(row) * d;
    const float count = static_cast<float>(d);
    const float mean = layer_norm::warp_sum(layer_norm::partial_sum(values, d, lane, 32)) / count;
    const float variance = layer_norm::warp_sum(layer_norm::partial_squares(values, mean, d, lane, 32)) / count;
    const float scale = rsqrtf(variance + epsilon);
    for (int i = lane * 4; i < d; i += 128) {
        *reinterpret_cast<uint2 *>(out + static_cast<size_t>(row) * d + i) =
            layer_norm::normalised(values + i, gain + i, bias + i, mean, scale);
    }
}
