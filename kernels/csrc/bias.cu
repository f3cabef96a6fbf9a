// What follows a matrix product of many rows y = W x, half (M, N):
//
//   bias_add       y  = y + b          in place
//   bias_gelu      y  = gelu(y + b)    in place
//   bias_residual  x += y + b          x float (M, N), in place
//
// Grid   ceil(M N / 2048). Block  256 threads, eight elements each; N a multiple of 8.
// Bytes  4 an element (10 with the residual).
// Limit  memory bandwidth.
// Reference  kernels/reference/dense_step.py, functions of the same names.
#include "gelu.cuh"

namespace {

// Eight elements of a row, and their bias added, in float.
struct Eight {
    float value[8];
    size_t first;

    // False behind the end.
    __device__ __forceinline__ bool load(const half *y, const float *bias, int rows, int columns) {
        first = (static_cast<size_t>(blockIdx.x) * 256 + threadIdx.x) * 8;
        if (first >= static_cast<size_t>(rows) * columns) return false;
        const int column = static_cast<int>(first % columns);
        const uint4 bits = *reinterpret_cast<const uint4 *>(y + first);
        const uint32_t pairs[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const half2 pair = *reinterpret_cast<const half2 *>(&pairs[i]);
            value[2 * i] = __low2float(pair) + bias[column + 2 * i];
            value[2 * i + 1] = __high2float(pair) + bias[column + 2 * i + 1];
        }
        return true;
    }

    __device__ __forceinline__ void store(half *y) const {
        uint32_t pairs[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const half2 pair = __floats2half2_rn(value[2 * i], value[2 * i + 1]);
            pairs[i] = *reinterpret_cast<const uint32_t *>(&pair);
        }
        *reinterpret_cast<uint4 *>(y + first) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
};

}  // namespace

extern "C" __global__ void __launch_bounds__(256) bias_add(half *y, const float *bias, int rows, int columns) {
    Eight eight;
    if (eight.load(y, bias, rows, columns)) eight.store(y);
}

extern "C" __global__ void __launch_bounds__(256) bias_gelu(half *y, const float *bias, int rows, int columns) {
    Eight eight;
    if (!eight.load(y, bias, rows, columns)) return;
#pragma unroll
    for (int i = 0; i < 8; i++) eight.value[i] = gelu(eight.value[i]);
    eight.store(y);
}

extern "C" __global__ void __launch_bounds__(256)
    bias_residual(const half *y, const float *bias, float *x, int rows, int columns) {
    Eight eight;
    if (!eight.load(y, bias, rows, columns)) return;
    float4 *to = reinterpret_cast<float4 *>(x + eight.first);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        float4 sum = to[i];
        sum.x += eight.value[4 * i];
        sum.y += eight.value[4 * i + 1];
        sum.z += eight.value[4 * i + 2];
        sum.w += eight.value[4 * i + 3];
        to[i] = sum;
    }
}
