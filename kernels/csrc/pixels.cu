// pixels: pictures of a decoder's planes; (x + 1) x 127.5, clipped to 0 ... 255 and truncated, channels last.
// Reference: trt_vqgan.kernels.reference.pixels.pixels.
// Grid: (pixels / 1024, pictures). Block: 256, four pixels a thread. Moves 3 (half) or 5 (float) bytes a value; limit:
// memory. Three channels and planes of a multiple of four pixels go by vectors.
#include "portable.cuh"

namespace {

__device__ __forceinline__ float as_float(float x) {
    return x;
}
__device__ __forceinline__ float as_float(half x) {
    return __half2float(x);
}

__device__ __forceinline__ unsigned grey_level(float x) {
    const float scaled = __fmul_rn(__fadd_rn(x, 1.f), 127.5f);
    return static_cast<unsigned>(fminf(fmaxf(scaled, 0.f), 255.f));  // NaN becomes 0
}

template <class T>
struct alignas(4 * sizeof(T)) Four {
    T values[4];
};

// planes (B, channels, plane), pictures (B, plane, channels)
template <class T>
__device__ __forceinline__ void to_bytes(const T *__restrict__ planes, unsigned char *__restrict__ pictures,
                                         int channels, int plane) {
    const int first = (blockIdx.x * 256 + threadIdx.x) * 4;
    if (first >= plane) return;
    planes += static_cast<size_t>(blockIdx.y) * channels * plane + first;
    pictures += (static_cast<size_t>(blockIdx.y) * plane + first) * channels;
    if (channels == 3 && plane % 4 == 0) {
        unsigned level[12];
#pragma unroll
        for (int c = 0; c < 3; c++) {
            const Four<T> four = *reinterpret_cast<const Four<T> *>(planes + static_cast<size_t>(c) * plane);
#pragma unroll
            for (int p = 0; p < 4; p++) level[p * 3 + c] = grey_level(as_float(four.values[p]));
        }
#pragma unroll
        for (int word = 0; word < 3; word++)
            reinterpret_cast<unsigned *>(pictures)[word] =
                level[word * 4] | level[word * 4 + 1] << 8 | level[word * 4 + 2] << 16 | level[word * 4 + 3] << 24;
        return;
    }
    for (int p = 0; p < min(4, plane - first); p++)
        for (int c = 0; c < channels; c++)
            pictures[p * channels + c] =
                static_cast<unsigned char>(grey_level(as_float(planes[static_cast<size_t>(c) * plane + p])));
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256)
    pixels_half(const half *planes, unsigned char *pictures, int channels, int plane) {
    to_bytes(planes, pictures, channels, plane);
}

extern "C" __global__ void __launch_bounds__(256)
    pixels_float(const float *planes, unsigned char *pictures, int channels, int plane) {
    to_bytes(planes, pictures, channels, plane);
}
