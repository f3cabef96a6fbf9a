// Mean and reciprocal standard deviation of a row, and the normalised row: in float32, in two passes, because one pass
// loses the variance of rows whose mean is large.
#pragma once
#include "portable.cuh"

namespace layer_norm {

__device__ __forceinline__ float warp_sum(float value) {
    for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

// Sum of every `stride`-th group of four elements of a row, from group `first` on; d a multiple of 4, x aligned to 16.
__device__ __forceinline__ float partial_sum(const float *x, int d, int first, int stride) {
    float sum = 0.0f;
    for (int i = first * 4; i < d; i += stride * 4) {
        const float4 v = *reinterpret_cast<const float4 *>(x + i);
        sum += (v.x + v.y) + (v.z + v.w);
    }
    return sum;
}

// The same of the squared distances to `mean`.
__device__ __forceinline__ float partial_squares(const float *x, float mean, int d, int first, int stride) {
    float sum = 0.0f;
    for (int i = first * 4; i < d; i += stride * 4) {
        const float4 v = *reinterpret_cast<const float4 *>(x + i);
        const float a = v.x - mean, b = v.y - mean, c = v.z - mean, e = v.w - mean;
        sum += (a * a + b * b) + (c * c + e * e);
    }
    return sum;
}

// Four elements of (x - mean) * scale * gain + bias as halves.
__device__ __forceinline__ uint2 normalised(const float *x, const float *gain, const float *bias, float mean,
                                            float scale) {
    const float4 v = *reinterpret_cast<const float4 *>(x), g = *reinterpret_cast<const float4 *>(gain),
                 b = *reinterpret_cast<const float4 *>(bias);
    const half2 low = __floats2half2_rn((v.x - mean) * scale * g.x + b.x, (v.y - mean) * scale * g.y + b.y),
                high = __floats2half2_rn((v.z - mean) * scale * g.z + b.z, (v.w - mean) * scale * g.w + b.w);
    uint2 bits;
    bits.x = *reinterpret_cast<const uint32_t *>(&low);
    bits.y = *reinterpret_cast<const uint32_t *>(&high);
    return bits;
}

}  // namespace layer_norm
