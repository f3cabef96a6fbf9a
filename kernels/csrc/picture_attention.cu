// picture_attention: each position of a picture attends to all others, with one head as wide as the picture's channels.
// Reference: trt_vqgan.kernels.reference.picture_attention.picture_attention. Launches:
// trt_vqgan.kernels.launches.picture_attention.
//
//   picture_attention_128, _256, _512  half, for at most so many channels, on tensor cores; scores and sums are float.
//       Grid: (positions / 16, B). Block: 128: 16 queries; keys and values come 32 at a time, each copied in the
//       background of the other's product. A warp scores 8 of the keys and sums a quarter of the channels.
//       Shared: 80 x channels halves and 1.3 KB. Reads keys and values once for each 16 queries, from L2; limit: that.
//   picture_attention_float            float throughout, for layers that half can't hold.
//       Grid: (positions, B). Block: 256, one query. Shared: a float a position. Limit: L2.
#include "tensor_core.cuh"

constexpr int kQueries = 16;
constexpr int kKeys = 32;  // of a tile
constexpr int kWarps = 4;

namespace {

template <int width>
struct PictureAttention {
    static constexpr int row = width + 8;           // halves of a row in shared memory: ldmatrix meets no bank twice
    static constexpr int columns = width / kWarps;  // of a warp's sums
    static constexpr int weights_row = kKeys + 8;

    // Copies `rows` positions of x (positions, pitch) from `first` on; zeros beyond the last position and channel.
    static __device__ __forceinline__ void copy(half *to, const half *x, int first, int rows, int positions,
                                                int channels, int pitch) {
        for (int i = threadIdx.x; i < rows * (width / 8); i += kWarps * 32) {
            const int position = first + i / (width / 8), channel = i % (width / 8) * 8;
            const bool valid = position < positions && channel < channels;
            tc::copy_async_16(to + i / (width / 8) * row + channel,
                              x + (valid ? static_cast<size_t>(position) * pitch + channel : 0), valid);
        }
    }

    static __device__ __forceinline__ void run(const half *q, const half *k, const half *v, half *out, int positions,
                                               int channels, int pitch, float scale_log2) {
        DYNAMIC_SHARED(half, queries);
        half *keys = queries + kQueries * row, *values = keys + kKeys * row, *weights = values + kKeys * row;
        float *maxima = reinterpret_cast<float *>(weights + kQueries * weights_row);  // (warp, query), then sums
        float *totals = maxima + kWarps * kQueries;
        const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, first = blockIdx.x * kQueries;
        const size_t picture = static_cast<size_t>(blockIdx.y) * positions * pitch;
        q += picture, k += picture, v += picture, out += picture;

        tc::FragmentC sums[columns / 8];
#pragma unroll
        for (int j = 0; j < columns / 8; j++) sums[j] = {{0.f, 0.f, 0.f, 0.f}};
        float m[2] = {-FLOAT_INFINITY, -FLOAT_INFINITY}, l[2] = {0.f, 0.f};  // of queries lane / 4 and lane / 4 + 8
        copy(queries, q, first, kQueries, positions, channels, pitch);
        copy(keys, k, 0, kKeys, positions, channels, pitch);
        tc::copy_async_commit();
        copy(values, v, 0, kKeys, positions, channels, pitch);
        tc::copy_async_commit();
        for (int tile = 0; tile < positions; tile += kKeys) {
            tc::copy_async_wait<1>();  // the keys
            __syncthreads();
            tc::FragmentC scores = {{0.f, 0.f, 0.f, 0.f}};
#pragma unroll 4
            for (int step = 0; step < width; step += 32) {
                uint32_t b[4];
                tc::load_matrices_x4(b, keys + (warp * 8 + (lane & 7)) * row + step + (lane >> 3) * 8);
#pragma unroll
                for (int part = 0; part < 2; part++) {
                    tc::FragmentA a;
                    tc::load_matrices_x4(a.r, queries + (lane & 15) * row + step + part * 16 + (lane >> 4) * 8);
                    tc::mma_m16n8k16(scores, a, {{b[part * 2], b[part * 2 + 1]}});
                }
            }
            const int column = warp * 8 + (lane & 3) * 2;
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float largest = -FLOAT_INFINITY;
#pragma unroll
                for (int j = 0; j < 2; j++) {
                    float &score = scores.r[2 * i + j];
                    score = tile + column + j < positions ? score * scale_log2 : -FLOAT_INFINITY;
                    largest = fmaxf(largest, score);
                }
                largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 1));
                largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, 2));
                if ((lane & 3) == 0) maxima[warp * kQueries + i * 8 + lane / 4] = largest;
            }
            __syncthreads();  // all maxima are there, and everyone has read the keys
            if (tile + kKeys < positions) copy(keys, k, tile + kKeys, kKeys, positions, channels, pitch);
            tc::copy_async_commit();
            float corrections[2];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float m_new = m[i];
#pragma unroll
                for (int other = 0; other < kWarps; other++)
                    m_new = fmaxf(m_new, maxima[other * kQueries + i * 8 + lane / 4]);
                corrections[i] = exp2f(m[i] - m_new);  // the first position of a tile is always there: m_new is finite
                m[i] = m_new;
                const float low = exp2f(scores.r[2 * i] - m_new), high = exp2f(scores.r[2 * i + 1] - m_new);
                l[i] = fmaf(l[i], corrections[i], low + high);  // of this lane's positions
                *reinterpret_cast<half2 *>(weights + (i * 8 + lane / 4) * weights_row + column) =
                    __floats2half2_rn(low, high);
            }
#pragma unroll
            for (int j = 0; j < columns / 8; j++) {
                sums[j].r[0] *= corrections[0], sums[j].r[1] *= corrections[0];
                sums[j].r[2] *= corrections[1], sums[j].r[3] *= corrections[1];
            }
            tc::copy_async_wait<1>();  // the values
            __syncthreads();           // and all weights
#pragma unroll
            for (int part = 0; part < kKeys / 16; part++) {
                tc::FragmentA a;
                tc::load_matrices_x4(a.r, weights + (lane & 15) * weights_row + part * 16 + (lane >> 4) * 8);
#pragma unroll
                for (int j = 0; j < columns / 8; j += 2) {
                    uint32_t b[4];
                    tc::load_matrices_x4_transposed(
                        b, values + (part * 16 + (lane & 15)) * row + warp * columns + j * 8 + (lane >> 4) * 8);
                    tc::mma_m16n8k16(sums[j], a, {{b[0], b[1]}});
                    tc::mma_m16n8k16(sums[j + 1], a, {{b[2], b[3]}});
                }
            }
            __syncthreads();  // everyone has read the values and the weights
            if (tile + kKeys < positions) copy(values, v, tile + kKeys, kKeys, positions, channels, pitch);
            tc::copy_async_commit();
        }
        tc::copy_async_wait<0>();

#pragma unroll
        for (int i = 0; i < 2; i++) {
            l[i] += __shfl_xor_sync(~0u, l[i], 1);
            l[i] += __shfl_xor_sync(~0u, l[i], 2);
            if ((lane & 3) == 0) totals[warp * kQueries + i * 8 + lane / 4] = l[i];
        }
        __syncthreads();
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int query = i * 8 + lane / 4;
            if (first + query >= positions) continue;
            float total = 0.f;
#pragma unroll
            for (int other = 0; other < kWarps; other++) total += totals[other * kQueries + query];
            const float factor = 1.f / total;
#pragma unroll
            for (int j = 0; j < columns / 8; j++) {
                const int channel = warp * columns + j * 8 + (lane & 3) * 2;
                if (channel < channels)
                    *reinterpret_cast<half2 *>(out + static_cast<size_t>(first + query) * pitch + channel) =
                        __floats2half2_rn(sums[j].r[2 * i] * factor, sums[j].r[2 * i + 1] * factor);
            }
        }
    }
};

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) value += __shfl_xor_sync(~0u, value, offset);
    return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int offset = 16; offset; offset >>= 1) value = fmaxf(value, __shfl_xor_sync(~0u, value, offset));
    return value;
}

}  // namespace

// q, k, v, out half (B, positions, pitch), `channels` of them used, a multiple of 8; scale_log2 = log2(e) /
// sqrt(channels).
#define PICTURE_ATTENTION(name, width)                                                                       \
    extern "C" __global__ void __launch_bounds__(kWarps * 32)                                                \
        name(const half *q, const half *k, const half *v, half *out, int positions, int channels, int pitch, \
             float scale_log2) {                                                                             \
        PictureAttention<width>::run(q, k, v, out, positions, channels, pitch, scale_log2);                  \
    }
PICTURE_ATTENTION(picture_attention_128, 128)
PICTURE_ATTENTION(picture_attention_256, 256)
PICTURE_ATTENTION(picture_attention_512, 512)

extern "C" __global__ void __launch_bounds__(256)
    picture_attention_float(const float *q, const float *k, const float *v, float *out, int positions, int channels,
                            int pitch, float scale_log2) {
    DYNAMIC_SHARED(float, weights);  // (positions), then 8 of the warps
    float *of_warps = weights + positions;
    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const size_t picture = static_cast<size_t>(blockIdx.y) * positions * pitch;
    const float *query = q + picture + static_cast<size_t>(blockIdx.x) * pitch;
    k += picture, v += picture;
    float largest = -FLOAT_INFINITY;
    for (int position = warp; position < positions; position += 8) {
        const float *key = k + static_cast<size_t>(position) * pitch;
        float score = 0.f;
        for (int i = lane; i < channels; i += 32) score = fmaf(query[i], key[i], score);
        score = warp_sum(score) * scale_log2;
        if (lane == 0) weights[position] = score;
        largest = fmaxf(largest, score);
    }
    if (lane == 0) of_warps[warp] = largest;
    __syncthreads();
    largest = warp_max(of_warps[lane & 7]);
    __syncthreads();
    float total = 0.f;
    for (int position = thread; position < positions; position += 256) {
        const float weight = exp2f(weights[position] - largest);
        weights[position] = weight;
        total += weight;
    }
    total = warp_sum(total);
    if (lane == 0) of_warps[warp] = total;
    __syncthreads();
    total = 0.f;
    for (int other = 0; other < 8; other++) total += of_warps[other];
    const float factor = 1.f / total;
    for (int i = thread; i < channels; i += 256) {
        float sum = 0.f;
        for (int position = 0; position < positions; position++)
            sum = fmaf(weights[position], v[static_cast<size_t>(position) * pitch + i], sum);
        out[picture + static_cast<size_t>(blockIdx.x) * pitch + i] = sum * factor;
    }
}
