// What the kernels cached_attention_*.cu share: how keys and values are staged, where partial results lie, and how they
// are merged. Reference: kernels/reference/cached_attention.py.
//
// Caches are half (B, H, S, D): one head's positions are contiguous, and D is a multiple of 8, so a position is whole
// granules of 16 bytes for cp.async. In shared memory a position takes an odd number of granules, (D / 8) | 1, so that
// the eight addresses of a 16-byte access or of an 8 x 8 matrix, one position apart, fall into different banks.
//
// Positions of a row's cache are counted from its own beginning: p = position - prefix_length. A row with `first` such
// positions and `count` new tokens ends at first + count. Keys and values of new tokens are always read from qkv, never
// from the cache, so the block that appends one to the cache races with no reader.
//
// The cache is cut into chunks, one block each ("split"). Blocks whose chunk begins behind the last visible position
// leave at once, so a grid sized for the capacity serves every length. With more than one split (or a shared prefix)
// each leaves a partial result: D sums of p v, the maximum m of the scores (base 2) and l, the sum of
// p = 2^(score - m). The last to arrive, told by a ticket that it sets back to 0, merges them in the order of the
// slots: prefix first, then splits. So the result doesn't depend on which came last.
#pragma once
#include "portable.cuh"
#include "programmatic_launch.cuh"
#include "tensor_core.cuh"

namespace attention {

constexpr int kThreads = 128;
constexpr int kTile = 64;  // positions staged at a time

template <int head_size>
struct Shape {
    static_assert(head_size % 8 == 0 && head_size >= 16 && head_size <= 128, "head size");
    static constexpr int granules = head_size / 8;
    static constexpr int stride = (granules | 1) * 8;      // halves from one staged position to the next
    static constexpr int tile_bytes = kTile * stride * 2;  // of keys, and of values
    static constexpr int partial_floats = head_size + 2;   // sums, m, l
};

__device__ __forceinline__ float2 unpack_halves(uint32_t bits) {
    half2 pair;
    memcpy(&pair, &bits, 4);
    return __half22float2(pair);
}

__device__ __forceinline__ uint32_t pack_halves(float low, float high) {
    half2 pair = __floats2half2_rn(low, high);
    uint32_t bits;
    memcpy(&bits, &pair, 4);
    return bits;
}

// Where one head of one row has its keys (or values): positions below `first` in `cache`, later ones in qkv.
struct Source {
    const half *cache;
    const half *fresh;
    size_t fresh_stride;  // halves from one new token to the next
    int first;
};

// Starts to copy positions [begin, begin + kTile) to shared memory; those at `end` and beyond become zeros, unread.
template <int head_size>
__device__ __forceinline__ void stage(half *tile, const Source &source, int begin, int end) {
    constexpr int granules = Shape<head_size>::granules;
#pragma unroll 1  // the addresses of more copies at a time would spill where 64 registers are the limit
    for (int i = threadIdx.x; i < kTile * granules; i += kThreads) {
        int row = i / granules, granule = i % granules, position = begin + row;
        bool valid = position < end;
        const half *from = source.cache;
        if (valid) {
            from = position < source.first ? source.cache + static_cast<size_t>(position) * head_size
                                           : source.fresh + (position - source.first) * source.fresh_stride;
            from += granule * 8;
        }
        tc::copy_async_16(tile + row * Shape<head_size>::stride + granule * 8, from, valid);
    }
}

// Counts this block in; true for the last of `active`, which also sets the ticket back. `flag` is shared memory.
__device__ __forceinline__ bool arrive_last(int *ticket, int active, int *flag) {
    __threadfence();  // this thread's partial results before the ticket
    __syncthreads();
    if (threadIdx.x == 0) {
        int before = atomicAdd(ticket, 1);
        *flag = before == active - 1;
        if (*flag) *ticket = 0;
    }
    __syncthreads();
    __threadfence();  // the ticket before the others' partial results
    return *flag;
}

// Returns component `d` of one query's output from its first `count` slots, of which one sees something. Loads go to
// L2, where other blocks' results are; a first-level cache could hold older ones.
template <int head_size>
__device__ __forceinline__ float merge(const float *slots, int count, int d) {
    constexpr int step = Shape<head_size>::partial_floats;
    float m = -FLOAT_INFINITY;
    for (int i = 0; i < count; i++) m = fmaxf(m, __ldcg(slots + i * step + head_size));
    float sum = 0.0f, weight = 0.0f;
    for (int i = 0; i < count; i++) {  // where the query sees nothing of a split, m = -inf, and l and the sums are 0
        const float factor = exp2f(__ldcg(slots + i * step + head_size) - m);
        weight = fmaf(factor, __ldcg(slots + i * step + head_size + 1), weight);
        sum = fmaf(factor, __ldcg(slots + i * step + d), sum);
    }
    return sum / weight;
}

}  // namespace attention

// Expands `instance` once for each head size; a build for one model may define it with fewer.
#ifndef FOR_EACH_HEAD_SIZE
#define FOR_EACH_HEAD_SIZE(instance)                                                                        \
    instance(16) instance(24) instance(32) instance(40) instance(48) instance(56) instance(64) instance(72) \
        instance(80) instance(88) instance(96) instance(104) instance(112) instance(120) instance(128)
#endif
