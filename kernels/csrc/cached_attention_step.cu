// cached_attention_step_<D>: one new token a row. Appends its key and value, then attends to all of the row's
// positions.
//
// Grid (splits, H, B), splits = ceil(S / chunk), chunk a multiple of 64; block 128. Shared: 2 * 64 * 16 * ((D / 8) | 1)
// bytes of keys and values, then D + 64 + 16 words. Each split takes its chunk 64 positions at a time: keys and values
// arrive by cp.async, the next keys while the current values are summed, and the next values behind them.
//
// Moves 4 * D * (length + 1) bytes a head and row (keys and values once), beside 8 * D for the token and, with more
// than one split, 8 * (D + 2) a split. Limit: memory bandwidth; below about 30 MB the latency of one block, 3 to 5 us.
// Reference: kernels/reference/cached_attention.py with T = 1.
#include "cached_attention.cuh"

namespace attention {

template <int head_size>
__device__ __forceinline__ void step(const half *qkv, half *key_cache, half *value_cache, const int *lengths,
                                     float *partials, int *tickets, half *out, int capacity, int chunk,
                                     int prefix_length, int prefix_slots, float scale_log2) {
    using S = Shape<head_size>;
    constexpr int granules = S::granules;
    // Of threads that share out the positions when values are summed; their sums must fit where the keys were.
    constexpr int groups = granules < 4 ? 32 : kThreads / granules;
    static_assert(groups * head_size * 4 <= S::tile_bytes, "sums of the groups");
    DYNAMIC_SHARED(unsigned char, shared);
    half *keys = reinterpret_cast<half *>(shared), *values = reinterpret_cast<half *>(shared + S::tile_bytes);
    float *query = reinterpret_cast<float *>(shared + 2 * S::tile_bytes), *weights = query + head_size;
    float *warp_values = weights + kTile;  // one a warp: maxima, then sums
    int *flag = reinterpret_cast<int *>(warp_values + 8);

    const int thread = threadIdx.x, lane = thread & 31, warp = thread >> 5;
    const int split = blockIdx.x, head = blockIdx.y, row = blockIdx.z, heads = gridDim.y;
    wait_for_prerequisites();
    launch_dependents();
    const int first = lengths[row] - prefix_length, end = first + 1;
    half *result = out + (static_cast<size_t>(row) * heads + head) * head_size;
    if (first < 0 || first >= capacity) {  // an idle row
        if (split == 0 && thread < head_size) result[thread] = __float2half_rn(0.0f);
        return;
    }
    const int begin = split * chunk, stop = min(begin + chunk, end);
    if (begin >= end) return;

    const half *token = qkv + (static_cast<size_t>(row) * 3 * heads + head) * head_size;
    const size_t part = static_cast<size_t>(heads) * head_size;  // from query to key to value
    const size_t base = (static_cast<size_t>(row) * heads + head) * capacity * head_size;
    const Source key_source = {key_cache + base, token + part, 0, first};
    const Source value_source = {value_cache + base, token + 2 * part, 0, first};

    stage<head_size>(keys, key_source, begin, stop);
    tc::copy_async_commit();
    stage<head_size>(values, value_source, begin, stop);
    tc::copy_async_commit();
    if (thread < head_size) query[thread] = __half2float(token[thread]) * scale_log2;
    if (stop == end && thread < 2 * granules) {  // this split holds the new position
        const bool is_key = thread < granules;
        const int granule = is_key ? thread : thread - granules;
        const half *from = token + (is_key ? part : 2 * part) + granule * 8;
        half *to = (is_key ? key_cache : value_cache) + base + static_cast<size_t>(first) * head_size + granule * 8;
        *reinterpret_cast<uint4 *>(to) = *reinterpret_cast<const uint4 *>(from);
    }

    const int scored = warp * 16 + (lane & 15), half_of_it = lane >> 4;  // two threads a position, alternate granules
    const int summed = thread % granules, group = thread / granules;     // a granule of every groups-th position
    float m = -FLOAT_INFINITY, l = 0.0f, sums[8] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (int tile = begin; tile < stop; tile += kTile) {
        const int count = min(kTile, stop - tile);
        tc::copy_async_wait<1>();  // the keys
        __syncthreads();
        float score = 0.0f;
        for (int granule = half_of_it; granule < granules; granule += 2) {
            const uint4 k = *reinterpret_cast<const uint4 *>(keys + scored * S::stride + granule * 8);
            const uint32_t words[4] = {k.x, k.y, k.z, k.w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float2 pair = unpack_halves(words[j]);
                score = fmaf(query[granule * 8 + 2 * j], pair.x, score);
                score = fmaf(query[granule * 8 + 2 * j + 1], pair.y, score);
            }
        }
        score += __shfl_xor_sync(~0u, score, 16);
        if (scored >= count) score = -FLOAT_INFINITY;
        float largest = score;
#pragma unroll
        for (int offset = 8; offset > 0; offset >>= 1) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, offset));
        if (lane == 0) warp_values[warp] = largest;
        __syncthreads();  // everyone has read the keys
        if (tile + kTile < stop) stage<head_size>(keys, key_source, tile + kTile, stop);
        tc::copy_async_commit();
        largest = fmaxf(fmaxf(warp_values[0], warp_values[1]), fmaxf(warp_values[2], warp_values[3]));
        const float m_new = fmaxf(m, largest), correction = exp2f(m - m_new), weight = exp2f(score - m_new);
        m = m_new;
        if (half_of_it == 0) {
            weights[scored] = weight;
            l = fmaf(l, correction, weight);
        }
#pragma unroll
        for (int j = 0; j < 8; j++) sums[j] *= correction;
        tc::copy_async_wait<1>();  // the values
        __syncthreads();
        if (group < groups) {
            for (int position = group; position < count; position += groups) {
                const float w = weights[position];
                const uint4 v = *reinterpret_cast<const uint4 *>(values + position * S::stride + summed * 8);
                const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const float2 pair = unpack_halves(words[j]);
                    sums[2 * j] = fmaf(w, pair.x, sums[2 * j]);
                    sums[2 * j + 1] = fmaf(w, pair.y, sums[2 * j + 1]);
                }
            }
        }
        if (tile + kTile < stop) {
            __syncthreads();  // everyone has read the values
            stage<head_size>(values, value_source, tile + kTile, stop);
        }
        tc::copy_async_commit();
    }
    tc::copy_async_wait<0>();

#pragma unroll
    for (int offset = 8; offset > 0; offset >>= 1) l += __shfl_xor_sync(~0u, l, offset);
    if (lane == 0) warp_values[4 + warp] = l;
    float *group_sums = reinterpret_cast<float *>(keys);  // the last barrier came after the last use of the keys
    if (group < groups) {
#pragma unroll
        for (int j = 0; j < 8; j++) group_sums[group * head_size + summed * 8 + j] = sums[j];
    }
    __syncthreads();
    l = (warp_values[4] + warp_values[5]) + (warp_values[6] + warp_values[7]);
    float sum = 0.0f;
    if (thread < head_size) {
        for (int g = 0; g < groups; g++) sum += group_sums[g * head_size + thread];
    }
    const int active = (end + chunk - 1) / chunk;
    if (active == 1 && prefix_slots == 0) {
        if (thread < head_size) result[thread] = __float2half_rn(sum / l);
        return;
    }
    const int slots = prefix_slots + gridDim.x;
    float *mine = partials + (static_cast<size_t>(row) * heads + head) * slots * S::partial_floats;
    float *slot = mine + (prefix_slots + split) * S::partial_floats;
    if (thread < head_size) slot[thread] = sum;
    if (thread == 0) {
        slot[head_size] = m;
        slot[head_size + 1] = l;
    }
    if (arrive_last(tickets + row * heads + head, active, flag) && thread < head_size)
        result[thread] = __float2half_rn(merge<head_size>(mine, prefix_slots + active, thread));
}

}  // namespace attention

#define STEP_KERNEL(head_size)                                                                                    \
    extern "C" __global__ void __launch_bounds__(128, 8) cached_attention_step_##head_size(                       \
        const half *qkv, half *key_cache, half *value_cache, const int *lengths, float *partials, int *tickets,   \
        half *out, int capacity, int chunk, int prefix_length, int prefix_slots, float scale_log2) {              \
        attention::step<head_size>(qkv, key_cache, value_cache, lengths, partials, tickets, out, capacity, chunk, \
                                   prefix_length, prefix_slots, scale_log2);                                      \
    }
FOR_EACH_HEAD_SIZE(STEP_KERNEL)
