// What lies between a VQGAN's convolutions and is neither a norm nor attention: planes to channels last, float to half
// and back, the mean of 2x2 pixels, each pixel twice, and the likeliest code.
// Reference: trt_vqgan.kernels.reference.picture_layout. Launches: trt_vqgan.kernels.launches.picture_layout.
//
// Grid: results / 256 (argmax_rows: rows / 8). Block: 256, a result a thread (argmax_rows: a warp a row). Each reads
// and writes its arrays once; limit: memory.
#include "portable.cuh"

namespace {

__device__ __forceinline__ float as_float(float x) {
    return x;
}
__device__ __forceinline__ float as_float(half x) {
    return __half2float(x);
}
__device__ __forceinline__ void put(float *to, float x) {
    *to = x;
}
__device__ __forceinline__ void put(half *to, float x) {
    *to = __float2half_rn(x);
}

__device__ __forceinline__ long long result_index() {
    return static_cast<long long>(blockIdx.x) * 256 + threadIdx.x;
}

// planes float (B, channels, plane) to (B, plane, pitch), zero beyond the last channel.
template <class T>
__device__ __forceinline__ void last(const float *__restrict__ planes, T *__restrict__ out, int plane, int channels,
                                     int pitch, long long count) {
    const long long index = result_index();
    if (index >= count) return;
    const int channel = static_cast<int>(index % pitch);
    const long long pixel = index / pitch, picture = pixel / plane;
    put(out + index, channel < channels ? planes[(picture * channels + channel) * plane + pixel % plane] : 0.f);
}

// x (B, 2 height, 2 width, pitch) to out (B, height, width, pitch).
template <class T>
__device__ __forceinline__ void mean(const T *__restrict__ x, T *__restrict__ out, int width, int pitch,
                                     long long count) {
    const long long index = result_index();
    if (index >= count) return;
    const long long pixel = index / pitch, row = pixel / width;  // rows of all pictures lie at equal distances
    const T *first = x + ((row * 2) * (width * 2) + pixel % width * 2) * pitch + index % pitch;
    const T *second = first + static_cast<long long>(width) * 2 * pitch;
    put(out + index,
        0.25f * ((as_float(first[0]) + as_float(first[pitch])) + (as_float(second[0]) + as_float(second[pitch]))));
}

// x (B, height, width, pitch) to out (B, 2 height, 2 width, pitch).
template <class T>
__device__ __forceinline__ void twice(const T *__restrict__ x, T *__restrict__ out, int width, int pitch,
                                      long long count) {
    const long long index = result_index();
    if (index >= count) return;
    const long long pixel = index / pitch, row = pixel / (2 * width);
    out[index] = x[(row / 2 * width + pixel % (2 * width) / 2) * pitch + index % pitch];
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256)
    channels_last_half(const float *planes, half *out, int plane, int channels, int pitch, long long count) {
    last(planes, out, plane, channels, pitch, count);
}
extern "C" __global__ void __launch_bounds__(256)
    channels_last_float(const float *planes, float *out, int plane, int channels, int pitch, long long count) {
    last(planes, out, plane, channels, pitch, count);
}
extern "C" __global__ void __launch_bounds__(256) float_to_half(const float *x, half *out, long long count) {
    const long long index = result_index();
    if (index < count) put(out + index, x[index]);
}
extern "C" __global__ void __launch_bounds__(256) half_to_float(const half *x, float *out, long long count) {
    const long long index = result_index();
    if (index < count) out[index] = as_float(x[index]);
}
extern "C" __global__ void __launch_bounds__(256)
    shrink_half(const half *x, half *out, int width, int pitch, long long count) {
    mean(x, out, width, pitch, count);
}
extern "C" __global__ void __launch_bounds__(256)
    shrink_float(const float *x, float *out, int width, int pitch, long long count) {
    mean(x, out, width, pitch, count);
}
extern "C" __global__ void __launch_bounds__(256)
    repeat_half(const half *x, half *out, int width, int pitch, long long count) {
    twice(x, out, width, pitch, count);
}
extern "C" __global__ void __launch_bounds__(256)
    repeat_float(const float *x, float *out, int width, int pitch, long long count) {
    twice(x, out, width, pitch, count);
}

// x float (rows, pitch); writes the lowest index of the largest of the first `columns`. NaN is never the largest.
extern "C" __global__ void __launch_bounds__(256)
    argmax_rows(const float *x, int *codes, int rows, int columns, int pitch) {
    const int lane = threadIdx.x & 31, row = blockIdx.x * 8 + (threadIdx.x >> 5);
    if (row >= rows) return;
    const float *values = x + static_cast<size_t>(row) * pitch;
    float best = -FLOAT_INFINITY;
    int code = columns;
    for (int i = lane; i < columns; i += 32) {
        if (values[i] > best) {
            best = values[i];
            code = i;
        }
    }
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) {
        const float other = __shfl_xor_sync(~0u, best, offset);
        const int other_code = __shfl_xor_sync(~0u, code, offset);
        if (other > best || (other == best && other_code < code)) {
            best = other;
            code = other_code;
        }
    }
    if (lane == 0) codes[row] = code < columns ? code : 0;
}
