// group_norm: GroupNorm of 32 groups, and swish where it follows, of pictures (B, pixels, channels).
// Reference: trt_vqgan.kernels.reference.group_norm.group_norm. Launches: trt_vqgan.kernels.launches.group_norm.
//
// Two kernels. Sums are float, in a fixed order, of differences from a value of the same channel, and are joined as
// means and squared distances from them: a mean far from zero costs no bits.
//   group_norm_statistics  of each part of a picture. Grid: (parts, B). Block: 256, a thread 8 channels of every n-th
//                          pixel. Shared: 512 x 8 floats. Reads the picture; limit: memory.
//   group_norm_apply       joins the parts' statistics in order, then normalises. Grid: (pixels x channels / 8192, B).
//                          Block: 256. Shared: 2 floats a channel. Reads and writes the picture; limit: memory.
#include "portable.cuh"

constexpr int kGroups = 32;
constexpr int kGranule = 8;  // channels of a thread
constexpr int kThreads = 256;
constexpr int kShare = kThreads / kGroups;  // threads that join a group's parts

namespace {

struct Moments {
    float count, mean, squares;  // squares: of distances from the mean, summed

    // Joins what comes behind.
    __device__ __forceinline__ void join(float other_count, float other_mean, float other_squares) {
        if (other_count == 0.f) return;
        const float total = count + other_count, difference = other_mean - mean, share = other_count / total;
        mean = fmaf(difference, share, mean);
        squares += other_squares + difference * difference * count * share;
        count = total;
    }
};

struct alignas(16) Halves {
    half values[kGranule];
};
struct alignas(16) Floats {
    float values[kGranule];
};

__device__ __forceinline__ void read(const half *x, float (&values)[kGranule]) {
    const Halves eight = *reinterpret_cast<const Halves *>(x);
#pragma unroll
    for (int i = 0; i < kGranule; i++) values[i] = __half2float(eight.values[i]);
}
__device__ __forceinline__ void read(const float *x, float (&values)[kGranule]) {
    const Floats eight = *reinterpret_cast<const Floats *>(x);
#pragma unroll
    for (int i = 0; i < kGranule; i++) values[i] = eight.values[i];
}
__device__ __forceinline__ void write(half *x, const float (&values)[kGranule]) {
    Halves eight;
#pragma unroll
    for (int i = 0; i < kGranule; i++) eight.values[i] = __float2half_rn(values[i]);
    *reinterpret_cast<Halves *>(x) = eight;
}
__device__ __forceinline__ void write(float *x, const float (&values)[kGranule]) {
    Floats eight;
#pragma unroll
    for (int i = 0; i < kGranule; i++) eight.values[i] = values[i];
    *reinterpret_cast<Floats *>(x) = eight;
}

// x (B, pixels, channels); statistics float (B, parts, 32, 2): mean, squares. At most 2048 channels.
template <class T>
__device__ __forceinline__ void statistics_of(const T *__restrict__ x, float *__restrict__ statistics, int pixels,
                                              int channels, int pixels_of_part) {
    DYNAMIC_SHARED(float, shared);  // means of (thread, 8 channels), then squares
    float *shared_squares = shared + kThreads * kGranule;
    const int thread = threadIdx.x, part = blockIdx.x, parts = gridDim.x;
    const int begin = part * pixels_of_part, end = min(begin + pixels_of_part, pixels);
    const int granules = channels / kGranule, group_channels = channels / kGroups;
    x += static_cast<size_t>(blockIdx.y) * pixels * channels;
    const int lanes = max(1, kThreads / granules);  // threads that share a granule of channels, each its own pixels
    const int lane = thread / granules, granule = thread % granules;
    float kept[kGranule], sums[kGranule], squares[kGranule];
    int count = 0;
#pragma unroll
    for (int i = 0; i < kGranule; i++) kept[i] = sums[i] = squares[i] = 0.f;
    if (lane < lanes) {
        for (int pixel = begin + lane; pixel < end; pixel += lanes) {
            float values[kGranule];
            read(x + static_cast<size_t>(pixel) * channels + granule * kGranule, values);
#pragma unroll
            for (int i = 0; i < kGranule; i++) {
                if (count == 0) kept[i] = values[i];
                const float difference = values[i] - kept[i];
                sums[i] += difference;
                squares[i] = fmaf(difference, difference, squares[i]);
            }
            count++;
        }
    }
    const float inverse = count ? 1.f / static_cast<float>(count) : 0.f;
#pragma unroll
    for (int i = 0; i < kGranule; i++) {
        shared[thread * kGranule + i] = fmaf(sums[i], inverse, kept[i]);
        shared_squares[thread * kGranule + i] = fmaxf(0.f, fmaf(-sums[i] * inverse, sums[i], squares[i]));
    }
    __syncthreads();
    if (thread >= kGroups) return;
    Moments all = {0.f, 0.f, 0.f};
    for (int of_lane = 0; of_lane < lanes; of_lane++) {
        const int first = begin + of_lane;
        if (first >= end) break;
        const float of_each = static_cast<float>((end - first + lanes - 1) / lanes);
        for (int i = 0; i < group_channels; i++) {
            const int at = of_lane * channels + thread * group_channels + i;
            all.join(of_each, shared[at], shared_squares[at]);
        }
    }
    float *to = statistics + ((static_cast<size_t>(blockIdx.y) * parts + part) * kGroups + thread) * 2;
    to[0] = all.mean;
    to[1] = all.squares;
}

// x, out (B, pixels, channels); gain, bias float (channels).
template <class T, class U>
__device__ __forceinline__ void apply(const T *__restrict__ x, const float *__restrict__ statistics,
                                      const float *__restrict__ gain, const float *__restrict__ bias,
                                      U *__restrict__ out, int pixels, int channels, int parts, int pixels_of_part,
                                      float epsilon, int swish) {
    DYNAMIC_SHARED(float, scales);
    float *shifts = scales + channels;
    const int thread = threadIdx.x, group_channels = channels / kGroups;
    const int group = thread / kShare, share = thread % kShare, parts_each = (parts + kShare - 1) / kShare;
    Moments all = {0.f, 0.f, 0.f};
    for (int part = share * parts_each; part < min((share + 1) * parts_each, parts); part++) {
        const float *from = statistics + ((static_cast<size_t>(blockIdx.y) * parts + part) * kGroups + group) * 2;
        const int begin = part * pixels_of_part, end = min(begin + pixels_of_part, pixels);
        all.join(static_cast<float>(end - begin) * static_cast<float>(group_channels), from[0], from[1]);
    }
#pragma unroll
    for (int offset = kShare / 2; offset; offset >>= 1) {
        const float count = __shfl_down_sync(~0u, all.count, offset), mean = __shfl_down_sync(~0u, all.mean, offset),
                    squares = __shfl_down_sync(~0u, all.squares, offset);
        all.join(count, mean, squares);
    }
    const float mean = __shfl_sync(~0u, all.mean, thread & 31 & -kShare);
    const float variance = __shfl_sync(~0u, all.squares / all.count, thread & 31 & -kShare);
    const float scale = rsqrtf(variance + epsilon);
    for (int i = group * group_channels + share; i < (group + 1) * group_channels; i += kShare) {
        scales[i] = scale * gain[i];
        shifts[i] = mean;
    }
    __syncthreads();
    const size_t numbers = static_cast<size_t>(pixels) * channels, picture = blockIdx.y * numbers;
    for (int k = 0; k < 4; k++) {
        const size_t at = ((static_cast<size_t>(blockIdx.x) * 4 + k) * kThreads + thread) * kGranule;
        if (at >= numbers) return;
        const int channel = static_cast<int>(at % channels);
        float values[kGranule];
        read(x + picture + at, values);
#pragma unroll
        for (int i = 0; i < kGranule; i++) {
            float y = fmaf(values[i] - shifts[channel + i], scales[channel + i], bias[channel + i]);
            if (swish) y = y / (1.f + exp2f(y * -1.442695041f));
            values[i] = y;
        }
        write(out + picture + at, values);
    }
}

}  // namespace

#define GROUP_NORM_STATISTICS(name, T)                                                      \
    extern "C" __global__ void __launch_bounds__(kThreads)                                  \
        name(const T *x, float *statistics, int pixels, int channels, int pixels_of_part) { \
        statistics_of(x, statistics, pixels, channels, pixels_of_part);                     \
    }
GROUP_NORM_STATISTICS(group_norm_statistics_half, half)
GROUP_NORM_STATISTICS(group_norm_statistics_float, float)

#define GROUP_NORM_APPLY(name, T, U)                                                                        \
    extern "C" __global__ void __launch_bounds__(kThreads)                                                  \
        name(const T *x, const float *statistics, const float *gain, const float *bias, U *out, int pixels, \
             int channels, int parts, int pixels_of_part, float epsilon, int swish) {                       \
        apply(x, statistics, gain, bias, out, pixels, channels, parts, pixels_of_part, epsilon, swish);     \
    }
GROUP_NORM_APPLY(group_norm_apply_half_half, half, half)
GROUP_NORM_APPLY(group_norm_apply_float_half, float, half)
GROUP_NORM_APPLY(group_norm_apply_half_float, half, float)
GROUP_NORM_APPLY(group_norm_apply_float_float, float, float)
